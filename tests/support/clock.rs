//! A clock that runs and can be turned. Used by the tests of what takes an hour.

use std::time::{Duration, Instant};

use herald::clock::{Clock, SystemClock};
use parking_lot::Mutex;

/// The system's clock, ahead by as much as a test turned it.
#[derive(Default)]
pub struct Ahead(Mutex<Duration>);

impl Ahead {
    pub fn turn(&self, minutes: u64) {
        self.turn_seconds(60 * minutes);
    }

    pub fn turn_seconds(&self, seconds: u64) {
        *self.0.lock() += Duration::from_secs(seconds);
    }
}

impl Clock for Ahead {
    fn now(&self) -> Instant {
        SystemClock.now() + *self.0.lock()
    }

    fn wall(&self) -> jiff::Timestamp {
        SystemClock.wall() + *self.0.lock()
    }
}
