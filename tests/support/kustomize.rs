//! A real kustomize-controller, and what it needs from source-controller, which
//! is not there. Called by the tests that want Flux's own events.
//!
//! A source is a GitRepository whose status names a tarball; nothing checks
//! where the two come from, so the tests serve the tarball and write the status.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::apiserver::ApiServer;
use super::assets;
use super::process::{Scratch, Server, free_port};
use super::wait;

const START: Duration = Duration::from_secs(60);

const SOURCE: &str = "source.toolkit.fluxcd.io/v1";
pub const KUSTOMIZE: &str = "kustomize.toolkit.fluxcd.io/v1";

/// kustomize-controller for the Kustomizations of one namespace, so that tests
/// can run one each.
pub struct KustomizeController {
    server: Server,
    scratch: Scratch,
}

impl KustomizeController {
    /// Starts it; its events are posted to `events_url`.
    pub async fn start(api: &ApiServer, namespace: &str, events_url: &str) -> Self {
        let scratch = Scratch::new();
        let health = format!("127.0.0.1:{}", free_port());
        let mut command = Command::new(assets::dir().join("kustomize-controller"));
        command
            .arg(format!("--events-addr={events_url}"))
            .arg(format!("--health-addr={health}"))
            .arg(format!("--metrics-addr=127.0.0.1:{}", free_port()))
            .arg("--enable-leader-election=false")
            .arg("--watch-all-namespaces=false")
            .env("RUNTIME_NAMESPACE", namespace)
            .env("KUBECONFIG", api.kubeconfig())
            .env("TMPDIR", scratch.path());
        let mut server = Server::start("kustomize-controller", scratch.path(), &command);
        let ready = format!("http://{health}/readyz");
        server.ready(START, || wait::answers(&ready)).await;
        Self { server, scratch }
    }
}

/// The web server the artifacts are fetched from. It lives as long as the
/// runtime of the test that started it.
pub struct Artifacts {
    url: String,
    tarballs: Tarballs,
}

type Tarballs = Arc<Mutex<HashMap<String, Vec<u8>>>>;

impl Artifacts {
    pub async fn serve() -> Self {
        let tarballs = Tarballs::default();
        let router = Router::new().route("/{name}", axum::routing::get(tarball)).with_state(Arc::clone(&tarballs));
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("loopback has free ports");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        tokio::spawn(axum::serve(listener, router).into_future());
        Self { url, tarballs }
    }

    /// Packs manifests, given as (file name, YAML), and gives the artifact as a
    /// source's status has it. `revision` is like `main@sha1:<40 hex digits>`.
    pub fn publish(&self, revision: &str, manifests: &[(&str, &str)]) -> Value {
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, yaml) in manifests {
            let mut header = tar::Header::new_gnu();
            header.set_size(yaml.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, yaml.as_bytes()).expect("a short name");
        }
        let gzip = archive.into_inner().expect("memory can be written");
        let tarball = gzip.finish().expect("memory can be written");

        let digest = format!("{:x}", Sha256::digest(&tarball));
        let name = format!("{digest}.tar.gz");
        let artifact = json!({
            "url": format!("{}/{name}", self.url),
            "path": name,
            "digest": format!("sha256:{digest}"),
            "size": tarball.len(),
            "revision": revision,
            "lastUpdateTime": now(),
        });
        self.tarballs.lock().expect("no test panics while holding it").insert(name, tarball);
        artifact
    }
}

async fn tarball(State(tarballs): State<Tarballs>, Path(name): Path<String>) -> Result<Vec<u8>, StatusCode> {
    let tarballs = tarballs.lock().expect("no test panics while holding it");
    tarballs.get(&name).cloned().ok_or(StatusCode::NOT_FOUND)
}

/// Creates or changes a GitRepository at `url` that is ready with `artifact`.
pub fn git_repository(api: &ApiServer, namespace: &str, name: &str, url: &str, artifact: &Value) {
    let object = json!({
        "apiVersion": SOURCE,
        "kind": "GitRepository",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"url": url, "interval": "1h", "ref": {"branch": "main"}},
    });
    api.kubectl_apply(&object.to_string());
    let status = json!({"status": {
        "observedGeneration": 1,
        "artifact": artifact,
        "conditions": [{
            "type": "Ready",
            "status": "True",
            "reason": "Succeeded",
            "message": format!("stored artifact for revision '{}'", artifact["revision"]),
            "lastTransitionTime": now(),
            "observedGeneration": 1,
        }],
    }});
    let patch = status.to_string();
    let target = ["patch", "gitrepositories.source.toolkit.fluxcd.io", name, "-n", namespace];
    let what = ["--subresource=status", "--type=merge", "-p", &patch];
    api.kubectl_ok(&[&target[..], &what[..]].concat());
}

/// Creates or changes a Kustomization of the GitRepository `source`. The fields
/// of `spec`, a JSON object, come on top of those every test wants.
pub fn kustomization(api: &ApiServer, namespace: &str, name: &str, source: &str, spec: &Value) {
    let mut object = json!({
        "apiVersion": KUSTOMIZE,
        "kind": "Kustomization",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "sourceRef": {"kind": "GitRepository", "name": source},
            "targetNamespace": namespace,
            "path": "./",
            "interval": "1h",
            "prune": true,
        },
    });
    for (field, value) in spec.as_object().expect("a JSON object") {
        object["spec"][field] = value.clone();
    }
    api.kubectl_apply(&object.to_string());
}

/// Waits until a Kustomization has condition `kind` with `status`, for its
/// present generation, and gives the condition.
pub async fn wait_condition(api: &ApiServer, namespace: &str, name: &str, kind: &str, status: &str) -> Value {
    let kustomizations = &api.objects(namespace, KUSTOMIZE, "Kustomization").await;
    let what = format!("{kind}={status} on Kustomization {namespace}/{name}");
    wait::until_ok(Duration::from_secs(60), &what, || async move {
        let object = kustomizations.get(name).await.map_err(|error| error.to_string())?;
        let conditions = &object.data["status"]["conditions"];
        let found = conditions.as_array().into_iter().flatten().find(|condition| {
            condition["type"] == kind
                && condition["status"] == status
                && condition["observedGeneration"] == json!(object.metadata.generation)
        });
        found.cloned().ok_or_else(|| conditions.to_string())
    })
    .await
}

fn now() -> String {
    let seconds = jiff::Timestamp::now().as_second();
    jiff::Timestamp::from_second(seconds).expect("now is in range").to_string()
}
