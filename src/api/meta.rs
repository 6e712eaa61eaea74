//! The few fields of object metadata that Herald keeps. Used by every stage that names an object.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Namespace and name. Cheap to clone; prints as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl Key {
    /// A key from its two parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What Herald keeps of an object's metadata.
#[derive(Clone, Debug)]
pub struct ObjectMeta {
    /// Namespace and name.
    pub key: Key,
    /// The object's UID; without a cluster see [`uid_without_cluster`].
    pub uid: Arc<str>,
    /// Rises when the spec changes; 0 without a cluster.
    pub generation: i64,
    /// Only our own annotations (`herald.sh/…`).
    pub annotations: BTreeMap<String, String>,
}

/// Random, fixed once: the name space for UIDs of objects that no cluster has given one.
const UID_NAMESPACE: Uuid = Uuid::from_u128(0x6d0b_9c1e_5f0a_4f5e_9a63_0f3c_2f8c_71d4);

/// The UID of an object read from a file: UUIDv5 of `namespace/name`, so that it is the same at
/// every start and the names of statuses stay the same.
pub fn uid_without_cluster(key: &Key) -> Arc<str> {
    Uuid::new_v5(&UID_NAMESPACE, key.to_string().as_bytes()).to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uid_without_a_cluster_is_stable_and_differs_by_name() {
        let one = uid_without_cluster(&Key::new("flux-system", "github"));
        assert_eq!(one, uid_without_cluster(&Key::new("flux-system", "github")));
        assert_ne!(one, uid_without_cluster(&Key::new("flux-system", "gitea")));
        assert_eq!(one.len(), 36);
    }
}
