//! The only code that opens connections to vendors.
//!
//! `vendors` build a [`Request`], [`Target::send`] carries it out: with the Target's credentials,
//! within its timeout, following no redirect to another host, reading no more than it may.

mod addresses;
pub mod auth;
mod classify;
mod client;
mod mask;
mod proxy;
mod room;
mod target;
mod tls;

pub use addresses::{AddressRange, Addresses};
pub use classify::{Left, SendError, age, asked_pause};
pub use client::{Client, ClientError, Clients, Way};
pub use mask::{Masks, SHORTEST, SHORTEST_OTHER};
pub use room::AnswerRoom;
pub use target::{Target, basic, sensitive};
pub use tls::TlsConfig;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use url::Url;

/// Bytes of an answer that are read; a page of 100 statuses is about 200 KiB.
const MAX_ANSWER: usize = 8 << 20;

/// Bytes and time that the body of a good answer may take of which only the status counts. A connection whose
/// answer was read to its end is used again.
const MAX_IGNORED: usize = 4 << 10;
const IGNORED_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes of an error's body that are kept to say why.
const MAX_ERROR_BODY: usize = 4 << 10;

/// Who asks: `User-Agent`.
const AGENT: &str = concat!("herald/", env!("CARGO_PKG_VERSION"));

/// Redirects followed within one host; GitHub answers with one for a renamed repository.
const MAX_REDIRECTS: usize = 3;

/// Whether a request may go out now, and what came of those that did: `delivery`'s budget, as one
/// Provider has it.
pub trait Gate: Send + Sync + 'static {
    /// Asked right before each request.
    ///
    /// # Errors
    /// [`SendError::Held`]: nothing may go out now.
    fn enter(&self) -> Result<(), SendError>;

    /// What came of it; `pause`: how long a good answer asks to be left alone.
    fn answered(&self, error: Option<&SendError>, pause: Option<Duration>);

    /// An answer, good or not, says what is left of the vendor's limit.
    fn left(&self, left: Left);
}

/// Lets everything pass: for who gives out tokens at a host of its own.
#[derive(Clone, Copy, Debug)]
pub struct Open;

impl Gate for Open {
    fn enter(&self) -> Result<(), SendError> {
        Ok(())
    }

    fn answered(&self, _: Option<&SendError>, _: Option<Duration>) {}

    fn left(&self, _: Left) {}
}

/// Lets pass what another gate lets pass, and tells it nothing: for getting a token at the host it is for.
/// What comes of that is told by whoever wanted the token.
pub(crate) struct Leave(pub Arc<dyn Gate>);

impl Gate for Leave {
    fn enter(&self) -> Result<(), SendError> {
        self.0.enter()
    }

    fn answered(&self, _: Option<&SendError>, _: Option<Duration>) {}

    fn left(&self, _: Left) {}
}

/// One request to a vendor, without credentials.
#[derive(Clone, Debug)]
pub struct Request {
    /// GET or POST.
    pub method: Method,
    /// Where to.
    pub url: Url,
    /// Besides those of the Target.
    pub headers: HeaderMap,
    /// Empty for none.
    pub body: Bytes,
    /// The status alone decides: the body of a good answer is not waited for.
    pub status_only: bool,
}

impl Request {
    /// A GET.
    pub fn get(url: Url) -> Self {
        Self { method: Method::GET, url, headers: HeaderMap::new(), body: Bytes::new(), status_only: false }
    }

    /// A POST of JSON.
    pub fn post_json(url: Url, body: Vec<u8>) -> Self {
        Self { method: Method::POST, url, headers: HeaderMap::new(), body: body.into(), status_only: false }
            .header(http::header::CONTENT_TYPE, "application/json")
    }

    /// The same, of whose good answer only the status counts.
    #[must_use]
    pub fn status_only(mut self) -> Self {
        self.status_only = true;
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.insert(name, HeaderValue::from_static(value));
        self
    }
}

/// How a maintenance page or a sign-in shows where an API was asked.
const PAGE: &str = "answered with a page instead of JSON";

/// How Azure DevOps refuses a token.
const SIGN_IN_PAGE: SendError = SendError::NotTheVendor { what: SIGN_IN };
const SIGN_IN: &str = "answered 203, which is a sign-in page";

/// A 2xx answer.
#[derive(Debug)]
pub struct Sent {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, whole; empty where only the status counts.
    pub body: Vec<u8>,
    /// The memory that the body takes.
    _room: Option<room::Share>,
}

impl Sent {
    /// Nothing but that it is the vendor's answer, for those that answer a write without a body. A body
    /// has to be JSON: what stands before the vendor shows its sign-in page under 200 (rule R6).
    pub fn empty_or_json(&self) -> Result<(), SendError> {
        match self.status {
            StatusCode::NON_AUTHORITATIVE_INFORMATION => Err(SIGN_IN_PAGE),
            _ if self.body.trim_ascii().is_empty() => Ok(()),
            _ => self.json::<serde::de::IgnoredAny>().map(drop),
        }
    }

    /// Whether it is a page for people, by its type or by how it begins.
    fn is_page(&self) -> bool {
        let html = |value: &HeaderValue| value.as_bytes().to_ascii_lowercase().starts_with(b"text/html");
        self.headers.get(http::header::CONTENT_TYPE).is_some_and(html) || self.body.trim_ascii_start().starts_with(b"<")
    }

    /// The body as JSON. An answer that is not JSON is not the vendor's: a proxy's or a sign-in
    /// page (rule R6).
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, SendError> {
        if self.status == StatusCode::NON_AUTHORITATIVE_INFORMATION {
            return Err(SIGN_IN_PAGE);
        }
        serde_json::from_slice(&self.body).map_err(|_| SendError::NotTheVendor {
            what: if self.body.trim_ascii_start().starts_with(b"<") {
                PAGE
            } else {
                "answered with something that is not the JSON its API documents"
            },
        })
    }
}
