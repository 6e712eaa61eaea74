//! The whole chain, and the Git host is killed for a while in the middle: commits that were applied meanwhile have their
//! right status once it is back, although kustomize-controller told of each but once or twice.

use std::time::{Duration, Instant};

use herald::ops::metrics::Outcome;
use serde_json::json;

use crate::chain::{NAME, SOON, Seen, config_map, notifications};
use crate::support::app::DEADLINE;
use crate::support::gitea::Gitea;
use crate::support::kustomize::{self, Artifacts, KUSTOMIZE, KustomizeController};
use crate::support::wait;
use crate::{api_server, herald_in, idle, known};

const REPOSITORY: &str = "outage";

/// Kustomizations: one works at every commit, one only at every second.
const NAMES: [&str; 2] = ["good", "moody"];

/// How long the host is away; a minute for `make torture`.
fn away() -> Duration {
    Duration::from_secs(if std::env::var_os("HERALD_TORTURE").is_some() { 60 } else { 20 })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_of_an_outage_get_their_statuses_afterwards() {
    let (api, mut gitea) = tokio::join!(api_server(), Gitea::start());
    let namespace = api.namespace(REPOSITORY);
    let address = gitea.create_repo(REPOSITORY).await;
    let commits = gitea.commit(REPOSITORY, 5).await;
    let herald = herald_in(api, &namespace, &[]).await;
    api.kubectl_apply(&notifications(&namespace, &address, &gitea.token).to_string());
    known(&herald, &namespace, NAME).await;
    let uid = api.kubectl_ok(&["get", "provider", NAME, "-n", &namespace, "-o", "jsonpath={.metadata.uid}"]);
    let uid = uid.split('-').next().expect("a UID has parts").to_owned();

    let artifacts = Artifacts::serve().await;
    let is_well = |number: usize| number % 2 == 1;
    let publish = |number: usize| {
        let (good, moody) = (config_map("good"), config_map("moody"));
        let moody = if is_well(number) { moody } else { moody.replace("ConfigMap", "Nonsense") };
        let files = [("good/map.yaml", good.as_str()), ("moody/map.yaml", &moody)];
        let artifact = artifacts.publish(&revision(&commits[number]), &files);
        kustomize::git_repository(api, &namespace, REPOSITORY, &address, &artifact);
    };
    let objects = api.objects(&namespace, KUSTOMIZE, "Kustomization").await;
    let tried = async |number: usize| {
        let (objects, wanted) = (&objects, &revision(&commits[number]));
        wait::until_ok(SOON, &format!("{wanted} to be tried"), || async move {
            for name in NAMES {
                let object = objects.get(name).await.map_err(|error| error.to_string())?;
                if object.data["status"]["lastAttemptedRevision"] != json!(wanted) {
                    return Err(object.data["status"].to_string());
                }
            }
            Ok(())
        })
        .await;
    };

    publish(0);
    for name in NAMES {
        let spec = json!({"path": name, "timeout": "30s", "retryInterval": "5s"});
        kustomize::kustomization(api, &namespace, name, REPOSITORY, &spec);
    }
    let _controller = KustomizeController::start(api, &namespace, &herald.events_url()).await;
    let (good, bad) = (["success: reconciliation succeeded"], ["failure: reconciliation failed"]);
    let seen = Seen { gitea: &gitea, repository: REPOSITORY, uid: uid.clone() };
    seen.until(&commits[0], SOON, &[("good", &good), ("moody", &bad)]).await;

    gitea.stop();
    let stopped = Instant::now();
    for number in 1..4 {
        publish(number);
        tried(number).await;
    }
    tokio::time::sleep(away().saturating_sub(stopped.elapsed())).await;
    let waiting = herald.app.outbox.counts().held;
    println!("after {:?} without the host {waiting} statuses wait", stopped.elapsed());
    assert_eq!(waiting, 3 * NAMES.len(), "one for each commit and object, whatever became of the object since");

    gitea.resume().await;
    let back = Instant::now();
    publish(4);
    let seen = Seen { gitea: &gitea, repository: REPOSITORY, uid };
    for (number, commit) in commits.iter().enumerate() {
        let moody = if is_well(number) { &good } else { &bad };
        seen.until(commit, SOON, &[("good", &good), ("moody", moody)]).await;
    }
    println!("all statuses are right {:?} after it was back", back.elapsed());
    idle(&herald, DEADLINE).await;
    let count = |outcome| herald.app.metrics.notifications(outcome);
    assert_eq!(count(Outcome::Delivered), commits.len() as u64 * 2, "as many requests as rows");
    assert_eq!((count(Outcome::Refused), count(Outcome::Failed)), (0, 0));
    herald.stop().await;
}

fn revision(commit: &str) -> String {
    format!("main@sha1:{commit}")
}
