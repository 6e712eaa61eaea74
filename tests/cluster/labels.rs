//! `matchLabels`: which objects it selects, how an event that overtakes the watch is not lost, what
//! the condition says while labels cannot be read, and that a watch lives as long as it is wanted.

use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use kube::api::DynamicObject;
use kube::client::ClientBuilder;
use kube::config::AuthInfo;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::{Layer, Service};

use super::support::app::{DEADLINE, Herald};
use super::support::flux::{FluxEvent, alert, kustomization_event, provider, sha};
use super::support::forge::Forge;
use super::support::wait;
use super::{Space, forge, in_namespace, message, objects};

const KUSTOMIZE: &str = "kustomize.toolkit.fluxcd.io/v1";
const SOURCE: &str = "source.toolkit.fluxcd.io/v1";
const IMAGE: &str = "image.toolkit.fluxcd.io/v1";

/// A source of every object of a kind that carries these labels.
fn labelled(kind: &str, labels: Value) -> Value {
    json!([{"kind": kind, "name": "*", "matchLabels": labels}])
}

/// Applies an Alert on `sources`, with a Provider of its own so that the host sees which told.
async fn told_at(space: &Space<'_>, forge: &Forge, name: &str, sources: Value) {
    space.apply(&provider("generic", name, &format!("{}/hook?{name}", forge.url()))).await;
    space.apply(&alert(name, name).sources(sources)).await;
}

/// Posts an event and gives the names of the Alerts that told it.
async fn told(herald: &Herald, forge: &Forge, event: &Value) -> Vec<String> {
    forge.reset_counts();
    assert_eq!(herald.post(event).await, 202);
    herald.idle().await;
    let requests = forge.requests();
    let mut told: Vec<_> =
        requests.iter().filter_map(|request| Some(request.uri.split_once('?')?.1.to_owned())).collect();
    told.sort();
    told
}

/// An event about an object, as its controller sends it.
fn about(object: &DynamicObject, text: &str) -> FluxEvent {
    let (types, metadata) = (object.types.as_ref().expect("a kind"), &object.metadata);
    let version = metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).expect("a version");
    kustomization_event(metadata.name.as_deref().expect("a name"), &sha(1))
        .kind(&types.kind, &types.api_version)
        .namespace(metadata.namespace.as_deref().expect("a namespace"))
        .version(version)
        .message(text)
}

impl Space<'_> {
    /// Creates an object of Flux's with these labels.
    async fn labelled(&self, api_version: &str, kind: &str, name: &str, labels: Value) -> DynamicObject {
        let spec = match kind {
            "Kustomization" => json!({
                "interval": "1h", "prune": true, "path": "./",
                "sourceRef": {"kind": "GitRepository", "name": "fleet"},
            }),
            "Bucket" => json!({"interval": "1h", "bucketName": "b", "endpoint": "minio.example.org"}),
            _ => json!({}),
        };
        let object = json!({
            "apiVersion": api_version, "kind": kind, "spec": spec,
            "metadata": {"name": name, "namespace": self.name, "labels": labels},
        });
        let object = serde_json::from_value(object).expect("an object");
        objects(&self.client, &self.name, api_version, kind)
            .create(&Default::default(), &object)
            .await
            .expect("created")
    }

    /// Sets or removes the label `team`.
    async fn relabel(&self, name: &str, team: Value) -> DynamicObject {
        let patch = kube::api::Patch::Merge(json!({"metadata": {"labels": {"team": team}}}));
        let kustomizations = objects(&self.client, &self.name, KUSTOMIZE, "Kustomization");
        kustomizations.patch(name, &Default::default(), &patch).await.expect("changed")
    }

    /// A client that may do as `rules` say, here and nowhere else; call it again to change them.
    pub(super) async fn client_with(&self, rules: &Value) -> kube::Client {
        let role = |kind: &str, more: Value| {
            let mut role = json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
                "metadata": {"name": "weak", "namespace": self.name},
            });
            role.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
            role.to_string()
        };
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "weak", "namespace": self.name}});
        self.api.kubectl_apply(&account.to_string());
        self.api.kubectl_apply(&role("Role", json!({"rules": rules})));
        self.api.kubectl_apply(&role(
            "RoleBinding",
            json!({
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "weak"},
                "subjects": [{"kind": "ServiceAccount", "name": "weak", "namespace": self.name}],
            }),
        ));
        let token = self.kubectl(&["create", "token", "weak"]);
        let mut config = self.api.config().await;
        config.auth_info = AuthInfo { token: Some(token.trim().to_owned().into()), ..AuthInfo::default() };
        kube::Client::try_from(config).expect("a client")
    }

    /// How many watches of a resource the API server serves.
    fn watches(&self, resource: &str) -> u64 {
        let metrics = self.api.kubectl_ok(&["get", "--raw", "/metrics"]);
        let of = |line: &&str| {
            let parts = ["apiserver_longrunning_requests{", "verb=\"WATCH\"", &format!("resource=\"{resource}\"")];
            parts.iter().all(|part| line.contains(part))
        };
        // Its own cache watches too, but not as a request.
        let count = |line: &str| line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok());
        metrics.lines().filter(of).filter_map(count).sum()
    }
}

