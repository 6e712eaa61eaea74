//! The conditions of an Alert, from its spec and the Provider it names.

use super::about_unknown;
use crate::api::conditions::Desired;
use crate::delivery::resolve::Resolved;
use crate::matching::CompiledAlert;

/// Ready and Healthy. `provider` is what became of the Provider it names; `None` when there is
/// none.
pub fn conditions(alert: &CompiledAlert, provider: Option<&Resolved>) -> Vec<Desired> {
    vec![ready(alert), healthy(alert, provider)]
}

fn ready(alert: &CompiledAlert) -> Desired {
    let terminal: Vec<_> = alert.problems.iter().filter(|problem| problem.terminal).collect();
    match terminal.first() {
        None => Desired::ready(),
        Some(first) => {
            let all: Vec<&str> = terminal.iter().map(|problem| problem.message.as_str()).collect();
            Desired::not_ready(first.reason, all.join("; "))
        }
    }
}

fn healthy(alert: &CompiledAlert, provider: Option<&Resolved>) -> Desired {
    let named = &alert.provider;
    if let Some(problem) = alert.problems.first() {
        return Desired::unhealthy(problem.reason, problem.message.clone());
    }
    match provider {
        None => Desired::unhealthy(
            "ProviderNotFound",
            format!("spec.providerRef names Provider {named}, which does not exist; create it"),
        ),
        Some(Err(error)) => {
            Desired::unhealthy(error.reason, format!("Provider {named} cannot be used: {}", error.message))
        }
        Some(Ok(_)) => {
            let about = about_unknown(&alert.annotations, &[]);
            Desired::healthy(format!("Provider {named} is in order{about}"))
        }
    }
}
