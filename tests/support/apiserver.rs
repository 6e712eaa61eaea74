//! A real Kubernetes API: etcd and kube-apiserver, without nodes, scheduler or
//! controller manager. Called by every test that needs objects.
//!
//! No controller manager means: a deleted namespace stays `Terminating`,
//! Deployments get no Pods, and owners' children are not collected.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use kube::Api;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use tokio::sync::OnceCell;

use super::assets;
use super::process::{Scratch, Server, free_port};
use super::wait;

/// A cold start on two busy cores; a quiet machine needs about five seconds.
const START: Duration = Duration::from_secs(120);

pub type Objects = Api<DynamicObject>;

pub struct ApiServer {
    /// `https://127.0.0.1:PORT`
    pub url: String,
    /// A bearer token that may do everything.
    pub token: String,
    apiserver: Server,
    etcd: Server,
    scratch: Scratch,
}

impl ApiServer {
    /// The one API server of this test process, with Flux's CRDs in it. Tests
    /// keep apart by taking a [`namespace`](Self::namespace) each.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<ApiServer> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// An API server of one's own, for a test that breaks it.
    pub async fn start() -> Self {
        let scratch = Scratch::new();
        let dir = scratch.path();

        let client = format!("http://127.0.0.1:{}", free_port());
        let peer = format!("http://127.0.0.1:{}", free_port());
        let mut command = Command::new(assets::dir().join("etcd"));
        command
            .arg(format!("--data-dir={}", dir.join("etcd").display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=default={peer}"))
            .arg("--unsafe-no-fsync");
        let mut etcd = Server::start("etcd", dir, &command);
        let health = format!("{client}/health");
        etcd.ready(START, || wait::answers(&health)).await;

        let port = free_port();
        let token = random();
        let tokens = scratch.write("tokens.csv", &format!("{token},admin,admin,system:masters\n"));
        // kube-apiserver makes itself a certificate in its --cert-dir before it
        // reads the key for service accounts: one key serves for both.
        let key = dir.join("apiserver.key");
        let mut command = Command::new(assets::dir().join("kube-apiserver"));
        command
            .arg(format!("--etcd-servers={client}"))
            .arg(format!("--secure-port={port}"))
            .arg("--bind-address=127.0.0.1")
            .arg("--advertise-address=127.0.0.1")
            .arg(format!("--cert-dir={}", dir.display()))
            .arg(format!("--service-account-key-file={}", key.display()))
            .arg(format!("--service-account-signing-key-file={}", key.display()))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!("--token-auth-file={}", tokens.display()))
            .arg("--authorization-mode=RBAC")
            .arg("--service-cluster-ip-range=10.0.0.0/24")
            // It would refuse Pods until a controller made the service account.
            .arg("--disable-admission-plugins=ServiceAccount");
        let apiserver = Server::start("kube-apiserver", dir, &command);

        let url = format!("https://127.0.0.1:{port}");
        let mut api = Self { url, token, apiserver, etcd, scratch };
        api.scratch.write("kubeconfig", &api.kubeconfig_text());
        api.wait_ready().await;
        api.apply_crds(&assets::dir().join("crds"));
        api
    }

    async fn wait_ready(&mut self) {
        let kubeconfig = self.kubeconfig();
        self.apiserver
            .ready(START, || async {
                let output = kubectl(&kubeconfig).args(["get", "--raw=/readyz"]).output();
                output.expect("kubectl starts").status.success()
            })
            .await;
    }

    /// The certificate to trust.
    pub fn ca(&self) -> PathBuf {
        self.scratch.path().join("apiserver.crt")
    }

    pub fn ca_pem(&self) -> String {
        std::fs::read_to_string(self.ca()).expect("kube-apiserver wrote its certificate")
    }

    /// A kubeconfig file with `url`, `ca` and `token` in it.
    pub fn kubeconfig(&self) -> PathBuf {
        self.scratch.path().join("kubeconfig")
    }

    fn kubeconfig_text(&self) -> String {
        serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {
                "server": self.url,
                "certificate-authority": self.ca(),
            }}],
            "users": [{"name": "admin", "user": {"token": self.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "current-context": "test",
        })
        .to_string()
    }

    /// A client for the calling test's runtime; connections cannot be shared
    /// between runtimes, so there is none to keep here.
    pub async fn client(&self) -> kube::Client {
        let kubeconfig = kube::config::Kubeconfig::read_from(self.kubeconfig());
        let config = kube::Config::from_custom_kubeconfig(
            kubeconfig.expect("our own kubeconfig"),
            &kube::config::KubeConfigOptions::default(),
        )
        .await
        .expect("a complete kubeconfig");
        kube::Client::try_from(config).expect("a client")
    }

    pub fn kubectl(&self, args: &[&str]) -> Output {
        kubectl(&self.kubeconfig()).args(args).output().expect("kubectl starts")
    }

    /// Runs kubectl, which has to succeed, and gives what it printed.
    #[track_caller]
    pub fn kubectl_ok(&self, args: &[&str]) -> String {
        text(args, self.kubectl(args))
    }

    /// Applies manifests on the server's side, as Flux does.
    #[track_caller]
    pub fn kubectl_apply(&self, yaml: &str) {
        let args = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        let mut child = kubectl(&self.kubeconfig())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("its input is a pipe");
        stdin.write_all(yaml.as_bytes()).expect("kubectl reads its input");
        drop(stdin);
        text(&args, child.wait_with_output().expect("kubectl ends"));
    }

    /// Applies a file or folder of CRDs and waits until they can be used.
    #[track_caller]
    pub fn apply_crds(&self, path: &Path) {
        let path = path.to_str().expect("a path in UTF-8");
        self.kubectl_ok(&["apply", "--server-side", "--force-conflicts", "-f", path]);
        self.kubectl_ok(&["wait", "--for=condition=Established", "--timeout=30s", "-f", path]);
    }

    /// The objects of one kind in a namespace, of a kind this crate has no type for.
    pub async fn objects(&self, namespace: &str, api_version: &str, kind: &str) -> Objects {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Api::namespaced_with(self.client().await, namespace, &resource)
    }

    /// Creates a namespace no other test has and gives its name.
    #[track_caller]
    pub fn namespace(&self, prefix: &str) -> String {
        let name = format!("{prefix}-{}", &random()[..8]);
        self.kubectl_ok(&["create", "namespace", &name]);
        name
    }
}

fn kubectl(kubeconfig: &Path) -> Command {
    let mut command = Command::new(assets::dir().join("kubectl"));
    command
        .env("KUBECONFIG", kubeconfig)
        // What it learned about one server must not be used for the next one.
        .env("KUBECACHEDIR", kubeconfig.with_file_name("kubectl-cache"));
    command
}

#[track_caller]
fn text(args: &[&str], output: Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kubectl {}: {errors}", args.join(" "));
    String::from_utf8(output.stdout).expect("kubectl prints text")
}

fn random() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}
