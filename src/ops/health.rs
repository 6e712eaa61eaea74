//! The two small servers for whoever runs Herald: probes (`--health-addr`) and metrics
//! (`--metrics-addr`).

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;

use super::metrics::Metrics;
use crate::view::View;

/// `/healthz`: the process runs. `/readyz`: events can be judged and kept, so senders may come;
/// `writes` says whether the outbox can be written.
pub fn probes(view: Arc<dyn View>, writes: impl Fn() -> bool + Clone + Send + Sync + 'static) -> Router {
    let ready = move || {
        let answer = match (view.synced(), writes()) {
            (true, true) => (StatusCode::OK, "ok"),
            (false, _) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "not ready: Alerts, Providers and their Secrets are not all known yet",
            ),
            (true, false) => (StatusCode::SERVICE_UNAVAILABLE, "not ready: the outbox cannot be written, see the log"),
        };
        std::future::ready(answer)
    };
    Router::new().route("/healthz", get(|| async { "ok" })).route("/readyz", get(ready))
}

/// `/metrics`: OpenMetrics for whoever asks for it, as Prometheus does; else the older text format.
pub fn metrics(metrics: Arc<Metrics>) -> Router {
    let encode = |State(metrics): State<Arc<Metrics>>, headers: HeaderMap| async move {
        let mut accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        if accepted.any(|value| value.contains("application/openmetrics-text")) {
            ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], metrics.encode())
        } else {
            ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.encode_plain())
        }
    };
    Router::new().route("/metrics", get(encode)).with_state(metrics)
}
