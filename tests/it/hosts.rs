//! What is special at one Git host or the other: addresses, credentials, and answers that mean
//! something else than they say.

use std::time::Duration;

use herald::ops::metrics::Outcome;
use serde_json::json;

use crate::logs::Logs;
use crate::scene::{Scene, TOKEN, forge, git, token};
use crate::support::flux::{Manifest, alert, kustomization_event, provider, secret, sha};
use crate::support::forge::{Access, Fault, Forge};

/// A scene with the Provider `git` and the Secret it names.
async fn scene(forge: Forge, git: Manifest, secret: Manifest) -> Scene {
    Scene::with(forge, [git, secret, alert("all", "git")], &[]).await
}

/// Tells one event and gives the `Authorization` of the write.
async fn authorization(git: impl Fn(Manifest) -> Manifest, kind: &str, secret: Manifest) -> String {
    let forge = forge().await;
    let git = git(crate::scene::git(kind, &forge));
    let scene = scene(forge, git, secret).await;
    scene.tell([kustomization_event("web", &sha(1))]).await;
    let sent = scene.forge.requests()[1].header("authorization").to_owned();
    scene.end(1, 1).await;
    sent
}

// === addresses ===

#[tokio::test]
async fn a_server_under_a_sub_path_is_found_where_the_annotation_says() {
    for (kind, api, commit) in [
        ("gitlab", "/git/api/v4", "/git/api/v4/projects/acme%2Ffleet/repository/commits"),
        ("gitea", "/git/api/v1/", "/git/api/v1/repos/acme/fleet/commits"),
        ("github", "/git/api/v3/", "/git/api/v3/repos/acme/fleet/commits"),
    ] {
        let forge = forge().await;
        let git = provider(kind, "git", &format!("{}/git/acme/fleet.git", forge.url()))
            .secret("token")
            .annotation("herald.sh/api-url", &format!("{}{api}", forge.url()));
        // The host itself has no sub-path.
        forge.fail(Fault::answer(200).body("[]").reads());
        forge.fail(Fault::answer(201).body("{}").writes());
        let scene = scene(forge, git, token()).await;
        scene.tell([kustomization_event("web", &sha(1))]).await;
        assert_eq!(scene.ended(Outcome::Delivered), 1, "{kind}");
        let read = scene.forge.requests().remove(0).uri;
        assert!(read.starts_with(&format!("{commit}/{}", sha(1))), "{kind}: {read}");
        scene.end(1, 1).await;
    }
}

#[tokio::test]
async fn an_api_at_another_host_never_sees_the_token() {
    for (annotation, words) in [
        ("http://elsewhere.invalid/api/v4/", "names another host than spec.address"),
        ("ftp://127.0.0.1/api/v4/", "is not the http or https address of an API"),
        ("api/v4", "is not the http or https address of an API"),
    ] {
        let logs = Logs::collect();
        let forge = forge().await;
        let well = git("gitlab", &forge);
        let scene = scene(forge, well.clone().annotation("herald.sh/api-url", annotation), token()).await;
        scene.post(&kustomization_event("web", &sha(1))).await;
        logs.until(&["InvalidAddress", words, "name=git"]).await;
        assert!(scene.forge.requests().is_empty(), "{annotation}");
        scene.folder.write(&well);
        scene.end(1, 1).await;
    }
}

/// An expression can give a name of any length, and an object's name alone may have 253 characters.
#[tokio::test]
async fn a_name_longer_than_the_host_takes_is_cut_and_two_stay_two() {
    for (kind, limit) in [("github", 255), ("gitlab", 255), ("gitea", 1024), ("azuredevops", 1024)] {
        let forge = forge().await;
        let git =
            git(kind, &forge).spec("commitStatusExpr", "string(event.message) + string(event.involvedObject.name)");
        let scene = scene(forge, git, token()).await;
        let named = |name: &str| {
            let mut event = (*kustomization_event(name, &sha(1))).clone();
            event["message"] = "n".repeat(20_000).into();
            event
        };
        for name in ["one", "other"] {
            scene.post(&named(name)).await;
            scene.herald.idle().await;
        }
        let statuses = scene.forge.statuses(&sha(1));
        let mut names: Vec<&str> = statuses.iter().map(|status| status.context.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 2, "{kind}");
        assert!(names.iter().all(|name| name.len() == limit && name.starts_with("nnn")), "{kind}: {names:?}");
        // A Herald that remembers nothing finds them again.
        let writes = scene.forge.writes();
        scene.herald.stop().await;
        let another = crate::scene::herald(&scene.forge, &scene.folder, &[]).await;
        assert_eq!(another.post(&named("one")).await, 202);
        another.idle().await;
        assert_eq!(scene.forge.writes(), writes, "{kind}: it stands already");
        another.stop().await;
    }
}

