//! Credentials that are not in a Secret: a GitHub App's, and a workload identity's at Azure. What a
//! ServiceAccount has to do with it needs an API server; `cluster/identity.rs` shows it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use herald::clock::{Clock, SystemClock};
use herald::ops::metrics::Outcome;
use herald::view::View;

use crate::logs::Logs;
use crate::scene::{Scene, TOKEN, forge, git, token};
use crate::support::app::DEADLINE;
use crate::support::clock::Ahead;
use crate::support::flux::{FluxEvent, Folder, Manifest, alert, kustomization_event, provider, secret, sha};
use crate::support::forge::{App, AppKey, Application, Fault, Forge, Received};
use crate::support::wait;

static KEY: LazyLock<Arc<AppKey>> = LazyLock::new(AppKey::new);

const MINT: &str = "/access_tokens";

/// Issuers refuse in JSON.
const REFUSAL: &str = r#"{"message": "no"}"#;

fn app() -> App {
    let key = KEY.clone();
    App { id: 42, key, installation: 77, owner: "acme".to_owned(), organization: true, suspended: false }
}

/// A Git host that knows the App, and no other token than those it gives out.
async fn host() -> Forge {
    let forge = forge().await;
    forge.app(app());
    forge
}

/// The Secret of the App.
fn keys() -> Manifest {
    secret("token", "githubAppID", "42").key("githubAppInstallationID", "77").key("githubAppPrivateKey", &KEY.pkcs1())
}

async fn scene_with(forge: Forge, secret: Manifest, flags: &[&str]) -> Scene {
    let git = git("github", &forge);
    Scene::with(forge, [git, secret, alert("all", "git")], flags).await
}

async fn scene() -> Scene {
    scene_with(host().await, keys(), &[]).await
}

/// A scene whose token was used, and is no longer new.
async fn scene_with_a_token(forge: Forge, keys: Manifest) -> (Scene, Arc<Ahead>) {
    let clock = Arc::new(Ahead::default());
    let git = git("github", &forge);
    let scene = Scene::by(clock.clone(), forge, [git, keys, alert("all", "git")]).await;
    scene.tell([event(0)]).await;
    clock.turn_seconds(NEW);
    (scene, clock)
}

/// A token is new for less than so many seconds.
const NEW: u64 = 11;

fn event(number: u64) -> FluxEvent {
    kustomization_event("web", &sha(number))
}

/// The requests whose path ends so.
fn to(forge: &Forge, end: &str) -> Vec<Received> {
    forge.requests().into_iter().filter(|request| request.uri.ends_with(end)).collect()
}

// === GitHub Apps ===

#[tokio::test]
async fn an_app_tells_with_a_token_it_gets_once() {
    for secret in [keys(), keys().key("githubAppPrivateKey", &KEY.pkcs8()), keys().key("githubAppID", " 42\n")] {
        let scene = scene_with(host().await, secret, &[]).await;
        scene.tell([event(1), event(2).failed("BuildFailed")]).await;
        let minted = to(&scene.forge, MINT);
        assert_eq!(minted[0].uri, "/api/v3/app/installations/77/access_tokens");
        assert_eq!(&minted[0].body[..], b"null", "as the peer: nothing is narrowed");
        assert_eq!(minted[0].header("accept"), "application/vnd.github.v3+json");
        assert_eq!(minted[0].header("x-github-api-version"), "2022-11-28");
        let bearer = format!("Bearer {}", scene.forge.minted()[0]);
        let others = scene.forge.requests().into_iter().filter(|request| !request.uri.ends_with(MINT));
        assert!(others.into_iter().all(|request| request.header("authorization") == bearer));
        assert_eq!(scene.forge.statuses(&sha(2))[0].state, "failure");
        scene.end(2, 3).await;
    }
}

#[tokio::test]
async fn an_installation_is_found_by_its_owner_once() {
    for (organization, asked) in [(true, vec!["orgs"]), (false, vec!["orgs", "users"])] {
        let forge = forge().await;
        forge.app(App { organization, ..app() });
        let by_owner = secret("token", "githubAppID", "42")
            .key("githubAppInstallationOwner", "acme")
            .key("githubAppPrivateKey", &KEY.pkcs1());
        let (scene, _clock) = scene_with_a_token(forge, by_owner).await;
        scene.forge.withdraw();
        scene.tell([event(2)]).await;
        let found: Vec<_> = to(&scene.forge, "/installation").into_iter().map(|request| request.uri).collect();
        let asked: Vec<_> = asked.iter().map(|kind| format!("/api/v3/{kind}/acme/installation")).collect();
        assert_eq!(found, asked);
        assert_eq!(scene.forge.minted().len(), 2);
        // One read is refused, and its place asked again with the new token.
        scene.end(asked.len() + 3, 4).await;
    }
}

