//! What is to be said, and the place where it is said. Stored by `outbox`, sent by `vendors`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::metadata::combine_with;
use crate::api::Event;

/// Something to tell one Provider, in no vendor's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A state on a commit.
    CommitStatus(CommitStatus),
    /// The event itself.
    Event(Message),
}

/// An event as one Alert sends it. The Alerts that an event matches share the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// As it was received, its metadata cleaned.
    pub event: Arc<Event>,
    /// The Alert's metadata; `None` when the event's is combined with it already.
    pub added: Option<BTreeMap<String, String>>,
}

impl Message {
    /// The event with its metadata combined: what is sent.
    pub fn combined(&self) -> Event {
        let mut event = Event::clone(&self.event);
        if let Some(added) = &self.added {
            event.metadata = combine_with(&self.event, added);
        }
        event
    }
}

impl From<Event> for Message {
    /// Of an event that is sent as it is.
    fn from(event: Event) -> Self {
        Self { event: event.into(), added: None }
    }
}

/// A state on a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitStatus {
    /// 40 or 64 hex digits.
    pub commit: Arc<str>,
    /// The state.
    pub state: State,
    /// The status' name: context at GitHub and Gitea.
    pub name: Arc<str>,
    /// A few words, no longer than the vendor takes.
    pub description: String,
    /// Lower-case `kind/name` of the object, for the vendors that show a label besides the name.
    pub label: String,
    /// Metadata `summary`, for the vendor that makes it part of the status' identity.
    pub summary: Option<String>,
    /// Written only where the vendor shows a failure under this name: a recovery whose event lacks Flux's mark,
    /// and no process remembers the failure.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub over_failure: bool,
}

/// The three states Herald ever says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not decided yet.
    Pending,
    /// It works.
    Success,
    /// It does not.
    Failure,
}

impl State {
    /// In lower case.
    pub fn word(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Success => "success",
            State::Failure => "failure",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The place at the vendor where a status is said (rule R2). Inside one Slot requests go out one
/// at a time, and a newer Notice replaces an older one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Slot {
    /// The Provider's UID, so that one tenant's Provider cannot push out another's job.
    pub provider: Arc<str>,
    /// The repository an event chose; empty for the Provider's own (see
    /// `docs/adr/0001-slot-without-address.md`).
    pub repository: Arc<str>,
    /// The commit.
    pub commit: Arc<str>,
    /// The status' name, in lower case for a vendor that ignores case.
    pub name: Arc<str>,
}
