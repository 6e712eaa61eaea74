//! Two namespaces beside each other: what the Providers of one hang on, answer or claim stays with that namespace.

use std::sync::Arc;
use std::time::{Duration, Instant};

use herald::ops::metrics::Outcome;
use serde_json::json;

use crate::order::foreign;
use crate::proxy::Proxy;
use crate::scene::{Scene, forge, git, token};
use crate::support::app::DEADLINE;
use crate::support::clock::Ahead;
use crate::support::flux::{Manifest, NAMESPACE, alert, kustomization_event, provider, secret, sha};
use crate::support::forge::{Fault, Forge};
use crate::support::wait;

/// The other namespace.
const TENANT: &str = "team-b";

/// An Alert of the tenant's about the Kustomizations of its own namespace.
fn tenants_alert(name: &str, provider: &str) -> Manifest {
    alert(name, provider).namespace(TENANT)
}

/// The platform's Provider at a repository of the forge, with its Secret and an Alert.
fn platform(kind: &str, forge: &Forge) -> [Manifest; 3] {
    [git(kind, forge), token(), alert("all", "git")]
}

/// Tells as many commits of the platform's, and how long that took.
async fn told(scene: &Scene, commits: u64) -> Duration {
    let started = Instant::now();
    for number in 1..=commits {
        scene.post(&kustomization_event("web", &sha(number))).await;
    }
    let all = |forge: &Forge| (1..=commits).all(|number| !forge.statuses(&sha(number)).is_empty());
    assert!(scene.forge.until(DEADLINE, all).await, "the platform's statuses are written");
    started.elapsed()
}

#[tokio::test]
async fn hooks_of_a_tenant_that_hang_leave_room_for_statuses() {
    let forge = forge().await;
    let elsewhere = crate::scene::forge().await;
    // Half of them at the platform's own Git host.
    for host in [&forge, &elsewhere] {
        host.fail(Fault::hang().path("hook").every(1));
    }
    let hooks = (0..64).flat_map(|number| {
        let host = if number % 2 == 0 { &forge } else { &elsewhere };
        let name = format!("hook-{number}");
        let hook = provider("generic", &name, &format!("{}/hook/{number}", host.url())).namespace(TENANT);
        [hook.spec("timeout", format!("{}s", 30 + number % 20)), tenants_alert(&name, &name)]
    });
    let manifests: Vec<_> = hooks.chain(platform("gitea", &forge)).collect();
    let scene = Scene::with(forge, manifests, &[]).await;
    for number in 0..9 {
        scene.post(&kustomization_event(&format!("mine-{number}"), &sha(100)).namespace(TENANT)).await;
    }
    let hanging = || scene.forge.requests().len() + elsewhere.requests().len();
    wait::until(DEADLINE, "requests that hang", || async { (hanging() >= 200).then_some(()) }).await;
    let took = told(&scene, 20).await;
    assert!(took < Duration::from_secs(15), "{took:?}");
    let under_way = scene.herald.app.outbox.counts().claimed;
    assert!(under_way < 300, "{under_way} jobs of one namespace are under way");
}

#[tokio::test]
async fn a_hook_that_is_broken_says_nothing_of_the_git_host_beside_it() {
    let forge = forge().await;
    forge.fail(Fault::answer(502).path("hook").every(1));
    let hook = provider("generic", "hook", &format!("{}/hook", forge.url())).namespace(TENANT);
    let sources = json!([{"kind": "Kustomization", "name": "*", "namespace": NAMESPACE}]);
    let of_hook = tenants_alert("all", "hook").sources(sources);
    let manifests: Vec<_> = platform("gitea", &forge).into_iter().chain([hook, of_hook]).collect();
    let scene = Scene::with(forge, manifests, &[]).await;
    for number in 0..5 {
        scene.post(&kustomization_event(&format!("first-{number}"), &sha(100)).message(&number.to_string())).await;
    }
    let hooks = |forge: &Forge| forge.requests().iter().filter(|request| request.uri.contains("hook")).count();
    wait::until(DEADLINE, "the hook to fail", || async { (hooks(&scene.forge) >= 3).then_some(()) }).await;
    let took = told(&scene, 60).await;
    assert!(took < Duration::from_secs(15), "{took:?}");
}

#[tokio::test]
async fn a_repository_that_its_host_fails_at_holds_up_no_other_namespace() {
    let forge = forge().await;
    forge.fail(Fault::answer(502).path("acme/broken").every(1));
    let broken = provider("gitea", "git", &format!("{}/acme/broken", forge.url())).secret("token").namespace(TENANT);
    let manifests =
        platform("gitea", &forge).into_iter().chain([broken, token().namespace(TENANT), tenants_alert("all", "git")]);
    let scene = Scene::with(forge, manifests.collect::<Vec<_>>(), &[]).await;
    for number in 0..10 {
        scene.post(&kustomization_event(&format!("mine-{number}"), &sha(100)).namespace(TENANT)).await;
    }
    scene.requests(3).await;
    let took = told(&scene, 30).await;
    assert!(took < Duration::from_secs(15), "{took:?}");
}

// === What another route shows ===

/// A Provider of the tenant's for the platform's repository and the platform's name of the status, by a proxy of the
/// tenant's choice; an Alert of these sources.
fn liar(forge: &Forge, proxy: &str, sources: serde_json::Value) -> [Manifest; 3] {
    let name = format!("'{}'", git("gitea", forge).context("web"));
    let provider = provider("gitea", "git", &format!("{}/acme/fleet", forge.url())).secret("token").namespace(TENANT);
    [
        provider.spec("proxy", proxy).spec("commitStatusExpr", name),
        secret("token", "token", "worthless").namespace(TENANT),
        tenants_alert("all", "git").sources(sources),
    ]
}

