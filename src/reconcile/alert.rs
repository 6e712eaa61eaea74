//! The conditions of an Alert, from its spec and the Provider it names.

use super::about_unknown;
use crate::api::conditions::Desired;
use crate::delivery::resolve::Resolved;
use crate::delivery::troubles::Trouble;
use crate::matching::CompiledAlert;

/// Ready and Healthy. `provider` is what became of the Provider it names; `None` when there is
/// none. `trouble` is what its deliveries meet with.
pub fn conditions(alert: &CompiledAlert, provider: Option<&Resolved>, trouble: Option<&Trouble>) -> Vec<Desired> {
    vec![ready(alert), healthy(alert, provider, trouble)]
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

fn healthy(alert: &CompiledAlert, provider: Option<&Resolved>, trouble: Option<&Trouble>) -> Desired {
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
        Some(Ok(_)) if let Some(trouble) = trouble => {
            Desired::unhealthy(trouble.reason, format!("deliveries to Provider {named} fail: {}", trouble.text))
        }
        Some(Ok(_)) => {
            let about = about_unknown(&alert.annotations, &[]);
            Desired::healthy(format!("Provider {named} is in order{about}"))
        }
    }
}
