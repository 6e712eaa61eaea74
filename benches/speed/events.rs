//! What is told of, and by which Alerts: the events of a kustomize-controller, and manifests for
//! `--manifests`.

use std::net::SocketAddr;
use std::path::Path;

/// The namespace of everything.
pub const NAMESPACE: &str = "flux-system";

/// Objects that events are about.
const OBJECTS: usize = 5_000;

/// Manifests in one file; Herald reads files of 8 MiB at most.
const PER_FILE: usize = 500;

/// The body of event `number`: an object among [`OBJECTS`], applied at `commit`.
pub fn body(number: usize, commit: &str) -> String {
    event(number, commit, "info", "ReconciliationSucceeded")
}

/// The same of an object that failed.
pub fn failed(number: usize, commit: &str) -> String {
    event(number, commit, "error", "HealthCheckFailed")
}

fn event(number: usize, commit: &str, severity: &str, reason: &str) -> String {
    let object = number % OBJECTS;
    serde_json::json!({
        "involvedObject": {
            "kind": "Kustomization",
            "namespace": NAMESPACE,
            "name": format!("app-{object}"),
            "uid": format!("7c5a1d5b-5f3a-4d3b-9f0a-{object:012}"),
            "apiVersion": "kustomize.toolkit.fluxcd.io/v1",
            "resourceVersion": number.to_string(),
        },
        "severity": severity,
        "timestamp": "2026-01-02T15:04:05Z",
        "message": format!("Reconciliation finished in 1.2s, next run in 10m0s ({number})"),
        "reason": reason,
        "metadata": {
            "kustomize.toolkit.fluxcd.io/revision": format!("main@sha1:{commit}"),
            "kustomize.toolkit.fluxcd.io/commit_status": "update",
        },
        "reportingController": "kustomize-controller",
        "reportingInstance": "kustomize-controller-5d6f8b7c9d-x2x7k",
    })
    .to_string()
}

/// The commit in an event's body; empty when there is none.
pub fn commit_in(body: &[u8]) -> &str {
    let after = std::str::from_utf8(body).unwrap_or_default().split("@sha1:").nth(1).unwrap_or_default();
    after.split('"').next().unwrap_or_default()
}

/// Writes a directory of manifests: one Alert on everything, or many that listen to one object
/// each and share the Providers out among themselves. Each Provider has a repository and a Secret
/// of its own.
pub fn write_manifests(dir: &Path, vendor: SocketAddr, alerts: usize, providers: usize) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let repository = |number| {
        let address = format!("http://{vendor}/acme/repository-{number}");
        provider(&format!("repository-{number}"), "github", &address, "")
    };
    std::fs::write(dir.join("providers.yaml"), (0..providers).map(repository).collect::<String>())?;
    for first in (0..alerts).step_by(PER_FILE) {
        let one = |number| {
            let object = if alerts == 1 { "*".to_owned() } else { format!("app-{number}") };
            alert(&format!("alert-{number}"), &format!("repository-{}", number % providers), &object)
        };
        let text: String = (first..alerts.min(first + PER_FILE)).map(one).collect();
        std::fs::write(dir.join(format!("alerts-{first}.yaml")), text)?;
    }
    Ok(())
}

/// Adds a Provider and an Alert that tells it of everything. `more` is lines of the Provider's spec.
pub fn write_one(dir: &Path, name: &str, kind: &str, address: &str, more: &str) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join(format!("{name}.yaml")), provider(name, kind, address, more) + &alert(name, name, "*"))
}

fn provider(name: &str, kind: &str, address: &str, more: &str) -> String {
    format!(
        "---
apiVersion: notification.toolkit.fluxcd.io/v1beta3
kind: Provider
metadata:
  name: {name}
  namespace: {NAMESPACE}
spec:
  type: {kind}
  address: {address}
  secretRef:
    name: token-{name}
{more}---
apiVersion: v1
kind: Secret
metadata:
  name: token-{name}
  namespace: {NAMESPACE}
stringData:
  token: ghp_0123456789abcdef-{name}
"
    )
}

fn alert(name: &str, provider: &str, object: &str) -> String {
    format!(
        "---
apiVersion: notification.toolkit.fluxcd.io/v1beta3
kind: Alert
metadata:
  name: {name}
  namespace: {NAMESPACE}
spec:
  providerRef:
    name: {provider}
  eventSeverity: info
  eventSources:
    - kind: Kustomization
      name: '{object}'
"
    )
}
