//! What the definitions in `crds/` take, refuse and show; Herald where there are none yet, on
//! Flux's own, and on objects that no definition would let in.

use clap::Parser;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use herald::api::provider::{COMMIT_STATUS_TYPES, PROVIDER_TYPES};
use herald::api::{DEPRECATED_VERSIONS, GROUP};
use herald::app::{App, Source};
use herald::cli::Cli;

use super::support::apiserver::ApiServer;
use super::support::app::{DEADLINE, Herald};
use super::support::flux::{alert, kustomization_event, provider, secret, sha};
use super::support::wait;
use super::{
    GROUP_VERSION, Log, Space, cluster, forge, in_repository, install, objects, repository, status_of, stderr, value_of,
};

/// Types that came after the peer's release; its schema does not know them.
const LATER_TYPES: [&str; 2] = ["zoom", "incident.io"];

/// Specs, and the field that is refused; none when all is well. The peer's schema agrees on each.
fn specs() -> Vec<(&'static str, Value, Option<&'static str>)> {
    let alert = |field: &str, value: Value| {
        let mut spec = json!({"providerRef": {"name": "p"}, "eventSources": []});
        spec[field] = value;
        spec
    };
    let source = |field: &str, value: Value| {
        let mut source = json!({"kind": "Kustomization", "name": "*"});
        source[field] = value;
        alert("eventSources", json!([source]))
    };
    let provider = |kind: &str, field: &str, value: Value| {
        let mut spec = json!({"type": kind});
        spec[field] = value;
        spec
    };
    let text = |length: usize| Value::from("x".repeat(length));
    let proxy = |length: usize| Value::from(format!("http://{}", "x".repeat(length - 7)));
    let mut specs = vec![
        ("Alert", Value::Null, None),
        ("Alert", json!({"eventSources": []}), Some("spec.providerRef")),
        ("Alert", json!({"providerRef": {"name": "p"}}), Some("spec.eventSources")),
        ("Alert", json!({"providerRef": {}, "eventSources": []}), Some("spec.providerRef.name")),
        ("Alert", alert("eventSources", json!([])), None),
        ("Alert", alert("eventSources", json!("text")), Some("spec.eventSources")),
        ("Alert", alert("eventSeverity", json!("error")), None),
        ("Alert", alert("eventSeverity", json!("warning")), Some("spec.eventSeverity")),
        ("Alert", alert("eventSeverity", json!("")), Some("spec.eventSeverity")),
        ("Alert", alert("summary", text(255)), None),
        ("Alert", alert("summary", text(256)), Some("spec.summary")),
        ("Alert", alert("inclusionList", json!(["(unclosed"])), None),
        ("Alert", alert("inclusionList", json!([1])), Some("spec.inclusionList[0]")),
        ("Alert", alert("eventMetadata", json!({"a": "b"})), None),
        ("Alert", alert("eventMetadata", json!({"a": 1})), Some("spec.eventMetadata.a")),
        ("Alert", alert("suspend", json!("yes")), Some("spec.suspend")),
        ("Alert", source("kind", json!("")), Some("spec.eventSources[0].kind")),
        ("Alert", source("kind", text(64)), Some("spec.eventSources[0].kind")),
        ("Alert", source("kind", json!("ExternalArtifact")), None),
        ("Alert", source("name", text(253)), None),
        ("Alert", source("name", text(254)), Some("spec.eventSources[0].name")),
        ("Alert", source("name", json!("")), Some("spec.eventSources[0].name")),
        ("Alert", source("namespace", text(254)), Some("spec.eventSources[0].namespace")),
        ("Alert", source("namespace", json!("")), Some("spec.eventSources[0].namespace")),
        ("Alert", source("matchLabels", json!({"a": "b"})), None),
        ("Alert", source("matchLabels", json!({"a": true})), Some("spec.eventSources[0].matchLabels.a")),
        ("Provider", json!({}), Some("spec.type")),
        ("Provider", json!({"type": "unknown"}), Some("spec.type")),
        ("Provider", provider("generic", "address", text(2048)), None),
        ("Provider", provider("generic", "address", text(2049)), Some("spec.address")),
        ("Provider", provider("generic", "channel", text(2049)), Some("spec.channel")),
        ("Provider", provider("generic", "username", text(2049)), Some("spec.username")),
        ("Provider", provider("generic", "timeout", json!("1m30.5s")), None),
        ("Provider", provider("generic", "timeout", json!("1h")), Some("spec.timeout")),
        ("Provider", provider("generic", "timeout", json!("30")), Some("spec.timeout")),
        ("Provider", provider("generic", "interval", json!("1h")), None),
        ("Provider", provider("generic", "interval", json!("1d")), Some("spec.interval")),
        ("Provider", provider("generic", "proxy", proxy(2048)), None),
        ("Provider", provider("generic", "proxy", proxy(2049)), Some("spec.proxy")),
        ("Provider", provider("generic", "proxy", json!("proxy.example.org:8080")), Some("spec.proxy")),
        ("Provider", provider("generic", "secretRef", json!({})), Some("spec.secretRef.name")),
        ("Provider", provider("generic", "certSecretRef", json!({})), Some("spec.certSecretRef.name")),
        ("Provider", provider("generic", "proxySecretRef", json!({})), Some("spec.proxySecretRef.name")),
        ("Provider", provider("azuredevops", "serviceAccountName", json!("cloud")), None),
        ("Provider", provider("generic", "commitStatusExpr", json!("'x'")), Some("spec")),
        ("Provider", provider("slack", "commitStatusExpr", json!("'x'")), Some("spec")),
    ];
    for kind in PROVIDER_TYPES.iter().filter(|kind| !LATER_TYPES.contains(kind)) {
        specs.push(("Provider", json!({"type": kind}), None));
    }
    for kind in COMMIT_STATUS_TYPES {
        specs.push(("Provider", provider(kind, "commitStatusExpr", json!("'x'")), None));
    }
    specs
}

