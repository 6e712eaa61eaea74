//! What is told of how a job goes: counts, lines of the log, and the troubles that stand. `delivery`
//! calls it, once for each end of a job and whenever one is put off.
//!
//! The end of a job is one line about its Alert, always. A failure is one about its Provider as well,
//! and a job that is first put off one about each; these two kinds are bounded, because one dead
//! Provider fails thousands of jobs in the same way.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;

use super::Inner;
use super::resolve::ResolveError;
use super::troubles::{About, Troubles};
use crate::api::Key;
use crate::compose::Notice;
use crate::ops::metrics::Outcome;
use crate::outbound::SendError;
use crate::outbox::{Job, NewJob};
use crate::vendors;

/// A line about a Provider, or about a job that is put off, speaks for its like this long.
const QUIET: Duration = Duration::from_secs(60);

/// Lines that speak for others, at most.
const MAX_QUIET: usize = 4096;

/// The class of lines about deliveries that work again.
const WORKS: &str = "Works";

/// A job that is put off this long, or for the [`PERSISTENT`]th time, is a trouble that stands: not
/// a hiccup, which mends itself before anybody has read of it.
pub(super) const LONG: Duration = Duration::from_secs(60);

/// See [`LONG`]. Backoff has the fourth try about 7 s after the first, at the latest.
const PERSISTENT: u32 = 4;

/// The same where the whole host fails: there the next try is ten seconds away.
pub(super) const PERSISTENT_AT_A_FAILING_HOST: u32 = 3;

/// What was told, and what stands.
#[derive(Default)]
pub(super) struct Telling {
    /// For conditions and Events.
    pub troubles: Arc<Troubles>,
    quiet: Quiet,
}

/// Why a job is not delivered, or not yet. `Display` is for the log: it has everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// CamelCase class, such as `Unauthorized`: a condition's reason.
    pub reason: &'static str,
    /// Class and code in words that every tenant may read; never a remote's own (rule R5).
    pub text: String,
    /// What the remote said, for the log.
    remote: String,
    /// The job was tried this often, and will not be again.
    tries: Option<u32>,
    /// Somebody asked for it: nothing is wrong.
    asked: bool,
    /// It is more than a hiccup, however short the pause is.
    pub(super) stands: bool,
    /// It is a hiccup, however often the job was tried: what was refused is tried again in a moment.
    pub(super) passes: bool,
}

/// What conditions say of every place that gave no HTTP answer. The log says more.
const NO_HTTP: &str = "no HTTP answer within the timeout";

impl Why {
    /// A reason of our own.
    pub fn new(reason: &'static str, text: impl Into<String>) -> Self {
        Self {
            reason,
            text: text.into(),
            remote: String::new(),
            tries: None,
            asked: false,
            stands: false,
            passes: false,
        }
    }

    /// The Provider is suspended.
    pub fn suspended() -> Self {
        Self { asked: true, ..Self::new("Suspended", "the Provider is suspended") }
    }

    /// The Provider's spec cannot be read, which its own condition says.
    pub fn unreadable() -> Self {
        Self::new("InvalidSpec", "the spec of its Provider cannot be read")
    }

    /// Somebody had it dropped.
    pub fn dropped() -> Self {
        Self { asked: true, ..Self::new("Dropped", "an operator dropped it") }
    }

    /// A request that did not work.
    pub fn sent(error: &SendError) -> Self {
        if let SendError::Token { from, error } = error {
            let why = Self::sent(error);
            let reason = match why.reason {
                "Unauthorized" | "Forbidden" | "NotFound" | "Rejected" => "InvalidCredentials",
                other => other,
            };
            return Self { reason, text: format!("cannot get a token from {from}: {}", why.text), ..why };
        }
        let reason = match error {
            SendError::NoCredential(_) | SendError::Token { .. } => "InvalidCredentials",
            SendError::Connect | SendError::Timeout | SendError::Broken | SendError::NotBegun => "Unreachable",
            SendError::NoRoom => "OutOfMemory",
            SendError::Unsendable => "Rejected",
            SendError::Tls(_) => "TLSFailed",
            SendError::Held { because, .. } | SendError::Hopeless { because } => return Self::sent(because),
            SendError::NewToken => "Unauthorized",
            SendError::AskedToWait => "RateLimited",
            SendError::Redirect | SendError::NotTheVendor { .. } | SendError::Foreign { .. } | SendError::TooLarge => {
                "UnexpectedAnswer"
            }
            SendError::Status { .. } if error.is_moved() => "Moved",
            SendError::Status { status, retry_after, .. } => match (status.as_u16(), retry_after) {
                (429, _) | (403, Some(_)) => "RateLimited",
                (403, None) if error.is_secondary_limit() => "RateLimited",
                (401 | 407, _) => "Unauthorized",
                (403, None) => "Forbidden",
                (404, _) => "NotFound",
                (500..=599, _) => "ServerError",
                _ => "Rejected",
            },
        };
        // What is wrong with a certificate tells of hosts that a tenant may not reach.
        let (text, remote) = match error {
            SendError::Tls(detail) => ("the TLS handshake failed".to_owned(), detail.clone()),
            // One text for all of them: which it is tells what is at an address.
            SendError::Connect | SendError::Timeout | SendError::Broken | SendError::NotBegun => {
                (NO_HTTP.to_owned(), error.to_string())
            }
            error if error.is_moved() => {
                let text = "the repository was moved: write its new address into spec.address";
                (text.to_owned(), error.body().to_owned())
            }
            other => (other.to_string(), other.body().to_owned()),
        };
        Self { reason, text, remote, tries: None, asked: false, stands: false, passes: false }
    }

