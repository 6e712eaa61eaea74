//! What every row of the vendor table promises, asked of each row alike. A new vendor is tested
//! here as soon as it has a row, and the simulated host speaks its API.

use std::time::Duration;

use futures::future::join_all;
use herald::matching::gate::Carries;
use herald::ops::metrics::Outcome;
use herald::vendors::{Row, TABLE};

use crate::logs::Logs;
use crate::scene::{Scene, TOKEN, forge, git, hook, token};
use crate::support::flux::{FluxEvent, alert, kustomization_event, sha};
use crate::support::forge::{Fault, Forge, Received};
use crate::support::wait;

/// A Provider of the row, with a credential in every place a credential can have.
async fn scene(row: &Row) -> Scene {
    let forge = forge().await;
    let provider = match row.carries {
        Carries::CommitStatus => git(row.name, &forge),
        Carries::Event => hook(&forge).secret("token"),
    };
    let name = provider["metadata"]["name"].as_str().expect("it has a name").to_owned();
    let headers = format!("X-Credential: {TOKEN}");
    Scene::with(forge, [provider, token().key("headers", &headers), alert("all", &name)], &[]).await
}

fn event(number: u64) -> FluxEvent {
    kustomization_event("web", &sha(number))
}

/// The requests that told something, and how many of them the host took.
fn told(row: &Row, forge: &Forge, commit: &str) -> (Vec<Received>, usize) {
    let writes: Vec<_> = forge.requests().into_iter().filter(|request| request.method == "POST").collect();
    let taken = match row.carries {
        Carries::CommitStatus => forge.statuses(commit).len(),
        // The hook takes whatever is not broken on the way.
        Carries::Event => writes.len(),
    };
    (writes, taken)
}

/// The end of a scene in which so many writes were to be.
async fn end(row: &Row, scene: Scene, reads: usize, writes: usize) {
    scene.end(if row.carries == Carries::Event { 0 } else { reads }, writes).await;
}

/// Waits until one job is parked: it comes back after ten minutes, or when someone mended something.
async fn parked(scene: &Scene) {
    scene.quiet().await;
    assert_eq!(scene.herald.app.outbox.counts().held, 1);
}

#[tokio::test]
async fn success_and_failure_are_told_in_the_vendors_words() {
    for row in &TABLE {
        let scene = scene(row).await;
        for (number, event, state) in [(1, event(1), "success"), (2, event(2).failed("BuildFailed"), "failure")] {
            scene.tell([event]).await;
            let (writes, _) = told(row, &scene.forge, &sha(number));
            let last = writes.last().expect("something was told");
            let body: serde_json::Value = serde_json::from_slice(&last.body).expect("JSON");
            assert_eq!(last.header("content-type"), "application/json", "{}", row.name);
            assert!(last.header("user-agent").starts_with("herald/"), "{}", row.name);
            match row.carries {
                Carries::CommitStatus => {
                    let status = scene.forge.statuses(&sha(number)).remove(0);
                    assert_eq!(
                        (status.state.as_str(), status.repository.as_str()),
                        (state, "acme/fleet"),
                        "{}",
                        row.name
                    );
                    assert_eq!(Some(status.context.as_str()), body["context"].as_str());
                    assert!(last.header("authorization").ends_with(TOKEN), "{}", row.name);
                }
                Carries::Event => {
                    let severity = if state == "success" { "info" } else { "error" };
                    assert_eq!(body["severity"], severity, "{}", row.name);
                    assert_eq!(last.header("x-credential"), TOKEN, "{}", row.name);
                }
            }
        }
        assert_eq!(scene.ended(Outcome::Delivered), 2);
        end(row, scene, 2, 2).await;
    }
}

#[tokio::test]
async fn what_passes_is_tried_again() {
    for row in &TABLE {
        let harms = [Fault::answer(500), Fault::answer(502), Fault::answer(503), Fault::answer(429), Fault::reset()];
        join_all(harms.map(|harm| async move {
            let scene = scene(row).await;
            scene.forge.fail(harm.clone().writes());
            scene.tell([event(1)]).await;
            assert_eq!(scene.ended(Outcome::Delivered), 1, "{}, {harm:?}", row.name);
            end(row, scene, 2, 2).await;
        }))
        .await;
    }
}

#[tokio::test]
async fn a_named_wait_is_kept() {
    for row in &TABLE {
        let scene = scene(row).await;
        scene.forge.fail(Fault::answer(429).header("retry-after", "1").writes());
        scene.tell([event(1)]).await;
        let (writes, _) = told(row, &scene.forge, &sha(1));
        let waited = writes[1].at.duration_since(writes[0].at);
        assert!(waited >= Duration::from_secs(1), "{}: came back after {waited:?}", row.name);
        end(row, scene, 2, 2).await;
    }
}

