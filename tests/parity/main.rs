//! Herald beside Flux's notification-controller, the peer: the same input must lead to the same
//! requests at the vendor. `cargo test --test parity` runs it; everything here needs real servers.
//!
//! | module | what it shows |
//! |---|---|
//! | `golden` | recorded cases, request by request; what differs stands in `docs/parity.md` |
//! | `chain` | the real kustomize-controller on a real API server, statuses on a real Gitea |
//! | `many` | 500 objects on one commit: 500 writes, however often nothing changed |
//! | `outage` | the same chain, and Gitea is killed for a while in the middle |

#[path = "../support/mod.rs"]
mod support;

mod chain;
mod golden;
mod many;
mod outage;

use std::path::Path;
use std::time::Duration;

use herald::api::Key;
use herald::view::{SecretView, View};
use tokio::sync::OnceCell;

use support::apiserver::ApiServer;
use support::app::{DEADLINE, Herald};
use support::wait;

/// The group of Herald's objects in the version that is stored.
const API_VERSION: &str = "notification.toolkit.fluxcd.io/v1beta3";

/// The API server of this binary, with Herald's own CRDs in it.
async fn api_server() -> &'static ApiServer {
    static READY: OnceCell<&ApiServer> = OnceCell::const_new();
    let ready = READY.get_or_init(|| async {
        let api = ApiServer::shared().await;
        for kind in ["alerts", "providers"] {
            api.apply_crds(&root().join(format!("crds/notification.toolkit.fluxcd.io_{kind}.yaml")));
        }
        api
    });
    ready.await
}

/// Herald on the objects of one namespace, so that tests keep apart.
async fn herald_in(api: &ApiServer, namespace: &str, flags: &[&str]) -> Herald {
    let namespace = format!("--runtime-namespace={namespace}");
    let of_namespace = ["--watch-all-namespaces=false", &namespace];
    Herald::cluster(api.client().await, &[&of_namespace, flags].concat()).await
}

/// Waits until Herald knows an Alert, the Provider of the same name and that one's Secrets: from
/// then on the next event is judged by them.
async fn known(herald: &Herald, namespace: &str, name: &str) {
    let key = Key::new(namespace, name);
    let stores = &herald.app.stores;
    wait::until(DEADLINE, &format!("Herald to know {key}"), || async {
        let view = stores.provider(&key).filter(|_| stores.index.get(&key).is_some())?;
        view.secrets.values().all(|secret| matches!(secret, SecretView::Present(_))).then_some(())
    })
    .await;
}

/// Waits until everything accepted was told or given up, for as long as a real Git host may need.
async fn idle(herald: &Herald, deadline: Duration) {
    wait::until_ok(deadline, "the outbox to be empty", || async {
        match herald.app.outbox.counts() {
            counts if counts.held == 0 => Ok(()),
            counts => Err(format!("{counts:?}")),
        }
    })
    .await;
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
