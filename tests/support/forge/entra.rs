//! Entra's token endpoint, at `/{tenant}/oauth2/v2.0/token`: a token of somebody Entra trusts for one of its own.
//!
//! Sources, named at the rules: *docs* is learn.microsoft.com, "Microsoft identity platform and the OAuth 2.0 client
//! credentials flow", third case; `owner/name#n` is a public issue that shows the answer as it came over the wire. Who
//! signed the assertion is not checked, because the issuer's keys are not here. While no application is known, every
//! assertion for Entra is good, so that things can be tried by hand.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::Shared;
use super::door::{Refusal, json};

/// Docs on workload identity federation: the audience that Entra recommends, and Kubernetes' tokens have.
const AUDIENCE: &str = "api://AzureADTokenExchange";
/// Azure DevOps' number in Entra: the only service that is here (Azure/azure-cli docs, `az account get-access-token`).
const AZURE_DEVOPS: &str = "499b84ac-1321-427f-aa17-267ca6975798";

/// An application in Entra with one federated credential.
#[derive(Clone, Debug)]
pub struct Application {
    /// The organisation.
    pub tenant: String,
    /// The application.
    pub client: String,
    /// Whose assertions it trusts: `sub` in them, exactly (Azure/login#517).
    pub subject: String,
}

impl Application {
    /// An assertion that it trusts, signed by nobody.
    pub fn assertion(&self) -> String {
        let claims = json!({"aud": [AUDIENCE], "sub": self.subject, "iss": "https://kubernetes.test"});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2lnbmF0dXJl", part(&json!({"alg": "RS256", "typ": "JWT"})), part(&claims))
    }
}

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new().route("/{organization}/oauth2/v2.0/token", post(token))
}

async fn token(
    State(shared): State<Arc<Shared>>,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let form: Vec<(String, String)> = form_urlencoded::parse(&body).into_owned().collect();
    let is_form = headers.get("content-type").is_some_and(|kind| kind == "application/x-www-form-urlencoded");
    let field = |name: &str| form.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    // Docs: every parameter of the third case is required; the wording is that of MicrosoftDocs/azure-docs#40210's kind.
    let required = |name: &str| {
        field(name).filter(|value| is_form && !value.is_empty()).ok_or_else(|| {
            let message = format!("The request body must contain the following parameter: '{name}'.");
            error(StatusCode::BAD_REQUEST, "invalid_request", 900_144, &message)
        })
    };
    let (grant, client) = (required("grant_type")?, required("client_id")?);
    let (kind, assertion) = (required("client_assertion_type")?, required("client_assertion")?);
    let scope = required("scope")?;
    if grant != "client_credentials" || kind != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
        return Err(error(
            StatusCode::BAD_REQUEST,
            "unsupported_grant_type",
            70_003,
            "The grant type is not supported.",
        ));
    }
    let resource = scope.split(' ').find_map(|scope| scope.strip_suffix("/.default"));
    if resource != Some(AZURE_DEVOPS) {
        let message = format!("The provided value for scope {scope} is not valid.");
        return Err(error(StatusCode::BAD_REQUEST, "invalid_scope", 70_011, &message));
    }
    let claims = assertion.split('.').nth(1).and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok());
    let claims: Value = claims.and_then(|claims| serde_json::from_slice(&claims).ok()).unwrap_or_default();
    let audiences = claims["aud"].as_array().cloned().unwrap_or_else(|| vec![claims["aud"].clone()]);
    let applications = shared.world.lock().applications.clone();
    if !applications.is_empty() {
        let known = applications.iter().find(|known| known.tenant == tenant && known.client == client);
        let Some(known) = known else {
            // AzureAD/microsoft-authentication-library-for-dotnet and others: 400 with this number and kind.
            let message = format!("Application with identifier '{client}' was not found in the directory '{tenant}'.");
            return Err(error(StatusCode::BAD_REQUEST, "unauthorized_client", 700_016, &message));
        };
        if claims["sub"] != known.subject.as_str() {
            return Err(no_match(&claims, &audiences));
        }
    }
    if !audiences.iter().any(|audience| audience == AUDIENCE) {
        return Err(no_match(&claims, &audiences));
    }
    let (token, end) = shared.world.lock().mint("eyJ0eXAiOiJKV1QifQ.");
    let life = end.duration_since(Timestamp::now()).as_secs();
    let answer = json!({"token_type": "Bearer", "expires_in": life, "ext_expires_in": life, "access_token": token});
    Ok(json(StatusCode::OK, &answer))
}

/// Azure/azure-workload-identity#616: the answer, word for word.
fn no_match(claims: &Value, audiences: &[Value]) -> Refusal {
    let message = format!(
        "No matching federated identity record found for presented assertion. Assertion Issuer: '{}'. Assertion Subject: \
         '{}'. Assertion Audience: '{}'.",
        claims["iss"].as_str().unwrap_or_default(),
        claims["sub"].as_str().unwrap_or_default(),
        audiences.first().and_then(Value::as_str).unwrap_or_default(),
    );
    error(StatusCode::BAD_REQUEST, "invalid_request", 70_021, &message)
}

/// The shape of every error (Azure/azure-workload-identity#616).
fn error(status: StatusCode, kind: &str, number: u32, message: &str) -> Refusal {
    Refusal::new(
        status,
        &json!({
            "error": kind,
            "error_description": format!("AADSTS{number}: {message}"),
            "error_codes": [number],
            "timestamp": "2022-10-27 23:39:22Z",
            "trace_id": "30b6df93-efd2-459c-ae6a-bad0838f6f00",
            "correlation_id": "dffc6012-a4af-4f00-80ab-3e831069b3cc",
            "error_uri": format!("https://login.microsoftonline.com/error?code={number}"),
        }),
    )
}
