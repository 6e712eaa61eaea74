//! Secrets are planted in every field that can hold a credential, in good form and in bad, for every
//! type of Provider; whatever goes wrong then, they show in no line of the log, no condition, no Event,
//! no metric and no byte of the outbox.

use base64::Engine;
use serde_json::{Value, json};

use super::support::app::{DEADLINE, Herald};
use super::support::flux::{Manifest, alert, kustomization_event, provider, secret, sha};
use super::support::forge::{App, AppKey, Fault, Forge};
use super::support::wait;
use super::{Log, Space, condition, forge, in_namespace};

/// Part of everything that is planted, and of nothing else.
const MARK: &str = "h1dden";

const TYPES: [&str; 7] = ["azuredevops", "bitbucket", "bitbucketserver", "generic", "gitea", "github", "gitlab"];

const TOKEN: &str = "h1dden-token";
const HEADER: &str = "h1dden-header";
const USER: &str = "h1dden-user";
const PASSWORD: &str = "h1dden-pass";
const QUERY: &str = "h1dden-query";
const PATH: &str = "h1dden-path-that-is-a-key";
const PROXY_USER: &str = "h1dden-proxy-user";
const PROXY_PASSWORD: &str = "h1dden-proxy-pass";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nh1dden\n-----END PRIVATE KEY-----\n";

fn base64(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// What the planted texts become on their way.
fn traces() -> Vec<String> {
    let pairs = [(USER, PASSWORD), (PROXY_USER, PROXY_PASSWORD), ("", TOKEN), (USER, TOKEN), ("x-token-auth", TOKEN)];
    let pairs = pairs.map(|(user, password)| base64(&format!("{user}:{password}")));
    let single = [TOKEN, HEADER, USER, PASSWORD, QUERY, PATH, PROXY_USER, PROXY_PASSWORD, KEY].map(base64);
    [MARK.to_owned()].into_iter().chain(pairs).chain(single).collect()
}

/// What a server that tells everything it was sent would answer.
fn echo(kind: &str, case: &str) -> String {
    let basic = |user: &str, password: &str| format!("Basic {}", base64(&format!("{user}:{password}")));
    let mut echo = format!(
        "answered by the host: {TOKEN} {HEADER} {USER} {PASSWORD} {QUERY} {} Bearer {TOKEN} \
         http://{USER}:{PASSWORD}@git.invalid/?key={QUERY}",
        basic(USER, PASSWORD),
    );
    if kind == "azuredevops" {
        echo = format!("{echo} {}", basic("", TOKEN));
    }
    if kind == "generic" {
        echo = format!("{echo} {PATH} /hook/{PATH}/");
    }
    if case.starts_with("prox") {
        echo = format!("{echo} {PROXY_USER} {PROXY_PASSWORD} {}", basic(PROXY_USER, PROXY_PASSWORD));
    }
    echo
}

/// An address of the type's kind at this scheme, host and port, with a credential wherever one fits.
fn address(kind: &str, scheme: &str, host: &str, name: &str) -> String {
    let path = match kind {
        "bitbucketserver" => format!("scm/acme/{name}.git"),
        "azuredevops" => format!("org/project/_git/{name}"),
        // The one that works, at the forge.
        "generic" if name == "generic-ok" => "hook".to_owned(),
        "generic" => format!("hook/{PATH}/{name}"),
        _ => format!("acme/{name}"),
    };
    format!("{scheme}://{USER}:{PASSWORD}@{host}/{path}?key={QUERY}")
}

impl Space<'_> {
    /// Status of Alerts and Providers, and Events, as the API server has them.
    fn everything_told(&self) -> String {
        let objects: Value =
            serde_json::from_str(&self.kubectl(&["get", "alerts,providers", "-o", "json"])).expect("JSON");
        let objects = objects["items"].as_array().expect("a list");
        let status: Vec<String> = objects.iter().map(|object| object["status"].to_string()).collect();
        assert!(status.iter().all(|status| status.contains("Healthy")), "{status:#?}");
        status.join("\n") + &self.kubectl(&["get", "events", "-o", "json"])
    }

    /// Nothing that was planted shows anywhere. `why` is among what is stored of why a job waits.
    async fn nothing_shows(&self, herald: &Herald, log: &Log, why: &str) {
        let (told, metrics, stored) = (self.everything_told(), herald.metrics().await, stored(herald).await);
        assert!(stored.contains(why), "{stored}");
        for trace in traces() {
            let leaks = log.lines(&[&trace]);
            assert!(leaks.is_empty(), "{trace} in {} lines of the log: {:#?}", leaks.len(), leaks.first());
            for (place, text) in
                [("conditions and Events", &told), ("the metrics", &metrics), ("the outbox's files", &stored)]
            {
                let at = text.find(&trace);
                assert_eq!(
                    at,
                    None,
                    "{trace} in {place}: {:?}",
                    at.map(|at| text[at.saturating_sub(200)..].get(..400))
                );
            }
        }
    }

    /// A Herald for this namespace that finds Bitbucket Cloud at the forge.
    async fn herald_of(&self, forge: &Forge) -> Herald {
        let bitbucket = format!("--bitbucket-api-base-url={}/2.0", forge.url());
        self.herald_with(self.client.clone(), &[&bitbucket]).await
    }

    /// Waits until the Provider is `Healthy` or has a reason other than those it passes through.
    async fn settled(&self, name: &str) -> Value {
        wait::until_ok(DEADLINE, &format!("Provider {name} to be judged"), || async {
            let object = self.get("Provider", name).await;
            condition(&object, "Healthy").cloned().ok_or_else(|| object.to_string())
        })
        .await
    }
}

