//! Bitbucket Cloud's build statuses, at `/2.0`.
//!
//! Sources, named at the rules: *OpenAPI* is Atlassian's published description (2026-06, "Commit statuses");
//! `owner/name#n` is a public issue that shows the answer as it came over the wire. The field errors are those of a
//! Django form; where no issue shows one, its wording is Django's.
//!
//! A key has one status; who writes it again overwrites it. `refname`, `q` and `sort` change nothing here.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::Shared;
use super::door::{Paging, Refusal, json};
use super::world::{Access, Barred, Host, Place, Row, Said, Status};

/// OpenAPI: the enum of `state`.
const STATES: [&str; 4] = ["FAILED", "INPROGRESS", "STOPPED", "SUCCESSFUL"];
/// buildbot/buildbot#7049, runatlantis/atlantis#2037: 400 above this, with these words.
const MAX_KEY: usize = 40;
/// jenkinsci/bitbucket-branch-source-plugin#928: "less than 255 characters".
const MAX_NAME: usize = 254;
/// jenkinsci/bitbucket-branch-source-plugin#928: "less than 450 characters".
const MAX_URL: usize = 449;
/// OpenAPI, `paginated_commitstatuses`: "default value is 10 with 100 being the maximum".
const PAGE: (usize, usize) = (10, 100);

type Commit = (String, String, String);

pub(super) fn router() -> Router<Arc<Shared>> {
    const COMMIT: &str = "/2.0/repositories/{workspace}/{repository}/commit/{sha}";
    Router::new()
        .route(&format!("{COMMIT}/statuses"), get(list))
        .route(&format!("{COMMIT}/statuses/build"), post(create))
        // OpenAPI: the examples of its text have the slash.
        .route(&format!("{COMMIT}/statuses/build/"), post(create))
        .route(&format!("{COMMIT}/statuses/build/{{key}}"), get(one).put(update))
}

/// OpenAPI: sorted by `created_on`, which a row keeps when it is overwritten.
async fn list(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<Commit>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let place = enter(&shared, path, &headers, Access::Read)?;
    let rows = shared.world.lock().rows(&place, Status::same);
    let paging = Paging::parse(&uri, "pagelen", PAGE.0, PAGE.1);
    let total = rows.len();
    let page: Vec<Value> = paging.cut(rows).iter().map(|row| node(&shared, row)).collect();
    let mut body = json!({"size": total, "page": paging.page, "pagelen": paging.size, "values": page});
    let at = |page: usize| format!("{}{}?pagelen={}&page={page}", shared.url, uri.path(), paging.size);
    if paging.page.saturating_mul(paging.size) < total {
        body["next"] = at(paging.page + 1).into();
    }
    if paging.page > 1 {
        body["previous"] = at(paging.page - 1).into();
    }
    Ok(json(StatusCode::OK, &body))
}

