//! Recorded cases: what the peer sent to a vendor's API, played again with Herald in its place, on
//! a real API server and with a recording server as the vendor.
//!
//! Writes must be equal one by one: method, URI, body as JSON, the headers that were recorded, in
//! this order. Reads may be fewer. What differs on purpose is a row in `docs/parity.md`; a row that
//! allows what does not happen fails too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use regex::Regex;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::apiserver::ApiServer;
use crate::support::app::{DEADLINE, Herald};
use crate::support::wait;
use crate::{API_VERSION, api_server, herald_in, idle, known, root};

/// Where the recordings were taken.
const NAMESPACE: &str = "flux-system";

/// The vendor's address in the recordings.
const RECORDED_VENDOR: &str = "127.0.0.1:9999";

/// Its address names no repository: the job waits for someone to mend it.
const MENDED: &str = "github-address-3";

/// Headers that carry a credential: none may be sent that the peer did not send.
const CREDENTIALS: [&str; 5] = ["authorization", "cookie", "private-token", "proxy-authorization", "x-api-key"];

#[derive(Deserialize)]
struct Case {
    name: String,
    provider: Value,
    #[serde(default)]
    secret: Option<Value>,
    #[serde(default)]
    alert: Option<Value>,
    /// Method, expression for the URI, status, body.
    #[serde(default)]
    vendor: Vec<(String, String, u16, Value)>,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    event: Value,
    status: u16,
    requests: Vec<Recorded>,
}

#[derive(Clone, Debug, Deserialize)]
struct Recorded {
    method: String,
    uri: String,
    header: BTreeMap<String, String>,
    body: String,
}

impl Recorded {
    fn is_write(&self) -> bool {
        !["GET", "HEAD", "OPTIONS"].contains(&self.method.as_str())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| json!(self.body))
    }
}

/// What came of one step: the answer to the event, the number of writes, and that of reads where a row counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outcome {
    status: u16,
    writes: usize,
    reads: Option<usize>,
}

impl Outcome {
    /// Of these requests; reads are counted where `like` counts them.
    fn of(status: u16, requests: &[Recorded], like: Outcome) -> Self {
        let writes = requests.iter().filter(|request| request.is_write()).count();
        Self { status, writes, reads: like.reads.map(|_| requests.len() - writes) }
    }
}

fn cases() -> Vec<Case> {
    let text = include_str!("../fixtures/golden/git.jsonl");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn the_fixture_is_as_it_was_recorded() {
    let path = root().join("../shared/golden/git.jsonl");
    let Ok(recorded) = std::fs::read_to_string(&path) else {
        println!("skipped: there is no ../shared/golden/git.jsonl to compare the fixture with");
        return;
    };
    let is_built = |line: &&str| {
        let case: Case = serde_json::from_str(line).expect("a case");
        herald::vendors::row(case.provider["type"].as_str().unwrap_or_default()).is_some()
    };
    let recorded: Vec<&str> = recorded.lines().filter(is_built).collect();
    let fixture: Vec<&str> = include_str!("../fixtures/golden/git.jsonl").lines().collect();
    assert!(recorded == fixture, "tests/fixtures/golden/git.jsonl is not what was recorded; copy those lines again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_is_what_the_peer_writes() {
    let page = Page::read();
    let cases = cases();
    page.check(&cases);

    let api = api_server().await;
    let vendor = Vendor::start().await;
    api.kubectl_apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}).to_string());
    // As it was recorded: Bitbucket Cloud's address is always its own.
    let bitbucket = format!("--bitbucket-api-base-url=http://{}/2.0", vendor.address);
    let herald = herald_in(api, NAMESPACE, &[&bitbucket]).await;
    let objects: Vec<Value> = cases.iter().flat_map(|case| case.objects(vendor.address)).collect();
    api.kubectl_apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string());
    for case in &cases {
        known(&herald, NAMESPACE, &case.name).await;
    }
    let uids = uids(api).await;

    let mut wrong = Vec::new();
    let (mut writes, mut reads, mut reads_of_peer) = (0, 0, 0);
    for case in &cases {
        let uid = &uids[&case.name];
        vendor.play(case, uid);
        for (number, step) in (1..).zip(&case.steps) {
            let status = herald.post(&step.event).await;
            if case.name == MENDED {
                parked(&herald).await;
            } else {
                idle(&herald, DEADLINE).await;
            }
            let sent = vendor.take();
            let peer: Vec<Recorded> =
                step.requests.iter().map(|request| filled(request, uid, &step.event, &vendor)).collect();
            reads += sent.iter().filter(|request| !request.is_write()).count();
            reads_of_peer += peer.iter().filter(|request| !request.is_write()).count();
            writes += sent.iter().filter(|request| request.is_write()).count();
            let differences = match page.differs.get(&(case.name.clone(), number)) {
                Some((_, allowed)) => differs_as_told(step, *allowed, status, &sent),
                None => differences(step.status, &peer, status, &sent),
            };
            wrong.extend(differences.into_iter().map(|what| format!("{}, step {number}: {what}", case.name)));
        }
        if case.name == MENDED {
            mend(api, &herald, &vendor, uid).await;
        }
    }
    assert!(wrong.is_empty(), "{} differences that docs/parity.md does not allow:\n{}", wrong.len(), wrong.join("\n"));
    assert!(vendor.take().is_empty(), "requests that no step asked for");
    for (name, (kind, reason)) in &page.unhealthy {
        unhealthy(api, kind, name, reason).await;
    }
    println!(
        "{} cases: {writes} writes and {reads} reads (the peer: {reads_of_peer}); {} steps differ as documented",
        cases.len(),
        page.differs.len()
    );
    herald.stop().await;
}

