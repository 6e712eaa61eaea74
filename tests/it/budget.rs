//! What vendors can bear (rules R8 and R9): waits, limits and hosts that hang, as several Providers see
//! them. The numbers are tried against a turned clock in `delivery::budget`; here real requests go out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use herald::clock::{Clock, SystemClock, TurnedClock};
use herald::cluster::Stores;
use herald::cluster::manifests::Manifests;
use herald::compute::Compute;
use herald::delivery::resolve::{Identities, Resolver};
use herald::delivery::troubles::About;
use herald::delivery::{Deadlines, Delivery};
use herald::ops::metrics::{Metrics, Outcome};
use herald::outbound::Addresses;
use herald::outbound::auth::{AzureEnvironment, Tokens};
use herald::outbox::{self, DurableOutbox, MemoryOutbox, Outbox};
use herald::pipeline::{Answer, Pipeline};
use herald::view::View;
use reqwest::Method;
use serde_json::json;

use crate::outbox::options;
use crate::proxy::Proxy;
use crate::scene::{Scene, TOKEN, forge, git, herald, hook, token};
use crate::support::app::{DEADLINE, Herald};
use crate::support::flux::{FluxEvent, Folder, Manifest, NAMESPACE, alert, kustomization_event, provider, secret, sha};
use crate::support::forge::{Access, Fault, Forge, Limits, Received};
use crate::support::wait;
use crate::tls::Authority;

/// A Provider `name` at the forge and an Alert that tells it of the Kustomization of that name.
fn at(forge: &Forge, name: &str, secret: &str) -> [Manifest; 2] {
    let provider = provider("github", name, &format!("{}/acme/{name}", forge.url())).secret(secret);
    [provider, alert(name, name).sources(json!([{"kind": "Kustomization", "name": name}]))]
}

fn about(request: &Received, name: &str) -> bool {
    request.uri.contains(&format!("/acme/{name}/"))
}

#[tokio::test]
async fn providers_with_one_token_share_a_wait_and_others_do_not() {
    let forge = forge().await;
    let another = secret("another", "token", "another-credential");
    let twin = secret("twin", "token", TOKEN);
    let all = [at(&forge, "one", "token"), at(&forge, "two", "twin"), at(&forge, "three", "another")];
    let manifests = all.into_iter().flatten().chain([token(), twin, another]);
    forge.fail(Fault::answer(429).header("retry-after", "3").path("acme/one"));
    let scene = Scene::with(forge, manifests, &[]).await;
    scene.post(&kustomization_event("one", &sha(1))).await;
    scene.requests(1).await;
    let refused = scene.forge.requests()[0].at;
    for number in 2..6 {
        for name in ["one", "two", "three"] {
            scene.post(&kustomization_event(name, &sha(number))).await;
        }
    }
    scene.herald.idle().await;
    let requests = scene.forge.requests();
    let first = |name| requests[1..].iter().find(|request| about(request, name)).expect("it is told").at - refused;
    for held in ["one", "two"] {
        assert!(first(held) >= Duration::from_secs(3), "{held}: {:?}", first(held));
    }
    assert!(first("three") < Duration::from_secs(2), "another token waits for nothing: {:?}", first("three"));
    assert_eq!(scene.ended(Outcome::Delivered), 13);
    scene.end(14, 13).await;
}

#[tokio::test]
async fn a_good_answer_that_uses_up_the_limit_is_the_last_for_as_long_as_it_says() {
    let forge = forge().await;
    let [git, alert] = at(&forge, "one", "token");
    let used_up = Fault::delay(Duration::ZERO).header("x-ratelimit-remaining", "0").header("x-ratelimit-reset", "2");
    forge.fail(used_up.writes());
    let scene = Scene::with(forge, [git, alert, token()], &[]).await;
    scene.tell([kustomization_event("one", &sha(1)), kustomization_event("one", &sha(2))]).await;
    let requests = scene.forge.requests();
    let waited = requests[2].at - requests[1].at;
    assert!(waited >= Duration::from_secs(2), "{waited:?}");
    scene.end(2, 2).await;
}

#[tokio::test]
async fn after_a_wait_one_request_goes_first_and_the_rest_when_it_was_answered() {
    let (forge, second) = (forge().await, Duration::from_secs(1));
    forge.fail(Fault::answer(429).header("retry-after", "2"));
    let manifests = [at(&forge, "one", "token"), at(&forge, "two", "token")];
    let scene = Scene::with(forge, manifests.into_iter().flatten().chain([token()]), &[]).await;
    scene.post(&kustomization_event("one", &sha(0))).await;
    scene.requests(1).await;
    scene.forge.fail(Fault::delay(second / 2).every(1));
    for number in 1..8 {
        scene.post(&kustomization_event("one", &sha(number))).await;
        scene.post(&kustomization_event("two", &sha(number))).await;
    }
    scene.herald.idle().await;
    let requests = scene.forge.requests();
    let since = |number: usize| requests[number].at - requests[0].at;
    assert!(since(1) >= 2 * second, "{:?}", since(1));
    assert!(since(2) >= since(1) + second / 2, "one alone: {:?} and {:?}", since(1), since(2));
    // One after the other they would take fifteen times a second.
    let last = since(requests.len() - 1);
    assert!(last < since(1) + 5 * second, "{last:?}");
    scene.end(16, 15).await;
}

