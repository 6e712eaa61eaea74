//! From an object as the API server or a file has it to the types of `api`. Objects of every
//! served version have the same fields.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::api::DynamicObject;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ObjectKind;
use crate::api::conditions::Condition;
use crate::api::meta::uid_without_cluster;
use crate::api::{GROUP, Key, OLD_FINALIZER, ObjectMeta, STORED_VERSION};

/// Prefix of our own annotations, the only ones that are kept.
const OUR_ANNOTATIONS: &str = "herald.sh/";

/// What the API server has in an object besides its spec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The object's UID; empty without a cluster.
    pub uid: Arc<str>,
    /// The generation of the spec.
    pub generation: i64,
    /// The conditions that stand.
    pub conditions: Vec<Condition>,
    /// The object is being deleted, and only an old finalizer of Flux's, among these, holds it.
    pub finalizers_to_strip: Option<Vec<String>>,
    /// For optimistic locking.
    pub resource_version: String,
}

/// The parts of an object's metadata that Herald keeps.
pub fn meta(object: &DynamicObject) -> ObjectMeta {
    let metadata = &object.metadata;
    let key =
        Key::new(metadata.namespace.as_deref().unwrap_or("default"), metadata.name.as_deref().unwrap_or_default());
    let annotations: BTreeMap<String, String> = metadata
        .annotations
        .iter()
        .flatten()
        .filter(|(name, _)| name.starts_with(OUR_ANNOTATIONS))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    ObjectMeta {
        uid: metadata.uid.as_deref().map_or_else(|| uid_without_cluster(&key), Into::into),
        generation: metadata.generation.unwrap_or_default(),
        annotations,
        key,
    }
}

/// The spec, or what is wrong with it; no spec at all is an empty one.
pub fn spec<T: DeserializeOwned + Default>(object: &DynamicObject) -> Result<T, String> {
    match object.data.get("spec") {
        None | Some(Value::Null) => Ok(T::default()),
        Some(spec) => T::deserialize(spec).map_err(|error| format!("spec cannot be read: {error}")),
    }
}

/// The object as an expression sees it: without what changes with every write of a status.
pub fn json(kind: ObjectKind, object: &DynamicObject) -> Value {
    let mut metadata = serde_json::to_value(&object.metadata).unwrap_or_default();
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.remove("managedFields");
        metadata.remove("resourceVersion");
    }
    let mut json = object.data.clone();
    if let Some(object) = json.as_object_mut() {
        object.remove("status");
    }
    json["apiVersion"] = format!("{GROUP}/{STORED_VERSION}").into();
    json["kind"] = kind.to_string().into();
    json["metadata"] = metadata;
    json
}

/// What stands in the object besides its spec. Conditions that cannot be read count as absent.
pub fn observed(object: &DynamicObject) -> Observed {
    let conditions = object.data.pointer("/status/conditions").cloned();
    let finalizers = object.metadata.finalizers.as_deref().unwrap_or_default();
    let held = object.metadata.deletion_timestamp.is_some() && finalizers.iter().any(|name| name == OLD_FINALIZER);
    Observed {
        uid: object.metadata.uid.as_deref().unwrap_or_default().into(),
        generation: object.metadata.generation.unwrap_or_default(),
        conditions: conditions.and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default(),
        finalizers_to_strip: held.then(|| finalizers.iter().filter(|name| *name != OLD_FINALIZER).cloned().collect()),
        resource_version: object.metadata.resource_version.clone().unwrap_or_default(),
    }
}
