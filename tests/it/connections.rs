//! What connections do on bad days: one falls silent, an answer never ends, an address is not for tenants.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::logs::Logs;
use crate::scene::{Scene, address_at, forge, token};
use crate::support::app::DEADLINE;
use crate::support::flux::{alert, kustomization_event, provider, secret, sha};
use crate::support::wait;
use crate::tls::{Authority, Valve};

/// A path may acknowledge what is sent and bring no answer any more (hyperium/hyper#4186).
#[tokio::test]
async fn an_http2_connection_that_falls_silent_is_left() {
    let servers = Authority::new();
    let forge = forge().await;
    let valve = Valve::default();
    let base = servers.front_with(forge.url(), None, &["h2", "http/1.1"], valve.clone()).await;
    let gitea = provider("gitea", "git", &address_at("gitea", &base)).secret("token");
    let gitea = gitea.spec("certSecretRef", serde_json::json!({"name": "certs"})).spec("timeout", "2s");
    let manifests = [secret("certs", "ca.crt", &servers.pem()), token(), gitea, alert("git", "git")];
    let scene = Scene::with(forge, manifests, &[]).await;
    scene.tell([kustomization_event("web", &sha(1))]).await;
    assert_eq!(scene.forge.statuses(&sha(1)).len(), 1);

    valve.silence();
    scene.post(&kustomization_event("web", &sha(2))).await;
    scene.post(&kustomization_event("api", &sha(3))).await;
    wait::until(DEADLINE, "the statuses by another connection", || async {
        [2, 3].iter().all(|commit| scene.forge.statuses(&sha(*commit)).len() == 1).then_some(())
    })
    .await;
    assert!(valve.opened() > 1);
}

/// Answers each POST with the start of an answer.
async fn hook(answer: &'static [u8], closes: bool) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/hook", listener.local_addr().expect("it has an address"));
    let posts = Arc::new(AtomicUsize::new(0));
    let counted = posts.clone();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 64 << 10];
            let mut length = 0;
            // The event's JSON ends the request.
            while !request[..length].ends_with(b"}") {
                match stream.read(&mut request[length..]).await {
                    Ok(read) if read > 0 => length += read,
                    _ => break,
                }
            }
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = stream.write_all(answer).await;
            if !closes {
                open.push(stream);
            }
        }
    });
    (url, posts)
}

/// Flux's controller looks at the status alone (spec: events are posted, and any 2xx is success).
#[tokio::test]
async fn a_hook_that_answered_2xx_is_told_once_whatever_the_rest_of_its_answer_does() {
    let hooks = [
        ("breaks-off", hook(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", true).await),
        ("shorter", hook(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok", true).await),
        ("never-ends", hook(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", false).await),
        ("not-gzip", hook(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok", true).await),
    ];
    let manifests = hooks.iter().flat_map(|(name, (url, _))| [provider("generic", name, url), alert(name, name)]);
    let scene = Scene::with(forge().await, manifests, &[]).await;
    scene.tell([kustomization_event("web", &sha(1))]).await;
    for (name, (_, posts)) in &hooks {
        assert_eq!(posts.load(Ordering::SeqCst), 1, "{name}");
    }
}

#[tokio::test]
async fn a_compressed_answer_is_understood() {
    // The gzip of "[]", which lists no status, and of "{}".
    let gzip = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut encoder, text.as_bytes()).expect("memory has room");
        encoder.finish().expect("memory has room")
    };
    let answer = |status: &str, text: &str| {
        let body = gzip(text);
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        [head.into_bytes(), body].concat()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let base = format!("http://{}", listener.local_addr().expect("it has an address"));
    let (list, created) = (answer("200 OK", "[]"), answer("201 Created", "{}"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4];
            if stream.read_exact(&mut head).await.is_ok() {
                let text = if &head == b"GET " { &list } else { &created };
                let _ = stream.write_all(text).await;
            }
        }
    });
    let gitea = provider("gitea", "git", &address_at("gitea", &base)).secret("token");
    let scene = Scene::with(forge().await, [token(), gitea, alert("git", "git")], &[]).await;
    scene.tell([kustomization_event("web", &sha(1))]).await;
    assert_eq!(scene.ended(herald::ops::metrics::Outcome::Delivered), 1);
}

/// Whoever may write a Provider reaches neither the pod nor its node by it.
#[tokio::test]
async fn local_addresses_are_refused_unless_a_flag_names_them() {
    let logs = Logs::collect();
    let forge = forge().await;
    let port = forge.url().rsplit(':').next().expect("a port").to_owned();
    let hosts = ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "169.254.169.254", "0.0.0.0"];
    let manifests = hosts.iter().enumerate().flat_map(|(number, host)| {
        let name = format!("hook-{number}");
        [provider("generic", &name, &format!("http://{host}:{port}/hook")), alert(&name, &name)]
    });
    let by_proxy = provider("generic", "by-proxy", "http://hook.invalid/").spec("proxy", forge.url());
    let manifests = manifests.chain([by_proxy, alert("by-proxy", "by-proxy")]).collect::<Vec<_>>();
    let scene = Scene::with(forge, manifests, &["--allow-address=10.0.0.0/8"]).await;
    scene.post(&kustomization_event("web", &sha(1))).await;
    for number in 0..hosts.len() {
        let name = format!("name=hook-{number} ");
        logs.until(&["controllerKind=Provider", &name, "AddressRefused", "--allow-address"]).await;
    }
    logs.until(&["controllerKind=Provider", "name=by-proxy ", "InvalidProxy", "--allow-address"]).await;
    assert_eq!(scene.forge.requests().len(), 0);
}
