//! Two namespaces beside each other: what the Providers of one hang on, answer or claim stays with that namespace.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::scene::{Scene, forge, git, token};
use crate::support::app::DEADLINE;
use crate::support::flux::{Manifest, NAMESPACE, alert, kustomization_event, provider, sha};
use crate::support::forge::{Fault, Forge};

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
    assert!(scene.forge.until(DEADLINE, |_| hanging() >= 200).await, "{} requests hang", hanging());
    let took = told(&scene, 20).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
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
    assert!(scene.forge.until(DEADLINE, |forge| hooks(forge) >= 3).await, "the hook fails");
    let took = told(&scene, 60).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
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
    assert!(took < Duration::from_secs(5), "{took:?}");
}
