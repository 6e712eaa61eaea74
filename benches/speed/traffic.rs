//! Both ends of a measured program: senders of events, and the vendor that its requests end at.
//! They share a process, and with it a clock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use axum::extract::{Request, State};
use http::header::CONTENT_TYPE;
use http::{HeaderName, Method, StatusCode};
use parking_lot::RwLock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::events;
use super::table::Table;

/// How long the last event of a run is waited for, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

/// More than any message has.
const LONGEST: usize = 1 << 20;

/// Where the vendor takes messages.
pub const MESSAGES: &str = "/messages";

/// Where the vendor takes messages and reads of each which event it tells of.
pub const EVENTS: &str = "/events";

/// What GitHub answers to a status, with the fields and about the length it has there.
const WRITTEN: &str = r#"{"url":"https://api.github.com/repos/acme/fleet/statuses/6dcb09b5b57875f334f61aebed695e2e4193db5e","avatar_url":"https://avatars.githubusercontent.com/u/1?v=4","id":1234567890,"node_id":"MDY6U3RhdHVzMTIzNDU2Nzg5MA==","state":"success","description":"reconciliation succeeded","target_url":null,"context":"kustomization/app-1/7c5a1d5b","created_at":"2026-01-02T15:04:05Z","updated_at":"2026-01-02T15:04:05Z","creator":{"login":"acme-bot","id":1,"node_id":"MDQ6VXNlcjE=","avatar_url":"https://avatars.githubusercontent.com/u/1?v=4","gravatar_id":"","url":"https://api.github.com/users/acme-bot","html_url":"https://github.com/acme-bot","followers_url":"https://api.github.com/users/acme-bot/followers","following_url":"https://api.github.com/users/acme-bot/following{/other_user}","gists_url":"https://api.github.com/users/acme-bot/gists{/gist_id}","starred_url":"https://api.github.com/users/acme-bot/starred{/owner}{/repo}","subscriptions_url":"https://api.github.com/users/acme-bot/subscriptions","organizations_url":"https://api.github.com/users/acme-bot/orgs","repos_url":"https://api.github.com/users/acme-bot/repos","events_url":"https://api.github.com/users/acme-bot/events{/privacy}","received_events_url":"https://api.github.com/users/acme-bot/received_events","type":"Bot","site_admin":false}}"#;

/// The same of GitLab.
const WRITTEN_AT_GITLAB: &str = r#"{"id":1234567890,"sha":"6dcb09b5b57875f334f61aebed695e2e4193db5e","ref":"main","status":"success","name":"kustomization/app-1/7c5a1d5b","target_url":null,"description":"reconciliation succeeded","created_at":"2026-01-02T15:04:05.000Z","started_at":null,"finished_at":"2026-01-02T15:04:05.000Z","allow_failure":false,"coverage":null,"pipeline_id":12345,"author":{"id":1,"username":"acme-bot","name":"acme-bot","state":"active","locked":false,"avatar_url":null,"web_url":"https://gitlab.com/acme-bot"}}"#;

/// What a host answers that fails.
const FAILED: &str = r#"{"message":"500 Internal Server Error"}"#;

/// A Git host that has no status yet, and notes when it is told one. It takes messages too.
pub struct Vendor {
    /// Where it is.
    pub address: SocketAddr,
    desk: Arc<Desk>,
}

/// How a vendor answers; at once and well by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// How long it takes for every answer.
    pub takes: Duration,
    /// One of so many writes is answered 500 and comes to nothing.
    pub fails_every: Option<usize>,
}

/// What every request of a vendor sees.
struct Desk {
    manner: Manner,
    writes: RwLock<Arc<Writes>>,
    asked_to_write: AtomicUsize,
    failed: AtomicUsize,
}

/// The writes of one run, by the number of the event.
struct Writes {
    run: u64,
    begun: Instant,
    /// Nanoseconds since the run began; 0 for not yet.
    at: Vec<AtomicU64>,
    twice: AtomicUsize,
    there: AtomicUsize,
    messages: AtomicUsize,
}

impl Vendor {
    /// Serves until the runtime ends.
    pub async fn start() -> anyhow::Result<Self> {
        Self::with(Manner::default()).await
    }