/// Offers each spec to the API server, which has to answer as the table says.
async fn offer(space: &Space<'_>, versions: &[&str]) {
    let params = PostParams { dry_run: true, ..PostParams::default() };
    for version in versions {
        for (number, (kind, spec, refused)) in specs().into_iter().enumerate() {
            let mut object = json!({
                "apiVersion": format!("{GROUP}/{version}"), "kind": kind, "metadata": {"name": format!("offer-{number}")},
            });
            if !spec.is_null() {
                object["spec"] = spec;
            }
            let at = format!("{version} {kind} {object}");
            let object = serde_json::from_value(object).expect("an object");
            let api = objects(&space.client, &space.name, &format!("{GROUP}/{version}"), kind);
            let answer = match api.create(&params, &object).await {
                Ok(_) => None,
                Err(kube::Error::Api(status)) => {
                    assert_eq!(status.code, 422, "{at}: {}", status.message);
                    let causes = status.details.map(|details| details.causes).unwrap_or_default();
                    Some(causes.into_iter().map(|cause| cause.field).collect::<Vec<_>>())
                }
                Err(error) => panic!("{at}: {error}"),
            };
            match (&answer, refused) {
                (None, None) => {}
                (Some(fields), Some(field)) => assert!(fields.iter().any(|is| is == field), "{at}: {fields:?}"),
                _ => panic!("{at}: expected {refused:?}, was {answer:?}"),
            }
        }
    }
}

#[tokio::test]
async fn every_version_takes_and_refuses_what_flux_does() {
    let space = Space::new("schema").await;
    offer(&space, &["v1beta1", "v1beta2", "v1beta3"]).await;
    for kind in LATER_TYPES {
        space.apply(&provider(kind, "later", "")).await;
    }
    // The peer's definitions know twelve kinds.
    for kind in ["FluxInstance", "ResourceSet", "Terraform", "Receiver"] {
        space.apply(&alert("later", "p").sources(json!([{"kind": kind, "name": "*"}]))).await;
    }
    assert_eq!(PROVIDER_TYPES.len(), 34);
    // What is not given is filled in as the peer does it, and nothing else is.
    let object = space.apply(&alert("a", "p").spec("eventSeverity", Value::Null)).await;
    assert_eq!(value_of(&object)["spec"]["eventSeverity"], "info");
    let object = value_of(&space.apply(&provider("github", "p", "")).await);
    assert_eq!(object["spec"], json!({"type": "github", "address": ""}));
}