#[tokio::test]
async fn a_wait_outlives_the_process() {
    let forge = forge().await;
    let manifests = [at(&forge, "one", "token"), at(&forge, "two", "token")];
    let folder = Folder::with(manifests.into_iter().flatten().chain([token()]));
    let place = tempfile::tempdir().expect("a folder");
    let outbox = format!("--outbox-path={}", place.path().join("outbox.db").display());
    forge.fail(Fault::answer(403).header("retry-after", "7").writes());
    let first = herald(&forge, &folder, &[&outbox]).await;
    assert_eq!(first.post(&kustomization_event("one", &sha(1))).await, 202);
    wait::until(DEADLINE, "a job that waits", || async { first.app.outbox.next_due() }).await;
    // It does not stay for what is due in longer than its grace.
    first.stop().await;
    let refused = forge.requests()[1].at;

    let second = herald(&forge, &folder, &[&outbox]).await;
    // The first of another Provider, which this process was told nothing of.
    assert_eq!(second.post(&kustomization_event("two", &sha(2))).await, 202);
    second.idle().await;
    let requests = forge.requests();
    let back = requests[2].at - refused;
    assert!(back >= Duration::from_secs(7), "back after {back:?}");
    second.stop().await;
    assert_eq!((forge.reads(), forge.writes()), (3, 3));
}

/// An outbox that several processes use, one after the other.
fn outbox_for_all() -> (tempfile::TempDir, String) {
    let place = tempfile::tempdir().expect("a folder");
    let flag = format!("--outbox-path={}", place.path().join("outbox.db").display());
    (place, flag)
}

/// Waits until this Herald holds so many notifications, none of which is due.
async fn parked(herald: &Herald, expected: usize) {
    wait::until_ok(DEADLINE, "jobs to be put off", || async {
        let (counts, due) = (herald.app.outbox.counts(), herald.app.outbox.due_by(SystemClock.now()));
        let quiet = counts.held == expected && counts.claimed == 0 && due.is_empty();
        if quiet { Ok(()) } else { Err(format!("{counts:?} of {expected}")) }
    })
    .await;
}

/// The same, and none is due within a minute.
async fn left_alone(herald: &Herald, expected: usize) {
    wait::until_ok(DEADLINE, "jobs to be left alone", || async {
        let outbox = &herald.app.outbox;
        let (counts, soon) = (outbox.counts(), SystemClock.now() + Duration::from_secs(60));
        let quiet = counts.held == expected && counts.claimed == 0 && outbox.due_by(soon).is_empty();
        if quiet { Ok(()) } else { Err(format!("{counts:?} of {expected}")) }
    })
    .await;
}

#[tokio::test]
async fn a_wait_outlives_the_provider_that_was_told() {
    let forge = forge().await;
    let manifests = [at(&forge, "one", "token"), at(&forge, "two", "token")];
    let folder = Folder::with(manifests.into_iter().flatten().chain([token()]));
    let (_place, outbox) = outbox_for_all();
    forge.fail(Fault::answer(429).header("retry-after", "7"));
    let first = herald(&forge, &folder, &[&outbox]).await;
    assert_eq!(first.post(&kustomization_event("one", &sha(1))).await, 202);
    parked(&first, 1).await;
    first.stop().await;
    let refused = forge.requests()[0].at;

    at(&forge, "one", "token").iter().for_each(|manifest| folder.remove(manifest));
    let second = herald(&forge, &folder, &[&outbox]).await;
    assert_eq!(second.post(&kustomization_event("two", &sha(2))).await, 202);
    assert!(forge.until(DEADLINE, |forge| !forge.statuses(&sha(2)).is_empty()).await, "the other is told");
    // What waits for the one that is gone stays, and goes nowhere.
    parked(&second, 1).await;
    let requests = forge.requests();
    let back = requests[1].at - refused;
    assert!(back >= Duration::from_secs(7), "back after {back:?}");
    assert!(requests[1..].iter().all(|request| about(request, "two")));
    second.stop().await;
}

