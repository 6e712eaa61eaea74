//! Proves that the servers behind the other tests work by themselves, so that
//! a failure over there is Herald's. `cargo test --test harness` runs it alone.

mod support;

use std::net::Ipv4Addr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use support::apiserver::ApiServer;
use support::gitea::{Gitea, OWNER};
use support::kustomize::{self, Artifacts, KustomizeController};
use support::wait;

const SOON: Duration = Duration::from_secs(60);

fn config_map(namespace: &str, name: &str) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": namespace, "name": name},
        "data": {"key": "value"},
    })
    .to_string()
}

#[tokio::test]
async fn the_api_server_keeps_what_is_applied() {
    let api = ApiServer::shared().await;
    let namespace = api.namespace("harness");
    api.kubectl_apply(&config_map(&namespace, "applied"));

    let maps: Api<ConfigMap> = Api::namespaced(api.client().await, &namespace);
    let map = maps.get("applied").await.expect("the object is there");
    assert_eq!(map.data.expect("it has data")["key"], "value");

    let certificate = reqwest::Certificate::from_pem(api.ca_pem().as_bytes()).expect("PEM");
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([certificate]).build().expect("an HTTPS client");
    let url = format!("{}/api/v1/namespaces/{namespace}", api.url);
    let answer = client.get(&url).bearer_auth(&api.token).send().await.expect("it is trusted");
    assert!(answer.status().is_success());
    let stranger = client.get(&url).bearer_auth("wrong").send().await.expect("it is trusted");
    assert_eq!(stranger.status().as_u16(), 401);
}

#[tokio::test]
async fn gitea_keeps_statuses_over_a_restart() {
    let mut gitea = Gitea::start().await;
    gitea.create_repo("app").await;
    let commits = gitea.commit("app", 2).await;
    assert!(commits.iter().all(|hash| hash.len() == 40), "{commits:?}");
    assert_ne!(commits[0], commits[1]);

    // One more than Gitea puts on a page.
    for number in 1..=51 {
        let body = json!({"state": "success", "context": format!("check/{number}")});
        let path = format!("repos/{OWNER}/app/statuses/{}", commits[0]);
        let answer = gitea.request(Method::POST, &path).json(&body).send().await;
        assert_eq!(answer.expect("Gitea answers").status().as_u16(), 201);
    }
    gitea.stop();
    assert!(gitea.request(Method::GET, "version").send().await.is_err());
    gitea.resume().await;

    let statuses = gitea.statuses("app", &commits[0]).await;
    let contexts: Vec<_> = statuses.iter().map(|status| status["context"].clone()).collect();
    let posted: Vec<_> = (1..=51).map(|number| format!("check/{number}")).collect();
    assert_eq!(contexts, posted);
    assert!(gitea.statuses("app", &commits[1]).await.is_empty());

    let reader = gitea.new_token("read:repository");
    let path = format!("{}/api/v1/repos/{OWNER}/app/statuses/{}", gitea.url, commits[0]);
    let answer = reqwest::Client::new().post(path).bearer_auth(reader).json(&json!({"state": "success"})).send().await;
    assert_eq!(answer.expect("Gitea answers").status().as_u16(), 403);
}

#[tokio::test]
async fn kustomize_controller_applies_and_tells() {
    let api = ApiServer::shared().await;
    let namespace = api.namespace("kustomize");
    let (events_url, mut events) = listen().await;
    let _controller = KustomizeController::start(api, &namespace, &events_url).await;

    let artifacts = Artifacts::serve().await;
    let revision = format!("main@sha1:{:040x}", 1);
    let artifact = artifacts.publish(&revision, &[("map.yaml", &config_map(&namespace, "made"))]);
    let url = "https://git.example.com/flux/app";
    kustomize::git_repository(api, &namespace, "app", url, &artifact);
    kustomize::kustomization(api, &namespace, "app", "app", &json!({"timeout": "30s"}));

    kustomize::wait_condition(api, &namespace, "app", "Ready", "True").await;
    let maps: Api<ConfigMap> = Api::namespaced(api.client().await, &namespace);
    assert!(maps.get("made").await.is_ok());

    let event = tokio::time::timeout(SOON, events.recv()).await.expect("an event in time");
    let event = event.expect("the listener lives");
    assert_eq!(event["involvedObject"]["name"], "app");
    assert_eq!(event["metadata"]["kustomize.toolkit.fluxcd.io/revision"], revision);

    // A manifest of a kind nobody knows has to turn up as a failure.
    let broken = config_map(&namespace, "made").replace("ConfigMap", "Unknown");
    let artifact = artifacts.publish("main@sha1:2", &[("map.yaml", &broken)]);
    kustomize::git_repository(api, &namespace, "app", url, &artifact);
    let ready = kustomize::wait_condition(api, &namespace, "app", "Ready", "False").await;
    assert_eq!(ready["reason"], "ReconciliationFailed");
    wait::until(SOON, "the event of the failure", || {
        let event = events.try_recv().ok();
        async { event.filter(|event| event["severity"] == "error") }
    })
    .await;
}

/// An address for a controller's events, and what arrives there.
async fn listen() -> (String, mpsc::UnboundedReceiver<Value>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let router = Router::new().fallback(take).with_state(sender);
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("loopback has free ports");
    let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
    tokio::spawn(axum::serve(listener, router).into_future());
    (url, receiver)
}

async fn take(State(sender): State<mpsc::UnboundedSender<Value>>, event: String) {
    let event = serde_json::from_str(&event).expect("an event is JSON");
    // The test may have ended already.
    let _ = sender.send(event);
}
