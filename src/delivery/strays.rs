//! Writes that may still take effect although Herald does not wait for them any more: nothing was heard of
//! them. A vendor that is slow does them after what was written next, and the older status stands on top.
//! `set` notes them, and has a place looked at once more that was told something else meanwhile.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::outbound::SendError;
use crate::outbox::{Said, Source};

/// A write may take effect this long after Herald gave it up; or twice as long as it waited, where that is
/// longer.
pub const LEAST: Duration = Duration::from_secs(30);

/// What such a write says is remembered this long after it may have taken effect: its place may be looked at late.
const KEPT: Duration = Duration::from_secs(600);

/// Places with such a write at most. There are fewer requests under way at once; of more nothing is known.
const MAX: usize = 4096;

/// The places, as `set` calls them.
#[derive(Debug, Default)]
pub struct Strays(Mutex<HashMap<(Arc<str>, Source), Stray>>);

#[derive(Debug)]
struct Stray {
    /// What they say, the latest last; [`MAX_SAID`] at most.
    says: Vec<Said>,
    until: Instant,
}

/// Statements of one place that may still take effect.
const MAX_SAID: usize = 4;

impl Strays {
    /// A write of this was given up after so long, unless the error says what became of it.
    pub fn note(&self, place: &str, source: Source, says: &Said, error: &SendError, took: Duration, now: Instant) {
        if may_be_under_way(error) {
            self.add(place, source, says, now + LEAST.max(2 * took), now);
        }
    }

    /// A write of this through whichever source may take effect until then.
    pub fn add(&self, place: &str, source: Source, says: &Said, until: Instant, now: Instant) {
        let mut strays = self.0.lock();
        if strays.len() >= MAX {
            strays.retain(|_, stray| stray.until > now);
        } else if strays.len() >= MAX / 4 {
            strays.retain(|_, stray| stray.until + KEPT > now);
        }
        let room = strays.len() < MAX;
        match strays.get_mut(&(place.into(), source)) {
            Some(stray) => {
                if stray.until + KEPT <= now {
                    stray.says.clear();
                }
                stray.says.retain(|before| before != says);
                if stray.says.len() >= MAX_SAID {
                    stray.says.remove(0);
                }
                stray.says.push(says.clone());
                stray.until = stray.until.max(until);
            }
            None if room => {
                strays.insert((place.into(), source), Stray { says: vec![says.clone()], until });
            }
            None => {}
        }
    }

    /// Until when a write of something else than this may take effect.
    pub fn until(&self, place: &str, source: Source, says: &Said, now: Instant) -> Option<Instant> {
        let strays = self.0.lock();
        let stray = strays.get(&(place.into(), source)).filter(|stray| stray.until > now)?;
        stray.says.iter().any(|other| other != says).then_some(stray.until)
    }

    /// Whether a write of this may have taken effect late.
    pub fn says(&self, place: &str, source: Source, says: &Said) -> bool {
        self.0.lock().get(&(place.into(), source)).is_some_and(|stray| stray.says.contains(says))
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
    const SOURCE: Source = Source([1; 16]);

    fn said(text: &str) -> Said {
        Said::status(None, text)
    }

    #[test]
    fn what_else_may_come() {
        let (strays, clock) = (Strays::default(), TurnedClock::new());
        let now = clock.now();
        strays.note("place", SOURCE, &said("a"), &SendError::Connect, SECOND, now);
        assert_eq!(strays.until("place", SOURCE, &said("b"), now), None, "nothing went out");
        strays.note("place", SOURCE, &said("a"), &SendError::Timeout, SECOND, now);
        assert_eq!(strays.until("other", SOURCE, &said("b"), now), None);
        assert_eq!(strays.until("place", SOURCE, &said("b"), now), Some(now + LEAST));
        assert_eq!(strays.until("place", SOURCE, &said("a"), now), None, "it would say the same");
        strays.note("place", SOURCE, &said("b"), &SendError::Broken, 20 * SECOND, now + SECOND);
        for says in ["a", "b"] {
            assert_eq!(strays.until("place", SOURCE, &said(says), now), Some(now + 41 * SECOND), "both may come");
        }
        assert!(["a", "b"].iter().all(|says| strays.says("place", SOURCE, &said(says))));
        assert!(!strays.says("place", Source([2; 16]), &said("a")) && !strays.says("place", SOURCE, &said("c")));
        assert_eq!(strays.until("place", SOURCE, &said("c"), now + 41 * SECOND), None, "no longer");
        assert!(strays.says("place", SOURCE, &said("a")), "who looks late knows it");
    }

    #[test]
    fn strays_are_bounded() {
        let (strays, clock) = (Strays::default(), TurnedClock::new());
        for number in 0..2 * MAX {
            strays.note(&number.to_string(), SOURCE, &said("a"), &SendError::Timeout, SECOND, clock.now());
        }
        assert_eq!(strays.0.lock().len(), MAX);
        clock.turn(LEAST);
        strays.note("new", SOURCE, &said("a"), &SendError::Timeout, SECOND, clock.now());
        assert_eq!(strays.0.lock().len(), 1, "what is over makes room");
    }
}
