//! GitHub Apps: who installed one, and the tokens they get, at `/api/v3/…` and at `/…` like the statuses in `github.rs`.
//!
//! Sources as there: *OpenAPI* (the operations of "Apps"), *docs* ("Generating a JSON Web Token (JWT) for a GitHub App"),
//! and `owner/name#n` for an answer as it came over the wire. While no App is known, every JWT of the right form and
//! time is good for every installation, so that things can be tried by hand.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::Shared;
use super::door::{Refusal, json};
use super::github::error;

/// Docs: `exp` "must be no more than 10 minutes into the future".
const LONGEST: i64 = 10 * 60;
/// Docs on installation tokens: "expires after 1 hour".
pub(super) const LIFE: Duration = Duration::from_secs(60 * 60);

/// An App, and the one place it is installed.
#[derive(Clone)]
pub struct App {
    /// The App's id.
    pub id: u64,
    /// Its key.
    pub key: Arc<AppKey>,
    /// The installation's id.
    pub installation: u64,
    /// Who installed it.
    pub owner: String,
    /// Whether that is an organisation; else it is a user.
    pub organization: bool,
    /// Whether the owner suspended it.
    pub suspended: bool,
}

/// A private key, as GitHub gives one out for an App.
pub struct AppKey(RsaKeyPair);

impl AppKey {
    /// A new one.
    pub fn new() -> Arc<Self> {
        Arc::new(Self(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key")))
    }

    /// A JWT with these claims.
    pub fn jwt(&self, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "RS256", "typ": "JWT"})), part(claims));
        let mut signature = vec![0; self.0.public_modulus_len()];
        let random = aws_lc_rs::rand::SystemRandom::new();
        self.0.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).expect("a key signs");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn der(&self) -> Vec<u8> {
        AsDer::<Pkcs8V1Der<'_>>::as_der(&self.0).expect("a key encodes").as_ref().to_vec()
    }

    /// In the form that GitHub gives out.
    pub fn pkcs1(&self) -> String {
        // A PKCS#8 key holds the PKCS#1 one after a header that is the same for every RSA key of this size.
        pem("RSA PRIVATE KEY", &self.der()[26..])
    }

    /// In the form that most tools convert it to.
    pub fn pkcs8(&self) -> String {
        pem("PRIVATE KEY", &self.der())
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

pub(super) fn router() -> Router<Arc<Shared>> {
    ["/api/v3", ""].into_iter().fold(Router::new(), |router, prefix| {
        router
            .route(&format!("{prefix}/orgs/{{owner}}/installation"), get(of_organization))
            .route(&format!("{prefix}/users/{{owner}}/installation"), get(of_user))
            .route(&format!("{prefix}/app/installations/{{id}}/access_tokens"), post(create))
    })
}

async fn of_organization(
    shared: State<Arc<Shared>>,
    path: Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    installation(&shared, &path, true, &headers)
}

async fn of_user(shared: State<Arc<Shared>>, path: Path<String>, headers: HeaderMap) -> Result<Response, Refusal> {
    installation(&shared, &path, false, &headers)
}

/// OpenAPI, "get an organization (a user) installation for the authenticated app"; of the real answer what names it.
fn installation(shared: &Shared, owner: &str, organization: bool, headers: &HeaderMap) -> Result<Response, Refusal> {
    let apps = authenticate(shared, headers)?;
    let id = match apps {
        None => 1,
        Some(apps) => {
            let here = |app: &&App| app.owner.eq_ignore_ascii_case(owner) && app.organization == organization;
            apps.iter().find(here).ok_or_else(|| error(StatusCode::NOT_FOUND, "Not Found"))?.installation
        }
    };
    let target = if organization { "Organization" } else { "User" };
    Ok(json(StatusCode::OK, &json!({"id": id, "account": {"login": owner}, "target_type": target})))
}

/// OpenAPI, "create an installation access token for an app": 201; the body says what to narrow it to, and may be none.
async fn create(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    if let Some(apps) = authenticate(&shared, &headers)? {
        let app = apps.iter().find(|app| app.installation.to_string() == id);
        let app = app.ok_or_else(|| error(StatusCode::NOT_FOUND, "Not Found"))?;
        if app.suspended {
            // octokit/octokit.rb#1307: the status and the wording.
            return Err(error(StatusCode::FORBIDDEN, "This installation has been suspended"));
        }
    }
    if !body.is_empty() && serde_json::from_slice::<Value>(&body).is_err() {
        return Err(error(StatusCode::BAD_REQUEST, "Problems parsing JSON"));
    }
    let (token, end) = shared.world.lock().mint("ghs_");
    let answer = json!({
        "token": token,
        "expires_at": format!("{end:.0}"),
        "permissions": {"metadata": "read", "statuses": "write"},
        "repository_selection": "all",
    });
    Ok(json(StatusCode::CREATED, &answer))
}

/// Which Apps the JWT speaks for; `None` for all, while none is known.
fn authenticate(shared: &Shared, headers: &HeaderMap) -> Result<Option<Vec<App>>, Refusal> {
    let refuse = |message: &str| error(StatusCode::UNAUTHORIZED, message);
    // backstage/backstage#12887: the wording, for a wrong key as for what is no JWT.
    let undecodable = || refuse("A JSON web token could not be decoded");
    let bearer = headers.get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let (signed, signature) = bearer.and_then(|jwt| jwt.rsplit_once('.')).ok_or_else(undecodable)?;
    let (header, claims) = signed.split_once('.').ok_or_else(undecodable)?;
    let read = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
    let (header, claims) = (read(header).ok_or_else(undecodable)?, read(claims).ok_or_else(undecodable)?);
    if header["alg"] != "RS256" {
        return Err(undecodable());
    }
    let now = shared.world.lock().clock.unwrap_or_else(Timestamp::now);
    let after_now = |claim: &Value| Some(claim.as_i64()? - now.as_second());
    match after_now(&claims["exp"]) {
        // octokit/auth-app.js#698: the wording.
        Some(left) if left > LONGEST => {
            return Err(refuse("'Expiration time' claim ('exp') is too far in the future"));
        }
        Some(left) if left > 0 => {}
        // sigmavirus24/github3.py#1050: the wording.
        _ => {
            return Err(refuse(
                "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the \
                 assertion expires",
            ));
        }
    }
    // tibdex/github-app-token#102: the wording; microsoft/AL-Go#2289: that it may not be in the future.
    if after_now(&claims["iat"]).is_none_or(|ahead| ahead > 0) {
        return Err(refuse(
            "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued",
        ));
    }
    let issuer = claims["iss"].as_str().map_or_else(|| claims["iss"].to_string(), str::to_owned);
    let apps = shared.world.lock().apps.clone();
    if apps.is_empty() {
        return Ok(None);
    }
    let apps: Vec<App> = apps.into_iter().filter(|app| app.id.to_string() == issuer).collect();
    // octokit/rest.js#218: the wording.
    let first = apps.first().ok_or_else(|| error(StatusCode::NOT_FOUND, "Integration not found"))?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| undecodable())?;
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, first.key.0.public_key())
        .verify(signed.as_bytes(), &signature)
        .map_err(|_| undecodable())?;
    Ok(Some(apps))
}

/// When a token ends that is given out now.
pub(super) fn end(now: Timestamp, life: Duration) -> Timestamp {
    now.saturating_add(SignedDuration::try_from(life).unwrap_or(SignedDuration::MAX)).unwrap_or(Timestamp::MAX)
}