    /// Serves in this manner until the runtime ends.
    pub async fn with(manner: Manner) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let writes = RwLock::new(Arc::new(Writes::of(0, 0)));
        let [asked_to_write, failed] = [const { AtomicUsize::new(0) }; 2];
        let desk = Arc::new(Desk { manner, writes, asked_to_write, failed });
        let router = axum::Router::new().fallback(serve).with_state(desk.clone());
        tokio::spawn(async { axum::serve(listener, router).await });
        Ok(Self { address, desk })
    }

    /// Writes that were answered 500.
    pub fn failed(&self) -> usize {
        self.desk.failed.load(Ordering::Relaxed)
    }
}

async fn serve(
    State(desk): State<Arc<Desk>>,
    request: Request,
) -> (StatusCode, [(HeaderName, &'static str); 1], &'static str) {
    let json = [(CONTENT_TYPE, "application/json; charset=utf-8")];
    if !desk.manner.takes.is_zero() {
        tokio::time::sleep(desk.manner.takes).await;
    }
    if request.method() == Method::GET {
        return (StatusCode::OK, json, "[]");
    }
    let asked = desk.asked_to_write.fetch_add(1, Ordering::Relaxed) + 1;
    if desk.manner.fails_every.is_some_and(|every| asked % every == 0) {
        desk.failed.fetch_add(1, Ordering::Relaxed);
        return (StatusCode::INTERNAL_SERVER_ERROR, json, FAILED);
    }
    let path = request.uri().path();
    if path == MESSAGES {
        desk.writes.read().messages.fetch_add(1, Ordering::Relaxed);
        return (StatusCode::OK, json, "{}");
    }
    if path == EVENTS {
        let body = axum::body::to_bytes(request.into_body(), LONGEST).await.unwrap_or_default();
        desk.writes.read().note(events::commit_in(&body));
        return (StatusCode::OK, json, "{}");
    }
    desk.writes.read().note(path.rsplit('/').next().unwrap_or_default());
    (StatusCode::CREATED, json, if path.starts_with("/api/v4/") { WRITTEN_AT_GITLAB } else { WRITTEN })
}

impl Writes {
    fn of(run: u64, events: usize) -> Self {
        let at = (0..events).map(|_| AtomicU64::new(0)).collect();
        let [twice, there, messages] = [const { AtomicUsize::new(0) }; 3];
        Self { run, begun: Instant::now(), at, twice, there, messages }
    }

    /// The commit of an event of this run: 40 hex digits that name both.
    fn commit(&self, number: usize) -> String {
        format!("{:024x}{number:016x}", self.run)
    }

    fn note(&self, commit: &str) {
        let Some((run, number)) = commit.split_at_checked(24) else { return };
        let [run, number] = [run, number].map(|digits| u64::from_str_radix(digits, 16).unwrap_or(u64::MAX));
        let Some(at) = self.at.get(number as usize).filter(|_| run == self.run) else { return };
        let now = self.begun.elapsed().as_nanos() as u64;
        match at.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => self.there.fetch_add(1, Ordering::Relaxed),
            Err(_) => self.twice.fetch_add(1, Ordering::Relaxed),
        };
    }
}

/// Sends runs of events and counts what went wrong in all of them.
pub struct Traffic<'a> {
    /// Events sent.
    pub sent: usize,
    /// Events not answered with 202.
    pub refused: usize,
    /// Events accepted that the vendor never heard of.
    pub lost: usize,
    /// Events the vendor heard of more than once.
    pub twice: usize,
    /// Whether each event is to become a message besides a status; a run then ends with the last of
    /// both.
    pub messages: bool,
    /// How long the last event of a run is waited for.
    pub patience: Duration,
    vendor: &'a Vendor,
    senders: usize,
    runs: u64,
}

/// What came of a run.
pub struct Run {
    /// From the first event sent to the last one written.
    pub elapsed: Duration,
    /// From an event sent to its answer.
    pub answers: Vec<Duration>,
    /// From when an event was to be sent, which is earlier when no sender was free, to its answer.
    pub answers_since_due: Vec<Duration>,
    /// From an event sent to its write at the vendor.
    pub deliveries: Vec<Duration>,
}

impl<'a> Traffic<'a> {
    /// None yet.
    pub fn new(vendor: &'a Vendor, senders: usize) -> Self {
        let patience = PATIENCE;
        Self { sent: 0, refused: 0, lost: 0, twice: 0, messages: false, patience, vendor, senders, runs: 0 }
    }

