//! What to do after a request that did not work: the whole retry table, in one place.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::doubling;
use crate::outbound::SendError;

/// The next step of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Try again after a growing pause.
    Later,
    /// Nothing is sent with this credential to this host until the vendor said, or for this long.
    Wait(Duration),
    /// Nothing will change until someone changes something: left alone, and all its like.
    Park(Scope),
    /// It can never work; give it up.
    Drop,
}

/// What a refusal is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The credential at this host, over all Providers that share it: one try at the times of [`refused`], and
    /// at once when the Provider or a Secret of it changes. Vendors refuse good tokens now and then, and some
    /// lock the accounts of those who go on.
    Credential,
    /// The route to the host, which is a proxy that refuses: at the same times. Another process asks again, as
    /// it may have another proxy.
    Route,
    /// What may be done in the repository (its name is filled in by whoever knows it): one try after
    /// 10 minutes, doubling to an hour, because permissions are often mended at the vendor.
    Repository(Arc<str>),
    /// The commit of the status: one of its jobs is tried at the times of [`absent`].
    Commit,
}

pub use crate::outbox::LONGEST_WAIT;

/// A limit that names no time: a minute at least, and longer each time (docs.github.com/rest, "Rate
/// limits for the REST API"); the budget doubles it until something is delivered. Others count by the hour
/// (Bitbucket Cloud), and one that is tried once in a while loses nothing.
const UNNAMED_WAIT: Duration = Duration::from_secs(60);

/// Decides.
pub fn verdict(error: &SendError) -> Verdict {
    let repository = || Verdict::Park(Scope::Repository("".into()));
    match error {
        SendError::Connect | SendError::Timeout | SendError::Broken | SendError::TooLarge => Verdict::Later,
        SendError::NotBegun | SendError::NoRoom => Verdict::Later,
        SendError::Unsendable => Verdict::Drop,
        SendError::NoCredential(_) => repository(),
        SendError::Token { error, .. } => match verdict(error) {
            // Whoever refuses a token says nothing of the notification, and what it refuses is often mended
            // there: an App that is installed again, a trust that is set up.
            Verdict::Drop | Verdict::Park(_) => repository(),
            _ if matches!(**error, SendError::NotTheVendor { .. }) => repository(),
            other => other,
        },
        error if error.is_sign_in() => Verdict::Park(Scope::Credential),
        SendError::NewToken => Verdict::Park(Scope::Credential),
        SendError::NotTheVendor { .. } | SendError::Foreign { .. } => Verdict::Later,
        SendError::Hopeless { .. } => Verdict::Drop,
        // A certificate and a redirect are mended by people.
        SendError::Tls(_) | SendError::Redirect => repository(),
        SendError::AskedToWait => Verdict::Later,
        SendError::Held { pause, told: true, .. } => Verdict::Wait(*pause),
        SendError::Held { because, .. } => verdict(because),
        SendError::Status { status, retry_after, body } => match (status.as_u16(), retry_after) {
            (501, _) => Verdict::Drop,
            (403 | 408 | 409 | 425 | 429 | 500..=599, Some(wait)) => Verdict::Wait((*wait).min(LONGEST_WAIT)),
            (403 | 429, None) if error.is_unnamed_limit() => Verdict::Wait(UNNAMED_WAIT),
            // 421 is of a connection that leads to another server.
            (408 | 409 | 421 | 425 | 500..=599, _) => Verdict::Later,
            (401, _) => Verdict::Park(Scope::Credential),
            (407, _) => Verdict::Park(Scope::Route),
            (404, _) if is_about_commit(body) => Verdict::Park(Scope::Commit),
            (422, _) if body.contains("No commit found") => Verdict::Park(Scope::Commit),
            (403, _) if says_no_more_than_forbidden(body) => Verdict::Park(Scope::Commit),
            (405, _) if error.is_moved() => repository(),
            (403 | 404 | 410, _) => repository(),
            _ => Verdict::Drop,
        },
    }
}

/// Whether a 404 says that the commit is not there, as GitLab's (`404 Commit Not Found`, `404
/// References for commit Not Found`, lib/api/commit_statuses.rb) and both Bitbuckets' do; the repository is.
/// The word counts alone and in what is said to people: addresses and names have it as a part.
fn is_about_commit(body: &str) -> bool {
    match serde_json::from_str::<serde_json::Value>(body) {
        Ok(answer) => {
            let errors = answer["errors"].as_array().into_iter().flatten().map(|error| &error["message"]);
            let told = [&answer["message"], &answer["error"], &answer["error"]["message"]];
            told.into_iter().chain(errors).filter_map(serde_json::Value::as_str).any(speaks_of_commit)
        }
        Err(_) => speaks_of_commit(body),
    }
}

