//! The Secrets that Providers name, and no others: one watch of metadata tells which changed, and
//! of those the named ones are read. An event reads nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt};
use parking_lot::Mutex;

use super::Stores;
use crate::api::Key;
use crate::view::{SecretData, SecretView};

/// Reads under way at once. Herald allows itself 16 connections to the API server, and the client
/// opens one whenever none is idle at that moment, so there come to be more than requests. In a
/// storm of changes, with three watches and as many status writes, 4 of each reached 16; 3 of each
/// are as fast and reach 12.
const READS_AT_ONCE: usize = 3;

/// Pause after a read that failed.
const RETRY: Duration = Duration::from_secs(5);

/// An answer may take this long, lest a read that hangs keep the others waiting.
const WITHIN: Duration = Duration::from_secs(10);

/// Reads named Secrets that changed.
#[derive(Clone)]
pub struct Reader {
    client: Client,
    stores: Arc<Stores>,
    /// Those that are read again after a pause: once, however often they are touched meanwhile.
    later: Arc<Mutex<BTreeSet<Key>>>,
}

impl Reader {
    /// A reader, not yet running.
    pub fn new(client: Client, stores: Arc<Stores>) -> Self {
        Self { client, stores, later: Arc::default() }
    }

    /// Reads what the stores ask for, for ever.
    pub async fn run(self) {
        loop {
            let keys = self.stores.to_read.take().await;
            futures::stream::iter(keys).for_each_concurrent(READS_AT_ONCE, |key| self.read(key)).await;
        }
    }

    async fn read(&self, key: Key) {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
        let read = tokio::time::timeout(WITHIN, api.get_opt(&key.name)).await;
        let secret = match read.unwrap_or_else(|late| Err(kube::Error::Service(late.into()))) {
            Ok(Some(secret)) => SecretView::Present(Arc::new(SecretData::new(
                secret.data.into_iter().flatten().map(|(name, value)| (name, value.0)),
            ))),
            Ok(None) => SecretView::Missing,
            Err(kube::Error::Api(status)) if status.code == 403 => {
                self.again(key.clone());
                SecretView::Unreadable("Herald's ServiceAccount has no permission to get it; see config/rbac".into())
            }
            Err(error) => {
                tracing::warn!(logger = "cluster", secret = %key, %error, "cannot read a Secret, will try again");
                self.again(key.clone());
                if self.stores.was_read(&key) {
                    // What it held stays in use.
                    return;
                }
                SecretView::Unreadable("the API server does not give it out; see Herald's log".into())
            }
        };
        self.stores.set_secret(&key, secret);
    }

    fn again(&self, key: Key) {
        if !self.later.lock().insert(key.clone()) {
            return;
        }
        let (stores, later) = (self.stores.clone(), self.later.clone());
        tokio::spawn(async move {
            tokio::time::sleep(RETRY).await;
            later.lock().remove(&key);
            if stores.is_named(&key) {
                stores.to_read.add(key);
            }
        });
    }
}

/// Watches the metadata of Secrets and asks for those that are named and changed, for ever.
pub async fn watch(client: Client, namespace: Option<String>, stores: Arc<Stores>) {
    let api: Api<PartialObjectMeta<Secret>> = match &namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let mut stream = watcher::watcher(api, watcher::Config::default()).default_backoff().boxed();
    let mut seen = BTreeSet::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Init) => seen.clear(),
            Ok(Event::InitApply(secret)) => {
                let key = key(&secret);
                if stores.is_named(&key) {
                    seen.insert(key);
                }
            }
            Ok(Event::InitDone) => {
                // After a gap anything may have changed. What was never read is being read anyway.
                for key in stores.named_secrets() {
                    if stores.was_read(&key) || !seen.contains(&key) {
                        stores.to_read.add(key);
                    }
                }
            }
            Ok(Event::Apply(secret) | Event::Delete(secret)) => {
                let key = key(&secret);
                if stores.is_named(&key) {
                    stores.to_read.add(key);
                }
            }
            Err(error) => {
                tracing::warn!(logger = "cluster", %error, "the watch of Secrets' metadata broke, it will be opened again");
            }
        }
    }
}

fn key(secret: &impl ResourceExt) -> Key {
    Key::new(secret.namespace().unwrap_or_default(), secret.name_any())
}
