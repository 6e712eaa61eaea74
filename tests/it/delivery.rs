//! From the outbox to the vendor: what is tried again and when, what is given up, which way a
//! request takes, and what one vendor's troubles mean for another (nothing).

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use futures::future::join_all;
use herald::api::Key;
use herald::clock::{Clock, SystemClock};
use herald::ops::metrics::Outcome;
use herald::view::View;
use reqwest::Method;
use serde_json::json;

use crate::logs::SECOND;
use crate::scene::{CHANGED, Scene, TOKEN, forge, git, hook, token};
use crate::support::app::DEADLINE;
use crate::support::flux::{Manifest, NAMESPACE, alert, kustomization_event, provider, secret, sha};
use crate::support::forge::{Access, Fault};
use crate::support::wait;

/// Waits until nothing is under way and one job waits for a later time; says how long it waits.
async fn parked(scene: &Scene) -> Duration {
    let outbox = &scene.herald.app.outbox;
    wait::until(DEADLINE, "a job that waits", || async {
        let counts = outbox.counts();
        (counts.held > 0 && counts.claimed == 0).then_some(())?;
        Some(outbox.next_due()?.saturating_duration_since(SystemClock.now()))
    })
    .await
}

/// Waits until the first status stands on a commit.
async fn told_within(scene: &Scene, commit: &str, within: Duration) {
    let told = scene.forge.until(within, |forge| !forge.statuses(commit).is_empty()).await;
    assert!(told, "no status within {within:?}");
}

#[tokio::test]
async fn a_failure_that_passes_is_tried_again_until_it_is_right() {
    let cases = [
        Fault::answer(500),
        Fault::answer(502),
        Fault::answer(503),
        Fault::answer(504),
        Fault::answer(408),
        Fault::answer(409),
        Fault::reset(),
    ];
    for kind in ["github", "gitea", "generic"] {
        join_all(cases.iter().map(|fault| async move {
            let scene = Scene::of(kind).await;
            scene.forge.fail(fault.clone().writes().times(2));
            scene.tell([kustomization_event("web", &sha(1))]).await;
            assert_eq!(scene.ended(Outcome::Delivered), 1, "{kind}, {fault:?}");
            let reads = if kind == "generic" { 0 } else { 3 };
            scene.end(reads, 3).await;
        }))
        .await;
    }
}

#[tokio::test]
async fn a_read_that_fails_is_tried_again_before_anything_is_written() {
    join_all([Fault::answer(500), Fault::reset(), Fault::half_body(), Fault::hang()].map(|fault| async move {
        let scene = Scene::impatient("github").await;
        scene.forge.fail(fault.reads());
        scene.tell([kustomization_event("web", &sha(1))]).await;
        let methods: Vec<_> = scene.forge.requests().into_iter().map(|request| request.method).collect();
        assert_eq!(methods, [Method::GET, Method::GET, Method::POST]);
        scene.end(2, 1).await;
    }))
    .await;
}

#[tokio::test]
async fn a_wait_that_the_vendor_names_is_kept() {
    join_all([429, 503, 403].map(|status| async move {
        let scene = Scene::of("github").await;
        scene.forge.fail(Fault::answer(status).header("retry-after", "2").writes());
        scene.tell([kustomization_event("web", &sha(1))]).await;
        let requests = scene.forge.requests();
        let waited = requests[2].at.duration_since(requests[1].at);
        assert!(waited >= Duration::from_secs(2), "{status}: came back after {waited:?}");
        scene.end(2, 2).await;
    }))
    .await;
}

