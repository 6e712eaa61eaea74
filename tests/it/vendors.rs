//! What every row of the vendor table promises, asked of each row alike. A new vendor is tested
//! here as soon as it has a row, and the simulated host speaks its API.

use std::time::Duration;

use base64::Engine;
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

/// What is each vendor's own in what it is told.
struct Manner {
    success: &'static str,
    failure: &'static str,
    /// The repository, as the host calls it.
    repository: &'static str,
    /// Where in the body the status' name is, as the host tells statuses apart.
    context: &'static str,
    /// The header with the credential, and what it says.
    credential: (&'static str, String),
}

fn manner(row: &Row) -> Manner {
    let plain = Manner {
        success: "success",
        failure: "failure",
        repository: "acme/fleet",
        context: "/context",
        credential: ("authorization", format!("Bearer {TOKEN}")),
    };
    match row.name {
        "github" => plain,
        "gitea" => Manner { credential: ("authorization", format!("token {TOKEN}")), ..plain },
        "gitlab" => {
            Manner { failure: "failed", context: "/name", credential: ("private-token", TOKEN.to_owned()), ..plain }
        }
        "bitbucket" | "bitbucketserver" => {
            Manner { success: "SUCCESSFUL", failure: "FAILED", context: "/key", ..plain }
        }
        "azuredevops" => Manner {
            success: "succeeded",
            failure: "error",
            repository: "org/project/fleet",
            context: "/context/name",
            credential: ("authorization", format!("Basic {}", base64(&format!(":{TOKEN}")))),
        },
        "generic" => {
            Manner { success: "info", failure: "error", credential: ("x-credential", TOKEN.to_owned()), ..plain }
        }
        other => panic!("how {other} is told is not written down here"),
    }
}

pub fn base64(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
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
        let manner = manner(row);
        for (number, event, state) in
            [(1, event(1), manner.success), (2, event(2).failed("BuildFailed"), manner.failure)]
        {
            scene.tell([event]).await;
            let (writes, _) = told(row, &scene.forge, &sha(number));
            let last = writes.last().expect("something was told");
            let body: serde_json::Value = serde_json::from_slice(&last.body).expect("JSON");
            assert!(last.header("content-type").starts_with("application/json"), "{}", row.name);
            assert!(last.header("user-agent").starts_with("herald/"), "{}", row.name);
            let (header, credential) = &manner.credential;
            assert_eq!(last.header(header), credential, "{}", row.name);
            match row.carries {
                Carries::CommitStatus => {
                    let status = scene.forge.statuses(&sha(number)).remove(0);
                    let said = (status.state.as_str(), status.repository.as_str());
                    assert_eq!(said, (state, manner.repository), "{}", row.name);
                    let context = body.pointer(manner.context).and_then(serde_json::Value::as_str);
                    assert_eq!(Some(status.context.as_str()), context, "{}", row.name);
                }
                Carries::Event => assert_eq!(body["severity"], state, "{}", row.name),
            }
        }
        assert_eq!(scene.ended(Outcome::Delivered), 2);
        end(row, scene, 2, 2).await;
    }
}

#[tokio::test]
async fn what_passes_is_tried_again() {
    for row in &TABLE {
        let harms = [Fault::answer(500), Fault::answer(502), Fault::answer(503), Fault::answer(408), Fault::reset()];
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

/// Vendors refuse in JSON.
const REFUSAL: &str = r#"{"message": "no"}"#;

#[tokio::test]
async fn what_people_mend_is_parked_with_a_reason_until_they_did() {
    for row in &TABLE {
        let logs = Logs::collect();
        for status in [401, 403, 404, 407, 410] {
            let scene = scene(row).await;
            // A credential and a proxy are left alone when they refused twice.
            let times = if matches!(status, 401 | 407) { 2 } else { 1 };
            scene.forge.fail(Fault::answer(status).body(REFUSAL).writes().times(times));
            scene.post(&event(1)).await;
            parked(&scene).await;
            assert_eq!(logs.count(&[&format!("answered {status}"), "will try again"]), 1, "{}, {status}", row.name);

            let (name, touched) = match row.carries {
                Carries::CommitStatus => ("git", git(row.name, &scene.forge)),
                Carries::Event => ("hook", hook(&scene.forge).secret("token")),
            };
            scene.change(name, |folder| drop(folder.write(&touched.spec("timeout", "14s")))).await;
            end(row, scene, 1 + times, 1 + times).await;
        }
    }
}

#[tokio::test]
async fn what_can_never_work_is_dropped_with_a_reason() {
    for row in &TABLE {
        let logs = Logs::collect();
        for status in [400, 405, 413, 422, 501] {
            let scene = scene(row).await;
            scene.forge.fail(Fault::answer(status).body(REFUSAL).writes());
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
        let (_, credential) = manner(row).credential;
        let secret = credential.rsplit(' ').next().expect("it says something").to_owned();
        let echo = format!("your credential was {credential}, your X-Credential {TOKEN}");
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
        for secret in [TOKEN, &secret] {
            let leak = logs.text().lines().find(|line| line.contains(secret)).map(str::to_owned);
            assert_eq!(leak, None, "{}", row.name);
            assert!(!scene.herald.app.metrics.encode().contains(secret), "{}", row.name);
        }
        assert!(logs.count(&["answered 400", "*****"]) > 0, "{}: what the vendor said is told, masked", row.name);
        scene.herald.stop().await;
    }
}

/// What stands before a vendor asks people to sign in, with 200 (rule R6).
#[tokio::test]
async fn a_page_is_no_delivery() {
    let page = || Fault::answer(200).header("content-type", "text/html").body("<!DOCTYPE html><title>Sign in</title>");
    for row in &TABLE {
        // A hook may answer as it likes, but not send us to a page.
        let at_once = (row.carries == Carries::CommitStatus).then(|| vec![page().writes().every(1)]);
        let login = Fault::answer(302).header("location", "/login").writes().every(1);
        let sent_on = vec![page().path("/login").every(1), login];
        for faults in at_once.into_iter().chain([sent_on]) {
            let scene = scene(row).await;
            faults.into_iter().for_each(|fault| scene.forge.fail(fault));
            scene.post(&event(1)).await;
            scene.requests(4).await;
            assert_eq!(scene.ended(Outcome::Delivered), 0, "{}", row.name);
            assert_eq!(scene.forge.statuses(&sha(1)).len(), 0, "{}", row.name);
            scene.forge.recover();
            scene.herald.idle().await;
            assert_eq!(scene.ended(Outcome::Delivered), 1, "{}", row.name);
            scene.herald.stop().await;
        }
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

        let again = crate::scene::herald(&scene.forge, &scene.folder, &[]).await;
        assert_eq!(again.post(&event(1)).await, 202);
        again.idle().await;
        assert_eq!(told(row, &scene.forge, &sha(1)).1, 1, "{}", row.name);
        assert_eq!((scene.forge.reads(), scene.forge.writes()), (2, 1), "{}", row.name);
        again.stop().await;
    }
}