fn parse(value: &Value) -> kube::api::DynamicObject {
    serde_json::from_value(value.clone()).expect("an object")
}

#[tokio::test]
async fn old_versions_lose_nothing() {
    let space = Space::new("versions").await;
    let git = provider("github", "git", "https://github.com/acme/fleet").secret("token");
    let git = git
        .spec("commitStatusExpr", "'x'")
        .spec("serviceAccountName", "cloud")
        .spec("proxySecretRef", json!({"name": "p"}));
    let all = alert("all", "git").spec("inclusionList", json!(["a"])).spec("eventMetadata", json!({"b": "c"}));
    let mut specs = Vec::new();
    for manifest in [git, all] {
        specs.push(value_of(&space.apply(&manifest).await)["spec"].clone());
    }
    for version in DEPRECATED_VERSIONS {
        for (kind, name, spec) in [("Provider", "git", &specs[0]), ("Alert", "all", &specs[1])] {
            let api = objects(&space.client, &space.name, &format!("{GROUP}/{version}"), kind);
            let patch = Patch::Merge(json!({"metadata": {"labels": {"patched": version}}}));
            let patched = value_of(&api.patch(name, &PatchParams::default(), &patch).await.expect("served"));
            assert_eq!(patched["apiVersion"], format!("{GROUP}/{version}"));
            let stored = space.get(kind, name).await;
            assert_eq!(stored["metadata"]["labels"]["patched"], version);
            assert_eq!(stored["spec"], *spec, "{kind} through {version}");
        }
    }
}

#[tokio::test]
async fn kubectl_shows_what_it_should() {
    let space = Space::new("columns").await;
    space.apply(&provider("github", "git", "https://github.com/acme/fleet")).await;
    space.apply(&alert("all", "git")).await;
    // The conditions that fill these columns are the business of `conditions`.
    for plural in ["alerts", "providers"] {
        let table = space.table(&[plural]);
        assert_eq!(table[0], ["NAME", "READY", "HEALTHY", "STATUS", "AGE"]);
        for version in DEPRECATED_VERSIONS {
            let table = space.table(&[&format!("{plural}.{version}.{GROUP}")]);
            assert_eq!(table[0], ["NAME", "READY", "HEALTHY", "STATUS", "AGE"]);
        }
        let crd: Value =
            serde_json::from_str(&space.kubectl(&["get", "crd", &format!("{plural}.{GROUP}"), "-o", "json"]))
                .expect("JSON");
        assert_eq!(crd["metadata"]["annotations"]["kustomize.toolkit.fluxcd.io/substitute"], "disabled");
        assert_eq!(crd["spec"]["names"]["categories"], json!(["all", "fluxcd", "fluxcd-notifications"]));
        assert_eq!(crd["status"]["storedVersions"], json!(["v1beta3"]));
        let refused = crd["status"]["conditions"].as_array().expect("conditions").iter().find(|is| {
            is["type"] == "NonStructuralSchema" || (is["type"] == "NamesAccepted" && is["status"] != "True")
        });
        assert_eq!(refused, None);
    }
    for category in ["fluxcd", "fluxcd-notifications", "all"] {
        let names = space.kubectl(&["get", category, "-o", "name"]);
        for name in [format!("alert.{GROUP}/all"), format!("provider.{GROUP}/git")] {
            assert!(names.lines().any(|line| line == name), "{category}: {names}");
        }
    }
    for (version, deprecated) in [("v1beta1", true), ("v1beta2", true), ("v1beta3", false)] {
        let output = space.api.kubectl(&["get", &format!("alerts.{version}.{GROUP}"), "-n", &space.name]);
        let warning = format!("{GROUP}/{version} is deprecated, use {GROUP_VERSION}");
        assert_eq!(stderr(&output).contains(&warning), deprecated, "{}", stderr(&output));
    }
}

