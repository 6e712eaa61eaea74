//! Finding the Alerts that want an event: the index and the filters, without doors and vendors.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use herald::api::{Alert, AlertSpec, Event, EventSource, Key, ObjectMeta};
use herald::matching::{CompiledAlert, Effort, SharedIndex, match_event};

use super::events::NAMESPACE;
use super::table::{Spread, Table};

/// How many Alerts listen to objects of the event's kind in the event's namespace.
const SIZES: [usize; 4] = [1, 100, 1_000, 10_000];

/// Alerts on `*`, each with lists.
const LISTED: usize = 1_000;

/// Rounds, after one that is not counted; in each every size has its turn.
const ROUNDS: usize = 41;

/// Events in a round.
const EVENTS: usize = 20_000;

/// Events in a round over [`LISTED`] Alerts.
const LISTED_EVENTS: usize = 20;

/// Adds the rows about matching.
pub fn measure(table: &mut Table) {
    eprintln!("matching");
    let indexes = SIZES.map(|size| {
        let index = SharedIndex::default();
        for number in 0..size {
            index.apply(alert(number, &format!("app-{number:05}"), &[], &[]));
        }
        index
    });
    measure_size(table, &indexes);
    measure_lists(table);
}

/// One Alert of many matches. The same event again and again shows the work; an event about
/// another object each time adds what the caches of the machine make of it.
fn measure_size(table: &mut Table, indexes: &[SharedIndex; SIZES.len()]) {
    let mut same = [const { Vec::new() }; SIZES.len()];
    let mut other = [const { Vec::new() }; SIZES.len()];
    let names = SIZES.map(|size| {
        let mut names: Vec<String> = (0..size).cycle().take(EVENTS).map(|number| format!("app-{number:05}")).collect();
        fastrand::Rng::with_seed(7).shuffle(&mut names);
        names
    });
    for round in 0..=ROUNDS {
        // Whose turn comes first differs from round to round: the first has colder caches.
        for place in (0..SIZES.len()).map(|turn| (turn + round) % SIZES.len()) {
            let index = &indexes[place];
            let mut event = event("Applied revision: main@sha1:6dcb09b5b57875f334f61aebed695e2e4193db5e");
            event.involved_object.name = format!("app-{:05}", SIZES[place] / 2);
            let time = per_event(EVENTS, |_| assert_eq!(matches(index, black_box(&event)), 1));
            let time_other = per_event(EVENTS, |number| {
                event.involved_object.name.clear();
                event.involved_object.name.push_str(&names[place][number]);
                assert_eq!(matches(index, black_box(&event)), 1);
            });
            if round > 0 {
                same[place].push(time);
                other[place].push(time_other);
            }
        }
    }
    let last = SIZES.len() - 1;
    for (size, times) in SIZES.iter().zip(&same) {
        table.told(format!("matching, one Alert of {size}"), format!("{:.0} ns", Spread::of(times)));
    }
    let growth = Spread::of_ratios(&same[last], &same[0]);
    table.judged("  beside 1", format!("{growth:.2} times"), growth.median, 1.2, "1.2 times");
    table.told("  another object each time", format!("{:.0} ns", Spread::of(&other[last])));
    let growth = Spread::of_ratios(&other[last], &other[0]);
    table.told("  another object each time, beside 1", format!("{growth:.2} times"));
}

/// Every Alert has to be looked at, and each has lists of its own.
fn measure_lists(table: &mut Table) {
    let index = SharedIndex::default();
    for number in 0..LISTED {
        let inclusions = [
            format!("^Health check failed.*app-17.*{}", if number % 2 == 0 { "" } else { "not ready" }),
            format!(".*timed? ?out.*(app-17|app-{number}).*"),
            format!("(?i)error.*release-{number}$"),
        ];
        let exclusions = [format!("^Dependencies do not meet.*app-{number}.*"), format!(".*retry {number} of [0-9]+")];
        index.apply(alert(number, "*", &inclusions, &exclusions));
    }
    let none = event(
        "Reconciliation finished in 1.2s, next run in 10m0s: main@sha1:6dcb09b5b57875f334f61aebed695e2e4193db5e, \
         12 objects applied",
    );
    let all = event(
        "Health check failed after 30.02s: timeout waiting for: [Deployment/apps/app-17 status: 'InProgress', \
         Deployment/apps/app-18 status: 'InProgress']",
    );
    let mut times = [const { Vec::new() }; 2];
    for round in 0..=ROUNDS {
        for (event, times) in [(&none, 0), (&all, LISTED)].into_iter().zip(&mut times) {
            let (event, wanted) = event;
            let time = per_event(LISTED_EVENTS, |_| assert_eq!(matches(&index, black_box(event)), wanted));
            if round > 0 {
                times.push(time / LISTED as f64 / 1e3);
            }
        }
    }
    for (what, times) in ["that no inclusion lets through", "that all want"].into_iter().zip(&times) {
        let time = Spread::of(times);
        let what = format!("matching, {LISTED} Alerts with lists, event {what}, each");
        table.judged(what, format!("{time:.2} us"), time.median, 3.0, "3 us");
    }
}

/// What `pipeline` does between an event and its Alerts.
fn matches(index: &SharedIndex, event: &Event) -> usize {
    let object = &event.involved_object;
    let candidates = index.candidates(&object.kind, &object.namespace, &object.name);
    let mut effort = Effort::inline();
    let matched = match_event(&candidates, event, None, &mut effort);
    matched.or_else(|_| match_event(&candidates, event, None, &mut Effort::elsewhere())).expect("enough steps").len()
}

/// Nanoseconds of one call, over so many.
fn per_event(events: usize, mut call: impl FnMut(usize)) -> f64 {
    let begun = Instant::now();
    for number in 0..events {
        call(number);
    }
    begun.elapsed().as_nanos() as f64 / events as f64
}

fn event(message: &str) -> Event {
    let mut event = Event { severity: "info".into(), message: message.into(), ..Default::default() };
    event.involved_object.kind = "Kustomization".into();
    event.involved_object.namespace = NAMESPACE.into();
    event.involved_object.name = "app-17".into();
    event
}

fn alert(number: usize, object: &str, inclusions: &[String], exclusions: &[String]) -> Arc<CompiledAlert> {
    let meta = ObjectMeta {
        key: Key::new(NAMESPACE, format!("alert-{number}")),
        uid: format!("7c5a1d5b-5f3a-4d3b-9f0a-{number:012}").into(),
        generation: 1,
        annotations: Default::default(),
    };
    let source = EventSource { kind: "Kustomization".into(), name: object.into(), ..Default::default() };
    let mut spec = AlertSpec {
        event_sources: vec![source],
        inclusion_list: inclusions.to_vec(),
        exclusion_list: exclusions.to_vec(),
        ..Default::default()
    };
    spec.provider_ref.name = "repository-0".into();
    let compiled = CompiledAlert::new(&Alert { meta, spec, object: "{}".into() });
    assert!(compiled.problems.is_empty(), "{:?}", compiled.problems);
    Arc::new(compiled)
}