    /// A Provider that cannot be used as it stands.
    pub fn resolving(error: ResolveError) -> Self {
        Self::new(error.reason, error.message)
    }

    /// Its deadline passed, while `held` kept it from being sent.
    pub fn expired(held: Option<Why>) -> Self {
        let why = Self::new("Expired", "it could not be sent before its deadline");
        match held {
            Some(held) => {
                Self { text: format!("{}: {}", why.text, held.text), remote: held.remote, asked: held.asked, ..why }
            }
            None => why,
        }
    }

    /// The same, and it was the last try.
    pub fn after(self, tries: u32) -> Self {
        Self { tries: Some(tries), ..self }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if !self.remote.is_empty() {
            write!(f, ": {}", self.remote)?;
        }
        match self.tries {
            Some(tries) => write!(f, "; given up after {tries} tries"),
            None => Ok(()),
        }
    }
}

/// A line about a job's Alert.
macro_rules! about_alert {
    ($level:ident, $new:expr, $message:literal $(, $field:ident = $value:expr)*) => {
        tracing::$level!(
            logger = "delivery",
            controllerKind = "Alert",
            name = %$new.alert.name,
            namespace = %$new.alert.namespace,
            alert = alert($new),
            provider = %$new.provider,
            object = %$new.object,
            $($field = $value,)*
            $message
        )
    };
}

/// A line about a Provider, with the fields that `flux logs --kind=AlertProvider` finds it by.
macro_rules! about_provider {
    ($level:ident, $key:expr, $($rest:tt)+) => {
        tracing::$level!(
            logger = "delivery",
            controllerKind = "Provider",
            "reconciler kind" = "AlertProvider",
            name = %$key.name,
            namespace = %$key.namespace,
            $($rest)+
        )
    };
}
pub(super) use about_provider;

