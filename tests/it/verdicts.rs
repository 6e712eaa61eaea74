//! What becomes of a refusal, by its evidence: of a credential, a commit, a repository, the path, or for good. The
//! answers are those that vendors were seen to give; `docs/vendors.md` has the table.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use herald::ops::metrics::Outcome;
use serde_json::json;

use crate::logs::Logs;
use crate::scene::{Scene, forge, git, token};
use crate::support::clock::Ahead;
use crate::support::flux::{alert, kustomization_event, provider, sha};
use crate::support::forge::{Fault, Received};

fn writes(scene: &Scene) -> Vec<Received> {
    scene.forge.requests().into_iter().filter(|request| request.method == "POST").collect()
}

/// bors-ng/bors-ng#912, octokit/octokit.net#2786: GitHub answers 401 to good tokens now and then.
#[tokio::test]
async fn one_refusal_of_a_good_token_costs_two_seconds_and_no_condition() {
    let (scene, logs) = (Scene::of("github").await, Logs::collect());
    scene.forge.fail(Fault::answer(401).body(r#"{"message": "Bad credentials"}"#).writes());
    scene.tell([kustomization_event("web", &sha(1)).failed("BuildFailed")]).await;
    let writes = writes(&scene);
    let pause = writes[1].at.duration_since(writes[0].at);
    assert!((Duration::from_secs(2)..Duration::from_secs(5)).contains(&pause), "{pause:?}");
    assert_eq!(logs.count(&["Healthy", "Unauthorized"]), 0);
    scene.end(2, 2).await;
}

/// Providers with one credential are one to the vendor, which may lock its account.
#[tokio::test]
async fn a_refused_credential_is_sent_seldom_however_many_providers_have_it() {
    let forge = forge().await;
    forge.fail(Fault::answer(401).every(1));
    let names: Vec<_> = (0..10).map(|number| format!("git-{number}")).collect();
    let of = |name: &String| {
        let address = format!("{}/acme/{name}", forge.url());
        let sources = json!([{"kind": "Kustomization", "name": name}]);
        [provider("github", name, &address).secret("token"), alert(name, name).sources(sources)]
    };
    let manifests: Vec<_> = names.iter().flat_map(of).chain([token()]).collect();
    let scene = Scene::with(forge, manifests, &[]).await;
    scene.post(&kustomization_event(&names[0], &sha(0))).await;
    scene.quiet().await;
    for (number, name) in names.iter().enumerate() {
        scene.post(&kustomization_event(name, &sha(number as u64))).await;
    }
    scene.quiet().await;
    scene.herald.stop().await;
    assert_eq!(scene.forge.requests().len(), 2);
}

/// jenkinsci/bitbucket-branch-source-plugin#1016, buildbot/buildbot#5818: after a push the API does not know the
/// commit for some seconds.
#[tokio::test]
async fn a_commit_that_is_not_there_yet_is_told_of_within_seconds() {
    let commit = sha(1);
    for (kind, status, body) in [
        ("gitlab", 404, r#"{"message": "404 Commit Not Found"}"#.to_owned()),
        ("bitbucket", 404, r#"{"type": "error", "error": {"message": "Commit not found"}}"#.to_owned()),
        ("github", 422, format!(r#"{{"message": "No commit found for SHA: {commit}", "status": "422"}}"#)),
    ] {
        let (scene, logs) = (Scene::of(kind).await, Logs::collect());
        scene.forge.fail(Fault::answer(status).body(&body).path(&commit).times(3));
        scene.tell([kustomization_event("web", &commit).failed("HealthCheckFailed")]).await;
        assert_eq!(scene.ended(Outcome::Delivered), 1, "{kind}");
        assert_eq!(logs.count(&["Healthy", "NotFound"]) + logs.count(&["Healthy", "Rejected"]), 0, "{kind}: it passes");
        scene.herald.stop().await;
    }
}

/// rust-lang/homu#141, fluxcd/notification-controller#27: objects of another source have commits that the
/// repository lacks.
#[tokio::test]
async fn a_commit_of_another_repository_costs_few_requests_for_all_its_objects() {
    let forge = forge().await;
    let clock = Arc::new(Ahead::default());
    let manifests = [git("github", &forge), token(), alert("all", "git")];
    let scene = Scene::by(clock.clone(), forge, manifests).await;
    let body = format!(r#"{{"message": "No commit found for SHA: {}", "status": "422"}}"#, sha(1));
    scene.forge.fail(Fault::answer(422).body(&body).path(&sha(1)).every(1));
    for number in 0..100 {
        scene.post(&kustomization_event(&format!("app-{}", number % 10), &sha(1))).await;
    }
    scene.tell_beside(&sha(2)).await;
    // As many later reconciliations, when the commit is no longer new.
    clock.turn(2);
    for number in 0..100 {
        scene.post(&kustomization_event(&format!("app-{}", number % 10), &sha(1))).await;
    }
    scene.quiet().await;
    let asked = scene.forge.requests().iter().filter(|request| request.uri.contains(&sha(1))).count();
    assert!((1..=8).contains(&asked), "{asked} requests");
    scene.herald.stop().await;
}

/// jenkinsci/gitlab-plugin#1045: the token of a Developer may write statuses, but not on a protected branch.
#[tokio::test]
async fn a_commit_that_may_not_be_written_holds_no_other() {
    let scene = Scene::of("gitlab").await;
    let forbidden = || Fault::answer(403).body(r#"{"message": "403 Forbidden"}"#).writes().every(1);
    (1..=2).for_each(|number| scene.forge.fail(forbidden().path(&sha(number))));
    for number in 1..=2 {
        scene.post(&kustomization_event("production", &sha(number))).await;
    }
    scene.quiet().await;
    scene.tell_beside(&sha(3)).await;
    assert_eq!(writes(&scene).len(), 3);
    scene.herald.stop().await;
}

#[tokio::test]
async fn a_token_that_may_write_nothing_is_found_out_by_a_few_commits() {
    let scene = Scene::of("gitlab").await;
    scene.forge.fail(Fault::answer(403).body(r#"{"message": "403 Forbidden"}"#).writes().every(1));
    for number in 1..=20 {
        scene.post(&kustomization_event("web", &sha(number))).await;
        scene.quiet().await;
    }
    assert_eq!(writes(&scene).len(), 3);
    scene.herald.stop().await;
}

/// VirtusLab/git-machete#1212: reads of a moved project are redirected, writes refused.
#[tokio::test]
async fn what_is_to_be_told_of_a_moved_project_waits_for_its_new_address() {
    let (scene, logs) = (Scene::of("gitlab").await, Logs::collect());
    let body = r#"{"message": "Non GET methods are not allowed for moved projects"}"#;
    scene.forge.fail(Fault::answer(405).body(body).writes().every(1));
    scene.post(&kustomization_event("web", &sha(1)).failed("HealthCheckFailed")).await;
    logs.until(&["Healthy", "Moved", "write its new address into spec.address"]).await;
    assert_eq!((scene.ended(Outcome::Failed), writes(&scene).len()), (0, 1));
    scene.forge.recover();
    let address = format!("{}/acme/moved", scene.forge.url());
    scene.change("git", |folder| drop(folder.write(&provider("gitlab", "git", &address).secret("token")))).await;
    scene.herald.idle().await;
    assert_eq!(scene.forge.statuses(&sha(1)).len(), 1);
    scene.herald.stop().await;
}

/// What a gateway says while the vendor is away is no answer of the vendor's.
#[tokio::test]
async fn a_page_or_a_gateway_in_place_of_the_api_gives_nothing_up() {
    let page = "<html><head><title>Back soon</title></head></html>";
    let away = [
        (400, "text/html", page),
        (403, "text/html", page),
        (404, "text/plain", "default backend - 404"),
        (405, "text/html", page),
        (413, "text/html", page),
        (421, "text/plain", "Misdirected Request"),
        (421, "application/json", "{}"),
    ];
    join_all(away.map(|(status, kind, body)| async move {
        let scene = Scene::of("gitea").await;
        scene.tell([kustomization_event("web", &sha(1))]).await;
        let away = |status| Fault::answer(status).header("content-type", kind).body(body).every(1);
        scene.forge.fail(away(status).writes());
        scene.forge.fail(away(if status == 405 { 200 } else { status }).reads());
        let before = scene.forge.requests().len();
        scene.post(&kustomization_event("web", &sha(1)).failed("HealthCheckFailed")).await;
        scene.requests(before + 3).await;
        scene.forge.recover();
        scene.herald.idle().await;
        assert_eq!((scene.ended(Outcome::Failed), scene.ended(Outcome::Delivered)), (0, 2), "{status} {kind}");
        assert_eq!(scene.forge.statuses(&sha(1)).last().expect("it was told").state, "failure");
        scene.herald.stop().await;
    }))
    .await;
}

/// palantir/policy-bot#470: GitHub takes 1,000 statuses of one name for a commit.
#[tokio::test]
async fn a_status_that_can_never_be_written_costs_nothing_again_until_the_provider_changes() {
    let scene = Scene::of("github").await;
    let message = "This SHA and context has reached the maximum number of statuses.";
    let body = json!({"message": "Validation Failed", "errors": [{"message": message}]}).to_string();
    scene.forge.fail(Fault::answer(422).body(&body).writes().path(&sha(1)).times(1));
    scene.tell([kustomization_event("web", &sha(1))]).await;
    for _ in 0..5 {
        let failed = kustomization_event("web", &sha(1)).failed("HealthCheckFailed");
        scene.tell([failed, kustomization_event("web", &sha(1))]).await;
    }
    assert_eq!((scene.forge.requests().len(), scene.ended(Outcome::Delivered)), (2, 0));
    scene.change("git", |folder| drop(folder.write(&git("github", &scene.forge).spec("timeout", "14s")))).await;
    scene.tell([kustomization_event("web", &sha(1))]).await;
    assert_eq!(scene.ended(Outcome::Delivered), 1);
    scene.herald.stop().await;
}

/// What is refused in words that are not known may be a fault of the moment, once.
#[tokio::test]
async fn a_status_that_is_refused_twice_costs_nothing_for_an_hour() {
    let (forge, clock) = (forge().await, Arc::new(Ahead::default()));
    let manifests = [git("github", &forge), token(), alert("all", "git")];
    let scene = Scene::by(clock.clone(), forge, manifests).await;
    let body = r#"{"message": "Validation Failed", "errors": [{"code": "custom"}]}"#;
    scene.forge.fail(Fault::answer(422).body(body).writes().every(1));
    for _ in 0..5 {
        scene.tell([kustomization_event("web", &sha(1))]).await;
    }
    assert_eq!(writes(&scene).len(), 2);
    scene.tell([kustomization_event("web", &sha(1)).failed("HealthCheckFailed")]).await;
    assert_eq!(writes(&scene).len(), 3, "another outcome is another status");
    scene.forge.recover();
    clock.turn(61);
    scene.tell([kustomization_event("web", &sha(1))]).await;
    assert_eq!(scene.ended(Outcome::Delivered), 1);
    scene.herald.stop().await;
}

impl Scene {
    /// Tells of another commit, and waits until that stands.
    async fn tell_beside(&self, commit: &str) {
        self.post(&kustomization_event("beside", commit)).await;
        let told = self.forge.until(crate::support::app::DEADLINE, |forge| !forge.statuses(commit).is_empty()).await;
        assert!(told, "{commit} has no status");
    }
}
