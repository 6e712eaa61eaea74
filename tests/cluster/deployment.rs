//! The Deployment that Flux makes for its notification-controller, with our image in it: the program
//! itself is started as a kubelet would, as the account and with the permissions that
//! `flux install` gives.

use std::process::Command;
use std::time::{Duration, Instant};

use clap::{CommandFactory, Parser};
use herald::cli::Cli;
use serde_json::{Value, json};

use super::support::apiserver::ApiServer;
use super::support::app::DEADLINE;
use super::support::flux::{alert, kustomization_event, provider, secret, sha};
use super::support::forge::{Fault, Forge};
use super::support::process::{Scratch, Server, free_port};
use super::support::wait;
use super::{Space, forge, in_namespace, in_repository, install, repository, status_of};

const SYSTEM: &str = "flux-system";
const ACCOUNT: &str = "notification-controller";

/// What `flux install` lets its controllers do (flux2, `manifests/rbac/controller.yaml`), and who
/// they are.
fn permissions() -> Vec<Value> {
    let all = ["get", "list", "watch", "create", "update", "patch", "delete"];
    let groups = ["source", "kustomize", "helm", "notification", "image"];
    let mut rules: Vec<Value> = groups
        .iter()
        .map(|group| json!({"apiGroups": [format!("{group}.toolkit.fluxcd.io")], "resources": ["*"], "verbs": ["*"]}))
        .collect();
    rules.extend([
        json!({
            "apiGroups": [""],
            "resources": ["namespaces", "secrets", "configmaps", "serviceaccounts"],
            "verbs": ["get", "list", "watch"],
        }),
        json!({"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]}),
        json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": all}),
        json!({"apiGroups": [""], "resources": ["configmaps/status"], "verbs": ["get", "update", "patch"]}),
        json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": all}),
        json!({"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]}),
        json!({"nonResourceURLs": ["/livez/ping"], "verbs": ["head"]}),
    ]);
    let name = format!("crd-controller-{SYSTEM}");
    let rbac = "rbac.authorization.k8s.io";
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": SYSTEM}}),
        json!({"apiVersion": format!("{rbac}/v1"), "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules}),
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": SYSTEM}],
        }),
    ]
}

/// The Deployment of `config/manager`, which equals the peer's (spec/pipeline.md part 8), as `flux
/// install` leaves it in the cluster: its kustomization puts other values in the place of the first
/// two arguments, and its manifests name the account and add GOMEMLIMIT.
async fn as_flux_leaves_it(api: &ApiServer) -> Value {
    let folder = in_repository("config/manager");
    let yaml = api.kubectl_ok(&["kustomize", folder.to_str().expect("UTF-8")]);
    let documents: Vec<Value> = serde_saphyr::from_multiple(&yaml).expect("YAML");
    let mut deployment = documents.into_iter().find(|document| document["kind"] == "Deployment").expect("it is there");
    deployment["metadata"]["namespace"] = SYSTEM.into();
    let container = &mut deployment["spec"]["template"]["spec"]["containers"][0];
    let peers = ["--watch-all-namespaces", "--log-level=info", "--log-encoding=json", "--enable-leader-election"];
    assert_eq!(container["args"], json!(peers));
    container["args"][0] = "--watch-all-namespaces=true".into();
    container["args"][1] = "--log-level=info".into();
    let limit = json!({"resourceFieldRef": {"containerName": "manager", "resource": "limits.memory"}});
    let env = container["env"].as_array_mut().expect("it has an environment");
    env.push(json!({"name": "GOMEMLIMIT", "valueFrom": limit}));
    api.kubectl_apply(&deployment.to_string());
    let text = api.kubectl_ok(&["get", "deployment", ACCOUNT, "--namespace", SYSTEM, "--output=json"]);
    serde_json::from_str(&text).expect("JSON")
}

/// What is a kubelet's part of a Pod.
struct Pod {
    pid: String,
    server: Server,
    /// Where each container port is on this machine.
    ports: Vec<(u64, u16)>,
    container: Value,
    grace: Duration,
    _scratch: Scratch,
}

impl Pod {
    /// Starts the container with exactly its arguments and environment. Added are: KUBECONFIG, in
    /// place of the token that is mounted into Pods, and at the end of the arguments addresses on
    /// loopback and a folder for the outbox, so that it is in nobody's way on this machine.
    async fn start(api: &ApiServer, deployment: &Value) -> Self {
        let spec = &deployment["spec"]["template"]["spec"];
        let container = spec["containers"][0].clone();
        let texts = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().map(|text| text.as_str().expect("text").to_owned()).collect()
        };
        let args = texts(&container["args"]);
        assert_eq!(container.get("command"), None, "the image says what is run");

        let token = api.kubectl_ok(&["create", "token", ACCOUNT, "--namespace", SYSTEM]);
        let scratch = Scratch::new();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "pod",
            "clusters": [{"name": "pod", "cluster": {"server": api.url, "certificate-authority": api.ca()}}],
            "users": [{"name": "pod", "user": {"token": token.trim()}}],
            "contexts": [{"name": "pod", "context": {"cluster": "pod", "user": "pod", "namespace": SYSTEM}}],
        });
        let kubeconfig = scratch.write("kubeconfig", &kubeconfig.to_string());
        let env = container["env"].as_array().expect("it has an environment").iter().map(|variable| {
            let from = &variable["valueFrom"];
            let value = match (&from["fieldRef"]["fieldPath"], &from["resourceFieldRef"]["resource"]) {
                (Value::String(path), _) if path == "metadata.namespace" => SYSTEM,
                // 1Gi in bytes.
                (_, Value::String(resource)) if resource == "limits.memory" => "1073741824",
                _ => panic!("a kubelet would know what this is: {variable}"),
            };
            format!("{}={value}", variable["name"].as_str().expect("it has a name"))
        });

        // Unless told otherwise it listens where the Deployment says.
        let defaults = Cli::try_parse_from(["herald".to_owned()].into_iter().chain(args.clone())).expect("all known");
        let mut ports = Vec::new();
        let mut added = Vec::new();
        for (name, flag, default) in [
            ("http", "--events-addr", defaults.events_addr),
            ("http-webhook", "--receiverAddr", defaults.receiver_addr),
            ("http-prom", "--metrics-addr", defaults.metrics_addr),
            ("healthz", "--health-addr", defaults.health_addr),
        ] {
            let port = port(&container, name);
            assert_eq!(default, format!(":{port}"));
            ports.push((port, free_port()));
            added.push(format!("{flag}=127.0.0.1:{}", ports.last().expect("one was pushed").1));
        }

        // The simulated Git host is on loopback.
        added.push("--allow-address=127.0.0.0/8".to_owned());
        // In place of the empty folder that a Pod has at /tmp.
        if Cli::command().get_arguments().any(|argument| argument.get_long() == Some("outbox-path")) {
            added.push(format!("--outbox-path={}", scratch.path().join("outbox.db").display()));
        }

        let pid = scratch.path().join("pid");
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $$ >\"$0\"; exec env -i \"$@\""])
            .arg(&pid)
            .args(env)
            .arg(format!("KUBECONFIG={}", kubeconfig.display()))
            .arg(env!("CARGO_BIN_EXE_herald"))
            .args(args)
            .args(added);
        let server = Server::start("herald", scratch.path(), &command);
        let pid = wait::until(DEADLINE, "it to run", || async {
            std::fs::read_to_string(&pid).ok().filter(|pid| pid.ends_with('\n'))
        })
        .await;
        let grace = Duration::from_secs(spec["terminationGracePeriodSeconds"].as_u64().expect("seconds"));
        Self { pid: pid.trim().to_owned(), server, ports, container, grace, _scratch: scratch }
    }

    fn url(&self, port_name: &str, path: &str) -> String {
        let port = port(&self.container, port_name);
        let (_, here) = self.ports.iter().find(|(inside, _)| *inside == port).expect("a port of the container");
        format!("http://127.0.0.1:{here}{path}")
    }

    /// Waits until a probe of the container succeeds.
    async fn probe(&mut self, probe: &str) {
        let get = &self.container[probe]["httpGet"];
        let text = |field: &str| get[field].as_str().expect("text");
        let url = self.url(text("port"), text("path"));
        self.server.ready(DEADLINE, || wait::answers(&url)).await;
    }

    /// Asks it to stop as a kubelet does, and says how long that took, and how it ended.
    async fn stop(self) -> (Duration, String) {
        let asked = Instant::now();
        let kill = Command::new("kill").args(["-TERM", &self.pid]).status().expect("kill starts");
        assert!(kill.success());
        let ended =
            || self.server.log_tail().lines().rfind(|line| line.contains("ended with status")).map(str::to_owned);
        let how = wait::until(self.grace + DEADLINE, "it to end", || async { ended() }).await;
        (asked.elapsed(), how)
    }
}

