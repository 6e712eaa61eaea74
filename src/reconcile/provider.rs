//! The conditions of a Provider, from what became of resolving it.

use super::about_unknown;
use crate::api::conditions::Desired;
use crate::delivery::resolve::{self, Resolved};
use crate::delivery::troubles::Trouble;
use crate::view::ProviderView;

/// Annotations Herald knows on a Provider.
const KNOWN_ANNOTATIONS: [&str; 4] =
    ["herald.sh/api-url", "herald.sh/commit-status-from", "herald.sh/pending", "herald.sh/system-roots"];

/// Those with a fixed set of values. Any other value is as none (rule R10).
const ANNOTATION_VALUES: [(&str, &[&str]); 3] = [
    ("herald.sh/commit-status-from", &["any"]),
    ("herald.sh/pending", &["true", "false"]),
    ("herald.sh/system-roots", &["append"]),
];

/// Ready and Healthy. `trouble` is what its deliveries meet with.
/// `shares`: another Provider writes the same statuses.
pub fn conditions(view: &ProviderView, resolved: &Resolved, trouble: Option<&Trouble>, shares: bool) -> Vec<Desired> {
    if let Some(Err(error)) = &view.expression {
        let message = format!("spec.commitStatusExpr cannot be used: {error}");
        let unhealthy = Desired::unhealthy("InvalidExpression", message.clone());
        return vec![Desired::not_ready("InvalidExpression", message), unhealthy];
    }
    let error = match (resolved, trouble) {
        (Ok(_), Some(trouble)) => {
            let unhealthy = Desired::unhealthy(trouble.reason, format!("deliveries fail: {}", trouble.text));
            return vec![Desired::ready(), unhealthy];
        }
        (Ok(_), None) => return vec![Desired::ready(), healthy(view, shares)],
        (Err(error), _) => error,
    };
    let ready = if error.terminal { Desired::not_ready(error.reason, error.message.clone()) } else { Desired::ready() };
    vec![ready, Desired::unhealthy(error.reason, error.message.clone())]
}

fn healthy(view: &ProviderView, shares: bool) -> Desired {
    let annotations = &view.provider.meta.annotations;
    let mut about = about_unknown(annotations, &KNOWN_ANNOTATIONS);
    for (name, values) in ANNOTATION_VALUES {
        if annotations.get(name).is_some_and(|value| !values.contains(&value.as_str())) {
            about += &format!("; the value of annotation {name} is without effect; it can be {}", values.join(" or "));
        }
    }
    for words in resolve::without_effect(view) {
        about += &format!("; {words}");
    }
    if shares {
        about += "; another Provider writes the same commit statuses, and the last to speak is heard";
    }
    Desired::healthy(format!("address, Secrets and TLS settings are in order{about}"))
}
