//! The event sources of an Alert, checked one by one: what can match nothing is named, and hurts no other
//! source. Called by `CompiledAlert::new`.

use std::sync::Arc;

use super::alert::Problem;
use super::selector::{self, Selector};
use crate::api::Key;
use crate::api::alert::{EVENT_SOURCE_KINDS, EventSource};

/// One object, or every object of a kind in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// Kind, case-sensitive; the API version plays no part.
    pub kind: Arc<str>,
    /// The Alert's own namespace unless the source names one.
    pub namespace: Arc<str>,
    /// A name, or `*`.
    pub name: Arc<str>,
}

/// The sources of one Alert that can match something.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// Each once.
    pub plain: Vec<Source>,
    /// Those with `matchLabels`.
    pub labelled: Vec<(Source, Selector)>,
}

/// Checks the sources of the Alert `key`, and adds what is wrong with them to `problems`.
pub(super) fn read(list: &[EventSource], key: &Key, problems: &mut Vec<Problem>) -> Sources {
    let mut sources = Sources::default();
    let mut wrong = Vec::new();
    for (position, source) in list.iter().enumerate() {
        let at = format!("spec.eventSources[{position}]");
        let found = match check(source, key) {
            Ok(found) => found,
            Err((reason, error)) => {
                wrong.push((reason, format!("{at}{error}; this source matches nothing")));
                continue;
            }
        };
        match &source.match_labels {
            None if sources.plain.contains(&found) => {}
            None => sources.plain.push(found),
            Some(labels) => match Selector::new(labels) {
                Ok(selector) => sources.labelled.push((found, selector)),
                Err(error) => {
                    wrong.push(("InvalidSpec", format!("{at}.matchLabels has {error}; this source matches nothing")))
                }
            },
        }
    }
    // An Alert with a source that works can work.
    let terminal = sources.plain.is_empty() && sources.labelled.is_empty();
    problems.extend(wrong.into_iter().map(|(reason, message)| Problem { reason, message, terminal }));
    sources
}

/// The source, or the reason and the text of what keeps it from matching any object.
fn check(source: &EventSource, key: &Key) -> Result<Source, (&'static str, String)> {
    let EventSource { kind, name, match_labels, .. } = source;
    // To Go, an empty namespace is one that is not given.
    let namespace = source.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    let refuse = |error: String| Err(("SourceMatchesNothing", error));
    if !is_kind(kind) {
        return refuse(format!(".kind is {kind:?}, which is no kind; write one word, such as Kustomization"));
    }
    if let Some(known) = EVENT_SOURCE_KINDS.iter().find(|known| **known != kind && known.eq_ignore_ascii_case(kind)) {
        return refuse(format!(".kind is {kind:?}, and kinds are compared with case; write {known}"));
    }
    if let Some(namespace) = namespace.filter(|namespace| !selector::is_dns_label(namespace)) {
        return refuse(format!(
            ".namespace is {namespace:?}, and no namespace can have this name; name one, or leave the field out for {}",
            key.namespace
        ));
    }
    if name != "*" && !selector::is_subdomain(name) {
        return refuse(format!(
            ".name is {name:?}, and no object can have this name; write a whole name, or * for every object of the kind"
        ));
    }
    if match_labels.is_some() && !EVENT_SOURCE_KINDS.contains(&kind.as_str()) {
        let kinds = EVENT_SOURCE_KINDS.join(", ");
        let error = format!(
            ".matchLabels selects by labels of kind {kind}, and Herald reads those of {kinds} only; name the objects"
        );
        return Err(("LabelsUnsupported", error));
    }
    Ok(Source {
        kind: kind.as_str().into(),
        namespace: namespace.map_or_else(|| key.namespace.clone(), Arc::from),
        name: name.as_str().into(),
    })
}

/// Whether an API server could serve a kind of this name: up to 63 letters, digits and `-`, a letter first and
/// no `-` last.
fn is_kind(kind: &str) -> bool {
    kind.len() <= 63
        && kind.starts_with(|c: char| c.is_ascii_alphabetic())
        && !kind.ends_with('-')
        && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(kind: &str, name: &str, namespace: Option<&str>) -> EventSource {
        let namespace = namespace.map(str::to_owned);
        EventSource { kind: kind.into(), name: name.into(), namespace, ..Default::default() }
    }

    fn labelled(kind: &str, value: &str) -> EventSource {
        let labels = [("team".to_owned(), value.to_owned())].into();
        EventSource { match_labels: Some(labels), ..source(kind, "*", None) }
    }

    #[test]
    fn a_source_that_can_match_nothing_is_named_and_hurts_no_other() {
        let key = Key::new("apps", "a");
        let long = "x".repeat(64);
        for (bad, reason, part) in [
            (source("", "*", None), "SourceMatchesNothing", "[1].kind is \"\""),
            (source("Kusto mization", "*", None), "SourceMatchesNothing", "[1].kind"),
            (source("*", "*", None), "SourceMatchesNothing", "[1].kind"),
            (source("apps/Deployment", "*", None), "SourceMatchesNothing", "[1].kind"),
            (source("Kind-", "*", None), "SourceMatchesNothing", "[1].kind"),
            (source(&long, "*", None), "SourceMatchesNothing", "[1].kind"),
            (source("kustomization", "*", None), "SourceMatchesNothing", "write Kustomization"),
            (source("Kustomization", "*", Some("*")), "SourceMatchesNothing", "[1].namespace is \"*\""),
            (source("Kustomization", "*", Some("a.b")), "SourceMatchesNothing", "[1].namespace"),
            (source("Kustomization", "", None), "SourceMatchesNothing", "[1].name is \"\""),
            (source("Kustomization", "web-*", None), "SourceMatchesNothing", "[1].name is \"web-*\""),
            (source("Kustomization", "Web", None), "SourceMatchesNothing", "[1].name"),
            (labelled("ResourceSet", "a"), "LabelsUnsupported", "[1].matchLabels"),
            (labelled("Kustomization", "b c"), "InvalidSpec", "[1].matchLabels"),
        ] {
            let mut problems = Vec::new();
            let good = source("FluxInstance", "flux", Some("flux-system"));
            let read = super::read(&[good, bad.clone()], &key, &mut problems);
            assert_eq!((read.plain.len(), read.labelled.len()), (1, 0), "{bad:?}");
            let [problem] = &problems[..] else { panic!("{bad:?}: {problems:?}") };
            assert!(problem.reason == reason && !problem.terminal, "{problem:?}");
            assert!(problem.message.contains(part), "{problem:?}");
            let mut problems = Vec::new();
            super::read(&[bad], &key, &mut problems);
            assert!(problems[0].terminal, "nothing is left of it: {problems:?}");
        }
    }

    #[test]
    fn any_kind_is_compared_as_a_word() {
        let key = Key::new("apps", "a");
        for kind in ["FluxInstance", "ResourceSet", "Terraform", "Receiver", "x", "Kind2", "Odd-Kind"] {
            let mut problems = Vec::new();
            let read = super::read(
                &[source(kind, "*", None), source(kind, "*", Some("apps")), source(kind, "*", Some(""))],
                &key,
                &mut problems,
            );
            assert_eq!((read.plain.len(), problems), (1, vec![]), "{kind}");
        }
        let mut problems = Vec::new();
        let read = super::read(&[labelled("Kustomization", "a")], &key, &mut problems);
        assert_eq!((read.labelled.len(), problems), (1, vec![]));
    }
}
