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

use std::collections::HashMap;

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
    fn send<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Result<(), SendError>>;
}

/// What a vendor has on a commit: the newest status of each name.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// By what [`Wording::identity`] makes of the name.
    pub statuses: HashMap<String, Said>,
}

impl Listing {
    /// The answer of a vendor that tells of one status at a time.
    pub fn of_one(identity: &str, said: Option<Said>) -> Self {
        Self { statuses: said.map(|said| (identity.to_owned(), said)).into_iter().collect() }
    }

    /// Of rows with id, identity and content in the vendor's order: the highest id of each identity
    /// is the newest, and where there are no ids the first is.
    pub fn newest(rows: impl IntoIterator<Item = (Option<i64>, String, Said)>) -> Self {
        let mut newest: HashMap<String, (Option<i64>, Said)> = HashMap::new();
        for (id, identity, said) in rows {
            match newest.get(&identity) {
                Some((other, _)) if *other >= id => {}
                _ => {
                    newest.insert(identity, (id, said));
                }
            }
        }
        Self { statuses: newest.into_iter().map(|(name, (_, said))| (name, said)).collect() }
    }

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
