//! What is counted. One struct, handed to the stages that count.
//!
//! Names, labels and buckets that Flux's controller has too are exactly its own, so that its
//! dashboards and alerts go on working; ours begin with `herald_`. Every label value comes from a
//! fixed list, or from a set that is bounded here.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::{Method, StatusCode};
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::process::Process;

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
    /// The outbox had no room for it, or no more for its namespace or Provider.
    Dropped,
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
            Outcome::Dropped => "dropped",
        }
    }
}

/// How one look at an object's conditions ended, in controller-runtime's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconciled {
    /// What ought to stand stands, or was written.
    Success,
    /// It could not be written; it will be tried again.
    Error,
    /// It may not be written yet.
    RequeueAfter,
}

/// Every value of `result`, as the peer creates them beforehand.
const RESULTS: [&str; 4] = ["error", "requeue", "requeue_after", "success"];

/// The buckets of the peer's HTTP durations, in seconds.
const HTTP_SECONDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The buckets of controller-runtime's reconciles, in seconds.
const RECONCILE_SECONDS: [f64; 40] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5,
    1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0,
];

/// From a vendor that answers at once to one that is down for the whole life of a status (24 h).
const DELIVERY_SECONDS: [f64; 14] =
    [0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0];

/// Paths that get a `handler` of their own with `--export-http-path-metrics`: anybody in the
/// cluster can ask for any. The rest are [`OTHER`].
const MAX_HANDLERS: usize = 64;

/// Bytes of such a path.
const MAX_HANDLER: usize = 128;

/// The label of what has none of its own.
const OTHER: &str = "other";

