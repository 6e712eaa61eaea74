//! GitHub's commit statuses, at `/api/v3/repos/…` as on an Enterprise Server and at `/repos/…` as on
//! api.github.com.
//!
//! Sources, named at the rules: *OpenAPI* is GitHub's published description (`@octokit/openapi` 23.0.2, the three
//! operations of "Commit statuses"); *docs* is docs.github.com/rest; `owner/name#n` is a public issue that shows the
//! answer as it came over the wire.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::Shared;
use super::door::{Paging, Refusal, json};
use super::world::{Access, Barred, Host, Place, Said, Status};

/// OpenAPI: the context's default.
pub(super) const DEFAULT_CONTEXT: &str = "default";
/// OpenAPI: "there is a limit of 1000 statuses per `sha` and `context` within a repository".
const MAX_PER_CONTEXT: usize = 1000;
/// zalando/zappr#378, vince-riv/argo-diff#49: 422 above this; OpenAPI does not say it.
const MAX_DESCRIPTION: usize = 140;
/// runatlantis/atlantis#2506, stategraph/stategraph#739: 422 above this; OpenAPI does not say it.
const MAX_CONTEXT: usize = 255;
/// OpenAPI: the enum of `state`.
const STATES: [&str; 4] = ["error", "failure", "pending", "success"];
/// OpenAPI: "per-page: max 100, default 30".
const PAGE: (usize, usize) = (30, 100);

/// Where every refusal sends people to read; real ones end in the operation's own heading.
const DOCUMENTATION: &str = "https://docs.github.com/rest/commits/statuses#create-a-commit-status";

type Repository = (String, String, String);

pub(super) fn router() -> Router<Arc<Shared>> {
    ["/api/v3", ""].into_iter().fold(Router::new(), |router, prefix| {
        let repository = format!("{prefix}/repos/{{owner}}/{{repository}}");
        router
            .route(&format!("{repository}/commits/{{sha}}/statuses"), get(list))
            .route(&format!("{repository}/commits/{{sha}}/status"), get(combined))
            // OpenAPI: reading here is "also available via a legacy route".
            .route(&format!("{repository}/statuses/{{sha}}"), post(create).get(list))
    })
}

/// OpenAPI: "statuses are returned in reverse chronological order"; ids rise, so they settle a tie.
async fn list(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<Repository>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let place = enter(&shared, path, &headers, Access::Read)?;
    let paging = Paging::parse(&uri, "per_page", PAGE.0, PAGE.1);
    let mut statuses = shared.world.lock().at(&place);
    statuses.reverse();
    let links = paging.links(&shared.url, &uri, statuses.len());
    let page: Vec<Value> = paging.cut(statuses).iter().map(|status| node(&shared, &uri, status)).collect();
    Ok(linked(json(StatusCode::OK, &page.into()), &links))
}

/// OpenAPI: failure if any context reports error or failure, pending if there is none or one is pending, else success.
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
    statuses.retain(|status| seen.insert(status.context.to_lowercase()));
    let is = |states: &[&str]| statuses.iter().any(|status| states.contains(&status.state.as_str()));
    let state = if is(&["error", "failure"]) {
        "failure"
    } else if statuses.is_empty() || is(&["pending"]) {
        "pending"
    } else {
        "success"
    };
    let paging = Paging::parse(&uri, "per_page", PAGE.0, PAGE.1);
    let links = paging.links(&shared.url, &uri, statuses.len());
    let total = statuses.len();
    let page: Vec<Value> = paging.cut(statuses).iter().map(|status| node(&shared, &uri, status)).collect();
    let api = api(&shared, &uri, &place.repository);
    let body = json!({
        "state": state,
        "statuses": page,
        "sha": place.commit,
        "total_count": total,
        // Cut to what names it; the real one has some forty more URLs.
        "repository": {"full_name": place.repository, "url": api},
        "commit_url": format!("{api}/commits/{}", place.commit),
        "url": format!("{api}/commits/{}/status", place.commit),
    });
    Ok(linked(json(StatusCode::OK, &body), &links))
}

async fn create(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<Repository>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let place = enter(&shared, path, &headers, Access::Write)?;
    let said = check(&body)?;
    // activebridge/projectr#53: the wording of a name that is no SHA-1.
    if place.commit.len() != 40 || !place.commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(invalid(Some("sha"), "sha must be a 40 character SHA1"));
    }
    let status = {
        let mut world = shared.world.lock();
        let same = |status: &&Status| Host::GitHub.same_context(&status.context, &said.context);
        // palantir/policy-bot#470, screwdriver-cd/screwdriver#387: the wording, and that no field is named.
        if world.at(&place).iter().filter(same).count() >= MAX_PER_CONTEXT {
            return Err(invalid(None, "This SHA and context has reached the maximum number of statuses."));
        }
        world.write(place, said, |global| global)
    };
    let answer = node(&shared, &uri, &status);
    let location = answer["url"].as_str().unwrap_or_default().to_owned();
    // Nobody may be listening; that is no fault of the writer's.
    let _ = shared.news.send(status);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], json(StatusCode::CREATED, &answer)).into_response())
}