#[tokio::test]
async fn what_people_mend_is_parked_with_a_reason_until_they_did() {
    for row in &TABLE {
        let logs = Logs::collect();
        for status in [401, 403, 404, 407] {
            let scene = scene(row).await;
            scene.forge.fail(Fault::answer(status).writes());
            scene.post(&event(1)).await;
            parked(&scene).await;
            assert_eq!(logs.count(&[&format!("answered {status}"), "will try again"]), 1, "{}, {status}", row.name);

            let (name, touched) = match row.carries {
                Carries::CommitStatus => ("git", git(row.name, &scene.forge)),
                Carries::Event => ("hook", hook(&scene.forge).secret("token")),
            };
            scene.change(name, |folder| drop(folder.write(&touched.spec("timeout", "14s")))).await;
            end(row, scene, 2, 2).await;
        }
    }
}

#[tokio::test]
async fn what_can_never_work_is_dropped_with_a_reason() {
    for row in &TABLE {
        let logs = Logs::collect();
        for status in [400, 405, 410, 413, 422, 501] {
            let scene = scene(row).await;
            scene.forge.fail(Fault::answer(status).writes());
            scene.tell([event(1)]).await;
            assert_eq!(scene.ended(Outcome::Failed), 1, "{}, {status}", row.name);
            assert_eq!(logs.count(&["ERROR", &format!("answered {status}"), "given up"]), 1, "{}, {status}", row.name);
            end(row, scene, 1, 1).await;
        }
    }
}

#[tokio::test]
async fn no_redirect_carries_a_credential_to_another_host() {
    for row in &TABLE {
        let (trap, scene) = (forge().await, scene(row).await);
        scene.forge.fail(Fault::answer(307).header("location", &format!("{}/hook", trap.url())).writes());
        scene.post(&event(1)).await;
        parked(&scene).await;
        assert!(trap.requests().is_empty(), "{}", row.name);
        assert_eq!(scene.forge.writes(), 1);
        scene.herald.stop().await;
    }
}

#[tokio::test]
async fn a_credential_shows_in_no_log_line_and_no_metric() {
    for row in &TABLE {
        let logs = Logs::collect();
        let scene = scene(row).await;
        let echo = format!("your Authorization was Bearer {TOKEN}, your X-Credential {TOKEN}");
        for (number, harm) in [
            Fault::answer(400).body(&echo),
            Fault::answer(500).body(&echo),
            Fault::answer(401).body(&echo),
            Fault::half_body(),
            Fault::reset(),
            Fault::answer(302).header("location", &format!("http://{TOKEN}@127.0.0.1:1/{TOKEN}")),
        ]
        .into_iter()
        .enumerate()
        {
            scene.forge.fail(harm);
            scene.post(&event(number as u64)).await;
            scene.quiet().await;
        }
        let text = logs.text();
        let leak = text.lines().find(|line| line.contains(TOKEN) || line.contains("credential"));
        assert_eq!(leak.map(|line| line.to_lowercase()).filter(|line| line.contains(TOKEN)), None, "{}", row.name);
        assert!(logs.count(&["answered 400", "*****"]) > 0, "{}: what the vendor said is told, masked", row.name);
        assert!(!scene.herald.app.metrics.encode().contains(TOKEN), "{}", row.name);
        scene.herald.stop().await;
    }
}

#[tokio::test]
async fn an_end_in_the_middle_of_a_write_leaves_no_second_status() {
    for row in TABLE.iter().filter(|row| row.carries == Carries::CommitStatus) {
        let scene = scene(row).await;
        scene.forge.fail(Fault::hang().writes().afterwards());
        scene.post(&event(1)).await;
        let taken = wait::until(crate::support::app::DEADLINE, "the write to arrive", || async {
            let (_, taken) = told(row, &scene.forge, &sha(1));
            (taken == 1).then_some(taken)
        });
        assert_eq!(taken.await, 1);
        scene.herald.app.shutdown(Duration::ZERO).await;

        let again = crate::support::app::Herald::manifests(scene.folder.path(), &[]).await;
        assert_eq!(again.post(&event(1)).await, 202);
        again.idle().await;
        assert_eq!(told(row, &scene.forge, &sha(1)).1, 1, "{}", row.name);
        assert_eq!((scene.forge.reads(), scene.forge.writes()), (2, 1), "{}", row.name);
        again.stop().await;
    }
}
