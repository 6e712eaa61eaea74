//! The gates between a match and a notice, in the order of Flux's dispatch stage: the first that
//! closes decides. Asked by `pipeline` for each matched Alert.

use crate::api::event::Event;
use crate::api::{EVENT_GROUP, Key};

/// What a Provider's type carries; `vendors` says it for each type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// A state on a commit.
    CommitStatus,
    /// The event itself, as it is.
    Event,
}

/// Why a matched Alert leads to no notice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Skip {
    /// `--no-cross-namespace-refs`, and the event is of another namespace.
    #[error("the event is of another namespace than the Alert")]
    CrossNamespace,
    /// The Alert names a Provider that is not there.
    #[error("the Alert names a Provider that does not exist")]
    NoProvider,
    /// The Provider is suspended.
    #[error("the Provider is suspended")]
    ProviderSuspended,
    /// The Provider's type is not built.
    #[error("the Provider's type is not supported")]
    UnsupportedType,
    /// A commit-status Provider, and an event that is no final outcome for a commit.
    #[error("the event is no final outcome for a commit")]
    NotFinal,
    /// The state this event stands for is not said at this kind of vendor.
    #[error("the vendor is not sent this state")]
    NoState,
    /// The event names no commit.
    #[error("the event names no commit")]
    NoCommit,
    /// The Provider's expression gives no name for this event; the text says why.
    #[error("{0}")]
    Expression(String),
    /// Nothing yet: the Provider's expression needs more steps than there are here.
    #[error("the expression needs more steps")]
    NeedsMore,
}

impl Skip {
    /// The word for logs and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Skip::CrossNamespace => "cross_namespace",
            Skip::NoProvider => "no_provider",
            Skip::ProviderSuspended => "provider_suspended",
            Skip::UnsupportedType => "unsupported_type",
            Skip::NotFinal => "not_final",
            Skip::NoState => "no_state",
            Skip::NoCommit => "no_commit",
            Skip::Expression(_) => "expression",
            Skip::NeedsMore => "needs_more",
        }
    }

    /// Whether someone has to mend something before such an event can be told.
    pub fn is_fault(&self) -> bool {
        matches!(self, Skip::CrossNamespace | Skip::NoProvider | Skip::UnsupportedType | Skip::Expression(_))
    }
}

/// What the gates ask of an event, read once from its prefixed metadata. Metadata that an Alert
/// adds plays no part: it cannot open a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// `commit_status=update`: the final success of a reconciliation.
    pub final_success: bool,
    /// A commit set by annotation.
    pub commit: bool,
    /// Severity `error`.
    pub error: bool,
}

impl Marks {
    /// Reads the marks; `event` has its metadata as it arrived.
    pub fn of(event: &Event) -> Self {
        let group = event.involved_object.group();
        let has = |prefix: &str, name: &str, test: fn(&str) -> bool| {
            event.metadata.iter().any(|(key, value)| {
                key.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')) == Some(name) && test(value)
            })
        };
        Self {
            final_success: has(group, "commit_status", |value| value == "update"),
            commit: has(EVENT_GROUP, "commit", |value| !value.is_empty()),
            error: event.severity == "error",
        }
    }
}

/// Whether an event of `namespace` may be told by an Alert of `alert`.
pub fn cross_namespace(forbidden: bool, namespace: &str, alert: &Key) -> Result<(), Skip> {
    if forbidden && *alert.namespace != *namespace { Err(Skip::CrossNamespace) } else { Ok(()) }
}

/// Whether a Provider that carries `carries` is told of an event with these marks. A forwarder
/// takes everything. A commit status wants an outcome: the mark, a commit by annotation, or an
/// error; or `by_revision`, which is asked last: the Provider is content with any event that names
/// a commit, and this one does.
pub fn carried(carries: Carries, marks: Marks, by_revision: impl FnOnce() -> bool) -> Result<(), Skip> {
    match carries {
        Carries::Event => Ok(()),
        Carries::CommitStatus if marks.commit || marks.final_success || marks.error || by_revision() => Ok(()),
        Carries::CommitStatus => Err(Skip::NotFinal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Metadata<'a> = &'a [(&'a str, &'a str)];

    fn event(severity: &str, metadata: Metadata<'_>) -> Event {
        let mut event = Event { severity: severity.into(), ..Default::default() };
        event.involved_object.api_version = "kustomize.toolkit.fluxcd.io/v1".into();
        event.metadata = metadata.iter().map(|&(k, v)| (k.into(), v.into())).collect();
        event
    }

    #[test]
    fn a_commit_status_wants_an_outcome() {
        let cases: [(&str, Metadata<'_>, bool); 8] = [
            ("info", &[], false),
            ("error", &[], true),
            ("info", &[("kustomize.toolkit.fluxcd.io/commit_status", "update")], true),
            ("info", &[("kustomize.toolkit.fluxcd.io/commit_status", "other")], false),
            ("info", &[("helm.toolkit.fluxcd.io/commit_status", "update")], false),
            ("info", &[("event.toolkit.fluxcd.io/commit", "abc")], true),
            ("info", &[("event.toolkit.fluxcd.io/commit", "")], false),
            ("trace", &[], false),
        ];
        for (severity, metadata, open) in cases {
            let marks = Marks::of(&event(severity, metadata));
            assert_eq!(carried(Carries::CommitStatus, marks, || false).is_ok(), open, "{severity} {metadata:?}");
            assert!(carried(Carries::CommitStatus, marks, || true).is_ok());
            assert!(carried(Carries::Event, marks, || false).is_ok());
        }
    }

    #[test]
    fn the_cross_namespace_policy_compares_namespaces_exactly() {
        let alert = Key::new("apps", "a");
        assert!(cross_namespace(false, "prod", &alert).is_ok());
        assert!(cross_namespace(true, "apps", &alert).is_ok());
        assert_eq!(cross_namespace(true, "prod", &alert), Err(Skip::CrossNamespace));
    }
}
