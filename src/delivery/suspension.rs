//! Notices that the machine was suspended: its monotonic clock stood still while others could write. What is
//! confirmed for an hour by that clock is then older than it seems. The dispatcher asks before each round.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::clock::Clock;

/// The wall clock may run ahead of the monotonic one by so much without a suspension.
const MOST: Duration = Duration::from_secs(60);

/// See the module.
pub struct Suspension {
    now: Instant,
    wall: Timestamp,
}

impl Suspension {
    /// Begins now.
    pub fn new(clock: &dyn Clock) -> Self {
        Self { now: clock.now(), wall: clock.wall() }
    }

    /// Whether the machine was suspended since this was asked last, or the wall clock was set forward.
    pub fn was(&mut self, clock: &dyn Clock) -> bool {
        let before = std::mem::replace(self, Self::new(clock));
        let wall = Duration::try_from(self.wall.duration_since(before.wall)).unwrap_or_default();
        wall > self.now.saturating_duration_since(before.now) + MOST
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;
    use crate::clock::TurnedClock;

    /// A wall clock that goes on while the other stands.
    struct Suspended(Arc<TurnedClock>, Mutex<Duration>);

    impl Clock for Suspended {
        fn now(&self) -> Instant {
            self.0.now()
        }

        fn wall(&self) -> Timestamp {
            self.0.wall() + *self.1.lock()
        }
    }

    #[test]
    fn a_wall_clock_that_went_ahead_tells_of_a_suspension() {
        let clock = Suspended(TurnedClock::new(), Mutex::default());
        let mut suspension = Suspension::new(&clock);
        clock.0.turn(Duration::from_secs(86_400));
        assert!(!suspension.was(&clock), "both went on");
        *clock.1.lock() += MOST;
        assert!(!suspension.was(&clock));
        *clock.1.lock() += 2 * MOST;
        assert!(suspension.was(&clock) && !suspension.was(&clock), "told once");
    }
}
