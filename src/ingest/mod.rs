//! STAGE 1: the events door (`--events-addr`). Limits, decoding, and the answer, which never waits
//! for a vendor.
//!
//! | answer | when |
//! |---|---|
//! | 202 | everything that had to be kept is kept |
//! | 400 | the body is no event |
//! | 405 | not a POST |
//! | 413 | more than 3 MiB |
//! | 429 | every Alert that matched was told this within the interval; never for overload, because senders take it for "delivered" |
//! | 431 | more than 100 headers, or 260 KiB of them |
//! | 503 | not synced yet, or no room in memory or in the outbox: come again in 8 s |
//!
//! Bodies are always empty: senders leave a body unread, which pins their connection.

mod listen;
mod server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Body;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::api::Event;
use crate::clock::Clock;
use crate::compose::{self, text};
use crate::ops::metrics::Metrics;
use crate::pipeline::{Answer, Pipeline};

pub use listen::listen;
pub use server::{Arriving, Bounds, serve};

/// Bytes of a body; exactly this many are accepted.
const MAX_BODY: usize = 3 << 20;

/// Bytes of a request's headers, as the peer: 256 KiB and a little slack.
const MAX_HEADERS: usize = (256 << 10) + (4 << 10);

/// A head has as long as at the peer. A sender whose connection is closed between two events dials anew.
const BOUNDS: Bounds =
    Bounds { logger: "event-server", connections: 1024, head: Duration::from_secs(10), buffer: MAX_HEADERS };

/// How long a body may take to arrive; a sender gives up after 5 s.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of bodies in memory at once, by what has arrived. A request that finds no room for the next of its own gives back
/// what it took and is asked to come again: one that waited could wait for ever, for others that wait.
const MAX_BODIES: usize = 64 << 20;

/// A sender's five tries then span 32 s; a smaller number ends them sooner.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("8");

/// How long a line about refusals speaks for those that follow.
const QUIET: Duration = Duration::from_secs(10);

/// The door.
pub struct Door {
    pipeline: Arc<Pipeline>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    bodies: Semaphore,
    unavailable: Spell,
}

type Answered = Response<Empty<Bytes>>;

impl Door {
    /// A door to `pipeline`.
    pub fn new(pipeline: Arc<Pipeline>, metrics: Arc<Metrics>) -> Arc<Self> {
        let clock = pipeline.clock.clone();
        let unavailable = Spell::new(clock.clone());
        Arc::new(Self { pipeline, metrics, clock, bodies: Semaphore::new(MAX_BODIES), unavailable })
    }

    /// Serves until `stop` resolves, then finishes what is open.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: impl Future<Output = ()>) {
        let clock = self.clock.clone();
        let answer = move |request| {
            let door = self.clone();
            async move { door.answer(request).await }
        };
        serve(listener, BOUNDS, clock, answer, stop).await;
    }

    /// Answers one request.
    pub async fn answer<B>(&self, request: Request<B>) -> Answered
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let began = self.clock.now();
        let method = request.method().clone();
        let open = self.metrics.open(request.uri().path());
        let answer = self.decide(request).await;
        let status = match &answer {
            Ok(Answer::Accepted) => StatusCode::ACCEPTED,
            Ok(Answer::Repeat) => StatusCode::TOO_MANY_REQUESTS,
            Ok(Answer::Unavailable(why)) => {
                self.say_unavailable(why);
                StatusCode::SERVICE_UNAVAILABLE
            }
            Err((status, why)) => {
                tracing::error!(logger = "event-server", status = status.as_u16(), error = %why, "refused a request; its sender will not send it again");
                *status
            }
        };
        self.metrics.event(status);
        open.answered(&method, status, self.clock.now().saturating_duration_since(began), 0);
        let mut response = Response::new(Empty::new());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        match status {
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(ALLOW, HeaderValue::from_static("POST"));
            }
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }

    /// One line for a spell of refusals; the metric counts each.
    fn say_unavailable(&self, why: &str) {
        if self.unavailable.begins() {
            tracing::warn!(logger = "event-server", reason = why, "asking senders to come again");
        }
    }

    async fn decide<B>(&self, request: Request<B>) -> Result<Answer, (StatusCode, String)>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let headers = header_bytes(request.headers());
        if headers > MAX_HEADERS {
            let why = format!("{headers} bytes of headers; {MAX_HEADERS} are the most");
            return Err((StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, why));
        }
        if request.method() != Method::POST {
            let why = format!("{} is not how events are sent; POST them", request.method());
            return Err((StatusCode::METHOD_NOT_ALLOWED, why));
        }
        let read = tokio::time::timeout(BODY_TIMEOUT, self.read(request.into_body()))
            .await
            .map_err(|_| (StatusCode::BAD_REQUEST, "the body did not arrive in time".to_owned()))??;
        let Some((body, _room)) = read else {
            return Ok(Answer::Unavailable("as many bytes of events are being read as may"));
        };
        let mut event = Event::decode(&body)
            // The library quotes what it found, which may be the whole body.
            .map_err(|error| (StatusCode::BAD_REQUEST, text::cut(&format!("the body is no event: {error}"), 300)))?;
        compose::clean(&mut event);
        Ok(self.pipeline.accept(&event).await)
    }

    /// A body and the room it takes, or `None` where there is not enough.
    async fn read<B>(&self, mut body: B) -> Result<Option<(Vec<u8>, SemaphorePermit<'_>)>, (StatusCode, String)>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let too_large = |what: String| (StatusCode::PAYLOAD_TOO_LARGE, format!("{what}; {MAX_BODY} are the most"));
        if let Some(announced) = body.size_hint().exact().filter(|announced| *announced > MAX_BODY as u64) {
            return Err(too_large(format!("a body of {announced} bytes")));
        }
        let mut read = Vec::new();
        let mut room = self.bodies.try_acquire_many(0).expect("never closed");
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| (StatusCode::BAD_REQUEST, "the body broke off".to_owned()))?;
            let Ok(bytes) = frame.into_data() else { continue };
            if read.len() + bytes.len() > MAX_BODY {
                return Err(too_large("a body of more bytes than may be".to_owned()));
            }
            let wanted = u32::try_from(bytes.len()).expect("bounded above");
            let Ok(more) = self.bodies.try_acquire_many(wanted) else { return Ok(None) };
            room.merge(more);
            // Copied, because many small frames would each keep hyper's buffer.
            read.extend_from_slice(&bytes);
        }
        Ok(Some((read, room)))
    }
}

/// What the headers took on the wire. hyper counts only while they are not whole, which says nothing of those that came at a
/// stroke; a path of more than 64 KiB it never takes.
fn header_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + ": \r\n".len() + value.len()).sum()
}

/// Says when a line is due about what happens many times: once for [`QUIET`].
struct Spell {
    clock: Arc<dyn Clock>,
    said: Mutex<Option<Instant>>,
}

impl Spell {
    fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, said: Mutex::new(None) }
    }

    fn begins(&self) -> bool {
        let now = self.clock.now();
        let mut said = self.said.lock();
        let begins = said.is_none_or(|said| now.saturating_duration_since(said) >= QUIET);
        if begins {
            *said = Some(now);
        }
        begins
    }
}
