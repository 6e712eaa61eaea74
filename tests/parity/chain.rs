//! The whole chain, with nothing simulated: kustomize-controller applies three Kustomizations on a
//! real API server and tells Herald, and what a reader of the repository sees is on Gitea.
//!
//! One Kustomization works, one is refused by the API server, one never gets healthy. Then both
//! are mended, one by a new commit, one in the cluster at the same commit.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use herald::ops::metrics::Outcome;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::DEADLINE;
use crate::support::gitea::{Gitea, OWNER};
use crate::support::kustomize::{self, Artifacts, KustomizeController};
use crate::support::wait;
use crate::{API_VERSION, api_server, herald_in, idle, known};

const REPOSITORY: &str = "chain";

/// What Provider, Alert and Secret are called.
pub const NAME: &str = "gitea";

/// kustomize-controller waits 30 s for a health check, however short its timeout is.
const UNHEALTHY: Duration = Duration::from_secs(75);

/// Everything else it does.
pub const SOON: Duration = Duration::from_secs(45);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_kustomizations_on_a_real_git_host() {
    let started = Instant::now();
    let (api, gitea) = tokio::join!(api_server(), Gitea::shared());
    let namespace = api.namespace("chain");
    let address = gitea.create_repo(REPOSITORY).await;
    let commits = gitea.commit(REPOSITORY, 2).await;
    let [first, second] = &commits[..] else { panic!("two commits were asked for") };

    let herald = herald_in(api, &namespace, &[]).await;
    api.kubectl_apply(&notifications(&namespace, &address, &gitea.token).to_string());
    known(&herald, &namespace, NAME).await;
    let uid = api.kubectl_ok(&["get", "provider", NAME, "-n", &namespace, "-o", "jsonpath={.metadata.uid}"]);
    let seen = Seen { gitea, repository: REPOSITORY, uid: uid.split('-').next().expect("a UID has parts").to_owned() };
    println!("{:?}: the servers are up", started.elapsed());

    let artifacts = Artifacts::serve().await;
    let publish = |commit: &str, bad: &str| {
        let (good, unhealthy) = (config_map("good"), deployment());
        let files = [("good/map.yaml", good.as_str()), ("bad/map.yaml", bad), ("unhealthy/web.yaml", &unhealthy)];
        let artifact = artifacts.publish(&format!("main@sha1:{commit}"), &files);
        kustomize::git_repository(api, &namespace, REPOSITORY, &address, &artifact);
    };
    publish(first, &config_map("bad").replace("ConfigMap", "Nonsense"));
    // Failures come again every few seconds, so unchanged ones are part of every run.
    for name in ["good", "bad", "unhealthy"] {
        let spec = json!({"path": name, "timeout": "30s", "retryInterval": "3s", "wait": name == "unhealthy"});
        kustomize::kustomization(api, &namespace, name, REPOSITORY, &spec);
    }
    let _controller = KustomizeController::start(api, &namespace, &herald.events_url()).await;

    let (good, bad) = ("success: reconciliation succeeded", "failure: reconciliation failed");
    let unhealthy = "failure: health check failed";
    seen.until(first, UNHEALTHY, &[("bad", &[bad]), ("good", &[good]), ("unhealthy", &[unhealthy])]).await;
    assert_eq!(seen.combined(first).await, "failure");
    println!("{:?}: one success, two failures", started.elapsed());

    // There is no controller manager, so the Deployment is as available as we say.
    make_available(api, &namespace);
    let after = [("bad", &[bad][..]), ("good", &[good]), ("unhealthy", &[unhealthy, good])];
    seen.until(first, UNHEALTHY, &after).await;
    assert_eq!(seen.combined(first).await, "failure", "one of the three is still broken");
    println!("{:?}: the same commit is healthy now", started.elapsed());

    publish(second, &config_map("bad"));
    seen.until(second, SOON, &[("bad", &[good]), ("good", &[good]), ("unhealthy", &[good])]).await;
    assert_eq!(seen.combined(second).await, "success");
    println!("{:?}: the next commit is green", started.elapsed());

    // A round in which nothing changes: the controller reports success again, nothing is written.
    let unchanged = herald.app.metrics.notifications(Outcome::Unchanged);
    assert!(unchanged > 0, "the failures were told more than once");
    let now = uuid::Uuid::new_v4().to_string();
    let annotation = format!("reconcile.fluxcd.io/requestedAt={now}");
    api.kubectl_ok(&["annotate", "kustomizations.kustomize.toolkit.fluxcd.io", "--all", "-n", &namespace, &annotation]);
    wait::until(SOON, "the unchanged round", || async {
        (herald.app.metrics.notifications(Outcome::Unchanged) >= unchanged + 3).then_some(())
    })
    .await;
    idle(&herald, DEADLINE).await;
    seen.until(first, SOON, &after).await;
    seen.until(second, SOON, &[("bad", &[good]), ("good", &[good]), ("unhealthy", &[good])]).await;
    let count = |outcome| herald.app.metrics.notifications(outcome);
    assert_eq!(count(Outcome::Delivered), 7, "as many requests as rows");
    assert_eq!((count(Outcome::Refused), count(Outcome::Failed)), (0, 0));
    println!("{:?}: an unchanged round wrote nothing", started.elapsed());
    herald.stop().await;
}