    /// Adds the row without which the others of these runs mean nothing.
    pub fn judge(&self, what: &str, table: &mut Table) {
        let Self { sent, refused, lost, twice, .. } = self;
        let faults = refused + lost + twice;
        table.judged(what, format!("{refused} + {lost} + {twice} of {sent}"), faults as f64, 0.0, "none");
    }

    /// Sends so many events to `door`, each with a commit of its own, as fast as the answers come
    /// or at a rate, and waits until the vendor has heard of each.
    pub async fn drive(&mut self, door: SocketAddr, events: usize, rate: Option<f64>) -> anyhow::Result<Run> {
        // Commits of one run must be news to a program that was sent another before.
        self.runs += 1;
        let writes = Arc::new(Writes::of(self.runs, events));
        *self.vendor.desk.writes.write() = writes.clone();

        let next = Arc::new(AtomicUsize::new(0));
        let senders: Vec<_> =
            (0..self.senders).map(|_| tokio::spawn(send(door, writes.clone(), next.clone(), rate))).collect();
        let mut sent = Vec::with_capacity(events);
        for sender in senders {
            sent.extend(sender.await??);
        }
        let accepted = sent.iter().filter(|sent| sent.accepted).count();
        let waited = Instant::now();
        let missing = || {
            let messages = if self.messages { writes.messages.load(Ordering::Relaxed) } else { accepted };
            accepted.saturating_sub(messages.min(writes.there.load(Ordering::Relaxed)))
        };
        while missing() > 0 && waited.elapsed() < self.patience {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // The vendor's last answer is still on its way to the program.
        tokio::time::sleep(Duration::from_millis(50)).await;

        let at = |number: usize| Duration::from_nanos(writes.at[number].load(Ordering::Relaxed));
        let told = || sent.iter().filter(|sent| !at(sent.number).is_zero());
        self.sent += events;
        self.refused += events - accepted;
        self.lost += missing();
        self.twice += writes.twice.load(Ordering::Relaxed);
        if told().count() == 0 {
            bail!("none of {events} events reached the vendor");
        }
        Ok(Run {
            elapsed: told().map(|sent| at(sent.number)).max().unwrap_or_default(),
            answers: sent.iter().map(|sent| sent.answered - sent.left).collect(),
            answers_since_due: sent.iter().map(|sent| sent.answered - sent.due).collect(),
            deliveries: told().map(|sent| at(sent.number).saturating_sub(sent.left)).collect(),
        })
    }
}

/// One event that was sent; times since the run began.
struct Sent {
    number: usize,
    /// When it was to be sent; without a rate, when it was.
    due: Duration,
    left: Duration,
    answered: Duration,
    accepted: bool,
}

/// One sender: takes the next event and sends it, on one connection. Written by hand because an
/// HTTP client would cost more than the program that is measured.
async fn send(
    door: SocketAddr,
    writes: Arc<Writes>,
    next: Arc<AtomicUsize>,
    rate: Option<f64>,
) -> anyhow::Result<Vec<Sent>> {
    let mut connection = TcpStream::connect(door).await.context("the events door")?;
    connection.set_nodelay(true)?;
    let mut sent = Vec::new();
    let mut answer = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= writes.at.len() {
            return Ok(sent);
        }
        let due = rate.map(|rate| Duration::from_secs_f64(number as f64 / rate));
        if let Some(due) = due {
            tokio::time::sleep_until((writes.begun + due).into()).await;
        }
        let body = events::body(number, &writes.commit(number));
        let request = format!(
            "POST / HTTP/1.1\r\nhost: {door}\r\nuser-agent: Go-http-client/1.1\r\ncontent-length: {}\r\n\
             content-type: application/json\r\naccept-encoding: gzip\r\n\r\n{body}",
            body.len()
        );
        let left = writes.begun.elapsed();
        connection.write_all(request.as_bytes()).await?;
        answer.clear();
        // Answers of the door have no body.
        while !answer.ends_with(b"\r\n\r\n") {
            if connection.read_buf(&mut answer).await? == 0 {
                bail!("the events door closed a connection");
            }
        }
        let accepted = answer.starts_with(b"HTTP/1.1 202");
        sent.push(Sent { number, due: due.unwrap_or(left), left, answered: writes.begun.elapsed(), accepted });
    }
}