async fn one(
    State(shared): State<Arc<Shared>>,
    Path((workspace, repository, commit, key)): Path<(String, String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let place = enter(&shared, (workspace, repository, commit), &headers, Access::Read)?;
    let row = find(&shared, &place, &key).ok_or_else(no_such_key)?;
    Ok(json(StatusCode::OK, &node(&shared, &row)))
}

#[derive(Deserialize)]
struct Build {
    key: Option<String>,
    state: Option<String>,
    url: Option<String>,
    name: Option<String>,
    description: Option<String>,
}

/// OpenAPI: "if the specified key already exists, the existing status object will be overwritten"; 201 all the same.
async fn create(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<Commit>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let place = enter(&shared, path, &headers, Access::Write)?;
    let said = check(parse(&body)?)?;
    Ok(json(StatusCode::CREATED, &write(&shared, place, said)))
}

/// OpenAPI: changes any property but the key; 404 where there is nothing to change.
async fn update(
    State(shared): State<Arc<Shared>>,
    Path((workspace, repository, commit, key)): Path<(String, String, String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let place = enter(&shared, (workspace, repository, commit), &headers, Access::Write)?;
    let old = find(&shared, &place, &key).ok_or_else(no_such_key)?.now;
    let new = parse(&body)?;
    let said = check(Build {
        key: Some(key),
        state: new.state.or(Some(old.state)),
        url: new.url.or(old.target_url),
        name: new.name.or(old.name),
        description: new.description.or(old.description),
    })?;
    Ok(json(StatusCode::OK, &write(&shared, place, said)))
}

fn parse(body: &Bytes) -> Result<Build, Refusal> {
    serde_json::from_slice(body).map_err(|_| error(StatusCode::BAD_REQUEST, &json!({"message": "Bad request"})))
}

fn check(build: Build) -> Result<Said, Refusal> {
    let required = |name: &str, text: Option<String>| {
        text.filter(|text| !text.is_empty()).ok_or_else(|| bad(name, "This field is required."))
    };
    let short = |name: &str, text: &str, max: usize| match text.chars().count() {
        long if long > max => {
            Err(bad(name, &format!("Ensure this value has at most {max} characters (it has {long}).")))
        }
        _ => Ok(()),
    };
    let key = required("key", build.key)?;
    short("key", &key, MAX_KEY)?;
    let state = required("state", build.state)?;
    if !STATES.contains(&state.as_str()) {
        let problem = format!("Select a valid choice. {state} is not one of the available choices.");
        return Err(bad("state", &problem));
    }
    // OpenAPI does not call it required, but has no example without; Flux sends a constant for want of a better one.
    let url = required("url", build.url)?;
    short("url", &url, MAX_URL)?;
    if !good_url(&url) {
        return Err(bad("url", "Enter a valid URL."));
    }
    short("name", build.name.as_deref().unwrap_or_default(), MAX_NAME)?;
    Ok(Said {
        context: key,
        name: build.name,
        state,
        description: build.description,
        target_url: Some(url),
        ..Said::default()
    })
}

/// runatlantis/atlantis#710, nishio-dens/bitbucket-pullrequest-builder-plugin#174: a bare host name such as
/// `http://jenkins1:8080/` is none. (Django lets an address and `localhost` pass.)
fn good_url(text: &str) -> bool {
    let Ok(url) = Url::parse(text) else { return false };
    let host = url.host_str().unwrap_or_default();
    let number = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    matches!(url.scheme(), "http" | "https") && (host.contains('.') || host == "localhost" || number)
}

fn write(shared: &Shared, place: Place, said: Said) -> Value {
    let (created, status) = {
        let mut world = shared.world.lock();
        let old = world.rows(&place, Status::same).into_iter().find(|row| row.now.context == said.context);
        let status = world.write(place, said, |global| global);
        (old.map_or(status.created, |row| row.created), status)
    };
    let answer = node(shared, &Row { created, now: status.clone() });
    // Nobody may be listening; that is no fault of the writer's.
    let _ = shared.news.send(status);
    answer
}

fn find(shared: &Shared, place: &Place, key: &str) -> Option<Row> {
    shared.world.lock().rows(place, Status::same).into_iter().find(|row| row.now.context == key)
}

/// Lets a caller in, or says what Bitbucket would say.
fn enter(
    shared: &Shared,
    (workspace, repository, commit): Commit,
    headers: &HeaderMap,
    wanted: Access,
) -> Result<Place, Refusal> {
    let place = Place { host: Host::Bitbucket, repository: format!("{workspace}/{repository}"), commit };
    let admitted = shared.world.lock().admit(&place, headers, wanted);
    match admitted {
        Ok(()) => Ok(place),
        // runatlantis/atlantis#6126: 401 without a body.
        Err(Barred::Stranger) => Err(Refusal::from(StatusCode::UNAUTHORIZED.into_response())),
        // composer/composer#10657: the wording, for what is hidden too.
        Err(Barred::Repository) => Err(error(
            StatusCode::NOT_FOUND,
            &json!({
                "message": "The requested repository either does not exist or you do not have access. If you believe \
                            this repository exists and you have access, make sure you're authenticated.",
            }),
        )),
        // gildas/bitbucket-cli#56: the wording and `detail`.
        Err(Barred::ReadOnly) => Err(error(
            StatusCode::FORBIDDEN,
            &json!({
                "message": "Your credentials lack one or more required privilege scopes.",
                "detail": {"required": ["repository:write"], "granted": ["repository"]},
            }),
        )),
        // OpenAPI: the status.
        Err(Barred::Commit) => Err(error(StatusCode::NOT_FOUND, &json!({"message": "Commit not found"}))),
    }
}

/// A status as Bitbucket shows it (OpenAPI, schema `commitstatus`, which has no nulls).
fn node(shared: &Shared, row: &Row) -> Value {
    let Row { created, now } = row;
    let api = format!("{}/2.0/repositories/{}", shared.url, now.repository);
    let commit = format!("{api}/commit/{}", now.commit);
    json!({
        "type": "build",
        "key": now.context,
        "state": now.state,
        "name": now.name.as_deref().unwrap_or_default(),
        "description": now.description.as_deref().unwrap_or_default(),
        "url": now.target_url,
        "created_on": format!("{created:.6}"),
        "updated_on": format!("{:.6}", now.created),
        "links": {
            "self": {"href": format!("{commit}/statuses/build/{}", now.context)},
            "commit": {"href": commit},
        },
        // Cut to what names it.
        "repository": {"type": "repository", "full_name": now.repository, "links": {"self": {"href": api}}},
    })
}

/// OpenAPI: the status.
fn no_such_key() -> Refusal {
    error(StatusCode::NOT_FOUND, &json!({"message": "Build status not found"}))
}

/// buildbot/buildbot#7049: the problem twice, with its field's name and under it.
fn bad(field: &str, problem: &str) -> Refusal {
    let message = format!("{field}: {problem}");
    error(StatusCode::BAD_REQUEST, &json!({"message": message, "fields": {field: [problem]}}))
}

/// OpenAPI, schema `error`.
fn error(status: StatusCode, error: &Value) -> Refusal {
    Refusal::new(status, &json!({"type": "error", "error": error}))
}
