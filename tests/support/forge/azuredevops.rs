//! Azure DevOps' commit statuses, at `/{organization}/{project}/_apis/git`.
//!
//! Sources, named at the rules: *specs* is Microsoft's published description (`vsts-rest-api-specs`, git 7.2) with its
//! recorded examples; `owner/name#n` is a public issue that shows the answer as it came over the wire.
//!
//! Throttling is a matter of the script: `Fault::delay(…).header("retry-after", …)`, then `Fault::answer(429)`.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, options};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::door::{Paging, Refusal, json};
use super::world::{Access, Barred, Host, Place, Said, Status};

/// Specs, `GitStatusState`; the first is the default.
const STATES: [&str; 7] = ["notSet", "pending", "succeeded", "failed", "error", "notApplicable", "partiallySucceeded"];
/// Specs: "default is 1000".
const TOP: usize = 1000;
/// The clients' name for the commit statuses' place (azure-devops-go-api, `git/client.go`).
const LOCATION: &str = "428dd4fb-fda5-4722-af02-9313b80305da";

type Commit = (String, String, String, String);

pub(super) fn router() -> Router<Arc<Shared>> {
    const COMMIT: &str = "/{organization}/{project}/_apis/git/repositories/{repository}/commits/{sha}";
    Router::new()
        .route("/{organization}/_apis", options(locations))
        .route(&format!("{COMMIT}/statuses"), get(list).post(create))
}

/// What a client asks first: where things are, and in which versions (azure-devops-go-api, `client.go`; the Python and
/// Node clients do the same). Of the thousand entries of a real list the one that matters.
async fn locations() -> Response {
    let location = json!({
        "id": LOCATION,
        "area": "git",
        "resourceName": "statuses",
        "routeTemplate": "{project}/_apis/{area}/repositories/{repositoryId}/commits/{commitId}/{resource}",
        "resourceVersion": 1,
        "minVersion": "1.0",
        "maxVersion": "7.2",
        "releasedVersion": "7.1",
    });
    json(StatusCode::OK, &json!({"count": 1, "value": [location]}))
}

/// Specs: `top`, `skip`, and `latestOnly` for the newest of each name and genre. They say nothing of the order; here the
/// oldest comes first, which is the harder one for a reader that takes the first entry.
async fn list(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<Commit>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let place = enter(&shared, path, &headers, Access::Read)?;
    let mut statuses = shared.world.lock().at(&place);
    let query = Paging::parse(&uri, "top", TOP, usize::MAX);
    if query.get("latestOnly").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        statuses.reverse();
        let mut seen = HashSet::new();
        statuses.retain(|status| seen.insert((status.context.clone(), status.genre.clone())));
        statuses.reverse();
    }
    let skip = query.get("skip").and_then(|skip| skip.parse().ok()).unwrap_or(0);
    let value: Vec<Value> = statuses.iter().skip(skip).take(query.size).map(|status| node(&shared, status)).collect();
    Ok(json(StatusCode::OK, &json!({"count": value.len(), "value": value})))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Create {
    state: Option<String>,
    description: Option<String>,
    target_url: Option<String>,
    context: Option<Context>,
}

#[derive(Deserialize)]
struct Context {
    name: Option<String>,
    genre: Option<String>,
}

/// Every POST is a new row. Specs: they promise 200, their recorded example has 201.
async fn create(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<Commit>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let place = enter(&shared, path, &headers, Access::Write)?;
    if !names_a_version(&uri, &headers) {
        // empear-analytics/codescene-ci-cd#14: the answer, word for word.
        return Err(error(
            StatusCode::BAD_REQUEST,
            "Microsoft.VisualStudio.Services.WebApi.VssVersionNotSpecifiedException, \
             Microsoft.VisualStudio.Services.WebApi",
            "No api-version was supplied for the \"POST\" request. The version must be supplied either as part of the \
             Accept header (e.g. \"application/json; api-version=1.0\") or as a query parameter (e.g. \
             \"?api-version=1.0\").",
        ));
    }
    let said = check(&body)?;
    let status = {
        let mut world = shared.world.lock();
        let id = world.at(&place).len() as u64 + 1;
        world.write(place, said, |_| id)
    };
    let answer = json(StatusCode::CREATED, &node(&shared, &status));
    // Nobody may be listening; that is no fault of the writer's.
    let _ = shared.news.send(status);
    Ok(answer)
}

/// cribeiro84/azure-devops-pull-request-hub#118, microsoft/azure-devops-extension-api#57: the answer of an older server,
/// word for word, to a version that it does not have.
fn check_version(shared: &Shared, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(latest) = shared.world.lock().azure_latest else { return Ok(()) };
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let asked = accept.split("api-version=").nth(1).and_then(|version| version.parse::<f32>().ok());
    match asked.filter(|asked| *asked > latest) {
        None => Ok(()),
        Some(asked) => Err(error(
            StatusCode::BAD_REQUEST,
            "Microsoft.VisualStudio.Services.WebApi.VssVersionOutOfRangeException, \
             Microsoft.VisualStudio.Services.WebApi",
            &format!(
                "The requested REST API version of {asked:.1} is out of range for this server. The latest REST API \
                 version this server supports is {latest:.1}."
            ),
        )),
    }
}

fn names_a_version(uri: &Uri, headers: &HeaderMap) -> bool {
    let in_query = Paging::parse(uri, "top", TOP, TOP).get("api-version").is_some();
    let mut accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    in_query || accepts.any(|accept| accept.contains("api-version="))
}

