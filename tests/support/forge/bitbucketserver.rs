//! Bitbucket Data Center's build statuses, at `/rest/api/latest`, also below a context path of one segment.
//!
//! Sources, named at the rules: *OpenAPI* is Atlassian's published description of 9.2 ("Builds and Deployments");
//! *docs* is the introduction of its REST API on developer.atlassian.com.
//!
//! A key has one status; who writes it again overwrites it. Of a build only what a status shows is kept: `buildNumber`,
//! `parent`, `ref` and the rest are checked and forgotten.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::door::{Paging, Refusal, json};
use super::world::{Access, Barred, Host, Place, Row, Said, Status};

/// OpenAPI, `RestBuildStatusSetRequest`: the enum of `state`.
const STATES: [&str; 5] = ["CANCELLED", "FAILED", "INPROGRESS", "SUCCESSFUL", "UNKNOWN"];
/// OpenAPI, `RestBuildStatusSetRequest`: fields, whether they are required, their greatest lengths.
const TEXTS: [(&str, bool, usize); 8] = [
    ("key", true, 255),
    ("state", true, usize::MAX),
    ("url", true, 450),
    ("name", false, 255),
    ("description", false, usize::MAX),
    ("buildNumber", false, 255),
    ("parent", false, 1024),
    ("ref", false, 1024),
];

#[derive(Deserialize)]
struct Commit {
    project: String,
    repository: String,
    sha: String,
}

pub(super) fn router() -> Router<Arc<Shared>> {
    ["", "/{context}"].into_iter().fold(Router::new(), |router, prefix| {
        let commit = "/rest/api/latest/projects/{project}/repos/{repository}/commits/{sha}";
        router.route(&format!("{prefix}{commit}/builds"), post(create).get(one).delete(delete))
    })
}

/// OpenAPI: 204, and nothing more.
async fn create(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<Commit>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let place = enter(&shared, path, &headers, Access::Write)?;
    // OpenAPI: 400 also for "an invalid commit hash".
    if place.commit.len() != 40 || !place.commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(bad("commitId", "A full commit hash is required."));
    }
    let said = check(&body)?;
    let status = shared.world.lock().write(place, said, |global| global);
    // Nobody may be listening; that is no fault of the writer's.
    let _ = shared.news.send(status);
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Checks the body of a new status. OpenAPI names the reasons for a 400, not the wordings.
fn check(body: &Bytes) -> Result<Said, Refusal> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    if !body.is_object() {
        return Err(error(StatusCode::BAD_REQUEST, None, "The request body is no JSON object."));
    }
    let text = |name: &str| body[name].as_str().map(str::to_owned);
    for (name, required, max) in TEXTS {
        let text = text(name).unwrap_or_default();
        if required && text.trim().is_empty() {
            return Err(bad(name, &format!("The {name} is required.")));
        }
        if text.chars().count() > max {
            return Err(bad(name, &format!("The {name} may have {max} characters at most.")));
        }
    }
    let state = text("state").unwrap_or_default();
    if !STATES.contains(&state.as_str()) {
        return Err(bad("state", &format!("{state} is no state of a build.")));
    }
    if text("ref").is_some_and(|reference| !reference.starts_with("refs/")) {
        return Err(bad("ref", "The ref has to begin with refs/."));
    }
    Ok(Said {
        context: text("key").unwrap_or_default(),
        name: text("name"),
        state,
        description: text("description"),
        target_url: text("url"),
        ..Said::default()
    })
}

async fn one(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<Commit>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let place = enter(&shared, path, &headers, Access::Read)?;
    let key = key(&uri)?;
    let rows = shared.world.lock().rows(&place, Status::same);
    let row = rows.into_iter().find(|row| row.now.context == key).ok_or_else(|| no_such_build(&key))?;
    Ok(json(StatusCode::OK, &node(&row)))
}

/// OpenAPI: 204. (A real one wants REPO_ADMIN for it.)
async fn delete(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<Commit>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let place = enter(&shared, path, &headers, Access::Write)?;
    let key = key(&uri)?;
    let deleted = shared.world.lock().delete(&place, &key);
    if deleted { Ok(StatusCode::NO_CONTENT.into_response()) } else { Err(no_such_build(&key)) }
}

/// OpenAPI: `key` is required.
fn key(uri: &Uri) -> Result<String, Refusal> {
    let query = Paging::parse(uri, "limit", 1, 1);
    let key = query.get("key").filter(|key| !key.is_empty());
    key.map(str::to_owned).ok_or_else(|| bad("key", "The key is required."))
}

/// Lets a caller in, or says what Bitbucket would say. Docs: the shape; OpenAPI: the statuses.
fn enter(shared: &Shared, path: Commit, headers: &HeaderMap, wanted: Access) -> Result<Place, Refusal> {
    let repository = format!("{}/{}", path.project, path.repository);
    let place = Place { host: Host::BitbucketServer, repository, commit: path.sha };
    let admitted = shared.world.lock().admit(&place, headers, wanted);
    match admitted {
        Ok(()) => Ok(place),
        Err(Barred::Stranger) => Err(error(
            StatusCode::UNAUTHORIZED,
            Some("com.atlassian.bitbucket.auth.IncorrectPasswordAuthenticationException"),
            "Authentication failed. Please check your credentials and try again.",
        )),
        // OpenAPI: 401, not 403, for "insufficient permissions".
        Err(Barred::ReadOnly) => Err(error(
            StatusCode::UNAUTHORIZED,
            Some("com.atlassian.bitbucket.AuthorisationException"),
            "You are not permitted to access this resource",
        )),
        Err(Barred::Repository) => Err(error(
            StatusCode::NOT_FOUND,
            Some("com.atlassian.bitbucket.repository.NoSuchRepositoryException"),
            &format!("Repository {} does not exist.", place.repository),
        )),
        Err(Barred::Commit) => Err(error(
            StatusCode::NOT_FOUND,
            Some("com.atlassian.bitbucket.commit.NoSuchCommitException"),
            &format!("Commit '{}' does not exist in repository '{}'.", place.commit, place.repository),
        )),
    }
}

/// A status as Bitbucket shows it (OpenAPI, schema `RestBuildStatus`, which has no nulls; times are milliseconds).
fn node(row: &Row) -> Value {
    let Row { created, now } = row;
    let mut node = json!({
        "key": now.context,
        "state": now.state,
        "url": now.target_url,
        "createdDate": created.as_millisecond(),
        "updatedDate": now.created.as_millisecond(),
    });
    for (name, text) in [("name", &now.name), ("description", &now.description)] {
        if let Some(text) = text {
            node[name] = text.as_str().into();
        }
    }
    node
}

/// OpenAPI: the status.
fn no_such_build(key: &str) -> Refusal {
    error(StatusCode::NOT_FOUND, None, &format!("There is no build status with the key '{key}'."))
}

/// Docs: a refused field is the error's `context`, and no exception is named.
fn bad(field: &str, message: &str) -> Refusal {
    let error = json!({"context": field, "message": message, "exceptionName": null});
    Refusal::new(StatusCode::BAD_REQUEST, &json!({"errors": [error]}))
}

/// Docs: every other error has no `context`.
fn error(status: StatusCode, exception: Option<&str>, message: &str) -> Refusal {
    let error = json!({"context": null, "message": message, "exceptionName": exception});
    Refusal::new(status, &json!({"errors": [error]}))
}
