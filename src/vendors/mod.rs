//! STAGE 6: one file per Provider type, and THE TABLE.
//!
//! A vendor says how its service is spoken to: where a place is, how statuses are read and
//! written. It has no client, no retry, no sleep and no log; `delivery` calls it, `outbound`
//! carries its requests.

mod azuredevops;
mod bitbucket;
mod bitbucketserver;
pub mod forge;
mod generic;
mod gitea;
mod github;
mod gitlab;
mod rows;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;

use crate::api::Event;
use crate::compose::{CommitStatus, Wording};
use crate::matching::gate::Carries;
use crate::outbound::{SendError, Target};
use crate::outbox::{Said, comparable};

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
pub static TABLE: [Row; 7] = [
    status("azuredevops", azuredevops::WORDING, azuredevops::build),
    status("bitbucket", bitbucket::WORDING, bitbucket::build),
    status("bitbucketserver", bitbucketserver::WORDING, bitbucketserver::build),
    Row { name: "generic", carries: Carries::Event, wording: Wording::PLAIN, build: generic::build },
    status("gitea", gitea::WORDING, gitea::build),
    status("github", github::WORDING, github::build),
    status("gitlab", gitlab::WORDING, gitlab::build),
];

const fn status(name: &'static str, wording: Wording, build: fn(Target) -> Result<Service, BuildError>) -> Row {
    Row { name, carries: Carries::CommitStatus, wording, build }
}

/// The row of a Provider type; `None` when it is not built.
pub fn row(name: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.name == name)
}

/// A Provider type as a label of metrics, which must not take every word; empty when it is not built.
pub fn label(name: &str) -> &'static str {
    row(name).map_or("", |row| row.name)
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
    /// Whether [`Statuses::read`] tells of every status of the commit, or only of the one asked.
    fn reads_whole_commits(&self) -> bool;
    /// Reads what the vendor has on the commit of `status`.
    fn read<'a>(&'a self, status: &'a CommitStatus) -> BoxFuture<'a, Result<Listing, SendError>>;
    /// Sets a status.
    fn write<'a>(&'a self, status: &'a CommitStatus) -> BoxFuture<'a, Result<(), SendError>>;
}

/// Speaks to a service that takes events.
pub trait Events: Send + Sync {
    /// Tells it.
    fn send<'a>(&'a self, event: &Event) -> BoxFuture<'a, Result<(), SendError>>;
}

/// What a vendor has on a commit: the newest status of each name.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// By what [`Wording::identity`] makes of the name, as [`comparable`] has it.
    statuses: HashMap<Arc<str>, Listed>,
}

/// A status as the vendor lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What it says.
    pub said: Said,
    /// When it was written, by the vendor's clock and to the second; `None` when the vendor does not tell.
    pub written: Option<Instant>,
}

impl Listed {
    /// No status.
    pub const NOTHING: Self = Self { said: Said::Nothing, written: None };
}

impl Listing {
    /// Statuses kept; a vendor that has more of one commit is not believed to.
    const MAX_STATUSES: usize = 2000;

    /// The answer of a vendor that tells of one status at a time.
    pub fn of_one(identity: &str, listed: Option<Listed>) -> Self {
        Self { statuses: listed.map(|listed| (comparable(identity), listed)).into_iter().collect() }
    }

    /// Of rows with id, identity and content in the vendor's order: the highest id of each identity
    /// is the newest, and where there are no ids the first is.
    pub fn newest(rows: impl IntoIterator<Item = (Option<i64>, String, Listed)>) -> Self {
        let mut newest: HashMap<Arc<str>, (Option<i64>, Listed)> = HashMap::new();
        for (id, identity, listed) in rows {
            let identity = comparable(&identity);
            match newest.get(&identity) {
                Some((other, _)) if *other >= id => {}
                None if newest.len() >= Self::MAX_STATUSES => {}
                _ => {
                    newest.insert(identity, (id, listed));
                }
            }
        }
        Self { statuses: newest.into_iter().map(|(name, (_, listed))| (name, listed)).collect() }
    }

    /// What the vendor has under `name`.
    pub fn listed(&self, name: &str) -> Listed {
        self.statuses.get(&comparable(name)).cloned().unwrap_or(Listed::NOTHING)
    }

    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        let of = |(name, listed): (&Arc<str>, &Listed)| match &listed.said {
            Said::Status { description, .. } => name.len() + description.len(),
            _ => name.len(),
        };
        self.statuses.iter().map(of).sum::<usize>()
            + self.statuses.capacity() * size_of::<(Arc<str>, Listed, [usize; 4])>()
    }
}

/// Why a Provider cannot be spoken to as it is written; in words for its condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
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
