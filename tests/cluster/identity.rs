//! Workload identity: a token that the API server makes for a ServiceAccount becomes one of Azure's.
//! Entra is simulated, and looks at what the API server really gave; `it/credentials.rs` has the rest.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::secrets::{Door, Gate};
use super::support::app::{DEADLINE, Herald};
use super::support::flux::{Manifest, alert, kustomization_event, provider, sha};
use super::support::forge::{Application, Forge};
use super::support::wait;
use super::{Log, Space, forge, in_namespace, message, status_of};

const GATE: &str = "--feature-gates=ObjectLevelWorkloadIdentity=true";

/// The application in Entra that trusts a ServiceAccount here.
fn application(space: &Space<'_>, account: &str) -> Application {
    Application {
        tenant: "11111111-1111-1111-1111-111111111111".into(),
        client: "22222222-2222-2222-2222-222222222222".into(),
        subject: format!("system:serviceaccount:{}:{account}", space.name),
    }
}

/// A Provider that has no token.
fn azure(forge: &Forge) -> Manifest {
    provider("azuredevops", "git", &format!("{}/org/project/_git/fleet", forge.url()))
}

/// Makes a ServiceAccount, or changes its annotations.
fn account(space: &Space<'_>, name: &str, annotations: Value) {
    let metadata = json!({"name": name, "namespace": space.name, "annotations": annotations});
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata});
    space.api.kubectl_apply(&account.to_string());
}

fn annotations(application: &Application) -> Value {
    json!({
        "azure.workload.identity/tenant-id": application.tenant,
        "azure.workload.identity/client-id": application.client,
    })
}

async fn herald(space: &Space<'_>, forge: &Forge, flags: &[&str]) -> Herald {
    let authority = format!("--azure-authority-host={}", forge.url());
    space.herald_with(space.client.clone(), &[&[&*authority, GATE], flags].concat()).await
}

#[tokio::test]
async fn a_service_account_named_or_by_default_is_who_tells() {
    // The field wins over the flag; without the field the flag counts.
    for (field, flags) in
        [(Some("cloud"), &["--default-service-account=other"][..]), (None, &["--default-service-account=cloud"][..])]
    {
        let space = Space::new("identity").await;
        let forge = forge().await;
        let trusted = application(&space, "cloud");
        forge.application(trusted.clone());
        account(&space, "cloud", annotations(&trusted));
        let git = azure(&forge);
        space.apply(&field.map_or(git.clone(), |name| git.spec("serviceAccountName", name))).await;
        space.apply(&alert("all", "git")).await;
        let herald = herald(&space, &forge, flags).await;
        for number in [1, 2] {
            assert_eq!(herald.post(&in_namespace(kustomization_event("web", &sha(number)), &space)).await, 202);
            assert_eq!(status_of(&forge, &sha(number)).await.state, "succeeded");
        }
        space.in_order("Provider", "git").await;
        herald.idle().await;

        let requests = forge.requests();
        let exchanges: Vec<_> = requests.iter().filter(|request| request.uri.ends_with("/oauth2/v2.0/token")).collect();
        assert_eq!(exchanges.len(), 1, "one token for both");
        let form: Vec<(String, String)> = url::form_urlencoded::parse(&exchanges[0].body).into_owned().collect();
        let assertion = &form.iter().find(|(name, _)| name == "client_assertion").expect("it is there").1;
        let claims = URL_SAFE_NO_PAD.decode(assertion.split('.').nth(1).expect("a JWT")).expect("base64");
        let claims: Value = serde_json::from_slice(&claims).expect("JSON");
        assert_eq!(claims["aud"], json!(["api://AzureADTokenExchange"]));
        let life = claims["exp"].as_i64().expect("a time") - claims["iat"].as_i64().expect("a time");
        assert_eq!(life, 600, "the least there is");
        let last = requests.last().expect("requests");
        assert_eq!(last.header("authorization"), format!("Bearer {}", forge.minted()[0]));
        herald.stop().await;
    }
}

