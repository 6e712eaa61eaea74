//! What to do after a request that did not work: the whole retry table, in one place.

use std::time::Duration;

use crate::outbound::SendError;

/// The next step of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Try again after a growing pause.
    Later,
    /// Try again when the vendor said, or after this long.
    Wait(Duration),
    /// Nothing will change until someone changes something; try now and then, and at once when
    /// the Provider or a Secret of it changes.
    Park,
    /// It can never work; give it up.
    Drop,
}

impl Verdict {
    /// Whether the vendor named the time of the next try.
    pub fn is_told(self) -> bool {
        matches!(self, Verdict::Wait(_))
    }
}

/// A wait that a vendor names is honoured up to this long (rule R9).
const LONGEST_WAIT: Duration = Duration::from_secs(65 * 60);

/// Decides.
pub fn verdict(error: &SendError) -> Verdict {
    match error {
        SendError::Connect | SendError::Timeout | SendError::Broken | SendError::TooLarge => Verdict::Later,
        // A certificate, a sign-in page and a redirect are mended by people.
        SendError::Tls(_) | SendError::NotTheVendor { .. } | SendError::Redirect => Verdict::Park,
        SendError::NoCredential(_) => Verdict::Park,
        SendError::Token { error, .. } => match verdict(error) {
            // Whoever refuses a token says nothing of the notification.
            Verdict::Drop => Verdict::Park,
            other => other,
        },
        SendError::Status { status, retry_after, .. } => match (status.as_u16(), retry_after) {
            (403 | 429 | 500..=599, Some(wait)) => Verdict::Wait((*wait).min(LONGEST_WAIT)),
            (408 | 409 | 425 | 429, _) => Verdict::Later,
            (501, _) => Verdict::Drop,
            (500..=599, _) => Verdict::Later,
            (401 | 403 | 404 | 407, _) => Verdict::Park,
            _ => Verdict::Drop,
        },
    }
}

/// Whether what went wrong would go wrong for everything else that is told through the Provider:
/// its credential was refused, its vendor asked to be left alone, or something else answers there. A
/// 404 is not: it may be about the commit.
pub fn concerns_the_provider(error: &SendError) -> bool {
    match error {
        SendError::Tls(_) | SendError::NotTheVendor { .. } | SendError::Redirect => true,
        SendError::Token { .. } | SendError::NoCredential(_) => true,
        SendError::Status { status, retry_after, .. } => {
            matches!(status.as_u16(), 401 | 403 | 407) || retry_after.is_some()
        }
        _ => false,
    }
}

/// A pause before try number `attempts` + 1: between nothing and a span that doubles from 1 s to
/// 20 s (rule R9), so that jobs that failed together do not come back together.
pub fn backoff(attempts: u32) -> Duration {
    const LONGEST: f64 = 20.0;
    let span = 2f64.powi(attempts.min(5) as i32).min(LONGEST);
    Duration::from_secs_f64(span * fastrand::f64())
}

/// The pause of a parked job: 10 minutes, doubling to an hour. Permissions are often mended at the
/// vendor, where Herald cannot see it.
pub fn parked(attempts: u32) -> Duration {
    Duration::from_secs(600) * 2u32.pow(attempts.min(3)).min(6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    #[test]
    fn the_table() {
        let status = |code: u16, seconds: Option<u64>| SendError::Status {
            status: StatusCode::from_u16(code).expect("valid"),
            retry_after: seconds.map(Duration::from_secs),
            body: String::new(),
        };
        let token = |error| SendError::Token { from: "x", error: Box::new(error) };
        for (error, expected) in [
            (SendError::Connect, Verdict::Later),
            (SendError::Timeout, Verdict::Later),
            (SendError::Broken, Verdict::Later),
            (SendError::Tls("x".into()), Verdict::Park),
            (SendError::Redirect, Verdict::Park),
            (SendError::NotTheVendor { what: "x" }, Verdict::Park),
            (status(500, None), Verdict::Later),
            (status(502, None), Verdict::Later),
            (status(503, Some(7)), Verdict::Wait(Duration::from_secs(7))),
            (status(501, None), Verdict::Drop),
            (status(429, None), Verdict::Later),
            (status(429, Some(60)), Verdict::Wait(Duration::from_secs(60))),
            (status(403, Some(60)), Verdict::Wait(Duration::from_secs(60))),
            (status(403, Some(999_999)), Verdict::Wait(LONGEST_WAIT)),
            (status(403, None), Verdict::Park),
            (status(401, None), Verdict::Park),
            (status(404, None), Verdict::Park),
            (status(409, None), Verdict::Later),
            (status(422, None), Verdict::Drop),
            (status(400, None), Verdict::Drop),
            (SendError::NoCredential("x".into()), Verdict::Park),
            (token(status(400, None)), Verdict::Park),
            (token(status(401, None)), Verdict::Park),
            (token(status(403, None)), Verdict::Park),
            (token(status(404, None)), Verdict::Park),
            (token(status(422, None)), Verdict::Park),
            (token(status(501, None)), Verdict::Park),
            (token(status(500, None)), Verdict::Later),
            (token(status(503, Some(7))), Verdict::Wait(Duration::from_secs(7))),
            (token(status(429, Some(7))), Verdict::Wait(Duration::from_secs(7))),
            (token(SendError::Timeout), Verdict::Later),
        ] {
            assert_eq!(verdict(&error), expected, "{error:?}");
        }
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        for attempts in 0..40 {
            assert!(backoff(attempts) <= Duration::from_secs(20));
            assert!((Duration::from_secs(600)..=Duration::from_secs(3600)).contains(&parked(attempts)));
        }
        assert!((0..100).all(|_| backoff(0) <= Duration::from_secs(1)));
    }
}
