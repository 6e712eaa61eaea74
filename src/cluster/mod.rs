//! What the API server tells us, or a directory of files in its place: both feed the same
//! [`Stores`], and nothing downstream can tell which.

mod changes;
pub mod discovery;
mod labels;
pub mod lease;
pub mod manifests;
mod object;
mod secrets;
mod stores;
mod watch;

pub use changes::{Changes, ObjectKind, ObjectRef};
pub use labels::{LabelKind, Labels, Reach};
pub use object::Observed;
pub use stores::Stores;

use std::sync::Arc;

use anyhow::Context;
use kube::Client;
use tokio::task::JoinSet;

use crate::ops::metrics::Metrics;

/// A client for the cluster Herald runs in, or that KUBECONFIG names.
///
/// # Errors
/// When there is neither; the text says what to do.
pub async fn client() -> anyhow::Result<Client> {
    crate::install_tls_provider();
    Client::try_default().await.context(
        "no cluster to talk to: run in a cluster, set KUBECONFIG, or use --manifests DIR to read a directory instead",
    )
}

/// Starts the watches of a cluster: Alerts, Providers, the metadata of Secrets, and the labels
/// that Alerts select by. Each runs until it is aborted.
///
/// `namespace` limits all of them to one.
pub fn start(
    tasks: &mut JoinSet<()>,
    client: &Client,
    api: &discovery::Api,
    namespace: Option<&str>,
    stores: &Arc<Stores>,
    metrics: &Arc<Metrics>,
) {
    let reader = secrets::Reader::new(client.clone(), stores.clone());
    for kind in [ObjectKind::Alert, ObjectKind::Provider] {
        tasks.spawn(watch::objects(
            client.clone(),
            api.resource(kind),
            kind,
            namespace.map(str::to_owned),
            stores.clone(),
            metrics.clone(),
        ));
    }
    tasks.spawn(secrets::watch(client.clone(), namespace.map(str::to_owned), stores.clone()));
    tasks.spawn(reader.run());
    tasks.spawn(labels::watch_wanted(client.clone(), namespace.map(str::to_owned), stores.clone()));
}