/// Checks the body of a new status.
fn check(body: &Bytes) -> Result<Said, Refusal> {
    // docs, "troubleshooting": 400 for what is no JSON, 422 for JSON that says the wrong thing.
    let body: Value =
        serde_json::from_slice(body).map_err(|_| error(StatusCode::BAD_REQUEST, "Problems parsing JSON"))?;
    let text = |name: &str| match &body[name] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        other => Err(error(
            StatusCode::UNPROCESSABLE_ENTITY,
            &format!("Invalid request.\n\nFor 'properties/{name}', {other} is not a string."),
        )),
    };
    let state = text("state")?
        .ok_or_else(|| error(StatusCode::UNPROCESSABLE_ENTITY, "Invalid request.\n\n\"state\" wasn't supplied."))?;
    if !STATES.contains(&state.as_str()) {
        return Err(invalid(Some("state"), "state is not included in the list"));
    }
    let description = text("description")?;
    if description.as_ref().is_some_and(|text| text.chars().count() > MAX_DESCRIPTION) {
        return Err(invalid(Some("description"), "description is too long (maximum is 140 characters)"));
    }
    let context = text("context")?.unwrap_or_else(|| DEFAULT_CONTEXT.to_owned());
    if context.chars().count() > MAX_CONTEXT {
        return Err(invalid(Some("context"), "context is too long (maximum is 255 characters)"));
    }
    Ok(Said { context, state, description, target_url: text("target_url")?, ..Said::default() })
}

/// Lets a caller in, or says what GitHub would say.
fn enter(
    shared: &Shared,
    (owner, repository, commit): Repository,
    headers: &HeaderMap,
    wanted: Access,
) -> Result<Place, Refusal> {
    let place = Place { host: Host::GitHub, repository: format!("{owner}/{repository}"), commit };
    let admitted = shared.world.lock().admit(&place, headers, wanted);
    match admitted {
        Ok(()) => Ok(place),
        // docs, "authentication": 401 and this text for bad credentials.
        Err(Barred::Stranger) => Err(error(StatusCode::UNAUTHORIZED, "Bad credentials")),
        // docs, "troubleshooting": a private repository that a token may not see answers 404, not 403.
        Err(Barred::Repository) => Err(error(StatusCode::NOT_FOUND, "Not Found")),
        // octokit/octokit.js#2758: the wording for a token that lacks the permission.
        Err(Barred::ReadOnly) => Err(error(StatusCode::FORBIDDEN, "Resource not accessible by personal access token")),
        // kubernetes/test-infra#21987, rust-lang/homu#141: the status and the wording.
        Err(Barred::Commit) => {
            let message = format!("No commit found for SHA: {}", place.commit);
            Err(error(StatusCode::UNPROCESSABLE_ENTITY, &message))
        }
    }
}

/// A status as GitHub shows it (OpenAPI, schema `status`; `creator` and `avatar_url` may be null by it).
fn node(shared: &Shared, uri: &Uri, status: &Status) -> Value {
    let api = api(shared, uri, &status.repository);
    json!({
        "url": format!("{api}/statuses/{}", status.commit),
        "avatar_url": null,
        "id": status.id,
        "node_id": format!("SC_{}", status.id),
        "state": status.state,
        "description": status.description,
        "target_url": status.target_url,
        "context": status.context,
        "created_at": format!("{:.0}", status.created),
        "updated_at": format!("{:.0}", status.created),
        "creator": null,
    })
}

/// The repository's base URL, under the same prefix that the caller used.
fn api(shared: &Shared, uri: &Uri, repository: &str) -> String {
    let prefix = if uri.path().starts_with("/api/v3/") { "/api/v3" } else { "" };
    format!("{}{prefix}/repos/{repository}", shared.url)
}

fn linked(mut response: Response, links: &[String]) -> Response {
    if let (false, Ok(value)) = (links.is_empty(), links.join(", ").parse()) {
        response.headers_mut().insert(header::LINK, value);
    }
    response
}

/// OpenAPI, schema `basic-error`.
pub(super) fn error(status: StatusCode, message: &str) -> Refusal {
    let code = status.as_u16().to_string();
    Refusal::new(status, &json!({"message": message, "documentation_url": DOCUMENTATION, "status": code}))
}

/// OpenAPI, schema `validation-error`; resource and code as in the issues named at the rules.
fn invalid(field: Option<&str>, message: &str) -> Refusal {
    let mut problem = json!({"resource": "Status", "code": "custom", "message": message});
    if let Some(field) = field {
        problem["field"] = field.into();
    }
    Refusal::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        &json!({
            "message": "Validation Failed",
            "errors": [problem],
            "documentation_url": DOCUMENTATION,
            "status": "422",
        }),
    )
}
