//! What vendors refused about one commit, or about one status of it, and nothing else: a commit that is not
//! there, one that may not be written, a status that can never be. `budget` asks before a job sends anything
//! and notes refusals; time comes in with each call.
//!
//! Invariants: a refusal counts for one [`Source`] only. There are at most [`MOST`] of them, of all Providers
//! together; when there is no room, the oldest go, which costs requests and nothing else. They are in memory
//! alone: after a restart each is found out once more.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{NO_ROOM, Source};
use crate::compose::CommitStatus;
use crate::delivery::verdict;
use crate::outbound::SendError;

/// Refusals that are remembered; one takes about 600 bytes at most.
const MOST: usize = 4096;

/// Bytes of an answer that are kept with a refusal.
const KEPT_BODY: usize = 256;

/// Providers that are woken when a refusal ends, at most.
const MOST_HOLDS: usize = 8;

/// A commit is young until its event is this old: the vendor's replicas may not know it yet.
const YOUNG: Duration = Duration::from_secs(60);

/// How long the one job of a commit that tries it again keeps the others waiting.
const TRYING: Duration = Duration::from_secs(10);

/// What is refused in words that are not known to be final is tried again after this.
const UNKNOWN_WORDS: Duration = Duration::from_secs(3600);

/// What a job wants to write, and since when.
#[derive(Clone, Copy)]
pub struct About<'a> {
    /// The status.
    pub status: &'a CommitStatus,
    /// When its event arrived.
    pub arrived: Instant,
}

/// Where a status is to be: for whom, and in which repository.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub source: Source,
    pub repository: &'a str,
    pub provider: &'a Arc<str>,
    pub version: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Commits {
    refused: HashMap<u64, Refused>,
    hasher: RandomState,
    /// How often something was lifted that had been refused.
    lifted: u64,
}

#[derive(Debug)]
struct Refused {
    because: SendError,
    noted: Instant,
    /// When one job tries it again; `None`: after a change of the Provider.
    until: Option<Instant>,
    /// Its jobs are given up before then, rather than held.
    hopeless: bool,
    /// How often it was refused in a row.
    times: u32,
    /// A job tries it, and is done by then.
    trying: Option<Instant>,
    /// It was a read that was refused, so one that works is proof enough.
    read: bool,
    /// Providers with jobs that it holds, in the version that the first of these had.
    holds: Vec<(Arc<str>, u64)>,
}

/// What a refusal is about.
#[derive(Clone, Copy)]
enum Key {
    Commit,
    /// A status of one name.
    Name,
    /// A status of one name that says the same.
    Words,
}

impl Commits {
    fn key(&self, place: Place<'_>, status: &CommitStatus, key: Key) -> u64 {
        let CommitStatus { commit, name, state, description, .. } = status;
        let (name, words) = match key {
            Key::Commit => (None, None),
            Key::Name => (Some(name), None),
            Key::Words => (Some(name), Some((state.word(), description))),
        };
        self.hasher.hash_one((place.source, place.repository, commit, name, words))
    }

    /// Whether the like of a status was refused. When a refusal is due, the first job that asks tries it.
    ///
    /// # Errors
    /// [`SendError::Hopeless`], or [`SendError::Held`] until the next try.
    pub fn check(&mut self, place: Place<'_>, about: About<'_>, now: Instant) -> Result<(), SendError> {
        if self.refused.is_empty() {
            return Ok(());
        }
        for key in [Key::Name, Key::Words, Key::Commit] {
            let key = self.key(place, about.status, key);
            let Some(refused) = self.refused.get_mut(&key) else { continue };
            let held = refused.held(now);
            if held.is_some() {
                refused.hold(place);
            }
            if let Some(held) = held {
                return Err(held);
            }
            if !refused.hopeless {
                refused.trying = Some(now + TRYING);
            }
        }
        Ok(())
    }

    /// Why the status' commit is left alone, for a job that was let through a moment ago.
    pub fn held(&self, place: Place<'_>, about: About<'_>, now: Instant) -> Option<SendError> {
        if self.refused.is_empty() {
            return None;
        }
        let refused = self.refused.get(&self.key(place, about.status, Key::Commit))?;
        refused.held(now).filter(|_| refused.until.is_none_or(|until| until > now))
    }

