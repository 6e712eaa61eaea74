//! What the keys of a Secret do, and where a credential never shows.

use serde_json::json;

use crate::logs::Logs;
use crate::scene::{Scene, forge, git, hook, token};
use crate::support::flux::{Manifest, alert, kustomization_event, provider, secret, sha};
use crate::support::forge::Fault;

/// What a generic hook was sent, with this Secret and Provider.
async fn headers_of(headers: &str) -> http::HeaderMap {
    let forge = forge().await;
    let hook = provider("generic", "hook", &format!("{}/hook", forge.url())).secret("s");
    let scene = Scene::with(forge, [hook, secret("s", "headers", headers), alert("all", "hook")], &[]).await;
    scene.tell([kustomization_event("web", &sha(1))]).await;
    let sent = scene.forge.requests().remove(0).headers;
    scene.end(0, 1).await;
    sent
}

#[tokio::test]
async fn a_token_is_found_under_either_key_without_the_space_around_it() {
    for (secret, sent) in [
        (secret("token", "token", "abc\n"), "Bearer abc"),
        (secret("token", "password", "from-password"), "Bearer from-password"),
        (secret("token", "token", "abc").key("password", "not this"), "Bearer abc"),
        (secret("token", "token", "abc").key("username", "alone"), "Bearer abc"),
        (secret("token", "token", "abc").key("tls.crt", "without its key"), "Bearer abc"),
    ] {
        let forge = forge().await;
        let manifests = [git("github", &forge), secret.clone(), alert("all", "git")];
        let scene = Scene::with(forge, manifests, &[]).await;
        scene.tell([kustomization_event("web", &sha(1))]).await;
        assert_eq!(scene.forge.requests()[0].header("authorization"), sent, "{}", *secret);
        scene.end(1, 1).await;
    }
}

#[tokio::test]
async fn the_address_in_a_secret_wins() {
    let (forge, other) = (forge().await, forge().await);
    let manifests = [
        git("github", &other),
        token().key("address", &format!("  {}/acme/secret\n", forge.url())),
        alert("all", "git"),
    ];
    let scene = Scene::with(forge, manifests, &[]).await;
    scene.tell([kustomization_event("web", &sha(1))]).await;
    assert_eq!(scene.forge.statuses(&sha(1))[0].repository, "acme/secret");
    assert!(other.requests().is_empty());
    scene.end(1, 1).await;
}

