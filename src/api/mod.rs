//! The Kubernetes and Flux types Herald reads and writes. Knows nothing else of ours.

pub mod alert;
pub mod conditions;
pub mod crd;
pub mod event;
pub mod meta;
pub mod provider;

pub use alert::{Alert, AlertSpec, EventSource};
pub use event::{Event, InvolvedObject};
pub use meta::{Key, ObjectMeta};
pub use provider::{Provider, ProviderSpec};

/// The API group of Provider, Alert and Receiver.
pub const GROUP: &str = "notification.toolkit.fluxcd.io";

/// The version objects are stored in, and the newest Herald reads.
pub const STORED_VERSION: &str = "v1beta3";

/// Versions of Alert and Provider that older guides apply; served with the whole field set of
/// the newest, because a PATCH through an old version would prune what that version lacks.
pub const DEPRECATED_VERSIONS: [&str; 2] = ["v1beta1", "v1beta2"];

/// Prefix of event metadata that users set by annotation, on any kind of object.
pub const EVENT_GROUP: &str = "event.toolkit.fluxcd.io";

/// The finalizer earlier controllers left on Alerts and Providers.
pub const OLD_FINALIZER: &str = "finalizers.fluxcd.io";
