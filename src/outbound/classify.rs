//! What came of a request that did not work, told by what decides the next step.

use std::time::Duration;

use http::header::CONTENT_TYPE;
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
    /// The server closed its HTTP/2 connection, and says that it did not begin with the request.
    #[error("the server closed the connection before it began with the request")]
    NotBegun,
    /// No request can be made of what is to be sent.
    #[error("no request can be made of it: the address is too long or not valid")]
    Unsendable,
    /// No memory for the answer: others' answers take it.
    #[error("no memory was free for the answer")]
    NoRoom,
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
    /// A refusal in no language of the vendor's API: of a balancer, a firewall, a maintenance page. It says
    /// nothing of what was asked.
    #[error("answered {status} with something that is not of its API: a gateway or a maintenance page answers")]
    Foreign {
        /// The status.
        status: StatusCode,
        /// The start of the body, for the log.
        body: String,
    },
    /// A token that was issued a moment ago was refused: it may not have reached all of the vendor's replicas yet.
    #[error("a new token is not accepted yet")]
    NewToken,
    /// Nothing was sent: the vendor refused the same before, for good.
    #[error("{because}, as before")]
    Hopeless {
        /// The refusal.
        because: Box<SendError>,
    },
    /// A good answer that asked to be left alone, or used up the vendor's limit.
    #[error("nothing is left of the vendor's limit for now")]
    AskedToWait,
    /// Nothing was sent: the vendor wants to be left alone, or refused the like before.
    #[error("{because}")]
    Held {
        /// When to come back.
        pause: Duration,
        /// The vendor named that time.
        told: bool,
        /// What it said when it was asked last.
        because: Box<SendError>,
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
            SendError::NotBegun => "not_begun",
            SendError::Unsendable => "unsendable",
            SendError::NoRoom => "no_room",
            SendError::Redirect => "redirect",
            SendError::Status { .. } => "status",
            SendError::NotTheVendor { .. } | SendError::Foreign { .. } => "not_the_vendor",
            SendError::NewToken => "new_token",
            SendError::TooLarge => "too_large",
            SendError::AskedToWait => "asked_to_wait",
            SendError::Held { because, .. } | SendError::Hopeless { because } => because.label(),
            SendError::Token { .. } => "token",
            SendError::NoCredential(_) => "no_credential",
        }
    }

    /// The start of what the vendor said, for the log.
    pub fn body(&self) -> &str {
        match self {
            SendError::Status { body, .. } | SendError::Foreign { body, .. } => body,
            SendError::Token { error, .. } => error.body(),
            SendError::Held { because, .. } | SendError::Hopeless { because } => because.body(),
            _ => "",
        }
    }

    /// Whether a page asked to sign in where an answer was expected: a refused credential.
    pub fn is_sign_in(&self) -> bool {
        matches!(self, SendError::NotTheVendor { what: super::SIGN_IN })
    }

    /// The HTTP status of a refused credential, which is what another process is told of it.
    pub fn refusal(&self) -> Option<u16> {
        match self {
            SendError::Status { status, .. } => Some(status.as_u16()),
            error if error.is_sign_in() => Some(StatusCode::NON_AUTHORITATIVE_INFORMATION.as_u16()),
            _ => None,
        }
    }

    /// What an earlier process was refused with, as far as [`SendError::refusal`] told it.
    pub fn of_refusal(status: u16) -> Self {
        match StatusCode::from_u16(status) {
            Ok(StatusCode::NON_AUTHORITATIVE_INFORMATION) => super::SIGN_IN_PAGE,
            status => {
                let status = status.unwrap_or(StatusCode::UNAUTHORIZED);
                SendError::Status { status, retry_after: None, body: String::new() }
            }
        }
    }

    /// GitHub's limit on how fast, besides that on how much: known by its words, as the documentation
    /// has them and had them (docs.github.com/rest, "Rate limits for the REST API", about secondary
    /// rate limits; before 2021 "abuse detection mechanism").
    pub fn is_secondary_limit(&self) -> bool {
        let said = |words| self.body().to_ascii_lowercase().contains(words);
        matches!(self, SendError::Status { status, .. } if matches!(status.as_u16(), 403 | 429))
            && (said("secondary rate limit") || said("abuse detection"))
    }

    /// The same with no more than so many bytes of what the vendor said, for what is remembered.
    #[must_use]
    pub fn cut(mut self, bytes: usize) -> Self {
        if let SendError::Status { body, .. } | SendError::Foreign { body, .. } = &mut self {
            body.truncate(body.floor_char_boundary(bytes));
            body.shrink_to_fit();
        }
        self
    }

    /// Whether a status of this name can never be written again: GitHub keeps 1,000 of a name and commit
    /// (palantir/policy-bot#470), GitLab does not let two things have one name.
    pub fn is_final(&self) -> bool {
        let said = |words| self.body().contains(words);
        matches!(self, SendError::Status { status, .. } if matches!(status.as_u16(), 400 | 409 | 422))
            && (said("maximum number of statuses") || said("already been taken"))
    }

    /// Whether it is the answer 403.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, SendError::Status { status, .. } if *status == StatusCode::FORBIDDEN)
    }

    /// GitLab refuses every write to a project that has another path now (VirtusLab/git-machete#1212,
    /// gitlabform/gitlabform#745); reads it redirects.
    pub fn is_moved(&self) -> bool {
        matches!(self, SendError::Status { status, body, .. }
            if *status == StatusCode::METHOD_NOT_ALLOWED && body.contains("moved projects"))
    }

    /// A limit that names no time: Bitbucket Cloud's and GitLab's bare 429, GitHub's secondary limit.
    pub fn is_unnamed_limit(&self) -> bool {
        match self {
            SendError::Token { error, .. } => error.is_unnamed_limit(),
            SendError::Status { status, retry_after: None, .. } => {
                *status == StatusCode::TOO_MANY_REQUESTS || self.is_secondary_limit()
            }
            _ => false,
        }
    }
}