impl Inner {
    /// The type of a job's Provider, as a label of metrics.
    pub(super) fn kind(&self, job: &Job) -> &'static str {
        let view = self.view.provider_by_uid(job.new.subject.provider());
        view.map_or("", |view| vendors::label(&view.provider.spec.kind))
    }

    /// The job is over; `why` when it failed.
    pub(super) fn report(&self, job: &Job, outcome: Outcome, why: Option<&Why>) {
        let new = &job.new;
        if job.said {
            // Its end was told when it was said.
            return match why {
                Some(why) => self.failed(job, why, true),
                None if outcome == Outcome::Superseded => {}
                None => self.worked(new),
            };
        }
        let now = self.clock.now();
        let kind = self.kind(job);
        let took = now.saturating_duration_since(new.stamp.arrived);
        self.metrics.notification(outcome, kind);
        if outcome == Outcome::Delivered {
            self.metrics.delivery(kind, took);
        }
        let (state, commit) = match &new.notice {
            Notice::CommitStatus(status) => (status.state.word(), &*status.commit),
            Notice::Event(_) => ("", ""),
        };
        let seconds = took.as_secs_f64();
        macro_rules! line {
            ($level:ident, $message:literal $(, $field:ident = $value:expr)*) => {
                about_alert!(
                    $level,
                    new,
                    $message,
                    outcome = outcome.label(),
                    state = state,
                    commit = commit,
                    seconds = seconds
                    $(, $field = $value)*
                )
            };
        }
        match (outcome, why) {
            (Outcome::Delivered, _) => line!(info, "notification delivered"),
            (_, Some(why)) => line!(error, "notification given up", error = why.to_string()),
            _ => line!(debug, "nothing to send"),
        }
        match why {
            Some(why) => self.failed(job, why, true),
            // Where nothing was to be written, whoever asked the vendor says that it works.
            None if outcome == Outcome::Delivered => self.worked(new),
            None => {}
        }
    }

    /// The job will be tried again after the pause.
    pub(super) fn put_off(&self, job: &Job, pause: Duration, why: &Why) {
        let new = &job.new;
        // The first failure of a job is worth a line; the rest are its echo.
        if job.attempts == 0
            && let Some(unsaid) =
                self.telling.quiet.admit(About::Alert(new.alert.clone()), why.reason, self.clock.now())
        {
            about_alert!(
                warn,
                new,
                "notification not delivered yet, will try again",
                retryInSeconds = pause.as_secs(),
                notLogged = unsaid,
                error = why.to_string()
            );
        }
        let stands = why.stands || pause >= LONG || (!why.passes && job.attempts + 1 >= PERSISTENT);
        if job.attempts == 0 || stands {
            self.failed(job, why, stands);
        }
    }

    /// A look found a status overwritten, and it was written again.
    pub(super) fn put_right(&self, job: &Job) {
        let about = About::Alert(job.new.alert.clone());
        if let Some(unsaid) = self.telling.quiet.admit(about, "Late", self.clock.now()) {
            about_alert!(
                warn,
                &job.new,
                "a request that was given up took effect over a newer commit status; it was written again",
                notLogged = unsaid
            );
        }
    }

    /// A status that somebody else had overwritten was restored; that is not done twice.
    pub(super) fn restored(&self, job: &Job) {
        let new = &job.new;
        let about = About::Alert(new.alert.clone());
        if let Some(unsaid) = self.telling.quiet.admit(about, "Overwritten", self.clock.now()) {
            about_alert!(
                warn,
                new,
                "somebody else wrote over a commit status; it was restored, once",
                notLogged = unsaid
            );
        }
    }

    /// Tells of the Provider; `stands`: it is a trouble of Provider and Alert.
    fn failed(&self, job: &Job, why: &Why, stands: bool) {
        let new = &job.new;
        let now = self.clock.now();
        if why.asked {
            return;
        }
        if let Some(unsaid) = self.telling.quiet.admit(About::Provider(new.provider.clone()), why.reason, now) {
            about_provider!(
                error,
                new.provider,
                object = %new.object,
                reason = why.reason,
                notLogged = unsaid,
                error = why.to_string(),
                "delivery failed"
            );
        }
        let uid = new.subject.provider();
        if let Some(version) = self.provider_version(job)
            && stands
        {
            self.telling.troubles.failed(abouts(new), uid, version, why.reason, &why.text, now);
        }
    }

    /// Says how many lines about each Provider were not said, once the one that spoke for them is a
    /// minute old. Called every so often.
    pub(super) fn say_unsaid(&self) {
        for (about, reason, count) in self.telling.quiet.unsaid(self.clock.now()) {
            // An Alert has a line for each end of its own.
            let About::Provider(key) = about else { continue };
            about_provider!(error, key, reason, notLogged = count, error = "the same as before", "deliveries failed");
        }
    }

    /// It works: nothing stands any more.
    pub(super) fn worked(&self, new: &NewJob) {
        let Some(stood) = self.telling.troubles.worked(|| abouts(new)) else { return };
        let about = About::Provider(new.provider.clone());
        let Some(unsaid) = self.telling.quiet.admit(about, WORKS, self.clock.now()) else { return };
        about_provider!(
            info,
            new.provider,
            reason = stood.reason,
            failures = stood.count,
            notLogged = unsaid,
            "deliveries work again"
        );
    }
}

/// Provider and Alert of a job, in this order.
fn abouts(new: &NewJob) -> [About; 2] {
    [About::Provider(new.provider.clone()), About::Alert(new.alert.clone())]
}

/// The Alert as the peer's lines have it.
fn alert(new: &NewJob) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Alert<'a> {
        name: &'a str,
        namespace: &'a str,
        provider_name: &'a str,
    }
    let Key { namespace, name } = &new.alert;
    serde_json::to_string(&Alert { name, namespace, provider_name: &new.provider.name }).unwrap_or_default()
}

