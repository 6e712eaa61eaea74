//! STAGE 3: what is to be said. Pure: an event and the Alert and Provider that want it become a
//! [`Notice`], free of any vendor, or a reason why there is nothing to say.

mod metadata;
mod notice;
mod revision;
mod status;
mod status_id;
pub mod text;

pub use metadata::{METADATA_CONFLICTS, clean, combine, conflicts};
pub use notice::{CommitStatus, Message, Notice, Slot, State};
pub use revision::{commit_of, own_commit};
pub use status::{Wording, may_recover};
pub use status_id::for_provider;

use std::sync::{Arc, OnceLock};

use crate::api::Event;
use crate::matching::gate::{Carries, Skip};
use crate::matching::{CompiledAlert, Effort};
use crate::view::ProviderView;

/// Annotation on a Provider: `"true"` makes progress a pending status where the vendor does not
/// get one by default.
pub const PENDING_ANNOTATION: &str = "herald.sh/pending";

/// Annotation on a Provider: `any` makes every event that names a commit a commit status, also those
/// that Flux marks as no final outcome, such as a GitRepository's new artifact.
pub const COMMIT_STATUS_FROM_ANNOTATION: &str = "herald.sh/commit-status-from";

/// Composes what `provider` is to be told of `event`; its expression is run within `effort`. `shared` is the copy of
/// the event that all its messages hold.
pub fn compose(
    event: &Event,
    shared: &OnceLock<Arc<Event>>,
    alert: &CompiledAlert,
    view: &ProviderView,
    (carries, wording): (Carries, Wording),
    effort: &mut Effort,
) -> Result<Notice, Skip> {
    let provider = &view.provider;
    match carries {
        Carries::Event => {
            let event = shared.get_or_init(|| Arc::new(event.clone())).clone();
            Ok(Notice::Event(Message { event, added: Some(metadata::added(alert)) }))
        }
        Carries::CommitStatus => {
            let pending = wording.pending
                || provider.meta.annotations.get(PENDING_ANNOTATION).is_some_and(|value| value == "true");
            let state = status::state(event, pending).ok_or(Skip::NoState)?;
            let commit = commit_of(event, alert).ok_or(Skip::NoCommit)?;
            let description = text::words(&event.reason);
            Ok(Notice::CommitStatus(CommitStatus {
                commit: commit.into(),
                state,
                name: text::fit(status_id::of(event, alert, view, effort)?, wording.name, wording.ignores_case),
                label: status_id::label(&event.involved_object),
                summary: metadata::lookup(event, alert, "summary")
                    .map(|summary| text::fit(summary.into(), status::LONGEST_NAME, false).to_string()),
                description: match wording.description {
                    Some(limit) => text::cut(&description, limit),
                    None => description,
                },
                over_failure: false,
            }))
        }
    }
}
