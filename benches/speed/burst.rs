//! Many objects on one commit, at a vendor that takes its time: how long until the last status is
//! there, beside a client that keeps nothing and waits for nothing, and how soon a failure is shown
//! where Herald keeps to limits.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use axum::extract::State;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use herald::outbox::Limits;
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::net::TcpListener;

use super::programs::Program;
use super::table::{Spread, Table};
use super::{Options, events};

/// Objects of the commit.
const OBJECTS: usize = 500;

/// What the vendor takes for an answer.
const TAKES: Duration = Duration::from_millis(200);

/// Rounds; in each Herald and the plain client have their turn.
const ROUNDS: usize = 3;

/// When something that has not happened never will.
const PATIENCE: Duration = Duration::from_secs(60);

/// With what Herald keeps to the limits of GitHub: requests at once, and statuses that go out before
/// the rest is spread over the minute.
const GITHUB_AT_ONCE: usize = 10;

/// Adds the rows about a burst.
pub async fn measure(options: &Options, table: &mut Table) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    measure_speed(options, scratch.path(), table).await?;
    measure_failure(options, scratch.path(), table).await
}

/// A vendor without limits: from the first event to the last status.
async fn measure_speed(options: &Options, scratch: &Path, table: &mut Table) -> anyhow::Result<()> {
    eprintln!("{OBJECTS} objects on one commit, {ROUNDS} rounds");
    let vendor = Slow::start().await?;
    let manifests = scratch.join("unlimited");
    events::write_one(&manifests, "fleet", "github", &format!("http://{}/acme/fleet", vendor.address), "")?;
    let program = Program::herald(None, &manifests).await?;
    let (mut by_herald, mut by_client) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let begun = Instant::now();
        fire_and_forget(&vendor, &commit(round)).await?;
        by_client.push(vendor.all(begun).await?.as_secs_f64());

        let begun = Instant::now();
        send(options, program.door, (0..OBJECTS).map(|number| events::body(number, &commit(round)))).await?;
        by_herald.push(vendor.all(begun).await?.as_secs_f64());
    }
    let times = Spread::of_ratios(&by_herald, &by_client);
    let what = format!("{OBJECTS} objects on one commit, beside one request for each");
    table.judged(what, format!("{times:.2} times"), times.median, 1.1, "1.1 times");
    table.told("  by Herald", format!("{:.2} s", Spread::of(&by_herald)));
    let what = format!("  by a client with {} under way", Limits::default().per_provider);
    table.told(what, format!("{:.2} s", Spread::of(&by_client)));
    Ok(())
}

/// A vendor that Herald takes for GitHub: from the event of the one failure, which comes last, to its
/// status. It comes when everything that may go out at once is out.
async fn measure_failure(options: &Options, scratch: &Path, table: &mut Table) -> anyhow::Result<()> {
    eprintln!("{OBJECTS} objects on one commit at GitHub, {ROUNDS} rounds");
    let mut took = Vec::new();
    let mut before = Vec::new();
    let mut at_once = 0;
    for round in 0..ROUNDS {
        // Limits hold for a credential, so each round has a Herald and a vendor of its own.
        let vendor = Slow::start().await?;
        let manifests = scratch.join(format!("limited-{round}"));
        // No such host is looked up or dialled: the vendor is the proxy on the way there.
        let proxy = format!("  proxy: http://{}\n", vendor.address);
        events::write_one(&manifests, "fleet", "github", "http://api.bench.ghe.com/acme/fleet", &proxy)?;
        let program = Program::herald(None, &manifests).await?;
        let (failed, commit) = (OBJECTS - 1, commit(round));
        send(options, program.door, (0..failed).map(|number| events::body(number, &commit))).await?;
        vendor.until("the first statuses", |statuses| (statuses.len() > GITHUB_AT_ONCE).then_some(())).await?;
        let begun = Instant::now();
        send(options, program.door, [events::failed(failed, &commit)]).await?;
        let first_failed = |statuses: &[(Instant, bool)]| {
            let earlier = statuses.iter().position(|(_, failed)| *failed)?;
            Some((statuses[earlier].0, earlier))
        };
        let (status, earlier) = vendor.until("the failure's status", first_failed).await?;
        // Without limits there would be as many as there may be under way.
        let most = GITHUB_AT_ONCE + Limits::default().per_provider / 2;
        ensure!(earlier < most, "{earlier} statuses before the failure: Herald kept to no limits");
        took.push((status - begun).as_secs_f64());
        before.push(earlier as f64);
        at_once = at_once.max(vendor.seen.most_at_once.load(Ordering::Relaxed));
    }
    let slowest = took.iter().copied().fold(0.0, f64::max);
    let what = format!("the last of {OBJECTS} objects fails, limits of GitHub: event to status");
    table.judged(what, format!("{:.2} s", Spread::of(&took)), slowest, 2.0, "2 s");
    table.told("  statuses before it", format!("{:.0}", Spread::of(&before)));
    table.judged("  requests at once", at_once.to_string(), at_once as f64, GITHUB_AT_ONCE as f64, "10");
    Ok(())
}