#[tokio::test]
async fn a_wait_ends_for_other_processes_too_with_the_credential() {
    let forge = forge().await;
    let folder = Folder::with(at(&forge, "one", "token").into_iter().chain([token()]));
    let (_place, outbox) = outbox_for_all();
    forge.fail(Fault::answer(429).header("retry-after", "600"));
    let first = herald(&forge, &folder, &[&outbox]).await;
    assert_eq!(first.post(&kustomization_event("one", &sha(1))).await, 202);
    parked(&first, 1).await;
    folder.write(&secret("token", "token", "another-credential"));
    first.idle().await;
    first.stop().await;

    let second = herald(&forge, &folder, &[&outbox]).await;
    assert_eq!(second.post(&kustomization_event("one", &sha(2))).await, 202);
    second.idle().await;
    assert_eq!((forge.statuses(&sha(1)).len(), forge.statuses(&sha(2)).len()), (1, 1));
    second.stop().await;
}

#[tokio::test]
async fn a_refused_credential_is_not_sent_by_another_process() {
    let (forge, jobs) = (forge().await, 40);
    forge.token("a-better-token", Access::Write);
    let folder = Folder::with(at(&forge, "one", "token").into_iter().chain([token()]));
    let (_place, outbox) = outbox_for_all();
    let first = herald(&forge, &folder, &[&outbox]).await;
    for number in 0..jobs {
        assert_eq!(first.post(&kustomization_event("one", &sha(number))).await, 202);
    }
    left_alone(&first, jobs as usize).await;
    first.stop().await;

    let refused = forge.requests().len();
    let second = herald(&forge, &folder, &[&outbox]).await;
    left_alone(&second, jobs as usize).await;
    assert_eq!(forge.requests().len(), refused, "it is known to be refused");
    // Whatever changes of the Provider may have mended it: one more try, and what comes of that is kept too.
    let [provider, _] = at(&forge, "one", "token");
    folder.write(&provider.spec("timeout", "9s"));
    assert!(forge.until(DEADLINE, |forge| forge.requests().len() > refused).await);
    left_alone(&second, jobs as usize).await;
    second.stop().await;

    let refused = forge.requests().len();
    let third = herald(&forge, &folder, &[&outbox]).await;
    left_alone(&third, jobs as usize).await;
    assert_eq!(forge.requests().len(), refused, "it was refused again");
    folder.write(&secret("token", "token", "a-better-token"));
    third.idle().await;
    told_once(&forge, jobs);
    third.stop().await;
}

#[tokio::test]
async fn forty_providers_at_a_host_that_hangs_starve_no_other() {
    let (hung, well) = (forge().await, forge().await);
    hung.fail(Fault::hang().every(1));
    // With every timeout another, so that none learns from another's.
    let at_hung = (0..40).flat_map(|number| {
        let [provider, alert] = at(&hung, &format!("hung-{number}"), "token");
        let alert = alert.sources(json!([{"kind": "Kustomization", "name": "hung"}]));
        [provider.spec("timeout", format!("{}s", 60 + number % 3)), alert]
    });
    let manifests: Vec<_> = at_hung.chain(at(&well, "well", "token")).chain([token()]).collect();
    let scene = Scene::with(well, manifests, &[]).await;
    for number in 0..20 {
        scene.post(&kustomization_event("hung", &sha(number))).await;
    }
    let started = Instant::now();
    scene.post(&kustomization_event("well", &sha(1))).await;
    assert!(scene.forge.until(DEADLINE, |forge| !forge.statuses(&sha(1)).is_empty()).await);
    // What hangs does so for a minute.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let under_way = scene.herald.app.outbox.counts().claimed;
    assert!(under_way <= 3 * 8 + 1, "{under_way} jobs hang");
    assert_eq!((scene.forge.reads(), scene.forge.writes()), (1, 1));
}

#[tokio::test]
async fn while_a_host_fails_one_canary_goes_out_and_its_answer_wakes_all() {
    let forge = forge().await;
    let manifests = [at(&forge, "one", "token"), at(&forge, "two", "token")];
    forge.fail(Fault::answer(502).every(1));
    let scene = Scene::with(forge, manifests.into_iter().flatten().chain([token()]), &[]).await;
    for number in 0..20 {
        scene.post(&kustomization_event("one", &sha(number))).await;
        scene.post(&kustomization_event("two", &sha(number))).await;
    }
    // What was under way when it began to fail.
    scene.requests(3).await;
    let failing = Instant::now();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = scene.forge.requests().len();
    assert!(before <= 16, "{before} requests to a host that fails");
    scene.forge.recover();
    scene.herald.idle().await;
    let took = failing.elapsed();
    assert!(took >= Duration::from_secs(9), "{took:?}");
    assert_eq!(scene.ended(Outcome::Delivered), 40);
    let requests = scene.forge.requests();
    let canary = requests[before].at;
    assert!(canary - requests[before - 1].at >= Duration::from_secs(9));
    scene.end(before + 40, 40).await;
}

// === By a clock that is turned ===

/// What is between an event and the vendor, by a clock that the test turns.
struct Turned {
    clock: Arc<TurnedClock>,
    pipeline: Arc<Pipeline>,
    stores: Arc<Stores>,
    folder: Folder,
}

