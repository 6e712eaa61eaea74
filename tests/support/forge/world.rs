//! What a [`Forge`](super::Forge) remembers, behind one lock.
//!
//! No network here: `door.rs`, `github.rs` and `gitea.rs` ask and tell, the handle in `mod.rs` reads.
#![expect(clippy::disallowed_methods, reason = "the host is no part of herald: it lives by a clock of its own")]

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::time::Instant;

use axum::http::{HeaderMap, Method};
use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;

use super::fault::{Fault, is_write};

/// Bounds, so that an `examples/forge.rs` left running for weeks stays small: when one is passed, the oldest go.
const MAX_COMMITS: usize = 10_000;
const MAX_STATUSES: usize = 500_000;
const MAX_REQUESTS: usize = 50_000;

/// Which vendor's API a status came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Host {
    /// `/api/v3/repos/…` (Enterprise) and `/repos/…` (github.com).
    GitHub,
    /// `/api/v1/repos/…`.
    Gitea,
}

impl Host {
    /// Whether two contexts name the same status. GitHub: "this field is case-insensitive" (its OpenAPI file, create a
    /// commit status). Gitea hashes the text as it is (1.26.0, `models/git/commit_status.go`).
    pub fn same_context(self, one: &str, other: &str) -> bool {
        match self {
            Self::GitHub => one.to_lowercase() == other.to_lowercase(),
            Self::Gitea => one == other,
        }
    }
}

/// One status as it was written: a row of the host's table.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Place in the order of all writes to this forge, from 1.
    pub seq: u64,
    /// The API it came through.
    pub host: Host,
    /// `owner/name`.
    pub repository: String,
    /// The commit's hash.
    pub commit: String,
    /// The status' name.
    pub context: String,
    /// `pending`, `success`, …
    pub state: String,
    /// `None` where the writer sent none.
    pub description: Option<String>,
    /// `None` where the writer sent none.
    pub target_url: Option<String>,
    /// The id that the host gave: rising over the whole host at GitHub, from 1 for each commit at Gitea.
    pub id: u64,
    /// When, by the host's clock.
    pub created: Timestamp,
}

/// One line for a terminal.
impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let commit = self.commit.get(..8).unwrap_or(&self.commit);
        let description = self.description.as_deref().unwrap_or_default();
        let Self { created, repository, state, context, .. } = self;
        write!(out, "{created:.0}  {commit:8}  {state:8}  {repository:17}  {context:32}  {description}")
    }
}

/// One request as it came in.
#[derive(Clone, Debug)]
pub struct Received {
    /// Place in the order of all requests, from 1.
    pub seq: u64,
    /// When it was complete.
    pub at: Instant,
    /// The method.
    pub method: Method,
    /// Path and query, percent-encoding untouched.
    pub uri: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Received {
    /// A header's text, or "" when it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    Write,
    /// Read statuses, not write them.
    Read,
    /// See no repository at all.
    Nothing,
}

/// What is known about a request's credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    Stranger,
    Known(Access),
}

/// Where a status belongs.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub host: Host,
    pub repository: String,
    pub commit: String,
}

/// Why a place does not exist (strict forges only).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    Repository,
    Commit,
}

#[derive(Default)]
struct Commit {
    statuses: Vec<Status>,
    flights: HashMap<String, Flight>,
}

#[derive(Default)]
struct Flight {
    now: usize,
    most: usize,
}

#[derive(Default)]
pub(super) struct World {
    pub strict: bool,
    pub clock: Option<Timestamp>,
    pub tokens: HashMap<String, Access>,
    pub faults: Vec<Fault>,
    pub reads: usize,
    pub writes: usize,
    requests: VecDeque<Received>,
    commits: HashMap<String, Commit>,
    /// The commits by age, for the bounds.
    by_age: VecDeque<String>,
    known: HashSet<(String, String)>,
    kept: usize,
    written: u64,
    received: u64,
}

impl World {
    // === requests ===

    pub fn receive(&mut self, method: &Method, uri: String, headers: &HeaderMap, body: &Bytes) {
        self.received += 1;
        if is_write(method) {
            self.writes += 1;
        } else {
            self.reads += 1;
        }
        if self.requests.len() == MAX_REQUESTS {
            self.requests.pop_front();
        }
        self.requests.push_back(Received {
            seq: self.received,
            at: Instant::now(),
            method: method.clone(),
            uri,
            headers: headers.clone(),
            body: body.clone(),
        });
    }

    pub fn requests(&self) -> Vec<Received> {
        self.requests.iter().cloned().collect()
    }

    pub fn reset_counts(&mut self) {
        self.reads = 0;
        self.writes = 0;
        self.requests.clear();
        for flight in self.commits.values_mut().flat_map(|commit| commit.flights.values_mut()) {
            flight.most = flight.now;
        }
    }

