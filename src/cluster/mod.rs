//! What the API server tells us, or a directory of files in its place: both feed the same
//! [`Stores`], and nothing downstream can tell which.

mod accounts;
mod changes;
mod connection;
pub mod discovery;
mod labels;
pub mod lease;
pub mod manifests;
mod object;
pub mod replicas;
mod secrets;
mod stores;
mod watch;

pub use accounts::Accounts;
pub use changes::{Changes, ObjectKind, ObjectRef};
pub use connection::Connection;
pub use labels::{LabelKind, Labels, Reach};
pub use object::Observed;
pub use stores::Stores;

use std::sync::Arc;

use kube::Client;
use tokio::task::JoinSet;

use crate::compute::Compute;
use crate::ops::metrics::Metrics;

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
    compute: &Arc<Compute>,
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
            compute.clone(),
        ));
    }
    tasks.spawn(secrets::watch(client.clone(), namespace.map(str::to_owned), stores.clone()));
    tasks.spawn(reader.run());
    tasks.spawn(labels::watch_wanted(client.clone(), namespace.map(str::to_owned), stores.clone()));
}
