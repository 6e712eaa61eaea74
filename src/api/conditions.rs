//! The conditions Herald writes on Alerts and Providers.
//!
//! `Ready` is `False` only for a spec that can never work. Everything that mends itself from
//! outside (a Secret, a vendor) goes into `Healthy`, so that nobody who waits for a Provider is
//! held up by it. Computed by `reconcile`, written by `reconcile::writer`, logged without a
//! cluster.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// `status` of an Alert or Provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Conditions of the object: Ready (its spec can work) and Healthy (what it needs is there).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
}

/// A standard Kubernetes condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Ready` or `Healthy`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// A CamelCase class, such as `SecretNotFound`.
    pub reason: String,
    /// What is wrong and what to do, for people.
    pub message: String,
    /// The generation of the spec this speaks of.
    #[serde(default)]
    pub observed_generation: i64,
    /// When `status` last changed; RFC 3339 with whole seconds.
    pub last_transition_time: String,
}

/// The reason of a condition that is as it should be.
pub const SUCCEEDED: &str = "Succeeded";

/// A condition before it has a time: what ought to stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// `Ready` or `Healthy`.
    pub kind: &'static str,
    /// Whether the status is `True`.
    pub ok: bool,
    /// CamelCase class.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Desired {
    /// `Ready=True/Succeeded` with the message the guides promise.
    pub fn ready() -> Self {
        Self { kind: "Ready", ok: true, reason: SUCCEEDED, message: "Initialized".to_owned() }
    }

    /// `Ready=False`: the spec can never work.
    pub fn not_ready(reason: &'static str, message: String) -> Self {
        Self { kind: "Ready", ok: false, reason, message }
    }

    /// `Healthy=True/Succeeded`.
    pub fn healthy(message: impl Into<String>) -> Self {
        Self { kind: "Healthy", ok: true, reason: SUCCEEDED, message: message.into() }
    }

    /// `Healthy=False`: something outside the spec is missing or wrong.
    pub fn unhealthy(reason: &'static str, message: String) -> Self {
        Self { kind: "Healthy", ok: false, reason, message }
    }

    /// The word in the condition's `status`.
    pub fn status(&self) -> &'static str {
        if self.ok { "True" } else { "False" }
    }
}

/// metav1.Condition as controller-gen prints it, as a list-map by type so that server-side
/// apply owns single conditions.
fn conditions_schema(_: &mut SchemaGenerator) -> Schema {
    let schema = json!({
        "type": "array",
        "description": "Conditions of the object: Ready (its spec can work) and Healthy (what it needs is there).",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "type": {
                    "type": "string", "maxLength": 316,
                    "pattern": r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
                },
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "reason": {
                    "type": "string", "minLength": 1, "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                },
                "message": {"type": "string", "maxLength": 32768},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                "lastTransitionTime": {"type": "string", "format": "date-time"},
            },
        },
    });
    Schema::try_from(schema).expect("the literal above is a JSON object")
}
