//! What a [`Forge`](super::Forge) remembers, behind one lock.
//!
//! No network here: `door.rs` and the file of each API ask and tell, the handle in `mod.rs` reads.
#![expect(clippy::disallowed_methods, reason = "the host is no part of herald: it lives by a clock of its own")]

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;

use super::apps::{self, App};
use super::entra::Application;
use super::fault::{Fault, is_write};
use super::{gitlab, limits};

/// Bounds, so that an `examples/forge.rs` left running for weeks stays small: when one is passed, the oldest go.
const MAX_COMMITS: usize = 10_000;
const MAX_STATUSES: usize = 500_000;
const MAX_REQUESTS: usize = 50_000;
const MAX_TOKENS: usize = 10_000;

/// Which vendor's API a status came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Host {
    /// `/api/v3/repos/…` (Enterprise) and `/repos/…` (github.com).
    GitHub,
    /// `/api/v1/repos/…`.
    Gitea,
    /// `/api/v4/projects/…`.
    GitLab,
    /// Bitbucket Cloud, `/2.0/repositories/…`.
    Bitbucket,
    /// Bitbucket Data Center, `/rest/api/latest/projects/…`.
    BitbucketServer,
    /// `/<organization>/<project>/_apis/…`.
    AzureDevOps,
}

impl Host {
    /// Whether two contexts name the same status. GitHub: "this field is case-insensitive" (its OpenAPI file, create a
    /// commit status). Gitea hashes the text as it is (1.26.0, `models/git/commit_status.go`); nothing is said of the
    /// others.
    pub fn same_context(self, one: &str, other: &str) -> bool {
        match self {
            Self::GitHub => one.to_lowercase() == other.to_lowercase(),
            _ => one == other,
        }
    }
}

/// One status as it was written. Where an API writes over the row it has, there is one of these for each write.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Place in the order of all writes to this forge, from 1.
    pub seq: u64,
    /// The API it came through.
    pub host: Host,
    /// `owner/name`; at GitLab as many groups as there are, or a number; at Azure DevOps
    /// `organization/project/repository`.
    pub repository: String,
    /// The commit's hash.
    pub commit: String,
    /// What the API tells statuses apart by: GitHub's and Gitea's context, GitLab's name, Bitbucket's key, the name in
    /// Azure DevOps' context.
    pub context: String,
    /// Bitbucket's `name`, which is for people only.
    pub name: Option<String>,
    /// Azure DevOps' genre, which is the other half of the context.
    pub genre: Option<String>,
    /// `pending`, `success`, … in the API's words.
    pub state: String,
    /// `None` where the writer sent none.
    pub description: Option<String>,
    /// `None` where the writer sent none.
    pub target_url: Option<String>,
    /// The id that the host gave: rising over the whole host, or from 1 for each commit at Gitea and Azure DevOps. One
    /// that was there before is a row written over (GitLab).
    pub id: u64,
    /// When, by the host's clock.
    pub created: Timestamp,
    /// Whose token it was, as a number: GitLab keeps the rows of two users apart.
    pub writer: u64,
}

impl Status {
    /// Whether both are about one and the same status of a commit.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.host == other.host
            && self.repository == other.repository
            && self.genre == other.genre
            && self.host.same_context(&self.context, &other.context)
    }

    /// What people call it; a key of Bitbucket's is mostly a hash.
    pub(super) fn label(&self) -> String {
        match (&self.name, &self.genre) {
            (Some(name), _) => name.clone(),
            (None, Some(genre)) => format!("{genre}/{}", self.context),
            (None, None) => self.context.clone(),
        }
    }

    /// What the state means, whatever the API's word for it is; gives the page its colours. What is neither good nor bad
    /// nor under way is "other": cancelled, skipped, and all that Gitea takes besides.
    pub(super) fn kind(&self) -> &'static str {
        match self.state.to_ascii_lowercase().as_str() {
            "success" | "successful" | "succeeded" => "success",
            "failure" | "failed" => "failure",
            "error" => "error",
            "pending" | "running" | "inprogress" => "pending",
            _ => "other",
        }
    }
}

/// One line for a terminal.
impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let commit = self.commit.get(..8).unwrap_or(&self.commit);
        let description = self.description.as_deref().unwrap_or_default();
        let label = self.label();
        let Self { created, repository, state, .. } = self;
        write!(out, "{created:.0}  {commit:8}  {state:10}  {repository:17}  {label:32}  {description}")
    }
}