/// What is wrong with `sent` when it should be what the peer sent.
fn differences(peer_status: u16, peer: &[Recorded], status: u16, sent: &[Recorded]) -> Vec<String> {
    let mut wrong = Vec::new();
    if status != peer_status {
        wrong.push(format!("answered {status}, the peer {peer_status}"));
    }
    let of = |requests: &[Recorded], writes| -> Vec<Recorded> {
        requests.iter().filter(|request| request.is_write() == writes).cloned().collect()
    };
    let (ours, theirs) = (of(sent, true), of(peer, true));
    if ours.len() != theirs.len() {
        wrong.push(format!("wrote {ours:#?}\nthe peer {theirs:#?}"));
    }
    for (ours, theirs) in ours.iter().zip(&theirs) {
        if (&ours.method, &ours.uri) != (&theirs.method, &theirs.uri) {
            wrong.push(format!("{} {}, the peer {} {}", ours.method, ours.uri, theirs.method, theirs.uri));
        }
        if ours.json() != theirs.json() {
            wrong.push(format!("body {}, the peer's {}", ours.body, theirs.body));
        }
        let names: BTreeSet<&str> = theirs.header.keys().map(String::as_str).chain(CREDENTIALS).collect();
        for name in names {
            let (ours, theirs) = (ours.header.get(name), theirs.header.get(name));
            if ours != theirs {
                wrong.push(format!("header {name} is {ours:?}, the peer's {theirs:?}"));
            }
        }
    }
    let (ours, theirs) = (of(sent, false), of(peer, false));
    if ours.len() > theirs.len() {
        wrong.push(format!("read {ours:#?}\nthe peer {theirs:#?}"));
    }
    wrong
}

/// What is wrong with a step that differs from the peer when it should do so as `allowed`.
fn differs_as_told(step: &Step, allowed: Outcome, status: u16, sent: &[Recorded]) -> Vec<String> {
    let mut wrong = Vec::new();
    let writes: Vec<&Recorded> = sent.iter().filter(|request| request.is_write()).collect();
    let is = Outcome::of(status, sent, allowed);
    if is != allowed {
        wrong.push(format!("{is:?}, docs/parity.md says {allowed:?}: {sent:#?}"));
    }
    // What the peer left out must at least be this event and no other.
    let differs = writes.iter().find(|request| request.json()["severity"] != step.event["severity"]);
    wrong.extend(differs.map(|request| format!("another event was told: {}", request.body)));
    wrong
}

/// Waits until the only job there is waits for someone to mend its Provider.
async fn parked(herald: &Herald) {
    let outbox = &herald.app.outbox;
    wait::until(DEADLINE, "the job to be parked", || async {
        let counts = outbox.counts();
        (counts.held == 1 && counts.claimed == 0 && outbox.next_due().is_some()).then_some(())
    })
    .await;
}

