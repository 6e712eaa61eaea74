//! The conditions of an Alert, from its spec, the Provider it names, and whether the labels it
//! selects by can be told.

use super::about_unknown;
use crate::api::conditions::Desired;
use crate::cluster::{LabelKind, Reach};
use crate::delivery::resolve::Resolved;
use crate::delivery::troubles::Trouble;
use crate::matching::{CompiledAlert, Problem, Source};

/// Ready and Healthy. `provider` is what became of the Provider it names; `None` when there is
/// none. `trouble` is what its deliveries meet with. `reach` says of a source with `matchLabels`
/// whether labels can be told there. `no_cross_namespace` is `--no-cross-namespace-refs`.
pub fn conditions(
    alert: &CompiledAlert,
    provider: Option<&Resolved>,
    trouble: Option<&Trouble>,
    reach: impl Fn(&Source) -> Reach,
    no_cross_namespace: bool,
) -> Vec<Desired> {
    vec![ready(alert), healthy(alert, provider, trouble, reach, no_cross_namespace)]
}

fn ready(alert: &CompiledAlert) -> Desired {
    let terminal: Vec<_> = alert.problems.iter().filter(|problem| problem.terminal).collect();
    match terminal.first() {
        None => Desired::ready(),
        Some(first) => Desired::not_ready(first.reason, join(terminal.iter().copied())),
    }
}

fn join<'a>(problems: impl Iterator<Item = &'a Problem>) -> String {
    problems.map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("; ")
}

/// The sources of other namespaces, which `--no-cross-namespace-refs` denies.
fn denied(alert: &CompiledAlert) -> Option<Desired> {
    let all = alert.sources.iter().chain(alert.labelled.iter().map(|(source, _)| source));
    let elsewhere: Vec<_> = all
        .filter(|source| source.namespace != alert.key.namespace)
        .map(|Source { kind, namespace, name }| format!("{kind}/{namespace}/{name}"))
        .collect();
    let message = format!(
        "spec.eventSources {} match nothing: --no-cross-namespace-refs denies sources outside of namespace {}; \
         write an Alert in the namespace of the objects",
        elsewhere.join(", "),
        alert.key.namespace
    );
    (!elsewhere.is_empty()).then(|| Desired::unhealthy("AccessDenied", message))
}

fn healthy(
    alert: &CompiledAlert,
    provider: Option<&Resolved>,
    trouble: Option<&Trouble>,
    reach: impl Fn(&Source) -> Reach,
    no_cross_namespace: bool,
) -> Desired {
    let named = &alert.provider;
    if let Some(first) = alert.problems.first() {
        return Desired::unhealthy(first.reason, join(alert.problems.iter()));
    }
    if let Some(denied) = denied(alert).filter(|_| no_cross_namespace) {
        return denied;
    }
    if let Some(over) = alert.over.get() {
        return Desired::unhealthy("ExpressionTooCostly", over.clone());
    }
    match provider {
        None => Desired::unhealthy(
            "ProviderNotFound",
            format!("spec.providerRef names Provider {named}, which does not exist; create it"),
        ),
        Some(Err(error)) => {
            Desired::unhealthy(error.reason, format!("Provider {named} cannot be used: {}", error.message))
        }
        Some(Ok(_)) if let Some(trouble) = trouble => {
            Desired::unhealthy(trouble.reason, format!("deliveries to Provider {named} fail: {}", trouble.text))
        }
        Some(Ok(_)) => {
            let mut unreachable = alert.selected_by_label().filter_map(|source| labels(source, reach(source)));
            if let Some(unhealthy) = unreachable.next() {
                return unhealthy;
            }
            let about = about_unknown(&alert.annotations, &[]);
            Desired::healthy(format!("Provider {named} is in order{about}"))
        }
    }
}

/// Reasons of `Healthy` that say that labels cannot be read.
pub const WITHOUT_LABELS: [&str; 4] = ["LabelsForbidden", "LabelsUnread", "KindNotInstalled", "LabelsOutOfReach"];

/// What is wrong with a source that selects by label.
fn labels(source: &Source, reach: Reach) -> Option<Desired> {
    let kind = LabelKind::of(&source.kind)?;
    let resource = format!("{}.{}", kind.plural, kind.group);
    let (reason, why) = match reach {
        Reach::Known | Reach::Syncing => return None,
        Reach::Late => {
            ("LabelsUnread", format!("the API server has not given out the labels of {resource} yet; see Herald's log"))
        }
        Reach::Forbidden => (
            "LabelsForbidden",
            format!("Herald's ServiceAccount may not read {resource}; grant it get, list and watch, see config/rbac"),
        ),
        Reach::NotInstalled => {
            ("KindNotInstalled", format!("the API server knows no {resource}; install the controller they belong to"))
        }
        Reach::OtherNamespace => (
            "LabelsOutOfReach",
            format!(
                "--watch-all-namespaces=false keeps Herald from reading {resource} in namespace {}",
                source.namespace
            ),
        ),
        Reach::NoCluster => ("LabelsUnsupported", "there is no cluster to read labels from".to_owned()),
    };
    let message = format!("spec.eventSources with matchLabels and kind {} match nothing: {why}", source.kind);
    Some(Desired::unhealthy(reason, message))
}
