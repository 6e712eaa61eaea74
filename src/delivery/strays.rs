//! Writes that may still take effect although Herald does not wait for them any more: nothing was heard of
//! them. A vendor that is slow does them after what was written next, and the older status stands on top.
//! `set` notes them, and has a place looked at once more that was told something else meanwhile.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::outbound::SendError;
use crate::outbox::Said;

/// A write may take effect this long after Herald gave it up; or twice as long as it waited, where that is
/// longer.
pub const LEAST: Duration = Duration::from_secs(30);

/// Places with such a write at most. There are fewer requests under way at once; of more nothing is known.
const MAX: usize = 4096;

/// The places, as `set` calls them.
#[derive(Debug, Default)]
pub struct Strays(Mutex<HashMap<Arc<str>, Stray>>);

#[derive(Debug)]
struct Stray {
    /// What it says; `None` where several say different things.
    says: Option<Said>,
    until: Instant,
}

impl Strays {
    /// A write of this was given up after so long, unless the error says what became of it.
    pub fn note(&self, place: &str, says: &Said, error: &SendError, took: Duration, now: Instant) {
        if !may_be_under_way(error) {
            return;
        }
        let until = now + LEAST.max(2 * took);
        let mut strays = self.0.lock();
        if strays.len() >= MAX {
            strays.retain(|_, stray| stray.until > now);
        }
        let room = strays.len() < MAX;
        match strays.get_mut(place) {
            Some(stray) => {
                let before = if stray.until > now { stray.says.as_ref() } else { Some(says) };
                stray.says = before.filter(|before| *before == says).cloned();
                stray.until = stray.until.max(until);
            }
            None if room => {
                strays.insert(place.into(), Stray { says: Some(says.clone()), until });
            }
            None => {}
        }
    }

    /// Until when a write of something else than this may take effect.
    pub fn until(&self, place: &str, says: &Said, now: Instant) -> Option<Instant> {
        let mut strays = self.0.lock();
        let stray = strays.get(place)?;
        if stray.until <= now {
            strays.remove(place);
            return None;
        }
        (stray.says.as_ref() != Some(says)).then_some(stray.until)
    }
}

/// Whether the vendor may not have begun yet with a request that ended so, or not be through with it.
fn may_be_under_way(error: &SendError) -> bool {
    match error {
        SendError::Timeout | SendError::Broken => true,
        // A proxy waited in our place.
        SendError::Status { status, .. } => *status == http::StatusCode::GATEWAY_TIMEOUT,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, TurnedClock};

    const SECOND: Duration = Duration::from_secs(1);

    fn said(text: &str) -> Said {
        Said::Status { state: None, description: text.into() }
    }

    #[test]
    fn what_else_may_come() {
        let (strays, clock) = (Strays::default(), TurnedClock::new());
        let now = clock.now();
        strays.note("place", &said("a"), &SendError::Connect, SECOND, now);
        assert_eq!(strays.until("place", &said("b"), now), None, "nothing went out");
        strays.note("place", &said("a"), &SendError::Timeout, SECOND, now);
        assert_eq!(strays.until("other", &said("b"), now), None);
        assert_eq!(strays.until("place", &said("b"), now), Some(now + LEAST));
        assert_eq!(strays.until("place", &said("a"), now), None, "it would say the same");
        strays.note("place", &said("b"), &SendError::Broken, 20 * SECOND, now + SECOND);
        for says in ["a", "b"] {
            assert_eq!(strays.until("place", &said(says), now), Some(now + 41 * SECOND), "both may come");
        }
        assert_eq!(strays.until("place", &said("c"), now + 41 * SECOND), None, "no longer");
        assert!(strays.0.lock().is_empty());
    }

    #[test]
    fn strays_are_bounded() {
        let (strays, clock) = (Strays::default(), TurnedClock::new());
        for number in 0..2 * MAX {
            strays.note(&number.to_string(), &said("a"), &SendError::Timeout, SECOND, clock.now());
        }
        assert_eq!(strays.0.lock().len(), MAX);
        clock.turn(LEAST);
        strays.note("new", &said("a"), &SendError::Timeout, SECOND, clock.now());
        assert_eq!(strays.0.lock().len(), 1, "what is over makes room");
    }
}