#[tokio::test]
async fn nobody_waits_for_a_token_at_the_door() {
    let forge = host().await;
    let git = git("github", &forge).spec("timeout", "5s");
    let scene = Scene::with(forge, [git, keys(), alert("all", "git")], &[]).await;
    scene.forge.fail(Fault::hang().path(MINT));
    scene.post(&event(1)).await;
    scene.requests(1).await;
    scene.post(&event(2)).await;
    assert_eq!(scene.forge.requests().len(), 1, "both were accepted while the token was asked for");
    scene.herald.idle().await;
    assert_eq!(scene.ended(Outcome::Delivered), 2);
    scene.end(2, 4).await;
}

#[tokio::test]
async fn many_notifications_share_one_token() {
    let scene = scene().await;
    scene.forge.fail(Fault::delay(Duration::from_millis(200)).path(MINT));
    for number in 1..=30 {
        scene.post(&event(number)).await;
    }
    scene.herald.idle().await;
    assert_eq!(scene.forge.minted().len(), 1);
    scene.end(30, 31).await;
}

#[tokio::test]
async fn how_long_and_how_many_tokens_are_kept_is_a_matter_of_flags() {
    // One token for each request, or for each event: a read and a write.
    for (flag, minted) in
        [("--token-cache-max-size=0", 4), ("--token-cache-max-size=-1", 4), ("--token-cache-max-size=1", 1)]
    {
        let scene = scene_with(host().await, keys(), &[flag]).await;
        scene.tell([event(1), event(2)]).await;
        assert_eq!(scene.forge.minted().len(), minted, "{flag}");
        scene.end(2, 2 + minted).await;
    }
    let scene = scene_with(host().await, keys(), &["--token-cache-max-duration=1ns"]).await;
    scene.tell([event(1)]).await;
    assert_eq!(scene.forge.minted().len(), 2);
    scene.end(1, 3).await;
}

