//! STAGE 2: which Alerts want an event. Pure: reads nothing but its arguments, and returns the
//! reason of each skip for `pipeline` to count.

mod alert;
mod effort;
mod filter;
pub mod gate;
mod index;
mod selector;
mod sources;

pub use alert::{CompiledAlert, Problem};
pub use effort::{Effort, NeedsMore};
pub use filter::{Prepared, heavy, prepare};
pub use index::{AlertIndex, Candidates, SharedIndex};
pub use selector::Selector;
pub use sources::Source;

use std::sync::Arc;

use crate::api::Event;
use crate::view::ObjectLabels;

/// The Alerts among `candidates` that want `event`, each once, by namespace and name.
///
/// An Alert wants an event when it is not suspended, a source of it names the object (that is
/// what made it a candidate), its severity admits the event, an inclusion matches the message
/// where there are inclusions, and no exclusion does.
///
/// `labels` are those of the object; `None` when they are not known, or nobody asks for them (see
/// [`Candidates::ask_for_labels`]): then a source with `matchLabels` selects nothing.
///
/// # Errors
/// The lists of the Alerts need more than `effort` has here, and there is more elsewhere.
pub fn match_event(
    candidates: &Candidates,
    event: &Event,
    labels: Option<&ObjectLabels>,
    effort: &mut Effort,
) -> Result<Vec<Arc<CompiledAlert>>, NeedsMore> {
    let mut wanted = Vec::new();
    for alert in candidates.iter() {
        if alert.wants(event, effort)? {
            wanted.push(alert.clone());
        }
    }
    if let Some(labels) = labels {
        for (selector, alert) in candidates.labelled() {
            if selector.matches(labels) && alert.wants(event, effort)? {
                wanted.push(alert.clone());
            }
        }
    }
    if wanted.len() > 1 {
        wanted.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        wanted.dedup_by(|a, b| a.key == b.key);
    }
    Ok(wanted)
}
