//! What is told of, and by which Alerts: the events of a kustomize-controller, and manifests for
//! `--manifests`.

use std::fmt::Write;
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
        "severity": "info",
        "timestamp": "2026-01-02T15:04:05Z",
        "message": format!("Reconciliation finished in 1.2s, next run in 10m0s ({number})"),
        "reason": "ReconciliationSucceeded",
        "metadata": {
            "kustomize.toolkit.fluxcd.io/revision": format!("main@sha1:{commit}"),
            "kustomize.toolkit.fluxcd.io/commit_status": "update",
        },
        "reportingController": "kustomize-controller",
        "reportingInstance": "kustomize-controller-5d6f8b7c9d-x2x7k",
    })
    .to_string()
}

/// Writes a directory of manifests: one Alert on everything, or many that listen to one object
/// each and share the Providers out among themselves. Each Provider has a repository and a Secret
/// of its own.
pub fn write_manifests(dir: &Path, vendor: SocketAddr, alerts: usize, providers: usize) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut text = String::new();
    for number in 0..providers {
        let _ = write!(
            text,
            "---
apiVersion: notification.toolkit.fluxcd.io/v1beta3
kind: Provider
metadata:
  name: repository-{number}
  namespace: {NAMESPACE}
spec:
  type: github
  address: http://{vendor}/acme/repository-{number}
  secretRef:
    name: token-{number}
---
apiVersion: v1
kind: Secret
metadata:
  name: token-{number}
  namespace: {NAMESPACE}
stringData:
  token: ghp_0123456789abcdef0123456789abcdef{number:04}
"
        );
    }
    std::fs::write(dir.join("providers.yaml"), text)?;
    for first in (0..alerts).step_by(PER_FILE) {
        let mut text = String::new();
        for number in first..alerts.min(first + PER_FILE) {
            let object = if alerts == 1 { "'*'".to_owned() } else { format!("app-{number}") };
            let _ = write!(
                text,
                "---
apiVersion: notification.toolkit.fluxcd.io/v1beta3
kind: Alert
metadata:
  name: alert-{number}
  namespace: {NAMESPACE}
spec:
  providerRef:
    name: repository-{provider}
  eventSeverity: info
  eventSources:
    - kind: Kustomization
      name: {object}
",
                provider = number % providers
            );
        }
        std::fs::write(dir.join(format!("alerts-{first}.yaml")), text)?;
    }
    Ok(())
}