/// Whether an answer outside 2xx is not the vendor's. Every Git host answers JSON where it refuses
/// (`is_api`), but for limits and sign-in, which count by their status. A hook may answer as it likes; a page
/// tells no more than that the request did not reach it, where it would be given up.
pub(super) fn is_foreign(error: &SendError, headers: &HeaderMap, is_api: bool) -> bool {
    let SendError::Status { status, retry_after: None, body } = error else { return false };
    let code = status.as_u16();
    if !(status.is_client_error() || code == 501) || matches!(code, 401 | 407 | 408 | 425 | 429) {
        return false;
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_ascii_lowercase();
    let text = body.trim_start();
    let page = kind.starts_with("text/html") || text.starts_with('<');
    if !is_api {
        return page && !matches!(code, 403 | 404 | 409);
    }
    let empty_as_usual = text.is_empty() && matches!(code, 403 | 404 | 409 | 422);
    let json = kind.contains("json") || text.starts_with(['{', '[']);
    (page || !json) && !empty_as_usual && !error.is_unnamed_limit()
}

impl From<reqwest::Error> for SendError {
    /// The one place where reqwest's errors are told apart.
    fn from(error: reqwest::Error) -> Self {
        if error.is_builder() {
            return SendError::Unsendable;
        }
        let otherwise = if error.is_timeout() {
            SendError::Timeout
        } else if error.is_connect() {
            SendError::Connect
        } else {
            SendError::Broken
        };
        of_causes(&error).unwrap_or(otherwise)
    }
}

/// What lies behind an error, if that is told apart: certificates, streams that the server did not begin, and time.
fn of_causes(error: &(dyn std::error::Error + 'static)) -> Option<SendError> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|cause| {
        if let Some(tls) = tls_error(cause) {
            return Some(of_tls(tls));
        }
        if cause.downcast_ref().is_some_and(is_not_begun) {
            return Some(SendError::NotBegun);
        }
        let io = cause.downcast_ref::<std::io::Error>()?;
        (io.kind() == std::io::ErrorKind::TimedOut).then_some(SendError::Timeout)
    })
}

/// What speaks no TLS is a place like any other that speaks no HTTP.
fn of_tls(error: &rustls::Error) -> SendError {
    match error {
        rustls::Error::InvalidMessage(_) => SendError::Connect,
        error => SendError::Tls(error.to_string()),
    }
}

/// Whether the server says that it did nothing with a stream: it refused the stream, or went away before it
/// (RFC 9113 8.7).
fn is_not_begun(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    let gone = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
    error.is_remote() && (refused || gone)
}

