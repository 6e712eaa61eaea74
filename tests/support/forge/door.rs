//! The way of every request into a [`Forge`](super::Forge): write it down, count it, break it if the script says
//! so, else hand it to the API it is for.
//!
//! Called by the server in `mod.rs`; the two APIs share the small helpers at the end.

use std::fmt;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Router, body::Bytes};
use futures::stream;
use serde_json::Value;
use tower::ServiceExt;
use url::form_urlencoded;

use super::fault::{Fault, Harm};
use super::{Shared, gitea, github, page};

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
    let fault = {
        let mut world = shared.world.lock();
        world.receive(&parts.method, parts.uri.to_string(), &parts.headers, &body);
        world.strike(&parts.method, &path)
    };
    match fault {
        None => Ok(forward(parts, body).await),
        // These two are about the answer, so there has to be one first.
        Some(Fault { harm: Harm::HalfBody, .. }) => Ok(cut(forward(parts, body).await).await),
        Some(Fault { harm, afterwards: true, .. }) => {
            let response = forward(parts, body).await;
            Ok(strike(harm).await?.unwrap_or(response))
        }
        Some(Fault { harm, afterwards: false, .. }) => match strike(harm).await? {
            Some(response) => Ok(response),
            None => Ok(forward(parts, body).await),
        },
    }
}

/// Does the harm; gives the answer that takes the place of the host's own, if there is one.
async fn strike(harm: Harm) -> Result<Option<Response>, Reset> {
    match harm {
        Harm::Reset => Err(Reset),
        Harm::Hang => std::future::pending().await,
        Harm::Delay(delay) => {
            tokio::time::sleep(delay).await;
            Ok(None)
        }
        Harm::Answer { status, headers, body } => {
            let mut response = (status, body).into_response();
            for (name, value) in headers {
                response.headers_mut().insert(name, value);
            }
            Ok(Some(response))
        }
        Harm::HalfBody => Ok(None),
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
        if method != Method::POST {
            return None;
        }
        let (before, commit) = path.rsplit_once('/')?;
        if !before.ends_with("/statuses") {
            return None;
        }
        let body: Value = serde_json::from_slice(body).ok()?;
        let context = body["context"].as_str().unwrap_or(github::DEFAULT_CONTEXT).to_owned();
        shared.world.lock().take_off(commit, &context);
        Some(Self { shared: Arc::clone(shared), commit: commit.to_owned(), context })
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.shared.world.lock().land(&self.commit, &self.context);
    }
}

// === shared by the two APIs ===

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

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        *self.0
    }
}

/// Which part of a list was asked for.
pub(super) struct Paging {
    page: usize,
    size: usize,
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

    /// The asked-for page of `items`.
    pub fn cut<T>(&self, items: Vec<T>) -> Vec<T> {
        items.into_iter().skip((self.page - 1).saturating_mul(self.size)).take(self.size).collect()
    }

    /// The links for the `Link` header of a list of `total` items; none when there is only one page. Both vendors write
    /// them so, with their own base URL and the rest of the query kept (GitHub: docs on pagination; Gitea: measured).
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
