//! What is told of how a job goes: counts, lines of the log. `delivery` calls it, once for each end
//! of a job and once when a job is first put off.

use std::fmt;
use std::time::Duration;

use super::Inner;
use super::resolve::ResolveError;
use crate::compose::Notice;
use crate::ops::metrics::Outcome;
use crate::outbound::SendError;
use crate::outbox::Job;
use crate::vendors;

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
}

impl Why {
    /// A reason of our own.
    pub fn new(reason: &'static str, text: impl Into<String>) -> Self {
        Self { reason, text: text.into(), remote: String::new(), tries: None }
    }

    /// A request that did not work.
    pub fn sent(error: &SendError) -> Self {
        let reason = match error {
            SendError::Connect | SendError::Timeout | SendError::Broken => "Unreachable",
            SendError::Tls(_) => "TLSFailed",
            SendError::Redirect | SendError::NotTheVendor { .. } | SendError::TooLarge => "UnexpectedAnswer",
            SendError::Status { status, retry_after, .. } => match (status.as_u16(), retry_after) {
                (429, _) | (403, Some(_)) => "RateLimited",
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
            other => (other.to_string(), other.body().to_owned()),
        };
        Self { reason, text, remote, tries: None }
    }

    /// A Provider that cannot be used as it stands.
    pub fn resolving(error: ResolveError) -> Self {
        Self::new(error.reason, error.message)
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

impl Inner {
    /// The job is over; `why` when it failed.
    pub(super) fn report(&self, job: &Job, outcome: Outcome, why: Option<&Why>) {
        let new = &job.new;
        let kind = self.kind(job);
        let took = self.clock.now().saturating_duration_since(new.stamp.arrived);
        self.metrics.notification(outcome, kind);
        if outcome == Outcome::Delivered {
            self.metrics.delivery(kind, took);
        }
        let (state, commit) = match &new.notice {
            Notice::CommitStatus(status) => (status.state.to_string(), &*status.commit),
            Notice::Event(_) => (String::new(), ""),
        };
        let seconds = took.as_secs_f64();
        macro_rules! line {
            ($level:ident, $message:literal $(, $field:ident = $value:expr)*) => {
                tracing::$level!(
                    logger = "delivery",
                    controllerKind = "Alert",
                    name = %new.alert.name,
                    namespace = %new.alert.namespace,
                    provider = %new.provider,
                    object = %new.object,
                    outcome = outcome.label(),
                    state,
                    commit,
                    seconds,
                    $($field = $value,)*
                    $message
                )
            };
        }
        match (outcome, why) {
            (Outcome::Delivered, _) => line!(info, "notification delivered"),
            (_, Some(why)) => line!(error, "notification given up", error = why.to_string()),
            _ => line!(debug, "nothing to send"),
        }
    }

    /// The job will be tried again after the pause.
    pub(super) fn put_off(&self, job: &Job, pause: Duration, why: &Why) {
        // The first failure of a job is worth a line; the rest are its echo.
        if job.attempts > 0 {
            return;
        }
        let new = &job.new;
        tracing::warn!(
            logger = "delivery",
            controllerKind = "Alert",
            name = %new.alert.name,
            namespace = %new.alert.namespace,
            provider = %new.provider,
            object = %new.object,
            retryInSeconds = pause.as_secs(),
            error = %why,
            "notification not delivered yet, will try again"
        );
    }

    /// The type of the job's Provider; empty when that is gone.
    fn kind(&self, job: &Job) -> &'static str {
        let view = self.view.provider_by_uid(job.new.subject.provider());
        view.and_then(|view| vendors::row(&view.provider.spec.kind)).map_or("", |row| row.name)
    }
}
