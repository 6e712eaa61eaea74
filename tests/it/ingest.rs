//! The events door as senders meet it: limits, answers, and connections that stay open.

use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use herald::api::Event;
use herald::app::{App, Source};
use herald::cli::Cli;
use herald::ops::metrics::Outcome;
use proptest::prelude::*;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::scene::{Scene, forge, git, token};
use crate::support::app::{DEADLINE, Herald};
use crate::support::flux::{Folder, alert, kustomization_event, sha};
use crate::support::forge::Fault;
use crate::support::wait;

const MAX_BODY: usize = 3 * 1024 * 1024;

/// A connection to the door that knows no HTTP library, so that every byte is seen.
struct Wire(TcpStream);

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

impl Wire {
    async fn to(herald: &Herald) -> Self {
        Self::connect(herald.app.events).await
    }

    async fn connect(address: std::net::SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.expect("the door is open"))
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.expect("the door reads");
    }

    /// The next head. Bytes after it would be a body, which no answer has.
    async fn answer(&mut self) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.expect("the door answers"));
        }
        let head = String::from_utf8(head).expect("a head is text");
        Answer { status: head[9..12].parse().expect("a status"), head }
    }

    async fn ask(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let length = body.len();
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: herald.\r\n{headers}Content-Length: {length}\r\n\r\n"))
            .await;
        self.send(body).await;
        self.answer().await
    }

    async fn post(&mut self, body: impl AsRef<[u8]>) -> Answer {
        self.ask("POST", "/", "", body.as_ref()).await
    }

    /// What comes until the other side closes.
    async fn rest(mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is a close too.
        let _ = self.0.read_to_end(&mut rest).await;
        rest
    }
}

/// A Herald that knows no Alerts.
async fn alone() -> (Folder, Herald) {
    let folder = Folder::with([]);
    let herald = Herald::manifests(folder.path(), &[]).await;
    (folder, herald)
}

async fn end(herald: Herald) {
    assert_eq!(herald.app.outbox.counts().held, 0);
    herald.stop().await;
}

/// An event of exactly so many bytes.
fn event_of(bytes: usize) -> String {
    let empty = r#"{"message":""}"#.len();
    format!(r#"{{"message":"{}"}}"#, "x".repeat(bytes - empty))
}

#[tokio::test]
async fn fifty_events_over_one_connection_are_each_answered_with_an_empty_202() {
    let (_folder, herald) = alone().await;
    let mut wire = Wire::to(&herald).await;
    for number in 0..50 {
        let answer = wire.post(kustomization_event("web", &sha(number)).to_string()).await;
        assert_eq!((answer.status, answer.header("content-length")), (202, Some("0")), "{}", answer.head);
        assert_eq!(answer.header("connection"), None);
    }
    herald.stop().await;
    assert_eq!(wire.rest().await, b"", "no answer had a body");
}

#[tokio::test]
async fn every_path_takes_posts_and_nothing_else() {
    let (_folder, herald) = alone().await;
    let mut wire = Wire::to(&herald).await;
    let event = kustomization_event("web", &sha(1)).to_string();
    for path in ["/", "/events", "/a/b?c=d", "//x/../y", "*", "http://notification-controller.flux-system.svc./"] {
        assert_eq!(wire.ask("POST", path, "", event.as_bytes()).await.status, 202, "{path}");
    }
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let answer = wire.ask(method, "/", "", event.as_bytes()).await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")), "{method}");
        assert_eq!(answer.header("content-length"), Some("0"));
        // A connection may end with a body that nobody read.
        wire = Wire::to(&herald).await;
    }
    end(herald).await;
}

