//! Flags and environment, under the names of Flux's notification-controller. Without a subcommand
//! the controller runs.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser, Subcommand};

use crate::ops::logging::{Encoding, LogLevel};

/// Herald tells Git hosts and other services what Flux did.
///
/// It takes events from Flux controllers, finds the Alerts that want them, and writes commit
/// statuses and messages to the Providers those name. It reads Alerts, Providers and Secrets from
/// the cluster it runs in (or that KUBECONFIG names), or from a directory of YAML.
///
/// Try it without a cluster: herald --manifests examples/demo --events-addr 127.0.0.1:9090
#[derive(Clone, Debug, Parser)]
#[command(name = "herald", version, max_term_width = 100)]
pub struct Cli {
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Read Providers, Alerts and Secrets from the YAML files in this directory instead of a
    /// cluster, and follow their changes.
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,

    /// Where to listen for events of Flux controllers.
    #[arg(long, value_name = "ADDRESS", default_value = ":9090")]
    pub events_addr: String,

    /// Where to serve /healthz and /readyz.
    #[arg(long, value_name = "ADDRESS", default_value = ":9440")]
    pub health_addr: String,

    /// Where to serve /metrics.
    #[arg(long, value_name = "ADDRESS", default_value = ":8080")]
    pub metrics_addr: String,

    /// Where webhooks will be taken; the door opens with Receivers, in a later version.
    #[arg(long = "receiverAddr", value_name = "ADDRESS", default_value = ":9292")]
    pub receiver_addr: String,

    /// Watch all namespaces, or with =false only the one RUNTIME_NAMESPACE names.
    #[arg(long, value_name = "BOOL", default_value_t = true, default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = ArgAction::Set)]
    pub watch_all_namespaces: bool,

    /// The namespace Herald runs in.
    #[arg(long, env = "RUNTIME_NAMESPACE", hide = true)]
    pub runtime_namespace: Option<String>,

    /// Let an Alert tell only of objects in its own namespace.
    #[arg(long, value_name = "BOOL", default_value_t = false, default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = ArgAction::Set)]
    pub no_cross_namespace_refs: bool,

    /// How long the same message is not told again; statuses are told on change only.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub rate_limit_interval: Duration,

    /// How many notifications may wait; past that senders are asked to come again.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub outbox_max_jobs: usize,

    /// How long requests under way may take to end when the process is asked to stop.
    #[arg(long, value_name = "DURATION", default_value = "8s", value_parser = duration)]
    pub shutdown_grace: Duration,

    /// Accepted for the Deployment's sake. Every replica takes events and writes the same
    /// conditions; electing one comes in a later version.
    #[arg(long, value_name = "BOOL", default_value_t = false, default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = ArgAction::Set)]
    pub enable_leader_election: bool,

    /// The least level that is logged.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,

    /// How log lines look.
    #[arg(long, value_name = "ENCODING", default_value = "json")]
    pub log_encoding: Encoding,
}

/// What to do instead of running.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Print the CustomResourceDefinitions as YAML, for `kubectl apply --server-side -f -`.
    Crds {
        /// Write each into a file of its own in this directory instead.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// A duration as Go writes it: 300ms, 1m30s, 2h.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 300ms, 1m30s or 2h");
    let span: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(span).map_err(|_| wrong())
}

/// An address to listen on; as in Go, no host means every interface.
pub fn listen_address(text: &str) -> String {
    if text.starts_with(':') { format!("[::]{text}") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peers_arguments_are_understood() {
        let cli = Cli::try_parse_from([
            "herald",
            "--watch-all-namespaces",
            "--log-level=info",
            "--log-encoding=json",
            "--enable-leader-election",
            "--no-cross-namespace-refs=false",
            "--rate-limit-interval",
            "1m30s",
        ])
        .expect("accepted");
        assert!(cli.watch_all_namespaces && cli.enable_leader_election && !cli.no_cross_namespace_refs);
        assert_eq!(cli.rate_limit_interval, Duration::from_secs(90));
    }

    #[test]
    fn addresses_without_a_host_mean_every_interface() {
        assert_eq!(listen_address(":9090"), "[::]:9090");
        assert_eq!(listen_address("127.0.0.1:9090"), "127.0.0.1:9090");
    }
}