#[tokio::test]
async fn objects_are_selected_by_the_labels_they_carry_now() {
    let space = Space::new("labels").await;
    let forge = forge().await;
    let web = space.labelled(KUSTOMIZE, "Kustomization", "web", json!({"team": "a", "tier": "front"})).await;
    let plain = space.labelled(KUSTOMIZE, "Kustomization", "plain", json!({})).await;
    let sources = |labels| labelled("Kustomization", labels);
    told_at(&space, &forge, "team", sources(json!({"team": "a"}))).await;
    told_at(&space, &forge, "both", sources(json!({"team": "a", "tier": "front"}))).await;
    told_at(&space, &forge, "other-team", sources(json!({"team": "b"}))).await;
    told_at(&space, &forge, "other-kind", labelled("GitRepository", json!({"team": "a"}))).await;
    told_at(&space, &forge, "empty", sources(json!({}))).await;
    let named = |name: &str| json!([{"kind": "Kustomization", "name": name, "matchLabels": {"team": "a"}}]);
    told_at(&space, &forge, "named", named("web")).await;
    told_at(&space, &forge, "named-otherwise", named("plain")).await;
    told_at(&space, &forge, "impossible", sources(json!({"team": "not a label"}))).await;
    let elsewhere = json!([{"kind": "Kustomization", "name": "*", "namespace": "prod", "matchLabels": {}}]);
    told_at(&space, &forge, "elsewhere", elsewhere).await;
    let herald = space.herald().await;
    for name in ["team", "empty", "named", "other-kind"] {
        space.in_order("Alert", name).await;
    }
    let wrong = space.condition("Alert", "impossible", "Ready", "False", "InvalidSpec").await;
    assert!(message(&wrong).contains("spec.eventSources[0].matchLabels"), "{wrong}");
    let wrong = space.condition("Alert", "elsewhere", "Healthy", "False", "LabelsOutOfReach").await;
    assert!(message(&wrong).contains("--watch-all-namespaces=false"), "{wrong}");

    assert_eq!(told(&herald, &forge, &about(&web, "1")).await, ["both", "empty", "named", "team"]);
    assert_eq!(told(&herald, &forge, &about(&plain, "2")).await, ["empty"]);
    let missing = in_namespace(kustomization_event("missing", &sha(1)).version(1), &space);
    assert!(told(&herald, &forge, &missing).await.is_empty(), "an empty selector too wants an object that is there");

    // Each event follows the change at once, as the controller's does that saw it first.
    let web = space.relabel("web", json!("b")).await;
    assert_eq!(told(&herald, &forge, &about(&web, "3")).await, ["empty", "other-team"]);
    let web = space.relabel("web", Value::Null).await;
    assert_eq!(told(&herald, &forge, &about(&web, "4")).await, ["empty"]);
    let plain = space.relabel("plain", json!("a")).await;
    assert_eq!(told(&herald, &forge, &about(&plain, "5")).await, ["empty", "named-otherwise", "team"]);
    let new = space.labelled(KUSTOMIZE, "Kustomization", "new", json!({"team": "a"})).await;
    assert_eq!(told(&herald, &forge, &about(&new, "6")).await, ["empty", "team"]);

    objects(&space.client, &space.name, KUSTOMIZE, "Kustomization")
        .delete("new", &Default::default())
        .await
        .expect("gone");
    wait::until(DEADLINE, "the deletion to be known", || async {
        told(&herald, &forge, &about(&new, &uuid::Uuid::new_v4().to_string())).await.is_empty().then_some(())
    })
    .await;
    herald.stop().await;
}

