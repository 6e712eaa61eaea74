//! Flux's side of a test: events as its controllers send them, and the Providers, Alerts and
//! Secrets that its users write. Used by every test that speaks to Herald.
//!
//! ```text
//! let folder = Folder::with([provider("github", "git", &address).secret("token"), alert("all", "git"), …]);
//! herald.post(&kustomization_event("web", &sha(1)).failed("HealthCheckFailed")).await;
//! ```

use std::ops::Deref;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use herald::api::Key;
use herald::api::meta::uid_without_cluster;

/// The namespace of everything that is given no other.
pub const NAMESPACE: &str = "flux-system";

/// A commit's hash, another one for each number.
pub fn sha(number: u64) -> String {
    format!("{number:0>40x}")
}

// === events ===

/// An event. Reads as the JSON that is posted.
#[derive(Clone, Debug)]
pub struct FluxEvent(Value);

/// What kustomize-controller says when it has applied a commit and all is well.
pub fn kustomization_event(name: &str, commit: &str) -> FluxEvent {
    FluxEvent(json!({
        "involvedObject": {
            "kind": "Kustomization",
            "namespace": NAMESPACE,
            "name": name,
            "uid": format!("uid-of-{name}"),
            "apiVersion": "kustomize.toolkit.fluxcd.io/v1",
            "resourceVersion": "1000",
        },
        "severity": "info",
        "timestamp": "2026-01-02T15:04:05Z",
        "message": "Reconciliation finished in 1.2s, next run in 10m0s",
        "reason": "ReconciliationSucceeded",
        "metadata": {
            "kustomize.toolkit.fluxcd.io/revision": format!("main@sha1:{commit}"),
            "kustomize.toolkit.fluxcd.io/commit_status": "update",
        },
        "reportingController": "kustomize-controller",
        "reportingInstance": "kustomize-controller-7d8f9",
    }))
}

impl FluxEvent {
    /// An error, which Flux does not mark as final.
    pub fn failed(self, reason: &str) -> Self {
        let told = self.severity("error").reason(reason).message(&format!("{reason}: see the object"));
        told.without_metadata("kustomize.toolkit.fluxcd.io/commit_status")
    }

    /// Something on the way, which is no outcome.
    pub fn progressing(self) -> Self {
        let told = self.reason("Progressing").message("Deployment/apps/web configured");
        told.without_metadata("kustomize.toolkit.fluxcd.io/commit_status")
    }

    /// `info` or `error`.
    pub fn severity(self, severity: &str) -> Self {
        self.set("/severity", severity)
    }

    /// A CamelCase word.
    pub fn reason(self, reason: &str) -> Self {
        self.set("/reason", reason)
    }

    /// Text for people.
    pub fn message(self, message: &str) -> Self {
        self.set("/message", message)
    }

    /// Of another name.
    pub fn named(self, name: &str) -> Self {
        self.set("/involvedObject/name", name)
    }

    /// Of another kind.
    pub fn kind(self, kind: &str, api_version: &str) -> Self {
        self.set("/involvedObject/kind", kind).set("/involvedObject/apiVersion", api_version)
    }

    /// In another namespace.
    pub fn namespace(self, namespace: &str) -> Self {
        self.set("/involvedObject/namespace", namespace)
    }

    /// Sent by a reconcile that began at this version of the object.
    pub fn version(self, version: u64) -> Self {
        self.set("/involvedObject/resourceVersion", &version.to_string())
    }

    /// Metadata under its full name.
    pub fn metadata(mut self, key: &str, value: &str) -> Self {
        self.0["metadata"][key] = value.into();
        self
    }

    /// Without that metadata.
    pub fn without_metadata(mut self, key: &str) -> Self {
        self.0["metadata"].as_object_mut().expect("metadata is a map").remove(key);
        self
    }

    /// Metadata that a user set on the object by annotation.
    pub fn annotated(self, key: &str, value: &str) -> Self {
        self.metadata(&format!("event.toolkit.fluxcd.io/{key}"), value)
    }

    fn set(mut self, pointer: &str, value: &str) -> Self {
        *self.0.pointer_mut(pointer).expect("the event has this field") = value.into();
        self
    }
}

impl Deref for FluxEvent {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.0
    }
}

// === what users write ===

/// A Provider, Alert or Secret. Reads as its JSON.
#[derive(Clone, Debug)]
pub struct Manifest(Value);