/// The bytes of all files of the outbox, its log included, once everything is written; what is no ASCII is a dot.
async fn stored(herald: &Herald) -> String {
    herald.app.outbox.finish().await;
    let files = std::fs::read_dir(herald.outbox.path()).expect("a folder");
    let paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    assert!(paths.iter().any(|path| path.ends_with("outbox.db-wal")), "{paths:?}");
    let bytes = paths.iter().flat_map(|path| std::fs::read(path).expect("it can be read"));
    bytes.map(|byte| if byte.is_ascii() { char::from(byte) } else { '.' }).collect()
}

#[tokio::test]
async fn what_a_good_credential_meets_with_does_not_show_it() {
    let space = Space::new("leaks").await;
    let forge = forge().await;
    let host = forge.url().trim_start_matches("http://").to_owned();
    // One for each type: a host that fails is left alone for all who tell it.
    let closed = TYPES.map(|_| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("an address").to_string()
    });
    // Name, scheme, host, status, reason of the Provider's condition.
    let cases = [
        ("ok", "http", host.as_str(), None, "Succeeded"),
        ("c401", "http", &host, Some(401), "Unauthorized"),
        ("c403", "http", &host, Some(403), "Forbidden"),
        ("c404", "http", &host, Some(404), "NotFound"),
        ("c422", "http", &host, Some(422), "Rejected"),
        ("proxied", "http", "git.invalid", Some(407), "Unauthorized"),
        ("proxykey", "http", "git.invalid", Some(422), "Rejected"),
        ("refused", "http", "closed", None, "Unreachable"),
        // What speaks no TLS is told from no other place without HTTP.
        ("tls", "https", "plain", None, "Unreachable"),
    ];
    let proxy = secret("proxies", "address", forge.url()).key("username", PROXY_USER).key("password", PROXY_PASSWORD);
    space.apply(&proxy).await;
    let mut names = Vec::new();
    // Each type has a plain host of its own, because what fails at a shared one takes turns.
    let mut plain = Vec::new();
    for _ in TYPES {
        plain.push(super::forge().await);
    }
    for ((kind, closed), plain) in TYPES.into_iter().zip(&closed).zip(&plain) {
        for (case, scheme, host, status, reason) in cases {
            let plain = plain.url().trim_start_matches("http://");
            let host = match host {
                "closed" => closed,
                "plain" => plain,
                host => host,
            };
            let name = format!("{kind}-{case}");
            let mut credentials = secret(&name, "token", TOKEN)
                // What a host says of a credential counts for all who have the same.
                .key("clientID", &name)
                .key("address", &address(kind, scheme, host, &name))
                .key("headers", &format!("X-Key: {HEADER}"))
                .key("tls.key", KEY)
                .key("githubAppPrivateKey", KEY);
            if case == "proxykey" {
                let proxy = forge.url().replace("http://", &format!("http://{PROXY_USER}:{PROXY_PASSWORD}@"));
                credentials = credentials.key("proxy", &proxy);
            }
            let mut provider = provider(kind, &name, "http://unused.invalid/a/b").secret(&name).spec("timeout", "2s");
            if case == "proxied" {
                provider = provider.spec("proxySecretRef", json!({"name": "proxies"}));
            }
            if kind == "bitbucket" && matches!(case, "refused" | "tls" | "proxied" | "proxykey") {
                provider = provider.annotation("herald.sh/api-url", &format!("{scheme}://{host}/2.0/"));
            }
            if let Some(status) = status {
                let fault = Fault::answer(status).header("content-type", "application/json").body(&echo(kind, case));
                forge.fail(fault.path(&name).every(1));
            }
            for manifest in [credentials, provider, alert(&name, &name)] {
                space.apply(&manifest).await;
            }
            names.push((name, reason));
        }
    }
    let (log, _guard) = Log::printed();
    let herald = space.herald_of(&forge).await;
    for (name, _) in &names {
        space.in_order("Provider", name).await;
    }
    let event = in_namespace(kustomization_event("web", &sha(1)), &space);
    assert_eq!(herald.post(&event).await, 202);
    for (name, reason) in &names {
        let healthy = if *reason == "Succeeded" { "True" } else { "False" };
        space.condition("Provider", name, "Healthy", healthy, reason).await;
        space.condition("Alert", name, "Healthy", healthy, reason).await;
        if healthy == "False" {
            space.event("Alert", name, "NotificationDispatchFailed", 1).await;
        }
    }
    // All of it was in use, and what was answered was told.
    wait::until_ok(DEADLINE, "one delivery for each type", || async {
        let told = log.lines(&["notification delivered"]).len();
        if told == TYPES.len() { Ok(()) } else { Err(format!("{told} of {}", TYPES.len())) }
    })
    .await;
    let sent = |text: &str| {
        let requests = forge.requests();
        requests.iter().any(|is| is.uri.contains(text) || is.headers.values().any(|value| value == text))
    };
    let basic = |user: &str, password: &str| format!("Basic {}", base64(&format!("{user}:{password}")));
    for text in [
        HEADER,
        PATH,
        QUERY,
        &format!("Bearer {TOKEN}"),
        &basic("", TOKEN),
        &basic(USER, PASSWORD),
        &basic(PROXY_USER, PROXY_PASSWORD),
    ] {
        assert!(sent(text), "{text} was sent");
    }
    assert!(log.lines(&["answered by the host: *****"]).len() >= TYPES.len());
    space.nothing_shows(&herald, &log, "answered by the host: *****").await;
    herald.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_credential_is_told_without_it() {
    type Shape = fn(Manifest) -> Manifest;
    let plain: Shape = |provider| provider;
    let certs: Shape = |provider| provider.spec("certSecretRef", json!({"name": "own"}));
    let proxies: Shape = |provider| provider.spec("proxySecretRef", json!({"name": "own"}));
    let good = || secret("own", "token", TOKEN);
    let certificate = KEY.replace("PRIVATE KEY", "CERTIFICATE");
    let cases: Vec<(&str, Shape, Manifest)> = vec![
        ("token-lines", plain, secret("own", "token", "h1dden\ntoken")),
        ("token-odd", plain, secret("own", "token", "h1dden\u{7f}tökén")),
        ("no-token", plain, secret("own", "other", TOKEN)),
        ("user-alone", plain, secret("own", "username", USER)),
        ("user-colon", plain, secret("own", "username", "h1dden:user").key("password", PASSWORD)),
        ("password-alone", plain, secret("own", "password", PASSWORD)),
        ("password-lines", plain, secret("own", "username", USER).key("password", "h1dden\npass")),
        ("address-none", plain, good().key("address", "://h1dden")),
        ("address-scheme", plain, good().key("address", "ftp://h1dden:h1dden@example.org/a/b?h1dden#h1dden")),
        ("address-user", plain, good().key("address", "http://h1dden user:h1dden@/a")),
        ("address-port", plain, good().key("address", "http://h1dden:h1dden@127.0.0.1:h1dden/a/b")),
        ("address-text", plain, good().key("address", "h1dden")),
        ("headers-list", plain, good().key("headers", "- h1dden")),
        ("headers-map", plain, good().key("headers", "h1dden: {h1dden: h1dden}")),
        ("headers-name", plain, good().key("headers", "h1dden h1dden: x")),
        ("headers-value", plain, good().key("headers", "X: \"h1dden\\nh1dden\"")),
        ("headers-yaml", plain, good().key("headers", "\"h1dden")),
        ("proxy-text", plain, good().key("proxy", "::h1dden")),
        ("proxy-scheme", plain, good().key("proxy", "ftp://h1dden:h1dden@example.org")),
        (
            "spec-proxy",
            |provider| provider.spec("proxy", "http://h1dden:h1dden@127.0.0.1:h1dden"),
            good().key("other", "h1dden"),
        ),
        ("ca-text", plain, good().key("ca.crt", "h1dden")),
        ("ca-pem", plain, good().key("ca.crt", &certificate)),
        ("pair-text", plain, good().key("tls.crt", "h1dden").key("tls.key", "h1dden")),
        ("pair-pem", plain, good().key("tls.crt", &certificate).key("tls.key", KEY)),
        (
            "app-pem",
            plain,
            secret("own", "githubAppPrivateKey", KEY).key("githubAppID", "1").key("githubAppInstallationID", "2"),
        ),
        ("app-text", plain, secret("own", "githubAppPrivateKey", "h1dden").key("githubAppID", "h1dden")),
        ("app-owner", plain, secret("own", "githubAppInstallationOwner", "h1dden/h1dden").key("githubAppID", "1")),
        ("app-base", plain, secret("own", "githubAppBaseURL", "h1dden://h1dden").key("githubAppID", "1")),
        ("cert-key", certs, good().key("tls.key", KEY)),
        ("cert-pair", certs, good().key("tls.crt", &certificate).key("tls.key", KEY)),
        ("cert-ca", certs, good().key("ca.crt", &certificate)),
        ("proxies-none", proxies, good()),
        ("proxies-text", proxies, good().key("address", "h1dden")),
        ("proxies-scheme", proxies, good().key("address", "ftp://h1dden:h1dden@example.org")),
        ("proxies-user", proxies, good().key("address", "http://h1dden:h1dden@").key("username", "h1dden/@:user")),
    ];
    let space = Space::new("leaks").await;
    let forge = forge().await;
    let host = forge.url().trim_start_matches("http://").to_owned();
    let mut names = Vec::new();
    for kind in TYPES {
        for (case, shape, credentials) in &cases {
            let name = format!("{kind}-{case}");
            let mut credentials = serde_json::to_string(&**credentials).expect("JSON");
            credentials = credentials.replace("\"own\"", &format!("\"{name}\""));
            let credentials: Value = serde_json::from_str(&credentials).expect("JSON");
            let params = Default::default();
            let object = serde_json::from_value(in_this(&space, credentials)).expect("an object");
            space.objects("Secret").create(&params, &object).await.expect("it is accepted");
            // The credential that is right in a certSecretRef or proxySecretRef is none of the Provider's own.
            let provider = shape(provider(kind, &name, &address(kind, "http", &host, &name)).secret(&name));
            let provider = match provider["spec"].get("certSecretRef").is_some() {
                true => provider.spec("certSecretRef", json!({"name": name})),
                false => provider,
            };
            let provider = match provider["spec"].get("proxySecretRef").is_some() {
                true => provider.spec("proxySecretRef", json!({"name": name})),
                false => provider,
            };
            space.create(&provider).await;
            space.create(&alert(&name, &name)).await;
            names.push(name);
        }
    }
    let (log, _guard) = Log::printed();
    let herald = space.herald_of(&forge).await;
    let mut bad = 0;
    for name in &names {
        bad += usize::from(space.settled(name).await["status"] == "False");
    }
    // Some keys mean nothing to some types; most mean something to all.
    assert!(bad > names.len() / 2, "{bad} of {}", names.len());
    let event = in_namespace(kustomization_event("web", &sha(1)), &space);
    assert_eq!(herald.post(&event).await, 202);
    for kind in TYPES {
        space.event("Alert", &format!("{kind}-headers-list"), "NotificationDispatchFailed", 1).await;
    }
    space.nothing_shows(&herald, &log, "key headers").await;
    herald.stop().await;
}

