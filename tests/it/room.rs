//! Who gets how much room in the outbox: namespaces and Providers beside each other, and one event for many Alerts.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::executor::block_on;
use herald::api::{Event, Key};
use herald::clock::{Clock, TurnedClock};
use herald::compose::{Message, Notice, State};
use herald::ops::metrics::Outcome;
use herald::outbox::{DurableOutbox, Fate, Limits, NewJob, Outbox, PutError, Settlement, Stamp, Subject};
use serde_json::json;

use crate::logs::Logs;
use crate::outbox::{options, status_job};
use crate::scene::{Scene, forge, git, token};
use crate::support::app::DEADLINE;
use crate::support::flux::{Manifest, NAMESPACE, alert, kustomization_event, provider, sha};
use crate::support::forge::{Fault, Forge};

/// The other namespace.
const TENANT: &str = "team-b";

/// A hook of the tenant's that never answers, and as many Alerts for it; `widen` may have them listen to more.
fn tenant(forge: &Forge, alerts: usize, widen: impl Fn(Manifest) -> Manifest) -> Vec<Manifest> {
    forge.fail(Fault::hang().path("hook").every(1));
    let hook = provider("generic", "hook", &format!("{}/hook", forge.url())).namespace(TENANT);
    let alerts = (0..alerts).map(|number| widen(alert(&format!("a{number}"), "hook").namespace(TENANT)));
    std::iter::once(hook).chain(alerts).collect()
}

fn platform(forge: &Forge) -> [Manifest; 3] {
    [git("gitea", forge), token(), alert("all", "git")]
}

#[tokio::test]
async fn a_tenant_that_fills_the_outbox_is_refused_alone() {
    let forge = forge().await;
    let manifests: Vec<_> = tenant(&forge, 60, |alert| alert).into_iter().chain(platform(&forge)).collect();
    let scene = Scene::with(forge, manifests, &["--outbox-max-jobs=400"]).await;
    let logs = Logs::collect();
    let mut refused = None;
    for number in 0..10 {
        let mine = kustomization_event(&format!("mine-{number}"), &sha(100)).namespace(TENANT);
        match scene.herald.post(&mine).await {
            202 => {}
            503 => refused = refused.or(Some(number)),
            other => panic!("{other}"),
        }
    }
    assert!(refused.is_some_and(|number| number >= 3), "refused from event {refused:?} on");
    let held = scene.herald.app.outbox.counts().held;
    assert!((150..=210).contains(&held), "{held} of 400: messages of one Provider");
    // Half an event of the tenant's had room.
    assert!(scene.ended(Outcome::Dropped) > 0);
    logs.until(&["ERROR", "notifications dropped", "team-b/hook"]).await;
    for name in ["name=hook", "name=a49 "] {
        logs.until(&["condition=Healthy", "status=False", "OutboxFull", name]).await;
    }

    for number in 1..=20 {
        scene.post(&kustomization_event("web", &sha(number))).await;
    }
    let told = |forge: &Forge| (1..=20).all(|number| !forge.statuses(&sha(number)).is_empty());
    assert!(scene.forge.until(DEADLINE, told).await, "the platform's statuses are written");
}

#[tokio::test]
async fn an_event_that_many_alerts_of_a_tenant_want_is_told_to_the_platform() {
    let forge = forge().await;
    let widen =
        |alert: Manifest| alert.sources(json!([{"kind": "Kustomization", "name": "*", "namespace": NAMESPACE}]));
    let manifests: Vec<_> = tenant(&forge, 300, widen).into_iter().chain(platform(&forge)).collect();
    let scene = Scene::with(forge, manifests, &["--outbox-max-jobs=200"]).await;
    let event = kustomization_event("web", &sha(1)).failed("BuildFailed").message(&"x".repeat(2_900 << 10));
    scene.post(&event).await;
    let told = |forge: &Forge| !forge.statuses(&sha(1)).is_empty();
    assert!(scene.forge.until(DEADLINE, told).await, "the platform's failure is told");
    let dropped = scene.ended(Outcome::Dropped);
    assert!((190..=210).contains(&dropped), "{dropped} of the tenant's 300 had no room");
    let ended = [Outcome::Delivered, Outcome::Failed].map(|outcome| scene.ended(outcome));
    let held = scene.herald.app.outbox.counts().held as u64;
    assert_eq!(held + dropped + ended.iter().sum::<u64>(), 301, "{held} wait, {dropped} dropped, {ended:?}");
}

fn open(path: &Path, limits: Limits, clock: &Arc<TurnedClock>) -> DurableOutbox {
    DurableOutbox::open(options(path.to_owned(), limits), clock.clone()).expect("it opens")
}

fn message(about: usize, event: &Arc<Event>, now: std::time::Instant) -> NewJob {
    NewJob {
        subject: Subject::Stream { provider: "hook".into(), about: about.to_string().into() },
        stamp: Stamp { object: "uid".into(), version: None, arrived: now },
        notice: Notice::Event(Message { event: event.clone(), added: None }),
        provider: Key::new("ns", "hook"),
        alert: Key::new("ns", "alert"),
        object: "Kustomization/ns/app".into(),
        repeat: None,
    }
}