/// Whether a 403 does not say what it is about. GitLab's does not: to a token of a Developer it refuses the
/// statuses of protected branches alone, in the words that it has for a whole project
/// (jenkinsci/gitlab-plugin#1045, jenkinsci/gitlab-plugin#602).
fn says_no_more_than_forbidden(body: &str) -> bool {
    let answer = serde_json::from_str::<serde_json::Value>(body).unwrap_or_default();
    answer["message"].as_str().is_some_and(|message| message.trim_end() == "403 Forbidden")
}

fn speaks_of_commit(text: &str) -> bool {
    text.split_whitespace()
        .any(|word| word.trim_matches(|sign: char| sign.is_ascii_punctuation()).eq_ignore_ascii_case("commit"))
}

/// See [`backoff`].
const LONGEST_BACKOFF: Duration = Duration::from_secs(20);

/// A pause before try number `attempts` + 1: between nothing and a span that doubles from 1 s to
/// 20 s (rule R9), so that jobs that failed together do not come back together.
pub fn backoff(attempts: u32) -> Duration {
    doubling(Duration::from_secs(1), LONGEST_BACKOFF, attempts).mul_f64(fastrand::f64())
}

/// Tries after which a job that fails at a host that works waits longer: two to four minutes of them.
pub const LASTING: u32 = 20;

/// The pause of a job before its next try. `well`: how long the host has answered others by now, as far as is
/// known; nothing while it fails. `turn`: when it is the job's turn among those of its Provider that fail for
/// long.
///
/// What the host goes on refusing while it works is seldom mended within seconds: Gitea answers 500 for a commit
/// that it does not have, for as long as the job is worth trying. So after [`LASTING`] tries a Provider's jobs
/// take turns, and the first that works wakes the others. An outage makes no pause long: not while the host
/// fails, not before it has worked for twice as long as the pause, and not where a gateway answers or nobody does.
pub fn later(error: &SendError, attempts: u32, well: Option<Duration>, turn: impl FnOnce() -> Duration) -> Duration {
    let answers = match error {
        SendError::Status { status, .. } => !matches!(status.as_u16(), 502..=504),
        SendError::Foreign { .. } | SendError::NotTheVendor { .. } => true,
        _ => false,
    };
    match well {
        Some(well) if answers && attempts >= LASTING => turn().min(LONGEST_BACKOFF.max(well / 2)),
        _ => backoff(tries_that_count(attempts, well.is_none())),
    }
}

/// The tries of a job that its next pause grows with. Where the host answers others, a job that failed a
/// few times was unlucky and does not wait long; one that goes on failing is at fault itself.
fn tries_that_count(attempts: u32, host_fails: bool) -> u32 {
    /// Tries with a pause of no more than four seconds.
    const UNLUCKY: u32 = 8;
    match attempts {
        few if few < UNLUCKY && !host_fails => few.min(2),
        many if !host_fails => many - UNLUCKY + 3,
        attempts => attempts,
    }
}

/// The pause of a credential or a route that was refused so often in a row before. Vendors answer 401 to good
/// tokens now and then (octokit/octokit.net#2786, taskcluster/taskcluster#2731, SFDO-Tooling/CumulusCI#1164), so
/// the first is tried again at once; after the second, as seldom as what is parked.
pub fn refused(times: u32) -> Duration {
    match times.checked_sub(1) {
        None => Duration::from_secs(2),
        Some(times) => parked(times),
    }
}

/// The pause of a credential whose newest token was refused so often in a row: 1, 2, 4 s, until it is new no more.
pub fn new_token(times: u32) -> Duration {
    doubling(Duration::from_secs(1), Duration::from_secs(4), times)
}

/// Tries of a young commit within half a minute.
pub const QUICK: u32 = 5;

/// The pause of a commit that was refused so often in a row before: while it is young 1, 2, 4, 8 and 15 s, as a
/// vendor's replicas learn of a push one after the other (jenkinsci/bitbucket-branch-source-plugin#1016,
/// dpb587/github-status-resource#3, buildbot/buildbot#5818); from [`QUICK`] on as what is parked.
pub fn absent(times: u32) -> Duration {
    match times.checked_sub(QUICK) {
        None => doubling(Duration::from_secs(1), Duration::from_secs(15), times),
        Some(times) => parked(times),
    }
}

