//! Herald on a real kube-apiserver: the definitions, what guides and samples apply, conditions,
//! Secrets, finalizers and permissions. `cargo test --test cluster` runs it.
//!
//! | module | what it shows |
//! |---|---|
//! | `conditions` | what `kubectl get` says of Alerts and Providers, and when it is written |
//! | `crds` | what the definitions take and refuse; Herald without them, on Flux's, on broken objects |
//! | `deployment` | the program itself, as Flux's Deployment starts it |
//! | `events` | Kubernetes Events and conditions on deliveries that fail, and what the API server's requests count as |
//! | `finalizers` | objects that Flux's controller left a finalizer on can be deleted |
//! | `guides` | the manifests of public guides, applied as they are written |
//! | `identity` | a ServiceAccount's token is exchanged for one of Azure's, and what is missing is said |
//! | `labels` | what `matchLabels` selects, and what is said while labels cannot be read |
//! | `leaks` | a planted credential shows nowhere, whatever goes wrong |
//! | `lease` | which of several replicas leads, and what becomes of one that no longer does |
//! | `replicas` | two side by side do not trust what they remember |
//! | `rbac` | what `config/` installs is enough to work with, and renders |
//! | `secrets` | a change is in use within two seconds, and an event costs the API server nothing |
//!
//! The tests share one API server. Each has a [`Space`] of its own there: a namespace, and a Herald
//! that sees nothing else.

#[path = "../support/mod.rs"]
mod support;

mod conditions;
mod crds;
mod deployment;
mod events;
mod finalizers;
mod guides;
mod identity;
mod labels;
mod leaks;
mod lease;
mod rbac;
mod replicas;
mod secrets;

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, LazyLock, Mutex};

use herald::cluster::Connection;
use herald::ops::logging::{self, Encoding, LogLevel};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tracing::Dispatch;
use tracing_subscriber::fmt::MakeWriter;

use support::apiserver::{ApiServer, Objects};
use support::app::{DEADLINE, Herald};
use support::flux::{FluxEvent, Manifest};
use support::forge::{Forge, Status};
use support::wait;

/// The group and version that objects are stored in.
const GROUP_VERSION: &str = "notification.toolkit.fluxcd.io/v1beta3";

/// The one API server, with Herald's definitions in it.
async fn cluster() -> &'static ApiServer {
    static READY: OnceCell<&ApiServer> = OnceCell::const_new();
    let ready = READY.get_or_init(|| async {
        let api = ApiServer::shared().await;
        install(api);
        api
    });
    ready.await
}

/// Applies Herald's definitions.
fn install(api: &ApiServer) {
    for plural in ["alerts", "providers"] {
        api.apply_crds(&in_repository(&format!("crds/notification.toolkit.fluxcd.io_{plural}.yaml")));
    }
}

/// A file or folder of the repository.
fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A simulated Git host.
async fn forge() -> Forge {
    Forge::start("127.0.0.1:0").await.expect("loopback has free ports")
}

/// The address of a repository there.
fn repository(forge: &Forge) -> String {
    format!("{}/acme/fleet", forge.url())
}

/// Waits for the first status of a commit.
async fn status_of(forge: &Forge, commit: &str) -> Status {
    wait::until(DEADLINE, "a status on the commit", || async { forge.statuses(commit).pop() }).await
}

/// A namespace.
struct Space<'a> {
    api: &'a ApiServer,
    client: kube::Client,
    name: String,
}

impl Space<'static> {
    /// A new one on the shared API server.
    async fn new(prefix: &str) -> Self {
        let api = cluster().await;
        Self::named(api, api.namespace(prefix)).await
    }
}

impl<'a> Space<'a> {
    /// One that is there.
    async fn named(api: &'a ApiServer, name: String) -> Self {
        Self { api, client: api.client().await, name }
    }

    /// A Herald that sees this namespace and no other.
    async fn herald(&self) -> Herald {
        self.herald_as(self.client.clone()).await
    }

    /// The same under another identity or by another way.
    async fn herald_as(&self, client: impl Into<Connection>) -> Herald {
        self.herald_with(client, &[]).await
    }

    /// The same with more flags.
    async fn herald_with(&self, client: impl Into<Connection>, flags: &[&str]) -> Herald {
        let namespace = format!("--runtime-namespace={}", self.name);
        Herald::cluster(client, &[&["--watch-all-namespaces=false", &namespace], flags].concat()).await
    }

    /// The same by another clock.
    async fn herald_by(&self, clock: Arc<dyn herald::clock::Clock>) -> Herald {
        let namespace = format!("--runtime-namespace={}", self.name);
        Herald::cluster_by(clock, self.client.clone(), &["--watch-all-namespaces=false", &namespace]).await
    }

    /// The objects of a kind.
    fn objects(&self, kind: &str) -> Objects {
        let version = if matches!(kind, "Alert" | "Provider") { GROUP_VERSION } else { "v1" };
        objects(&self.client, &self.name, version, kind)
    }

