//! A directory of YAML in place of a cluster: what is read, what is left out, and how soon a
//! change is in use.

use std::sync::Arc;
use std::time::{Duration, Instant};

use herald::api::Key;
use herald::ops::metrics::Outcome;
use herald::view::View;
use serde_json::json;

use crate::logs::Logs;
use crate::scene::{CHANGED, Scene, TOKEN, forge, git, hook, token};
use crate::support::clock::Ahead;
use crate::support::flux::{Manifest, NAMESPACE, alert, kustomization_event, provider, secret, sha};
use crate::support::forge::{Fault, Forge};
use crate::support::wait;

/// Waits until Herald knows the Alert of that name, or does not.
async fn alert_known(scene: &Scene, name: &str, known: bool) {
    let key = Key::new(NAMESPACE, name);
    wait::until(CHANGED, "the changed Alert", || async {
        (scene.herald.app.stores.index.get(&key).is_some() == known).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_changed_secret_provider_or_alert_is_in_use_within_two_seconds() {
    let scene = Scene::of("github").await;
    let last_token = |forge: &Forge| forge.requests().last().expect("a request").header("authorization").to_owned();
    scene.tell([kustomization_event("web", &sha(1))]).await;
    assert_eq!(last_token(&scene.forge), format!("Bearer {TOKEN}"));

    scene.change("git", |folder| drop(folder.write(&secret("token", "token", "the-new-one")))).await;
    scene.tell([kustomization_event("web", &sha(2))]).await;
    assert_eq!(last_token(&scene.forge), "Bearer the-new-one");

    let elsewhere = provider("github", "git", &format!("{}/acme/elsewhere", scene.forge.url())).secret("token");
    scene.change("git", |folder| drop(folder.write(&elsewhere))).await;
    scene.tell([kustomization_event("web", &sha(3))]).await;
    assert_eq!(scene.forge.statuses(&sha(3))[0].repository, "acme/elsewhere");

    let picky = alert("all", "git").spec("eventSeverity", "error");
    scene.folder.write(&picky);
    scene.folder.write(&alert("mark", "git"));
    alert_known(&scene, "mark", true).await;
    scene.folder.remove(&alert("mark", "git"));
    alert_known(&scene, "mark", false).await;
    scene.tell([kustomization_event("web", &sha(4)), kustomization_event("api", &sha(4)).failed("BuildFailed")]).await;
    assert_eq!(scene.forge.statuses(&sha(4)).len(), 1);
    scene.end(4, 4).await;
}

#[tokio::test]
async fn labels_that_nobody_can_read_select_nothing_and_that_is_said() {
    let logs = Logs::collect();
    let forge = forge().await;
    let by_label = |labels| json!([{"kind": "Kustomization", "name": "*", "matchLabels": labels}]);
    let manifests = [
        hook(&forge),
        alert("team", "hook").sources(by_label(json!({"team": "a"}))),
        alert("empty", "hook").sources(by_label(json!({}))),
    ];
    let scene = Scene::with(forge, manifests, &[]).await;
    for name in ["team", "empty"] {
        logs.until(&["ERROR", "LabelsUnsupported", &format!("name={name} ")]).await;
    }
    scene.folder.write(&alert("mark", "hook").sources(json!([{"kind": "Bucket", "name": "b"}])));
    alert_known(&scene, "mark", true).await;
    assert_eq!(logs.count(&["WARN", "without a cluster there are no labels"]), 1);
    scene.tell([kustomization_event("web", &sha(1))]).await;
    scene.end(0, 0).await;
}

#[tokio::test]
async fn a_file_that_breaks_is_reported_once_and_its_last_good_content_stays() {
    let logs = Logs::collect();
    let scene = Scene::of("generic").await;
    scene.folder.write_text("alert-flux-system-all.yaml", "kind: Alert\n  : [broken");
    logs.until(&["ERROR", "alert-flux-system-all.yaml", "what it last held stays in use"]).await;
    scene.tell([kustomization_event("web", &sha(1))]).await;

    // Another change does not tell it again; mending it does what it says.
    scene.folder.write(&alert("other", "hook").sources(json!([{"kind": "Bucket", "name": "b"}])));
    alert_known(&scene, "other", true).await;
    assert_eq!(logs.count(&["what it last held stays in use"]), 1);
    scene.folder.write(&alert("all", "hook").spec("suspend", true));
    wait::until(CHANGED, "the mended file", || async {
        let index = &scene.herald.app.stores.index;
        index.get(&Key::new(NAMESPACE, "all")).is_some_and(|alert| alert.suspended).then_some(())
    })
    .await;
    scene.tell([kustomization_event("web", &sha(2))]).await;
    scene.end(0, 1).await;
}

#[tokio::test]
async fn other_kinds_other_files_and_bad_objects_are_no_trouble_for_their_neighbours() {
    let logs = Logs::collect();
    let forge = forge().await;
    let scene = Scene::with(forge, [], &[]).await;
    let many = format!(
        r#"# A file as people write them.
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: skipped}}
---
---
apiVersion: notification.toolkit.fluxcd.io/v1
kind: Receiver
metadata: {{name: skipped, namespace: flux-system}}
---
apiVersion: notification.toolkit.fluxcd.io/v1beta1
kind: Provider
metadata:
  name: git
  namespace: flux-system
spec:
  type: gitea
  address: {url}/acme/fleet
  secretRef:
    name: token
---
apiVersion: v1
kind: Secret
metadata:
  name: token
  namespace: flux-system
data:
  token: {TOKEN_IN_BASE64}
---
apiVersion: notification.toolkit.fluxcd.io/v1beta2
kind: Alert
metadata:
  name: bad
  namespace: flux-system
spec:
  providerRef: {{name: git}}
  eventSources: none
---
apiVersion: notification.toolkit.fluxcd.io/v1beta3
kind: Alert
metadata:
  name: good
  namespace: flux-system
spec:
  providerRef:
    name: git
  eventSources:
    - kind: Kustomization
      name: '*'
"#,
        url = scene.forge.url(),
    );
    scene.folder.write_text("notes.txt", "kind: Alert");
    scene.folder.write_text("all.yml", &many);
    alert_known(&scene, "good", true).await;
    logs.until(&["skipped", "ConfigMap"]).await;
    logs.until(&["skipped", "Receiver"]).await;
    logs.until(&["ERROR", "name=bad", "left out until it is mended"]).await;
    scene.tell([kustomization_event("web", &sha(1))]).await;
    assert_eq!(scene.forge.requests()[0].header("authorization"), format!("token {TOKEN}"));
    scene.end(1, 1).await;
}

/// [`TOKEN`] as a Secret's `data` holds it.
const TOKEN_IN_BASE64: &str = "dDBrLXBsYW50ZWQtY3JlZGVudGlhbA==";

#[tokio::test]
async fn what_waits_for_a_secret_is_told_when_the_secret_comes() {
    let logs = Logs::collect();
    let forge = forge().await;
    let manifests = [git("github", &forge), alert("all", "git")];
    let scene = Scene::with(forge, manifests, &[]).await;
    scene.post(&kustomization_event("web", &sha(1))).await;
    logs.until(&["ERROR", "SecretNotFound", "Secret flux-system/token, which does not exist"]).await;
    assert!(scene.forge.requests().is_empty());

    let written = Instant::now();
    scene.folder.write(&token());
    assert!(scene.forge.until(CHANGED, |forge| !forge.statuses(&sha(1)).is_empty()).await);
    assert!(written.elapsed() < CHANGED);
    logs.until(&["condition=Healthy", "status=True", "name=git"]).await;
    scene.end(1, 1).await;
}

/// A slip of somebody who edits a Provider is no reason to forget what it was to say.
#[tokio::test]
async fn what_waits_outlives_a_provider_that_cannot_be_read() {
    let logs = Logs::collect();
    let forge = forge().await;
    let (good, leaving) = (git("github", &forge), hook(&forge).spec("secretRef", json!({"name": "token"})));
    let bad = |provider: &Manifest| provider.clone().spec("secretRef", json!("token"));
    let manifests = [good.clone(), leaving.clone(), alert("all", "git"), alert("more", "hook")];
    let scene = Scene::with(forge, manifests, &[]).await;
    scene.post(&kustomization_event("web", &sha(1))).await;
    for (provider, name) in [(&good, "name=git "), (&leaving, "name=hook ")] {
        logs.until(&["delivery failed", name, "SecretNotFound"]).await;
        scene.folder.write(&bad(provider));
        logs.until(&["delivery failed", name, "the spec of its Provider cannot be read"]).await;
    }
    logs.until(&["controllerKind=Alert", "name=all ", "Healthy", "InvalidSpec", "its condition Ready says"]).await;
    scene.folder.write(&token());
    scene.folder.write(&good);
    // Deleted and there again, it finds what waited for it.
    scene.folder.remove(&leaving);
    logs.until(&["delivery failed", "name=hook ", "its Provider was deleted"]).await;
    scene.folder.write(&hook(&scene.forge));
    scene.herald.idle().await;
    assert_eq!(scene.forge.statuses(&sha(1)).len(), 1);
    scene.end(1, 2).await;
}

#[tokio::test]
async fn what_comes_for_a_provider_that_cannot_be_read_waits_for_it() {
    let logs = Logs::collect();
    let forge = forge().await;
    let good = git("gitea", &forge);
    let scene = Scene::with(forge, [good.clone(), token(), alert("all", "git")], &[]).await;
    scene.change("git", |folder| drop(folder.write(&good.clone().spec("timeout", 15)))).await;
    scene.post(&kustomization_event("web", &sha(1))).await;
    logs.until(&["delivery failed", "name=git ", "the spec of its Provider cannot be read"]).await;
    scene.folder.write(&good);
    scene.herald.idle().await;
    assert_eq!(scene.states(&sha(1), &good.context("web")).len(), 1);
    scene.end(1, 1).await;
}

/// As `kubectl replace --force`, or a prune and an apply: the name is the same, the UID is not.
#[tokio::test]
async fn a_provider_that_is_made_again_takes_over_what_waited_for_its_name() {
    let forge = forge().await;
    let named = |provider: Manifest, uid: &str| provider.uid(uid);
    let (old, new) = (named(git("gitea", &forge), "0ld-1"), named(git("gitea", &forge), "new-1"));
    let (old_hook, new_hook) = (named(hook(&forge), "h00k-1"), named(hook(&forge), "h00k-2"));
    let manifests = [old.clone(), old_hook.clone(), token(), alert("all", "git"), alert("more", "hook")];
    let scene = Scene::with(forge, manifests, &[]).await;
    scene.forge.fail(Fault::answer(503).every(1));
    for number in 1..=20 {
        scene.post(&kustomization_event(&format!("app-{number}"), &sha(number)).failed("BuildFailed")).await;
    }
    scene.change("git", |folder| folder.remove(&old)).await;
    scene.change("hook", |folder| folder.remove(&old_hook)).await;
    scene.change("git", |folder| drop(folder.write(&new))).await;
    scene.change("hook", |folder| drop(folder.write(&new_hook))).await;
    // A later statement about one of them comes before its failure is taken over, or after.
    scene.post(&kustomization_event("app-1", &sha(1)).version(2000)).await;
    scene.forge.recover();
    scene.herald.idle().await;
    for number in 1..=20 {
        let statuses = scene.forge.statuses(&sha(number));
        let newest = statuses.last().expect("it is told");
        let expected = if number == 1 { "success" } else { "failure" };
        assert_eq!(
            (newest.state.as_str(), newest.context.as_str()),
            (expected, &*new.context(&format!("app-{number}")))
        );
    }
    assert_eq!(scene.ended(Outcome::Refused) + scene.ended(Outcome::Failed), 0);
    scene.herald.stop().await;
}

#[tokio::test]
async fn a_uid_is_the_manifests_own_or_always_the_same() {
    let context = |provider: &Manifest| provider.context("web");
    let forge = forge().await;
    let (derived, given) = (git("github", &forge), git("github", &forge).uid("0c9c2e41-d2f9-4f9b-9c41-bebc1984d67a"));
    assert_eq!(context(&given), "kustomization/web/0c9c2e41");
    let scene = Scene::with(forge, [derived.clone(), token(), alert("all", "git")], &[]).await;
    scene.tell([kustomization_event("web", &sha(1))]).await;
    scene.change("git", |folder| drop(folder.write(&given))).await;
    scene.tell([kustomization_event("web", &sha(1))]).await;
    scene.change("git", |folder| drop(folder.write(&derived))).await;
    scene.tell([kustomization_event("web", &sha(1))]).await;
    let contexts: Vec<_> = scene.forge.statuses(&sha(1)).into_iter().map(|status| status.context).collect();
    assert_eq!(contexts, [context(&derived), context(&given)], "the third was said already");
    scene.end(1, 2).await;
}

#[tokio::test]
async fn a_file_that_is_gone_takes_its_alert_with_it() {
    let scene = Scene::of("generic").await;
    scene.tell([kustomization_event("web", &sha(1))]).await;
    scene.folder.remove(&alert("all", "hook"));
    alert_known(&scene, "all", false).await;
    scene.tell([kustomization_event("web", &sha(2))]).await;
    scene.end(0, 1).await;
}

#[tokio::test]
async fn the_last_of_two_that_name_one_object_is_no_surprise() {
    let forge = forge().await;
    let scene = Scene::with(forge, [], &[]).await;
    let hook = |mark: &str| provider("generic", "hook", &format!("{}/hook?{mark}", scene.forge.url()));
    scene.folder.write_text("b.yaml", &hook("b").to_string());
    scene.folder.write_text("a.yaml", &hook("a").to_string());
    scene.folder.write(&alert("all", "hook"));
    alert_known(&scene, "all", true).await;
    scene.tell([kustomization_event("web", &sha(1))]).await;
    assert_eq!(scene.forge.requests()[0].uri, "/hook?b", "files are read in the order of their names");
    scene.end(0, 1).await;
}

#[tokio::test]
async fn a_neighbour_that_is_never_still_delays_no_change() {
    let scene = Scene::of("github").await;
    let noise = scene.folder.path().join("busy.log");
    let busy = tokio::spawn(async move {
        for number in 0.. {
            std::fs::write(&noise, format!("{number}")).expect("the folder is writable");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    scene.change("git", |folder| drop(folder.write(&secret("token", "token", "the-new-one")))).await;
    scene.tell([kustomization_event("web", &sha(1))]).await;
    assert_eq!(scene.forge.requests()[0].header("authorization"), "Bearer the-new-one");
    busy.abort();
    scene.end(1, 1).await;
}

#[tokio::test]
async fn a_directory_that_is_not_there_keeps_herald_from_starting() {
    use clap::Parser;
    let flags = ["herald", "--events-addr=127.0.0.1:0", "--health-addr=127.0.0.1:0", "--metrics-addr=127.0.0.1:0"];
    let cli = herald::cli::Cli::parse_from(flags);
    let started = herald::app::App::start(&cli, herald::app::Source::Manifests("/nowhere/to/be/found".into())).await;
    let error = started.err().expect("it does not start");
    let error = format!("{error:#}");
    assert!(error.contains("--manifests") && error.contains("directory /nowhere/to/be/found"), "{error}");
}

#[tokio::test]
async fn a_hook_needs_no_secret() {
    let forge = forge().await;
    let scene = Scene::with(forge, [], &[]).await;
    scene.folder.write(&hook(&scene.forge));
    scene.folder.write(&alert("all", "hook"));
    alert_known(&scene, "all", true).await;
    scene.tell([kustomization_event("web", &sha(1))]).await;
    assert_eq!(scene.forge.requests()[0].header("authorization"), "");
    scene.end(0, 1).await;
}

/// `kustomize build > all.yaml` empties the file before it has anything to write.
#[tokio::test]
async fn a_file_that_is_written_in_place_loses_nothing_while_it_is_half_there() {
    let logs = Logs::collect();
    let forge = forge().await;
    let git = git("gitea", &forge);
    let all = alert("all", "git");
    let text = [&git, &all, &token()].map(|manifest| (**manifest).to_string()).join("\n---\n");
    let scene = Scene::with(forge, [], &[]).await;
    let path = scene.folder.write_text("all.yaml", &text);
    alert_known(&scene, "all", true).await;
    let key = Key::new(NAMESPACE, "git");
    let version = || scene.herald.app.stores.provider(&key).map(|view| view.version);
    let before = version();
    // Empty, cut within a document, and cut between two.
    let halves = ["", &text[..text.len() / 2], &text[..text.find("\n---").expect("several")]];
    for (number, half) in halves.into_iter().enumerate() {
        std::fs::write(&path, half).expect("writable");
        let told = || async { (logs.count(&["all.yaml", "in use"]) > number).then_some(()) };
        wait::until(CHANGED, "the half-written file to be read", told).await;
        scene.post(&kustomization_event("web", &sha(number as u64 + 1))).await;
        scene.herald.idle().await;
        assert_eq!(version(), before, "it stays as it was");
    }
    std::fs::write(&path, &text).expect("writable");
    scene.tell([kustomization_event("web", &sha(9))]).await;
    assert_eq!(version(), before);
    // What stays away is believed after a while.
    std::fs::write(&path, git.to_string()).expect("writable");
    wait::until(crate::support::app::DEADLINE, "the Alert to be gone", || async {
        scene.herald.app.stores.index.get(&Key::new(NAMESPACE, "all")).is_none().then_some(())
    })
    .await;
    assert!(scene.herald.app.stores.provider(&key).is_some());
    scene.end(4, 4).await;
}

/// Copies of what `kubectl get -o yaml` prints, changed but for the UID.
#[tokio::test]
async fn two_providers_of_one_uid_are_two() {
    let logs = Logs::collect();
    let (forge, other) = (forge().await, crate::scene::forge().await);
    let uid = "7d1c5a52-1111-4222-8333-444455556666";
    let of = |forge: &Forge, team: &str| git("gitea", forge).namespace(team).uid(uid);
    let manifests = [
        of(&forge, "team-a"),
        secret("token", "token", "token-of-a").namespace("team-a"),
        alert("all", "git").namespace("team-a").sources(json!([{"kind": "Kustomization", "name": "*"}])),
        of(&other, "team-b"),
        secret("token", "token", "token-of-b").namespace("team-b"),
    ];
    let scene = Scene::with(forge, manifests, &[]).await;
    logs.until(&["ERROR", "Providers team-a/git and team-b/git have one metadata.uid", "remove the field"]).await;
    scene.tell([kustomization_event("web", &sha(1)).namespace("team-a")]).await;
    assert_eq!(scene.forge.statuses(&sha(1)).len(), 1);
    assert!(other.requests().is_empty(), "nothing of one team goes to the other's host");
    let uids = ["team-a", "team-b"].map(|team| {
        let view = scene.herald.app.stores.provider(&Key::new(team, "git")).expect("it is there");
        view.provider.meta.uid.clone()
    });
    assert!(uids[0] != uids[1] && !uids.iter().any(|known| **known == *uid));
    assert_eq!(logs.count(&["one metadata.uid"]), 1);
    scene.end(1, 1).await;
}

#[tokio::test]
async fn what_waits_for_a_deleted_provider_is_given_up_after_ten_minutes() {
    let (forge, clock) = (forge().await, Arc::new(Ahead::default()));
    forge.fail(Fault::answer(503).every(1));
    let provider = git("gitea", &forge);
    let scene = Scene::by(clock.clone(), forge, [provider.clone(), token(), alert("all", "git")]).await;
    scene.post(&kustomization_event("web", &sha(1))).await;
    let logs = Logs::collect();
    scene.change("git", |folder| folder.remove(&provider)).await;
    logs.until(&["delivery failed", "name=git ", "its Provider was deleted"]).await;
    let outbox = &scene.herald.app.outbox;
    let look = async |name: &str| {
        outbox.wake(&provider.effective_uid());
        // Another Provider wakes the dispatcher.
        let other = self::provider("generic", name, "https://example.com/");
        scene.change(name, |folder| drop(folder.write(&other))).await;
    };
    clock.turn(9);
    look("first").await;
    wait::until(CHANGED, "it is looked at", || async {
        (outbox.counts().ready + outbox.counts().claimed == 0).then_some(())
    })
    .await;
    assert_eq!(scene.ended(Outcome::Refused), 0);
    clock.turn(1);
    look("second").await;
    logs.until(&["name=all ", "given up", "its Provider was deleted"]).await;
    scene.herald.idle().await;
    assert_eq!(scene.ended(Outcome::Refused), 1);
}