/// Names and labels as Flux's controller has them (spec/pipeline.md 6.3).
#[tokio::test]
async fn the_cache_of_tokens_is_counted_under_the_names_flux_uses() {
    let forge = host().await;
    let other = provider("github", "other", &format!("{}/acme/other", forge.url())).secret("other");
    let other_keys = secret("other", "githubAppID", "42").key("githubAppInstallationOwner", "acme");
    let other_keys = other_keys.key("githubAppPrivateKey", &KEY.pkcs1());
    let to_other = alert("other", "other").sources(serde_json::json!([{"kind": "Kustomization", "name": "other"}]));
    let web = alert("all", "git").sources(serde_json::json!([{"kind": "Kustomization", "name": "web"}]));
    let git = git("github", &forge);
    let manifests = [git.clone(), keys(), web, other.clone(), other_keys, to_other];
    let scene = Scene::with(forge, manifests, &["--token-cache-max-size=1"]).await;
    let read = async |name: &str| {
        let text = scene.herald.metrics().await;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map(|value| value.parse::<u64>().expect("a number"))
    };
    let seen = async || {
        let of = |event: &str, name: &str| {
            format!(
                r#"gotk_token_cache_events_total{{event_type="cache_{event}",kind="Provider",name="{name}",namespace="flux-system",operation="post"}}"#
            )
        };
        [
            read(&of("hit", "git")).await,
            read(&of("miss", "git")).await,
            read(&of("hit", "other")).await,
            read(&of("miss", "other")).await,
            read(r#"gotk_token_cache_requests_total{status="success"}"#).await,
            read(r#"gotk_token_cache_requests_total{status="failure"}"#).await,
            read("gotk_token_cache_evictions_total").await,
            read("gotk_token_cached_items").await,
        ]
    };
    // Providers are counted from when they can be used.
    wait::until(DEADLINE, "rows of both", || async { (seen().await == [0; 8].map(Some)).then_some(()) }).await;
    // A read with a new token, a write with the one that is kept.
    scene.tell([event(1)]).await;
    assert_eq!(seen().await, [1, 1, 0, 0, 2, 0, 0, 1].map(Some));
    // There is room for one.
    scene.tell([kustomization_event("other", &sha(2))]).await;
    assert_eq!(seen().await, [1, 1, 1, 1, 4, 0, 1, 1].map(Some));
    scene.forge.fail(Fault::answer(403).body(REFUSAL).path(MINT));
    scene.post(&event(3)).await;
    scene.quiet().await;
    assert_eq!(seen().await, [1, 2, 1, 1, 4, 1, 1, 1].map(Some));
    // What is changed goes on counting, what is gone has no rows.
    scene.change("git", |folder| drop(folder.write(&git.spec("timeout", "14s")))).await;
    scene.herald.idle().await;
    assert_eq!(seen().await, [2, 3, 1, 1, 6, 1, 2, 1].map(Some));
    scene.change("other", |folder| folder.remove(&other)).await;
    wait::until(DEADLINE, "the rows of a Provider to go", || async { (seen().await[2..4] == [None; 2]).then_some(()) })
        .await;
    assert_eq!(seen().await[..2], [2, 3].map(Some));
    scene.herald.stop().await;
}

#[tokio::test]
async fn a_token_withdrawn_before_its_time_is_got_anew_once() {
    let (scene, _clock) = scene_with_a_token(host().await, keys()).await;
    scene.forge.withdraw();
    scene.tell([event(2)]).await;
    assert_eq!(scene.ended(Outcome::Delivered), 2);
    assert_eq!(scene.forge.minted().len(), 2);
    scene.end(3, 4).await;
}

#[tokio::test]
async fn an_app_whose_tokens_are_refused_is_left_alone_and_tried_again() {
    let (scene, clock) = scene_with_a_token(host().await, keys()).await;
    scene.forge.fail(Fault::answer(401).path("/repos/").every(1));
    let before = scene.forge.requests().len();
    scene.post(&event(1)).await;
    // The token of before; another one, which is new, and again when it is not; so it goes with the next one.
    for (requests, seconds) in [(3, NEW), (6, NEW), (7, 0)] {
        scene.requests(before + requests).await;
        clock.turn_seconds(seconds);
    }
    scene.quiet().await;
    let due = scene.herald.app.outbox.next_due().expect("it waits for a time");
    let pause = due.saturating_duration_since(clock.now());
    assert!((Duration::from_secs(580)..=Duration::from_secs(600)).contains(&pause), "{pause:?}");
    assert_eq!((scene.forge.requests().len(), scene.forge.minted().len()), (before + 7, 3));
    scene.forge.recover();
    scene.change("git", |folder| drop(folder.write(&git("github", &scene.forge).spec("timeout", "14s")))).await;
    scene.herald.idle().await;
    assert_eq!(scene.ended(Outcome::Delivered), 2);
    scene.herald.stop().await;
}

/// octokit/auth-app.js#65: a new token is refused until all replicas know it.
#[tokio::test]
async fn a_new_token_that_is_refused_is_tried_again_with_itself() {
    let scene = scene().await;
    let logs = Logs::collect();
    scene.forge.fail(Fault::answer(401).body(r#"{"message": "Bad credentials"}"#).path("/repos/").times(2));
    for number in 1..=5 {
        scene.post(&event(number)).await;
    }
    scene.herald.idle().await;
    assert_eq!((scene.ended(Outcome::Delivered), scene.forge.minted().len()), (5, 1));
    assert_eq!(logs.count(&["Healthy", "Unauthorized"]), 0, "it passes");
    scene.herald.stop().await;

    let (scene, _kubelet) = azure(|provider| provider, &[]).await;
    scene.forge.fail(Fault::answer(203).body("<html>sign in</html>").path("/org/").times(2));
    scene.tell([event(1)]).await;
    assert_eq!((scene.ended(Outcome::Delivered), to(&scene.forge, EXCHANGE).len()), (1, 1));
    scene.end(3, 2).await;
}

/// What is sent during the wait of three seconds that begins so late after event 2 is first asked about,
/// but for what is on its way already.
async fn sent_during_the_wait(scene: Scene, order: [u64; 2], late: Duration) -> Vec<String> {
    for (number, before) in order.into_iter().zip(scene.forge.requests().len()..) {
        scene.post(&event(number)).await;
        scene.requests(before + 1).await;
    }
    scene.herald.idle().await;
    assert_eq!(scene.ended(Outcome::Delivered), 3);
    let requests = scene.forge.requests();
    let asked = requests.iter().find(|request| request.uri.contains(&sha(2))).expect("it is asked about").at;
    let during = asked + late + Duration::from_millis(500)..asked + late + Duration::from_secs(3);
    let sent = requests.iter().filter(|request| during.contains(&request.at));
    let sent = sent.map(|request| request.uri.clone()).collect();
    scene.herald.stop().await;
    sent
}

#[tokio::test]
async fn a_token_refused_during_a_wait_is_not_got_anew_until_it_ends() {
    let (scene, _clock) = scene_with_a_token(host().await, keys()).await;
    scene.forge.withdraw();
    scene.forge.fail(Fault::delay(Duration::from_secs(1)).path(&sha(1)));
    scene.forge.fail(Fault::answer(429).header("retry-after", "3").path(&sha(2)));
    assert_eq!(sent_during_the_wait(scene, [1, 2], Duration::ZERO).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_token_got_during_a_wait_is_not_used_until_it_ends() {
    let (scene, _clock) = scene_with_a_token(host().await, keys()).await;
    scene.forge.fail(Fault::answer(401).path(&sha(1)));
    scene.forge.fail(Fault::delay(Duration::from_secs(2)).path(MINT));
    let late = Duration::from_secs(1);
    scene.forge.fail(Fault::delay(late).header("retry-after", "3").path(&sha(2)));
    assert_eq!(sent_during_the_wait(scene, [2, 1], late).await, Vec::<String>::new());
}

#[tokio::test]
async fn what_github_says_to_an_app_decides_when_it_asks_again() {
    // What people mend is parked, whatever it would mean for a status.
    for code in [400, 401, 403, 404, 422, 501] {
        let logs = Logs::collect();
        let scene = scene().await;
        scene.forge.fail(Fault::answer(code).body(REFUSAL).path(MINT));
        scene.post(&event(1)).await;
        scene.post(&event(2)).await;
        scene.quiet().await;
        assert_eq!(scene.herald.app.outbox.counts().held, 2, "{code}");
        assert!(logs.count(&[&format!("cannot get a token from GitHub: answered {code}"), "will try again"]) > 0);
        assert_eq!(scene.forge.requests().len(), 1, "{code}: the other waits without asking");
        scene.change("git", |folder| drop(folder.write(&git("github", &scene.forge).spec("timeout", "14s")))).await;
        scene.end(2, 4).await;
    }
    // What passes is tried again.
    for harm in [Fault::answer(500), Fault::answer(502), Fault::answer(408), Fault::reset(), Fault::half_body()] {
        let scene = scene().await;
        scene.forge.fail(harm.path(MINT));
        scene.tell([event(1)]).await;
        assert_eq!(scene.ended(Outcome::Delivered), 1);
        scene.end(1, 3).await;
    }
    let scene = scene().await;
    scene.forge.fail(Fault::answer(503).header("retry-after", "1").path(MINT));
    scene.tell([event(1)]).await;
    let asked = to(&scene.forge, MINT);
    let waited = asked[1].at.duration_since(asked[0].at);
    assert!(waited >= Duration::from_secs(1), "came back after {waited:?}");
    scene.end(1, 3).await;
}

#[tokio::test]
async fn an_app_that_github_does_not_know_so_is_parked_with_what_github_says() {
    let other = AppKey::new();
    for (known, words) in [
        (App { id: 43, ..app() }, "Integration not found"),
        (App { installation: 78, ..app() }, "Not Found"),
        (App { suspended: true, ..app() }, "This installation has been suspended"),
        (App { key: other.clone(), ..app() }, "A JSON web token could not be decoded"),
    ] {
        let logs = Logs::collect();
        let forge = forge().await;
        forge.app(known);
        let scene = scene_with(forge, keys(), &[]).await;
        scene.post(&event(1)).await;
        logs.until(&["cannot get a token from GitHub", words, "will try again"]).await;
        assert!(scene.forge.minted().is_empty());
        scene.herald.stop().await;
    }
}

#[tokio::test]
async fn what_is_wrong_with_an_app_is_a_condition_and_mends_itself() {
    let without = |key: &str| {
        let mut keys = (*keys()).clone();
        keys["stringData"].as_object_mut().expect("keys").remove(key);
        keys["stringData"]
            .as_object()
            .expect("keys")
            .iter()
            .fold(secret("token", "x", ""), |secret, (key, value)| secret.key(key, value.as_str().expect("text")))
    };
    for (bad, words) in [
        (keys().key("githubAppID", "planted-value"), "key githubAppID is not the number"),
        (without("githubAppID"), "key githubAppID is missing"),
        (keys().key("githubAppInstallationOwner", "acme"), "are both there"),
        (without("githubAppInstallationID"), "are both missing"),
        (keys().key("githubAppInstallationID", "planted-value"), "githubAppInstallationID is not the number"),
        (keys().key("githubAppPrivateKey", "planted-value"), "key githubAppPrivateKey is not an RSA key"),
        (without("githubAppPrivateKey"), "key githubAppPrivateKey is missing"),
        (keys().key("githubAppBaseURL", "planted-value"), "key githubAppBaseURL is not the http or https address"),
        (keys().key("githubAppBaseURL", "https://api.planted-value.test"), "key githubAppBaseURL names another host"),
    ] {
        let logs = Logs::collect();
        let scene = scene_with(host().await, bad, &[]).await;
        scene.post(&event(1)).await;
        logs.until(&["ERROR", "Healthy", "InvalidCredentials", "Secret flux-system/token", words, "name=git"]).await;
        assert!(scene.forge.requests().is_empty(), "{words}");
        assert!(!logs.text().contains("planted-value"), "{words}");
        scene.folder.write(&keys());
        scene.end(1, 2).await;
    }
}

#[tokio::test]
async fn a_token_in_the_secret_wins_over_an_app() {
    for (key, broken) in [("token", "githubAppID"), ("password", "githubAppPrivateKey")] {
        let forge = forge().await;
        let scene = scene_with(forge, keys().key(key, TOKEN).key(broken, "no use"), &[]).await;
        scene.tell([event(1)]).await;
        assert_eq!(scene.forge.requests()[0].header("authorization"), format!("Bearer {TOKEN}"));
        scene.end(1, 1).await;
    }
}

#[tokio::test]
async fn a_jwt_goes_to_no_other_host() {
    let trap = forge().await;
    for status in [301, 302, 307, 308] {
        let scene = scene().await;
        // Another port is another host.
        scene.forge.fail(Fault::answer(status).header("location", &format!("{}/hook", trap.url())).path(MINT));
        scene.post(&event(1)).await;
        scene.quiet().await;
        assert!(trap.requests().is_empty(), "{status}");
        assert_eq!(scene.herald.app.outbox.counts().held, 1);
        scene.herald.stop().await;
    }
}

#[tokio::test]
async fn the_address_of_the_server_is_enough_as_base() {
    let forge = host().await;
    let based = keys().key("githubAppBaseURL", forge.url());
    let scene = scene_with(forge, based, &[]).await;
    scene.tell([event(1)]).await;
    assert_eq!(to(&scene.forge, MINT)[0].uri, "/api/v3/app/installations/77/access_tokens");
    scene.end(1, 2).await;
}

#[tokio::test]
async fn another_key_means_another_token_and_nothing_else_does() {
    let scene = scene().await;
    scene.tell([event(1)]).await;
    scene.change("git", |folder| drop(folder.write(&keys().key("unused", "x")))).await;
    scene.change("git", |folder| drop(folder.write(&git("github", &scene.forge).spec("timeout", "14s")))).await;
    scene.tell([event(2)]).await;
    assert_eq!(scene.forge.minted().len(), 1, "the App is the same");

    let key = AppKey::new();
    scene.forge.app(App { id: 43, installation: 78, key: key.clone(), ..app() });
    let other =
        keys().key("githubAppID", "43").key("githubAppInstallationID", "78").key("githubAppPrivateKey", &key.pkcs1());
    scene.change("git", |folder| drop(folder.write(&other))).await;
    scene.tell([event(3)]).await;
    let last = scene.forge.requests().pop().expect("requests");
    assert_eq!(last.header("authorization"), format!("Bearer {}", scene.forge.minted()[1]));

    // And back: the first token was dropped with its key.
    scene.change("git", |folder| drop(folder.write(&keys()))).await;
    scene.tell([event(4)]).await;
    assert_eq!(scene.forge.minted().len(), 3);
    scene.end(4, 7).await;
}

/// Everything under a folder, as text.
fn everything_in(path: &std::path::Path) -> String {
    let entries = std::fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.map(|file| String::from_utf8_lossy(&std::fs::read(file).expect("a file")).into_owned()).collect()
}

#[tokio::test]
async fn neither_a_key_nor_a_token_shows_anywhere_whatever_goes_wrong() {
    let logs = Logs::collect();
    let outbox = tempfile::tempdir().expect("a folder");
    let path = format!("--outbox-path={}", outbox.path().join("outbox.db").display());
    // A new token for each request, lest the first mask all the others.
    let scene = scene_with(host().await, keys(), &[&path, "--token-cache-max-size=0"]).await;
    let pem = KEY.pkcs1();
    let key_line = pem.lines().nth(1).expect("a key has lines");
    let mut written = String::new();
    for (number, at, code) in [
        (1, MINT, 400),
        (2, MINT, 401),
        (3, MINT, 500),
        (4, "/statuses", 400),
        (5, "/statuses", 401),
        (6, "/statuses", 500),
        (7, "/statuses", 422),
    ] {
        scene.post(&event(100 + number)).await;
        scene.quiet().await;
        let before = scene.forge.requests().len();
        scene.forge.fail(Fault::answer(code).echo().path(at));
        scene
            .change("git", |folder| {
                drop(folder.write(&git("github", &scene.forge).spec("timeout", format!("{}s", 20 + number))))
            })
            .await;
        scene.post(&event(number)).await;
        scene.quiet().await;
        assert!(scene.forge.requests().len() > before, "{at} {code}");
        written += &everything_in(outbox.path());
    }
    scene.forge.recover();
    let jwts = to(&scene.forge, MINT).into_iter().map(|request| request.header("authorization").to_owned());
    let jwts: Vec<_> = jwts.map(|bearer| bearer.trim_start_matches("Bearer ").to_owned()).collect();
    let minted = scene.forge.minted();
    assert!(minted.len() > 3 && jwts.len() > 3);
    let metrics = scene.herald.app.metrics.encode();
    let text = logs.text();
    for secret in minted.iter().chain(&jwts).map(String::as_str).chain([key_line, "PRIVATE KEY"]) {
        let line = text.lines().find(|line| line.contains(secret)).map(str::to_owned);
        assert_eq!(line, None, "{secret}");
        assert!(!metrics.contains(secret) && !written.contains(secret), "{secret}");
    }
    assert!(logs.count(&["*****"]) > 0, "what the vendor said is told, masked");
    scene.herald.stop().await;
}

// === workload identity at Azure ===

fn application() -> Application {
    let (tenant, client) = ("11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222");
    Application {
        tenant: tenant.into(),
        client: client.into(),
        subject: "system:serviceaccount:flux-system:herald".into(),
    }
}

/// Keeps Herald's own token in a file.
struct Kubelet(tempfile::TempDir);

impl Kubelet {
    fn file(&self) -> PathBuf {
        self.0.path().join("token")
    }

    fn keep(&self, application: &Application) {
        std::fs::write(self.file(), application.assertion() + "\n").expect("writable");
    }
}

/// A Herald with an identity of its own, and an Azure DevOps that knows it.
async fn azure(shape: impl FnOnce(Manifest) -> Manifest, flags: &[&str]) -> (Scene, Kubelet) {
    azure_by(Arc::new(SystemClock), shape, flags).await
}

async fn azure_by(clock: Arc<dyn Clock>, shape: impl FnOnce(Manifest) -> Manifest, flags: &[&str]) -> (Scene, Kubelet) {
    let forge = forge().await;
    forge.application(application());
    let kubelet = Kubelet(tempfile::tempdir().expect("a folder"));
    kubelet.keep(&application());
    let own = [
        format!("--azure-authority-host={}", forge.url()),
        format!("--azure-tenant-id={}", application().tenant),
        format!("--azure-client-id={}", application().client),
        format!("--azure-federated-token-file={}", kubelet.file().display()),
    ];
    let flags: Vec<&str> = own.iter().map(String::as_str).chain(flags.iter().copied()).collect();
    let provider = shape(provider("azuredevops", "git", &format!("{}/org/project/_git/fleet", forge.url())));
    let scene = Scene::with_by(clock, forge, [provider, token(), alert("all", "git")], &flags).await;
    (scene, kubelet)
}

const EXCHANGE: &str = "/oauth2/v2.0/token";

#[tokio::test]
async fn heralds_own_identity_is_used_where_there_is_no_token() {
    let (scene, _kubelet) = azure(|provider| provider, &[]).await;
    scene.tell([event(1), event(2)]).await;
    let exchanges = to(&scene.forge, EXCHANGE);
    assert_eq!(exchanges.len(), 1, "and kept");
    assert_eq!(exchanges[0].uri, format!("/{}/oauth2/v2.0/token", application().tenant));
    let form: Vec<(String, String)> = url::form_urlencoded::parse(&exchanges[0].body).into_owned().collect();
    let form: Vec<(&str, &str)> = form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        form,
        [
            ("client_assertion", application().assertion().as_str()),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_id", &application().client),
            ("grant_type", "client_credentials"),
            ("scope", "499b84ac-1321-427f-aa17-267ca6975798/.default"),
        ]
    );
    let bearer = format!("Bearer {}", scene.forge.minted()[0]);
    let others = scene.forge.requests().into_iter().filter(|request| !request.uri.ends_with(EXCHANGE));
    assert!(others.into_iter().all(|request| request.header("authorization") == bearer));
    assert_eq!(scene.forge.statuses(&sha(1))[0].state, "succeeded");
    scene.end(2, 3).await;
}

/// The organisation that one team names may be none that the identity is known in.
#[tokio::test]
async fn what_one_namespace_is_refused_holds_no_other_with_the_same_identity() {
    let (scene, _kubelet) = azure(|provider| provider.spec("suspend", true), &[]).await;
    for team in ["one", "two"] {
        let address = format!("{}/{team}/project/_git/fleet", scene.forge.url());
        scene.folder.write(&alert("team", "team").namespace(team));
        scene.folder.write(&provider("azuredevops", "team", &address).namespace(team));
        let key = herald::api::Key::new(team, "team");
        let known = || async { scene.herald.app.stores.provider(&key).map(drop) };
        wait::until(DEADLINE, "the Provider to be known", known).await;
    }
    scene.forge.fail(Fault::answer(401).path("/one/").every(1));
    scene.post(&event(1).namespace("one")).await;
    scene.requests(3).await;
    scene.post(&event(2).namespace("two")).await;
    assert!(scene.forge.until(DEADLINE, |forge| !forge.statuses(&sha(2)).is_empty()).await);
    assert_eq!(to(&scene.forge, EXCHANGE).len(), 1, "one token for both, as it is new");
    scene.herald.stop().await;
}

#[tokio::test]
async fn the_file_is_read_anew_for_each_token() {
    let clock = Arc::new(Ahead::default());
    let (scene, kubelet) = azure_by(clock.clone(), |provider| provider, &[]).await;
    scene.tell([event(1)]).await;
    clock.turn_seconds(NEW);
    let new = Application { subject: "system:serviceaccount:flux-system:renamed".into(), ..application() };
    kubelet.keep(&new);
    scene.forge.withdraw();
    let logs = Logs::collect();
    scene.post(&event(2)).await;
    logs.until(&["cannot get a token from Entra: answered 400", "AADSTS70021", "renamed", "will try again"]).await;
    kubelet.keep(&application());
    let touched = git("azuredevops", &scene.forge).spec("timeout", "14s").spec("secretRef", serde_json::Value::Null);
    scene.change("git", |folder| drop(folder.write(&touched))).await;
    // Refused, not exchanged, exchanged.
    scene.end(3, 5).await;
}

#[tokio::test]
async fn what_entra_says_decides_when_it_is_asked_again() {
    for code in [400, 401, 403, 404] {
        let (scene, _kubelet) = azure(|provider| provider, &[]).await;
        scene.forge.fail(Fault::answer(code).body(REFUSAL).path(EXCHANGE));
        scene.post(&event(1)).await;
        scene.quiet().await;
        assert_eq!(scene.herald.app.outbox.counts().held, 1, "{code}: parked");
        assert_eq!(scene.forge.requests().len(), 1);
        scene.herald.stop().await;
    }
    for harm in [Fault::answer(500), Fault::answer(503).header("retry-after", "1"), Fault::reset()] {
        let (scene, _kubelet) = azure(|provider| provider, &[]).await;
        scene.forge.fail(harm.path(EXCHANGE));
        scene.tell([event(1)]).await;
        scene.end(1, 3).await;
    }
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named_by_its_variable() {
    let logs = Logs::collect();
    let (scene, kubelet) = azure(|provider| provider, &[]).await;
    std::fs::remove_file(kubelet.file()).expect("it was there");
    scene.post(&event(1)).await;
    logs.until(&["AZURE_FEDERATED_TOKEN_FILE", "cannot be read", "will try again"]).await;
    assert!(scene.forge.requests().is_empty());
    scene.herald.stop().await;
}

#[tokio::test]
async fn a_personal_access_token_wins_over_an_identity() {
    let (scene, _kubelet) = azure(|provider| provider.secret("token"), &[]).await;
    scene.forge.token(TOKEN, crate::support::forge::Access::Write);
    scene.tell([event(1)]).await;
    assert!(scene.forge.requests()[0].header("authorization").starts_with("Basic "));
    scene.end(1, 1).await;
}

type Shape = fn(Manifest) -> Manifest;

#[tokio::test]
async fn an_identity_is_not_lent_to_whoever_writes_a_provider() {
    let elsewhere = "https://dev.azure.com and nowhere else";
    let cases: [(Shape, &str, &str); 10] = [
        (
            |git| git.spec("address", "https://azure.example.org/org/project/_git/fleet"),
            "InvalidCredentials",
            elsewhere,
        ),
        (|git| git.spec("address", "http://dev.azure.com/org/project/_git/fleet"), "InvalidCredentials", elsewhere),
        // Loopback is the operator's where Entra is, and a tenant's nowhere.
        (|git| git.spec("address", "http://127.0.0.1:9/org/project/_git/fleet"), "InvalidCredentials", elsewhere),
        (|git| git.spec("address", "https://[::1]:9/org/project/_git/fleet"), "InvalidCredentials", elsewhere),
        (
            |git| {
                git.annotation("herald.sh/api-url", "https://dev.azure.com/other/")
                    .spec("address", "https://dev.azure.com/org/project/_git/fleet")
            },
            "InvalidCredentials",
            elsewhere,
        ),
        (
            |git| git.spec("certSecretRef", serde_json::json!({"name": "ca"})),
            "InvalidCredentials",
            "key ca.crt of Secret",
        ),
        (
            |git| git.spec("certSecretRef", serde_json::json!({"name": "client"})),
            "InvalidCredentials",
            "keys tls.crt and tls.key of Secret",
        ),
        (|git| git.spec("proxy", "http://proxy.example.org:3128"), "InvalidCredentials", "spec.proxy is not used"),
        (
            |git| git.spec("proxySecretRef", serde_json::json!({"name": "proxy"})),
            "InvalidCredentials",
            "key address of Secret",
        ),
        (|git| git.spec("serviceAccountName", "x"), "FeatureGateDisabled", "ObjectLevelWorkloadIdentity"),
    ];
    for (shape, reason, words) in cases {
        let logs = Logs::collect();
        let (scene, _kubelet) = azure(shape, &[]).await;
        let authority = crate::tls::Authority::new();
        let (certificate, key) = authority.sign(rcgen::ExtendedKeyUsagePurpose::ClientAuth);
        scene.folder.write(&secret("ca", "ca.crt", &authority.pem()));
        scene.folder.write(&secret("client", "tls.crt", &certificate.pem()).key("tls.key", &key.serialize_pem()));
        scene.folder.write(&secret("proxy", "address", "http://proxy.example.org:3128"));
        scene.post(&event(1)).await;
        logs.until(&["ERROR", "Healthy", reason, words, "name=git"]).await;
        assert!(scene.forge.requests().is_empty(), "{words}");
        scene.herald.stop().await;
    }
}

/// Type `bitbucket` is the cloud, whose address is not that of a company's server.
#[tokio::test]
async fn a_credential_for_a_server_of_ones_own_goes_to_no_cloud() {
    for (shape, words) in [
        ((|git| git.spec("address", "https://bitbucket.corp.example/team/fleet.git")) as Shape, "spec.address names"),
        (|git| git.spec("address", "git@bitbucket.corp.example:team/fleet.git"), "spec.address names"),
        (|git| git.spec("address", "https://bitbucket.org.corp.example/scm/team/fleet.git"), "spec.address names"),
    ] {
        let logs = Logs::collect();
        let forge = forge().await;
        let manifests = [shape(git("bitbucket", &forge)), token(), alert("all", "git")];
        let scene = Scene::with(forge, manifests, &[]).await;
        scene.post(&event(1)).await;
        logs.until(&["ERROR", "Ready", "InvalidAddress", words, "spec.type bitbucketserver", "name=git"]).await;
        assert!(scene.forge.requests().is_empty());
        // What was accepted waits for the right address.
        scene.folder.write(&git("bitbucket", &scene.forge));
        scene.end(1, 1).await;
    }
}

#[tokio::test]
async fn a_service_account_needs_the_gate_whatever_the_type() {
    for kind in ["generic", "github"] {
        let logs = Logs::collect();
        let forge = forge().await;
        let git = git(kind, &forge).spec("serviceAccountName", "x");
        let scene = Scene::with(forge, [git.clone(), token(), alert("all", "git")], &[]).await;
        scene.post(&event(1)).await;
        logs.until(&["ERROR", "Healthy", "FeatureGateDisabled", "ObjectLevelWorkloadIdentity=true", "name=git"]).await;
        assert!(scene.forge.requests().is_empty());

        // With it, the types that are no cloud's do not look at the field.
        let open =
            crate::scene::herald(&scene.forge, &scene.folder, &["--feature-gates=ObjectLevelWorkloadIdentity=true"]);
        let open = open.await;
        assert_eq!(open.post(&event(1)).await, 202);
        open.idle().await;
        assert_eq!(scene.forge.writes(), 1, "{kind}");
        open.stop().await;
        scene.herald.stop().await;
    }
    let logs = Logs::collect();
    let gate = "--feature-gates=ObjectLevelWorkloadIdentity=true";
    let (scene, _kubelet) = azure(|provider| provider.spec("serviceAccountName", "x"), &[gate]).await;
    scene.post(&event(1)).await;
    logs.until(&["InvalidCredentials", "needs a cluster"]).await;
    scene.herald.stop().await;
}

#[test]
fn a_default_service_account_needs_the_gate_too() {
    let folder = Folder::with([]);
    let run = |flags: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_herald"))
            .args(["--manifests", folder.path().to_str().expect("UTF-8"), "--events-addr=127.0.0.1:0"])
            .arg("--allow-address=127.0.0.0/8")
            .args(["--health-addr=127.0.0.1:0", "--metrics-addr=127.0.0.1:0", "--default-service-account=team"])
            .args(flags)
            .output()
            .expect("it starts")
    };
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(said.contains("ObjectLevelWorkloadIdentity=true"), "{said}");
    let output = run(&["--feature-gates=ObjectLevelWorkloadIdentity=true", "--azure-authority-host=http://entra.test"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(said.contains("AZURE_AUTHORITY_HOST"), "{said}");
}

#[tokio::test]
async fn neither_assertion_nor_entra_token_shows_anywhere() {
    let logs = Logs::collect();
    let (scene, _kubelet) = azure(|provider| provider, &["--token-cache-max-size=0"]).await;
    for (number, at, code) in
        [(1, EXCHANGE, 400), (2, EXCHANGE, 500), (3, "/statuses", 400), (4, "/statuses", 401), (5, "/statuses", 500)]
    {
        scene.forge.fail(Fault::answer(code).echo().path(at));
        let touched = provider("azuredevops", "git", &format!("{}/org/project/_git/fleet", scene.forge.url()));
        scene.change("git", |folder| drop(folder.write(&touched.spec("timeout", format!("{}s", 20 + number))))).await;
        scene.post(&event(number)).await;
        scene.quiet().await;
    }
    let text = logs.text();
    let assertion = application().assertion();
    assert!(scene.forge.minted().len() > 2);
    for secret in scene.forge.minted().iter().chain([&assertion]) {
        let line = text.lines().find(|line| line.contains(secret.as_str())).map(str::to_owned);
        assert_eq!(line, None, "{secret}");
        assert!(!scene.herald.app.metrics.encode().contains(secret.as_str()));
    }
    assert!(text.contains("client_assertion=*****"), "what Entra said is told, masked");
    scene.herald.stop().await;
}