#[tokio::test]
async fn what_is_no_event_is_refused_and_what_go_takes_is_not() {
    let (_folder, herald) = alone().await;
    let mut wire = Wire::to(&herald).await;
    for (body, status) in [
        ("", 400),
        ("{", 400),
        ("[]", 400),
        ("{} x", 400),
        (r#"{"metadata":{"a":1}}"#, 400),
        (r#"{"timestamp":""}"#, 400),
        (&format!(r#"{{"involvedObject":{{"name":"{}"}}}}"#, "n".repeat(600)), 400),
        (&format!(r#"{{"reason":"{}"}}"#, "R".repeat(2_900_000)), 202),
        ("{}", 202),
        ("null", 202),
        (r#"{"MESSAGE":"m","unknown":[1]}"#, 202),
    ] {
        let answer = wire.post(body).await;
        assert_eq!((answer.status, answer.header("content-length")), (status, Some("0")), "{body}");
    }
    for content_type in ["text/nonsense", "application/xml; charset=klingon", "\u{e9}"] {
        let header = format!("Content-Type: {content_type}\r\n");
        assert_eq!(wire.ask("POST", "/", &header, b"{}").await.status, 202, "{content_type}");
    }
    end(herald).await;
}

#[tokio::test]
async fn a_body_has_three_mebibytes_at_most() {
    let (_folder, herald) = alone().await;
    let mut wire = Wire::to(&herald).await;
    assert_eq!(wire.post(event_of(MAX_BODY)).await.status, 202);

    // What is announced is refused before it is sent.
    wire.send(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", MAX_BODY + 1)).await;
    assert_eq!(wire.answer().await.status, 413);

    for (bytes, status) in [(MAX_BODY, 202), (MAX_BODY + 1, 413)] {
        let mut wire = Wire::to(&herald).await;
        wire.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        let body = event_of(bytes);
        wire.send(format!("{:x}\r\n{body}\r\n", body.len())).await;
        wire.send("0\r\n\r\n").await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.header("content-length")), (status, Some("0")), "{bytes} bytes in chunks");
    }
    end(herald).await;
}

#[tokio::test]
async fn more_headers_than_may_be_end_the_connection() {
    let (_folder, herald) = alone().await;
    let mut wire = Wire::to(&herald).await;
    let filler = |bytes: usize| format!("X-Filler: {}\r\n", "x".repeat(bytes));
    assert_eq!(wire.ask("POST", "/", &filler(250 << 10), b"{}").await.status, 202);
    // With Host and Content-Length these are 100.
    assert_eq!(wire.ask("POST", "/", &"X-Filler: x\r\n".repeat(98), b"{}").await.status, 202);
    let mut many = Wire::to(&herald).await;
    many.send(format!("POST / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X-Filler: x\r\n".repeat(100))).await;
    assert_eq!(many.answer().await.status, 431);
    assert_eq!(many.rest().await, b"");

    wire.send(format!("POST / HTTP/1.1\r\nHost: h\r\n{}", filler(300 << 10))).await;
    assert_eq!(wire.answer().await.status, 431);
    assert_eq!(wire.rest().await, b"");

    // Headers that are there whole before anybody looks are no smaller for that.
    let mut whole = Wire::to(&herald).await;
    whole.send(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n{}\r\n{{}}", filler(300 << 10))).await;
    let answer = whole.answer().await;
    assert_eq!((answer.status, answer.header("content-length")), (431, Some("0")), "{}", answer.head);
    assert_eq!(whole.rest().await, b"");
    end(herald).await;
}

#[tokio::test]
async fn senders_come_again_until_the_alerts_are_known() {
    let dead = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", dead.local_addr().expect("it has an address"));
    drop(dead);
    herald::install_tls_provider();
    let config = kube::Config::new(url.parse().expect("an address"));
    let client = kube::Client::try_from(config).expect("a client");
    // Not the default path, which another run of this test may hold.
    let flags = ["herald", "--outbox-path=", "--events-addr=127.0.0.1:0", "--health-addr=127.0.0.1:0"];
    let flags = flags.into_iter().chain(["--metrics-addr=127.0.0.1:0"]);
    let app = App::start(&Cli::parse_from(flags), Source::Cluster(client.into())).await.expect("Herald starts");

    let mut wire = Wire::connect(app.events).await;
    for _ in 0..2 {
        let answer = wire.post(kustomization_event("web", &sha(1)).to_string()).await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("8")), "{}", answer.head);
        assert_eq!(answer.header("content-length"), Some("0"));
    }
    assert_eq!(wire.post("{").await.status, 400, "what can never be taken is refused all the same");
    let mut health = Wire::connect(app.health).await;
    assert_eq!(health.ask("GET", "/readyz", "", b"").await.status, 503);
    app.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn senders_come_again_when_the_outbox_is_full() {
    let forge = forge().await;
    forge.fail(Fault::hang().times(1));
    let manifests = [git("github", &forge).spec("timeout", "1s"), token(), alert("all", "git")];
    let scene = Scene::with(forge, manifests, &["--outbox-max-jobs=1"]).await;
    scene.post(&kustomization_event("web", &sha(1))).await;

    let mut wire = Wire::to(&scene.herald).await;
    let second = kustomization_event("web", &sha(2)).to_string();
    let answer = wire.post(&second).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("8")));
    assert_eq!(wire.post("{}").await.status, 202, "nothing to keep needs no room");

    // It was not taken, so the sender's next try is no repeat of it.
    scene.herald.idle().await;
    assert_eq!(wire.post(&second).await.status, 202);
    // One read more than commits: the first one hung.
    scene.end(3, 2).await;
}

#[tokio::test]
async fn what_a_sender_brought_that_hangs_up_is_told_and_counted() {
    let forge = forge().await;
    let manifests = [git("github", &forge), token(), alert("all", "git")];
    // Long enough that the sender is gone before its event is on disk.
    let scene = Scene::with(forge, manifests, &["--outbox-sync-delay=300ms"]).await;
    let body = kustomization_event("web", &sha(1)).to_string();
    let mut wire = Wire::to(&scene.herald).await;
    wire.send(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
    drop(wire);
    wait::until(DEADLINE, "it is told", || async { (scene.ended(Outcome::Delivered) == 1).then_some(()) }).await;
    scene.end(1, 1).await;
}

#[tokio::test]
async fn a_slow_sender_holds_up_nobody_else() {
    let (_folder, herald) = alone().await;
    let body = kustomization_event("web", &sha(1)).to_string();
    let (first, second) = body.split_at(body.len() / 2);
    let mut slow = Wire::to(&herald).await;
    slow.send(format!("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n", body.len()))
        .await;
    assert_eq!(slow.answer().await.status, 100);
    slow.send(first).await;

    let mut quick = Wire::to(&herald).await;
    assert_eq!(quick.post(&body).await.status, 202);
    slow.send(second).await;
    assert_eq!(slow.answer().await.status, 202);

    let mut gone = Wire::to(&herald).await;
    gone.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{").await;
    drop(gone);
    assert_eq!(quick.post(&body).await.status, 202);
    end(herald).await;
}

#[tokio::test]
async fn what_is_announced_and_never_sent_takes_no_room() {
    let (_folder, herald) = alone().await;
    let mut silent = Vec::new();
    let announced = std::iter::repeat_n(MAX_BODY, 21).chain([1 << 20]).map(|bytes| format!("Content-Length: {bytes}"));
    for header in announced.chain(std::iter::repeat_n("Transfer-Encoding: chunked".to_owned(), 22)) {
        let mut wire = Wire::to(&herald).await;
        wire.send(format!("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n{header}\r\n\r\n")).await;
        let asked_to_go_on = tokio::time::timeout(Duration::from_secs(8), wire.answer()).await;
        assert_eq!(asked_to_go_on.expect("at once").status, 100);
        silent.push(wire);
    }
    let mut honest = Wire::to(&herald).await;
    let answer = tokio::time::timeout(Duration::from_secs(8), honest.post("{}"))
        .await
        .expect("sooner than the time-out of the others");
    assert_eq!(answer.status, 202);
    drop(silent);
    end(herald).await;
}

#[tokio::test]
async fn bodies_that_find_no_room_give_back_what_they_took() {
    let (_folder, herald) = alone().await;
    let (told, mut answers) = tokio::sync::mpsc::unbounded_channel();
    // One after another they are more than may be read at once, and none of them ends.
    let body = vec![b'x'; MAX_BODY - 1];
    let sent = async |body: &[u8], announced: usize| {
        let mut wire = Wire::to(&herald).await;
        wire.send(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {announced}\r\n\r\n")).await;
        // The door stops reading where there is no room.
        let _ = wire.0.write_all(body).await;
        wire
    };
    for _ in 0..23 {
        let (mut wire, told) = (sent(&body, MAX_BODY).await, told.clone());
        tokio::spawn(async move { told.send(wire.answer().await) });
    }
    let answer = tokio::time::timeout(DEADLINE, answers.recv()).await.expect("in time").expect("some are refused");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("8")), "{}", answer.head);
    // Before those that found room give up.
    let event = event_of(1 << 20);
    wait::until(Duration::from_secs(5), "room for another", || async {
        let mut honest = sent(event.as_bytes(), event.len()).await;
        (honest.answer().await.status == 202).then_some(())
    })
    .await;
    end(herald).await;
}

/// What a connection of a client that falls silent may have sent.
const SILENCES: [&str; 3] =
    ["", "POST / HTTP/1.1\r\nHost: ", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{"];

/// Opens more silent connections than a server takes at once, and returns how long the next request then waits.
async fn behind_silent_connections(address: std::net::SocketAddr, method: &str, path: &str, body: &[u8]) -> Duration {
    let mut idle = Vec::new();
    for number in 0..1100 {
        let mut wire = Wire::connect(address).await;
        wire.send(SILENCES[number % SILENCES.len()]).await;
        idle.push(wire);
    }
    let began = std::time::Instant::now();
    let mut honest = Wire::connect(address).await;
    let answer = tokio::time::timeout(Duration::from_secs(60), honest.ask(method, path, "", body)).await;
    let answer = answer.expect("the silent connections end");
    assert!([200, 202].contains(&answer.status), "{}", answer.head);
    began.elapsed()
}

#[tokio::test]
async fn silent_connections_shut_no_door_for_longer_than_the_time_out() {
    let (_folder, herald) = alone().await;
    let waited = tokio::join!(
        behind_silent_connections(herald.app.events, "POST", "/", b"{}"),
        behind_silent_connections(herald.app.health, "GET", "/healthz", b""),
        behind_silent_connections(herald.app.metrics_at, "GET", "/metrics", b""),
    );
    for waited in [waited.0, waited.1, waited.2] {
        // The time-out is 10 s; the rest is for a busy machine.
        assert!(waited < Duration::from_secs(30), "{waited:?}");
    }
    end(herald).await;
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_body_makes_decoding_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Event::decode(&body);
    }

    #[test]
    fn what_is_decoded_can_be_told_and_decoded_again(
        text in any::<String>(), key in any::<String>(), escapes in r"(\\u[0-9a-fA-F]{4}|\\n|[<>&é]){0,8}",
    ) {
        let body = format!(
            r#"{{"message":{},"reason":"{escapes}","metadata":{{{}:"v"}}}}"#,
            Value::from(text), Value::from(key),
        );
        let event = Event::decode(body.as_bytes()).expect("it is JSON");
        assert_eq!(Event::decode(&event.encode()).expect("it was encoded"), event);
    }
}

#[tokio::test]
async fn random_bytes_are_answered() {
    let (_folder, herald) = alone().await;
    let herald = Arc::new(herald);
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..100 {
        let length = random.usize(1..300);
        let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
        let mut wire = Wire::to(&herald).await;
        assert_eq!(wire.post(&bytes).await.status, 400);
        let mut raw = Wire::to(&herald).await;
        raw.send(&bytes).await;
    }
    assert_eq!(Wire::to(&herald).await.post("{}").await.status, 202, "the door still stands");
    end(Arc::into_inner(herald).expect("the only one")).await;
}