/// The `handler` of all paths by default.
const ANY_PATH: &str = "/";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NotificationLabels {
    outcome: &'static str,
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabel {
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HttpLabels {
    code: u16,
    handler: Cow<'static, str>,
    method: &'static str,
    service: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandlerLabels {
    handler: Cow<'static, str>,
    service: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ControllerLabel {
    controller: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcileLabels {
    controller: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RestLabels {
    code: Cow<'static, str>,
    host: Arc<str>,
    method: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The counters.
#[derive(Debug)]
pub struct Metrics {
    /// Behind a lock for what is registered once the parts are there.
    registry: Mutex<Registry>,
    notifications: Family<NotificationLabels, Counter>,
    deliveries: Histograms<TypeLabel>,
    panics: Family<TypeLabel, Counter>,
    events: Family<CodeLabel, Counter>,
    bad_objects: Counter<u64, AtomicU64>,
    door: Door,
    reconciles: Family<ReconcileLabels, Counter>,
    reconcile_errors: Family<ControllerLabel, Counter>,
    reconcile_seconds: Histograms<ControllerLabel>,
    api_requests: Family<RestLabels, Counter>,
    totals: [Counter; 7],
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(false)
    }
}

impl Metrics {
    /// None of them counted yet. `paths`: the events door's `handler` label is the path of a
    /// request (`--export-http-path-metrics`), not always `/`.
    pub fn new(paths: bool) -> Self {
        let mut registry = Registry::default();
        let notifications = Family::default();
        registry.register(
            "herald_notifications",
            "What was accepted, per Alert that matched, by how it ended and type of Provider",
            notifications.clone(),
        );
        let deliveries: Histograms<TypeLabel> = Family::new_with_constructor(|| Histogram::new(DELIVERY_SECONDS));
        registry.register(
            "herald_delivery_seconds",
            "Time from an event's acceptance to the vendor's acknowledgement",
            deliveries.clone(),
        );
        let panics = Family::default();
        registry.register(
            "herald_delivery_panics",
            "Tries to tell a vendor that ended in a panic, by type of Provider: each is a bug in Herald",
            panics.clone(),
        );
        let events = Family::default();
        registry.register("herald_events", "Requests at the events door by answer", events.clone());
        let bad_objects = Counter::default();
        registry.register(
            "herald_bad_objects",
            "Watched objects that could not be read and were skipped",
            bad_objects.clone(),
        );
        registry.register("herald_up", "1 while the process runs", ConstGauge::new(1));
        let door = Door::new(paths, &mut registry);

        let reconciles = Family::<ReconcileLabels, Counter>::default();
        registry.register(
            "controller_runtime_reconcile",
            "Looks at the conditions of an object by controller and result",
            reconciles.clone(),
        );
        let reconcile_errors = Family::<ControllerLabel, Counter>::default();
        registry.register(
            "controller_runtime_reconcile_errors",
            "Looks at the conditions of an object that could not be written, by controller",
            reconcile_errors.clone(),
        );
        let reconcile_seconds: Histograms<ControllerLabel> =
            Family::new_with_constructor(|| Histogram::new(RECONCILE_SECONDS));
        registry.register(
            "controller_runtime_reconcile_time_seconds",
            "Time a look at the conditions of an object took, by controller",
            reconcile_seconds.clone(),
        );
        for controller in ["alert", "provider"] {
            for result in RESULTS {
                reconciles.get_or_create_owned(&ReconcileLabels { controller, result });
            }
            reconcile_errors.get_or_create_owned(&ControllerLabel { controller });
            reconcile_seconds.get_or_create_owned(&ControllerLabel { controller });
        }
        let api_requests = Family::default();
        registry.register(
            "rest_client_requests",
            "Requests to the API server by status, host and method",
            api_requests.clone(),
        );
        registry.register_collector(Box::new(Process));
        Self {
            registry: Mutex::new(registry),
            notifications,
            deliveries,
            panics,
            events,
            bad_objects,
            door,
            reconciles,
            reconcile_errors,
            reconcile_seconds,
            api_requests,
            totals: Default::default(),
        }
    }

    /// One notification ended. `kind` is the Provider's type as `vendors` names it; empty when it
    /// is not known.
    pub fn notification(&self, outcome: Outcome, kind: &'static str) {
        self.notifications.get_or_create(&NotificationLabels { outcome: outcome.label(), r#type: kind }).inc();
        self.totals[outcome as usize].inc();
    }

    /// How many notifications ended so, over all types.
    pub fn notifications(&self, outcome: Outcome) -> u64 {
        self.totals[outcome as usize].get()
    }

    /// A try to tell a vendor of this type panicked.
    pub fn delivery_panic(&self, kind: &'static str) {
        self.panics.get_or_create(&TypeLabel { r#type: kind }).inc();
    }

    /// A vendor of this type acknowledged something this long after it was accepted.
    pub fn delivery(&self, kind: &'static str, took: Duration) {
        self.deliveries.get_or_create(&TypeLabel { r#type: kind }).observe(took.as_secs_f64());
    }

    /// A request came to the events door; see [`Open`].
    pub fn open(&self, path: &str) -> Open<'_> {
        self.door.open(path)
    }

    /// One request at the events door was answered.
    pub fn event(&self, code: StatusCode) {
        self.events.get_or_create(&CodeLabel { code: code.as_u16() }).inc();
    }

    /// A watched object could not be read.
    pub fn bad_object(&self) {
        self.bad_objects.inc();
    }

    /// One look at the conditions of an object of `controller` (`alert` or `provider`) ended.
    pub fn reconcile(&self, controller: &'static str, result: Reconciled, took: Duration) {
        let result = match result {
            Reconciled::Success => "success",
            Reconciled::RequeueAfter => "requeue_after",
            Reconciled::Error => {
                self.reconcile_errors.get_or_create(&ControllerLabel { controller }).inc();
                "error"
            }
        };
        self.reconciles.get_or_create(&ReconcileLabels { controller, result }).inc();
        self.reconcile_seconds.get_or_create(&ControllerLabel { controller }).observe(took.as_secs_f64());
    }

    /// The API server at `host` answered a request, or did not.
    pub fn api_request(&self, code: Option<StatusCode>, host: &Arc<str>, method: &Method) {
        let code = match code {
            Some(code) => code.as_u16().to_string().into(),
            // client-go's word for it.
            None => "<error>".into(),
        };
        let labels = RestLabels { code, host: host.clone(), method: known(method) };
        self.api_requests.get_or_create(&labels).inc();
    }

    /// Registers gauges that are read at each scrape: `read` gives the values of `labels`, and the
    /// gauge's own.
    pub fn at_scrape<const N: usize, L: AsRef<str> + 'static>(
        &self,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; N],
        read: impl Fn() -> Vec<([L; N], u64)> + Send + Sync + 'static,
    ) {
        self.register(AtScrape { name, help, kind: MetricType::Gauge, labels, read: Box::new(read) });
    }

    /// The same for counters, which somebody else counts. They have `_total` behind `name`.
    pub fn counted_elsewhere<const N: usize, L: AsRef<str> + 'static>(
        &self,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; N],
        read: impl Fn() -> Vec<([L; N], u64)> + Send + Sync + 'static,
    ) {
        self.register(AtScrape { name, help, kind: MetricType::Counter, labels, read: Box::new(read) });
    }

    fn register<const N: usize, L: AsRef<str> + 'static>(&self, of: AtScrape<L, N>) {
        self.registry.lock().register_collector(Box::new(of));
    }

    /// Everything, as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = text::encode(&mut out, &self.registry.lock());
        out
    }

    /// Everything, in the older text format of Prometheus: for tools that do not ask for
    /// OpenMetrics. There a counter's family has the name of its sample.
    pub fn encode_plain(&self) -> String {
        let open = self.encode();
        let counters: BTreeSet<&str> =
            open.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
        let mut out = String::with_capacity(open.len());
        for line in open.lines().filter(|line| *line != "# EOF") {
            let family = ["# HELP ", "# TYPE "].iter().find_map(|start| {
                let (name, rest) = line.strip_prefix(start)?.split_once(' ')?;
                counters.contains(name).then_some((start, name, rest))
            });
            match family {
                Some((start, name, rest)) => out.extend([start, name, "_total ", rest, "\n"]),
                None => out.extend([line, "\n"]),
            }
        }
        out
    }
}

/// The method, if it is one that HTTP has; any text can be sent as one.
fn known(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "CONNECT" => "CONNECT",
        "TRACE" => "TRACE",
        _ => OTHER,
    }
}

/// The events door. What is asked for every event is looked up once, here.
#[derive(Debug)]
struct Door {
    seconds: Histograms<HttpLabels>,
    bytes: Histograms<HttpLabels>,
    inflight: Family<HandlerLabels, Gauge>,
    /// Of POST on [`ANY_PATH`], by the answers that senders get.
    usual: [(StatusCode, Histogram, Histogram); 3],
    usual_inflight: Gauge,
    /// Paths seen, when they are told apart.
    paths: Option<Mutex<BTreeSet<String>>>,
}

impl Door {
    fn new(paths: bool, registry: &mut Registry) -> Self {
        let seconds: Histograms<HttpLabels> = Family::new_with_constructor(|| Histogram::new(HTTP_SECONDS));
        registry.register(
            "gotk_event_http_request_duration_seconds",
            "The latency of the HTTP requests.",
            seconds.clone(),
        );
        let bytes: Histograms<HttpLabels> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(100.0, 10.0, 8)));
        registry.register("gotk_event_http_response_size_bytes", "The size of the HTTP responses.", bytes.clone());
        let inflight = Family::<HandlerLabels, Gauge>::default();
        registry.register(
            "gotk_event_http_requests_inflight",
            "The number of inflight requests being handled at the same time.",
            inflight.clone(),
        );
        let usual =
            [StatusCode::ACCEPTED, StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].map(|code| {
                let labels = HttpLabels { code: code.as_u16(), handler: ANY_PATH.into(), method: "POST", service: "" };
                (code, seconds.get_or_create_owned(&labels), bytes.get_or_create_owned(&labels))
            });
        let usual_inflight = inflight.get_or_create_owned(&HandlerLabels { handler: ANY_PATH.into(), service: "" });
        let paths = paths.then(|| Mutex::new(BTreeSet::from([ANY_PATH.to_owned()])));
        Self { seconds, bytes, inflight, usual, usual_inflight, paths }
    }

    fn open(&self, path: &str) -> Open<'_> {
        let handler = match &self.paths {
            Some(paths) if path != ANY_PATH => handler(&mut paths.lock(), path),
            _ => ANY_PATH.into(),
        };
        let inflight = match handler == ANY_PATH {
            true => self.usual_inflight.clone(),
            false => self.inflight.get_or_create_owned(&HandlerLabels { handler: handler.clone(), service: "" }),
        };
        inflight.inc();
        Open { door: self, handler, inflight }
    }
}

/// The label of a path.
fn handler(seen: &mut BTreeSet<String>, path: &str) -> Cow<'static, str> {
    if !seen.contains(path) {
        if seen.len() >= MAX_HANDLERS || path.len() > MAX_HANDLER {
            return OTHER.into();
        }
        seen.insert(path.to_owned());
    }
    Cow::Owned(path.to_owned())
}