#[tokio::test]
async fn repositories_are_called_what_their_host_calls_them() {
    for (kind, path, repository) in [
        ("gitlab", "group/sub.x/proj.git", "group/sub.x/proj"),
        ("gitlab", "1234", "1234"),
        ("bitbucketserver", "bitbucket/scm/~user/fleet.git", "~user/fleet"),
        ("azuredevops", "Collection/My%20Proj/_git/My.Repo", "collection/My Proj/My.Repo"),
    ] {
        let forge = forge().await;
        let git = provider(kind, "git", &format!("{}/{path}", forge.url())).secret("token");
        let scene = scene(forge, git, token()).await;
        scene.tell([kustomization_event("web", &sha(1))]).await;
        assert_eq!(scene.forge.statuses(&sha(1))[0].repository, repository, "{kind}");
        scene.end(1, 1).await;
    }
}

// === credentials ===

#[tokio::test]
async fn bitbucket_takes_access_tokens_and_passwords() {
    // The base64 of user:app-pass.
    const BASIC: &str = "Basic dXNlcjphcHAtcGFzcw==";
    for (secret, sent) in [
        (secret("token", "token", "user:app-pass\n"), BASIC),
        (secret("token", "username", "user").key("password", "app-pass"), BASIC),
        (secret("token", "token", "access-token"), "Bearer access-token"),
        (secret("token", "token", "access-token").key("username", "alone"), "Bearer access-token"),
    ] {
        assert_eq!(authorization(|git| git, "bitbucket", secret).await, sent);
    }
}

#[tokio::test]
async fn data_center_takes_a_user_of_the_spec_and_a_password_of_the_secret() {
    const BASIC: &str = "Basic dXNlcjphcHAtcGFzcw==";
    let named = |git: Manifest| git.spec("username", "user");
    let password = secret("token", "password", "app-pass");
    assert_eq!(authorization(named, "bitbucketserver", password.clone()).await, BASIC);
    let both = password.key("username", "user");
    assert_eq!(authorization(|git| git, "bitbucketserver", both.clone()).await, BASIC);
    let token = both.key("token", "t");
    assert_eq!(authorization(named, "bitbucketserver", token).await, "Bearer t");
}

