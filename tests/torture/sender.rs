//! A Flux controller's side of the events door: how it tries, how long it waits, and when it stops.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;

use super::support::flux::FluxEvent;

/// One try, from connecting to the end of the answer (spec/pipeline.md 1.4).
const PATIENCE: Duration = Duration::from_secs(5);

/// The pauses between five tries, unless a 503 names another.
const PAUSES: [u64; 4] = [1, 2, 4, 8];

/// Sends events. Clones share their numbers.
pub struct Sender {
    url: String,
    http: reqwest::Client,
    /// The newest version that any object has, as the API server counts them.
    version: AtomicU64,
    /// Tries that led to another one.
    pub again: AtomicUsize,
    /// Events whose five tries were in vain.
    pub given_up: AtomicUsize,
}

impl Sender {
    /// To this events door.
    pub fn to(url: &str) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a plain HTTP client");
        let (version, again, given_up) = (AtomicU64::new(1000), AtomicUsize::new(0), AtomicUsize::new(0));
        Self { url: url.to_owned(), http, version, again, given_up }
    }

    /// Tells of one state of an object, reconcile after reconcile, until it was taken.
    pub async fn insist(&self, event: FluxEvent) {
        while !self.reconcile(&event).await {
            self.given_up.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One reconcile: its version is that of its beginning, and all tries have it. Whether one was taken.
    async fn reconcile(&self, event: &FluxEvent) -> bool {
        let event = event.clone().version(self.version.fetch_add(1, Ordering::Relaxed));
        let mut pauses = PAUSES.into_iter();
        loop {
            let (answer, after) = self.once(&event).await;
            // Flux takes everything else for done; here nothing else may be answered.
            match answer {
                Some(StatusCode::ACCEPTED) => return true,
                Some(status) => assert!(status.is_server_error(), "answered {status}"),
                None => {}
            }
            let Some(pause) = pauses.next() else { return false };
            self.again.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(after.unwrap_or(pause))).await;
        }
    }

    /// One try: the answer's status, and the seconds it asks to wait.
    pub async fn once(&self, event: &Value) -> (Option<StatusCode>, Option<u64>) {
        let Ok(answer) = self.http.post(&self.url).body(event.to_string()).send().await else { return (None, None) };
        let after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        (Some(answer.status()), after)
    }
}