#[tokio::test]
async fn a_bare_kubectl_apply_of_the_folder_works() {
    let api = cluster().await;
    let folder = in_repository("crds");
    let output = api.kubectl(&["apply", "--server-side", "-k", folder.to_str().expect("UTF-8")]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
}

/// Herald as `main` starts it: no waiting until it is ready.
async fn start(api: &ApiServer) -> App {
    let flags = ["herald", "--events-addr=127.0.0.1:0", "--health-addr=127.0.0.1:0", "--metrics-addr=127.0.0.1:0"];
    let flags = flags.into_iter().chain(["--allow-address=127.0.0.0/8"]);
    herald::install_tls_provider();
    App::start(&Cli::parse_from(flags), Source::Cluster(api.client().await.into())).await.expect("Herald starts")
}

#[tokio::test]
async fn herald_waits_for_definitions_and_runs_on_those_of_flux() {
    let (log, _guard) = Log::start();
    let api = ApiServer::start().await;
    let app = start(&api).await;
    let events = format!("http://{}/", app.events);
    let (live, ready) = (format!("http://{}/healthz", app.health), format!("http://{}/readyz", app.health));
    let client = reqwest::Client::new();
    let post = async |event: &Value| client.post(&events).body(event.to_string()).send().await.expect("an answer");

    wait::until(DEADLINE, "a line about the definitions", || async {
        (!log.lines(&["waiting", "apply the files in crds/"]).is_empty()).then_some(())
    })
    .await;
    assert!(wait::answers(&live).await && !wait::answers(&ready).await);
    let event = kustomization_event("web", &sha(1));
    let answer = post(&event).await;
    assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (503, &"8".parse().expect("a value")));

    api.apply_crds(&in_repository("config/testdata/peer-crds.yaml"));
    api.kubectl_ok(&["create", "namespace", "flux-system"]);
    let space = Space::named(&api, "flux-system".to_owned()).await;
    wait::until(DEADLINE, "Herald to be ready", || async { wait::answers(&ready).await.then_some(()) }).await;
    // An API server that starts can say several things in a row; all that it still lacks are the definitions.
    let waiting = log.lines(&["waiting"]);
    assert!(waiting.last().is_some_and(|line| line.contains("apply the files in crds/")), "{waiting:?}");

    // The table that the other definitions are tested by is the peer's.
    offer(&space, &["v1beta3"]).await;

    let forge = forge().await;
    let mut applied = Vec::new();
    space.apply(&secret("token", "token", "t0k")).await;
    for manifest in [
        provider("github", "git", &repository(&forge)).secret("token"),
        provider("slack", "chat", "https://hooks.example.org"),
        alert("all", "git"),
        alert("broken", "git").spec("inclusionList", json!(["(unclosed"])),
    ] {
        applied.push(value_of(&space.apply(&manifest).await));
    }
    let mut number = 0;
    wait::until(DEADLINE, "a status", || {
        number += 1;
        let (event, post, forge) = (kustomization_event("web", &sha(number)), &post, &forge);
        async move {
            assert_eq!(post(&event).await.status().as_u16(), 202);
            (1..=number).find(|number| !forge.statuses(&sha(*number)).is_empty())
        }
    })
    .await;
    // A finalizer is taken off without a status as well.
    space.merge("Alert", "broken", json!({"metadata": {"finalizers": ["finalizers.fluxcd.io"]}})).await;
    space.delete("Alert", "broken").await;
    wait::until(DEADLINE, "the Alert to be gone", || async {
        space.objects("Alert").get_opt("broken").await.expect("the API server answers").is_none().then_some(())
    })
    .await;
    for before in applied.iter().filter(|before| before["metadata"]["name"] != "broken") {
        let kind = before["kind"].as_str().expect("a kind");
        let name = before["metadata"]["name"].as_str().expect("a name");
        let after = space.get(kind, name).await;
        assert_eq!(after["status"], Value::Null);
        assert_eq!(after["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"], "{kind} {name}");
    }
    assert_ne!(log.lines(&["the installed CRDs have no status"]), [""; 0]);
    assert_eq!(log.lines(&["cannot write"]), [""; 0]);
    app.shutdown(DEADLINE).await;
}

