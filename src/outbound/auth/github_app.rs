//! GitHub Apps: from an App's key to a token of one of its installations.
//!
//! GitHub's documentation, "Generating a JSON Web Token (JWT) for a GitHub App" and "REST API
//! endpoints for GitHub Apps"; requests as Flux sends them (spec/auth.md 5). The token is not
//! narrowed: it may do what the installation may.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{ACCEPT, HeaderName};
use http::{HeaderValue, StatusCode};
use parking_lot::Mutex;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use url::Url;

use super::cache::{Issued, Slot, Tokens, User};
use super::{Credentials, Refused, no_token};
use crate::outbound::{Request, SendError, Target, sensitive};
use crate::secret::Secret;

/// The keys of a Secret that make an App.
const APP_ID: &str = "githubAppID";
const INSTALLATION_ID: &str = "githubAppInstallationID";
const INSTALLATION_OWNER: &str = "githubAppInstallationOwner";
const PRIVATE_KEY: &str = "githubAppPrivateKey";
const BASE_URL: &str = "githubAppBaseURL";

/// Seconds by which a JWT is dated back, and for which it is good: GitHub's clock may be behind or
/// ahead of ours. It advises the first, and allows ten minutes for the second.
const BACKDATED: i64 = 60;
const GOOD_FOR: i64 = 9 * 60;

/// An App as a Secret describes it.
pub struct App {
    id: u64,
    installation: Installation,
    key: RsaKeyPair,
    /// Tells keys apart without being one.
    fingerprint: [u8; 32],
    /// Where its API is, when the Secret says.
    base: Option<Url>,
}

#[derive(Clone)]
enum Installation {
    Id(u64),
    /// The user or organisation that installed it.
    Owner(String),
}