    /// Notes that the status' commit was refused; how long it is left alone. `absent`: the vendor does not know
    /// it, which may pass within seconds.
    pub fn note(
        &mut self,
        place: Place<'_>,
        about: About<'_>,
        (error, absent, read): (&SendError, bool, bool),
        now: Instant,
    ) -> Duration {
        let young = absent && now.saturating_duration_since(about.arrived) < YOUNG;
        let refused = self.entry(self.key(place, about.status, Key::Commit), error, now);
        refused.hold(place);
        if refused.until.is_none_or(|until| until <= now) {
            let times = if young { refused.times } else { refused.times.max(verdict::QUICK) };
            let until = now + verdict::absent(times);
            (refused.until, refused.times) = (Some(until), times.saturating_add(1));
            (refused.trying, refused.read) = (None, read);
        }
        refused.until.map_or(Duration::ZERO, |until| until - now)
    }

    /// Notes that the status can never be written. Words that are not known to be final count when they are
    /// said twice of the same.
    pub fn give_up(&mut self, place: Place<'_>, about: About<'_>, error: &SendError, now: Instant) {
        let known = error.is_final();
        let key = self.key(place, about.status, if known { Key::Name } else { Key::Words });
        let refused = self.entry(key, error, now);
        refused.hold(place);
        (refused.hopeless, refused.times) = (true, refused.times.saturating_add(1));
        refused.until = match (known, refused.times) {
            (true, _) => None,
            (false, 1) => Some(now),
            (false, _) => Some(now + UNKNOWN_WORDS),
        };
    }

    /// A job was delivered or, when `read`, read its commit: what that proves wrong is refused no more. Gives the
    /// Providers that held something back.
    pub fn worked(&mut self, place: Place<'_>, about: About<'_>, read: bool) -> Vec<Arc<str>> {
        if self.refused.is_empty() {
            return Vec::new();
        }
        let keys = [Key::Commit, Key::Words].map(|key| self.key(place, about.status, key));
        let mut held = Vec::new();
        for key in keys {
            if self.refused.get(&key).is_some_and(|refused| refused.read || !read) {
                held.extend(self.refused.remove(&key).into_iter().flat_map(Refused::held_back));
            }
        }
        self.lifted += u64::from(!held.is_empty());
        held
    }

    /// A Provider changed, to this version: what was refused in an earlier one may be granted now.
    pub fn forget(&mut self, provider: &str, version: u64) -> Vec<Arc<str>> {
        let of = |refused: &Refused| refused.holds.iter().any(|(holds, held)| **holds == *provider && *held < version);
        let lifted: Vec<_> = self.refused.extract_if(|_, refused| of(refused)).collect();
        self.lifted += u64::from(!lifted.is_empty());
        lifted.into_iter().flat_map(|(_, refused)| refused.held_back()).collect()
    }

    /// Rises whenever something is tried again that was refused.
    pub fn lifted(&self) -> u64 {
        self.lifted
    }

    fn entry(&mut self, key: u64, error: &SendError, now: Instant) -> &mut Refused {
        if self.refused.len() >= MOST && !self.refused.contains_key(&key) {
            self.make_room();
        }
        let new = || Refused {
            because: error.clone(),
            noted: now,
            until: None,
            hopeless: false,
            times: 0,
            trying: None,
            read: false,
            holds: Vec::new(),
        };
        let refused = self.refused.entry(key).or_insert_with(new);
        (refused.because, refused.noted) = (error.clone().cut(KEPT_BODY), now);
        refused
    }

    /// Lets the older half go.
    fn make_room(&mut self) {
        let mut noted: Vec<_> = self.refused.values().map(|refused| refused.noted).collect();
        let (_, middle, _) = noted.select_nth_unstable(MOST / 2);
        let middle = *middle;
        let mut left = MOST / 2;
        self.refused.retain(|_, refused| {
            let stays = refused.noted >= middle && left > 0;
            left -= usize::from(stays);
            stays
        });
    }
}

impl Refused {
    fn held(&self, now: Instant) -> Option<SendError> {
        let because = || Box::new(self.because.clone());
        let pause = match self.until {
            Some(until) if self.hopeless && until <= now => return None,
            _ if self.hopeless => return Some(SendError::Hopeless { because: because() }),
            None => return None,
            Some(until) if until > now => until - now,
            Some(_) if self.trying.is_some_and(|until| until > now) => NO_ROOM,
            Some(_) => return None,
        };
        Some(SendError::Held { pause, told: false, because: because() })
    }

    fn hold(&mut self, place: Place<'_>) {
        let known = self.holds.iter().any(|(provider, _)| provider == place.provider);
        if !known && self.holds.len() < MOST_HOLDS {
            self.holds.push((place.provider.clone(), place.version));
        }
    }

    fn held_back(self) -> impl Iterator<Item = Arc<str>> {
        self.holds.into_iter().map(|(provider, _)| provider)
    }
}
