//! What `config/` installs renders, is accepted, and gives Herald just the permissions it needs.

use kube::config::{AuthInfo, Kubeconfig};
use serde_json::{Value, json};

use herald::api::alert::EVENT_SOURCE_KINDS;
use herald::cluster::LabelKind;

use super::guides::flux_system;
use super::support::app::DEADLINE;
use super::support::flux::{alert, kustomization_event, provider, secret, sha};
use super::support::forge::Fault;
use super::support::wait;
use super::{Space, cluster, forge, in_namespace, in_repository, repository, status_of, stderr};

const SYSTEM: &str = "notification-system";

fn folder(name: &str) -> String {
    in_repository(&format!("config/{name}")).to_str().expect("UTF-8").to_owned()
}

#[tokio::test]
async fn the_installed_permissions_are_enough() {
    let api = cluster().await;
    // Nothing runs the Deployment here; everything else is as in a real cluster.
    api.kubectl_ok(&["apply", "--server-side", "-k", &folder("default")]);
    let account = format!("system:serviceaccount:{SYSTEM}:notification-controller");
    for (verb, resource, may) in [
        ("get", "secrets", "yes"),
        ("update", "secrets", "no"),
        ("list", "configmaps", "no"),
        ("watch", "kustomizations.kustomize.toolkit.fluxcd.io", "yes"),
        ("patch", "kustomizations.kustomize.toolkit.fluxcd.io", "no"),
        ("list", "events", "no"),
        ("create", "events.events.k8s.io", "no"),
        ("delete", "alerts.notification.toolkit.fluxcd.io", "no"),
        ("update", "providers.notification.toolkit.fluxcd.io", "no"),
    ] {
        let answer = api.kubectl(&["auth", "can-i", verb, resource, "-A", "--as", &account]);
        assert_eq!(String::from_utf8_lossy(&answer.stdout).trim(), may, "{verb} {resource}");
    }
    for (verb, subresource, may) in
        [("get", "", "yes"), ("list", "", "no"), ("create", "token", "yes"), ("create", "", "no")]
    {
        let subresource = format!("--subresource={subresource}");
        let answer = api.kubectl(&["auth", "can-i", verb, "serviceaccounts", &subresource, "-A", "--as", &account]);
        assert_eq!(String::from_utf8_lossy(&answer.stdout).trim(), may, "{verb} serviceaccounts {subresource}");
    }
    let token = api.kubectl_ok(&["create", "token", "notification-controller", "--namespace", SYSTEM]);
    let mut config = api.config().await;
    config.auth_info = AuthInfo { token: Some(token.trim().to_owned().into()), ..AuthInfo::default() };

    let space = Space::new("rbac").await;
    let forge = forge().await;
    space.apply(&provider("github", "git", &repository(&forge)).secret("token")).await;
    space.apply(&alert("all", "git")).await;
    space.apply(&alert("old", "git").spec("suspend", true)).await;
    let installed = ["Bucket", "ExternalArtifact", "GitRepository", "HelmRepository", "Kustomization", "OCIRepository"];
    let labelled = installed.map(|kind| json!({"kind": kind, "name": "*", "matchLabels": {"team": "a"}}));
    space.apply(&alert("labelled", "git").sources(labelled.to_vec().into())).await;
    let herald = space.herald_as(kube::Client::try_from(config).expect("a client")).await;
    space.condition("Provider", "git", "Healthy", "False", "SecretNotFound").await;
    space.apply(&secret("token", "token", "t0k")).await;
    space.in_order("Provider", "git").await;
    space.in_order("Alert", "all").await;
    space.in_order("Alert", "labelled").await;
    assert_eq!(herald.post(&in_namespace(kustomization_event("web", &sha(1)), &space)).await, 202);
    assert_eq!(status_of(&forge, &sha(1)).await.state, "success");

    space.merge("Alert", "old", json!({"metadata": {"finalizers": ["finalizers.fluxcd.io"]}})).await;
    space.delete("Alert", "old").await;
    wait::until(DEADLINE, "the old finalizer to go", || async {
        space.objects("Alert").get_opt("old").await.expect("the API server answers").is_none().then_some(())
    })
    .await;
    space.event("Alert", "old", "Migration", 1).await;
    // Created, then counted up.
    for number in [2, 3] {
        forge.fail(Fault::answer(422).writes());
        assert_eq!(herald.post(&in_namespace(kustomization_event("web", &sha(number)), &space)).await, 202);
        space.event("Alert", "all", "NotificationDispatchFailed", number - 1).await;
        if number == 2 {
            // Only once: an object's conditions are written six times a minute at most.
            herald.post(&in_namespace(kustomization_event("web", &sha(number + 10)), &space)).await;
            space.in_order("Alert", "all").await;
        }
    }
    herald.stop().await;
}