/// The TLS error that `cause` is or wraps. An `io::Error` hides what it wraps from `source()`, and
/// the layers below wrap it more than once.
fn tls_error<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let wrapped = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    cause.downcast_ref().or_else(|| tls_error(wrapped?))
}

/// How long an answer asks to be left alone; `None` when it does not ask. `body` is the start of it.
///
/// | header or field | who sends it | source |
/// |---|---|---|
/// | `Retry-After`, seconds or a date | GitHub, Azure DevOps (with 200 too), GitLab, Bitbucket, Discord, Slack | RFC 9110 10.2.3 |
/// | `X-RateLimit-Remaining: 0` with `X-RateLimit-Reset` | GitHub (epoch seconds), Azure DevOps | docs.github.com/rest, "Rate limits for the REST API"; learn.microsoft.com, "Rate and usage limits" |
/// | `RateLimit-Remaining: 0` with `RateLimit-Reset` | GitLab | docs.gitlab.com, "User and IP rate limits", response headers |
/// | `X-RateLimit-Remaining: 0` with `X-RateLimit-Reset-After` | Discord | docs.discord.com, "Rate Limits" |
/// | `retry_after`, seconds with a fraction, in the body of a 429 | Discord | the same |
///
/// What is left of a limit counts with an answer that was good, and with 403 and 429: a 404 or a 500
/// with nothing left is still a 404 or a 500. A time of day is seen from the answer's own `Date`: our clock
/// may differ from the vendor's, whose limit it is. Who is refused until a time that is past waits for
/// [`SHORTEST_WAIT`].
pub fn asked_pause(status: StatusCode, headers: &HeaderMap, body: &str, now: jiff::Timestamp) -> Option<Duration> {
    let refused = matches!(status.as_u16(), 403 | 429);
    let pause = named_pause(status, headers, body, now)?;
    Some(if refused && pause.is_zero() { SHORTEST_WAIT } else { pause })
}

/// A limit that refuses is not over, whatever it says. GitHub bans who goes on (docs.github.com/rest, "Rate
/// limits for the REST API").
const SHORTEST_WAIT: Duration = Duration::from_secs(5);

fn named_pause(status: StatusCode, headers: &HeaderMap, body: &str, now: jiff::Timestamp) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    if let Some(pause) = text("retry-after").and_then(|text| retry_after(text, || vendors_time(headers, now))) {
        return Some(pause);
    }
    let refused = matches!(status.as_u16(), 403 | 429);
    if !status.is_success() && !refused {
        return None;
    }
    #[derive(serde::Deserialize)]
    struct Body {
        retry_after: f64,
    }
    if status == StatusCode::TOO_MANY_REQUESTS
        && let Ok(Body { retry_after }) = serde_json::from_str(body)
    {
        return Duration::try_from_secs_f64(retry_after).ok();
    }
    Left::read(headers, now).filter(|left| left.requests == 0)?.resets
}

/// What an answer says is left of the vendor's limit; the headers are in the table at [`asked_pause`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// So many requests, in the vendor's own measure.
    pub requests: u64,
    /// From then on there are more; `None` when the answer does not say.
    pub resets: Option<Duration>,
}

impl Left {
    /// Reads it from the headers of an answer.
    pub fn read(headers: &HeaderMap, now: jiff::Timestamp) -> Option<Self> {
        let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
        let number = |name: &str| text(name)?.parse().ok();
        if let Some(requests) = number("x-ratelimit-remaining") {
            let after = || Duration::try_from_secs_f64(text("x-ratelimit-reset-after")?.parse().ok()?).ok();
            let resets = after().or_else(|| reset(text("x-ratelimit-reset")?, || vendors_time(headers, now)));
            return Some(Self { requests, resets });
        }
        let requests = number("ratelimit-remaining")?;
        let resets = text("ratelimit-reset").and_then(|text| reset(text, || vendors_time(headers, now)));
        Some(Self { requests, resets })
    }
}

/// What the vendor's clock said when it answered (`Date`, RFC 9110 6.6.1), if that is within a day of ours;
/// else ours, `now`.
fn vendors_time(headers: &HeaderMap, now: jiff::Timestamp) -> jiff::Timestamp {
    const MOST: Duration = Duration::from_secs(24 * 3600);
    let date = headers.get(http::header::DATE).and_then(|date| date_of(date.to_str().ok()?.trim()));
    date.filter(|date| date.duration_since(now).unsigned_abs() <= MOST).unwrap_or(now)
}

