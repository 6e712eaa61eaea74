//! What is counted. One struct, handed to the stages that count.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// How what was accepted ended, for one Alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The vendor acknowledged it.
    Delivered,
    /// The vendor says so already.
    Unchanged,
    /// A newer statement took its place.
    Superseded,
    /// The Alert matched, but there was nothing to tell.
    Filtered,
    /// Somebody must mend something before it could be told.
    Refused,
    /// Given up.
    Failed,
}

impl Outcome {
    /// The label.
    pub fn label(self) -> &'static str {
        match self {
            Outcome::Delivered => "delivered",
            Outcome::Unchanged => "unchanged",
            Outcome::Superseded => "superseded",
            Outcome::Filtered => "filtered",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: u16,
}

/// The counters.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    notifications: Family<OutcomeLabel, Counter>,
    events: Family<CodeLabel, Counter>,
    bad_objects: Counter<u64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let notifications = Family::<OutcomeLabel, Counter>::default();
        registry.register(
            "herald_notifications",
            "What was accepted, per Alert that matched, by how it ended",
            notifications.clone(),
        );
        let events = Family::<CodeLabel, Counter>::default();
        registry.register("herald_events", "Requests at the events door by answer", events.clone());
        let bad_objects = Counter::default();
        registry.register(
            "herald_bad_objects",
            "Watched objects that could not be read and were skipped",
            bad_objects.clone(),
        );
        registry.register("herald_up", "1 while the process runs", ConstGauge::new(1));
        Self { registry, notifications, events, bad_objects }
    }
}

impl Metrics {
    /// One notification ended.
    pub fn notification(&self, outcome: Outcome) {
        self.notifications.get_or_create(&OutcomeLabel { outcome: outcome.label() }).inc();
    }

    /// How many notifications ended so.
    pub fn notifications(&self, outcome: Outcome) -> u64 {
        self.notifications.get_or_create(&OutcomeLabel { outcome: outcome.label() }).get()
    }

    /// One request at the events door was answered.
    pub fn event(&self, code: http::StatusCode) {
        self.events.get_or_create(&CodeLabel { code: code.as_u16() }).inc();
    }

    /// A watched object could not be read.
    pub fn bad_object(&self) {
        self.bad_objects.inc();
    }

    /// Everything, in the text format of Prometheus.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}