/// The pause of a parked job: 10 minutes, doubling to an hour. Permissions are often mended at the
/// vendor, where Herald cannot see it.
pub fn parked(attempts: u32) -> Duration {
    doubling(Duration::from_secs(600), Duration::from_secs(3600), attempts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    fn status(code: u16, seconds: Option<u64>, body: &str) -> SendError {
        SendError::Status {
            status: StatusCode::from_u16(code).expect("valid"),
            retry_after: seconds.map(Duration::from_secs),
            body: body.to_owned(),
        }
    }

    #[test]
    fn the_table() {
        let repository = || Verdict::Park(Scope::Repository("".into()));
        let wait = |seconds| Verdict::Wait(Duration::from_secs(seconds));
        let status = |code, seconds| status(code, seconds, "");
        let token = |error| SendError::Token { from: "x", error: Box::new(error) };
        for (error, expected) in [
            (SendError::Connect, Verdict::Later),
            (SendError::Timeout, Verdict::Later),
            (SendError::Broken, Verdict::Later),
            (SendError::Tls("x".into()), repository()),
            (SendError::Redirect, repository()),
            (SendError::NotTheVendor { what: "x" }, Verdict::Later),
            (token(SendError::NotTheVendor { what: "x" }), repository()),
            (SendError::Foreign { status: StatusCode::NOT_FOUND, body: String::new() }, Verdict::Later),
            (token(SendError::Foreign { status: StatusCode::NOT_FOUND, body: String::new() }), Verdict::Later),
            (SendError::NewToken, Verdict::Park(Scope::Credential)),
            (status(421, None), Verdict::Later),
            (status(400, None), Verdict::Drop),
            (status(401, None), Verdict::Park(Scope::Credential)),
            (status(401, Some(5)), Verdict::Park(Scope::Credential)),
            (status(403, None), repository()),
            (status(403, Some(60)), wait(60)),
            (status(403, Some(999_999)), Verdict::Wait(LONGEST_WAIT)),
            (status(404, None), repository()),
            (status(407, None), Verdict::Park(Scope::Route)),
            (status(408, None), Verdict::Later),
            (status(409, None), Verdict::Later),
            (status(410, None), repository()),
            (status(422, None), Verdict::Drop),
            (status(425, None), Verdict::Later),
            (status(429, None), wait(60)),
            (token(status(429, None)), wait(60)),
            (status(429, Some(60)), wait(60)),
            (status(500, None), Verdict::Later),
            (status(501, None), Verdict::Drop),
            (status(502, None), Verdict::Later),
            (status(503, Some(7)), wait(7)),
            (SendError::NoCredential("x".into()), repository()),
            (token(status(400, None)), repository()),
            (token(status(401, None)), repository()),
            (token(status(403, None)), repository()),
            (token(status(404, None)), repository()),
            (token(status(422, None)), repository()),
            (token(status(501, None)), repository()),
            (token(status(500, None)), Verdict::Later),
            (token(status(503, Some(7))), wait(7)),
            (token(status(429, Some(7))), wait(7)),
            (token(SendError::Timeout), Verdict::Later),
        ] {
            assert_eq!(verdict(&error), expected, "{error:?}");
        }
    }

    /// What each vendor says, in its own words, and what becomes of it; docs/vendors.md has the same
    /// table for people. The waits that headers name are read in `outbound::asked_pause`.
    #[test]
    fn the_table_by_vendor() {
        let repository = || Verdict::Park(Scope::Repository("".into()));
        let minute = || Verdict::Wait(Duration::from_secs(60));
        for (source, error, expected) in [
            (
                "github/docs, rate-limits-for-the-rest-api.md: a secondary limit without a time waits a minute",
                status(
                    403,
                    None,
                    r#"{"message": "You have exceeded a secondary rate limit. Please wait a few minutes"}"#,
                ),
                minute(),
            ),
            (
                "the same; 429 is said too",
                status(429, None, r#"{"message": "You have exceeded a secondary rate limit"}"#),
                minute(),
            ),
            (
                "GitHub Enterprise Server before 3.1",
                status(403, None, r#"{"message": "You have triggered an abuse detection mechanism."}"#),
                minute(),
            ),
            (
                "octokit/octokit.js#2758: a token that may not",
                status(403, None, r#"{"message": "Resource not accessible by personal access token"}"#),
                repository(),
            ),
            (
                "docs, troubleshooting: a repository that may not be seen",
                status(404, None, r#"{"message": "Not Found"}"#),
                repository(),
            ),
            (
                "the same, the whole body: its address for people speaks of commits",
                status(
                    404,
                    None,
                    r#"{"message":"Not Found","documentation_url":"https://docs.github.com/rest/commits/statuses#create-a-commit-status","status":"404"}"#,
                ),
                repository(),
            ),
            (
                "Bitbucket Cloud: a commit that is not there",
                status(404, None, r#"{"type":"error","error":{"message":"Commit not found"}}"#),
                Verdict::Park(Scope::Commit),
            ),
            (
                "Bitbucket Data Center: a commit that is not there",
                status(
                    404,
                    None,
                    r#"{"errors":[{"context":null,"message":"Commit '1' does not exist in repository 'acme'."}]}"#,
                ),
                Verdict::Park(Scope::Commit),
            ),
            (
                "Bitbucket Data Center: a repository whose name has the word",
                status(
                    404,
                    None,
                    r#"{"errors":[{"message":"Repository acme/commit-log does not exist.","exceptionName":"com.atlassian.bitbucket.repository.NoSuchRepositoryException"}]}"#,
                ),
                repository(),
            ),
            ("whoever answers in words", status(404, None, "The commit was not found"), Verdict::Park(Scope::Commit)),
            (
                "an answer that was cut",
                status(
                    404,
                    None,
                    r#"{"message":"Not Found","documentation_url":"https://docs.github.com/rest/commits"#,
                ),
                repository(),
            ),
            (
                "kubernetes/test-infra#21987: a commit that is not there",
                status(422, None, r#"{"message": "No commit found for SHA: 1"}"#),
                Verdict::Park(Scope::Commit),
            ),
            (
                "jenkinsci/gitlab-plugin#1045: a protected branch, or a project",
                status(403, None, r#"{"message": "403 Forbidden"}"#),
                Verdict::Park(Scope::Commit),
            ),
            (
                "VirtusLab/git-machete#1212: a project that has another path",
                status(405, None, r#"{"message": "Non GET methods are not allowed for moved projects"}"#),
                repository(),
            ),
            (
                "GitLab lib/api/api_guard.rb: a token without the scope",
                status(403, None, r#"{"error": "insufficient_scope", "scope": "api"}"#),
                repository(),
            ),
            (
                "palantir/policy-bot#470: 1,000 statuses",
                status(422, None, "This SHA and context has reached the maximum number of statuses."),
                Verdict::Drop,
            ),
            (
                "GitLab lib/api/commit_statuses.rb: the commit is locked",
                status(409, None, "Another update to this commit status is in progress"),
                Verdict::Later,
            ),
            (
                "the same: the commit is on no branch",
                status(404, None, r#"{"message": "404 References for commit Not Found"}"#),
                Verdict::Park(Scope::Commit),
            ),
            (
                "GitLab lib/api/helpers.rb: the project may not be seen",
                status(404, None, r#"{"message": "404 Project Not Found"}"#),
                repository(),
            ),
            ("GitLab issue 365728: a limit without headers", status(429, None, "Retry later"), minute()),
            ("support.atlassian.com, API request limits: by the hour", status(429, None, ""), minute()),
            (
                "measured, Gitea 1.26.0: a commit that is not there",
                status(500, None, r#"{"message": "object does not exist"}"#),
                Verdict::Later,
            ),
            (
                "learn.microsoft.com, azure/devops rate limits: TF400733 after delays",
                status(429, Some(30), "TF400733: The request has been canceled"),
                Verdict::Wait(Duration::from_secs(30)),
            ),
            (
                "Azure DevOps: a token that is no good",
                SendError::NotTheVendor { what: "answered 203, which is a sign-in page" },
                Verdict::Park(Scope::Credential),
            ),
            (
                "buildbot/buildbot#7049: a key of Bitbucket Cloud that is too long",
                status(400, None, "key: Ensure this value has at most 40 characters (it has 48)."),
                Verdict::Drop,
            ),
        ] {
            assert_eq!(verdict(&error), expected, "{source}");
        }
    }

    #[test]
    fn an_unlucky_job_waits_less_than_one_at_a_host_that_fails() {
        let counts = |fails| [0, 1, 2, 3, 7, 8, 9, 10, 100].map(|attempts| tries_that_count(attempts, fails));
        assert_eq!(counts(false), [0, 1, 2, 2, 2, 3, 4, 5, 95]);
        assert_eq!(counts(true), [0, 1, 2, 3, 7, 8, 9, 10, 100]);
    }

    #[test]
    fn what_fails_for_long_waits_long_but_not_because_of_an_outage() {
        let (fault, hour) = (status(500, None, ""), Duration::from_secs(3600));
        let turn = Duration::from_secs(600);
        let longest = |error: &SendError, attempts, well| {
            (0..500).map(|_| later(error, attempts, well, || turn).as_secs_f64()).fold(0.0, f64::max)
        };
        let near = |seconds: f64, span: f64| (0.9 * span..=span).contains(&seconds);
        for (attempts, span) in [(0, 1.0), (8, 8.0), (19, 20.0), (20, 600.0), (9999, 600.0)] {
            let seconds = longest(&fault, attempts, Some(hour));
            assert!(near(seconds, span), "{seconds} s after {attempts} tries");
        }
        let minute = Some(Duration::from_secs(60));
        for (error, well, span) in [
            (&fault, None, 20.0),
            (&fault, Some(Duration::ZERO), 20.0),
            (&fault, minute, 30.0),
            (&status(502, None, ""), Some(hour), 20.0),
            (&SendError::Timeout, Some(hour), 20.0),
        ] {
            let seconds = longest(error, 9999, well);
            assert!(near(seconds, span), "{error:?}, well for {well:?}: {seconds} s");
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