#[test]
fn a_large_event_is_stored_once_for_its_jobs_and_goes_with_the_last() {
    const JOBS: usize = 300;
    let (dir, clock) = (tempfile::tempdir().expect("a folder"), TurnedClock::new());
    clock.turn(Duration::from_secs(10_000));
    let path = dir.path().join("outbox.db");
    let limits = Limits { per_provider: JOBS, ..Limits::default() };
    let outbox = open(&path, limits, &clock);
    let event = Arc::new(Event { message: "x".repeat(2_900 << 10), ..Default::default() });
    let jobs = (0..JOBS).map(|about| message(about, &event, clock.now())).collect();
    let receipt = block_on(outbox.put(jobs)).expect("room");
    assert_eq!(receipt.fates, [Fate::Stored; JOBS]);
    let sizes =
        ["", "-wal"].map(|suffix| std::fs::metadata(format!("{}{suffix}", path.display())).map_or(0, |of| of.len()));
    assert!(sizes.iter().sum::<u64>() < 12 << 20, "{sizes:?} bytes");
    drop(outbox);

    let outbox = open(&path, limits, &clock);
    let claims = outbox.claim(clock.now(), JOBS);
    assert_eq!(claims.len(), JOBS);
    for job in &claims {
        let Notice::Event(message) = &job.new.notice else { panic!("{job:?}") };
        assert!(message.combined() == *event);
    }
    let bodies = || {
        block_on(outbox.finish());
        let reader = rusqlite::Connection::open(&path).expect("it opens");
        reader.query_row("SELECT count(*) FROM bodies", [], |row| row.get::<_, usize>(0)).expect("it reads")
    };
    for job in &claims[..JOBS - 1] {
        outbox.settle(job, clock.now(), Settlement::Said);
    }
    assert_eq!(bodies(), 1);
    outbox.settle(&claims[JOBS - 1], clock.now(), Settlement::Said);
    assert_eq!(bodies(), 0);
}

#[test]
fn statuses_go_before_messages_when_room_is_short() {
    let (dir, clock) = (tempfile::tempdir().expect("a folder"), TurnedClock::new());
    clock.turn(Duration::from_secs(10_000));
    let outbox = open(&dir.path().join("outbox.db"), Limits { jobs: 10, ..Limits::default() }, &clock);
    let event = Arc::new(Event { message: "m".into(), ..Default::default() });
    let messages = (0..20).map(|about| message(about, &event, clock.now()));
    let statuses = (0..4).map(|about| status_job(about, State::Failure, clock.now()));
    let receipt = block_on(outbox.put(messages.chain(statuses).collect())).expect("room for some");
    let (messages, statuses) = receipt.fates.split_at(20);
    assert_eq!(statuses, [Fate::Stored; 4]);
    let taken = messages.iter().filter(|fate| **fate == Fate::Stored).count();
    assert!((1..5).contains(&taken), "{taken} of 20 messages");
    let nothing = block_on(outbox.put(vec![message(99, &event, clock.now())]));
    assert_eq!(nothing.expect_err("its sender comes again"), PutError::Full);
    // A newer statement about the same commit takes the place of the one that waits.
    for number in 0..20 {
        let state = if number % 2 == 0 { State::Success } else { State::Failure };
        block_on(outbox.put(vec![status_job(1, state, clock.now())])).expect("it needs no more room");
    }
}

#[test]
fn what_is_handed_over_keeps_its_order_also_after_a_restart() {
    let (dir, clock) = (tempfile::tempdir().expect("a folder"), TurnedClock::new());
    clock.turn(Duration::from_secs(10_000));
    let path = dir.path().join("outbox.db");
    let limits = Limits::default();
    let event = Arc::new(Event { message: "m".into(), ..Default::default() });
    let (old, new): (Arc<str>, Arc<str>) = ("hook".into(), "hook-2".into());
    let said = |number: usize, provider: &Arc<str>| {
        let message = message(0, &event, clock.now());
        NewJob { object: number.to_string().into(), ..message.for_provider(provider) }
    };
    let failure = status_job(1, State::Failure, clock.now());
    let before = failure.subject.provider().clone();
    let success = status_job(1, State::Success, clock.now()).for_provider(&new);
    let outbox = open(&path, limits, &clock);
    let jobs = [said(1, &old), failure, said(2, &old), said(3, &new), success, said(4, &new)];
    for job in jobs {
        block_on(outbox.put(vec![job])).expect("room");
    }
    let order = |outbox: &DurableOutbox| {
        let mut order = Vec::new();
        while let Some(job) = outbox.claim(clock.now(), 1).pop() {
            assert_eq!(*job.new.subject.provider(), new);
            if let Notice::CommitStatus(status) = &job.new.notice {
                assert_eq!(status.state, State::Success);
            } else {
                order.push(job.new.object.to_string());
            }
            outbox.settle(&job, clock.now(), Settlement::Said);
        }
        order
    };
    // The first process takes them over and dies; its file still has them under the old Provider.
    assert!(outbox.hand_over(&old, &new).is_empty());
    let superseded = outbox.hand_over(&before, &new);
    assert_eq!(superseded.len(), 1, "the failure gives way to the success that came later");
    block_on(outbox.finish());
    drop(outbox);
    let outbox = open(&path, limits, &clock);
    assert_eq!(outbox.counts().held, 5);
    assert!(outbox.hand_over(&old, &new).is_empty());
    assert_eq!(order(&outbox), ["1", "2", "3", "4"]);
    assert_eq!(outbox.counts().held, 0);
}