impl Turned {
    fn with(manifests: impl IntoIterator<Item = Manifest>) -> Self {
        let outbox = Arc::new(MemoryOutbox::new(outbox::Limits::default()));
        Self::on(outbox, TurnedClock::new(), manifests)
    }

    fn on(outbox: Arc<dyn Outbox>, clock: Arc<TurnedClock>, manifests: impl IntoIterator<Item = Manifest>) -> Self {
        Self::reading(outbox, clock, Folder::with(manifests))
    }

    fn reading(outbox: Arc<dyn Outbox>, clock: Arc<TurnedClock>, folder: Folder) -> Self {
        let (stores, metrics) = (Arc::new(Stores::default()), Arc::new(Metrics::default()));
        Manifests::open(folder.path(), stores.clone(), metrics.clone()).expect("a folder of manifests");
        let identities = Identities {
            tokens: Arc::new(Tokens::new(clock.clone(), 0, Duration::ZERO)),
            azure: AzureEnvironment::default(),
            accounts: None,
            object_level: false,
            default_account: None,
        };
        let loopback = || Addresses::allowing(&["127.0.0.0/8".parse().expect("a range")]);
        let resolver = Arc::new(Resolver::new(clock.clone(), loopback(), None, identities));
        let day = Duration::from_secs(24 * 3600);
        let deadlines = Deadlines { status: day, message: day / 24 };
        let (told, known) = (outbox.clone(), stores.clone());
        let delivery = Delivery::new(told, known, resolver, clock.clone(), metrics.clone(), deadlines);
        tokio::spawn(delivery.clone().run());
        let pipeline = Arc::new(Pipeline {
            index: stores.index.clone(),
            view: stores.clone(),
            outbox,
            delivery,
            clock: clock.clone(),
            metrics,
            compute: Arc::new(Compute::start().expect("threads")),
            no_cross_namespace: false,
            dropped: Default::default(),
        });
        Self { clock, pipeline, stores, folder }
    }

    /// Ends it, and lets go of its outbox. What it read.
    async fn end(self) -> Folder {
        let Self { pipeline, folder, .. } = self;
        pipeline.delivery.drain(Duration::ZERO).await;
        pipeline.outbox.finish().await;
        let outbox = Arc::downgrade(&pipeline.outbox);
        drop(pipeline);
        wait::until(DEADLINE, "the end of it", || async { (outbox.strong_count() == 0).then_some(()) }).await;
        folder
    }

    async fn post(&self, event: &FluxEvent) {
        let event = serde_json::from_value((**event).clone()).expect("an event");
        assert_eq!(self.pipeline.accept(&event).await, Answer::Accepted);
    }

    /// Turns the clock, and lets Herald know.
    fn turn(&self, by: Duration) {
        self.clock.turn(by);
        self.pipeline.delivery.wake();
    }

    /// Waits until nothing is under way and so many are held.
    async fn held(&self, expected: usize) {
        wait::until_ok(DEADLINE, "jobs to be held", || async {
            let counts = self.pipeline.outbox.counts();
            let quiet = counts.held == expected && counts.claimed == 0 && counts.ready == 0;
            if quiet { Ok(()) } else { Err(format!("{counts:?} of {expected}")) }
        })
        .await;
    }

    /// Waits until so many requests were made.
    async fn requests(&self, forge: &Forge, expected: usize) {
        wait::until(DEADLINE, "a request", || async { (forge.requests().len() >= expected).then_some(()) }).await;
    }

    /// Waits until so many are held, and all of them were tried and put off.
    async fn put_off(&self, expected: usize) {
        wait::until_ok(DEADLINE, "jobs to be put off", || async {
            let (outbox, now) = (&self.pipeline.outbox, self.clock.now());
            let counts = outbox.counts();
            let quiet = counts.held == expected && counts.claimed == 0 && outbox.due_by(now).is_empty();
            if quiet { Ok(()) } else { Err(format!("{counts:?} of {expected}")) }
        })
        .await;
    }

    fn failed(&self) -> u64 {
        self.pipeline.metrics.notifications(Outcome::Failed)
    }

    /// What stands of a Provider, as its condition has it.
    fn trouble(&self, provider: &str) -> Option<(&'static str, String)> {
        let key = herald::api::Key::new(NAMESPACE, provider);
        let view = self.stores.provider(&key)?;
        let troubles = self.pipeline.delivery.troubles();
        let trouble = troubles.of(&About::Provider(key), &view.provider.meta.uid, view.version)?;
        Some((trouble.reason, trouble.text.to_string()))
    }
}

/// Turns the clock to one canary after the other until this commit has a status; how many it took.
async fn canaries_until_told(herald: &Turned, forge: &Forge, commit: &str, most: usize) -> usize {
    for canary in 1..=most {
        let (before, held) = (forge.requests().len(), herald.pipeline.outbox.counts().held);
        herald.turn(Duration::from_secs(10));
        herald.requests(forge, before + 1).await;
        let told = |forge: &Forge| !forge.statuses(commit).is_empty();
        wait::until(DEADLINE, "the canary's end", || async {
            let counts = herald.pipeline.outbox.counts();
            (told(forge) || (counts.held == held && counts.claimed == 0 && counts.ready == 0)).then_some(())
        })
        .await;
        if told(forge) {
            return canary;
        }
    }
    panic!("{commit} was not told within {most} canaries");
}