/// Mends the address that names no repository: what the peer forgot long ago is told now.
async fn mend(api: &ApiServer, herald: &Herald, vendor: &Vendor, uid: &str) {
    unhealthy(api, "Provider", MENDED, "InvalidAddress").await;
    let patch = json!({"spec": {"address": format!("http://{}/acme/fleet", vendor.address)}}).to_string();
    let target = ["patch", "providers.notification.toolkit.fluxcd.io", MENDED, "-n", NAMESPACE];
    api.kubectl_ok(&[&target[..], &["--type=merge", "-p", &patch]].concat());
    idle(herald, DEADLINE).await;
    let told: Vec<Value> = vendor.take().iter().filter(|request| request.is_write()).map(Recorded::json).collect();
    let context = format!("kustomization/{MENDED}/{}", first_part(uid));
    assert_eq!(told, [json!({"state": "success", "description": "reconciliation succeeded", "context": context})]);
}

/// Waits until an object's condition `Healthy` is False for `reason`.
async fn unhealthy(api: &ApiServer, kind: &str, name: &str, reason: &str) {
    let objects = &api.objects(NAMESPACE, API_VERSION, kind).await;
    wait::until_ok(DEADLINE, &format!("{kind} {name} to be unhealthy: {reason}"), || async move {
        let object = objects.get(name).await.map_err(|error| error.to_string())?;
        let conditions = &object.data["status"]["conditions"];
        let is = |condition: &Value| {
            condition["type"] == "Healthy" && condition["status"] == "False" && condition["reason"] == reason
        };
        if conditions.as_array().is_some_and(|all| all.iter().any(is)) { Ok(()) } else { Err(conditions.to_string()) }
    })
    .await;
}

/// The UIDs of all Providers by name.
async fn uids(api: &ApiServer) -> BTreeMap<String, String> {
    let providers = api.objects(NAMESPACE, API_VERSION, "Provider").await;
    let list = providers.list(&Default::default()).await.expect("Providers can be listed");
    let pair = |meta: kube::core::ObjectMeta| Some((meta.name?, meta.uid?));
    list.items.into_iter().filter_map(|provider| pair(provider.metadata)).collect()
}

fn first_part(uid: &str) -> &str {
    uid.split_once('-').map_or(uid, |(first, _)| first)
}

/// `text` with the placeholders of the recordings replaced.
fn fill(text: &str, uid: &str, event: &Value) -> String {
    let part = |field: &str| event["involvedObject"][field].as_str().unwrap_or_default();
    let id = format!("{}/{}/{}", part("kind"), part("name"), first_part(uid)).to_lowercase();
    text.replace("<uid>", first_part(uid))
        .replace("<whole-uid>", uid)
        .replace("<sha1 of the default status id>", &herald::vendors::forge::key(&id))
}

fn filled(request: &Recorded, uid: &str, event: &Value, vendor: &Vendor) -> Recorded {
    // Data Center is told its own address.
    let body = fill(&request.body, uid, event).replace(RECORDED_VENDOR, &vendor.address.to_string());
    Recorded { uri: fill(&request.uri, uid, event), body, ..request.clone() }
}

