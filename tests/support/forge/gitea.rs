//! Gitea's commit statuses, at `/api/v1`; Forgejo's are the same.
//!
//! Sources, named at the rules: *measured* is a real Gitea 1.26.0 that was asked; *code* is a file of
//! `code.gitea.io/gitea` at that version.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::door::{Paging, Refusal, json};
use super::world::{Access, Barred, Host, Place, Said, Status};

/// Measured: 30 a page unless told, 100 is cut to 50.
const PAGE: (usize, usize) = (30, 50);
const VERSION: &str = "1.26.0";

type Repository = (String, String, String);

pub(super) fn router() -> Router<Arc<Shared>> {
    const REPOSITORY: &str = "/api/v1/repos/{owner}/{repository}";
    Router::new()
        // No token needed (measured), which makes it useless for checking one.
        .route("/api/v1/version", get(async || json(StatusCode::OK, &json!({"version": VERSION}))))
        .route(&format!("{REPOSITORY}/commits/{{sha}}/statuses"), get(list))
        .route(&format!("{REPOSITORY}/commits/{{sha}}/status"), get(combined))
        .route(&format!("{REPOSITORY}/statuses/{{sha}}"), post(create).get(list))
}

/// Measured: `created_unix DESC` at one-second resolution, and **ascending** ids inside a second. So of a pending and a
/// success in one second the pending comes first, and a reader that takes the first entry takes the older.
async fn list(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<Repository>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let place = enter(&shared, path, &headers, Access::Read)?;
    let mut statuses = shared.world.lock().at(&place);
    // A stable sort of rows in order of writing: ties stay ascending.
    statuses.sort_by_key(|status| std::cmp::Reverse(status.created.as_second()));
    let paging = Paging::parse(&uri, "limit", PAGE.0, PAGE.1);
    let total = statuses.len();
    let page: Vec<Value> = paging.cut(statuses).iter().map(|status| node(&shared, status)).collect();
    Ok(counted(json(StatusCode::OK, &page.into()), &shared, &paging, &uri, total))
}

/// The newest status of each context. Measured: paged like the list, and `total_count` counts the page, not the whole;
/// `X-Total-Count` has the whole. The page is taken by falling id, its rows then come in ascending order; without any the
/// list is null and the state pending.
async fn combined(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<Repository>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let place = enter(&shared, path, &headers, Access::Read)?;
    let mut statuses = shared.world.lock().at(&place);
    statuses.reverse();
    let mut seen = HashSet::new();
    statuses.retain(|status| seen.insert(status.context.clone()));
    let total = statuses.len();
    let paging = Paging::parse(&uri, "limit", PAGE.0, PAGE.1);
    let mut page = paging.cut(statuses);
    page.reverse();
    let nodes: Vec<Value> = page.iter().map(|status| node(&shared, status)).collect();
    let api = api(&shared, &place.repository);
    let body = json!({
        "state": combine(&page),
        "sha": place.commit,
        "total_count": nodes.len(),
        "statuses": if nodes.is_empty() { Value::Null } else { nodes.into() },
        // Cut to what names it.
        "repository": {"full_name": place.repository, "url": api},
        "commit_url": format!("{api}/commits/{}", place.commit),
        "url": format!("{api}/commits/{}/status", place.commit),
    });
    Ok(counted(json(StatusCode::OK, &body), &shared, &paging, &uri, total))
}

/// Code, `modules/commitstatus`: one bad (a warning is bad) makes failure; success only if all are success or skipped.
fn combine(statuses: &[Status]) -> &'static str {
    let mut states = statuses.iter().map(|status| status.state.as_str());
    if states.clone().any(|state| matches!(state, "error" | "failure" | "warning")) {
        "failure"
    } else if !statuses.is_empty() && states.all(|state| matches!(state, "success" | "skipped")) {
        "success"
    } else {
        "pending"
    }
}

/// The body of a new status. Measured: every field may be missing or null and is then "".
#[derive(Deserialize)]
struct Create {
    state: Option<String>,
    target_url: Option<String>,
    description: Option<String>,
    context: Option<String>,
}