#[tokio::test]
async fn at_a_host_that_fails_each_provider_has_its_turn() {
    let forge = forge().await;
    forge.fail(Fault::answer(500).path("acme/bad").every(1));
    let manifests = [at(&forge, "bad", "token"), at(&forge, "good", "another")].into_iter().flatten();
    let herald = Turned::with(manifests.chain([token(), secret("another", "token", "another-credential")]));
    for number in 0..30 {
        herald.post(&kustomization_event("bad", &sha(number)).failed("HealthCheckFailed")).await;
    }
    herald.held(30).await;
    herald.post(&kustomization_event("good", &sha(100))).await;
    herald.held(31).await;
    assert!(canaries_until_told(&herald, &forge, &sha(100), 20).await <= 2);
}

#[tokio::test]
async fn at_a_host_that_fails_each_status_of_a_provider_has_its_turn() {
    let forge = forge().await;
    let herald = Turned::with([git("github", &forge), token(), alert("status", "git")]);
    for number in 0..16 {
        forge.fail(Fault::answer(500).path(&sha(number)).every(1));
        herald.post(&kustomization_event("web", &sha(number)).failed("HealthCheckFailed")).await;
    }
    herald.held(16).await;
    herald.post(&kustomization_event("web", &sha(100))).await;
    herald.held(17).await;
    canaries_until_told(&herald, &forge, &sha(100), 20).await;
}

#[tokio::test]
async fn what_fails_for_long_at_a_host_that_works_takes_turns_until_one_of_it_works() {
    const JOBS: usize = 8;
    let (forge, half_an_hour) = (forge().await, Duration::from_secs(1800));
    let herald = Turned::with([git("gitea", &forge), token(), alert("status", "git")]);
    for number in 0..JOBS as u64 {
        forge.fail(Fault::answer(500).writes().path(&sha(number)).every(1));
        herald.post(&kustomization_event("web", &sha(number))).await;
    }
    let next = || herald.pipeline.outbox.next_due().expect("they wait").saturating_duration_since(herald.clock.now());
    let started = herald.clock.now();
    herald.put_off(JOBS).await;
    while herald.clock.now() < started + half_an_hour {
        herald.turn(next());
        herald.put_off(JOBS).await;
    }
    // Some twenty each, and one every 10 s; without turns it would be 180 each.
    let tries = forge.writes();
    assert!((180..180 + 30 * JOBS).contains(&tries), "{tries} tries of {JOBS} in half an hour");

    forge.recover();
    assert!(next() <= Duration::from_secs(10));
    herald.turn(next());
    herald.held(0).await;
    assert_eq!(forge.writes(), tries + JOBS, "the first that works wakes the others");
}

#[tokio::test]
async fn what_is_held_past_its_deadline_is_given_up_though_nothing_may_be_sent() {
    let forge = forge().await;
    let minute = Duration::from_secs(60);
    forge.fail(Fault::answer(429).header("retry-after", "3900").every(1));
    let manifests = [git("github", &forge), hook(&forge), token(), alert("status", "git"), alert("message", "hook")];
    let herald = Turned::with(manifests);
    for number in 0..30 {
        herald.post(&kustomization_event(["web", "db"][number % 2], &sha(number as u64))).await;
    }
    herald.held(60).await;
    let told = forge.requests().len();
    // Messages are worth an hour, and are told a minute later still; the vendor wants to be left for 65.
    herald.turn(60 * minute);
    herald.held(60).await;
    herald.turn(2 * minute);
    herald.held(30).await;
    assert_eq!((herald.failed(), forge.requests().len()), (30, told));
    let (reason, text) = herald.trouble("hook").expect("it stands");
    assert_eq!(reason, "Expired");
    assert_eq!(text, "it could not be sent before its deadline: answered 429 Too Many Requests");

    // Statuses are worth a day; the vendor goes on like that.
    herald.turn(20 * 60 * minute);
    wait::until(DEADLINE, "it to be asked", || async { (forge.requests().len() > told).then_some(()) }).await;
    herald.held(30).await;
    let told = forge.requests().len();
    herald.turn(4 * 60 * minute);
    herald.held(0).await;
    assert_eq!((herald.failed(), forge.requests().len()), (60, told));
    assert_eq!(herald.trouble("git").expect("it stands").0, "Expired");
}

/// What a repository refuses, with jobs that all fall due with its canary.
async fn refused(scene: &Turned, forge: &Forge, fault: Fault, slots: u64) {
    forge.fail(fault.every(1));
    for number in 0..slots {
        scene.post(&kustomization_event("web", &sha(number))).await;
    }
    scene.put_off(slots as usize).await;
    forge.recover();
}