/// What Herald is measured against: a request for each status, as many at once as Herald has for one
/// Provider, and nothing else.
async fn fire_and_forget(vendor: &Slow, commit: &str) -> anyhow::Result<()> {
    let http = reqwest::Client::new();
    let url = format!("http://{}/api/v3/repos/acme/fleet/statuses/{commit}", vendor.address);
    let posts = (0..OBJECTS).map(|number| {
        let body = serde_json::json!({
            "state": "success",
            "description": "reconciliation succeeded",
            "context": format!("kustomization/app-{number}/7c5a1d5b"),
        });
        let post = http.post(&url).header(CONTENT_TYPE, "application/json").body(body.to_string());
        async { post.send().await?.error_for_status()?.bytes().await }
    });
    let answers = futures::stream::iter(posts).buffer_unordered(Limits::default().per_provider);
    answers.try_for_each(|_| std::future::ready(Ok(()))).await.context("the plain client")
}

/// Sends events, and waits until each is accepted.
async fn send(options: &Options, door: SocketAddr, bodies: impl IntoIterator<Item = String>) -> anyhow::Result<()> {
    let http = reqwest::Client::new();
    let posts = bodies.into_iter().map(|body| {
        let post = http.post(format!("http://{door}/")).header(CONTENT_TYPE, "application/json").body(body);
        async { anyhow::Ok(post.send().await?.status()) }
    });
    let answers = futures::stream::iter(posts).buffer_unordered(options.senders);
    let accepted = |status| async move {
        ensure!(status == StatusCode::ACCEPTED, "an event was answered {status}");
        Ok(())
    };
    answers.try_for_each(accepted).await
}

fn commit(round: usize) -> String {
    format!("{:040x}", round + 1)
}

/// A Git host that takes [`TAKES`] for everything and has no limits. Asked as a proxy it is whatever
/// host it is asked for.
struct Slow {
    address: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    /// When each status was answered, in that order, and whether it tells of a failure.
    statuses: Mutex<Vec<(Instant, bool)>>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

#[derive(Deserialize)]
struct Status {
    state: String,
}

impl Slow {
    /// Serves until the runtime ends.
    async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Seen::default());
        let router = axum::Router::new().fallback(serve).with_state(seen.clone());
        tokio::spawn(async { axum::serve(listener, router).await });
        Ok(Self { address, seen })
    }

    /// Waits until there are as many statuses as objects, then forgets them: from `begun` to the last.
    async fn all(&self, begun: Instant) -> anyhow::Result<Duration> {
        let last = self.until("the last status", |statuses| statuses.get(OBJECTS - 1).copied()).await?;
        self.seen.statuses.lock().clear();
        Ok(last.0 - begun)
    }

    /// Waits until the statuses are what is waited for.
    async fn until<T>(&self, what: &str, is: impl Fn(&[(Instant, bool)]) -> Option<T>) -> anyhow::Result<T> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let found = is(&self.seen.statuses.lock());
            if let Some(found) = found {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        bail!("{what} did not come in {PATIENCE:?}; {} did", self.seen.statuses.lock().len())
    }
}

async fn serve(
    State(seen): State<Arc<Seen>>,
    method: Method,
    body: Bytes,
) -> (StatusCode, [(http::HeaderName, &'static str); 1], &'static str) {
    let at_once = seen.at_once.fetch_add(1, Ordering::Relaxed) + 1;
    seen.most_at_once.fetch_max(at_once, Ordering::Relaxed);
    tokio::time::sleep(TAKES).await;
    seen.at_once.fetch_sub(1, Ordering::Relaxed);
    let json = [(CONTENT_TYPE, "application/json; charset=utf-8")];
    if method == Method::GET {
        return (StatusCode::OK, json, "[]");
    }
    let Ok(Status { state }) = serde_json::from_slice(&body) else {
        return (StatusCode::UNPROCESSABLE_ENTITY, json, "{}");
    };
    seen.statuses.lock().push((Instant::now(), state == "failure"));
    (StatusCode::CREATED, json, "{}")
}
