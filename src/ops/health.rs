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
/// `outbox` says why the outbox cannot take them, if it cannot.
pub fn probes(
    view: Arc<dyn View>,
    outbox: impl Fn() -> Option<&'static str> + Clone + Send + Sync + 'static,
) -> Router {
    let ready = move || {
        let not_yet = || (!view.synced()).then_some("Alerts, Providers and their Secrets are not all known yet");
        let answer = match not_yet().or_else(&outbox) {
            None => (StatusCode::OK, "ok".to_owned()),
            Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}")),
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