/// How long before an answer with these headers something was at the vendor, by the vendor's own clock where the
/// answer tells it; `now` is ours. To the second.
pub fn age(headers: &HeaderMap, at: jiff::Timestamp, now: jiff::Timestamp) -> Duration {
    vendors_time(headers, now).duration_since(at).try_into().unwrap_or_default()
}

fn date_of(text: &str) -> Option<jiff::Timestamp> {
    Some(jiff::fmt::rfc2822::parse(text).ok()?.timestamp())
}

/// `Retry-After` in seconds, or as a date seen from `now`.
fn retry_after(text: &str, now: impl Fn() -> jiff::Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(Duration::try_from(date_of(text)?.duration_since(now())).unwrap_or(Duration::ZERO))
}

/// A limit's reset: in seconds since 1970, or, when it is too small for that, from now.
fn reset(text: &str, now: impl Fn() -> jiff::Timestamp) -> Option<Duration> {
    const SMALLEST_DATE: f64 = 1e9;
    let seconds: f64 = text.parse().ok()?;
    let ahead = if seconds < SMALLEST_DATE { seconds } else { seconds - now().as_millisecond() as f64 / 1000.0 };
    Duration::try_from_secs_f64(ahead.max(0.0)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    /// What stands between Herald and a vendor, in its own words.
    #[test]
    fn who_speaks_another_language_than_the_vendor() {
        let nginx = "<html>\r\n<head><title>405 Not Allowed</title></head>";
        for (source, status, kind, body, [at_an_api, at_a_hook]) in [
            ("nginx: a page for POST", 405, "text/html", nginx, [true, true]),
            ("nginx: error_page with another type", 405, "text/plain", nginx, [true, true]),
            ("nginx: 400, 413, 421", 421, "text/html", nginx, [true, true]),
            ("a method that Squid does not know", 501, "text/html", nginx, [true, true]),
            (
                "ingress-nginx without a backend",
                404,
                "text/plain; charset=utf-8",
                "default backend - 404",
                [true, false],
            ),
            ("Traefik, Go's net/http", 404, "text/plain; charset=utf-8", "404 page not found", [true, false]),
            ("an application firewall", 403, "text/html; charset=UTF-8", "<!DOCTYPE html>", [true, false]),
            ("a balancer", 400, "text/plain", "Bad Request", [true, false]),
            ("Envoy", 405, "", "", [true, false]),
            ("a service that is switched off", 410, "text/html", "<h1>Gone", [true, true]),
            ("nothing at all says nothing", 404, "", "", [false, false]),
            ("the same", 403, "", "", [false, false]),
            ("a sign-in is one in every language", 401, "text/html", nginx, [false, false]),
            ("a proxy's is its own", 407, "text/html", nginx, [false, false]),
            ("GitLab issue 365728: a limit", 429, "text/plain", "Retry later", [false, false]),
            ("GitHub: a limit", 403, "text/html", "exceeded a secondary rate limit", [false, false]),
            ("passes as it is", 502, "text/html", nginx, [false, false]),
            ("Gitea", 405, "application/json", r#"{"message":""}"#, [false, false]),
            ("any API", 400, "application/json; charset=utf-8", r#"{"errors":[]}"#, [false, false]),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            let status = StatusCode::from_u16(status).expect("valid");
            let error = SendError::Status { status, retry_after: None, body: body.to_owned() };
            let found = [true, false].map(|is_api| is_foreign(&error, &headers, is_api));
            assert_eq!(found, [at_an_api, at_a_hook], "{source}: {status}");
        }
    }

    #[test]
    fn retry_after_in_both_forms() {
        let now: jiff::Timestamp = "2026-01-02T15:04:05Z".parse().expect("valid");
        let of = |text: &str| retry_after(text, || now);
        assert_eq!(of("120"), Some(Duration::from_secs(120)));
        assert_eq!(of("Fri, 02 Jan 2026 15:05:05 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(of("Fri, 02 Jan 2026 15:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(of("soon"), None);
    }

    /// The table at [`asked_pause`]; 1767366245 is the time it is.
    #[test]
    fn what_vendors_ask_for() {
        let now: jiff::Timestamp = "2026-01-02T15:04:05Z".parse().expect("valid");
        type Headers<'a> = &'a [(&'static str, &'a str)];
        const CASES: &[(&str, u16, Headers, &str, Option<u64>)] = &[
            ("nothing", 429, &[], "", None),
            ("GitHub, secondary", 403, &[("retry-after", "60")], "", Some(60_000)),
            (
                "GitHub, primary",
                403,
                &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1767366345")],
                "",
                Some(100_000),
            ),
            (
                "GitHub, the last that was good",
                201,
                &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1767366345")],
                "",
                Some(100_000),
            ),
            (
                "GitHub, some left",
                403,
                &[("x-ratelimit-remaining", "17"), ("x-ratelimit-reset", "1767366345")],
                "",
                None,
            ),
            (
                "GitHub, the reset is past",
                429,
                &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1767366200")],
                "",
                Some(5_000),
            ),
            ("refused for no time", 429, &[("retry-after", "0")], "", Some(5_000)),
            (
                "the last that was good, and the reset is past",
                201,
                &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1767366200")],
                "",
                Some(0),
            ),
            (
                "our clock is two minutes fast",
                403,
                &[
                    ("date", "Fri, 02 Jan 2026 15:02:05 GMT"),
                    ("x-ratelimit-remaining", "0"),
                    ("x-ratelimit-reset", "1767366225"),
                ],
                "",
                Some(100_000),
            ),
            (
                "our clock is two minutes slow",
                429,
                &[
                    ("date", "Fri, 02 Jan 2026 15:06:05 GMT"),
                    ("ratelimit-remaining", "0"),
                    ("ratelimit-reset", "1767366375"),
                ],
                "",
                Some(10_000),
            ),
            (
                "a date to come again, by the vendor's clock",
                503,
                &[("date", "Fri, 02 Jan 2026 15:02:05 GMT"), ("retry-after", "Fri, 02 Jan 2026 15:03:05 GMT")],
                "",
                Some(60_000),
            ),
            (
                "the vendor's clock was never set",
                403,
                &[
                    ("date", "Thu, 01 Jan 1970 00:00:10 GMT"),
                    ("x-ratelimit-remaining", "0"),
                    ("x-ratelimit-reset", "1767366345"),
                ],
                "",
                Some(100_000),
            ),
            (
                "a date that is none",
                403,
                &[("date", "today"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1767366345")],
                "",
                Some(100_000),
            ),
            (
                "none left, and another fault",
                404,
                &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1767366345")],
                "",
                None,
            ),
            (
                "GitLab",
                429,
                &[("ratelimit-remaining", "0"), ("ratelimit-reset", "1767366275")],
                "Retry later",
                Some(30_000),
            ),
            ("GitLab, some left", 200, &[("ratelimit-remaining", "7"), ("ratelimit-reset", "1767366275")], "", None),
            ("seconds from now", 429, &[("ratelimit-remaining", "0"), ("ratelimit-reset", "30")], "", Some(30_000)),
            (
                "Azure DevOps delays first",
                200,
                &[("retry-after", "5"), ("x-ratelimit-delay", "0.5"), ("x-ratelimit-remaining", "12")],
                "",
                Some(5_000),
            ),
            (
                "Azure DevOps, none left",
                200,
                &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1767366255")],
                "",
                Some(10_000),
            ),
            (
                "Discord, in the body",
                429,
                &[("x-ratelimit-reset-after", "9")],
                r#"{"message": "slow", "retry_after": 1.5, "global": false}"#,
                Some(1_500),
            ),
            (
                "Discord, the last that was good",
                204,
                &[
                    ("x-ratelimit-remaining", "0"),
                    ("x-ratelimit-reset", "1767366245.5"),
                    ("x-ratelimit-reset-after", "0.75"),
                ],
                "",
                Some(750),
            ),
            (
                "nonsense",
                429,
                &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "soon"), ("retry-after", "-1")],
                r#"{"retry_after": -3}"#,
                None,
            ),
        ];
        for (case, status, headers, body, expected) in CASES {
            let headers: HeaderMap = headers
                .iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().expect("valid")))
                .collect();
            let pause = asked_pause(StatusCode::from_u16(*status).expect("valid"), &headers, body, now);
            assert_eq!(pause, expected.map(Duration::from_millis), "{case}");
        }
    }
}