/// One request as it came in.
#[derive(Clone, Debug)]
pub struct Received {
    /// Place in the order of all requests, from 1.
    pub seq: u64,
    /// When it was complete.
    pub at: Instant,
    /// The protocol it came by.
    pub version: Version,
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

/// The secret in a request, where and how its API takes one.
fn credential(host: Host, headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // GitLab: docs.gitlab.com/api/rest/authentication; `Bearer` is good there too.
    if host == Host::GitLab && !text("private-token").is_empty() {
        return Some(text("private-token").to_owned());
    }
    let (scheme, secret) = text("authorization").split_once(' ')?;
    let decoded = || String::from_utf8(STANDARD.decode(secret).ok()?).ok();
    match (scheme.to_ascii_lowercase().as_str(), host) {
        ("bearer", _) => Some(secret.to_owned()),
        // Gitea 1.26.0: measured; GitHub: its docs on authentication.
        ("token", Host::GitHub | Host::Gitea) => Some(secret.to_owned()),
        ("basic", Host::Bitbucket | Host::BitbucketServer) => decoded(),
        // microsoft/azure-devops-mcp#1452: the token is the password, with any user name or none.
        ("basic", Host::AzureDevOps) => Some(decoded()?.split_once(':')?.1.to_owned()),
        _ => None,
    }
    .filter(|secret| !secret.is_empty())
}

/// Where a status belongs.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub host: Host,
    pub repository: String,
    pub commit: String,
}

/// Why a request goes no further; what the API says to that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Barred {
    /// No credential, or an unknown one.
    Stranger,
    /// The repository is not there, or hidden from this caller.
    Repository,
    /// The caller may read and wants to write.
    ReadOnly,
    /// The repository is there, the commit is not.
    Commit,
}

/// A status of an API that writes over what it has.
pub(super) struct Row {
    /// When it was written first.
    pub created: Timestamp,
    /// What was written last.
    pub now: Status,
}

#[derive(Default)]
struct Commit {
    statuses: Vec<Status>,
    flights: HashMap<String, Flight>,
    /// One for each repository; GitLab's.
    locks: HashMap<String, Arc<tokio::sync::Mutex<()>>>,
}

#[derive(Default)]
struct Flight {
    now: usize,
    most: usize,
}

pub(super) struct World {
    pub strict: bool,
    pub clock: Option<Timestamp>,
    pub tokens: HashMap<String, Access>,
    pub apps: Vec<App>,
    pub applications: Vec<Application>,
    /// The newest version of Azure DevOps' API that is here; none for any.
    pub azure_latest: Option<f32>,
    pub token_life: Duration,
    /// Tokens given out here, and until when each is good.
    pub minted: Vec<(String, Timestamp)>,
    pub faults: Vec<Fault>,
    /// How often each kind of fault struck.
    pub struck: BTreeMap<String, usize>,
    pub gitlab: gitlab::Pace,
    pub callers: limits::Callers,
    pub reads: usize,
    pub writes: usize,
    requests: VecDeque<Received>,
    /// Every token that wrote; its place is its user's number.
    users: Vec<String>,
    commits: HashMap<String, Commit>,
    /// The commits by age, for the bounds.
    by_age: VecDeque<String>,
    known: HashSet<(String, String)>,
    kept: usize,
    written: u64,
    received: u64,
}

impl Default for World {
    fn default() -> Self {
        Self {
            strict: false,
            clock: None,
            tokens: HashMap::new(),
            apps: Vec::new(),
            applications: Vec::new(),
            azure_latest: None,
            token_life: apps::LIFE,
            minted: Vec::new(),
            faults: Vec::new(),
            gitlab: gitlab::Pace::default(),
            callers: limits::Callers::default(),
            reads: 0,
            writes: 0,
            struck: BTreeMap::new(),
            requests: VecDeque::new(),
            users: Vec::new(),
            commits: HashMap::new(),
            by_age: VecDeque::new(),
            known: HashSet::new(),
            kept: 0,
            written: 0,
            received: 0,
        }
    }
}

impl World {
    // === tokens ===