/// Checks the body of a new status. Specs: what is allowed; the wordings are ours.
fn check(body: &Bytes) -> Result<Said, Refusal> {
    let bad = |message: &str| error(StatusCode::BAD_REQUEST, "System.ArgumentException, mscorlib", message);
    let body: Create = serde_json::from_slice(body).map_err(|problem| bad(&format!("No GitStatus: {problem}.")))?;
    let state = body.state.unwrap_or_else(|| STATES[0].to_owned());
    if !STATES.contains(&state.as_str()) {
        return Err(bad(&format!("{state} is no GitStatusState.")));
    }
    // Specs: "name identifier of the status, cannot be null or empty"; the genre can.
    let context = body.context.ok_or_else(|| bad("The status has no context."))?;
    let name = context.name.filter(|name| !name.trim().is_empty());
    let name = name.ok_or_else(|| bad("The name of the context is null or empty."))?;
    Ok(Said {
        context: name,
        genre: context.genre.filter(|genre| !genre.is_empty()),
        state,
        description: body.description,
        target_url: body.target_url,
        ..Said::default()
    })
}

/// Lets a caller in, or says what Azure DevOps would say.
fn enter(
    shared: &Shared,
    (organization, project, repository, commit): Commit,
    headers: &HeaderMap,
    wanted: Access,
) -> Result<Place, Refusal> {
    check_version(shared, headers)?;
    let repository = format!("{organization}/{project}/{repository}");
    let place = Place { host: Host::AzureDevOps, repository, commit };
    let admitted = shared.world.lock().admit(&place, headers, wanted);
    match admitted {
        Ok(()) => Ok(place),
        Err(Barred::Stranger) => Err(sign_in(headers)),
        // shayki5/azure-devops-create-pr-task#193: the answer, for what is hidden too.
        Err(Barred::Repository) => Err(error(
            StatusCode::NOT_FOUND,
            "Microsoft.TeamFoundation.Git.Server.GitRepositoryNotFoundException, Microsoft.TeamFoundation.Git.Server",
            &format!(
                "TF401019: The Git repository with name or identifier {} does not exist or you do not have \
                 permissions for the operation you are attempting.",
                place.repository
            ),
        )),
        // Wording and kind of these two are not documented.
        Err(Barred::ReadOnly) => Err(error(
            StatusCode::FORBIDDEN,
            "Microsoft.TeamFoundation.Git.Server.GitNeedsPermissionException, Microsoft.TeamFoundation.Git.Server",
            "TF401027: You need the Git 'GenericContribute' permission to perform this action.",
        )),
        Err(Barred::Commit) => Err(error(
            StatusCode::NOT_FOUND,
            "Microsoft.TeamFoundation.Git.Server.GitCommitDoesNotExistException, Microsoft.TeamFoundation.Git.Server",
            &format!("The commit {} does not exist.", place.commit),
        )),
    }
}

/// For a bad token as for none, **a page under a 200-class status** (MicrosoftDocs/vsts-rest-api-specs#97 and #574,
/// microsoft/azure-devops-auth-samples#52). Only to a client that asks for it by a header, as Microsoft's own do, it is a
/// 401 (microsoft/azure-devops-mcp#977; the wording: azure-devops-auth-samples#52).
fn sign_in(headers: &HeaderMap) -> Refusal {
    let suppress = headers.get("x-tfs-fedauthredirect").is_some_and(|value| value == "Suppress");
    if suppress {
        return error(
            StatusCode::UNAUTHORIZED,
            "Microsoft.TeamFoundation.Framework.Server.UnauthorizedRequestException, \
             Microsoft.TeamFoundation.Framework.Server",
            "TF400813: The user '' is not authorized to access this resource.",
        );
    }
    let page = "<!DOCTYPE html><html><head><title>Azure DevOps Services | Sign In</title></head><body></body></html>";
    Refusal::from((StatusCode::NON_AUTHORITATIVE_INFORMATION, Html(page)).into_response())
}

/// A status as Azure DevOps shows it (specs, `GitStatus`, which has no nulls).
fn node(shared: &Shared, status: &Status) -> Value {
    let (collection, repository) = status.repository.rsplit_once('/').unwrap_or_default();
    let repository = format!("{}/{collection}/_apis/git/repositories/{repository}", shared.url);
    let at = format!("{:.3}", status.created);
    let mut node = json!({
        "_links": {
            "self": {"href": format!("{repository}/commits/{}/statuses/{}", status.commit, status.id)},
            "repository": {"href": repository},
        },
        "id": status.id,
        "state": status.state,
        "context": {"name": status.context},
        "creationDate": at,
        "updatedDate": at,
        "createdBy": {"id": "d6245f20-2af8-44f4-9451-8107cb2767db", "displayName": "flux", "uniqueName": "flux"},
    });
    for (name, text) in [("description", &status.description), ("targetUrl", &status.target_url)] {
        if let Some(text) = text {
            node[name] = text.as_str().into();
        }
    }
    if let Some(genre) = &status.genre {
        node["context"]["genre"] = genre.as_str().into();
    }
    node
}

/// The shape of every error (empear-analytics/codescene-ci-cd#14); `typeKey` is the last word of the type's name.
fn error(status: StatusCode, type_name: &str, message: &str) -> Refusal {
    let key = type_name.split(',').next().and_then(|name| name.rsplit('.').next());
    Refusal::new(
        status,
        &json!({
            "$id": "1",
            "innerException": null,
            "message": message,
            "typeName": type_name,
            "typeKey": key,
            "errorCode": 0,
            "eventId": 3000,
        }),
    )
}
