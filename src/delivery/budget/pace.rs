//! Limits of our own, at github.com and ghe.com only (rule R9): what a credential there is written with.

use std::time::{Duration, Instant};

/// Requests at once at github.com and ghe.com (rule R9). GitHub bears 100, of all clients together
/// (docs.github.com/rest, "Rate limits for the REST API", secondary rate limits).
pub(super) const GITHUB_AT_ONCE: usize = 10;

/// Writes a minute at github.com and ghe.com (rule R9): at first what GitHub says it bears of
/// requests that create content, at most what 900 points a minute allow at 5 for each.
const GITHUB_WRITES: f64 = 80.0;
const GITHUB_MOST_WRITES: f64 = 180.0;
const GITHUB_LEAST_WRITES: f64 = 20.0;

/// Of these, writes that may go out without a pause between; the rest are spread over the minute, so
/// that a failure never waits long for its turn.
const BURST: f64 = 10.0;

const MINUTE: Duration = Duration::from_secs(60);

/// Writes a minute, spread over it.
#[derive(Debug)]
pub(super) struct Pace {
    rate: f64,
    left: f64,
    at: Instant,
    /// The minute that is judged.
    began: Instant,
    writes: usize,
    limited: bool,
}

/// Whether limits of our own hold there.
fn is_github(host: &str) -> bool {
    let name = host.split(':').next().unwrap_or_default();
    name == "github.com" || name.ends_with(".github.com") || name.ends_with(".ghe.com")
}

impl Pace {
    /// That of a credential at this host; `None` where the vendor alone sets limits.
    pub fn at(host: &str, now: Instant) -> Option<Self> {
        is_github(host).then(|| Self::new(now))
    }

    /// A job that took leave ended; whether it `wrote`.
    pub fn end(&mut self, wrote: bool) {
        if wrote {
            self.writes += 1;
        } else {
            self.left = (self.left + 1.0).min(BURST);
        }
    }

    fn new(now: Instant) -> Self {
        Self { rate: GITHUB_WRITES, left: BURST, at: now, began: now, writes: 0, limited: false }
    }

    /// What comes back in a second: in no minute there are more than `rate`, the burst included.
    fn refill(&self) -> f64 {
        (self.rate - BURST) / MINUTE.as_secs_f64()
    }

    /// Takes leave for a write, or says when there is some.
    pub fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let spent = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + spent * self.refill()).min(BURST);
        self.at = now;
        if now.saturating_duration_since(self.began) >= MINUTE {
            if self.writes > 0 && !self.limited {
                self.rate = (self.rate * 1.1).min(GITHUB_MOST_WRITES);
            }
            (self.began, self.writes, self.limited) = (now, 0, false);
        }
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Ok(());
        }
        Err(now + Duration::from_secs_f64((1.0 - self.left) / self.refill() + 0.001))
    }

    /// The vendor says that it was too fast.
    pub fn limited(&mut self, now: Instant) {
        self.rate = (self.rate / 2.0).max(GITHUB_LEAST_WRITES);
        (self.left, self.at, self.limited) = (0.0, now, true);
    }
}

#[cfg(test)]
mod tests {
    use super::super::NO_ROOM;
    use super::super::tests::{Scene, status};
    use super::*;
    use crate::clock::Clock;
    use crate::outbound::Gate;

    #[test]
    fn our_own_limits_hold_at_github_only() {
        for (host, own) in [
            ("github.com", true),
            ("api.github.com:443", true),
            ("acme.ghe.com", true),
            ("github.com.example.org", false),
            ("notgithub.com", false),
            ("github.example.org", false),
        ] {
            assert_eq!(is_github(host), own, "{host}");
        }
        let scene = Scene::new();
        let hub = scene.pass("one", "github.com", "token");
        (0..30).for_each(|_| hub.answered(None, None));
        let tickets: Vec<_> = (0..GITHUB_AT_ONCE).map(|_| hub.admit().expect("leave")).collect();
        scene.clock.turn(MINUTE);
        assert_eq!(scene.left(&hub), NO_ROOM, "ten at once");
        let freed: Vec<_> = tickets.into_iter().map(|ticket| ticket.end(false).release).collect();
        assert_eq!(freed.concat(), ["one".into()]);
        assert_eq!(scene.left(&hub), Duration::ZERO);
    }

    /// An hour of more to write than may be written, against what GitHub documents: 80 writes a
    /// minute, then 403 with a time, and a ban for who goes on.
    #[test]
    fn github_is_never_written_to_faster_than_it_bears_for_long() {
        let scene = Scene::new();
        let hub = scene.pass("one", "github.com", "token");
        let limit = status(403, Some(60), "You have exceeded a secondary rate limit");
        let mut writes: std::collections::VecDeque<Instant> = Default::default();
        let (mut limited, mut told, mut most) = (0, 0, 0);
        let start = scene.clock.now();
        let mut free_from = start;
        while scene.clock.now() < start + 60 * MINUTE {
            let now = scene.clock.now();
            match hub.admit() {
                Err(until) => scene.clock.turn((until - now).max(Duration::from_millis(1))),
                Ok(ticket) => {
                    assert!(now >= free_from, "a request during a wait: banned");
                    while writes.front().is_some_and(|at| now - *at >= MINUTE) {
                        writes.pop_front();
                    }
                    if now - start < MINUTE {
                        assert!(writes.len() < 80, "more than 80 in the first minute");
                    }
                    most = most.max(writes.len());
                    if writes.len() >= 80 {
                        (limited, free_from) = (limited + 1, now + MINUTE);
                        hub.answered(Some(&limit), None);
                    } else {
                        writes.push_back(now);
                        told += 1;
                        hub.answered(None, None);
                    }
                    ticket.end(true);
                    scene.clock.turn(Duration::from_millis(10));
                }
            }
        }
        assert!((1..8).contains(&limited), "it learns: {limited} times in an hour");
        assert!(told > 2400, "and makes use of what there is: {told} in an hour");
    }

    #[test]
    fn the_pace_rises_to_its_bound_while_all_is_well() {
        let scene = Scene::new();
        let hub = scene.pass("one", "github.com", "token");
        let mut by_minute = Vec::new();
        let start = scene.clock.now();
        for minute in 1..20 {
            let mut writes = 0;
            while scene.clock.now() < start + minute * MINUTE {
                match hub.admit() {
                    Err(until) => scene.clock.turn(until - scene.clock.now()),
                    Ok(ticket) => {
                        writes += 1;
                        hub.answered(None, None);
                        ticket.end(true);
                    }
                }
            }
            by_minute.push(writes);
        }
        assert!((70..=80).contains(&by_minute[0]), "{by_minute:?}");
        assert!(by_minute.iter().all(|writes| *writes <= 180), "{by_minute:?}");
        assert!(by_minute[18] >= 160, "{by_minute:?}");
    }
}