#[tokio::test]
async fn what_a_service_account_lacks_is_said_and_nobody_is_asked_for_a_token() {
    let (log, _guard) = Log::start();
    let space = Space::new("identity").await;
    let forge = forge().await;
    let trusted = application(&space, "cloud");
    forge.application(trusted.clone());
    let git = azure(&forge);
    space.apply(&git).await;
    space.apply(&alert("all", "git")).await;
    let herald = herald(&space, &forge, &["--default-service-account=cloud"]).await;
    let event = in_namespace(kustomization_event("web", &sha(1)), &space);
    assert_eq!(herald.post(&event).await, 202);
    let says = async |words: &[&str]| {
        super::wait::until_ok(super::DEADLINE, "a condition", || async {
            let object = space.get("Provider", "git").await;
            match super::condition(&object, "Healthy") {
                Some(is)
                    if is["reason"] == "InvalidCredentials" && words.iter().all(|word| message(is).contains(word)) =>
                {
                    Ok(())
                }
                _ => Err(object["status"].to_string()),
            }
        })
        .await;
    };
    says(&["cloud", "--default-service-account", "does not exist"]).await;

    // What waits is tried again when the Provider is touched. Not more often than this: conditions are written at a pace.
    account(&space, "cloud", json!({"azure.workload.identity/tenant-id": trusted.tenant}));
    space.apply(&git.clone().spec("timeout", "13s")).await;
    says(&["ServiceAccount", "cloud", "has no annotation azure.workload.identity/client-id"]).await;
    assert!(forge.requests().is_empty(), "nothing was exchanged");

    account(&space, "cloud", annotations(&trusted));
    space.apply(&git.clone().spec("timeout", "14s")).await;
    assert_eq!(status_of(&forge, &sha(1)).await.state, "succeeded");
    space.in_order("Provider", "git").await;
    herald.idle().await;
    let requests = forge.requests();
    let form: Vec<(String, String)> = url::form_urlencoded::parse(&requests[0].body).into_owned().collect();
    for secret in [&form[0].1, &forge.minted()[0]] {
        assert_eq!(log.lines(&[secret]), Vec::<String>::new());
        assert!(!space.get("Provider", "git").await.to_string().contains(secret.as_str()));
    }
    herald.stop().await;
}

/// Nobody else holds a job that waits for a token: the API server has to answer in time.
#[tokio::test]
async fn an_api_server_that_is_silent_keeps_no_job_under_way() {
    let (log, _guard) = Log::start();
    let space = Space::new("identity").await;
    let forge = forge().await;
    let trusted = application(&space, "cloud");
    forge.application(trusted.clone());
    account(&space, "cloud", annotations(&trusted));
    space.apply(&azure(&forge)).await;
    space.apply(&alert("all", "git")).await;
    let gate = Gate::before(&space.api.url).await;
    let authority = format!("--azure-authority-host={}", forge.url());
    let flags = [&*authority, GATE, "--default-service-account=cloud"];
    let herald = space.herald_with(gate.client(space.api).await, &flags).await;
    gate.door.send_replace(Door::Silent);
    assert_eq!(herald.post(&in_namespace(kustomization_event("web", &sha(1)), &space)).await, 202);
    wait::until(DEADLINE, "the try to end", || async {
        (!log.lines(&["cannot get a token from Kubernetes", "will try again"]).is_empty()).then_some(())
    })
    .await;
    gate.door.send_replace(Door::Open);
    assert_eq!(status_of(&forge, &sha(1)).await.state, "succeeded");
    herald.stop().await;
}

#[tokio::test]
async fn without_the_gate_the_field_is_a_condition() {
    let space = Space::new("identity").await;
    let forge = forge().await;
    space.apply(&azure(&forge).spec("serviceAccountName", "cloud")).await;
    let herald = space.herald().await;
    let healthy = space.condition("Provider", "git", "Healthy", "False", "FeatureGateDisabled").await;
    assert!(message(&healthy).contains("--feature-gates=ObjectLevelWorkloadIdentity=true"), "{healthy}");
    herald.stop().await;
}
