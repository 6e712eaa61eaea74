//! Messages already told within the interval. Statuses never pass this test: their Slot decides.
//!
//! Asked and noted by the store inside `put`, together with the job, so that a sender's retry of
//! something accepted is a repeat, and of something not accepted is not.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Generations;
use crate::api::Event;
use crate::matching::gate::Marks;

/// Keys remembered; past that the oldest are forgotten and a repeat may be told again.
const CAPACITY: usize = 65_536;

/// Whether a message tells of a failure, a final success, or something on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// Severity `error`.
    Error,
    /// A reconciliation ended well.
    Success,
    /// Anything else; neither makes room for nor gives way to the others.
    Other,
}

/// What makes two messages the same, and whose they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RepeatKey {
    /// Alert, Provider and object.
    about: u64,
    /// The parts of the text.
    text: u64,
    /// What it tells.
    pub kind: Kind,
}

impl RepeatKey {
    /// Length of [`RepeatKey::to_bytes`].
    pub const BYTES: usize = 17;

    /// As a key on disk.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.about.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.text.to_be_bytes());
        bytes[16] = match self.kind {
            Kind::Error => 0,
            Kind::Success => 1,
            Kind::Other => 2,
        };
        bytes
    }

    /// From a key on disk; `None` when it is none.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Option<Self> {
        let [about @ .., _, _, _, _, _, _, _, _, kind] = bytes;
        let text = *bytes[8..].first_chunk()?;
        let kind = match kind {
            0 => Kind::Error,
            1 => Kind::Success,
            2 => Kind::Other,
            _ => return None,
        };
        Some(Self { about: u64::from_be_bytes(about), text: u64::from_be_bytes(text), kind })
    }

    /// The parts the peer compares (object, message, originRevision, revision, token), with
    /// severity and reason, for one Alert and Provider.
    pub fn new(event: &Event, marks: Marks, alert: &str, provider: &str) -> Self {
        let object = &event.involved_object;
        let mut about = DefaultHasher::new();
        (alert, provider, &object.kind, &object.namespace, &object.name).hash(&mut about);
        let mut text = DefaultHasher::new();
        (&event.message, &event.severity, &event.reason).hash(&mut text);
        for key in ["originRevision", "revision", "token"] {
            let full = format!("{}/{key}", object.group());
            (key, event.metadata.get(&full)).hash(&mut text);
        }
        let kind = match () {
            () if marks.error => Kind::Error,
            () if marks.final_success || event.reason.ends_with("Succeeded") => Kind::Success,
            () => Kind::Other,
        };
        Self { about: about.finish(), text: text.finish(), kind }
    }
}

/// The memory of what was told.
#[derive(Debug)]
pub(super) struct Repeats {
    told: Generations<RepeatKey, Instant>,
    /// What each (Alert, Provider, object) was told last of each decisive kind, to be forgotten
    /// when the opposite is told.
    decisive: Generations<u64, Vec<RepeatKey>>,
    interval: Duration,
}

impl Repeats {
    pub(super) fn new(interval: Duration) -> Self {
        Self { told: Generations::new(CAPACITY), decisive: Generations::new(CAPACITY), interval }
    }

    /// Whether `key` was told within the interval before `now`. The interval slides: each telling
    /// starts it anew, each repeat does not.
    pub(super) fn is_repeat(&self, key: &RepeatKey, now: Instant) -> bool {
        self.told.get(key).is_some_and(|told| now.saturating_duration_since(*told) < self.interval)
    }

    /// Notes that `key` is told. A success forgets the object's errors and an error its
    /// successes, so that fail, ok, fail, ok is told four times.
    pub(super) fn note(&mut self, key: RepeatKey, now: Instant) {
        /// Texts remembered per object; more would be a flood of different ones.
        const PER_OBJECT: usize = 16;
        if key.kind != Kind::Other {
            let mut told = self.decisive.remove(&key.about).unwrap_or_default();
            told.retain(|other| {
                let same_kind = other.kind == key.kind;
                if !same_kind {
                    self.told.remove(other);
                }
                same_kind && *other != key
            });
            if told.len() >= PER_OBJECT {
                told.remove(0);
            }
            told.push(key);
            self.decisive.insert(key.about, told);
        }
        self.told.insert(key, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, TurnedClock};

    fn key(text: u64, kind: Kind) -> RepeatKey {
        RepeatKey { about: 7, text, kind }
    }

    #[test]
    fn fail_ok_fail_ok_is_told_four_times() {
        let now = TurnedClock::new().now();
        let mut repeats = Repeats::new(Duration::from_secs(300));
        let (fail, ok) = (key(1, Kind::Error), key(2, Kind::Success));
        for message in [fail, ok, fail, ok] {
            assert!(!repeats.is_repeat(&message, now));
            repeats.note(message, now);
            assert!(repeats.is_repeat(&message, now));
        }
    }

    #[test]
    fn a_key_comes_back_from_disk_as_it_was() {
        for kind in [Kind::Error, Kind::Success, Kind::Other] {
            let key = RepeatKey { about: 1 << 60, text: 3, kind };
            assert_eq!(RepeatKey::from_bytes(key.to_bytes()), Some(key));
        }
        assert_eq!(RepeatKey::from_bytes([9; RepeatKey::BYTES]), None);
    }

    #[test]
    fn the_interval_slides_from_each_telling() {
        let now = TurnedClock::new().now();
        let mut repeats = Repeats::new(Duration::from_secs(300));
        let other = key(3, Kind::Other);
        repeats.note(other, now);
        assert!(repeats.is_repeat(&other, now + Duration::from_secs(299)));
        assert!(!repeats.is_repeat(&other, now + Duration::from_secs(300)));
    }

    #[test]
    fn what_differs_in_any_part_is_no_repeat() {
        let base = Event { message: "m".into(), severity: "info".into(), reason: "r".into(), ..Default::default() };
        let of = |event: &Event| RepeatKey::new(event, Marks::of(event), "a", "p");
        let mut variants = vec![base.clone(); 5];
        variants[1].message.push('x');
        variants[2].severity = "error".into();
        variants[3].reason.push('x');
        variants[4].metadata.insert("/revision".into(), String::new());
        for (at, one) in variants.iter().enumerate() {
            for other in &variants[at + 1..] {
                assert_ne!(of(one), of(other));
            }
        }
        assert_ne!(of(&base), RepeatKey::new(&base, Marks::of(&base), "b", "p"));
    }
}
