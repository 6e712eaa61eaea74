//! The conditions of a Provider, from what became of resolving it.

use super::about_unknown;
use crate::api::Provider;
use crate::api::conditions::Desired;
use crate::delivery::resolve::Resolved;

/// Annotations Herald knows on a Provider.
const KNOWN_ANNOTATIONS: [&str; 3] = ["herald.sh/api-url", "herald.sh/pending", "herald.sh/system-roots"];

/// Ready and Healthy.
pub fn conditions(provider: &Provider, resolved: &Resolved) -> Vec<Desired> {
    let error = match resolved {
        Ok(_) => return vec![Desired::ready(), healthy(provider)],
        Err(error) => error,
    };
    let ready = if error.terminal { Desired::not_ready(error.reason, error.message.clone()) } else { Desired::ready() };
    vec![ready, Desired::unhealthy(error.reason, error.message.clone())]
}

fn healthy(provider: &Provider) -> Desired {
    if provider.spec.commit_status_expr.is_some() {
        let message =
            "spec.commitStatusExpr cannot be evaluated yet, so no status is sent; remove it to get the default name";
        return Desired::unhealthy("ExpressionUnsupported", message.to_owned());
    }
    let about = about_unknown(&provider.meta.annotations, &KNOWN_ANNOTATIONS);
    Desired::healthy(format!("address, Secrets and TLS settings are in order{about}"))
}
