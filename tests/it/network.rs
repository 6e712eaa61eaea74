//! Which way requests take: certificates of one's own and proxies (spec/pipeline.md 7.4), asked of
//! every row of the vendor table alike.

use std::process::Command;

use herald::matching::gate::Carries;
use herald::vendors::{Row, TABLE};
use http::Version;
use rcgen::ExtendedKeyUsagePurpose;
use serde_json::json;

use crate::logs::Logs;
use crate::proxy::{Asked, Proxy};
use crate::scene::{Scene, TOKEN, address_at, forge, token};
use crate::support::app::DEADLINE;
use crate::support::flux::{Folder, Manifest, alert, kustomization_event, provider, secret, sha};
use crate::support::forge::Forge;
use crate::support::process::{Scratch, Server, free_port};
use crate::support::wait;
use crate::tls::{Authority, DOMAIN};

/// A Provider of the row at a host, and an Alert that tells it of everything.
pub fn at(row: &Row, name: &str, base: &str) -> (Manifest, Manifest) {
    let mut provider = provider(row.name, name, &address_at(row.name, base)).secret("token");
    if row.name == "bitbucket" {
        // It would be at Bitbucket's own host.
        provider = provider.annotation("herald.sh/api-url", &format!("{base}/2.0"));
    }
    (provider, alert(name, name))
}

/// The rows whose Provider got through with the news of this commit, in the order of the table.
fn told(forge: &Forge, commit: &str) -> Vec<&'static str> {
    let hooked = forge.requests().iter().any(|request| request.uri.ends_with("/hook"));
    let statuses = forge.statuses(commit);
    let hosts: Vec<String> = statuses.iter().map(|status| format!("{:?}", status.host).to_lowercase()).collect();
    let told = |row: &&Row| match row.carries {
        Carries::Event => hooked,
        Carries::CommitStatus => hosts.iter().any(|host| host == row.name),
    };
    TABLE.iter().filter(told).map(|row| row.name).collect()
}

/// Who gets through.
#[derive(Clone, Copy, Debug)]
enum Through {
    All,
    /// Certificates beside the token are for the types that write a commit status.
    Statuses,
    Nobody,
}

impl Through {
    fn rows(self) -> Vec<&'static str> {
        let through = |row: &&Row| match self {
            Through::All => true,
            Through::Statuses => row.carries == Carries::CommitStatus,
            Through::Nobody => false,
        };
        TABLE.iter().filter(through).map(|row| row.name).collect()
    }
}

/// The table of certificates in spec/pipeline.md 7.4, and its precedence.
#[tokio::test]
async fn certificates_count_where_they_are_given() {
    let (servers, clients, stranger) = (Authority::new(), Authority::new(), Authority::new());
    let (certificate, key) = clients.sign(ExtendedKeyUsagePurpose::ClientAuth);
    let (right, wrong, certificate, key) = (servers.pem(), stranger.pem(), certificate.pem(), key.serialize_pem());
    let (right, wrong, certificate, key) = (right.as_str(), wrong.as_str(), certificate.as_str(), key.as_str());
    let complete = [("ca.crt", right), ("tls.crt", certificate), ("tls.key", key)];
    let old_names = [("caFile", right), ("certFile", certificate), ("keyFile", key)];

    type Keys<'a> = &'a [(&'a str, &'a str)];
    // What the case is, whether the server asks who the client is, the keys of certSecretRef, the keys beside the
    // token, who gets through.
    let cases: [(&str, bool, Keys, Keys, Through); 13] = [
        ("an authority", false, &[("ca.crt", right)], &[], Through::All),
        ("its old name", false, &[("caFile", right)], &[], Through::All),
        ("the new name wins", false, &[("ca.crt", right), ("caFile", wrong)], &[], Through::All),
        ("beside the token", false, &[], &[("ca.crt", right)], Through::Statuses),
        ("beside the token, old", false, &[], &[("caFile", right)], Through::Statuses),
        ("certSecretRef wins", false, &[("ca.crt", right)], &[("ca.crt", wrong)], Through::All),
        ("certSecretRef wins, wrong", false, &[("ca.crt", wrong)], &[("ca.crt", right)], Through::Nobody),
        ("nothing given", false, &[], &[], Through::Nobody),
        ("only a client", true, &complete[1..], &[], Through::Nobody),
        ("a client", true, &complete, &[], Through::All),
        ("a client, old names", true, &old_names, &[], Through::All),
        ("a client beside the token", true, &[], &complete, Through::Statuses),
        ("no client", true, &complete[..1], &[], Through::Nobody),
    ];
    for (case, asks, certs, beside, through) in cases {
        let logs = Logs::collect();
        let forge = forge().await;
        let base = servers.front(&forge, asks.then_some(&clients)).await;
        let with =
            |secret: Manifest, keys: Keys| keys.iter().fold(secret, |secret, (key, value)| secret.key(key, value));
        let given = |certs: Keys| {
            let manifests = TABLE.iter().flat_map(|row| {
                let (provider, alert) = at(row, row.name, &base);
                let named = provider.clone().spec("certSecretRef", json!({"name": "certs"}));
                [if certs.is_empty() { provider } else { named }, alert]
            });
            let certs = (!certs.is_empty()).then(|| with(secret("certs", "x", "y"), certs));
            manifests.chain(certs).collect::<Vec<_>>()
        };
        let scene = Scene::with(forge, given(certs).into_iter().chain([with(token(), beside)]), &[]).await;
        scene.post(&kustomization_event("web", &sha(1))).await;
        let outside = TABLE.len() - through.rows().len();
        wait::until(DEADLINE, "everybody to have tried", || async {
            let counts = scene.herald.app.outbox.counts();
            (counts.held == outside && counts.claimed == 0).then_some(())
        })
        .await;
        assert_eq!(told(&scene.forge, &sha(1)), through.rows(), "{case}");
        let refused = |row: &str| logs.count(&["TLS handshake failed", &format!("provider=flux-system/{row} ")]);
        for row in TABLE.iter().filter(|row| !asks && !through.rows().contains(&row.name)) {
            assert!(refused(row.name) > 0, "{case}, {}", row.name);
            let name = format!("name={} ", row.name);
            logs.until(&["controllerKind=Provider", &name, "condition=Healthy", "status=False", "TLSFailed"]).await;
        }

        // People mend it, and what waits is told.
        for manifest in given(&complete) {
            scene.folder.write(&manifest);
        }
        scene.herald.idle().await;
        assert_eq!(told(&scene.forge, &sha(1)), Through::All.rows(), "{case}, mended");
        scene.end(6, 7).await;
    }
}