/// What a reader of the repository sees.
pub struct Seen<'a> {
    pub gitea: &'a Gitea,
    pub repository: &'a str,
    /// The part of the Provider's UID that is in every name.
    pub uid: String,
}

impl Seen<'_> {
    /// Waits until a commit has these rows and no others, for each Kustomization in the order of
    /// their writing.
    pub async fn until(&self, commit: &str, deadline: Duration, wanted: &[(&str, &[&str])]) {
        let wanted: BTreeMap<String, Vec<String>> = wanted
            .iter()
            .map(|(name, rows)| (self.context(name), rows.iter().map(|&row| row.to_owned()).collect()))
            .collect();
        let what = format!("the statuses of {commit} to be {wanted:#?}");
        wait::until_ok(deadline, &what, || async {
            let rows = self.rows(commit).await;
            if rows == wanted { Ok(()) } else { Err(format!("{rows:#?}")) }
        })
        .await;
    }

    fn context(&self, name: &str) -> String {
        format!("kustomization/{name}/{}", self.uid)
    }

    async fn rows(&self, commit: &str) -> BTreeMap<String, Vec<String>> {
        let mut rows: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for status in self.gitea.statuses(self.repository, commit).await {
            let text = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
            rows.entry(text("context")).or_default().push(format!("{}: {}", text("status"), text("description")));
        }
        for (context, rows) in &rows {
            assert!(rows.windows(2).all(|pair| pair[0] != pair[1]), "{context} was written without a change: {rows:?}");
        }
        rows
    }

    /// The state of the commit as a whole.
    async fn combined(&self, commit: &str) -> String {
        let path = format!("repos/{OWNER}/{}/commits/{commit}/status", self.repository);
        let answer = self.gitea.request(Method::GET, &path).send().await.expect("Gitea answers");
        let status: Value = answer.json().await.expect("Gitea answers in JSON");
        status["state"].as_str().expect("a commit has a state").to_owned()
    }
}

/// Secret, Provider and Alert.
pub fn notifications(namespace: &str, address: &str, token: &str) -> Value {
    let metadata = json!({"name": NAME, "namespace": namespace});
    let object = |kind, spec| json!({"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"token": token}},
        object("Provider", json!({"type": "gitea", "address": address, "secretRef": {"name": NAME}})),
        object("Alert", json!({
            "providerRef": {"name": NAME},
            "eventSeverity": "info",
            "eventSources": [{"kind": "Kustomization", "name": "*"}],
        })),
    ]})
}

pub fn config_map(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": "value"}}).to_string()
}

fn deployment() -> String {
    let labels = json!({"app": "web"});
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "web", "image": "registry.example.com/web:1"}]},
            },
        },
    })
    .to_string()
}

/// Writes the status that a controller manager would write when the Pods run.
fn make_available(api: &crate::support::apiserver::ApiServer, namespace: &str) {
    let condition = |kind, reason| json!({"type": kind, "status": "True", "reason": reason, "message": "it runs"});
    let status = json!({"status": {
        "observedGeneration": 1,
        "replicas": 1,
        "updatedReplicas": 1,
        "readyReplicas": 1,
        "availableReplicas": 1,
        "conditions": [
            condition("Available", "MinimumReplicasAvailable"),
            condition("Progressing", "NewReplicaSetAvailable"),
        ],
    }});
    let patch = status.to_string();
    let target = ["patch", "deployments.apps", "web", "-n", namespace];
    api.kubectl_ok(&[&target[..], &["--subresource=status", "--type=merge", "-p", &patch]].concat());
}
