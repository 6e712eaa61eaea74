//! Alert: which events go to which Provider. One Rust type for every served version.
//!
//! Fields and validation are those of Flux's v1beta3; `status` is Herald's addition.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::ObjectMeta;
use super::conditions::Status;
use super::provider::LocalObjectReference;

/// Flux's kinds, whose labels an Alert may select by. An Alert may listen to any kind.
pub const EVENT_SOURCE_KINDS: [&str; 12] = [
    "Bucket",
    "GitRepository",
    "Kustomization",
    "HelmRelease",
    "HelmChart",
    "HelmRepository",
    "ImageRepository",
    "ImagePolicy",
    "ImageUpdateAutomation",
    "OCIRepository",
    "ArtifactGenerator",
    "ExternalArtifact",
];

/// An Alert as Herald keeps it.
#[derive(Clone, Debug)]
pub struct Alert {
    /// Name, UID, our annotations.
    pub meta: ObjectMeta,
    /// What the user wrote.
    pub spec: AlertSpec,
    /// The object as JSON text, which an expression of its Provider may ask for.
    pub object: Arc<str>,
}

/// AlertSpec defines which events are sent, and where.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "notification.toolkit.fluxcd.io",
    version = "v1beta3",
    kind = "Alert",
    root = "AlertResource",
    namespaced,
    doc = "Alert is the Schema for the alerts API: which events are sent to which Provider.",
    status = "Status",
    category = "all",
    category = "fluxcd",
    category = "fluxcd-notifications",
    annotation("kustomize.toolkit.fluxcd.io/substitute", "disabled"),
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Healthy","type":"string","jsonPath":".status.conditions[?(@.type==\"Healthy\")].reason"}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].message"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct AlertSpec {
    /// ProviderRef names the Provider, in the namespace of the Alert, that is told.
    pub provider_ref: LocalObjectReference,

    /// EventSeverity is the least severity that is sent: info sends everything, error only
    /// errors.
    #[serde(default = "info")]
    #[schemars(extend("enum" = json!(["info", "error"])))]
    pub event_severity: String,

    /// EventSources lists the objects whose events are sent.
    pub event_sources: Vec<EventSource>,

    /// InclusionList lists Go regular expressions; when it is not empty, only events with a
    /// message that matches one of them are sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inclusion_list: Vec<String>,

    /// ExclusionList lists Go regular expressions; an event with a message that matches one of
    /// them is not sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclusion_list: Vec<String>,

    /// EventMetadata is added to the metadata of each event that is sent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub event_metadata: BTreeMap<String, String>,

    /// Summary is a short text sent with each event. Deprecated: use eventMetadata.summary.
    #[schemars(length(max = 255))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,

    /// Suspend tells the controller to send nothing for this Alert.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
}

/// EventSource selects objects whose events are sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventSource {
    /// API version of the object; it has no effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,

    /// Kind of the object, as a word: any kind that sends events.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,

    /// Name of the object, or `*` for every object of the kind in the namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Namespace of the object; the Alert's own when not given.
    #[schemars(length(min = 1, max = 253))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,

    /// MatchLabels narrows the selection to objects that carry these labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_labels: Option<BTreeMap<String, String>>,
}

fn info() -> String {
    "info".to_owned()
}

impl Default for AlertSpec {
    fn default() -> Self {
        Self {
            provider_ref: LocalObjectReference::default(),
            event_severity: info(),
            event_sources: Vec::new(),
            inclusion_list: Vec::new(),
            exclusion_list: Vec::new(),
            event_metadata: BTreeMap::new(),
            summary: None,
            suspend: false,
        }
    }
}
