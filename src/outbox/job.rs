//! A Notice for one Provider, and what orders it among others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::repeats::RepeatKey;
use crate::api::Key;
use crate::compose::{self, Notice, Slot, State};

/// Identifies a job within one outbox; rises.
pub type JobId = u64;

/// What a job is about. Jobs of one subject go out one at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Subject {
    /// A commit status: a newer job replaces an older one.
    Slot(Slot),
    /// Messages of one Alert about one object: all are said, in the order they came.
    Stream {
        /// The Provider's UID.
        provider: Arc<str>,
        /// Alert and object.
        about: Arc<str>,
    },
}

impl Subject {
    /// The UID of the Provider.
    pub fn provider(&self) -> &Arc<str> {
        match self {
            Subject::Slot(slot) => &slot.provider,
            Subject::Stream { provider, .. } => provider,
        }
    }
}

/// Orders statements about one Slot (rule R1).
///
/// Event times have whole seconds and cannot order. The object's resourceVersion at the start of
/// the reconcile can, within one object; a sender waits for our answer before it posts again, so
/// arrival orders the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// UID of the involved object.
    pub object: Arc<str>,
    /// Its resourceVersion, when that is a number.
    pub version: Option<u64>,
    /// When the event arrived.
    pub arrived: Instant,
}

impl Stamp {
    /// A lower version is older only this long after the higher one came: a restored etcd
    /// rewinds versions, and must not be ignored for ever.
    pub const VERSION_WINDOW: Duration = Duration::from_secs(120);

    /// What later statements are compared with once this one was accepted after `latest`. One without
    /// a version takes nothing from the order of those that have one.
    #[must_use]
    pub fn following(self, latest: Option<&Stamp>) -> Stamp {
        match latest {
            Some(latest) if self.version.is_none() && self.object == latest.object => latest.clone(),
            _ => self,
        }
    }

    /// Whether a statement stamped `self` that arrives now is older than the accepted `latest`.
    pub fn is_older_than(&self, latest: &Stamp) -> bool {
        self.object == latest.object
            && matches!((self.version, latest.version), (Some(this), Some(that)) if this < that)
            && self.arrived.saturating_duration_since(latest.arrived) < Self::VERSION_WINDOW
    }
}

/// A job on its way into the outbox.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// What it is about.
    pub subject: Subject,
    /// Its place in the order.
    pub stamp: Stamp,
    /// What is to be said.
    pub notice: Notice,
    /// The Provider's name, for people.
    pub provider: Key,
    /// The Alert that wanted it.
    pub alert: Key,
    /// `Kind/namespace/name` of the involved object, for people.
    pub object: Arc<str>,
    /// For messages: what makes another one a repeat of this.
    pub repeat: Option<RepeatKey>,
}

impl NewJob {
    /// The same for another Provider of the same name. A status that is named after the Provider is named after the
    /// new one, as later statements about it are.
    #[must_use]
    pub fn for_provider(mut self, uid: &Arc<str>) -> Self {
        let renamed = |name: &str, from: &str| compose::for_provider(name, from, uid);
        match &mut self.subject {
            Subject::Slot(slot) => {
                if let Some(name) = renamed(&slot.name, &slot.provider) {
                    slot.name = name;
                }
                if let Notice::CommitStatus(status) = &mut self.notice
                    && let Some(name) = renamed(&status.name, &slot.provider)
                {
                    status.name = name;
                }
                slot.provider = uid.clone();
            }
            Subject::Stream { provider, .. } => *provider = uid.clone(),
        }
        self
    }

    /// What goes first when not all can go: failures, then successes, then what is pending (rule R9).
    pub fn rank(&self) -> u8 {
        match &self.notice {
            Notice::CommitStatus(status) => match status.state {
                State::Failure => 0,
                State::Success => 1,
                State::Pending => 2,
            },
            Notice::Event(event) => u8::from(event.event.severity != "error"),
        }
    }
}

/// A claimed job.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// As it was put.
    pub new: Arc<NewJob>,
    /// How often it was claimed before.
    pub attempts: u32,
    /// It was said, and counted; what is left is a look.
    pub said: bool,
    /// An earlier process had this job, or one that it replaced: a request of that process may not be over.
    pub taken_up: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, TurnedClock};

    #[test]
    fn rule_r1() {
        let start = TurnedClock::new().now();
        let stamp = |object: &str, version, seconds| Stamp {
            object: object.into(),
            version,
            arrived: start + Duration::from_secs(seconds),
        };
        let latest = stamp("uid", Some(100), 0);
        for (case, next, older) in [
            ("a higher version is newer", stamp("uid", Some(101), 1), false),
            ("an equal version is newer by arrival", stamp("uid", Some(100), 1), false),
            ("a lower version is older", stamp("uid", Some(99), 1), true),
            ("until 120 s have passed", stamp("uid", Some(99), 119), true),
            ("then it is newer: versions were rewound", stamp("uid", Some(99), 120), false),
            ("no number: arrival orders", stamp("uid", None, 1), false),
            ("another object: arrival orders", stamp("other", Some(1), 1), false),
        ] {
            assert_eq!(next.is_older_than(&latest), older, "{case}");
        }
        let without = stamp("uid", None, 1).following(Some(&latest));
        assert!(stamp("uid", Some(99), 2).is_older_than(&without), "one without a version does not let older ones in");
        let other = stamp("other", None, 1).following(Some(&latest));
        assert!(!stamp("uid", Some(99), 2).is_older_than(&other), "another object begins anew");
    }
}