#[tokio::test]
async fn a_password_shows_in_no_log_line_however_it_was_sent() {
    // The base64 of user:planted-password.
    const BASIC: &str = "dXNlcjpwbGFudGVkLXBhc3N3b3Jk";
    for (kind, secret) in [
        ("bitbucket", secret("token", "token", "user:planted-password")),
        ("bitbucket", secret("token", "username", "user").key("password", "planted-password")),
        ("bitbucketserver", secret("token", "username", "user").key("password", "planted-password")),
    ] {
        let logs = Logs::collect();
        let forge = forge().await;
        let git = git(kind, &forge);
        forge.fail(
            Fault::answer(400)
                .body(&format!(r#"{{"message": "you are Basic {BASIC} with planted-password"}}"#))
                .writes(),
        );
        let scene = scene(forge, git, secret).await;
        scene.tell([kustomization_event("web", &sha(1))]).await;
        // To the Alert and to the Provider.
        assert_eq!(logs.count(&["answered 400", "you are ***** with *****"]), 2, "what was said is told, masked");
        for secret in ["planted-password", BASIC] {
            let leak = logs.text().lines().find(|line| line.contains(secret)).map(str::to_owned);
            assert_eq!(leak, None, "{kind}");
        }
        scene.end(1, 1).await;
    }
}

#[tokio::test]
async fn a_password_in_the_address_is_no_part_of_data_centers_link() {
    let forge = forge().await;
    let address = format!("{}/scm/acme/fleet.git", forge.url());
    let git = provider("bitbucketserver", "git", &address.replace("//", "//user:planted-password@")).secret("token");
    let scene = scene(forge, git, token()).await;
    scene.tell([kustomization_event("web", &sha(1))]).await;
    assert_eq!(scene.forge.statuses(&sha(1))[0].target_url.as_deref(), Some(address.as_str()));
    assert_eq!(scene.forge.requests()[1].header("authorization"), format!("Bearer {TOKEN}"));
    scene.end(1, 1).await;
}

// === answers ===

#[tokio::test]
async fn gitlabs_refusal_of_the_state_it_has_counts_as_told() {
    let forge = forge().await;
    let git = git("gitlab", &forge).annotation("herald.sh/pending", "true");
    let pending = json!({"state": "pending", "name": git.context("web"), "description": "waiting"});
    let scene = scene(forge, git, token()).await;
    // The same user said so before, in other words.
    write(&scene.forge, TOKEN, &pending).await;
    let event = kustomization_event("web", &sha(1)).annotated("commit", &sha(1)).progressing();
    scene.tell([&event]).await;
    assert_eq!(scene.ended(Outcome::Delivered), 1);
    scene.tell([&event]).await;
    assert_eq!(scene.ended(Outcome::Unchanged), 1);
    scene.tell([kustomization_event("web", &sha(1))]).await;
    let states: Vec<_> = scene.forge.statuses(&sha(1)).into_iter().map(|status| status.state).collect();
    assert_eq!(states, ["pending", "success"]);
    scene.end(1, 3).await;
}

#[tokio::test]
async fn a_commit_that_gitlab_has_locked_is_tried_again() {
    let logs = Logs::collect();
    let scene = Scene::of("gitlab").await;
    scene.forge.gitlab_lock(Duration::from_secs(1), Duration::from_millis(50));
    let other = json!({"state": "success", "name": "another"});
    let (forge, herald) = (&scene.forge, &scene);
    futures::join!(write(forge, "another", &other), async {
        herald.requests(1).await;
        herald.tell([kustomization_event("web", &sha(1))]).await;
    });
    assert!(logs.count(&["answered 409", "will try again"]) > 0);
    assert_eq!(scene.ended(Outcome::Delivered), 1);
    assert_eq!(scene.forge.statuses(&sha(1)).len(), 2);
    let (reads, writes) = (scene.forge.reads(), scene.forge.writes());
    scene.end(reads, writes).await;
}

/// Somebody writes a status at GitLab.
async fn write(forge: &Forge, token: &str, body: &serde_json::Value) {
    let url = format!("{}/api/v4/projects/acme%2Ffleet/statuses/{}", forge.url(), sha(1));
    let answer = reqwest::Client::new().post(url).header("private-token", token).json(body).send().await;
    assert_eq!(answer.expect("the host answers").status().as_u16(), 201);
}

#[tokio::test]
async fn a_sign_in_page_waits_for_a_better_token() {
    let page = Fault::answer(203).body("<!DOCTYPE html><title>Azure DevOps Services | Sign In</title>");
    let page = page.times(2);
    for (fault, reads, writes) in [(page.clone().reads(), 3, 1), (page.writes(), 3, 3)] {
        let logs = Logs::collect();
        let scene = Scene::of("azuredevops").await;
        scene.forge.fail(fault);
        scene.post(&kustomization_event("web", &sha(1))).await;
        scene.quiet().await;
        assert_eq!(scene.herald.app.outbox.counts().held, 1);
        assert_eq!(logs.count(&["answered 203, which is a sign-in page", "will try again"]), 1);

        scene.change("git", |folder| drop(folder.write(&secret("token", "token", "a-better-token")))).await;
        scene.end(reads, writes).await;
    }
}

#[tokio::test]
async fn azure_is_asked_to_refuse_a_token_instead_of_showing_a_page() {
    let logs = Logs::collect();
    let scene = Scene::of("azuredevops").await;
    scene.forge.token("a-better-token", Access::Write);
    scene.post(&kustomization_event("web", &sha(1))).await;
    scene.quiet().await;
    assert_eq!(logs.count(&["answered 401", "will try again"]), 1);
    scene.change("git", |folder| drop(folder.write(&secret("token", "token", "a-better-token")))).await;
    scene.end(3, 1).await;
}

#[tokio::test]
async fn an_older_azure_devops_server_is_spoken_to_in_the_version_it_has() {
    for latest in [5.1, 4.1, 2.3] {
        let scene = Scene::of("azuredevops").await;
        scene.forge.azure_latest(latest);
        scene.tell([kustomization_event("web", &sha(1))]).await;
        assert_eq!(scene.forge.statuses(&sha(1)).len(), 1, "{latest}");
        // It was asked once too often, and is no more.
        scene.requests(3).await;
        scene.tell([kustomization_event("web", &sha(2))]).await;
        scene.end(3, 2).await;
    }
}

#[tokio::test]
async fn at_azure_every_summary_is_a_status_of_its_own() {
    let forge = forge().await;
    let git = git("azuredevops", &forge);
    let alerts = ["prod", "test"].map(|summary| alert(summary, "git").spec("summary", summary));
    let manifests = [git, token()].into_iter().chain(alerts);
    let scene = Scene::with(forge, manifests, &[]).await;
    scene.tell([kustomization_event("web", &sha(1))]).await;
    let mut genres: Vec<_> = scene.forge.statuses(&sha(1)).into_iter().filter_map(|status| status.genre).collect();
    genres.sort();
    assert_eq!(genres, ["fluxcd:prod", "fluxcd:test"]);

    let again = scene.another().await;
    assert_eq!(again.post(&kustomization_event("web", &sha(1))).await, 202);
    again.idle().await;
    assert_eq!(again.app.metrics.notifications(Outcome::Unchanged), 2);
    again.stop().await;
    scene.end(2, 2).await;
}