/// "Proxy = proxySecretRef over secret key `proxy` over `spec.proxy`" (spec/pipeline.md 7.4).
#[tokio::test]
async fn of_three_proxies_the_closest_is_taken() {
    let servers = Authority::new();
    let forge = forge().await;
    let front = servers.front(&forge, None).await;
    let mut proxies = Vec::new();
    for _ in 0..3 {
        proxies.push(Proxy::start(&front, forge.url()).await);
    }
    let [of_spec, of_key, of_secret] = &proxies[..] else { unreachable!("three were started") };
    let mut manifests = vec![
        token(),
        secret("certs", "ca.crt", &servers.pem()),
        secret("token-and-proxy", "token", TOKEN).key("proxy", &of_key.url),
        secret("proxy", "address", &of_secret.url).key("username", "flux").key("password", "p4ss"),
    ];
    // Through a tunnel as vendors are reached, and without TLS.
    for (row, scheme) in TABLE.iter().flat_map(|row| [(row, "https"), (row, "http")]) {
        for (place, fields) in [
            ("spec", json!({"proxy": of_spec.url})),
            ("key", json!({"proxy": of_spec.url, "secretRef": {"name": "token-and-proxy"}})),
            (
                "secret",
                json!({
                    "proxy": of_spec.url,
                    "secretRef": {"name": "token-and-proxy"},
                    "proxySecretRef": {"name": "proxy"},
                }),
            ),
        ] {
            let name = format!("{}-{scheme}-{place}", row.name);
            let (mut provider, alert) = at(row, &name, &format!("{scheme}://{name}.{DOMAIN}"));
            for (field, value) in fields.as_object().expect("a map") {
                provider = provider.spec(field, value.clone());
            }
            manifests.extend([provider.spec("certSecretRef", json!({"name": "certs"})), alert]);
        }
    }
    let scene = Scene::with(forge, manifests, &[]).await;
    scene.tell([kustomization_event("web", &sha(1))]).await;

    // The base64 of flux:p4ss.
    for (proxy, place, authorization) in
        [(of_spec, "spec", ""), (of_key, "key", ""), (of_secret, "secret", "Basic Zmx1eDpwNHNz")]
    {
        let asked = proxy.asked();
        let to = |row: &Row, scheme: &str| {
            let host = format!("{}-{scheme}-{place}.{DOMAIN}", row.name);
            let tunnel = Asked {
                method: "CONNECT".to_owned(),
                host: format!("{host}:443"),
                authorization: authorization.to_owned(),
            };
            match scheme {
                "https" => asked.contains(&tunnel),
                _ => asked.iter().any(|asked| (&asked.host, &*asked.authorization) == (&host, authorization)),
            }
        };
        for row in &TABLE {
            assert!(to(row, "https") && to(row, "http"), "{} by {place}: {asked:?}", row.name);
        }
        assert!(asked.iter().all(|asked| asked.host.contains(&format!("-{place}.{DOMAIN}"))), "{asked:?}");
    }
    scene.end(6 * 6, 7 * 6).await;
}