#[tokio::test]
async fn without_the_permission_to_read_secrets_herald_says_so() {
    let space = Space::new("rbac").await;
    let api = space.api;
    // All but the contents of Secrets.
    let rules = json!([
        {"apiGroups": ["notification.toolkit.fluxcd.io"], "resources": ["*"], "verbs": ["*"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "watch"]},
    ]);
    for manifest in [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "weak", "namespace": space.name}}),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": "weak", "namespace": space.name}, "rules": rules,
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "weak", "namespace": space.name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "weak"},
            "subjects": [{"kind": "ServiceAccount", "name": "weak", "namespace": space.name}],
        }),
    ] {
        api.kubectl_apply(&manifest.to_string());
    }
    let token = space.kubectl(&["create", "token", "weak"]);
    let mut config = api.config().await;
    config.auth_info = AuthInfo { token: Some(token.trim().to_owned().into()), ..AuthInfo::default() };
    space.apply(&secret("token", "token", "t0k")).await;
    space.apply(&provider("github", "git", "https://github.com/acme/fleet").secret("token")).await;
    let herald = space.herald_as(kube::Client::try_from(config).expect("a client")).await;
    let healthy = space.condition("Provider", "git", "Healthy", "False", "SecretUnreadable").await;
    assert!(super::message(&healthy).contains("config/rbac"), "{healthy}");
    herald.stop().await;
}

#[tokio::test]
async fn what_config_renders_is_accepted() {
    let (space, _guard) = flux_system().await;
    let api = space.api;
    api.kubectl_apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}}).to_string());
    for name in ["default", "samples"] {
        let output = api.kubectl(&["apply", "--server-side", "--dry-run=server", "-k", &folder(name)]);
        assert!(output.status.success(), "{name}: {}", stderr(&output));
        assert_eq!(stderr(&output), "", "{name}: nothing in it is deprecated or insecure");
    }
    // Each sample has an Alert; the other file is the list.
    let files = std::fs::read_dir(folder("samples")).expect("a folder").count();
    let samples = api.kubectl_ok(&["kustomize", &folder("samples")]);
    assert_eq!(samples.lines().filter(|line| *line == "kind: Alert").count() + 1, files, "one is not on the list");
    // Not every kind is installed here; the role names them all the same.
    let role = space.rendered("default", "ClusterRole");
    for kind in EVENT_SOURCE_KINDS {
        let kind = LabelKind::of(kind).expect("an Alert may listen to it");
        let holds = |list: &Value, entry: &str| list.as_array().is_some_and(|list| list.iter().any(|is| is == entry));
        let rules = role["rules"].as_array().expect("rules");
        let may = rules.iter().any(|rule| {
            holds(&rule["apiGroups"], kind.group)
                && holds(&rule["resources"], kind.plural)
                && rule["verbs"] == json!(["get", "list", "watch"])
        });
        assert!(may, "{}.{}", kind.plural, kind.group);
    }
    let deployment = space.rendered("default", "Deployment");
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    // `flux install` replaces the first two by their place.
    assert_eq!(container["args"][0], "--watch-all-namespaces");
    assert_eq!(container["args"][1], "--log-level=info");
    for arg in container["args"].as_array().expect("arguments") {
        let flag = arg.as_str().expect("text");
        let parsed = <herald::cli::Cli as clap::Parser>::try_parse_from(["herald", flag]);
        assert!(parsed.is_ok(), "{flag}");
    }
}

#[tokio::test]
async fn the_overlay_for_flux_swaps_the_image_and_nothing_else() {
    let (space, _guard) = flux_system().await;
    // Where Flux is not, nothing is made.
    let output = space.api.kubectl(&["apply", "-k", &folder("overlays/flux")]);
    assert!(!output.status.success());
    assert!(stderr(&output).contains("`selector` does not match template `labels`"), "{}", stderr(&output));

    let mut flux = space.rendered("default", "Deployment");
    flux["metadata"]["namespace"] = space.name.as_str().into();
    let container = &mut flux["spec"]["template"]["spec"]["containers"][0];
    container["image"] = "ghcr.io/fluxcd/notification-controller:v1.9.3".into();
    container["args"].as_array_mut().expect("arguments").push("--rate-limit-interval=1m".into());
    space.api.kubectl_apply(&flux.to_string());
    let before = space.deployment();
    space.kubectl(&["apply", "-k", &folder("overlays/flux")]);
    let after = space.deployment();
    space.kubectl(&["delete", "deployment", "notification-controller"]);

    let mut expected = before["spec"].clone();
    expected["template"]["spec"]["containers"][0]["image"] = "herald:latest".into();
    assert_eq!(after["spec"], expected);
    assert_eq!(after["metadata"]["labels"], before["metadata"]["labels"]);
}

impl Space<'_> {
    /// The object of a kind that a folder of `config/` renders.
    fn rendered(&self, name: &str, kind: &str) -> Value {
        let yaml = self.api.kubectl_ok(&["kustomize", &folder(name)]);
        let documents: Vec<Value> = serde_saphyr::from_multiple(&yaml).expect("YAML");
        documents.into_iter().find(|document| document["kind"] == kind).expect("it is among them")
    }

    fn deployment(&self) -> Value {
        let text = self.kubectl(&["get", "deployment", "notification-controller", "-o", "json"]);
        serde_json::from_str(&text).expect("JSON")
    }
}

impl super::ApiServer {
    /// How to reach it as one who may do everything.
    pub async fn config(&self) -> kube::Config {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig()).expect("our own kubeconfig");
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await;
        config.expect("a complete kubeconfig")
    }
}