#[tokio::test]
async fn an_event_that_overtakes_the_watch_waits_for_it_and_not_for_ever() {
    let space = Space::new("labels").await;
    let forge = forge().await;
    told_at(&space, &forge, "team", labelled("Kustomization", json!({"team": "a"}))).await;
    let herald = space.herald().await;
    space.in_order("Alert", "team").await;

    // Of a version nobody has seen, and of an object nobody has made yet.
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mark"}});
    let config = serde_json::from_value(config).expect("an object");
    let mark = objects(&space.client, &space.name, "v1", "ConfigMap").create(&Default::default(), &config).await;
    let version = mark.expect("created").metadata.resource_version.and_then(|version| version.parse().ok());
    let early = in_namespace(kustomization_event("early", &sha(1)).version(version.expect("a version")), &space);
    let mut answer = Box::pin(herald.post(&early));
    let early = tokio::time::timeout(Duration::from_millis(500), &mut answer).await;
    assert!(early.is_err(), "answered before the watch knew the object: {early:?}");
    space.labelled(KUSTOMIZE, "Kustomization", "early", json!({"team": "a"})).await;
    assert_eq!(answer.await, 202);
    herald.idle().await;
    assert_eq!(forge.requests().len(), 1);

    // Of one that never comes. Its sender gives up after 5 s.
    let never = in_namespace(kustomization_event("never", &sha(1)).version(u64::MAX), &space);
    let answer = tokio::time::timeout(Duration::from_secs(4), herald.post(&never)).await;
    assert_eq!(answer.expect("an answer in time"), 202);
    assert_eq!(herald.app.outbox.counts().held, 0);
    assert_eq!(forge.requests().len(), 1);
    herald.stop().await;
}

/// Holds back requests with this word in their path until the door opens, as an API server does
/// that is slow to list one kind.
#[derive(Clone)]
struct Slow {
    word: &'static str,
    open: watch::Receiver<bool>,
}

struct SlowService<S> {
    slow: Slow,
    inner: S,
}

impl<S> Layer<S> for Slow {
    type Service = SlowService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SlowService { slow: self.clone(), inner }
    }
}

impl<S: Service<http::Request<B>, Future: Send + 'static>, B> Service<http::Request<B>> for SlowService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let slow = request.uri().path().contains(self.slow.word);
        let mut open = self.slow.open.clone();
        let response = self.inner.call(request);
        Box::pin(async move {
            if slow {
                let _ = open.wait_for(|open| *open).await;
            }
            response.await
        })
    }
}

#[tokio::test]
async fn while_a_kind_is_listed_senders_come_again_but_not_for_long() {
    let space = Space::new("labels").await;
    let forge = forge().await;
    let web = space.labelled(KUSTOMIZE, "Kustomization", "web", json!({"team": "a"})).await;
    told_at(&space, &forge, "team", labelled("Kustomization", json!({"team": "a"}))).await;
    let all = json!([{"kind": "Kustomization", "name": "web"}]);
    told_at(&space, &forge, "all", all).await;
    let (door, open) = watch::channel(false);
    let builder = ClientBuilder::try_from(space.api.config().await).expect("a client");
    let client = builder.with_layer(&Slow { word: "/kustomizations", open }).build();
    let herald = space.herald_as(client).await;

    let answer = tokio::time::timeout(Duration::from_secs(4), herald.post(&about(&web, "1"))).await;
    assert_eq!(answer.expect("an answer before the sender gives up"), 503);
    assert!(forge.requests().is_empty(), "what comes again is told then");
    assert!(super::condition(&space.get("Alert", "team").await, "Ready").is_none(), "it may be in order in a moment");

    let late = space.condition("Alert", "team", "Healthy", "False", "LabelsUnread").await;
    assert!(message(&late).contains("kustomizations.kustomize.toolkit.fluxcd.io"), "{late}");
    let answer = tokio::time::timeout(Duration::from_secs(1), herald.post(&about(&web, "2"))).await;
    assert_eq!(answer.expect("an answer at once"), 202);
    herald.idle().await;
    assert_eq!(forge.requests().len(), 1, "the Alert without labels");

    door.send(true).expect("Herald waits for it");
    space.in_order("Alert", "team").await;
    assert_eq!(told(&herald, &forge, &about(&web, "3")).await, ["all", "team"]);
    herald.stop().await;
}

