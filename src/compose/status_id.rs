//! The name of a commit status. Called by `compose` for each.

use std::sync::Arc;

use serde_json::Value;

use super::combine;
use crate::api::{Event, InvolvedObject};
use crate::matching::gate::Skip;
use crate::matching::{CompiledAlert, Effort};
use crate::view::ProviderView;

/// Bytes of an event or an object that are made ready for an expression in one step.
const BYTES_A_STEP: usize = 64;

/// What became of the rest, where the Alerts of a namespace share its steps.
const TOGETHER: &str =
    "the expressions of this namespace take too long for one event; use fewer Alerts or simpler ones";

/// The name: what the Provider's `commitStatusExpr` gives, as it gives it, else the default.
pub fn of(event: &Event, alert: &CompiledAlert, view: &ProviderView, effort: &mut Effort) -> Result<Arc<str>, Skip> {
    let provider = &view.provider;
    let wrong = |why: &str| Skip::Expression(format!("spec.commitStatusExpr of Provider {}: {why}", provider.meta.key));
    let expression = match &view.expression {
        None => return Ok(default_id(&event.involved_object, &provider.meta.uid)),
        Some(Err(error)) => return Err(wrong(&error.to_string())),
        Some(Ok(expression)) => expression,
    };
    // What the expression is given costs as much to make as to read.
    let given = (event.message.len() + alert.object.len()) / BYTES_A_STEP;
    let steps = effort.of(&alert.key.namespace);
    let enough = *steps >= given;
    *steps = steps.saturating_sub(given);
    if !enough {
        return Err(effort.exceeded().map_or(Skip::NeedsMore, |()| wrong(TOGETHER)));
    }
    let mut prepared = event.clone();
    prepared.metadata = combine(event, alert);
    let json = |value: serde_json::Result<Value>| value.unwrap_or_default();
    let event = json(serde_json::to_value(&prepared));
    let alert_json = json(serde_json::from_str(&alert.object));
    let none = Value::Null;
    let provider = provider.object.as_deref().unwrap_or(&none);
    let variables = [("event", &event), ("provider", provider), ("alert", &alert_json)];
    let name =
        expression.evaluate_string_within(&variables, effort.of(&alert.key.namespace)).map_err(|error| {
            match (error.is_short(), effort.exceeded()) {
                (false, _) => wrong(&error.to_string()),
                (true, Err(_)) => Skip::NeedsMore,
                (true, Ok(())) => wrong(TOGETHER),
            }
        })?;
    if name.is_empty() { Err(wrong("it gives an empty name")) } else { Ok(name.into()) }
}

/// The default: lower-case `kind/name/uid`, where `uid` is the Provider's UID up to its first
/// dash. The peer finds its own statuses by it, and so do required checks; the namespace is not
/// part of it.
pub fn default_id(object: &InvolvedObject, provider_uid: &str) -> Arc<str> {
    let short = provider_uid.split('-').next().unwrap_or_default();
    [object.kind.as_str(), "/", &object.name, "/", short].concat().to_lowercase().into()
}

/// A name by [`default_id`] as it is for another Provider; `None` for any other name.
pub fn for_provider(name: &str, from: &str, to: &str) -> Option<Arc<str>> {
    let short = |uid: &str| ["/", uid.split('-').next().unwrap_or_default()].concat().to_lowercase();
    Some([name.strip_suffix(&short(from))?, &short(to)].concat().into())
}

/// Lower-case `kind/name`.
pub fn label(object: &InvolvedObject) -> String {
    [object.kind.as_str(), "/", &object.name].concat().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_name() {
        let object =
            InvolvedObject { kind: "Kustomization".into(), name: "gitops-system".into(), ..Default::default() };
        let id = default_id(&object, "0c9c2e41-d2f9-4f9b-9c41-bebc1984d67a");
        assert_eq!(&*id, "kustomization/gitops-system/0c9c2e41");
    }
}