    /// Gives out a new token, and says until when it is good.
    pub fn mint(&mut self, prefix: &str) -> (String, Timestamp) {
        let token = format!("{prefix}{}", uuid::Uuid::new_v4().simple());
        let end = apps::end(self.clock.unwrap_or_else(Timestamp::now), self.token_life);
        if self.minted.len() == MAX_TOKENS {
            self.minted.remove(0);
        }
        self.minted.push((token.clone(), end));
        (token, end)
    }

    /// What a token may do; `None` for one that is no good.
    fn access(&self, token: &str) -> Option<Access> {
        if let Some((_, end)) = self.minted.iter().find(|(known, _)| known == token) {
            return (self.clock.unwrap_or_else(Timestamp::now) < *end).then_some(Access::Write);
        }
        let open = self.tokens.is_empty() && self.apps.is_empty() && self.applications.is_empty();
        if open { Some(Access::Write) } else { self.tokens.get(token).copied() }
    }

    // === requests ===

    pub fn receive(&mut self, parts: &Parts, body: &Bytes) {
        let Parts { method, uri, headers, version, .. } = parts;
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
            version: *version,
            method: method.clone(),
            uri: uri.to_string(),
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
        if let Some(fault) = &struck {
            *self.struck.entry(fault.label()).or_default() += 1;
        }
        struck
    }

    /// Whether a request may do what it wants where it wants it.
    pub fn admit(&self, place: &Place, headers: &HeaderMap, wanted: Access) -> Result<(), Barred> {
        let token = credential(place.host, headers).ok_or(Barred::Stranger)?;
        match (self.access(&token), wanted) {
            (None, _) => Err(Barred::Stranger),
            (Some(Access::Nothing), _) => Err(Barred::Repository),
            (Some(Access::Read), Access::Write) => Err(Barred::ReadOnly),
            (Some(_), _) => self.find(place),
        }
    }

    /// The number of the user behind a request: one for each token, from 1.
    pub fn user(&mut self, host: Host, headers: &HeaderMap) -> u64 {
        let token = credential(host, headers).unwrap_or_default();
        let at = self.users.iter().position(|known| *known == token).unwrap_or_else(|| {
            self.users.push(token);
            self.users.len() - 1
        });
        at as u64 + 1
    }

    // === repositories and commits ===

    pub fn add_commit(&mut self, repository: &str, commit: &str) {
        self.known.insert((repository.to_owned(), commit.to_owned()));
    }

    fn find(&self, place: &Place) -> Result<(), Barred> {
        if !self.strict {
            Ok(())
        } else if !self.known.iter().any(|(repository, _)| *repository == place.repository) {
            Err(Barred::Repository)
        } else if !self
            .known
            .iter()
            .any(|(repository, commit)| (repository, commit) == (&place.repository, &place.commit))
        {
            Err(Barred::Commit)
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

    /// What a repository's commit has where writes go over what was there: one row for all writes that are `same`, in
    /// the order in which the rows began.
    pub fn rows(&self, place: &Place, same: impl Fn(&Status, &Status) -> bool) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for status in self.at(place) {
            match rows.iter_mut().find(|row| same(&row.now, &status)) {
                Some(row) => row.now = status,
                None => rows.push(Row { created: status.created, now: status }),
            }
        }
        rows
    }

    /// Takes a status away as if it had never been written; says whether there was one.
    pub fn delete(&mut self, place: &Place, context: &str) -> bool {
        let Some(commit) = self.commits.get_mut(&place.commit) else { return false };
        let before = commit.statuses.len();
        commit.statuses.retain(|status| {
            (status.host, &status.repository, status.context.as_str()) != (place.host, &place.repository, context)
        });
        let deleted = before - commit.statuses.len();
        self.kept -= deleted;
        deleted > 0
    }

    /// The lock over one repository's commit.
    pub fn lock(&mut self, place: &Place) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.commit(&place.commit).locks.entry(place.repository.clone()).or_default())
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
            name: said.name,
            genre: said.genre,
            state: said.state,
            description: said.description,
            target_url: said.target_url,
            id: id(self.written),
            created: self.clock.unwrap_or_else(Timestamp::now),
            writer: said.writer,
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

/// What a writer said, checked by its API; the fields are those of a [`Status`].
#[derive(Default)]
pub(super) struct Said {
    pub context: String,
    pub name: Option<String>,
    pub genre: Option<String>,
    pub state: String,
    pub description: Option<String>,
    pub target_url: Option<String>,
    pub writer: u64,
}
