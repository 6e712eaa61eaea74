//! Herald itself, started in the test's process with addresses of its own. Used by every test
//! that speaks to it as its users do: events in, statuses out.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use herald::app::{App, Source};
use herald::cli::Cli;
use herald::clock::{Clock, SystemClock};
use herald::cluster::Connection;
use serde_json::Value;

use super::wait;

/// How long Herald may take for what a test waits for.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A running Herald; stopped by [`Herald::stop`], or rudely when dropped with its runtime.
pub struct Herald {
    /// The program.
    pub app: App,
    /// The folder of its outbox, when the flags do not name another.
    pub outbox: tempfile::TempDir,
    http: reqwest::Client,
}

/// Lets Herald connect to loopback.
pub const LOOPBACK: [&str; 2] = ["--allow-address=127.0.0.0/8", "--allow-address=::1"];

impl Herald {
    /// Reads a directory of manifests.
    pub async fn manifests(dir: &Path, flags: &[&str]) -> Self {
        Self::manifests_by(Arc::new(SystemClock), dir, flags).await
    }

    /// Reads a directory of manifests, and the time from this clock.
    pub async fn manifests_by(clock: Arc<dyn Clock>, dir: &Path, flags: &[&str]) -> Self {
        Self::start(clock, Source::Manifests(dir.to_owned()), flags).await
    }

    /// Watches the cluster `client` speaks to.
    pub async fn cluster(client: impl Into<Connection>, flags: &[&str]) -> Self {
        Self::cluster_by(Arc::new(SystemClock), client, flags).await
    }

    /// Watches the cluster `client` speaks to, and takes the time from this clock.
    pub async fn cluster_by(clock: Arc<dyn Clock>, client: impl Into<Connection>, flags: &[&str]) -> Self {
        Self::start(clock, Source::Cluster(client.into()), flags).await
    }

    async fn start(clock: Arc<dyn Clock>, source: Source, flags: &[&str]) -> Self {
        let outbox = tempfile::tempdir().expect("a folder for the outbox");
        let path = format!("--outbox-path={}", outbox.path().join("outbox.db").display());
        let mut all =
            vec!["herald", "--events-addr=127.0.0.1:0", "--health-addr=127.0.0.1:0", "--metrics-addr=127.0.0.1:0"];
        all.extend(flags);
        // Simulated vendors are on loopback. A test of the refusal gives a flag of its own.
        if !flags.iter().any(|flag| flag.starts_with("--allow-address")) {
            all.extend(LOOPBACK);
        }
        if !flags.iter().any(|flag| flag.starts_with("--outbox-path")) {
            all.push(&path);
        }
        let cli = Cli::try_parse_from(all).expect("valid flags");
        herald::install_tls_provider();
        let app = App::start_by(clock, &cli, source).await.expect("Herald starts");
        let herald = Self { app, outbox, http: reqwest::Client::new() };
        let ready = format!("http://{}/readyz", herald.app.health);
        wait::until(DEADLINE, "Herald to be ready", || async { wait::answers(&ready).await.then_some(()) }).await;
        herald
    }

    /// Where events are posted.
    pub fn events_url(&self) -> String {
        format!("http://{}/", self.app.events)
    }

    /// Posts an event and gives the status of the answer.
    pub async fn post(&self, event: &Value) -> u16 {
        let response = self.http.post(self.events_url()).body(event.to_string()).send().await;
        response.expect("Herald answers").status().as_u16()
    }

    /// The metrics as Prometheus is told them.
    pub async fn metrics(&self) -> String {
        let asked = self.http.get(format!("http://{}/metrics", self.app.metrics_at));
        let answer = asked.header("accept", "application/openmetrics-text;version=1.0.0").send().await;
        answer.expect("Herald answers").text().await.expect("metrics are text")
    }

    /// Waits until everything accepted was told or given up.
    pub async fn idle(&self) {
        wait::until(DEADLINE, "the outbox to be empty", || async {
            let counts = self.app.outbox.counts();
            (counts.held == counts.looks && counts.claimed == 0).then_some(())
        })
        .await;
    }

    /// Stops it as SIGTERM would.
    pub async fn stop(self) {
        self.app.shutdown(Duration::from_secs(5)).await;
    }
}