impl Case {
    /// Secret, Provider and Alert, with the vendor at `vendor`.
    fn objects(&self, vendor: SocketAddr) -> Vec<Value> {
        let name = &self.name;
        let metadata = json!({"name": name, "namespace": NAMESPACE});
        let mut provider = self.provider.clone();
        let address = provider["address"].as_str().expect("every case has an address");
        provider["address"] = json!(address.replace(RECORDED_VENDOR, &vendor.to_string()));
        let mut objects = Vec::new();
        if let Some(secret) = &self.secret {
            provider["secretRef"] = json!({"name": name});
            objects.push(json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": secret}));
        }
        let mut alert =
            json!({"providerRef": {"name": name}, "eventSources": [{"kind": "Kustomization", "name": name}]});
        for (field, value) in self.alert.iter().filter_map(Value::as_object).flatten() {
            alert[field] = value.clone();
        }
        let object = |kind, spec| json!({"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec});
        objects.extend([object("Provider", provider), object("Alert", alert)]);
        objects
    }
}

/// The two tables of `docs/parity.md` that are about recorded cases.
struct Page {
    /// By case and step: what the peer did, and what Herald does.
    differs: BTreeMap<(String, usize), (Outcome, Outcome)>,
    /// By case: the object that says so, and the reason of its condition.
    unhealthy: BTreeMap<String, (String, String)>,
}

impl Page {
    fn read() -> Self {
        let text = std::fs::read_to_string(root().join("docs/parity.md")).expect("the page is there");
        let rows = |heading: &str| -> Vec<Vec<String>> {
            let (_, section) = text.split_once(&format!("\n## {heading}\n")).expect("the section is there");
            let section = section.split("\n## ").next().unwrap_or_default();
            let cells = |row: &str| row.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect();
            section.lines().filter(|line| line.starts_with("| `")).map(cells).collect()
        };
        let outcome = |cell: &str| {
            let numbers: Vec<usize> = cell.split([',', ' ']).filter_map(|word| word.parse().ok()).collect();
            match numbers[..] {
                [status, writes] => Outcome { status: u16::try_from(status).expect("a status"), writes, reads: None },
                [status, writes, reads] => {
                    Outcome { status: u16::try_from(status).expect("a status"), writes, reads: Some(reads) }
                }
                _ => panic!("{cell:?} in docs/parity.md is not like \"202, 1 write\" or \"202, 0 writes, 1 read\""),
            }
        };
        let differs = rows("Recorded cases that differ").into_iter().map(|row| {
            let step = row[2].parse().expect("the number of a step");
            ((row[1].clone(), step), (outcome(&row[3]), outcome(&row[4])))
        });
        let unhealthy = rows("Recorded cases that are unhealthy").into_iter();
        let unhealthy = unhealthy.map(|row| (row[1].clone(), (row[2].clone(), row[3].clone())));
        Self { differs: differs.collect(), unhealthy: unhealthy.collect() }
    }

    /// The page must speak of cases that exist, tell of the peer what was recorded, and allow no
    /// difference where there is none.
    fn check(&self, cases: &[Case]) {
        assert!(!self.differs.is_empty() && !self.unhealthy.is_empty(), "the tables of docs/parity.md were not found");
        for ((name, number), (peer, herald)) in &self.differs {
            let case = cases.iter().find(|case| case.name == *name);
            let step = case.and_then(|case| case.steps.get(number - 1)).expect("a recorded case and a step of it");
            let recorded = Outcome::of(step.status, &step.requests, *peer);
            assert_eq!(*peer, recorded, "{name}: what the peer did was recorded");
            assert_ne!(peer, herald, "{name}: this is no difference");
        }
        for name in self.unhealthy.keys() {
            assert!(cases.iter().any(|case| case.name == *name), "{name} is no recorded case");
        }
    }
}

/// The recording server in the vendors' place.
struct Vendor {
    address: SocketAddr,
    desk: Arc<Mutex<Desk>>,
}

#[derive(Default)]
struct Desk {
    received: Vec<Recorded>,
    /// The answers of the case that is played.
    canned: Vec<(String, Regex, u16, Value)>,
}

impl Vendor {
    async fn start() -> Self {
        let desk = Arc::new(Mutex::new(Desk::default()));
        let router = Router::new().fallback(answer).with_state(desk.clone());
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(axum::serve(listener, router).into_future());
        Self { address, desk }
    }

    /// From now on answers as recorded for `case`.
    fn play(&self, case: &Case, uid: &str) {
        let canned = case.vendor.iter().map(|(method, uri, status, body)| {
            let uri = Regex::new(uri).expect("an expression both dialects know");
            let body = fill(&body.to_string(), uid, &case.steps[0].event);
            let body = serde_json::from_str(&body).expect("it was JSON before");
            (method.clone(), uri, *status, body)
        });
        self.desk.lock().canned = canned.collect();
    }

    /// What came since the last call.
    fn take(&self) -> Vec<Recorded> {
        std::mem::take(&mut self.desk.lock().received)
    }
}

async fn answer(State(desk): State<Arc<Mutex<Desk>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body that ends");
    let text = |value: &axum::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let received = Recorded {
        method: parts.method.to_string(),
        uri: parts.uri.to_string(),
        header: parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    let mut desk = desk.lock();
    let canned = desk.canned.iter().find(|(method, uri, ..)| *method == received.method && uri.is_match(&received.uri));
    let (status, body) = match canned {
        Some((_, _, status, body)) => (*status, body.clone()),
        None => usual(&received, parts.uri.path()),
    };
    desk.received.push(received);
    let status = StatusCode::from_u16(status).expect("a recorded status");
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// What the recording server answered where a case says nothing.
fn usual(request: &Recorded, path: &str) -> (u16, Value) {
    match path {
        _ if request.is_write() => (201, json!({"id": 1})),
        "/api/v1/version" => (200, json!({"version": "1.24.0"})),
        path if path.starts_with("/2.0/") || path.starts_with("/rest/api/") => (404, json!({})),
        path if path.contains("/_apis/") => (200, json!({"count": 0, "value": []})),
        path if path.ends_with("/user") => (200, json!({"login": "bot", "username": "bot"})),
        _ => (200, json!([])),
    }
}
