//! Provider: where to say it. One Rust type for every served version.
//!
//! Fields and validation are those of Flux's v1beta3; `status` is Herald's addition.

use std::sync::Arc;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::ObjectMeta;
use super::conditions::Status;

/// Every provider type the API server accepts. A type that is not built yet is
/// `Ready=False/UnsupportedType`, not refused by the schema.
pub const PROVIDER_TYPES: &[&str] = &[
    "slack",
    "discord",
    "msteams",
    "rocket",
    "generic",
    "generic-hmac",
    "github",
    "gitlab",
    "gitea",
    "giteapullrequestcomment",
    "bitbucketserver",
    "bitbucket",
    "azuredevops",
    "googlechat",
    "googlepubsub",
    "webex",
    "sentry",
    "azureeventhub",
    "telegram",
    "lark",
    "matrix",
    "opsgenie",
    "alertmanager",
    "grafana",
    "githubdispatch",
    "githubpullrequestcomment",
    "gitlabmergerequestcomment",
    "pagerduty",
    "datadog",
    "nats",
    "zulip",
    "otel",
    "zoom",
    "incident.io",
];

/// The types whose notices are commit statuses; only these may carry `commitStatusExpr`.
pub const COMMIT_STATUS_TYPES: [&str; 6] = ["github", "gitlab", "gitea", "bitbucketserver", "bitbucket", "azuredevops"];

/// A Provider as Herald keeps it.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Name, UID, our annotations.
    pub meta: ObjectMeta,
    /// What the user wrote.
    pub spec: ProviderSpec,
    /// The object as JSON, kept only where an expression may ask for it.
    pub object: Option<Arc<serde_json::Value>>,
}

/// ProviderSpec defines the desired state of the Provider.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "notification.toolkit.fluxcd.io",
    version = "v1beta3",
    kind = "Provider",
    root = "ProviderResource",
    namespaced,
    doc = "Provider is the Schema for the providers API: where notifications are sent.",
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
pub struct ProviderSpec {
    /// Type specifies which Provider implementation to use.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = json!(PROVIDER_TYPES)))]
    pub kind: String,

    /// Interval is deprecated and has no effect.
    #[schemars(regex(pattern = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,

    /// Channel specifies the destination channel where events should be posted.
    #[schemars(length(max = 2048))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,

    /// Username specifies the name under which events are posted.
    #[schemars(length(max = 2048))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,

    /// Address specifies the endpoint, in a generic sense, to where alerts are sent. What kind
    /// of endpoint depends on the type: a repository, a webhook, a project.
    #[schemars(length(max = 2048))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,

    /// Timeout for one request to the Provider; 15s when not given.
    #[schemars(regex(pattern = r"^([0-9]+(\.[0-9]+)?(ms|s|m))+$"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,

    /// Proxy is the HTTP/S address of the proxy server. Deprecated: use proxySecretRef.
    #[schemars(length(max = 2048), regex(pattern = r"^(http|https)://.*$"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,

    /// ProxySecretRef names the Secret, in the namespace of the Provider, with the proxy's
    /// `address` and, where it wants them, `username` and `password`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_secret_ref: Option<LocalObjectReference>,

    /// SecretRef names the Secret, in the namespace of the Provider, with its credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalObjectReference>,

    /// CertSecretRef names the Secret, in the namespace of the Provider, with TLS certificates:
    /// `ca.crt`, and `tls.crt` with `tls.key` for a client certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_secret_ref: Option<LocalObjectReference>,

    /// ServiceAccountName names the ServiceAccount, in the namespace of the Provider, whose
    /// identity is used at a cloud (azureeventhub, azuredevops, googlepubsub).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,

    /// Suspend tells the controller to send nothing through this Provider.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,

    /// CommitStatusExpr is a CEL expression that names the commit status. It knows `event`,
    /// `provider` and `alert`, and must result in a string.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit_status_expr: Option<String>,
}

/// A reference by name, in the namespace of whoever refers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LocalObjectReference {
    /// Name of the referent.
    pub name: String,
}

impl ProviderSpec {
    /// The names of the Secrets this Provider refers to, without repeats.
    pub fn secret_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = [&self.secret_ref, &self.cert_secret_ref, &self.proxy_secret_ref]
            .into_iter()
            .flatten()
            .map(|reference| reference.name.as_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}
