//! The Secrets that Providers name, and no others: one watch of metadata tells which changed, and
//! of those the named ones are read. An event reads nothing.

use std::collections::HashMap;
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
use crate::clock::doubling;
use crate::view::{SecretData, SecretView};

/// Reads under way at once. Herald allows itself 16 connections to the API server, and the client
/// opens one whenever none is idle at that moment, so there come to be more than requests. In a
/// storm of changes, with three watches and as many status writes, 4 of each reached 16; 3 of each
/// are as fast and reach 12.
const READS_AT_ONCE: usize = 3;

/// Pause after a read that failed; doubled with each more of the same Secret.
const RETRY: Duration = Duration::from_secs(5);

/// The longest pause.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// An answer may take this long, lest a read that hangs keep the others waiting.
const WITHIN: Duration = Duration::from_secs(10);

/// Reads named Secrets that changed.
#[derive(Clone)]
pub struct Reader {
    client: Client,
    stores: Arc<Stores>,
    failing: Arc<Mutex<HashMap<Key, Failing>>>,
}

/// A Secret whose last read failed.
#[derive(Default)]
struct Failing {
    /// So many in a row.
    times: u32,
    /// It is read again after a pause: once, however often it is touched meanwhile.
    waits: bool,
}

impl Reader {
    /// A reader, not yet running.
    pub fn new(client: Client, stores: Arc<Stores>) -> Self {
        Self { client, stores, failing: Arc::default() }
    }

    /// Reads what the stores ask for, for ever.
    pub async fn run(self) {
        loop {
            let keys = self.stores.to_read.take().await;
            futures::stream::iter(keys).for_each_concurrent(READS_AT_ONCE, |key| self.read(key)).await;
        }
    }

    async fn read(&self, key: Key) {
        if !is_name(&key.name) {
            // It would be read as some other address; there cannot be such a Secret.
            return self.stores.set_secret(&key, SecretView::Missing);
        }
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
        if !matches!(secret, SecretView::Unreadable(_)) {
            self.failing.lock().remove(&key);
        }
        self.stores.set_secret(&key, secret);
    }

    fn again(&self, key: Key) {
        let pause = {
            let mut failing = self.failing.lock();
            let failing = failing.entry(key.clone()).or_default();
            if std::mem::replace(&mut failing.waits, true) {
                return;
            }
            let pause = doubling(RETRY, LONGEST_RETRY, failing.times);
            failing.times += 1;
            pause
        };
        let (stores, failing) = (self.stores.clone(), self.failing.clone());
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            if stores.is_named(&key) {
                failing.lock().entry(key.clone()).or_default().waits = false;
                stores.to_read.add(key);
            } else {
                failing.lock().remove(&key);
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
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Init | Event::InitApply(_)) => {}
            Ok(Event::InitDone) => {
                // After a gap anything may have changed, also what is being read just now.
                stores.named_secrets().into_iter().for_each(|key| stores.to_read.add(key));
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

/// Whether an object can have this name: that of a DNS subdomain (RFC 1123), as the API server asks.
pub(super) fn is_name(name: &str) -> bool {
    let label = |label: &str| {
        let ends = |char: Option<char>| char.is_some_and(|char| char.is_ascii_lowercase() || char.is_ascii_digit());
        let inside = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '-';
        ends(label.chars().next()) && ends(label.chars().last()) && label.chars().all(inside)
    };
    name.len() <= 253 && name.split('.').all(label)
}

fn key(secret: &impl ResourceExt) -> Key {
    Key::new(secret.namespace().unwrap_or_default(), secret.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_secret_can_have() {
        for name in ["token", "a", "0", "git.example.org", "a-b.c-d", &"a".repeat(253)] {
            assert!(is_name(name), "{name}");
        }
        for name in
            ["", "q?x=1", "?limit=500", "../x", "a/b", "A", "a_b", "-a", "a-", "a..b", ".", "ä", &"a".repeat(254)]
        {
            assert!(!is_name(name), "{name}");
        }
    }
}