/// A request that the events door has not answered yet. Counts as in flight until it is dropped, so
/// that one whose sender went away does too.
#[derive(Debug)]
pub struct Open<'a> {
    door: &'a Door,
    handler: Cow<'static, str>,
    inflight: Gauge,
}

impl Open<'_> {
    /// It was answered with a body of this many bytes.
    pub fn answered(self, method: &Method, code: StatusCode, took: Duration, bytes: usize) {
        let usual = self.door.usual.iter().find(|(usual, ..)| *usual == code);
        let (seconds, size) = match usual.filter(|_| self.handler == ANY_PATH && *method == Method::POST) {
            Some((_, seconds, size)) => (seconds.clone(), size.clone()),
            None => {
                let labels = HttpLabels {
                    code: code.as_u16(),
                    handler: self.handler.clone(),
                    method: known(method),
                    service: "",
                };
                (self.door.seconds.get_or_create_owned(&labels), self.door.bytes.get_or_create_owned(&labels))
            }
        };
        seconds.observe(took.as_secs_f64());
        size.observe(bytes as f64);
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.inflight.dec();
    }
}

/// See [`Metrics::at_scrape`] and [`Metrics::counted_elsewhere`].
struct AtScrape<L, const N: usize> {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    labels: [&'static str; N],
    read: Read<L, N>,
}

/// The values of a metric's labels, and its own.
type Read<L, const N: usize> = Box<dyn Fn() -> Vec<([L; N], u64)> + Send + Sync>;

impl<L, const N: usize> fmt::Debug for AtScrape<L, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl<L: AsRef<str> + 'static, const N: usize> Collector for AtScrape<L, N> {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut family = encoder.encode_descriptor(self.name, self.help, None, self.kind)?;
        let put = |metric: MetricEncoder<'_>, value| match self.kind {
            MetricType::Counter => ConstCounter::new(value).encode(metric),
            _ => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric),
        };
        for (of, value) in (self.read)() {
            if N == 0 {
                // As a family it would have empty braces.
                return put(family, value);
            }
            let labels: [_; N] = std::array::from_fn(|at| (self.labels[at], of[at].as_ref()));
            put(family.encode_family(&labels)?, value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_apart_up_to_a_bound() {
        let mut seen = BTreeSet::new();
        for number in 0..MAX_HANDLERS {
            assert_eq!(handler(&mut seen, &format!("/{number}")), format!("/{number}"));
        }
        assert_eq!(handler(&mut seen, "/one-more"), OTHER);
        assert_eq!(handler(&mut seen, "/7"), "/7");
        assert_eq!(handler(&mut BTreeSet::new(), &"/".repeat(MAX_HANDLER + 1)), OTHER);
    }

    #[test]
    fn a_request_is_in_flight_until_it_is_answered_or_left() {
        let metrics = Metrics::default();
        let inflight = || metrics.door.usual_inflight.get();
        let first = metrics.open("/");
        let second = metrics.open("/any");
        assert_eq!(inflight(), 2);
        first.answered(&Method::POST, StatusCode::ACCEPTED, Duration::ZERO, 0);
        assert_eq!(inflight(), 1);
        drop(second);
        assert_eq!(inflight(), 0);
    }
}
