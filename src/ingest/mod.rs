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
//! | 431 | more than 100 headers, or 256 KiB of them |
//! | 503 | not synced yet, or the outbox cannot take it: come again in 8 s |
//!
//! Bodies are always empty: senders leave a body unread, which pins their connection.

mod listen;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::api::Event;
use crate::clock::Clock;
use crate::compose::{self, text};
use crate::ops::metrics::Metrics;
use crate::pipeline::{Answer, Pipeline};

pub use listen::listen;

/// Bytes of a body; exactly this many are accepted.
const MAX_BODY: usize = 3 << 20;

/// Bytes of a request's headers, as the peer: 256 KiB and a little slack.
const MAX_HEADERS: usize = (256 << 10) + (4 << 10);

/// How long a head may take to arrive, and how long an idle connection stays open.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections open at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;

/// Bytes of bodies in memory at once; a request that finds no room in time is asked to come again.
const MAX_BODIES: usize = 64 << 20;

/// How long a request waits for that room; a sender gives up after 5 s.
const ROOM_TIMEOUT: Duration = Duration::from_secs(2);

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
    unavailable_said: Mutex<Option<Instant>>,
}

type Answered = Response<Empty<Bytes>>;

impl Door {
    /// A door to `pipeline`.
    pub fn new(pipeline: Arc<Pipeline>, metrics: Arc<Metrics>) -> Arc<Self> {
        let clock = pipeline.clock.clone();
        Arc::new(Self {
            pipeline,
            metrics,
            clock,
            bodies: Semaphore::new(MAX_BODIES),
            unavailable_said: Mutex::new(None),
        })
    }

    /// Serves until `stop` resolves, then finishes what is open.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: impl Future<Output = ()>) {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let graceful = GracefulShutdown::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = async {
                let permit = connections.clone().acquire_owned().await.expect("never closed");
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                () = &mut stop => break,
                accepted = accepted => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(logger = "event-server", %error, "cannot accept a connection");
                    // Out of file descriptors, most likely; they come back as others close.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let door = self.clone();
            let service = service_fn(move |request| {
                let door = door.clone();
                async move { Ok::<_, std::convert::Infallible>(door.answer(request).await) }
            });
            // 100 headers, as many as hyper has room for without asking the heap for each request.
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(MAX_HEADERS)
                .serve_connection(TokioIo::new(stream), service);
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                // A connection's own troubles are the client's; requests are counted below.
                let _ = connection.await;
                drop(permit);
            });
        }
        drop(listener);
        graceful.shutdown().await;
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
            _ => {}
        }
        response
    }

    /// One line for a spell of refusals; the metric counts each.
    fn say_unavailable(&self, why: &str) {
        let now = self.clock.now();
        let mut said = self.unavailable_said.lock();
        if said.is_none_or(|said| now.saturating_duration_since(said) >= QUIET) {
            *said = Some(now);
            tracing::warn!(logger = "event-server", reason = why, "asking senders to come again");
        }
    }

    async fn decide<B>(&self, request: Request<B>) -> Result<Answer, (StatusCode, String)>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if request.method() != Method::POST {
            let why = format!("{} is not how events are sent; POST them", request.method());
            return Err((StatusCode::METHOD_NOT_ALLOWED, why));
        }
        let body = request.into_body();
        let announced = usize::try_from(body.size_hint().upper().unwrap_or(MAX_BODY as u64)).unwrap_or(usize::MAX);
        if announced > MAX_BODY && body.size_hint().exact().is_some() {
            return Err((
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("a body of {announced} bytes; {MAX_BODY} are the most"),
            ));
        }
        let Some(_room) = self.room(announced.min(MAX_BODY)).await else {
            return Ok(Answer::Unavailable("as many bytes of events are being read as may"));
        };
        let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect())
            .await
            .map_err(|_| (StatusCode::BAD_REQUEST, "the body did not arrive in time".to_owned()))?;
        let body = collected.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
            Some(_) => (StatusCode::PAYLOAD_TOO_LARGE, format!("a body of more than {MAX_BODY} bytes")),
            None => (StatusCode::BAD_REQUEST, "the body broke off".to_owned()),
        })?;
        let mut event = Event::decode(&body.to_bytes())
            // The library quotes what it found, which may be the whole body.
            .map_err(|error| (StatusCode::BAD_REQUEST, text::cut(&format!("the body is no event: {error}"), 300)))?;
        compose::clean(&mut event);
        Ok(self.pipeline.accept(&event).await)
    }

    /// Room for a body, or `None` when there is none in time.
    async fn room(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        let bytes = u32::try_from(bytes).expect("bodies are bounded far below");
        match self.bodies.try_acquire_many(bytes) {
            Ok(room) => Some(room),
            Err(_) => tokio::time::timeout(ROOM_TIMEOUT, self.bodies.acquire_many(bytes)).await.ok()?.ok(),
        }
    }
}