#[tokio::test]
async fn without_permission_nothing_waits_and_a_permission_that_comes_is_noticed() {
    let space = Space::new("labels").await;
    let forge = forge().await;
    let bucket = space.labelled(SOURCE, "Bucket", "b", json!({"team": "a"})).await;
    told_at(&space, &forge, "team", labelled("Bucket", json!({"team": "a"}))).await;
    told_at(&space, &forge, "all", json!([{"kind": "Bucket", "name": "*"}])).await;
    let mut rules = json!([
        {"apiGroups": ["notification.toolkit.fluxcd.io"], "resources": ["*"], "verbs": ["*"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
    ]);
    let herald = space.herald_as(space.client_with(&rules).await).await;
    let forbidden = space.condition("Alert", "team", "Healthy", "False", "LabelsForbidden").await;
    for part in ["buckets.source.toolkit.fluxcd.io", "get, list and watch", "config/rbac"] {
        assert!(message(&forbidden).contains(part), "{forbidden}");
    }
    space.event("Alert", "team", "SourceFetchFailed", 1).await;
    space.condition("Alert", "team", "Ready", "True", "Succeeded").await;
    space.in_order("Alert", "all").await;
    // Not even for an object newer than anything.
    let event = about(&bucket, "1").version(u64::MAX);
    let answer = tokio::time::timeout(Duration::from_secs(1), herald.post(&event)).await;
    assert_eq!(answer.expect("an answer at once"), 202);
    herald.idle().await;
    assert_eq!(told(&herald, &forge, &about(&bucket, "2")).await, ["all"]);

    let granted =
        json!({"apiGroups": ["source.toolkit.fluxcd.io"], "resources": ["buckets"], "verbs": ["list", "watch"]});
    rules.as_array_mut().expect("rules").push(granted);
    space.client_with(&rules).await;
    space.in_order("Alert", "team").await;
    assert_eq!(told(&herald, &forge, &about(&bucket, "3")).await, ["all", "team"]);
    herald.stop().await;
}

#[tokio::test]
async fn a_kind_that_is_installed_later_is_noticed_and_one_that_goes_too() {
    let space = Space::new("labels").await;
    let forge = forge().await;
    told_at(&space, &forge, "team", labelled("ImagePolicy", json!({"team": "a"}))).await;
    let herald = space.herald().await;
    let missing = space.condition("Alert", "team", "Healthy", "False", "KindNotInstalled").await;
    assert!(message(&missing).contains("imagepolicies.image.toolkit.fluxcd.io"), "{missing}");
    let event = kustomization_event("p", &sha(1)).kind("ImagePolicy", IMAGE).version(u64::MAX);
    let answer = tokio::time::timeout(Duration::from_secs(1), herald.post(&in_namespace(event, &space))).await;
    assert_eq!(answer.expect("an answer at once"), 202);

    let name = "imagepolicies.image.toolkit.fluxcd.io";
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": name},
        "spec": {
            "group": "image.toolkit.fluxcd.io", "scope": "Namespaced",
            "names": {"kind": "ImagePolicy", "listKind": "ImagePolicyList", "plural": "imagepolicies", "singular": "imagepolicy"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}],
        },
    });
    space.api.kubectl_apply(&definition.to_string());
    space.api.kubectl_ok(&["wait", "--for=condition=Established", "--timeout=30s", &format!("crd/{name}")]);
    space.in_order("Alert", "team").await;
    let policy = space.labelled(IMAGE, "ImagePolicy", "p", json!({"team": "a"})).await;
    assert_eq!(told(&herald, &forge, &about(&policy, "1")).await, ["team"]);

    space.api.kubectl_ok(&["delete", "crd", name]);
    space.condition("Alert", "team", "Healthy", "False", "KindNotInstalled").await;
    herald.stop().await;
}

#[tokio::test]
async fn a_kind_is_watched_as_long_as_some_alert_selects_by_its_labels() {
    let space = Space::new("labels").await;
    let forge = forge().await;
    let until = |count: u64, what: &'static str| {
        let space = &space;
        wait::until_ok(DEADLINE, what, move || async move {
            let seen = space.watches("helmcharts");
            if seen == count { Ok(()) } else { Err(format!("{seen} watches")) }
        })
    };
    told_at(&space, &forge, "plain", json!([{"kind": "HelmChart", "name": "*"}])).await;
    let herald = space.herald().await;
    space.in_order("Alert", "plain").await;
    assert_eq!(space.watches("helmcharts"), 0, "nobody asks for labels");

    told_at(&space, &forge, "one", labelled("HelmChart", json!({"team": "a"}))).await;
    told_at(&space, &forge, "two", labelled("HelmChart", json!({"team": "b"}))).await;
    space.in_order("Alert", "one").await;
    space.in_order("Alert", "two").await;
    until(1, "one watch for both").await;
    space.delete("Alert", "one").await;
    space.apply(&alert("two", "two").sources(labelled("HelmChart", json!({"team": "c"}))).spec("suspend", true)).await;
    until(0, "no watch for an Alert that is gone and one that is suspended").await;

    space.apply(&alert("two", "two").sources(labelled("HelmChart", json!({"team": "c"})))).await;
    until(1, "a watch again").await;
    space.delete("Alert", "two").await;
    until(0, "no watch when the last is gone").await;
    herald.stop().await;
}