#[track_caller]
fn told_once(forge: &Forge, slots: u64) {
    let told = |number: &u64| forge.statuses(&sha(*number)).len();
    let wrong = (0..slots).filter(|number| told(number) != 1).map(|number| (number, told(&number)));
    assert_eq!(wrong.collect::<Vec<_>>(), [], "slots, and how often each was told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_repository_refused_is_told_as_soon_as_its_canary_was() {
    let minute = Duration::from_secs(60);
    for (fault, slots) in [(Fault::answer(403).writes(), 300), (Fault::answer(404), 300)] {
        let forge = forge().await;
        let herald = Turned::with([git("github", &forge), token(), alert("status", "git")]);
        refused(&herald, &forge, fault, slots).await;
        let told = forge.requests().len();
        herald.turn(10 * minute - Duration::from_secs(1));
        herald.put_off(slots as usize).await;
        assert_eq!(forge.requests().len(), told, "it is left alone");
        // The clock stands from now on: nothing waits for a time of its own.
        herald.turn(Duration::from_secs(1));
        herald.held(0).await;
        told_once(&forge, slots);
        assert_eq!(herald.failed(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_that_is_not_there_is_asked_once_in_the_vendors_own_words() {
    for kind in ["azuredevops", "bitbucketserver", "gitea", "github", "gitlab"] {
        let forge = forge().await;
        forge.strict();
        let herald = Turned::with([git(kind, &forge), token(), alert("status", "git")]);
        herald.post(&kustomization_event("web", &sha(0))).await;
        herald.put_off(1).await;
        let told = forge.requests().len();
        for number in 1..60 {
            herald.post(&kustomization_event("web", &sha(number))).await;
        }
        herald.put_off(60).await;
        assert_eq!(forge.requests().len(), told, "{kind}: requests besides the first {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_that_finds_what_it_wanted_keeps_nobody_waiting() {
    for fault in [Fault::answer(403).writes(), Fault::answer(404)] {
        let (forge, slots) = (forge().await, 100);
        let manifests = [git("github", &forge), token(), alert("status", "git")];
        let herald = Turned::with(manifests.clone());
        refused(&herald, &forge, fault, slots).await;
        // Another Herald tells most of it meanwhile.
        let other = Turned::with(manifests);
        for number in 0..slots - 10 {
            other.post(&kustomization_event("web", &sha(number))).await;
        }
        other.held(0).await;
        herald.turn(Duration::from_secs(600));
        herald.held(0).await;
        told_once(&forge, slots);
    }
}

/// A clock whose wall was set back.
struct SetBack(Arc<TurnedClock>, Duration);

impl Clock for SetBack {
    fn now(&self) -> Instant {
        self.0.now()
    }

    fn wall(&self) -> jiff::Timestamp {
        self.0.wall() - self.1
    }
}

#[tokio::test]
async fn a_wait_of_an_earlier_process_is_no_longer_than_any() {
    let (forge, clock) = (forge().await, TurnedClock::new());
    let (dir, manifests) = (tempfile::tempdir().expect("a folder"), [git("github", &forge), token()]);
    let manifests = || manifests.iter().cloned().chain([alert("status", "git")]);
    let open = |name: &str, clock: Arc<dyn Clock>| {
        let options = options(dir.path().join(name), outbox::Limits::default());
        Arc::new(DurableOutbox::open(options, clock).expect("it opens"))
    };
    forge.fail(Fault::answer(429).header("retry-after", "3900"));
    let outbox = open("earlier.db", clock.clone());
    let earlier = Turned::on(outbox.clone(), clock.clone(), manifests());
    earlier.post(&kustomization_event("web", &sha(1))).await;
    earlier.put_off(1).await;
    outbox.finish().await;
    for suffix in ["", "-wal"] {
        let of = |name: &str| dir.path().join(format!("{name}.db{suffix}"));
        std::fs::copy(of("earlier"), of("later")).expect("copied");
    }

    let set_back = SetBack(clock.clone(), Duration::from_secs(3 * 24 * 3600));
    let herald = Turned::on(open("later.db", Arc::new(set_back)), clock.clone(), manifests());
    herald.post(&kustomization_event("web", &sha(2))).await;
    herald.held(2).await;
    herald.turn(Duration::from_secs(65 * 60 - 1));
    herald.held(2).await;
    assert_eq!(forge.requests().len(), 1);
    herald.turn(Duration::from_secs(1));
    herald.held(0).await;
    assert_eq!(forge.statuses(&sha(2)).len(), 1);
}

#[tokio::test]
async fn a_limit_without_a_time_is_tried_once_in_a_while_and_then_all_goes() {
    let (forge, slots) = (forge().await, 100);
    let herald = Turned::with([git("gitlab", &forge), token(), alert("status", "git")]);
    forge.fail(Fault::answer(429).body("Retry later").every(1));
    for number in 0..slots {
        herald.post(&kustomization_event("web", &sha(number))).await;
    }
    herald.held(slots as usize).await;
    let at_first = forge.requests().len();
    assert!(at_first <= 8, "{at_first} requests were under way together");
    let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    for (number, minutes) in (1..).zip([1, 2, 4]) {
        herald.turn(minutes * minute - second);
        herald.held(slots as usize).await;
        assert_eq!(forge.requests().len(), at_first + number - 1, "it is left alone");
        herald.turn(second);
        herald.requests(&forge, at_first + number).await;
        herald.held(slots as usize).await;
        assert_eq!(forge.requests().len(), at_first + number, "one alone");
    }
    forge.recover();
    herald.turn(8 * minute);
    herald.held(0).await;
    told_once(&forge, slots);
}

// === github.com ===

/// A forge that Herald takes for github.com: the address is, a proxy leads its API's name to the forge, and
/// the certificate is of an authority that the Provider gives.
async fn github() -> (Forge, Vec<Manifest>) {
    let (forge, authority) = (forge().await, Authority::new());
    let front = authority.front(&forge, None).await;
    let proxy = Proxy::start(&front, forge.url()).await;
    let git = provider("github", "git", "https://github.com/acme/fleet").secret("token");
    let git = git.spec("proxy", proxy.url.as_str()).spec("certSecretRef", json!({"name": "ca"}));
    let ca = secret("ca", "ca.crt", &authority.pem());
    (forge, vec![git, token(), ca, alert("all", "git")])
}

fn writes(forge: &Forge) -> Vec<Received> {
    forge.requests().into_iter().filter(|request| request.method == Method::POST).collect()
}

#[tokio::test]
async fn at_github_a_failure_is_told_before_what_waits_for_its_turn() {
    let (forge, manifests) = github().await;
    forge.limits(Limits::default());
    let scene = Scene::with(forge, manifests, &[]).await;
    for number in 0..30 {
        scene.post(&kustomization_event("web", &sha(number))).await;
    }
    // The first ten go at once, the rest are spread over the minute.
    assert!(scene.forge.until(DEADLINE, |forge| forge.writes() >= 11).await);
    let started = Instant::now();
    scene.post(&kustomization_event("web", &sha(100)).failed("HealthCheckFailed")).await;
    assert!(scene.forge.until(DEADLINE, |forge| !forge.statuses(&sha(100)).is_empty()).await);
    // In the order of arrival its turn would come after some 15 s.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(scene.forge.writes() <= 15, "{} writes", scene.forge.writes());
    let caller = &scene.forge.callers()[0];
    assert!(caller.most_at_once <= 10, "{caller:?}");
    assert_eq!((caller.limited, caller.banned), (0, false));
}

#[tokio::test]
async fn at_github_nothing_is_sent_during_a_wait_and_failures_go_first_after_it() {
    let (forge, manifests) = github().await;
    // The documented limits, in a minute that a test can wait for.
    let retry_after = Duration::from_secs(3);
    forge.limits(Limits { writes: 11, minute: Duration::from_secs(4), retry_after, ..Limits::default() });
    let scene = Scene::with(forge, manifests, &[]).await;
    for number in 0..16 {
        scene.post(&kustomization_event("web", &sha(number))).await;
    }
    let limited = |forge: &Forge| forge.callers().iter().any(|caller| caller.limited == 1);
    wait::until(DEADLINE, "the limit", || async { limited(&scene.forge).then_some(()) }).await;
    scene.post(&kustomization_event("web", &sha(100)).failed("HealthCheckFailed")).await;
    let before = writes(&scene.forge).len();
    scene.herald.idle().await;

    let writes = writes(&scene.forge);
    assert!(writes[before].uri.ends_with(&sha(100)), "the failure goes first: {}", writes[before].uri);
    let waited = writes[before].at - writes[before - 1].at;
    assert!((retry_after..retry_after + Duration::from_secs(2)).contains(&waited), "{waited:?}");
    let callers = scene.forge.callers();
    assert_eq!(callers.iter().map(|caller| (caller.limited, caller.banned)).collect::<Vec<_>>(), [(1, false)]);
    assert_eq!(scene.ended(Outcome::Delivered), 17);
    // What was refused is looked up before it is written again.
    scene.end(18, 18).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vendor_that_answers_again_is_in_order_though_nothing_is_to_be_written() {
    let forge = forge().await;
    let herald = Turned::with([git("github", &forge), token(), alert("status", "git")]);
    let event = kustomization_event("web", &sha(1));
    herald.post(&event.clone().version(1)).await;
    herald.held(0).await;
    forge.fail(Fault::answer(502).every(1));
    herald.post(&event.clone().failed("BuildFailed").version(2)).await;
    for tries in 1..=4 {
        herald.requests(&forge, 2 + tries).await;
        herald.held(1).await;
        herald.turn(Duration::from_secs(if tries < 4 { 20 } else { 0 }));
    }
    assert_eq!(herald.trouble("git").map(|(reason, _)| reason), Some("ServerError"));
    // The object is again what the vendor shows.
    herald.post(&event.clone().version(3)).await;
    herald.held(1).await;
    forge.recover();
    let (reads, writes) = (forge.reads(), forge.writes());
    herald.turn(Duration::from_secs(20));
    herald.held(0).await;
    assert_eq!((forge.reads(), forge.writes()), (reads + 1, writes), "it is found unchanged");
    assert_eq!(herald.trouble("git"), None);
}

// === What may come late ===

/// A Provider that waits a second for an answer, and a vendor that does a failure two seconds late.
async fn late(kind: &str, outbox: Arc<dyn Outbox>, clock: Arc<TurnedClock>) -> (Forge, Turned) {
    let forge = forge().await;
    let manifests = [git(kind, &forge).spec("timeout", "1s"), token(), alert("status", "git")];
    let herald = Turned::on(outbox, clock, manifests);
    forge.fail(Fault::hang().lands_after(Duration::from_secs(2)).writes());
    (forge, herald)
}

fn states(forge: &Forge) -> Vec<String> {
    let states = forge.statuses(&sha(1)).into_iter().map(|status| status.state.to_lowercase());
    states.map(|state| if state.starts_with("succ") { "success".to_owned() } else { "failure".to_owned() }).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_lands_late_does_not_stay_on_top() {
    for kind in ["azuredevops", "bitbucketserver", "gitea", "github", "gitlab"] {
        let outbox = Arc::new(MemoryOutbox::new(outbox::Limits::default()));
        let (forge, herald) = late(kind, outbox, TurnedClock::new()).await;
        let event = kustomization_event("web", &sha(1));
        herald.post(&event.clone().failed("BuildFailed").version(1)).await;
        herald.requests(&forge, 2).await;
        herald.post(&event.clone().version(2)).await;
        // It is shown at once, and the other comes over it.
        assert!(forge.until(DEADLINE, |forge| states(forge) == ["success", "failure"]).await, "{kind}");
        herald.put_off(1).await;
        let told = forge.requests().len();
        // What comes meanwhile costs nothing and takes over the look.
        for version in 3..6 {
            herald.post(&event.clone().version(version)).await;
            herald.put_off(1).await;
        }
        assert_eq!(forge.requests().len(), told, "{kind}");
        herald.turn(Duration::from_secs(29));
        herald.put_off(1).await;
        assert_eq!(forge.requests().len(), told, "{kind}: it looks too early");
        herald.turn(Duration::from_secs(1));
        herald.held(0).await;
        assert_eq!(states(&forge), ["success", "failure", "success"], "{kind}");
        assert_eq!(forge.requests().len(), told + 2, "{kind}: one look, one write");
        let ended = |outcome| herald.pipeline.metrics.notifications(outcome);
        let ends = [Outcome::Delivered, Outcome::Unchanged, Outcome::Superseded, Outcome::Failed].map(ended);
        assert_eq!(ends, [1, 3, 1, 0], "{kind}: each ends once");
        assert_eq!(herald.trouble("git"), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lands_late_is_found_by_the_next_process_too() {
    for newer in [false, true] {
        let (clock, dir) = (TurnedClock::new(), tempfile::tempdir().expect("a folder"));
        let options = || options(dir.path().join("outbox.db"), outbox::Limits::default());
        // Whoever had it last may not be through with closing it.
        let open = async || {
            wait::until_ok(DEADLINE, "the file to be free", || async {
                DurableOutbox::open(options(), clock.clone()).map(Arc::new).map_err(|error| error.to_string())
            })
            .await
        };
        let (forge, herald) = late("github", open().await, clock.clone()).await;
        let event = kustomization_event("web", &sha(1));
        herald.post(&event.clone().failed("BuildFailed").version(1)).await;
        herald.requests(&forge, 2).await;
        if !newer {
            herald.post(&event.clone().version(2)).await;
            assert!(forge.until(DEADLINE, |forge| states(forge) == ["success"]).await);
        }
        herald.put_off(1).await;
        let folder = herald.end().await;

        let herald = Turned::reading(open().await, clock.clone(), folder);
        if newer {
            herald.post(&event.clone().version(2)).await;
        }
        let late = |forge: &Forge| states(forge).ends_with(&["success", "failure"].map(str::to_owned));
        assert!(forge.until(DEADLINE, late).await, "newer: {newer}: {:?}", states(&forge));
        herald.put_off(1).await;
        herald.turn(Duration::from_secs(30));
        herald.held(0).await;
        let states = states(&forge);
        assert!(states.ends_with(&["success", "failure", "success"].map(str::to_owned)), "newer: {newer}: {states:?}");
    }
}
