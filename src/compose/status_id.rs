//! The name of a commit status.

use std::sync::Arc;

use crate::api::InvolvedObject;

/// The default: lower-case `kind/name/uid`, where `uid` is the Provider's UID up to its first
/// dash. The peer finds its own statuses by it, and so do required checks; the namespace is not
/// part of it.
pub fn default_id(object: &InvolvedObject, provider_uid: &str) -> Arc<str> {
    let short = provider_uid.split('-').next().unwrap_or_default();
    format!("{}/{}", label(object), short.to_lowercase()).into()
}

/// Lower-case `kind/name`.
pub fn label(object: &InvolvedObject) -> String {
    format!("{}/{}", object.kind, object.name).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_name() {
        let object =
            InvolvedObject { kind: "Kustomization".into(), name: "gitops-system".into(), ..Default::default() };
        let id = default_id(&object, "0c9c2e41-d2f9-4f9b-9c41-bebc1984d67a");
        assert_eq!(&*id, "kustomization/gitops-system/0c9c2e41");
    }
}