/// Which lines were said lately, and how many of their like were not since.
#[derive(Debug, Default)]
struct Quiet(Mutex<HashMap<(About, &'static str), Line>>);

/// When a line was said, and how many of its like were not since.
type Line = (Instant, u64);

impl Quiet {
    /// Whether a line of this object and class may be said; if so, how many were not since the last.
    fn admit(&self, about: About, reason: &'static str, now: Instant) -> Option<u64> {
        let mut said = self.0.lock();
        if said.len() >= MAX_QUIET {
            said.retain(|_, (at, _)| now.saturating_duration_since(*at) < QUIET);
        }
        let room = said.len() < MAX_QUIET;
        match said.entry((about, reason)) {
            Entry::Vacant(entry) => room.then(|| {
                entry.insert((now, 0));
                0
            }),
            Entry::Occupied(mut entry) => {
                let (at, unsaid) = entry.get_mut();
                if now.saturating_duration_since(*at) < QUIET {
                    *unsaid += 1;
                    return None;
                }
                *at = now;
                Some(std::mem::take(unsaid))
            }
        }
    }

    /// What was not said of each class whose last line no longer speaks for it. Those with nothing
    /// are forgotten, the others spoken for by whoever says it.
    fn unsaid(&self, now: Instant) -> Vec<(About, &'static str, u64)> {
        let mut found = Vec::new();
        self.0.lock().retain(|(about, reason), (at, unsaid)| {
            let old = now.saturating_duration_since(*at) >= QUIET;
            if old && *unsaid > 0 {
                found.push((about.clone(), *reason, std::mem::take(unsaid)));
                *at = now;
                return true;
            }
            !old
        });
        // "Works" is no failure.
        found.retain(|(_, reason, _)| *reason != WORKS);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, TurnedClock};

    #[test]
    fn one_line_a_minute_speaks_for_its_like() {
        let clock = TurnedClock::new();
        let quiet = Quiet::default();
        let admit = |name: &str, reason| quiet.admit(About::Provider(Key::new("apps", name)), reason, clock.now());
        assert_eq!(admit("git", "Unauthorized"), Some(0));
        for _ in 0..5000 {
            assert_eq!(admit("git", "Unauthorized"), None);
        }
        assert_eq!(admit("git", "NotFound"), Some(0), "another class is news");
        assert_eq!(admit("other", "Unauthorized"), Some(0), "and another Provider");
        assert_eq!(quiet.unsaid(clock.now()), []);
        clock.turn(QUIET);
        assert_eq!(admit("git", "Unauthorized"), Some(5000));
        for _ in 0..7 {
            admit("git", "Unauthorized");
        }
        clock.turn(QUIET);
        let git = About::Provider(Key::new("apps", "git"));
        assert_eq!(quiet.unsaid(clock.now()), [(git, "Unauthorized", 7)]);
        assert_eq!(quiet.0.lock().len(), 1, "nothing is to be said of the others");
        assert_eq!(admit("git", "Unauthorized"), None, "it was spoken for just now");
        for number in 0..2 * MAX_QUIET {
            admit(&number.to_string(), "Unauthorized");
        }
        assert_eq!(quiet.0.lock().len(), MAX_QUIET);
    }

    #[test]
    fn what_a_remote_said_is_for_the_log_only() {
        let refused = SendError::Status {
            status: http::StatusCode::FORBIDDEN,
            retry_after: None,
            body: "no such luck".to_owned(),
        };
        let why = Why::sent(&refused);
        assert_eq!((why.reason, why.text.as_str()), ("Forbidden", "answered 403 Forbidden"));
        assert_eq!(why.after(3).to_string(), "answered 403 Forbidden: no such luck; given up after 3 tries");
        let token = Why::sent(&SendError::Token { from: "somebody", error: Box::new(refused) });
        assert_eq!(token.reason, "InvalidCredentials");
        assert_eq!(token.text, "cannot get a token from somebody: answered 403 Forbidden");
        assert_eq!(token.to_string(), "cannot get a token from somebody: answered 403 Forbidden: no such luck");
        let tls = Why::sent(&SendError::Tls("a detail".to_owned()));
        let token = Why::sent(&SendError::Token { from: "x", error: Box::new(SendError::Tls("a detail".to_owned())) });
        assert_eq!(
            (token.reason, token.text.as_str()),
            ("TLSFailed", "cannot get a token from x: the TLS handshake failed")
        );
        assert_eq!(
            (tls.text.as_str(), tls.to_string().as_str()),
            ("the TLS handshake failed", "the TLS handshake failed: a detail")
        );
    }
}