fn port(container: &Value, name: &str) -> u64 {
    let ports = container["ports"].as_array().expect("it has ports").iter();
    ports.filter(|port| port["name"] == name).find_map(|port| port["containerPort"].as_u64()).expect("a port")
}

async fn post(pod: &Pod, event: &Value) -> u16 {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let answer = client.post(pod.url("http", "/")).body(event.to_string()).send().await;
    answer.expect("it answers").status().as_u16()
}

#[tokio::test]
async fn our_image_in_the_deployment_of_flux() {
    // One's own, because it watches all namespaces.
    let api = ApiServer::start().await;
    install(&api);
    for manifest in permissions() {
        api.kubectl_apply(&manifest.to_string());
    }
    let deployment = as_flux_leaves_it(&api).await;
    assert_eq!(deployment["spec"]["template"]["spec"]["serviceAccountName"], ACCOUNT);

    let space = Space::named(&api, api.namespace("team")).await;
    let forge: Forge = forge().await;
    space.apply(&provider("github", "git", &repository(&forge)).secret("token")).await;
    space.apply(&secret("token", "token", "t0k")).await;
    space.apply(&alert("all", "git")).await;

    let mut pod = Pod::start(&api, &deployment).await;
    pod.probe("readinessProbe").await;
    pod.probe("livenessProbe").await;
    assert_eq!(post(&pod, &in_namespace(kustomization_event("web", &sha(1)), &space)).await, 202);
    assert_eq!(status_of(&forge, &sha(1)).await.state, "success");

    let annotations = &deployment["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/port"], port(&pod.container, "http-prom").to_string());
    let metrics = reqwest::get(pod.url("http-prom", "/metrics")).await.expect("it answers");
    assert!(metrics.text().await.expect("text").contains("# TYPE "));

    // The leader writes conditions.
    let holder = || {
        let lease = ["get", "lease", "notification-controller-leader-election", "--namespace", SYSTEM];
        api.kubectl_ok(&[&lease[..], &["--output=jsonpath={.spec.holderIdentity}"]].concat())
    };
    space.in_order("Provider", "git").await;
    space.in_order("Alert", "all").await;
    assert_ne!(holder(), "");

    // It ends in time even when a vendor keeps it waiting, and leaves the Lease to the next.
    forge.fail(Fault::hang().every(1));
    assert_eq!(post(&pod, &in_namespace(kustomization_event("web", &sha(2)), &space)).await, 202);
    wait::until(DEADLINE, "a request that hangs", || async { (forge.requests().len() > 2).then_some(()) }).await;
    let log = pod.server.log_tail();
    assert!(!log.contains("orbidden"), "the permissions of Flux are enough: {log}");
    let grace = pod.grace;
    assert_eq!(grace, Duration::from_secs(10));
    let (took, how) = pod.stop().await;
    assert!(how.ends_with("ended with status 0"), "{how}");
    assert!(took < grace, "{took:?}");
    assert_eq!(holder(), "");
}