/// Measured: **any** state is taken, "done" and "" too; every POST is a new row, also when nothing changed; a
/// description of 3,000 and a context of 1,000 characters are fine. All texts but the state are trimmed.
async fn create(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<Repository>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let place = enter(&shared, path, &headers, Access::Write)?;
    // Measured: broken JSON answers 422.
    let body: Create = serde_json::from_slice(&body)
        .map_err(|problem| error(shared.as_ref(), StatusCode::UNPROCESSABLE_ENTITY, &format!("[]: {problem}")))?;
    let trimmed = |text: Option<String>| text.unwrap_or_default().trim().to_owned();
    let said = Said {
        context: trimmed(body.context),
        state: body.state.unwrap_or_default(),
        description: Some(trimmed(body.description)),
        target_url: Some(trimmed(body.target_url)),
        ..Said::default()
    };
    let status = {
        let mut world = shared.world.lock();
        // Measured: ids start again at 1 for each commit.
        let id = world.at(&place).len() as u64 + 1;
        world.write(place, said, |_| id)
    };
    let answer = node(&shared, &status);
    // Nobody may be listening; that is no fault of the writer's.
    let _ = shared.news.send(status);
    Ok(json(StatusCode::CREATED, &answer))
}

/// Lets a caller in, or says what Gitea would say.
fn enter(
    shared: &Shared,
    (owner, repository, commit): Repository,
    headers: &HeaderMap,
    wanted: Access,
) -> Result<Place, Refusal> {
    let place = Place { host: Host::Gitea, repository: format!("{owner}/{repository}"), commit };
    let admitted = shared.world.lock().admit(&place, headers, wanted);
    let error = |status, message: &str| Err(error(shared, status, message));
    match (admitted, wanted) {
        (Ok(()), _) => Ok(place),
        // Measured: 401 with these wordings. (Without any token a private repository answers 404.)
        (Err(Barred::Stranger), _) if headers.contains_key(header::AUTHORIZATION) => {
            error(StatusCode::UNAUTHORIZED, "invalid username, password or token")
        }
        (Err(Barred::Stranger), _) => error(StatusCode::UNAUTHORIZED, "token is required"),
        // Measured: 403 for a token of scope read:repository.
        (Err(Barred::ReadOnly), _) => {
            let message = "token does not have at least one of required scope(s), \
                           required=[write:repository], token scope=read:repository";
            error(StatusCode::FORBIDDEN, message)
        }
        // Measured: writing to an unknown commit is a 500, for ever.
        (Err(Barred::Commit), Access::Write) => {
            let message = format!("GetCommit[{0}]: object does not exist [id: {0}, rel_path: ]", place.commit);
            error(StatusCode::INTERNAL_SERVER_ERROR, &message)
        }
        // Measured: reading one is a 404.
        (Err(Barred::Repository | Barred::Commit), _) => error(StatusCode::NOT_FOUND, "not found"),
    }
}

/// A status as Gitea shows it. Code, `modules/structs/status.go`: the state is called `status` here, `state` only in
/// what one sends and in the combined answer; the id is the row's number within the commit.
fn node(shared: &Shared, status: &Status) -> Value {
    json!({
        "id": status.id,
        "status": status.state,
        "target_url": status.target_url,
        "description": status.description,
        "url": format!("{}/statuses/{}", api(shared, &status.repository), status.commit),
        "context": status.context,
        "creator": {"id": 1, "login": "flux"},
        "created_at": format!("{:.0}", status.created),
        "updated_at": format!("{:.0}", status.created),
    })
}

fn api(shared: &Shared, repository: &str) -> String {
    format!("{}/api/v1/repos/{repository}", shared.url)
}

/// Measured: the list has a right `X-Total-Count` and `Link`. So has the combined status.
fn counted(mut response: Response, shared: &Shared, paging: &Paging, uri: &Uri, total: usize) -> Response {
    let headers = response.headers_mut();
    headers.insert("x-total-count", total.into());
    let links = paging.links(&shared.url, uri, total);
    // Measured: no blank after the comma.
    if let (false, Ok(value)) = (links.is_empty(), links.join(",").parse()) {
        headers.insert(header::LINK, value);
    }
    response
}

/// Measured: the shape of an error.
fn error(shared: &Shared, status: StatusCode, message: &str) -> Refusal {
    Refusal::new(status, &json!({"message": message, "url": format!("{}/api/swagger", shared.url)}))
}
