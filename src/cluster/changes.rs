//! A set of things that changed, for one reader. Bounded by how many things there are: what
//! changes twice before it is read stands in it once.

use std::collections::BTreeSet;
use std::fmt;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::api::Key;

/// The kinds Herald keeps conditions on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// An Alert.
    Alert,
    /// A Provider.
    Provider,
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// An object by kind and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its namespace and name.
    pub key: Key,
}

/// See the module.
#[derive(Debug)]
pub struct Changes<T> {
    pending: Mutex<BTreeSet<T>>,
    added: Notify,
}

impl<T> Default for Changes<T> {
    fn default() -> Self {
        Self { pending: Mutex::default(), added: Notify::new() }
    }
}

impl<T: Ord> Changes<T> {
    /// Adds one.
    pub fn add(&self, change: T) {
        self.pending.lock().insert(change);
        self.added.notify_one();
    }

    /// Everything added since the last call; waits until there is something.
    pub async fn take(&self) -> BTreeSet<T> {
        loop {
            let added = self.added.notified();
            let pending = std::mem::take(&mut *self.pending.lock());
            if !pending.is_empty() {
                return pending;
            }
            added.await;
        }
    }
}