/// A Provider of this type and name.
pub fn provider(kind: &str, name: &str, address: &str) -> Manifest {
    Manifest::new("notification.toolkit.fluxcd.io/v1beta3", "Provider", name)
        .spec("type", kind)
        .spec("address", address)
}

/// An Alert that tells a Provider of every Kustomization in its namespace.
pub fn alert(name: &str, provider: &str) -> Manifest {
    Manifest::new("notification.toolkit.fluxcd.io/v1beta3", "Alert", name)
        .spec("providerRef", json!({"name": provider}))
        .spec("eventSeverity", "info")
        .sources(json!([{"kind": "Kustomization", "name": "*"}]))
}

/// A Secret with one key.
pub fn secret(name: &str, key: &str, value: &str) -> Manifest {
    Manifest::new("v1", "Secret", name).key(key, value)
}

impl Manifest {
    fn new(api_version: &str, kind: &str, name: &str) -> Self {
        let metadata = json!({"name": name, "namespace": NAMESPACE});
        Self(json!({"apiVersion": api_version, "kind": kind, "metadata": metadata}))
    }

    /// In another namespace.
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.0["metadata"]["namespace"] = namespace.into();
        self
    }

    /// With a UID, as objects of a cluster have.
    pub fn uid(mut self, uid: &str) -> Self {
        self.0["metadata"]["uid"] = uid.into();
        self
    }

    /// Of this generation.
    pub fn generation(mut self, generation: u64) -> Self {
        self.0["metadata"]["generation"] = generation.into();
        self
    }

    /// With an annotation.
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.0["metadata"]["annotations"][name] = value.into();
        self
    }

    /// Sets a field of the spec.
    pub fn spec(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.0["spec"][field] = value.into();
        self
    }

    /// A Provider's credentials.
    pub fn secret(self, name: &str) -> Self {
        self.spec("secretRef", json!({"name": name}))
    }

    /// An Alert's sources.
    pub fn sources(self, sources: Value) -> Self {
        self.spec("eventSources", sources)
    }

    /// Another key of a Secret.
    pub fn key(mut self, key: &str, value: &str) -> Self {
        self.0["stringData"][key] = value.into();
        self
    }

    /// Its UID, given or derived from its name.
    pub fn effective_uid(&self) -> String {
        let metadata = &self.0["metadata"];
        let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
        match metadata["uid"].as_str() {
            Some(uid) => uid.to_owned(),
            None => uid_without_cluster(&Key::new(text("namespace"), text("name"))).to_string(),
        }
    }

    /// The name that this Provider gives the statuses of a Kustomization.
    pub fn context(&self, kustomization: &str) -> String {
        let uid = self.effective_uid();
        format!("kustomization/{kustomization}/{}", uid.split('-').next().unwrap_or_default())
    }

    /// A file name of its own.
    fn file(&self) -> String {
        let Value::String(kind) = &self.0["kind"] else { panic!("a manifest has a kind") };
        let text = |field: &str| self.0["metadata"][field].as_str().unwrap_or_default().to_owned();
        format!("{}-{}-{}.yaml", kind.to_lowercase(), text("namespace"), text("name"))
    }
}

impl Deref for Manifest {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.0
    }
}

/// A directory of manifests, one file for each, for `--manifests`.
pub struct Folder(TempDir);

impl Folder {
    /// A directory that holds these.
    pub fn with(manifests: impl IntoIterator<Item = Manifest>) -> Self {
        let folder = Self(tempfile::tempdir().expect("a temporary folder"));
        for manifest in manifests {
            folder.write(&manifest);
        }
        folder
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Adds a manifest, or replaces the one of the same kind and name.
    pub fn write(&self, manifest: &Manifest) -> PathBuf {
        self.write_text(&manifest.file(), &manifest.0.to_string())
    }

    /// Writes a file as it is, in one step, so that nobody reads half of it.
    pub fn write_text(&self, name: &str, text: &str) -> PathBuf {
        let (path, draft) = (self.path().join(name), self.path().join(format!("{name}.draft")));
        std::fs::write(&draft, text).expect("the folder is writable");
        std::fs::rename(&draft, &path).expect("the folder is writable");
        path
    }

    /// Removes a manifest's file.
    pub fn remove(&self, manifest: &Manifest) {
        std::fs::remove_file(self.path().join(manifest.file())).expect("the file was there");
    }
}