#[tokio::test]
async fn what_can_never_work_is_given_up_at_once_and_the_next_outcome_is_not() {
    for status in [400, 413, 422, 501] {
        let scene = Scene::of("github").await;
        scene.forge.fail(Fault::answer(status).body(r#"{"message": "no such luck"}"#).writes());
        scene.tell([kustomization_event("web", &sha(1))]).await;
        assert_eq!((scene.ended(Outcome::Failed), scene.forge.writes()), (1, 1), "{status}");

        scene.tell([kustomization_event("web", &sha(1))]).await;
        assert_eq!((scene.ended(Outcome::Delivered), scene.forge.statuses(&sha(1)).len()), (1, 1), "{status}");
        scene.end(2, 2).await;
    }
}

#[tokio::test]
async fn a_refused_credential_waits_for_a_better_one_and_no_longer() {
    for (what, old, before) in [
        ("401: nobody knows the token, twice", None, (2, 0)),
        ("403: the token may only read", Some(Access::Read), (1, 1)),
        ("404: the token may see nothing", Some(Access::Nothing), (1, 0)),
    ] {
        let scene = Scene::of("github").await;
        scene.forge.token("a-better-token", Access::Write);
        if let Some(access) = old {
            scene.forge.token(TOKEN, access);
        }
        scene.post(&kustomization_event("web", &sha(1))).await;
        scene.quiet().await;
        let pause = parked(&scene).await;
        assert!(pause > Duration::from_secs(590), "{what}: comes back after {pause:?}");
        assert_eq!((scene.forge.reads(), scene.forge.writes()), before, "{what}");

        scene.folder.write(&secret("token", "token", "a-better-token"));
        told_within(&scene, &sha(1), CHANGED).await;
        let (reads, writes) = before;
        scene.end(reads + 1, writes + 1).await;
    }
}

#[tokio::test]
async fn a_credential_that_changes_during_a_try_counts_for_the_next() {
    let scene = Scene::of("github").await;
    scene.forge.token("a-better-token", Access::Write);
    scene.forge.fail(Fault::delay(Duration::from_secs(8)).reads());
    scene.post(&kustomization_event("web", &sha(1))).await;
    scene.requests(1).await;
    // Too late for the request under way, which will be refused.
    scene.change("git", |folder| drop(folder.write(&secret("token", "token", "a-better-token")))).await;
    assert_eq!(scene.forge.requests().len(), 1);
    told_within(&scene, &sha(1), DEADLINE).await;
    scene.end(2, 1).await;
}

#[tokio::test]
async fn a_vendor_that_hangs_slows_no_other() {
    let (hung, forge) = (forge().await, forge().await);
    hung.fail(Fault::hang().every(1));
    let manifests = [
        provider("github", "hung", &format!("{}/acme/fleet", hung.url())).secret("token").spec("timeout", "5s"),
        alert("hung", "hung").sources(json!([{"kind": "Kustomization", "name": "hung"}])),
        hook(&hung).spec("timeout", "5s"),
        alert("hung-hook", "hook").sources(json!([{"kind": "Kustomization", "name": "hung"}])),
        git("gitea", &forge),
        alert("well", "git").sources(json!([{"kind": "Kustomization", "name": "well"}])),
        token(),
    ];
    let scene = Scene::with(forge, manifests, &[]).await;
    for number in 0..40 {
        scene.post(&kustomization_event("hung", &sha(number))).await;
    }
    let started = Instant::now();
    for number in 0..40 {
        scene.post(&kustomization_event("well", &sha(number))).await;
    }
    let all = |forge: &crate::support::forge::Forge| (0..40).all(|number| !forge.statuses(&sha(number)).is_empty());
    assert!(scene.forge.until(DEADLINE, all).await);
    let took = started.elapsed();
    assert!(took < Duration::from_secs(5), "they waited for the timeouts of another: {took:?}");
    wait::until(DEADLINE, "only what hangs to be left", || async {
        (scene.herald.app.outbox.counts().held == 80).then_some(())
    })
    .await;

    hung.recover();
    scene.herald.idle().await;
    assert!(all(&hung), "and what hung is told in the end");
    scene.end(40, 40).await;
}

#[tokio::test]
async fn a_redirect_to_another_host_is_not_followed() {
    let cases =
        ["github", "gitea", "generic"].iter().flat_map(|kind| [301, 302, 303, 307, 308].map(|status| (*kind, status)));
    join_all(cases.map(|(kind, status)| async move {
        let (trap, scene) = (forge().await, Scene::of(kind).await);
        let location = format!("{}/api/v3/repos/acme/fleet", trap.url());
        scene.forge.fail(Fault::answer(status).header("location", &location));
        scene.post(&kustomization_event("web", &sha(1))).await;
        let pause = parked(&scene).await;
        assert!(pause > Duration::from_secs(590), "{kind}, {status}: comes back after {pause:?}");
        assert!(trap.requests().is_empty(), "{kind}, {status}");

        // Someone mends it, and says so by touching the Provider.
        let (name, mended, requests) = match kind {
            "generic" => ("hook", hook(&scene.forge), (0, 2)),
            _ => ("git", git(kind, &scene.forge), (2, 1)),
        };
        scene.change(name, |folder| drop(folder.write(&mended.annotation("herald.sh/touched", "1")))).await;
        scene.end(requests.0, requests.1).await;
        assert!(trap.requests().is_empty());
    }))
    .await;
}

#[tokio::test]
async fn a_redirect_within_the_host_is_followed_with_method_body_and_credential() {
    for status in [301, 302, 307, 308] {
        let scene = Scene::of("github").await;
        let path = |repository: &str| format!("/api/v3/repos/{repository}/statuses/{}", sha(1));
        let moved = Fault::answer(status).header("location", &path("acme/renamed"));
        scene.forge.fail(moved.writes().path("acme/fleet"));
        scene.tell([kustomization_event("web", &sha(1))]).await;
        let status_there = scene.forge.statuses(&sha(1)).remove(0);
        assert_eq!((status_there.repository.as_str(), status_there.state.as_str()), ("acme/renamed", "success"));

        // In a circle it ends.
        scene.forge.fail(Fault::answer(status).header("location", &path("acme/fleet")).writes().every(1));
        scene.post(&kustomization_event("web", &sha(1)).failed("BuildFailed")).await;
        assert!(parked(&scene).await > Duration::from_secs(590));
        assert_eq!(scene.forge.writes(), 2 + 4, "{status}");
        scene.forge.recover();
        scene.change("git", |folder| drop(folder.write(&secret("token", "token", "another")))).await;
        scene.end(2, 2 + 4 + 1).await;
    }
}

#[tokio::test]
async fn what_is_under_way_is_finished_before_the_end() {
    let scene = Scene::of("github").await;
    scene.forge.fail(Fault::delay(Duration::from_millis(300)).every(1));
    for number in 0..5 {
        scene.post(&kustomization_event("web", &sha(number))).await;
    }
    scene.requests(1).await;
    let events = scene.herald.events_url();
    scene.herald.stop().await;
    for number in 0..5 {
        assert_eq!(scene.forge.statuses(&sha(number)).len(), 1, "what was accepted is told");
    }
    assert!(reqwest::get(events).await.is_err(), "nobody listens any more");
    assert_eq!((scene.forge.reads(), scene.forge.writes()), (5, 5));
}

#[tokio::test]
async fn a_vendor_that_hangs_does_not_keep_herald_from_ending() {
    let scene = Scene::of("github").await;
    scene.forge.fail(Fault::hang().every(1));
    scene.post(&kustomization_event("web", &sha(1))).await;
    scene.requests(1).await;
    let started = Instant::now();
    scene.herald.app.shutdown(Duration::from_millis(500)).await;
    // A request has 15 s.
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
    assert_eq!(scene.forge.requests().len(), 1);
}

#[tokio::test]
async fn what_is_held_for_longer_than_the_grace_does_not_keep_herald_from_ending() {
    // After the first answers nothing may go out for longer than the grace, though jobs are due sooner.
    let fails = [Fault::answer(502).every(1)];
    let wait = [Fault::answer(500).times(5), Fault::answer(429).header("retry-after", "60").every(1)];
    let refused = [Fault::answer(500).times(5), Fault::answer(403).every(1)];
    join_all([(&fails[..], 3), (&wait, 6), (&refused, 6)].map(|(faults, least)| async move {
        let scene = Scene::of("github").await;
        faults.iter().for_each(|fault| scene.forge.fail(fault.clone()));
        for number in 0..8 {
            scene.post(&kustomization_event("web", &sha(number))).await;
        }
        let outbox = scene.herald.app.outbox.clone();
        wait::until(DEADLINE, "all to have been tried", || async {
            (scene.forge.requests().len() >= least && outbox.counts().claimed == 0).then_some(())
        })
        .await;
        let requests = scene.forge.requests().len();
        let started = Instant::now();
        scene.herald.app.shutdown(Duration::from_secs(8)).await;
        assert!(started.elapsed() < Duration::from_secs(7), "{faults:?}: {:?}", started.elapsed());
        assert_eq!(scene.forge.requests().len(), requests, "{faults:?}");
        assert_eq!(outbox.counts().held, 8, "{faults:?}");
    }))
    .await;
}

#[tokio::test]
async fn what_waits_for_a_provider_that_is_removed_is_kept_for_one_of_its_name() {
    let scene = Scene::of("github").await;
    scene.forge.token("a-better-token", Access::Write);
    scene.post(&kustomization_event("web", &sha(1))).await;
    scene.quiet().await;
    let git: Manifest = git("github", &scene.forge);
    scene.folder.remove(&git);
    let key = Key::new(NAMESPACE, "git");
    wait::until(CHANGED, "the Provider to be gone", || async {
        scene.herald.app.stores.provider(&key).is_none().then_some(())
    })
    .await;
    parked(&scene).await;
    assert_eq!((scene.ended(Outcome::Refused), scene.forge.requests().len()), (0, 2));
    scene.folder.write(&git);
    scene.folder.write(&secret("token", "token", "a-better-token"));
    scene.end(3, 1).await;
}

#[tokio::test]
async fn what_waits_for_a_suspended_provider_is_told_when_it_is_resumed() {
    let scene = Scene::of("github").await;
    let git = git("github", &scene.forge);
    scene.forge.fail(Fault::answer(401));
    scene.post(&kustomization_event("web", &sha(1))).await;
    parked(&scene).await;
    scene.change("git", |folder| drop(folder.write(&git.clone().spec("suspend", true)))).await;
    parked(&scene).await;
    assert_eq!(scene.forge.requests().len(), 1, "nothing is sent through a suspended Provider");

    scene.change("git", |folder| drop(folder.write(&git))).await;
    told_within(&scene, &sha(1), CHANGED).await;
    scene.end(2, 1).await;
}

/// Where the log goes when that panics: the first `left` times that a line has these words.
#[derive(Clone)]
struct Trap {
    words: &'static str,
    left: Arc<AtomicUsize>,
}

impl io::Write for Trap {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // After a panic the formatter has the line before still in its buffer.
        let trips = String::from_utf8_lossy(line).lines().last().is_some_and(|line| line.contains(self.words));
        let left =
            self.left.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1).filter(|_| trips));
        assert!(left.is_err(), "the trap");
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The same where the end of a try is told of.
#[tokio::test]
async fn a_panic_at_the_end_of_a_delivery_is_counted_and_takes_nothing_along() {
    LazyLock::force(&SECOND);
    let trap = Trap { words: "notification delivered", left: Arc::new(1.into()) };
    let log = trap.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || log.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let scene = Scene::of("github").await;
    scene.tell((1..=3).map(|number| kustomization_event("web", &sha(number)))).await;
    assert_eq!((trap.left.load(Ordering::SeqCst), scene.ended(Outcome::Delivered)), (0, 3));
    let metrics = scene.herald.metrics().await;
    assert!(metrics.contains("herald_delivery_panics_total{type=\"github\"} 1\n"), "{metrics}");
    scene.end(3, 3).await;
}

/// Whatever panics in a try, as a line does here that the try logs, hurts no other.
#[tokio::test]
async fn a_panic_in_one_delivery_is_counted_and_hurts_that_alone() {
    LazyLock::force(&SECOND);
    for (before, panics, delivered) in [(0, 1, 2), (2, 1, 2), (0, 3, 1)] {
        let trap = Trap { words: "the vendor asks to wait", left: Arc::new(panics.into()) };
        let (log, left) = (trap.clone(), trap.left.clone());
        let subscriber = tracing_subscriber::fmt().with_writer(move || log.clone()).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        let (forge, other) = (forge().await, forge().await);
        let manifests = [
            provider("github", "one", &format!("{}/acme/one", forge.url())).secret("token"),
            provider("generic", "two", &format!("{}/hook", other.url())),
            token(),
            alert("one", "one"),
            alert("two", "two"),
        ];
        // What went wrong otherwise does not count.
        forge.fail(Fault::answer(502).times(before));
        forge.fail(Fault::answer(429).header("retry-after", "1").times(before + panics));
        let scene = Scene::with(forge, manifests, &[]).await;
        scene.post(&kustomization_event("web", &sha(1))).await;
        scene.herald.idle().await;
        assert_eq!(left.load(Ordering::SeqCst), 0, "it was stepped on");
        assert_eq!(scene.ended(Outcome::Delivered), delivered);
        assert_eq!(scene.ended(Outcome::Failed), 2 - delivered, "three times and no more");
        assert_eq!(other.writes(), 1);
        let metrics = scene.herald.metrics().await;
        assert!(metrics.contains(&format!("herald_delivery_panics_total{{type=\"github\"}} {panics}\n")), "{metrics}");
        // All that was lent is back: the next is told as if nothing had been.
        scene.tell([kustomization_event("web", &sha(2))]).await;
        assert_eq!(scene.ended(Outcome::Delivered), delivered + 2);
        scene.herald.stop().await;
    }
}
