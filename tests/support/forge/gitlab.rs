//! GitLab's commit statuses, at `/api/v4`.
//!
//! Sources, named at the rules: *code* is a file of `gitlab-org/gitlab` (19.x); *spec* is one of its tests; *docs* is
//! docs.gitlab.com/api; `owner/name#n` is a public issue that shows the answer as it came over the wire.
//!
//! Here each commit has one pipeline and one branch, so `ref`, `pipeline_id`, `stage` and `coverage` change nothing.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::Response;
use axum::routing::{get, post};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::Shared;
use super::door::{Paging, Refusal, json};
use super::world::{Access, Barred, Host, Place, Said, Status};

/// Code, `create_commit_status_service.rb`: `name`, else `context`, else this.
const DEFAULT_NAME: &str = "default";
/// Code, `commit_statuses.rb`: the values of `state`.
const STATES: [&str; 6] = ["pending", "running", "success", "failed", "canceled", "skipped"];
/// Code, `commit_statuses.rb`: description and target URL "must be 255 characters or fewer".
const MAX_TEXT: usize = 255;
/// Docs, "pagination": 20 a page unless told, at most 100.
const PAGE: (usize, usize) = (20, 100);

type Project = (String, String);

/// How writes to one commit get into each other's way.
///
/// Code, `create_commit_status_service.rb`: every write holds a lock over project and commit, whatever the status' name.
/// Another one waits for it, 20 times half a second, and is then refused.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    /// How long a write takes. "p99 is ~2 seconds", says a comment there.
    pub work: Duration,
    /// How long another one waits.
    pub wait: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { work: Duration::ZERO, wait: Duration::from_secs(10) }
    }
}

/// Docs, "namespaced paths": a project is one segment, its path encoded (`group%2Fproject`) or its number. Routes match
/// what came over the wire, and decode what they found.
pub(super) fn router() -> Router<Arc<Shared>> {
    const PROJECT: &str = "/api/v4/projects/{project}";
    Router::new()
        .route(&format!("{PROJECT}/repository/commits/{{sha}}/statuses"), get(list))
        .route(&format!("{PROJECT}/statuses/{{sha}}"), post(create))
}

/// Code, `commit_statuses.rb`: without `all` the newest of each name, by rising id unless told otherwise.
async fn list(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<Project>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let place = enter(&shared, path, &headers, Access::Read)?;
    let paging = Paging::parse(&uri, "per_page", PAGE.0, PAGE.1);
    let one_of = |name: &str, values: [&str; 2]| match paging.get(name) {
        Some(value) if !values.contains(&value) => Err(invalid(&format!("{name} does not have a valid value"))),
        value => Ok(value == Some(values[1])),
    };
    // There is one pipeline, so ordering by it is ordering by id.
    one_of("order_by", ["id", "pipeline_id"])?;
    let falling = one_of("sort", ["asc", "desc"])?;
    let all = matches!(paging.get("all"), Some("true" | "t" | "yes" | "y" | "on" | "1"));

    let mut rows = shared.world.lock().rows(&place, same_row);
    rows.reverse();
    let mut seen = HashSet::new();
    rows.retain(|row| all || seen.insert(row.now.context.clone()));
    if let Some(name) = paging.get("name").filter(|name| !name.is_empty()) {
        rows.retain(|row| row.now.context == name);
    }
    if !falling {
        rows.reverse();
    }
    let total = rows.len();
    let page: Vec<Value> = paging.cut(rows).iter().map(|row| node(&shared, row.created, &row.now)).collect();
    Ok(counted(json(StatusCode::OK, &page.into()), &shared, &paging, &uri, total))
}

/// An update keeps the id of the row it writes over.
fn same_row(one: &Status, other: &Status) -> bool {
    one.id == other.id
}

#[derive(Deserialize)]
struct Create {
    state: Option<String>,
    name: Option<String>,
    context: Option<String>,
    description: Option<String>,
    target_url: Option<String>,
}

