//! What a [`Forge`](super::Forge) shows to people: a page at `/`, and the JSON it reads once a second.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{Html, Response};
use serde::Serialize;
use serde_json::json;

use super::Shared;
use super::door;
use super::world::{Host, Status};

/// Where the JSON is.
pub(super) const STATUSES: &str = "/sim/statuses";

/// More commits than this make no page for people; the newest are shown.
const MAX_SHOWN: usize = 100;
/// A context's last states; more do not fit into a line.
const MAX_HISTORY: usize = 12;

#[derive(Serialize)]
struct Commit {
    host: Host,
    repository: String,
    commit: String,
    contexts: Vec<Context>,
    /// The last write's place in the order of all; the page puts the highest on top.
    seq: u64,
}

#[derive(Default, Serialize)]
struct Context {
    /// What it is called on the page.
    label: String,
    context: String,
    state: String,
    description: Option<String>,
    /// The last states, oldest first, this one included.
    history: Vec<String>,
    /// What each of them means: [`Status::kind`].
    kinds: Vec<&'static str>,
    writes: usize,
    created: String,
}

pub(super) async fn page() -> Html<&'static str> {
    Html(include_str!("page.html"))
}

pub(super) async fn statuses(State(shared): State<Arc<Shared>>) -> Response {
    let (reads, writes, rows) = {
        let world = shared.world.lock();
        (world.reads, world.writes, world.all())
    };
    door::json(StatusCode::OK, &json!({"reads": reads, "writes": writes, "commits": commits(rows)}))
}

/// Groups rows by commit and context, the commit that was last written to first.
fn commits(rows: Vec<Status>) -> Vec<Commit> {
    let mut groups: BTreeMap<_, Vec<Status>> = BTreeMap::new();
    for row in rows {
        let key = (row.repository.clone(), row.commit.clone(), row.host);
        groups.entry(key).or_default().push(row);
    }
    let mut commits: Vec<Commit> = groups.into_values().filter_map(commit).collect();
    commits.sort_unstable_by_key(|commit| std::cmp::Reverse(commit.seq));
    commits.truncate(MAX_SHOWN);
    commits
}

fn commit(rows: Vec<Status>) -> Option<Commit> {
    let last = rows.last()?.clone();
    let mut contexts: Vec<(Status, Context)> = Vec::new();
    for row in rows {
        let at = contexts.iter().position(|(known, _)| known.same(&row));
        let at = at.unwrap_or_else(|| {
            contexts.push((row.clone(), Context::default()));
            contexts.len() - 1
        });
        let context = &mut contexts[at].1;
        if context.history.len() == MAX_HISTORY {
            context.history.remove(0);
            context.kinds.remove(0);
        }
        context.history.push(row.state.clone());
        context.kinds.push(row.kind());
        context.label = row.label();
        context.context = row.context;
        context.state = row.state;
        context.description = row.description;
        context.writes += 1;
        context.created = format!("{:.0}", row.created);
    }
    let contexts = contexts.into_iter().map(|(_, context)| context).collect();
    Some(Commit { host: last.host, repository: last.repository, commit: last.commit, contexts, seq: last.seq })
}