/// Every Kustomization of the platform's.
fn platforms() -> serde_json::Value {
    json!([{"kind": "Kustomization", "name": "*", "namespace": NAMESPACE}])
}

/// Every Kustomization of the tenant's.
fn own() -> serde_json::Value {
    json!([{"kind": "Kustomization", "name": "*"}])
}

#[tokio::test]
async fn what_a_tenants_proxy_takes_is_believed_for_nobody_else() {
    let [forge, evil] = [forge().await, forge().await];
    let proxy = Proxy::start(evil.url(), evil.url()).await;
    let manifests = platform("gitea", &forge).into_iter().chain(liar(&forge, &proxy.url, platforms()));
    let scene = Scene::with(forge, manifests.collect::<Vec<_>>(), &[]).await;
    let event = |number| kustomization_event("web", &sha(number));
    let context = git("gitea", &scene.forge).context("web");
    // In whichever order the two are told: each event goes to both.
    for number in 1..=8 {
        scene.tell([event(number), event(number).failed("HealthCheckFailed")]).await;
        assert_eq!(scene.states(&sha(number), &context), ["success", "failure"], "commit {number}");
    }
    assert!(evil.writes() >= 8, "the tenant's proxy took its own");
    // A proxy that says what it likes without taking a write.
    scene.tell([event(9).namespace(TENANT)]).await;
    scene.tell([event(9).failed("HealthCheckFailed").namespace(TENANT)]).await;
    scene.tell([event(9), event(9).failed("HealthCheckFailed")]).await;
    assert_eq!(scene.states(&sha(9), &context).last().map(String::as_str), Some("failure"));
}

#[tokio::test]
async fn what_a_tenants_proxy_lists_is_believed_for_nobody_else() {
    let [forge, evil] = [forge().await, forge().await];
    let proxy = Proxy::start(evil.url(), evil.url()).await;
    let context = git("gitea", &forge).context("web");
    let claim = json!({"state": "failure", "context": context, "description": "reconciliation failed"});
    let failed = kustomization_event("web", &sha(1)).failed("HealthCheckFailed").message("reconciliation failed");
    foreign(&evil, "gitea", &sha(1), [claim]).await;
    let manifests = platform("gitea", &forge).into_iter().chain(liar(&forge, &proxy.url, own()));
    let scene = Scene::with(forge, manifests.collect::<Vec<_>>(), &[]).await;
    // The tenant reads first.
    scene.tell([kustomization_event("mine", &sha(1)).namespace(TENANT)]).await;
    assert!(evil.reads() > 0);
    scene.tell([failed]).await;
    assert_eq!(scene.states(&sha(1), &context), ["failure"]);
}

#[tokio::test]
async fn what_a_tenants_proxy_overwrites_makes_nothing_contested() {
    let [forge, evil] = [forge().await, forge().await];
    let proxy = Proxy::start(evil.url(), evil.url()).await;
    let context = git("gitea", &forge).context("web");
    let clock = Arc::new(Ahead::default());
    let manifests = platform("gitea", &forge).into_iter().chain(liar(&forge, &proxy.url, platforms()));
    let scene = Scene::by(clock.clone(), forge, manifests.collect::<Vec<_>>()).await;
    for _ in 0..4 {
        scene.tell([kustomization_event("web", &sha(1))]).await;
        let claim = json!({"state": "failure", "context": context, "description": "theirs"});
        foreign(&evil, "gitea", &sha(1), [claim]).await;
        clock.turn(61);
    }
    scene.tell([kustomization_event("web", &sha(1)).failed("HealthCheckFailed")]).await;
    assert_eq!(scene.states(&sha(1), &context), ["success", "failure"]);
    // It is contested for the one whose own proxy shows it.
    assert!(scene.ended(Outcome::Refused) >= 1);
}

#[tokio::test]
async fn a_tenants_proxy_that_hangs_holds_up_no_other_read_nor_write() {
    for reads in [true, false] {
        let [forge, evil] = [forge().await, forge().await];
        let hang = Fault::hang().every(1);
        evil.fail(if reads { hang.reads() } else { hang.writes() });
        let proxy = Proxy::start(evil.url(), evil.url()).await;
        let [provider, secret, alert] = liar(&forge, &proxy.url, platforms());
        let hangs = [provider.spec("timeout", "60s"), secret, alert];
        let manifests = platform("gitea", &forge).into_iter().chain(hangs);
        let scene = Scene::with(forge, manifests.collect::<Vec<_>>(), &[]).await;
        let started = Instant::now();
        let context = git("gitea", &scene.forge).context("web");
        scene.post(&kustomization_event("web", &sha(1))).await;
        wait::until(DEADLINE, "a request that hangs", || async { (!evil.requests().is_empty()).then_some(()) }).await;
        scene.post(&kustomization_event("web", &sha(1)).failed("HealthCheckFailed")).await;
        let red = |forge: &Forge| forge.latest(&sha(1), &context).is_some_and(|status| status.state == "failure");
        assert!(scene.forge.until(DEADLINE, red).await, "reads hang: {reads}");
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn providers_with_one_secret_share_a_listing() {
    let forge = forge().await;
    let twin = git("gitea", &forge).namespace(TENANT);
    let alerts = [alert("all", "git"), tenants_alert("all", "git").sources(platforms())];
    let manifests = [git("gitea", &forge), twin, token(), token().namespace(TENANT)].into_iter().chain(alerts);
    let scene = Scene::with(forge, manifests.collect::<Vec<_>>(), &[]).await;
    let events: Vec<_> = (0..50).map(|number| kustomization_event(&format!("app-{number}"), &sha(1))).collect();
    for event in &events {
        scene.post(event).await;
    }
    scene.end(1, 100).await;
}