#[tokio::test]
async fn what_an_app_is_given_and_gives_does_not_show() {
    let space = Space::new("leaks").await;
    let forge = forge().await;
    let key = AppKey::new();
    let (id, installation) = (42, 77);
    forge.app(App { id, key: key.clone(), installation, owner: "acme".into(), organization: true, suspended: false });
    // A new token for each request, and each refusal tells the whole request.
    let cases = [
        ("app-400", "/access_tokens", 400, "InvalidCredentials"),
        ("app-401", "/statuses", 401, "Unauthorized"),
        ("app-422", "/statuses", 422, "Rejected"),
    ];
    let mut spoken = Vec::new();
    let (log, _guard) = Log::printed();
    let herald = space.herald_with(space.client.clone(), &["--token-cache-max-size=0"]).await;
    for (number, (name, at, status, reason)) in (1..).zip(cases) {
        forge.fail(Fault::answer(status).header("content-type", "application/json").echo().path(at).every(1));
        let credentials = secret(name, "githubAppID", "42")
            .key("githubAppInstallationID", "77")
            .key("githubAppPrivateKey", &key.pkcs1());
        let git = provider("github", name, &format!("{}/acme/{name}", forge.url())).secret(name);
        for manifest in [credentials, git, alert(name, name)] {
            space.apply(&manifest).await;
        }
        space.in_order("Provider", name).await;
        let event = in_namespace(kustomization_event("web", &sha(number)), &space);
        assert_eq!(herald.post(&event).await, 202);
        let healthy = space.condition("Provider", name, "Healthy", "False", reason).await;
        assert!(healthy["message"].as_str().is_some_and(|text| text.contains(&status.to_string())), "{healthy}");
        space.event("Alert", name, "NotificationDispatchFailed", 1).await;
        for kind in ["Alert", "Provider"] {
            space.delete(kind, name).await;
        }
        forge.recover();
        spoken.push(space.kubectl(&["get", "events", "-o", "json"]) + &healthy.to_string());
    }
    let bearers = forge.requests().into_iter().map(|request| request.header("authorization").to_owned());
    let bearers: Vec<_> = bearers.map(|bearer| bearer.trim_start_matches("Bearer ").to_owned()).collect();
    let pem = key.pkcs1();
    let lines = pem.lines().map(str::to_owned).filter(|line| line.len() > 20);
    let metrics = herald.metrics().await;
    assert!(!forge.minted().is_empty() && forge.minted().iter().any(|token| bearers.contains(token)));
    for secret in bearers.into_iter().chain(forge.minted()).chain(lines) {
        assert_eq!(log.lines(&[&secret]), Vec::<String>::new());
        assert!(!metrics.contains(&secret) && !spoken.iter().any(|text| text.contains(&secret)), "{secret}");
    }
    assert!(!log.lines(&["authorization: *****"]).is_empty(), "what was answered is told");
    herald.stop().await;
}

/// The manifest in this namespace.
fn in_this(space: &Space<'_>, mut manifest: Value) -> Value {
    manifest["metadata"]["namespace"] = space.name.as_str().into();
    manifest
}