/// Flux puts its own definitions back with each of its upgrades, and those who keep ours in Git apply them again.
#[tokio::test]
async fn conditions_are_written_again_when_our_definitions_come_back() {
    let (log, _guard) = Log::start();
    let api = ApiServer::start().await;
    install(&api);
    api.kubectl_ok(&["create", "namespace", "flux-system"]);
    let space = Space::named(&api, "flux-system".to_owned()).await;
    space.apply(&alert("all", "git")).await;
    let herald = Herald::cluster(space.client.clone(), &[]).await;
    space.condition("Alert", "all", "Ready", "True", "Succeeded").await;

    api.apply_crds(&in_repository("config/testdata/peer-crds.yaml"));
    let broken = alert("all", "git").spec("inclusionList", json!(["(unclosed"]));
    space.apply(&broken).await;
    wait::until(DEADLINE, "a line about the definitions", || async {
        (!log.lines(&["the installed CRDs have no status"]).is_empty()).then_some(())
    })
    .await;
    // Before anybody looks whether they are still the same.
    install(&api);
    space.condition("Alert", "all", "Ready", "False", "InvalidExpression").await;
    assert_eq!(log.lines(&["starting anew"]), [""; 0]);
    herald.stop().await;
}

#[tokio::test]
async fn a_broken_object_harms_itself_alone() {
    let (log, _guard) = Log::start();
    let api = ApiServer::start().await;
    // Objects like these are left over from definitions that were laxer.
    install(&api);
    for plural in ["alerts", "providers"] {
        let crd = format!("{plural}.{GROUP}");
        let lax = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let patch: Vec<Value> = (0..3)
            .map(|version| {
                json!({
                    "op": "replace", "value": lax,
                    "path": format!("/spec/versions/{version}/schema/openAPIV3Schema/properties/spec"),
                })
            })
            .collect();
        api.kubectl_ok(&["patch", "crd", &crd, "--type=json", "-p", &json!(patch).to_string()]);
    }
    api.kubectl_ok(&["create", "namespace", "flux-system"]);
    let space = Space::named(&api, "flux-system".to_owned()).await;
    let forge = forge().await;
    space.apply(&secret("token", "token", "t0k")).await;
    let git = provider("github", "git", &repository(&forge)).secret("token");
    let all = |name: &str| alert(name, "git").sources(json!([{"kind": "Kustomization", "name": name}]));
    let manifests = [
        git.clone(),
        git.clone().spec("address", json!(["a", "list"])),
        all("good"),
        all("bad").spec("eventSources", "text"),
    ];
    // The second is the same Provider under another name.
    let mut twisted = (*manifests[1]).clone();
    twisted["metadata"]["name"] = "twisted".into();
    space.apply(&manifests[0]).await;
    space.objects("Provider").create(&PostParams::default(), &parse(&twisted)).await.expect("nothing checks it");
    space.apply(&manifests[2]).await;
    space.apply(&manifests[3]).await;

    let herald = Herald::cluster(space.client.clone(), &[]).await;
    let ready = space.condition("Alert", "bad", "Ready", "False", "InvalidSpec").await;
    assert!(super::message(&ready).contains("spec cannot be read"), "{ready}");
    space.condition("Provider", "twisted", "Ready", "False", "InvalidSpec").await;
    space.in_order("Alert", "good").await;
    for name in ["bad", "twisted"] {
        assert_ne!(log.lines(&["ERROR", "left out until it is mended", name]), [""; 0], "{name}");
    }
    assert!(herald.app.metrics.encode().contains("herald_bad_objects_total 2"), "{}", herald.app.metrics.encode());
    let told = async |name: &str, number: u64| {
        assert_eq!(herald.post(&kustomization_event(name, &sha(number))).await, 202);
        herald.idle().await;
        !forge.statuses(&sha(number)).is_empty()
    };
    assert!(told("good", 1).await && !told("bad", 2).await);

    // Mended, and the good one broken while everybody looks on.
    space.apply(&all("bad")).await;
    space.in_order("Alert", "bad").await;
    space.apply(&all("good").spec("eventSources", json!([{"kind": 1}]))).await;
    space.condition("Alert", "good", "Ready", "False", "InvalidSpec").await;
    assert!(told("bad", 3).await && !told("good", 4).await);
    space.apply(&all("late")).await;
    space.in_order("Alert", "late").await;
    assert!(told("late", 5).await);
    // The watch that showed all this still shows the end of an Alert.
    space.delete("Alert", "late").await;
    let mut number = 100;
    wait::until(DEADLINE, "the Alert to match nothing", || {
        number += 1;
        let told = told("late", number);
        async move { (!told.await).then_some(()) }
    })
    .await;
    herald.stop().await;
    status_of(&forge, &sha(1)).await;
}
