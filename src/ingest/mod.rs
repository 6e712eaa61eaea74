//! STAGE 1: the server for events (`--events-addr`), an axum router. Limits, decoding, and the answer, which never waits
//! for a vendor. Called by `app`.
//!
//! | answer | when |
//! |---|---|
//! | 202 | everything that had to be kept is kept |
//! | 400 | the body is no event, has a field longer than Kubernetes allows, or did not arrive within 10 s |
//! | 405 | not a POST |
//! | 413 | more than 3 MiB |
//! | 429 | every Alert that matched was told this within the interval; never for overload, because senders take it for "delivered" |
//! | 431 | more than 100 headers, or 260 KiB of them |
//! | 503 | not synced yet, or no room in memory or in the outbox: come again in 8 s |
//!
//! Bodies are always empty: senders leave a body unread, which pins their connection.

mod limits;
mod listen;
mod server;

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, LengthLimitError};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, SemaphorePermit};
use tower_http::limit::RequestBodyLimitLayer;

use crate::api::Event;
use crate::clock::Clock;
use crate::compose::{self, text};
use crate::ops::metrics::Metrics;
use crate::pipeline::{Answer, Pipeline};

pub use listen::listen;
pub use server::{Bounds, serve};

/// Bytes of a body; exactly this many are accepted.
const MAX_BODY: usize = 3 << 20;

/// Bytes of a request's headers, as upstream: 256 KiB and a little slack.
const MAX_HEADERS: usize = (256 << 10) + (4 << 10);

/// A head has as long as at upstream. A sender whose connection is closed between two events dials again.
const BOUNDS: Bounds =
    Bounds { logger: "event-server", connections: 1024, silence: Duration::from_secs(10), buffer: MAX_HEADERS };

/// How long a body may take to arrive; a sender gives up after 5 s.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of bodies in memory at once, by what has arrived. A request that finds no room for its next bytes gives back
/// what it took and is answered 503: one that waited could wait for ever, for others that wait.
const MAX_BODIES: usize = 64 << 20;

/// A sender's five tries then span 32 s; a smaller number ends them sooner.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("8");

/// How long a log line about refusals suppresses those that follow.
const QUIET: Duration = Duration::from_secs(10);

/// Receives events for the pipeline.
pub struct EventServer {
    pipeline: Arc<Pipeline>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    bodies: Semaphore,
    unavailable: LogThrottle,
}

/// Why a request is not accepted.
#[derive(Clone, Debug, thiserror::Error)]
enum Refusal {
    #[error("{0} is not how events are sent; POST them")]
    Method(Method),
    #[error("{0} bytes of headers; {MAX_HEADERS} are the most")]
    Headers(usize),
    #[error("a body of more bytes than may be; {MAX_BODY} are the most")]
    BodyTooLarge,
    #[error("the body did not arrive in time")]
    BodyTooSlow,
    #[error("the body broke off")]
    BodyBrokeOff,
    #[error("{0}")]
    NoEvent(String),
    #[error(transparent)]
    FieldTooLong(#[from] limits::FieldTooLong),
    #[error("{0}")]
    Unavailable(&'static str),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Headers(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow | Self::BodyBrokeOff | Self::NoEvent(_) | Self::FieldTooLong(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut response = status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl EventServer {
    /// A server for `pipeline`.
    pub fn new(pipeline: Arc<Pipeline>, metrics: Arc<Metrics>) -> Arc<Self> {
        let clock = pipeline.clock.clone();
        let unavailable = LogThrottle::new(clock.clone());
        Arc::new(Self { pipeline, metrics, clock, bodies: Semaphore::new(MAX_BODIES), unavailable })
    }

    /// Serves until `stop` resolves, then finishes the requests that have begun.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: impl Future<Output = ()>) {
        let clock = self.clock.clone();
        serve(listener, BOUNDS, clock, self.router(), stop).await;
    }

    /// Takes a POST on every path, and nothing else.
    fn router(self: Arc<Self>) -> Router {
        Router::new()
            .fallback(post(receive))
            .layer(RequestBodyLimitLayer::new(MAX_BODY))
            .layer(middleware::from_fn_with_state(self.clone(), record))
            .with_state(self)
    }

    /// Logs a refusal. The metric counts each; one line of many 503 in a row is enough.
    fn log(&self, status: StatusCode, refusal: &Refusal) {
        match refusal {
            Refusal::Unavailable(why) => {
                if self.unavailable.is_due() {
                    tracing::warn!(logger = "event-server", reason = why, "returning 503; senders try again");
                }
            }
            _ => {
                tracing::error!(logger = "event-server", status = status.as_u16(), error = %refusal, "refused a request; its sender will not send it again");
            }
        }
    }

    /// Reads a body. Returns it with the permit for its bytes.
    async fn read(&self, mut body: Body) -> Result<(Vec<u8>, SemaphorePermit<'_>), Refusal> {
        let mut read = Vec::new();
        let mut room = self.bodies.try_acquire_many(0).expect("never closed");
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| match is_over_limit(&error) {
                true => Refusal::BodyTooLarge,
                false => Refusal::BodyBrokeOff,
            })?;
            let Ok(bytes) = frame.into_data() else { continue };
            let wanted = u32::try_from(bytes.len()).expect("bounded by the layer");
            let more = self.bodies.try_acquire_many(wanted);
            room.merge(more.map_err(|_| Refusal::Unavailable("as many bytes of events are being read as may"))?);
            // Copied, because many small frames would each keep hyper's buffer.
            read.extend_from_slice(&bytes);
        }
        Ok((read, room))
    }
}