/// A proxy may want TLS too. It sees where tunnels lead, and of a plain request everything.
#[tokio::test]
async fn a_proxy_behind_tls_is_verified_and_used() {
    let (servers, stranger) = (Authority::new(), Authority::new());
    let forge = forge().await;
    let front = servers.front(&forge, None).await;
    let proxy = Proxy::start(&front, forge.url()).await;
    let strange = Proxy::start(&front, forge.url()).await;
    let address = async |by: &Authority, proxy: &Proxy| {
        let front = by.front_of(&proxy.url, None, &["h2", "http/1.1"]).await;
        front.replace("https://", "https://flux:p4ss@")
    };
    let (ours, strangers) = (address(&servers, &proxy).await, address(&stranger, &strange).await);
    let mut manifests = vec![secret("certs", "ca.crt", &servers.pem()), token()];
    for (row, scheme) in TABLE.iter().flat_map(|row| [(row, "https"), (row, "http")]) {
        for (name, proxy) in [("ours", &ours), ("strange", &strangers)] {
            let name = format!("{}-{scheme}-{name}", row.name);
            let (provider, alert) = at(row, &name, &format!("{scheme}://{name}.{DOMAIN}"));
            let provider = provider.spec("certSecretRef", json!({"name": "certs"}));
            manifests.extend([provider.spec("proxySecretRef", json!({"name": name})), alert]);
            manifests.push(secret(&name, "address", proxy));
        }
    }
    let logs = Logs::collect();
    let scene = Scene::with(forge, manifests, &[]).await;
    scene.post(&kustomization_event("web", &sha(1))).await;
    let outside = 2 * TABLE.len();
    wait::until(DEADLINE, "everybody to have tried", || async {
        let counts = scene.herald.app.outbox.counts();
        (counts.held == outside && counts.claimed == 0).then_some(())
    })
    .await;
    let mut expected: Vec<_> = TABLE
        .iter()
        .flat_map(|row| {
            let host = |scheme: &str| format!("{}-{scheme}-ours.{DOMAIN}", row.name);
            [format!("{}:443", host("https")), host("http")]
        })
        .collect();
    expected.sort();
    let asked = proxy.asked();
    let mut hosts: Vec<_> = asked.iter().map(|asked| asked.host.clone()).collect();
    hosts.dedup();
    assert_eq!(hosts, expected);
    assert!(asked.iter().all(|asked| asked.authorization == "Basic Zmx1eDpwNHNz"), "{asked:?}");
    assert_eq!(strange.asked(), [], "and nobody whose certificate nobody vouches for");
    assert!(logs.count(&["TLS handshake failed"]) >= outside);
    assert_eq!(logs.count(&["p4ss"]), 0);
}

/// A host that offers HTTP/2 is spoken to so.
#[tokio::test]
async fn http2_is_spoken_where_it_is_offered() {
    let servers = Authority::new();
    let forge = forge().await;
    let base = servers.front_of(forge.url(), None, &["h2", "http/1.1"]).await;
    let mut manifests = vec![secret("certs", "ca.crt", &servers.pem()), token()];
    for row in &TABLE {
        let (provider, alert) = at(row, row.name, &base);
        manifests.extend([provider.spec("certSecretRef", json!({"name": "certs"})), alert]);
    }
    let scene = Scene::with(forge, manifests, &[]).await;
    scene.tell([kustomization_event("web", &sha(1))]).await;
    assert_eq!(told(&scene.forge, &sha(1)), Through::All.rows());
    let versions: Vec<_> = scene.forge.requests().iter().map(|request| request.version).collect();
    assert!(versions.iter().all(|version| *version == Version::HTTP_2), "{versions:?}");
    scene.end(6, 7).await;
}