    /// The fault that strikes this request. Every line is asked, because every line counts.
    pub fn strike(&mut self, method: &Method, path: &str) -> Option<Fault> {
        let mut struck = None;
        for fault in &mut self.faults {
            if fault.strikes(method, path) && struck.is_none() {
                struck = Some(fault.clone());
            }
        }
        struck
    }

    /// Both vendors take `Bearer` and `token` as the scheme (Gitea 1.26.0: measured; GitHub: its docs on
    /// authentication).
    pub fn caller(&self, headers: &HeaderMap) -> Caller {
        let text = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (scheme, token) = text.split_once(' ').unwrap_or_default();
        let good_scheme = scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("token");
        if !good_scheme || token.is_empty() {
            Caller::Stranger
        } else if self.tokens.is_empty() {
            Caller::Known(Access::Write)
        } else {
            self.tokens.get(token).map_or(Caller::Stranger, |access| Caller::Known(*access))
        }
    }

    // === repositories and commits ===

    pub fn add_commit(&mut self, repository: &str, commit: &str) {
        self.known.insert((repository.to_owned(), commit.to_owned()));
    }

    pub fn find(&self, place: &Place) -> Result<(), Missing> {
        if !self.strict {
            Ok(())
        } else if !self.known.iter().any(|(repository, _)| *repository == place.repository) {
            Err(Missing::Repository)
        } else if !self
            .known
            .iter()
            .any(|(repository, commit)| (repository, commit) == (&place.repository, &place.commit))
        {
            Err(Missing::Commit)
        } else {
            Ok(())
        }
    }

    // === statuses ===

    pub fn statuses(&self, commit: &str) -> Vec<Status> {
        self.commits.get(commit).map(|commit| commit.statuses.clone()).unwrap_or_default()
    }

    /// All statuses of one repository's commit, in the order of writing.
    pub fn at(&self, place: &Place) -> Vec<Status> {
        let here = |status: &&Status| status.host == place.host && status.repository == place.repository;
        self.commits
            .get(&place.commit)
            .map(|commit| commit.statuses.iter().filter(here).cloned().collect())
            .unwrap_or_default()
    }

    /// All statuses there are, in the order of writing; for the page.
    pub fn all(&self) -> Vec<Status> {
        let mut all: Vec<_> = self.commits.values().flat_map(|commit| commit.statuses.iter().cloned()).collect();
        all.sort_unstable_by_key(|status| status.seq);
        all
    }

    /// Writes a row; `id` gets the number that rises over the whole host.
    pub fn write(&mut self, place: Place, said: Said, id: impl FnOnce(u64) -> u64) -> Status {
        self.written += 1;
        self.kept += 1;
        let status = Status {
            seq: self.written,
            host: place.host,
            repository: place.repository,
            commit: place.commit,
            context: said.context,
            state: said.state,
            description: said.description,
            target_url: said.target_url,
            id: id(self.written),
            created: self.clock.unwrap_or_else(Timestamp::now),
        };
        self.commit(&status.commit).statuses.push(status.clone());
        self.forget_the_oldest();
        status
    }

    fn commit(&mut self, hash: &str) -> &mut Commit {
        if !self.commits.contains_key(hash) {
            self.by_age.push_back(hash.to_owned());
        }
        self.commits.entry(hash.to_owned()).or_default()
    }

    fn forget_the_oldest(&mut self) {
        while self.by_age.len() > 1 && (self.by_age.len() > MAX_COMMITS || self.kept > MAX_STATUSES) {
            let oldest = self.by_age.pop_front().and_then(|hash| self.commits.remove(&hash));
            self.kept -= oldest.map_or(0, |commit| commit.statuses.len());
        }
    }

    // === writes under way ===

    pub fn take_off(&mut self, commit: &str, context: &str) {
        let flight = self.commit(commit).flights.entry(context.to_lowercase()).or_default();
        flight.now += 1;
        flight.most = flight.most.max(flight.now);
        self.forget_the_oldest();
    }

    pub fn land(&mut self, commit: &str, context: &str) {
        let commit = self.commits.get_mut(commit);
        if let Some(flight) = commit.and_then(|commit| commit.flights.get_mut(&context.to_lowercase())) {
            flight.now = flight.now.saturating_sub(1);
        }
    }

    pub fn max_in_flight(&self, commit: &str, context: &str) -> usize {
        let commit = self.commits.get(commit);
        commit.and_then(|commit| commit.flights.get(&context.to_lowercase())).map_or(0, |flight| flight.most)
    }
}

/// What a writer said, checked by its API.
pub(super) struct Said {
    pub context: String,
    pub state: String,
    pub description: Option<String>,
    pub target_url: Option<String>,
}