    /// Creates what a manifest describes here, whichever namespace it names.
    async fn create(&self, manifest: &Manifest) {
        let manifest = manifest.clone().namespace(&self.name);
        let kind = manifest["kind"].as_str().expect("a manifest has a kind");
        let object = serde_json::from_value((*manifest).clone()).expect("a manifest is an object");
        self.objects(kind).create(&Default::default(), &object).await.expect("it is accepted");
    }

    /// Applies a manifest here, whichever namespace it names.
    async fn apply(&self, manifest: &Manifest) -> DynamicObject {
        let manifest = manifest.clone().namespace(&self.name);
        let kind = manifest["kind"].as_str().expect("a manifest has a kind");
        let name = manifest["metadata"]["name"].as_str().expect("a manifest has a name");
        let params = PatchParams::apply("user").force();
        let applied = self.objects(kind).patch(name, &params, &Patch::Apply(&*manifest)).await;
        applied.unwrap_or_else(|error| panic!("cannot apply {kind} {name}: {error}"))
    }

    /// Changes fields of an object.
    async fn merge(&self, kind: &str, name: &str, patch: Value) -> DynamicObject {
        let merged = self.objects(kind).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        merged.unwrap_or_else(|error| panic!("cannot change {kind} {name}: {error}"))
    }

    async fn delete(&self, kind: &str, name: &str) {
        self.objects(kind).delete(name, &Default::default()).await.expect("the object was there");
    }

    async fn get(&self, kind: &str, name: &str) -> Value {
        let object = self.objects(kind).get(name).await;
        value_of(&object.unwrap_or_else(|error| panic!("cannot get {kind} {name}: {error}")))
    }

    async fn resource_version(&self, kind: &str, name: &str) -> Value {
        self.get(kind, name).await["metadata"]["resourceVersion"].take()
    }

    /// Waits until a condition has this status and reason, and gives it.
    async fn condition(&self, kind: &str, name: &str, condition: &str, status: &str, reason: &str) -> Value {
        let what = format!("{kind} {name} to be {condition}={status}/{reason}");
        wait::until_ok(DEADLINE, &what, || async {
            let object = self.get(kind, name).await;
            match self::condition(&object, condition) {
                Some(is) if is["status"] == status && is["reason"] == reason => Ok(is.clone()),
                _ => Err(object["status"].to_string()),
            }
        })
        .await
    }

    /// Waits until an object is Ready and Healthy.
    async fn in_order(&self, kind: &str, name: &str) {
        self.condition(kind, name, "Ready", "True", "Succeeded").await;
        self.condition(kind, name, "Healthy", "True", "Succeeded").await;
    }

    /// Runs kubectl in this namespace; it has to succeed.
    #[track_caller]
    fn kubectl(&self, args: &[&str]) -> String {
        let args: Vec<&str> = ["--namespace", &self.name].into_iter().chain(args.iter().copied()).collect();
        self.api.kubectl_ok(&args)
    }

    /// What `kubectl get` prints of an object, cell by cell. No cell of ours holds two blanks.
    #[track_caller]
    fn table(&self, args: &[&str]) -> Vec<Vec<String>> {
        let text = self.kubectl(&[&["get"], args].concat());
        let cell = |cell: &str| Some(cell.trim().to_owned()).filter(|cell| !cell.is_empty());
        text.lines().map(|line| line.split("  ").filter_map(cell).collect()).collect()
    }
}

/// The objects of a kind in a namespace.
fn objects(client: &kube::Client, namespace: &str, api_version: &str, kind: &str) -> Objects {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = kube::core::ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(group, version, kind));
    Api::namespaced_with(client.clone(), namespace, &resource)
}

/// An object as its JSON.
fn value_of(object: &DynamicObject) -> Value {
    serde_json::to_value(object).expect("an object always encodes")
}

/// A condition of an object.
fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// A message of a condition.
fn message(condition: &Value) -> &str {
    condition["message"].as_str().expect("a condition has a message")
}

/// The event, in a namespace.
fn in_namespace(event: FluxEvent, space: &Space<'_>) -> FluxEvent {
    event.namespace(&space.name)
}

/// What a command said on standard error, which people see as well.
fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A reference to an object by name.
fn named(name: &str) -> Value {
    json!({"name": name})
}

/// What is logged on the calling test's thread while this lives. For tests on a runtime of one
/// thread, where Herald's tasks run there as well.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

/// Registered beside those of the tests, and takes nothing. Of a single subscriber `tracing` asks only on the
/// thread that comes to a line first, which may be that of a test without one: then nobody gets the line.
static SECOND: LazyLock<Dispatch> =
    LazyLock::new(|| Dispatch::new(tracing_subscriber::fmt().with_writer(std::io::sink).finish()));

impl Log {
    fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        LazyLock::force(&SECOND);
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// As Herald prints it at its most talkative.
    fn printed() -> (Self, tracing::subscriber::DefaultGuard) {
        LazyLock::force(&SECOND);
        let log = Self::default();
        let subscriber = logging::subscriber(LogLevel::Trace, Encoding::Json, log.clone());
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// The lines that contain all of `parts`.
    fn lines(&self, parts: &[&str]) -> Vec<String> {
        let log = self.0.lock().expect("nobody panics while holding it");
        let text = String::from_utf8_lossy(&log);
        text.lines().filter(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned).collect()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panics while holding it").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
