//! The way of every request into a [`Forge`](super::Forge): write it down, count it, break it if the script says
//! so, else hand it to the API it is for.
//!
//! Called by the server in `mod.rs`; the APIs share the small helpers at the end.

use std::fmt;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Router, body::Bytes};
use futures::stream;
use percent_encoding::percent_decode_str;
use serde_json::Value;
use tower::ServiceExt;
use url::form_urlencoded;

use super::fault::{Fault, Harm};
use super::{Shared, apps, azuredevops, bitbucket, bitbucketserver, entra, gitea, github, gitlab, limits, page};

/// No request of ours is near this; a larger one is a mistake that should show.
const MAX_BODY: usize = 1 << 20;

/// Asks the server to reset the connection.
#[derive(Debug)]
pub(super) struct Reset;

impl fmt::Display for Reset {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("the script of faults resets this connection")
    }
}

impl std::error::Error for Reset {}

/// Everything a forge serves.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route(page::STATUSES, get(page::statuses))
        // Where a generic webhook may go; it is remembered like every request.
        .route("/hook", any(async || "taken\n"))
        .merge(github::router())
        .merge(gitea::router())
        .merge(gitlab::router())
        .merge(bitbucket::router())
        .merge(bitbucketserver::router())
        .merge(azuredevops::router())
        .merge(apps::router())
        .merge(entra::router())
        .with_state(shared)
}

pub(super) async fn enter(
    shared: Arc<Shared>,
    router: Router,
    request: Request<hyper::body::Incoming>,
) -> Result<Response, Reset> {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(Body::new(body), MAX_BODY).await else {
        return Ok(StatusCode::PAYLOAD_TOO_LARGE.into_response());
    };
    let path = parts.uri.path().to_owned();
    let forward = async |parts, body| match router.oneshot(Request::from_parts(parts, Body::from(body))).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    if path == "/" || path == page::STATUSES {
        return Ok(forward(parts, body).await);
    }

    let _flight = Flight::start(&shared, &parts.method, &path, &body);
    let turn = limits::Turn::take(&shared, &parts.method, &parts.headers);
    let fault = {
        let mut world = shared.world.lock();
        world.receive(&parts, &body);
        world.strike(&parts.method, &path)
    };
    let _turn = match turn {
        Ok(turn) => turn,
        Err(refusal) => return Ok(*refusal),
    };
    let Some(Fault { harm, afterwards, headers, .. }) = fault else { return Ok(forward(parts, body).await) };
    let mut response = match harm {
        // These two are about the answer, so there has to be one first.
        Harm::HalfBody => cut(forward(parts, body).await).await,
        Harm::Echo { status, quote } => {
            let headers = parts.headers.iter();
            let headers = headers.filter_map(|(name, value)| Some(format!("{name}: {}", quote(value.to_str().ok()?))));
            let request = [headers.collect(), vec![quote(&String::from_utf8_lossy(&body))]].concat().join("\n");
            (status, request).into_response()
        }
        Harm::Hang { lands: Some(delay) } => {
            // A task of its own: this one ends when the client hangs up.
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                forward(parts, body).await
            });
            std::future::pending().await
        }
        harm if afterwards => {
            let response = forward(parts, body).await;
            strike(harm).await?.unwrap_or(response)
        }
        harm => match strike(harm).await? {
            Some(response) => response,
            None => forward(parts, body).await,
        },
    };
    for (name, value) in headers {
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

/// Does the harm; gives the answer that takes the place of the host's own, if there is one.
async fn strike(harm: Harm) -> Result<Option<Response>, Reset> {
    match harm {
        Harm::Reset => Err(Reset),
        Harm::Hang { .. } => std::future::pending().await,
        Harm::Delay(delay) => {
            tokio::time::sleep(delay).await;
            Ok(None)
        }
        Harm::Answer { status, body } => Ok(Some((status, body).into_response())),
        Harm::HalfBody | Harm::Echo { .. } => Ok(None),
    }
}

/// Half of the response's body under the length of the whole.
async fn cut(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let Ok(whole) = to_bytes(body, usize::MAX).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    parts.headers.insert(header::CONTENT_LENGTH, whole.len().into());
    let half = whole.slice(..whole.len() / 2);
    let pieces = stream::unfold(Some(half), |half| async move {
        if let Some(half) = half {
            return Some((Ok(half), None));
        }
        // Yielding once makes the server send what it holds before it learns that no more will come.
        tokio::task::yield_now().await;
        Some((Err(Reset), None))
    });
    Response::from_parts(parts, Body::from_stream(pieces))
}

/// A write of one status under way; ends when dropped, also when the client hangs up.
struct Flight {
    shared: Arc<Shared>,
    commit: String,
    context: String,
}

impl Flight {
    fn start(shared: &Arc<Shared>, method: &Method, path: &str, body: &Bytes) -> Option<Self> {
        if !matches!(*method, Method::POST | Method::PUT) {
            return None;
        }
        let body: Value = serde_json::from_slice(body).ok()?;
        let (commit, context) = target(path, &body)?;
        shared.world.lock().take_off(&commit, &context);
        Some(Self { shared: Arc::clone(shared), commit, context })
    }
}

/// The commit and the status that a write is about, whichever API it is for.
fn target(path: &str, body: &Value) -> Option<(String, String)> {
    let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let (commit, context) = match parts.as_slice() {
        // Bitbucket Cloud
        [.., "commit", commit, "statuses", "build"] => (commit, text(&body["key"])?),
        [.., "commit", commit, "statuses", "build", key] => {
            (commit, percent_decode_str(key).decode_utf8_lossy().into_owned())
        }
        // Bitbucket Data Center
        [.., "commits", commit, "builds"] => (commit, text(&body["key"])?),
        // Azure DevOps
        [.., "commits", commit, "statuses"] => (commit, text(&body["context"]["name"])?),
        // GitLab, where `name` goes before `context`; GitHub and Gitea know no `name`. GitHub's and GitLab's default is
        // the same word.
        [.., "statuses", commit] => {
            let named = text(&body["name"]).or_else(|| text(&body["context"]));
            (commit, named.unwrap_or_else(|| github::DEFAULT_CONTEXT.to_owned()))
        }
        _ => return None,
    };
    Some(((*commit).to_owned(), context))
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.shared.world.lock().land(&self.commit, &self.context);
    }
}

