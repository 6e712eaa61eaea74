//! Time, so that tests can turn it. Nothing else in `src` asks the system for the time
//! (`clippy.toml` bans it).
//!
//! Held by `app`, handed to `ingest`, `outbox`, `delivery` and `reconcile`.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// A monotonic instant and the wall clock.
pub trait Clock: Send + Sync + 'static {
    /// Monotonic time, for waits and ages.
    fn now(&self) -> Instant;
    /// Wall clock, for what people and other programs read.
    fn wall(&self) -> jiff::Timestamp;
}

/// A pause that begins with `first`, and doubles with each time after that up to `longest`.
pub fn doubling(first: Duration, longest: Duration, times: u32) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(longest)
}

/// The system's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the system for the time")]
    fn now(&self) -> Instant {
        Instant::now()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the system for the time")]
    fn wall(&self) -> jiff::Timestamp {
        jiff::Timestamp::try_from(SystemTime::now()).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
    }
}

/// A clock that stands until it is turned.
#[derive(Debug)]
pub struct TurnedClock {
    start: Instant,
    wall: jiff::Timestamp,
    turned: parking_lot::Mutex<Duration>,
}

impl TurnedClock {
    /// Stands at the system's time of the call.
    pub fn new() -> Arc<Self> {
        let system = SystemClock;
        Arc::new(Self { start: system.now(), wall: system.wall(), turned: parking_lot::Mutex::new(Duration::ZERO) })
    }

    /// Turns it forward.
    pub fn turn(&self, by: Duration) {
        *self.turned.lock() += by;
    }
}

impl Clock for TurnedClock {
    fn now(&self) -> Instant {
        self.start + *self.turned.lock()
    }

    fn wall(&self) -> jiff::Timestamp {
        self.wall + *self.turned.lock()
    }
}