/// Counts and logs the answer to a request, and gives every answer an empty body and its headers.
async fn record(State(server): State<Arc<EventServer>>, request: Request, next: Next) -> Response {
    let began = server.clock.now();
    let method = request.method().clone();
    let open = server.metrics.open(request.uri().path());
    let mut response = match header_bytes(request.headers()) {
        bytes if bytes > MAX_HEADERS => Refusal::Headers(bytes).into_response(),
        _ => next.run(request).await,
    };
    let status = response.status();
    let refusal = response.extensions_mut().remove::<Refusal>().or(match status {
        // By the router and by the layer.
        StatusCode::METHOD_NOT_ALLOWED => Some(Refusal::Method(method.clone())),
        StatusCode::PAYLOAD_TOO_LARGE => Some(Refusal::BodyTooLarge),
        _ => None,
    });
    if let Some(refusal) = refusal {
        server.log(status, &refusal);
    }
    server.metrics.event(status);
    open.answered(&method, status, server.clock.now().saturating_duration_since(began), 0);
    *response.body_mut() = Body::empty();
    let headers = response.headers_mut();
    headers.remove(CONTENT_TYPE);
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    match status {
        StatusCode::SERVICE_UNAVAILABLE => headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => headers.insert(CONNECTION, HeaderValue::from_static("close")),
        _ => None,
    };
    response
}

/// Reads, decodes and accepts one event.
async fn receive(State(server): State<Arc<EventServer>>, body: Body) -> Result<StatusCode, Refusal> {
    let read = tokio::time::timeout(BODY_TIMEOUT, server.read(body)).await;
    let (body, _room) = read.map_err(|_| Refusal::BodyTooSlow)??;
    let mut event = Event::decode(&body)
        // The library quotes what it found, which may be the whole body.
        .map_err(|error| Refusal::NoEvent(text::cut(&format!("the body is no event: {error}"), 300)))?;
    limits::apply(&mut event)?;
    compose::clean(&mut event);
    match server.pipeline.accept(&event).await {
        Answer::Accepted => Ok(StatusCode::ACCEPTED),
        Answer::Repeat => Ok(StatusCode::TOO_MANY_REQUESTS),
        Answer::Unavailable(why) => Err(Refusal::Unavailable(why)),
    }
}

fn is_over_limit(error: &axum::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Bytes of the headers on the wire. hyper counts only while a head is not whole, and so not one that came in a single
/// read; a path of more than 64 KiB it never takes.
fn header_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + ": \r\n".len() + value.len()).sum()
}

/// Lets one log line through in each [`QUIET`].
struct LogThrottle {
    clock: Arc<dyn Clock>,
    logged: Mutex<Option<Instant>>,
}

impl LogThrottle {
    fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, logged: Mutex::new(None) }
    }

    fn is_due(&self) -> bool {
        let now = self.clock.now();
        let mut logged = self.logged.lock();
        let due = logged.is_none_or(|logged| now.saturating_duration_since(logged) >= QUIET);
        if due {
            *logged = Some(now);
        }
        due
    }
}