/// A proxy that speaks SOCKS5 finds the hosts, as with the peer: their names may be known nowhere else.
#[tokio::test]
async fn a_socks5_proxy_is_given_names_and_a_password() {
    let servers = Authority::new();
    let forge = forge().await;
    let front = servers.front(&forge, None).await;
    let proxy = Proxy::start(&front, forge.url()).await;
    let address = proxy.url.replace("http://", "socks5://");
    let mut manifests = vec![
        secret("certs", "ca.crt", &servers.pem()),
        secret("proxy", "address", &address).key("username", "flux").key("password", "p4ss"),
        token().key("proxy", &address),
    ];
    for (row, scheme) in TABLE.iter().flat_map(|row| [(row, "https"), (row, "http")]) {
        let name = format!("{}-{scheme}", row.name);
        let (provider, alert) = at(row, &name, &format!("{scheme}://{name}.{DOMAIN}"));
        let provider = provider.spec("certSecretRef", json!({"name": "certs"}));
        // Without TLS by the deprecated key beside the token, which knows no password.
        let named = provider.clone().spec("proxySecretRef", json!({"name": "proxy"}));
        manifests.extend([if scheme == "https" { named } else { provider }, alert]);
    }
    let scene = Scene::with(forge, manifests, &[]).await;
    scene.tell([kustomization_event("web", &sha(1))]).await;
    let mut expected: Vec<Asked> = TABLE
        .iter()
        .flat_map(|row| [(row, "https", 443, "flux:p4ss"), (row, "http", 80, "")])
        .map(|(row, scheme, port, authorization)| Asked {
            method: "SOCKS5".to_owned(),
            host: format!("{}-{scheme}.{DOMAIN}:{port}", row.name),
            authorization: authorization.to_owned(),
        })
        .collect();
    expected.sort_by(|one, other| one.host.cmp(&other.host));
    assert_eq!(proxy.asked(), expected);
    scene.end(6 * 2, 7 * 2).await;
}

/// What the environment names is for Providers that name no proxy themselves.
#[tokio::test]
async fn the_proxy_of_the_environment_is_the_last_choice() {
    let servers = Authority::new();
    let forge = forge().await;
    let front = servers.front(&forge, None).await;
    let (of_environment, of_spec) = (Proxy::start(&front, forge.url()).await, Proxy::start(&front, forge.url()).await);
    let mut manifests = vec![secret("certs", "ca.crt", &servers.pem()), token()];
    for row in &TABLE {
        for (place, scheme) in [("environment", "https"), ("plain", "http"), ("spec", "https"), ("exempt", "http")] {
            let host = match place {
                "exempt" => forge.url().to_owned(),
                _ => format!("{scheme}://{}-{place}.{DOMAIN}", row.name),
            };
            let (provider, alert) = at(row, &format!("{}-{place}", row.name), &host);
            let provider = provider.spec("certSecretRef", json!({"name": "certs"}));
            let provider = if place == "spec" { provider.spec("proxy", of_spec.url.as_str()) } else { provider };
            manifests.extend([provider, alert]);
        }
    }
    let folder = Folder::with(manifests);
    let (events, health) = (free_port(), free_port());
    let scratch = Scratch::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_herald"));
    command
        .args(["--manifests", folder.path().to_str().expect("UTF-8"), "--metrics-addr=127.0.0.1:0"])
        .arg("--allow-address=127.0.0.0/8")
        .arg(format!("--events-addr=127.0.0.1:{events}"))
        .arg(format!("--health-addr=127.0.0.1:{health}"))
        .env("HTTPS_PROXY", &of_environment.url)
        .env("HTTP_PROXY", &of_environment.url)
        .env("NO_PROXY", "127.0.0.1");
    for name in ["https_proxy", "http_proxy", "no_proxy", "ALL_PROXY", "all_proxy"] {
        command.env_remove(name);
    }
    let mut server = Server::start("herald", scratch.path(), &command);
    let ready = format!("http://127.0.0.1:{health}/readyz");
    server.ready(DEADLINE, || wait::answers(&ready)).await;

    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let event = kustomization_event("web", &sha(1)).to_string();
    let answer = client.post(format!("http://127.0.0.1:{events}/")).body(event).send().await.expect("Herald answers");
    assert_eq!(answer.status().as_u16(), 202);
    wait::until_ok(DEADLINE, "all to be told", || async {
        let counts = (forge.reads(), forge.writes());
        if counts == (4 * 6, 4 * 7) {
            Ok(())
        } else {
            Err(format!("{counts:?} reads and writes; {}", server.log_tail()))
        }
    })
    .await;
    let hosts = |proxy: &Proxy| proxy.asked().into_iter().map(|asked| asked.host).collect::<Vec<_>>();
    let mut expected: Vec<_> = TABLE
        .iter()
        .flat_map(|row| {
            let host = |place: &str| format!("{}-{place}.{DOMAIN}", row.name);
            [format!("{}:443", host("environment")), host("plain")]
        })
        .collect();
    expected.sort();
    let mut seen = hosts(&of_environment);
    seen.dedup();
    assert_eq!(seen, expected);
    let mut expected: Vec<_> = TABLE.iter().map(|row| format!("{}-spec.{DOMAIN}:443", row.name)).collect();
    expected.sort();
    assert_eq!(hosts(&of_spec), expected);
}
