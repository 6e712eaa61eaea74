//! Waiting for something that happens elsewhere. Tests poll with these instead
//! of sleeping for a guessed time.

use std::fmt::Display;
use std::future::Future;
use std::panic::Location;
use std::time::{Duration, Instant};

/// The pause between two looks: short next to what servers take, long next to
/// what a look costs.
pub const PAUSE: Duration = Duration::from_millis(50);

/// Polls `probe` until it gives a value. Panics after `deadline`, naming `what`
/// and the line that waited.
#[track_caller]
pub fn until<T, F, Fut>(deadline: Duration, what: &str, mut probe: F) -> impl Future<Output = T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    until_ok(deadline, what, move || {
        let probe = probe();
        async { probe.await.ok_or("nothing yet") }
    })
}

/// Like [`until`], for a probe that can say what it saw instead; the last such
/// answer is part of the panic.
#[track_caller]
pub fn until_ok<T, E, F, Fut>(deadline: Duration, what: &str, mut probe: F) -> impl Future<Output = T>
where
    E: Display,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let caller = Location::caller();
    async move {
        let started = Instant::now();
        let mut seen = String::from("no answer at all");
        loop {
            // A probe that hangs must not outlive the deadline.
            let left = deadline.saturating_sub(started.elapsed());
            match tokio::time::timeout(left, probe()).await {
                Ok(Ok(value)) => return value,
                Ok(Err(error)) => seen = error.to_string(),
                Err(_) => {}
            }
            assert!(started.elapsed() < deadline, "{caller}: waited {deadline:?} for {what}; last seen: {seen}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Whether a GET of `url` is answered with 2xx: how a server says it is ready.
pub async fn answers(url: &str) -> bool {
    let client =
        reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(1)).build().expect("a plain HTTP client");
    let answer = client.get(url).send().await;
    answer.is_ok_and(|response| response.status().is_success())
}
