//! GitHub's secondary rate limits: how fast one caller may go. `door.rs` asks for every request when a test wants
//! them; other hosts have none.
//!
//! Source: github/docs, `content/rest/using-the-rest-api/rate-limits-for-the-rest-api.md` and the reusable
//! `secondary-rate-limit-rest-graphql.md` it shows.
#![expect(clippy::disallowed_methods, reason = "the host is no part of herald: it lives by a clock of its own")]

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::Response;
use serde_json::json;

use super::Shared;
use super::door::json;
use super::fault::is_write;

/// Requests that were on their way when the refusal went out are no crime.
const GRACE: Duration = Duration::from_millis(250);

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// "No more than 100 concurrent requests are allowed."
    pub at_once: usize,
    /// "In general, no more than 80 content-generating requests per minute."
    pub writes: usize,
    /// "No more than 900 points per minute are allowed for REST API endpoints"; GET costs 1, POST 5.
    pub points: usize,
    /// The minute of these two.
    pub minute: Duration,
    /// "If the `retry-after` response header is present, you should not retry your request until after that many
    /// seconds has elapsed."
    pub retry_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { at_once: 100, writes: 80, points: 900, minute, retry_after: minute }
    }
}

/// What the host knows of its callers.
#[derive(Default)]
pub(super) struct Callers {
    pub limits: Option<Limits>,
    callers: HashMap<Vec<u8>, Caller>,
}

/// What became of a caller.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    under_way: usize,
    /// The most that were under way at once.
    pub most_at_once: usize,
    spent: VecDeque<(Instant, usize)>,
    refused: Option<Instant>,
    /// How often a limit was passed, and not only gone on against.
    pub limited: usize,
    /// "Continuing to make requests while you are rate limited may result in the banning of your integration."
    pub banned: bool,
}

impl Callers {
    /// Everybody who asked.
    pub fn all(&self) -> Vec<Caller> {
        self.callers.values().cloned().collect()
    }

    /// Lets a request in, or says why not.
    fn enter(&mut self, who: &[u8], method: &Method) -> Result<(), Duration> {
        let Some(limits) = self.limits else { return Ok(()) };
        let now = Instant::now();
        let caller = self.callers.entry(who.to_owned()).or_default();
        if let Some(refused) = caller.refused {
            let left = limits.retry_after.saturating_sub(now - refused);
            if !left.is_zero() {
                caller.banned |= now - refused > GRACE;
                return Err(left);
            }
        }
        while caller.spent.front().is_some_and(|(at, _)| now - *at >= limits.minute) {
            caller.spent.pop_front();
        }
        let points: usize = caller.spent.iter().map(|(_, points)| points).sum();
        let writes = caller.spent.iter().filter(|(_, points)| *points == POST).count();
        let price = if is_write(method) { POST } else { GET };
        let passed = caller.under_way >= limits.at_once
            || points + price > limits.points
            || (is_write(method) && writes >= limits.writes);
        if passed {
            (caller.refused, caller.limited) = (Some(now), caller.limited + 1);
            return Err(limits.retry_after);
        }
        caller.spent.push_back((now, price));
        caller.under_way += 1;
        caller.most_at_once = caller.most_at_once.max(caller.under_way);
        Ok(())
    }
}

const GET: usize = 1;
const POST: usize = 5;

/// A request that was let in, until it is answered.
pub(super) struct Turn {
    shared: Arc<Shared>,
    who: Vec<u8>,
}

impl Turn {
    /// Lets a request in, or answers it as GitHub does. `None` when there are no limits.
    pub fn take(shared: &Arc<Shared>, method: &Method, headers: &HeaderMap) -> Result<Option<Self>, Box<Response>> {
        let mut world = shared.world.lock();
        if world.callers.limits.is_none() {
            return Ok(None);
        }
        let who = headers.get("authorization").map(HeaderValue::as_bytes).unwrap_or_default().to_owned();
        match world.callers.enter(&who, method) {
            Ok(()) => Ok(Some(Self { shared: Arc::clone(shared), who })),
            Err(left) => Err(Box::new(refusal(left))),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(caller) = self.shared.world.lock().callers.callers.get_mut(&self.who) {
            caller.under_way -= 1;
        }
    }
}

/// The words are those of the documentation's page and of many public threads (cli/cli#4801, octokit/rest.js#1785).
fn refusal(left: Duration) -> Response {
    let body = json!({
        "message": "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.",
        "documentation_url":
            "https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api#about-secondary-rate-limits",
    });
    let mut response = json(StatusCode::FORBIDDEN, &body);
    let seconds = (left.as_secs_f64().ceil() as u64).max(1);
    response.headers_mut().insert("retry-after", seconds.into());
    response
}
