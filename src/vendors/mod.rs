//! STAGE 6: one file per Provider type, and THE TABLE.
//!
//! A vendor says how its service is spoken to: where a place is, how statuses are read and
//! written. It has no client, no retry, no sleep and no log; `delivery` calls it, `outbound`
//! carries its requests.

pub mod forge;
mod generic;
mod gitea;
mod github;

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::api::Event;
use crate::compose::{CommitStatus, Wording};
use crate::matching::gate::Carries;
use crate::outbound::{SendError, Target};
use crate::outbox::Said;

/// One Provider type: what it is called, what it carries, how it likes things said, and how to
/// speak to it. The factory, the gates, the docs and the compliance test all read this.
pub struct Row {
    /// `spec.type`.
    pub name: &'static str,
    /// What it is told.
    pub carries: Carries,
    /// How it likes things said.
    pub wording: Wording,
    /// Makes a Target speak.
    pub build: fn(Target) -> Result<Service, BuildError>,
}

/// The Provider types that are built, by name.
pub static TABLE: [Row; 3] = [
    Row { name: "generic", carries: Carries::Event, wording: Wording::PLAIN, build: generic::build },
    Row { name: "gitea", carries: Carries::CommitStatus, wording: gitea::WORDING, build: gitea::build },
    Row { name: "github", carries: Carries::CommitStatus, wording: github::WORDING, build: github::build },
];

/// The row of a Provider type; `None` when it is not built.
pub fn row(name: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.name == name)
}

/// A service ready to be told.
pub enum Service {
    /// It takes states of commits.
    Statuses(Box<dyn Statuses>),
    /// It takes events.
    Events(Box<dyn Events>),
}

/// Speaks to a Git host.
pub trait Statuses: Send + Sync {
    /// API base and repository: what a status' place begins with.
    fn repository(&self) -> &str;
    /// Reads what the vendor has on a commit; some vendors answer only for `name`.
    fn read<'a>(&'a self, commit: &'a str, name: &'a str) -> BoxFuture<'a, Result<Listing, SendError>>;
    /// Sets a status.
    fn write<'a>(&'a self, status: &'a CommitStatus) -> BoxFuture<'a, Result<(), SendError>>;
}

/// Speaks to a service that takes events.
pub trait Events: Send + Sync {
    /// Tells it.
    fn send<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Result<(), SendError>>;
}

/// What a vendor has on a commit: the newest status of each name.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Every name of the commit is here, so one that is not has no status. Otherwise this is the
    /// answer for the one name that was asked about.
    pub whole: bool,
    /// By name, in lower case for a vendor that ignores case.
    pub statuses: HashMap<String, Said>,
}

impl Listing {
    /// What the vendor has under `name`.
    pub fn said(&self, name: &str) -> Said {
        self.statuses.get(name).cloned().unwrap_or(Said::Nothing)
    }
}

/// Why a Provider cannot be spoken to as it is written; in words for its condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildError {
    /// The condition's reason.
    pub reason: &'static str,
    /// The field or key, what is wrong, and what to do.
    pub message: String,
}

impl BuildError {
    /// The address cannot be one of this type.
    pub fn address(message: impl Into<String>) -> Self {
        Self { reason: "InvalidAddress", message: message.into() }
    }

    /// A credential is missing or cannot be used.
    pub fn credentials(message: impl Into<String>) -> Self {
        Self { reason: "InvalidCredentials", message: message.into() }
    }
}

/// A state as the vendor stores it, made comparable: an absent description is an empty one.
fn said(state: Option<crate::compose::State>, description: Option<String>) -> Said {
    Said::Status { state, description: Arc::from(description.unwrap_or_default()) }
}