async fn create(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<Project>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let place = enter(&shared, path, &headers, Access::Write)?;
    let mut said = check(&body)?;
    said.writer = shared.world.lock().user(place.host, &headers);
    // A task of its own: a real GitLab works on, and keeps the lock, when its client has gone.
    let written = tokio::spawn(write(shared, place, said)).await;
    written.unwrap_or_else(|_| Err(error(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error")))
}

/// Checks the body of a new status.
fn check(body: &Bytes) -> Result<Said, Refusal> {
    let body: Create = serde_json::from_slice(body).map_err(|_| invalid("the body is no JSON"))?;
    let state = body.state.ok_or_else(|| invalid("state is missing, state does not have a valid value"))?;
    if !STATES.contains(&state.as_str()) {
        return Err(invalid("state does not have a valid value"));
    }
    // Code, `attributes_for_keys`: what is empty counts as not sent.
    let given = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
    let (description, target_url) = (given(body.description), given(body.target_url));
    for (name, text) in [("description", &description), ("target_url", &target_url)] {
        if text.as_ref().is_some_and(|text| text.chars().count() > MAX_TEXT) {
            return Err(bad(name, "is too long (maximum is 255 characters)"));
        }
    }
    // Spec, `create_commit_status_service_spec.rb`, for "invalid url" and for git://example.com.
    let web = |url: &String| Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
    if !target_url.as_ref().is_none_or(web) {
        return Err(bad("target_url", "is blocked: Only allowed schemes are http, https"));
    }
    let context = body.name.or(body.context).unwrap_or_else(|| DEFAULT_NAME.to_owned());
    Ok(Said { context, state, description, target_url, ..Said::default() })
}

/// Code, `create_commit_status_service.rb`: goes over the pending or running row of the same name and user, if there is
/// one; else it is a new row, also when it says what the last one said.
async fn write(shared: Arc<Shared>, place: Place, mut said: Said) -> Result<Response, Refusal> {
    let (pace, lock) = {
        let mut world = shared.world.lock();
        (world.gitlab, world.lock(&place))
    };
    let Ok(_held) = tokio::time::timeout(pace.wait, lock.lock_owned()).await else {
        return Err(error(StatusCode::CONFLICT, "Another update to this commit status is in progress"));
    };
    if !pace.work.is_zero() {
        tokio::time::sleep(pace.work).await;
    }
    let (created, status) = {
        let mut world = shared.world.lock();
        let open = world.rows(&place, same_row).into_iter().find(|row| {
            row.now.context == said.context
                && row.now.writer == said.writer
                && matches!(row.now.state.as_str(), "pending" | "running")
        });
        if let Some(row) = open {
            let Status { id, description, target_url, .. } = row.now;
            pass(&row.now.state, &said.state)?;
            said.description = said.description.or(description);
            said.target_url = said.target_url.or(target_url);
            (row.created, world.write(place, said, |_| id))
        } else {
            let status = world.write(place, said, |global| global);
            (status.created, status)
        }
    };
    // Spec, `commit_statuses_spec.rb`: 201 for an update too.
    let answer = json(StatusCode::CREATED, &node(&shared, created, &status));
    // Nobody may be listening; that is no fault of the writer's.
    let _ = shared.news.send(status);
    Ok(answer)
}

/// Whether a pending or running row may take a state. Code, `commit_status.rb`: the transitions of its state machine;
/// jenkinsci/gitlab-plugin#885 (enqueue) and samcontesse/gitlab-merge-request-resource#79 (run): the wording.
fn pass(from: &str, to: &str) -> Result<(), Refusal> {
    let event = match (from, to) {
        (_, "pending") => "enqueue",
        ("running", "running") => "run",
        ("running", "skipped") => "skip",
        _ => return Ok(()),
    };
    let reason = format!(
        "Cannot transition status via :{event} from :{from} (Reason(s): Status cannot transition via \"{event}\")"
    );
    Err(error(StatusCode::BAD_REQUEST, reason))
}

/// Lets a caller in, or says what GitLab would say.
fn enter(
    shared: &Shared,
    (repository, commit): Project,
    headers: &HeaderMap,
    wanted: Access,
) -> Result<Place, Refusal> {
    let place = Place { host: Host::GitLab, repository, commit };
    let admitted = shared.world.lock().admit(&place, headers, wanted);
    match admitted {
        Ok(()) => Ok(place),
        // Docs, "troubleshooting": the status; the wordings are those of `lib/api/helpers.rb`.
        Err(Barred::Stranger) => Err(error(StatusCode::UNAUTHORIZED, "401 Unauthorized")),
        Err(Barred::Repository) => Err(error(StatusCode::NOT_FOUND, "404 Project Not Found")),
        // Spec, `commit_statuses_spec.rb`: a reporter reads and does not write.
        Err(Barred::ReadOnly) => Err(error(StatusCode::FORBIDDEN, "403 Forbidden")),
        Err(Barred::Commit) => Err(error(StatusCode::NOT_FOUND, "404 Commit Not Found")),
    }
}

/// A status as GitLab shows it (docs, "commits", the example of a list; what it calls `status` one sends as `state`).
fn node(shared: &Shared, created: Timestamp, status: &Status) -> Value {
    let finished = matches!(status.state.as_str(), "success" | "failed" | "canceled");
    let user = format!("user{}", status.writer);
    json!({
        "id": status.id,
        "sha": status.commit,
        "ref": "main",
        "status": status.state,
        "name": status.context,
        "target_url": status.target_url,
        "description": status.description,
        "created_at": time(created),
        // A real one remembers when the row became running.
        "started_at": null,
        "finished_at": finished.then(|| time(status.created)),
        "allow_failure": false,
        "coverage": null,
        "pipeline_id": 1,
        "author": {
            "id": status.writer,
            "username": user,
            "name": user,
            "state": "active",
            "avatar_url": null,
            "web_url": format!("{}/{user}", shared.url),
        },
    })
}

fn time(at: Timestamp) -> String {
    format!("{at:.3}")
}

/// Docs, "pagination": the headers of a list.
fn counted(mut response: Response, shared: &Shared, paging: &Paging, uri: &Uri, total: usize) -> Response {
    let last = total.div_ceil(paging.size).max(1);
    let number = |there: bool, page: usize| if there { page.to_string() } else { String::new() };
    for (name, value) in [
        ("x-total", total.to_string()),
        ("x-total-pages", last.to_string()),
        ("x-page", paging.page.to_string()),
        ("x-per-page", paging.size.to_string()),
        ("x-next-page", number(paging.page < last, paging.page + 1)),
        ("x-prev-page", number(paging.page > 1, paging.page - 1)),
    ] {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    }
    let links = paging.links(&shared.url, uri, total);
    if let (false, Ok(value)) = (links.is_empty(), links.join(", ").parse()) {
        response.headers_mut().insert(header::LINK, value);
    }
    response
}

/// Docs, "troubleshooting": `message` is a text, or an object of fields with what is wrong about each.
fn error(status: StatusCode, message: impl Into<Value>) -> Refusal {
    Refusal::new(status, &json!({"message": message.into()}))
}

/// jenkinsci/gitlab-plugin#968: a field that the model refused.
fn bad(field: &str, problem: &str) -> Refusal {
    error(StatusCode::BAD_REQUEST, json!({field: [problem]}))
}

/// A parameter that is refused before the model is asked: Grape, which reads them, says `error` instead of `message`.
fn invalid(problem: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, &json!({"error": problem}))
}
