//! Which state an event stands for.

use super::State;
use crate::api::Event;

/// Characters of a name where the vendor documents no limit: an expression can give far more.
pub const LONGEST_NAME: usize = 1024;

/// What `compose` must know of a vendor; its row in the vendor table says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wording {
    /// The vendor is told of progress as a pending status.
    pub pending: bool,
    /// The vendor takes names that differ in case for the same.
    pub ignores_case: bool,
    /// The most characters of a name that the vendor takes, or [`LONGEST_NAME`].
    pub name: usize,
    /// The most characters of a description the vendor takes.
    pub description: Option<usize>,
    /// Statuses of one name and different summaries are different statuses to the vendor.
    pub summary_is_identity: bool,
}

impl Wording {
    /// Nothing special.
    pub const PLAIN: Wording = Wording {
        pending: false,
        ignores_case: false,
        name: LONGEST_NAME,
        description: None,
        summary_is_identity: false,
    };

    /// A status' name as the vendor tells statuses apart.
    pub fn identity(&self, name: &str, summary: Option<&str>) -> String {
        let name = if self.ignores_case { name.to_lowercase() } else { name.to_owned() };
        match summary.filter(|_| self.summary_is_identity) {
            Some(summary) => format!("{summary}\n{name}"),
            None => name,
        }
    }
}

/// Info reasons that mean "not decided": they are said nowhere, because a success would be a lie.
const UNDECIDED: [&str; 2] = ["DependencyNotReady", "HealthCheckCanceled"];

/// The end of a reason that is no success, whatever its severity: controllers send the reason of the object's
/// condition `Ready` along with news about something else.
const FAILED: &str = "Failed";

/// The state, or `None` when the event is said nowhere: progress where the vendor has no pending,
/// an undecided reason, or a severity that is neither `info` nor `error`.
pub fn state(event: &Event, pending: bool) -> Option<State> {
    match (event.severity.as_str(), event.reason.as_str()) {
        ("error", _) => Some(State::Failure),
        (_, "Progressing") => pending.then_some(State::Pending),
        ("info", reason) if UNDECIDED.contains(&reason) || reason.ends_with(FAILED) => None,
        ("info", _) => Some(State::Success),
        _ => None,
    }
}

/// Info reasons that tell of a new artifact: they end no failure of a commit.
const ARTIFACTS: [&str; 2] = ["NewArtifact", "ArtifactUpToDate"];

/// Whether an event without Flux's mark may be the recovery of what was told as a failure.
pub fn may_recover(event: &Event) -> bool {
    state(event, false) == Some(State::Success) && !ARTIFACTS.contains(&event.reason.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states() {
        use State::{Failure, Pending, Success};
        let cases = [
            ("info", "ReconciliationSucceeded", Some(Success), Some(Success)),
            ("info", "UpgradeSucceeded", Some(Success), Some(Success)),
            ("info", "NewArtifact", Some(Success), Some(Success)),
            ("info", "Progressing", None, Some(Pending)),
            ("info", "DependencyNotReady", None, None),
            ("info", "HealthCheckCanceled", None, None),
            ("info", "UpgradeFailed", None, None),
            ("info", "Failed", None, None),
            ("info", "FailedOver", Some(Success), Some(Success)),
            ("error", "HealthCheckFailed", Some(Failure), Some(Failure)),
            ("error", "Progressing", Some(Failure), Some(Failure)),
            ("error", "DependencyNotReady", Some(Failure), Some(Failure)),
            ("trace", "ReconciliationSucceeded", None, None),
            ("trace", "Progressing", None, Some(Pending)),
            ("", "", None, None),
        ];
        for (severity, reason, without, with) in cases {
            let event = Event { severity: severity.into(), reason: reason.into(), ..Default::default() };
            assert_eq!(state(&event, false), without, "{severity} {reason}");
            assert_eq!(state(&event, true), with, "{severity} {reason} with pending");
        }
    }
}