#[tokio::test]
async fn headers_are_read_from_yaml_or_json() {
    // As YAML 1.1, indented as it may be; src/delivery/headers.rs has the whole table.
    let yaml = "  X-Text: plain\n  X-Quoted: \"a: b\"\n  X-Number: 015\n  X-True: yes\n  X-Inf: .inf\n  X-Nothing:\n";
    let sent = headers_of(yaml).await;
    let text = |name: &str| sent.get(name).map(|value| value.to_str().expect("text").to_owned());
    for (name, value) in [
        ("x-text", "plain"),
        ("x-quoted", "a: b"),
        ("x-number", "13"),
        ("x-true", "true"),
        ("x-inf", "+Inf"),
        ("x-nothing", ""),
    ] {
        assert_eq!(text(name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(headers_of(r#"{"X-Json": "j"}"#).await.get("x-json").expect("it is sent"), "j");
    assert!(headers_of("{}").await.get("x-json").is_none());
}

#[tokio::test]
async fn what_is_wrong_with_a_secret_is_said_by_key_and_mends_itself() {
    type Shape = fn(Manifest) -> Manifest;
    let plain: Shape = |provider| provider;
    let with_certs: Shape = |provider| provider.spec("certSecretRef", json!({"name": "certs"}));
    let with_proxy: Shape = |provider| provider.spec("proxySecretRef", json!({"name": "proxy"}));
    let secret_text = "s3cret-planted-value";
    for (shape, bad, reason, words) in [
        (plain, secret("token", "other", secret_text), "InvalidCredentials", "no key token"),
        (plain, secret("token", "token", "").key("x", secret_text), "InvalidCredentials", "no key token"),
        (plain, secret("token", "token", "s3cret\n-planted-value"), "InvalidCredentials", "characters no token has"),
        (plain, token().key("address", ""), "InvalidAddress", "key address of Secret flux-system/token"),
        (plain, token().key("address", &"s3cret-planted-value/".repeat(200)), "InvalidAddress", "longer than 2048"),
        (
            plain,
            token().key("headers", "- s3cret-planted-value"),
            "InvalidHeaders",
            "key headers of Secret flux-system/token",
        ),
        (plain, token().key("headers", "X: {a: s3cret-planted-value}"), "InvalidHeaders", "a list or a map"),
        (plain, token().key("proxy", "::s3cret-planted-value"), "InvalidProxy", "key proxy of Secret"),
        (plain, token().key("ca.crt", secret_text), "InvalidCertificate", "key ca.crt"),
        (with_certs, secret("certs", "x", secret_text), "InvalidCertificate", "neither key ca.crt nor keys tls.crt"),
        (with_certs, secret("certs", "tls.crt", secret_text), "InvalidCertificate", "no key tls.key"),
        (with_certs, secret("certs", "tls.key", secret_text), "InvalidCertificate", "no key tls.crt"),
        (with_certs, secret("certs", "ca.crt", secret_text), "InvalidCertificate", "not a certificate"),
        (with_proxy, secret("proxy", "x", secret_text), "InvalidProxy", "no key address"),
        (with_proxy, secret("proxy", "address", "ftp://s3cret-planted-value"), "InvalidProxy", "http, https or socks5"),
    ] {
        let logs = Logs::collect();
        let forge = forge().await;
        // The bad Secret is read last, and so stands for one of its name that is good.
        let good = (bad["metadata"]["name"] != "token").then(token);
        let provider = shape(git("gitea", &forge));
        let manifests = [provider, bad.clone(), alert("all", "git")].into_iter().chain(good);
        let scene = Scene::with(forge, manifests, &[]).await;
        scene.post(&kustomization_event("web", &sha(1))).await;
        logs.until(&["ERROR", reason, words, "name=git"]).await;
        assert!(scene.forge.requests().is_empty(), "{words}");
        assert!(!logs.text().contains("planted-value"), "{words}");

        scene.folder.write(&token());
        scene.folder.write(&git("gitea", &scene.forge));
        scene.end(1, 1).await;
    }
}

#[tokio::test]
async fn no_credential_shows_in_logs_or_metrics_whatever_goes_wrong() {
    let logs = Logs::collect();
    let (forge, proxy) = (forge().await, forge().await);
    let planted =
        ["planted-token", "planted-header", "planted-path", "planted-password", "planted-user", "planted-query"];
    let hook_address = "http://planted-user@git.invalid/hook/planted-path?key=planted-query";
    let manifests = [
        provider("generic", "hook", "http://unused.invalid/")
            .secret("hook")
            .spec("proxySecretRef", json!({"name": "proxy"})),
        secret("hook", "address", hook_address).key("headers", "X-Key: planted-header").key("token", "planted-token"),
        secret("proxy", "address", proxy.url()).key("username", "planted-user").key("password", "planted-password"),
        git("github", &forge),
        secret("token", "token", "planted-token"),
        alert("all", "hook"),
        alert("git", "git"),
    ];
    let scene = Scene::with(forge, manifests, &[]).await;
    let echo = "you sent Bearer planted-token";
    let echo_of_hook = format!("you sent planted-header and planted-token to {hook_address}");
    type Harm = fn(&str) -> Fault;
    let harms: [Harm; 6] = [
        |echo| Fault::answer(422).body(echo),
        |echo| Fault::answer(500).body(echo),
        |_| Fault::reset(),
        |_| Fault::half_body(),
        |_| Fault::answer(301).header("location", "ftp://planted-path"),
        |echo| Fault::answer(403).body(echo),
    ];
    for (number, harm) in harms.into_iter().enumerate() {
        scene.forge.fail(harm(echo));
        proxy.fail(harm(&echo_of_hook));
        scene.post(&kustomization_event("web", &sha(number as u64))).await;
        scene.quiet().await;
    }
    let metrics = scene.herald.app.metrics.encode();
    for word in planted {
        let line = logs.text().lines().find(|line| line.contains(word)).map(str::to_owned);
        assert_eq!(line, None, "{word}");
        assert!(!metrics.contains(word));
    }
    assert!(logs.count(&["answered 422"]) > 0, "what happened is told all the same");
    scene.herald.stop().await;
}

/// How servers quote what they answer with: JSON, as Go writes it, and with escaped slashes; HTML; an address.
const QUOTES: [fn(&str) -> String; 5] = [
    |text| json!(text).to_string(),
    |text| json!(text).to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026"),
    |text| json!(text).to_string().replace('/', "\\/"),
    |text| {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        text.replace('"', "&#34;").replace('\'', "&#39;").replace('+', "&#43;")
    },
    |text| url::form_urlencoded::byte_serialize(text.as_bytes()).collect(),
];

#[tokio::test]
async fn no_credential_shows_however_a_vendor_quotes_it() {
    let logs = Logs::collect();
    let (forge, dir) = (forge().await, tempfile::tempdir().expect("a folder"));
    let path = dir.path().join("outbox.db");
    let flag = format!("--outbox-path={}", path.display());
    // Each has all that is quoted somewhere between the two words that are looked for.
    let nasty = |begin: &str, end: &str| format!(r#"{begin}"pa<ss>&w0rd\x'/+{end}"#);
    let headers = json!({"X-Key": nasty("hidden-first", "hidden-second")}).to_string();
    let manifests = [
        hook(&forge).secret("hook"),
        secret("hook", "headers", &headers).key("token", &nasty("hidden-third", "hidden-fourth")),
        git("github", &forge),
        secret("token", "token", &nasty("hidden-fifth", "hidden-sixth")),
        alert("all", "hook"),
        alert("git", "git"),
    ];
    let scene = Scene::with(forge, manifests, &[&flag]).await;
    for (number, quote) in QUOTES.into_iter().enumerate() {
        for status in [422, 503] {
            scene
                .forge
                .fail(Fault::answer(status).header("content-type", "application/json").echo().quoted(quote).times(2));
            scene.post(&kustomization_event(&format!("web-{status}"), &sha(number as u64))).await;
            scene.quiet().await;
        }
    }
    // What is still to be tried says why.
    scene.forge.fail(Fault::answer(403).header("content-type", "application/json").echo().quoted(QUOTES[0]).every(1));
    scene.post(&kustomization_event("web-403", &sha(9))).await;
    scene.quiet().await;
    let metrics = scene.herald.app.metrics.encode();
    assert_eq!(scene.herald.app.outbox.counts().held, 2);
    scene.herald.stop().await;
    let files =
        std::fs::read_dir(dir.path()).expect("a folder").filter_map(|file| std::fs::read(file.ok()?.path()).ok());
    let kept: String = files.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect();
    assert!(kept.contains("answered 403"), "the file says why");
    for word in ["hidden-", "-second", "-fourth", "-sixth", "w0rd"] {
        let line = logs.text().lines().find(|line| line.contains(word)).map(str::to_owned);
        assert_eq!(line, None, "{word}");
        assert!(!metrics.contains(word) && !kept.contains(word), "{word}");
    }
    assert!(logs.count(&["answered 422", "x-key: ", "*****"]) > 0, "what happened is told all the same");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_reported_without_what_is_in_it() {
    let logs = Logs::collect();
    let forge = forge().await;
    let git = git("github", &forge);
    let scene = Scene::with(forge, [git, alert("all", "git")], &[]).await;
    let head = "apiVersion: v1\nkind: Secret\nmetadata: {name: token, namespace: flux-system}\n";
    for (number, rest) in [
        "stringData:\n  token: \"planted-token\n  more: [planted-token\n",
        "stringData:\n token: planted-token: x\n",
        "stringData: {token: planted-token, token: planted-token}\n",
        "data: {token: planted-token!}\n",
        "stringData: planted-token\n",
        "stringData: {token: [planted-token]}\n",
        "stringData: {token: planted-token}\n\tplanted-token\n",
        "stringData: {token: *planted-token}\n",
        "stringData: !planted-token x\n  planted-token\n",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("case-{number}.yaml");
        scene.folder.write_text(&name, &format!("{head}{rest}"));
        logs.until(&["ERROR", &name]).await;
        let line = logs.text().lines().find(|line| line.contains("planted-token")).map(str::to_owned);
        assert_eq!(line, None, "{rest}");
    }
    scene.end(0, 0).await;
}
