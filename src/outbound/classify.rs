//! What came of a request that did not work, told by what decides the next step.

use std::error::Error as _;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

/// Why a request did not work. Its text names a class and a code; a remote's own words are only in
/// `body`, for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No connection: name resolution, refused, reset, proxy.
    #[error("cannot connect")]
    Connect,
    /// The server's certificate is not trusted, or the handshake failed.
    #[error("the TLS handshake failed: {0}")]
    Tls(String),
    /// No complete answer within the Provider's timeout.
    #[error("no answer within the timeout")]
    Timeout,
    /// The connection broke before the answer was complete.
    #[error("the connection broke before the answer was complete")]
    Broken,
    /// A redirect that would carry the credential to another host, or one too many.
    #[error("redirected to another place, which is not followed")]
    Redirect,
    /// An answer outside 2xx.
    #[error("answered {status}")]
    Status {
        /// The status.
        status: StatusCode,
        /// How long the vendor asks to wait.
        retry_after: Option<Duration>,
        /// The start of the body, for the log.
        body: String,
    },
    /// Something answered that is not the vendor's API.
    #[error("{what}")]
    NotTheVendor {
        /// What it did.
        what: &'static str,
    },
    /// The answer is larger than any real one.
    #[error("the answer is too large")]
    TooLarge,
    /// A token that the request needs could not be had from whoever gives it out.
    #[error("cannot get a token from {from}: {error}")]
    Token {
        /// Who gives it out.
        from: &'static str,
        /// Why not.
        error: Box<SendError>,
    },
    /// What a token is made from is not there, or not ours to use; in words, without a value.
    #[error("{0}")]
    NoCredential(String),
}

impl SendError {
    /// The class, for metrics and conditions.
    pub fn label(&self) -> &'static str {
        match self {
            SendError::Connect => "connect",
            SendError::Tls(_) => "tls",
            SendError::Timeout => "timeout",
            SendError::Broken => "broken",
            SendError::Redirect => "redirect",
            SendError::Status { .. } => "status",
            SendError::NotTheVendor { .. } => "not_the_vendor",
            SendError::TooLarge => "too_large",
            SendError::Token { .. } => "token",
            SendError::NoCredential(_) => "no_credential",
        }
    }

    /// The start of what the vendor said, for the log.
    pub fn body(&self) -> &str {
        match self {
            SendError::Status { body, .. } => body,
            SendError::Token { error, .. } => error.body(),
            _ => "",
        }
    }
}

impl From<reqwest::Error> for SendError {
    fn from(error: reqwest::Error) -> Self {
        if error.is_timeout() {
            return SendError::Timeout;
        }
        let mut source = error.source();
        while let Some(cause) = source {
            if let Some(tls) = tls_error(cause) {
                return SendError::Tls(tls.to_string());
            }
            source = cause.source();
        }
        if error.is_connect() { SendError::Connect } else { SendError::Broken }
    }
}

/// The TLS error that `cause` is or wraps. An `io::Error` hides what it wraps from `source()`, and
/// the layers below wrap it more than once.
fn tls_error<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let wrapped = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    cause.downcast_ref().or_else(|| tls_error(wrapped?))
}

/// `Retry-After` in seconds, or as a date seen from `now`.
pub fn retry_after(headers: &HeaderMap, now: jiff::Timestamp) -> Option<Duration> {
    let text = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Some(Duration::try_from(date.duration_since(now)).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_in_both_forms() {
        let now: jiff::Timestamp = "2026-01-02T15:04:05Z".parse().expect("valid");
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(http::header::RETRY_AFTER, text.parse().expect("valid"));
            retry_after(&headers, now)
        };
        assert_eq!(of("120"), Some(Duration::from_secs(120)));
        assert_eq!(of("Fri, 02 Jan 2026 15:05:05 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(of("Fri, 02 Jan 2026 15:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(of("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