// === shared by the APIs ===

/// A JSON answer.
pub(super) fn json(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json; charset=utf-8")], value.to_string()).into_response()
}

/// An answer that is a refusal. Boxed, because a `Result` is as large as its larger half.
pub(super) struct Refusal(Box<Response>);

impl Refusal {
    pub fn new(status: StatusCode, value: &Value) -> Self {
        Self(Box::new(json(status, value)))
    }
}

impl From<Response> for Refusal {
    fn from(response: Response) -> Self {
        Self(Box::new(response))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        *self.0
    }
}

/// Which part of a list was asked for.
pub(super) struct Paging {
    pub page: usize,
    pub size: usize,
    query: Vec<(String, String)>,
}

impl Paging {
    /// Reads `page` and the size from a query; sizes of 0 and nonsense count as not given, too large ones are cut.
    pub fn parse(uri: &Uri, size_name: &str, default: usize, max: usize) -> Self {
        let query: Vec<(String, String)> =
            form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        let number = |wanted: &str| {
            let value = query.iter().find(|(name, _)| name == wanted).and_then(|(_, value)| value.parse().ok());
            value.filter(|number: &usize| *number > 0)
        };
        Self { page: number("page").unwrap_or(1), size: number(size_name).unwrap_or(default).min(max), query }
    }

    /// Another value of the query.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The asked-for page of `items`.
    pub fn cut<T>(&self, items: Vec<T>) -> Vec<T> {
        items.into_iter().skip((self.page - 1).saturating_mul(self.size)).take(self.size).collect()
    }

    /// The links for the `Link` header of a list of `total` items; none when there is only one page. The vendors write
    /// them so, with their own base URL and the rest of the query kept (GitHub, GitLab: docs on pagination; Gitea:
    /// measured).
    pub fn links(&self, base: &str, uri: &Uri, total: usize) -> Vec<String> {
        let last = total.div_ceil(self.size).max(1);
        // Gitea, measured: beyond the end the links are those of the last page.
        let page = self.page.min(last);
        let to = |page: usize, relation: &str| {
            let others = self.query.iter().filter(|(name, _)| name != "page");
            let query = form_urlencoded::Serializer::new(String::new())
                .extend_pairs(others)
                .append_pair("page", &page.to_string())
                .finish();
            format!("<{base}{path}?{query}>; rel=\"{relation}\"", path = uri.path())
        };
        let mut links = Vec::new();
        if page < last {
            links.push(to(page + 1, "next"));
            links.push(to(last, "last"));
        }
        if page > 1 {
            links.push(to(1, "first"));
            links.push(to(page - 1, "prev"));
        }
        links
    }
}
