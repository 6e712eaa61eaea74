//! Many objects on one commit: as many writes as there are objects, however often nothing changed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::{Value, json};

use crate::support::app::Herald;
use crate::support::forge::Forge;
use crate::support::gitea::Gitea;
use crate::{API_VERSION, idle};

const OBJECTS: usize = 500;

/// Rounds after the first in which nothing changes.
const UNCHANGED_ROUNDS: usize = 60;

/// The same at a real Git host.
const UNCHANGED_ROUNDS_AT_GITEA: usize = 10;

/// Events under way at once: a few controllers, each with a few workers.
const SENDERS: usize = 16;

/// What a real Git host may need for 500 statuses on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_statuses_at_github_are_five_hundred_writes() {
    let forge = Forge::start("127.0.0.1:0").await.expect("loopback has free ports");
    let commit = "1f8acd3265e5ba098dec495eece41c11ba093463";
    rounds("github", &format!("{}/acme/fleet", forge.url()), "t0k", commit, UNCHANGED_ROUNDS).await;

    assert_eq!(forge.writes(), OBJECTS);
    assert_eq!(forge.reads(), 1, "one look at a commit nothing is known of");
    let statuses = forge.statuses(commit);
    assert!(statuses.iter().all(|status| status.state == "success"));
    assert_eq!(names(statuses.iter().map(|status| status.context.as_str())), OBJECTS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_statuses_at_gitea_are_five_hundred_rows() {
    let gitea = Gitea::shared().await;
    let address = gitea.create_repo("many").await;
    let commits = gitea.commit("many", 1).await;
    rounds("gitea", &address, &gitea.token, &commits[0], UNCHANGED_ROUNDS_AT_GITEA).await;

    let statuses = gitea.statuses("many", &commits[0]).await;
    assert_eq!(statuses.len(), OBJECTS, "every write is a row");
    assert!(statuses.iter().all(|status| status["status"] == "success"));
    assert_eq!(names(statuses.iter().filter_map(|status| status["context"].as_str())), OBJECTS);
}

/// Sends every object's success to a Herald of its own, and again so many times.
async fn rounds(kind: &str, address: &str, token: &str, commit: &str, unchanged: usize) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (number, manifest) in manifests(kind, address, token).iter().enumerate() {
        std::fs::write(dir.path().join(format!("{number}.json")), manifest.to_string()).expect("it is writable");
    }
    let herald = Herald::manifests(dir.path(), &[]).await;
    let started = Instant::now();
    round(&herald, commit, 0).await;
    let first = started.elapsed();
    for number in 1..=unchanged {
        round(&herald, commit, number).await;
    }
    println!(
        "{kind}: {OBJECTS} statuses in {first:.1?}; {unchanged} unchanged rounds in {:.1?}",
        started.elapsed() - first
    );
    herald.stop().await;
}

async fn round(herald: &Herald, commit: &str, number: usize) {
    let posts = (0..OBJECTS).map(|object| async move { herald.post(&event(commit, number, object)).await });
    let answers: BTreeSet<u16> = futures::stream::iter(posts).buffer_unordered(SENDERS).collect().await;
    assert_eq!(answers, BTreeSet::from([202]));
    idle(herald, PATIENCE).await;
}

/// The end of a reconciliation, as kustomize-controller tells it: the text is another every time.
fn event(commit: &str, round: usize, object: usize) -> Value {
    json!({
        "involvedObject": {
            "apiVersion": "kustomize.toolkit.fluxcd.io/v1",
            "kind": "Kustomization",
            "namespace": "apps",
            "name": format!("app-{object}"),
            "uid": format!("0f1ca8b3-9d3e-4e2c-8f53-{object:012}"),
            "resourceVersion": (1000 * (round + 1) + object).to_string(),
        },
        "severity": "info",
        "timestamp": "2026-01-02T15:04:05Z",
        "message": format!("Reconciliation finished in {}.{object:03}s, next run in 10m0s", round + 1),
        "reason": "ReconciliationSucceeded",
        "metadata": {
            "kustomize.toolkit.fluxcd.io/revision": format!("main@sha1:{commit}"),
            "kustomize.toolkit.fluxcd.io/commit_status": "update",
        },
        "reportingController": "kustomize-controller",
        "reportingInstance": "kustomize-controller-0",
    })
}

fn manifests(kind: &str, address: &str, token: &str) -> [Value; 3] {
    let metadata = json!({"name": "many", "namespace": "apps"});
    let object = |kind, spec| json!({"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec});
    [
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"token": token}}),
        object("Provider", json!({"type": kind, "address": address, "secretRef": {"name": "many"}})),
        object(
            "Alert",
            json!({
                "providerRef": {"name": "many"},
                "eventSources": [{"kind": "Kustomization", "name": "*"}],
            }),
        ),
    ]
}

fn names<'a>(contexts: impl Iterator<Item = &'a str>) -> usize {
    contexts.collect::<BTreeSet<_>>().len()
}