impl App {
    /// Reads the App out of a Secret, asked by key. `None` when it holds none of an App's keys.
    ///
    /// # Errors
    /// What is wrong, beginning with the key it is wrong with; never a value.
    pub fn parse(value: impl Fn(&str) -> Option<Secret>) -> Result<Option<Self>, String> {
        let all = [APP_ID, INSTALLATION_ID, INSTALLATION_OWNER, PRIVATE_KEY, BASE_URL];
        let [id, installation_id, owner, key, base] = all.map(&value);
        let Some(present) = all.into_iter().find(|key| value(key).is_some()) else { return Ok(None) };
        let missing =
            |key: &str, what: &str| format!("key {key} is missing, and key {present} is there; put {what} there");

        let id = id.ok_or_else(|| missing(APP_ID, "the App's id"))?;
        let id = number(&id).ok_or_else(|| format!("key {APP_ID} is not the number of a GitHub App"))?;
        let installation = match (installation_id, owner) {
            (Some(_), Some(_)) => {
                return Err(format!("keys {INSTALLATION_ID} and {INSTALLATION_OWNER} are both there; remove one"));
            }
            (None, None) => {
                return Err(format!("keys {INSTALLATION_ID} and {INSTALLATION_OWNER} are both missing; put one there"));
            }
            (Some(id), None) => Installation::Id(
                number(&id).ok_or_else(|| format!("key {INSTALLATION_ID} is not the number of an installation"))?,
            ),
            (None, Some(owner)) => {
                let owner = owner.expose();
                if !owner.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
                    return Err(format!("key {INSTALLATION_OWNER} is not the name of a user or an organisation"));
                }
                Installation::Owner(owner.to_owned())
            }
        };
        let key = key.ok_or_else(|| missing(PRIVATE_KEY, "the private key that GitHub gave you"))?;
        let pair = key_pair(&key)
            .ok_or_else(|| format!("key {PRIVATE_KEY} is not an RSA key of 2048 bits or more in PEM form"))?;
        let base = base.map(|base| {
            Url::parse(base.expose())
                .ok()
                .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
                .ok_or_else(|| format!("key {BASE_URL} is not the http or https address of an API"))
        });
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest(&SHA256, key.expose().as_bytes()).as_ref());
        Ok(Some(Self { id, installation, key: pair, fingerprint, base: base.transpose()? }))
    }

    /// Where the App's API is: where the Secret says, else where the repository's is. A JWT goes only
    /// to the host that the Provider's address names, or to its `api.` host.
    fn api(&self, repository: &Url, api: &Url) -> Result<Url, String> {
        let Some(base) = &self.base else { return Ok(api.clone()) };
        let host = base.host_str().unwrap_or_default();
        let known = [api.host_str(), repository.host_str()];
        let same =
            known.contains(&Some(host)) || host.strip_prefix("api.").is_some_and(|rest| known.contains(&Some(rest)));
        if !same {
            return Err(format!("key {BASE_URL} names another host than the repository's address"));
        }
        if api.scheme() == "https" && base.scheme() != "https" {
            return Err(format!("key {BASE_URL} is http, and the repository's address is https"));
        }
        if base.path() == "/" && (base.host_str() == api.host_str() || base.host_str() == repository.host_str()) {
            // People write the server's address, whose API is under a path or another name.
            return Ok(api.clone());
        }
        let mut base = base.clone();
        base.set_query(None);
        base.set_fragment(None);
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        Ok(base)
    }

    /// A JWT that says who asks, good from `now`.
    fn jwt(&self, now: jiff::Timestamp) -> Secret {
        let now = now.as_second();
        let claims = format!(r#"{{"iss":"{}","exp":{},"iat":{}}}"#, self.id, now + GOOD_FOR, now - BACKDATED);
        let parts = [r#"{"alg":"RS256","typ":"JWT"}"#, &claims].map(|part| URL_SAFE_NO_PAD.encode(part));
        let signed = parts.join(".");
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .expect("a key that was parsed signs, into a buffer of its length");
        Secret::new(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

fn number(text: &Secret) -> Option<u64> {
    text.expose().parse().ok().filter(|number| *number > 0)
}

/// PKCS#1, as GitHub gives it out, or PKCS#8.
fn key_pair(pem: &Secret) -> Option<RsaKeyPair> {
    match PrivateKeyDer::from_pem_slice(pem.expose().as_bytes()).ok()? {
        PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()).ok(),
        PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).ok(),
        _ => None,
    }
}

/// An App, and where its tokens are kept.
#[derive(Clone)]
pub struct GitHubApp {
    /// The App.
    pub app: Arc<App>,
    /// Fingerprint of the Provider's CA, client certificate and proxy. A token that came by one route is used on
    /// no other: a tenant's proxy may have made it up.
    pub route: [u8; 32],
    /// The tokens of all.
    pub tokens: Arc<Tokens>,
    /// The Provider, as who asks for them.
    pub user: Arc<User>,
}

impl GitHubApp {
    /// The App as who calls the API at `api` for the repository at this origin.
    ///
    /// # Errors
    /// When the Secret names another host for the App; in words that begin with the key.
    pub fn credentials(&self, target: &Target, repository: &Url, api: &Url) -> Result<Arc<dyn Credentials>, String> {
        let Self { app, route, tokens, user } = self.clone();
        let base = app.api(repository, api)?;
        let mut identity = Context::new(&SHA256);
        identity.update(b"github-app\n");
        identity.update(&app.fingerprint);
        identity.update(&route);
        let installation = match &app.installation {
            Installation::Id(id) => id.to_string(),
            Installation::Owner(owner) => format!("of {owner}"),
        };
        identity.update(format!("{}\n{installation}\n{base}", app.id).as_bytes());
        let mut identifier = [0; 32];
        identifier.copy_from_slice(identity.finish().as_ref());
        let slot = tokens.slot(identifier);
        let found = Mutex::new(None);
        Ok(Arc::new(Installed { app, tokens, user, slot, base, target: target.without_credentials(), found }))
    }
}

/// One installation of an App.
struct Installed {
    app: Arc<App>,
    tokens: Arc<Tokens>,
    user: Arc<User>,
    slot: Arc<Slot>,
    base: Url,
    target: Target,
    /// The id, once it was found by the owner's name.
    found: Mutex<Option<u64>>,
}

#[derive(Deserialize)]
struct Found {
    id: u64,
}

#[derive(Deserialize)]
struct Answer {
    token: String,
    expires_at: String,
}

impl Credentials for Installed {
    fn authorization(&self) -> BoxFuture<'_, Result<HeaderValue, SendError>> {
        let issue = async { self.issue().await.map_err(|error| no_token("GitHub", error)) };
        self.tokens.get(&self.slot, &self.user, issue).boxed()
    }

    fn refused(&self, authorization: &HeaderValue) -> Refused {
        self.tokens.refused(&self.slot, authorization)
    }
}

impl Installed {
    async fn issue(&self) -> Result<Issued, SendError> {
        let now = self.target.clock.wall();
        let bearer = sensitive(&format!("Bearer {}", self.app.jwt(now).expose())).expect("a JWT is text");
        let dressed = |request: Request| {
            request
                .header(ACCEPT, "application/vnd.github.v3+json")
                .header(HeaderName::from_static("x-github-api-version"), "2022-11-28")
                .authorization(&bearer)
        };
        let url = |path: &str| self.base.join(path).expect("names and numbers always join");

        let known = *self.found.lock();
        let id = match (&self.app.installation, known) {
            (Installation::Id(id), _) => *id,
            (_, Some(id)) => id,
            (Installation::Owner(owner), None) => {
                let of = |kind: &str| dressed(Request::get(url(&format!("{kind}/{owner}/installation"))));
                let found = match self.target.send(of("orgs")).await {
                    // It may be a user's.
                    Err(error) if is_missing(&error) => self.target.send(of("users")).await?,
                    found => found?,
                };
                let Found { id } = found.json()?;
                *self.found.lock() = Some(id);
                id
            }
        };
        // The peer's body: nothing is narrowed.
        let request = Request::post_json(url(&format!("app/installations/{id}/access_tokens")), b"null".to_vec());
        let sent = self.target.send(dressed(request)).await;
        if sent.as_ref().is_err_and(is_missing) {
            // Installed anew, it has another id.
            *self.found.lock() = None;
        }
        let Answer { token, expires_at } = sent?.json()?;
        let end: jiff::Timestamp = expires_at
            .parse()
            .map_err(|_| SendError::NotTheVendor { what: "answered with a token that ends at no time" })?;
        let lifetime = Duration::try_from(end.duration_since(now)).unwrap_or_default();
        Ok(Issued { token: Secret::new(token), lifetime })
    }
}

fn is_missing(error: &SendError) -> bool {
    matches!(error, SendError::Status { status: StatusCode::NOT_FOUND, .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TurnedClock;
    use crate::outbound::{Addresses, Clients, TlsConfig, Way};

    fn app(keys: &[(&str, &str)]) -> Result<Option<App>, String> {
        App::parse(|key| keys.iter().find(|(name, _)| *name == key).map(|(_, value)| Secret::new(*value)))
    }

    fn pem() -> &'static str {
        use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
        static PEM: std::sync::OnceLock<String> = std::sync::OnceLock::new();
        PEM.get_or_init(|| {
            let pair = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).expect("a key");
            let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).expect("encodes");
            let text = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
            format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
        })
    }

    #[test]
    fn what_is_wrong_is_said_by_key_and_never_by_value() {
        let pem = pem();
        let good = [(APP_ID, "42"), (INSTALLATION_ID, "77"), (PRIVATE_KEY, pem)];
        assert!(app(&good).expect("it is whole").is_some());
        assert!(app(&[("token", "planted")]).expect("no App at all").is_none());
        for (change, begins) in [
            (vec![(APP_ID, None)], "key githubAppID is missing"),
            (vec![(APP_ID, Some("planted"))], "key githubAppID is not the number"),
            (vec![(APP_ID, Some("0"))], "key githubAppID is not the number"),
            (vec![(APP_ID, Some("-1"))], "key githubAppID is not the number"),
            (vec![(INSTALLATION_ID, Some("planted"))], "key githubAppInstallationID is not the number"),
            (
                vec![(INSTALLATION_ID, None)],
                "keys githubAppInstallationID and githubAppInstallationOwner are both missing",
            ),
            (
                vec![(INSTALLATION_OWNER, Some("acme"))],
                "keys githubAppInstallationID and githubAppInstallationOwner are both there",
            ),
            (
                vec![(INSTALLATION_ID, None), (INSTALLATION_OWNER, Some("planted/../x"))],
                "key githubAppInstallationOwner is not the name",
            ),
            (vec![(PRIVATE_KEY, None)], "key githubAppPrivateKey is missing"),
            (vec![(PRIVATE_KEY, Some("planted"))], "key githubAppPrivateKey is not an RSA key"),
            (
                vec![(
                    PRIVATE_KEY,
                    Some("-----BEGIN RSA PRIVATE KEY-----\ncGxhbnRlZA==\n-----END RSA PRIVATE KEY-----\n"),
                )],
                "key githubAppPrivateKey is not an RSA key",
            ),
            (vec![(BASE_URL, Some("planted"))], "key githubAppBaseURL is not the http or https address"),
        ] {
            let mut keys: Vec<(&str, &str)> = good.to_vec();
            for (key, value) in change {
                keys.retain(|(name, _)| *name != key);
                keys.extend(value.map(|value| (key, value)));
            }
            let wrong = app(&keys).map(|_| ()).expect_err(begins);
            assert!(wrong.starts_with(begins), "{wrong}");
            assert!(!wrong.contains("planted"), "{wrong}");
        }
    }

    #[test]
    fn a_jwt_says_who_and_for_how_long() {
        let app =
            app(&[(APP_ID, "42"), (INSTALLATION_ID, "77"), (PRIVATE_KEY, pem())]).expect("whole").expect("an App");
        let jwt = app.jwt(jiff::Timestamp::from_second(1_700_000_000).expect("valid"));
        let (signed, signature) = jwt.expose().rsplit_once('.').expect("three parts");
        // The form is that of spec/auth.md 5.2; the times are those of GitHub's documentation.
        let (header, claims) = signed.split_once('.').expect("two parts");
        assert_eq!(header, "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9");
        let claims = URL_SAFE_NO_PAD.decode(claims).expect("base64");
        assert_eq!(claims, br#"{"iss":"42","exp":1700000540,"iat":1699999940}"#);

        use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
        let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64");
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, app.key.public_key())
            .verify(signed.as_bytes(), &signature)
            .expect("it is signed with the App's key");
    }

    /// spec/auth.md 5.3, and what is better here: `/api/v3` need not be written, and no other host.
    #[test]
    fn where_the_api_of_an_app_is() {
        let at = |base: &str| {
            let keys = [(APP_ID, "42"), (INSTALLATION_ID, "77"), (PRIVATE_KEY, pem()), (BASE_URL, base)];
            app(&keys[..if base.is_empty() { 3 } else { 4 }]).expect("whole").expect("an App")
        };
        let url = |text: &str| Url::parse(text).expect("valid");
        for (base, repository, api, expected) in [
            ("", "https://github.com", "https://api.github.com/", Some("https://api.github.com/")),
            (
                "https://api.github.com",
                "https://github.com",
                "https://api.github.com/",
                Some("https://api.github.com/"),
            ),
            ("https://github.com", "https://github.com", "https://api.github.com/", Some("https://api.github.com/")),
            ("", "https://ghe.test", "https://ghe.test/api/v3/", Some("https://ghe.test/api/v3/")),
            ("https://ghe.test", "https://ghe.test", "https://ghe.test/api/v3/", Some("https://ghe.test/api/v3/")),
            (
                "https://ghe.test/api/v3",
                "https://ghe.test",
                "https://ghe.test/api/v3/",
                Some("https://ghe.test/api/v3/"),
            ),
            (
                "https://ghe.test/git/api/v3/",
                "https://ghe.test",
                "https://ghe.test/api/v3/",
                Some("https://ghe.test/git/api/v3/"),
            ),
            ("https://api.ghe.test", "https://ghe.test", "https://ghe.test/api/v3/", Some("https://api.ghe.test/")),
            (
                "https://api.acme.ghe.com",
                "https://acme.ghe.com",
                "https://api.acme.ghe.com/",
                Some("https://api.acme.ghe.com/"),
            ),
            ("https://evil.test", "https://ghe.test", "https://ghe.test/api/v3/", None),
            ("https://ghe.test.evil.test", "https://ghe.test", "https://ghe.test/api/v3/", None),
            ("https://api.github.com", "https://ghe.test", "https://ghe.test/api/v3/", None),
            ("http://ghe.test/api/v3", "https://ghe.test", "https://ghe.test/api/v3/", None),
        ] {
            let found = at(base).api(&url(repository), &url(api)).ok();
            assert_eq!(found.as_ref().map(Url::as_str), expected, "{base} with {repository}");
        }
    }

    /// Lets one request pass.
    struct Once(std::sync::atomic::AtomicBool);

    impl crate::outbound::Gate for Once {
        fn enter(&self) -> Result<(), SendError> {
            if self.0.swap(false, std::sync::atomic::Ordering::SeqCst) {
                return Ok(());
            }
            let because = Box::new(SendError::AskedToWait);
            Err(SendError::Held { pause: Duration::from_secs(60), told: true, because })
        }

        fn answered(&self, error: Option<&SendError>, _: Option<Duration>) {
            panic!("whoever wanted the token tells of it: {error:?}");
        }

        fn left(&self, left: crate::outbound::Left) {
            panic!("that is the App's own limit, and not the installation's: {left:?}");
        }
    }

    /// A wait of the credential may begin while a token is got, which can take three requests.
    #[tokio::test]
    async fn each_request_for_a_token_asks_leave() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        crate::install_tls_provider();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base: Url = format!("http://{}/", listener.local_addr().expect("it is bound")).parse().expect("a URL");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut head = vec![0; 4096];
                let length = client.read(&mut head).await.unwrap_or_default();
                let line = String::from_utf8_lossy(&head[..length]).lines().next().unwrap_or_default().to_owned();
                noted.lock().push(line);
                let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = client.write_all(answer).await;
            }
        });
        let clock = TurnedClock::new();
        let app = app(&[(APP_ID, "42"), (INSTALLATION_OWNER, "acme"), (PRIVATE_KEY, pem())]).expect("whole");
        let tokens = Arc::new(Tokens::new(clock.clone(), 1, Duration::from_secs(60)));
        let loopback = Addresses::allowing(&["127.0.0.1".parse().expect("an address")]);
        let client = Clients::new(loopback)
            .get(Way { tls: &TlsConfig::default(), proxy: None, owner: 0 })
            .expect("a client without settings");
        let mut target = Target::anonymous(client, clock, Duration::from_secs(10));
        target.gate = Arc::new(Once(true.into()));
        let user = tokens.user("apps", "git");
        let app = GitHubApp { app: Arc::new(app.expect("an App")), route: [0; 32], tokens, user };
        let credentials = app.credentials(&target, &base, &base).expect("the host is the same");
        let error = credentials.authorization().await.expect_err("there is a wait");
        assert!(matches!(error, SendError::Held { told: true, .. }), "{error}");
        assert_eq!(*asked.lock(), ["GET /orgs/acme/installation HTTP/1.1"], "and no user of that name is asked for");
    }
}
