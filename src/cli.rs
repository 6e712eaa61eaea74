//! Flags and environment, under the names of Flux's notification-controller. Without a subcommand
//! the controller runs.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser, Subcommand};

use crate::ops::logging::{Encoding, LogLevel};
use crate::outbound::AddressRange;

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

    /// Where Bitbucket Cloud's API is.
    #[arg(long, env = "BITBUCKET_API_BASE_URL", hide = true)]
    pub bitbucket_api_base_url: Option<url::Url>,

    /// Connect also to these addresses, such as 127.0.0.0/8 or 169.254.10.1; may be given several times.
    /// Loopback, link-local and metadata addresses are refused otherwise: a Provider could reach the pod, its node
    /// or the cloud's credentials through Herald. Private addresses need no flag.
    #[arg(long, value_name = "CIDR")]
    pub allow_address: Vec<AddressRange>,

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

    /// The file that holds what was accepted and is not told yet. With a cluster it is
    /// /tmp/herald/outbox.db when nothing is given; without one, or when this is empty, the outbox
    /// is in memory and what waits is lost with the process.
    #[arg(long, value_name = "FILE", global = true, value_parser = any_path)]
    pub outbox_path: Option<PathBuf>,

    /// How large that file and its log may become; past that senders are asked to come again.
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = bytes)]
    pub outbox_max_bytes: u64,

    /// Added to every sync of the outbox, to try how Herald bears a slow disk.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration, hide = true)]
    pub outbox_sync_delay: Duration,

    /// How long what each status last said is kept.
    #[arg(long, value_name = "DURATION", default_value = "168h", value_parser = duration)]
    pub posted_retention: Duration,

    /// How long after its event a commit status is worth trying.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub delivery_deadline_status: Duration,

    /// How long after its event a message is worth trying.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub delivery_deadline_message: Duration,

    /// How long requests under way may take to end when the process is asked to stop.
    #[arg(long, value_name = "DURATION", default_value = "8s", value_parser = duration)]
    pub shutdown_grace: Duration,

    /// Let only one replica, elected by a Lease, write conditions. Every replica takes events.
    #[arg(long, value_name = "BOOL", default_value_t = false, default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = ArgAction::Set)]
    pub enable_leader_election: bool,

    /// Give the Lease back when the process is asked to stop.
    #[arg(long, value_name = "BOOL", default_value_t = true, default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = ArgAction::Set)]
    pub leader_election_release_on_cancel: bool,

    /// How long a Lease is worth without renewal.
    #[arg(long, value_name = "DURATION", default_value = "35s", value_parser = duration)]
    pub leader_election_lease_duration: Duration,

    /// How long a leader tries to renew before it gives up.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub leader_election_renew_deadline: Duration,

    /// Pause between tries to take or renew the Lease.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub leader_election_retry_period: Duration,

    /// Feature gates as A=true,B=false: CacheSecretsAndConfigMaps, DisableConfigWatchers,
    /// ObjectLevelWorkloadIdentity. An unknown one ends the program.
    #[arg(long, value_name = "GATES", value_delimiter = ',', value_parser = gate)]
    pub feature_gates: Vec<Gate>,

    /// Tell paths apart in the metrics of the events door; without, every one counts as `/`.
    #[arg(long, value_name = "BOOL", default_value_t = false, default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = ArgAction::Set)]
    pub export_http_path_metrics: bool,

    /// The ServiceAccount, in a Provider's namespace, whose identity is used at a cloud when the
    /// Provider names none and has no token. Needs the gate ObjectLevelWorkloadIdentity.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub default_service_account: String,

    /// How many tokens that are got from others are kept; 0 keeps none, and gets one for each
    /// request.
    #[arg(long, value_name = "N", default_value_t = 100, allow_negative_numbers = true)]
    pub token_cache_max_size: i64,

    /// How long such a token is kept at most; more than 1h is 1h.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub token_cache_max_duration: Duration,

    /// Where Entra is.
    #[arg(long, env = "AZURE_AUTHORITY_HOST", hide = true)]
    pub azure_authority_host: Option<String>,

    /// The organisation in Entra that Herald itself belongs to.
    #[arg(long, env = "AZURE_TENANT_ID", hide = true)]
    pub azure_tenant_id: Option<String>,

    /// The application in Entra that Herald itself is.
    #[arg(long, env = "AZURE_CLIENT_ID", hide = true)]
    pub azure_client_id: Option<String>,

    /// Where the kubelet keeps the token that says so.
    #[arg(long, env = "AZURE_FEDERATED_TOKEN_FILE", hide = true, value_parser = any_path)]
    pub azure_federated_token_file: Option<PathBuf>,

    #[command(flatten, next_help_heading = "Taken for the sake of Flux's Deployment; without effect")]
    #[doc(hidden)]
    pub without_effect: WithoutEffect,

    /// The least level that is logged.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,

    /// How log lines look.
    #[arg(long, value_name = "ENCODING", default_value = "json")]
    pub log_encoding: Encoding,
}

/// Flags of Flux's notification-controller for which Herald has no use: it needs no such limit, or
/// what they belong to is not built.
#[derive(Clone, Debug, clap::Args)]
#[expect(missing_docs, reason = "their names are all there is to them")]
pub struct WithoutEffect {
    #[arg(long, default_value_t = 4, hide_short_help = true)]
    pub concurrent: u32,
    #[arg(long, default_value = "750ms", value_parser = duration, hide_short_help = true)]
    pub min_retry_delay: Duration,
    #[arg(long, default_value = "15m", value_parser = duration, hide_short_help = true)]
    pub max_retry_delay: Duration,
    #[arg(long, default_value_t = 50.0, hide_short_help = true)]
    pub kube_api_qps: f32,
    #[arg(long, default_value_t = 300, hide_short_help = true)]
    pub kube_api_burst: u32,
    #[arg(long, default_value = "reconcile.fluxcd.io/watch=Enabled", hide_short_help = true)]
    pub watch_configs_label_selector: String,
}

/// A feature gate and whether it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Its name.
    pub name: &'static str,
    /// On or off.
    pub on: bool,
}

/// The gates of Flux's notification-controller.
const GATES: [&str; 3] = ["CacheSecretsAndConfigMaps", "DisableConfigWatchers", OBJECT_LEVEL_WORKLOAD_IDENTITY];

/// The gate that lets a Provider name a ServiceAccount.
pub const OBJECT_LEVEL_WORKLOAD_IDENTITY: &str = "ObjectLevelWorkloadIdentity";

fn gate(text: &str) -> Result<Gate, String> {
    let (name, on) = text.split_once('=').ok_or_else(|| format!("{text:?} is not of the form NAME=true"))?;
    let known = GATES.into_iter().find(|known| *known == name.trim());
    let name = known.ok_or_else(|| format!("there is no feature gate {name:?}; known are {}", GATES.join(", ")))?;
    let on = on.trim().parse().map_err(|_| format!("{name} can be true or false, not {on:?}"))?;
    Ok(Gate { name, on })
}

impl Cli {
    /// Whether a feature gate is on; the last word on it counts.
    pub fn gate(&self, name: &str) -> bool {
        self.feature_gates.iter().rfind(|gate| gate.name == name).is_some_and(|gate| gate.on)
    }

    /// Whether the durations of leader election go together, by client-go's rules: a leader that gave up late would lead
    /// beside the next one, and no pause between tries is a load on the API server. Without election they play no part.
    ///
    /// # Errors
    /// Which flag has to change, and why.
    pub fn check_election(&self) -> Result<(), ElectionError> {
        let (lease, renew) = (self.leader_election_lease_duration, self.leader_election_renew_deadline);
        let retry = self.leader_election_retry_period;
        if !self.enable_leader_election {
            return Ok(());
        }
        if retry.is_zero() {
            return Err(ElectionError::NoPause);
        }
        if renew.as_nanos() * 10 <= retry.as_nanos() * 12 {
            return Err(ElectionError::ShortDeadline { renew, retry });
        }
        if lease <= renew {
            return Err(ElectionError::ShortLease { lease, renew });
        }
        Ok(())
    }
}

/// Durations of leader election that cannot work; names the flag to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElectionError {
    /// No pause between tries is a load on the API server.
    #[error("--leader-election-retry-period=0s is no pause; it must be longer")]
    NoPause,
    /// A leader has too little time to renew its Lease.
    #[error(
        "--leader-election-renew-deadline={renew:?} must be longer than 1.2 times --leader-election-retry-period={retry:?}"
    )]
    ShortDeadline {
        /// How long a leader tries to renew.
        renew: Duration,
        /// The pause between tries.
        retry: Duration,
    },
    /// A leader would give up after the Lease had ended.
    #[error(
        "--leader-election-lease-duration={lease:?} must be longer than --leader-election-renew-deadline={renew:?}"
    )]
    ShortLease {
        /// How long the Lease holds.
        lease: Duration,
        /// How long a leader tries to renew.
        renew: Duration,
    },
}

/// What to do instead of running.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Look at what waits to be told, and change it.
    #[command(subcommand)]
    Outbox(OutboxCommand),

    /// Print the CustomResourceDefinitions as YAML, for `kubectl apply --server-side -f -`.
    Crds {
        /// Write each into a file of its own in this directory instead.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// What to do with the outbox. A running controller is not disturbed.
#[derive(Clone, Debug, Subcommand)]
pub enum OutboxCommand {
    /// List what waits: how long, how often it was tried, when it is tried again, and why it waits. `its turn`: as soon
    /// as others at the same vendor were told; what holds all of a Provider stands in its condition `Healthy`.
    Ls,
    /// Show one job whole.
    Show {
        /// Its number, from `ls`.
        job: u64,
    },
    /// Try one job now instead of when it is due, although its like was refused: for when that was mended at the
    /// vendor. What the vendor asked to wait for is waited for.
    Retry {
        /// Its number, from `ls`.
        job: u64,
    },
    /// Give one job up. What it says is told to nobody.
    Drop {
        /// Its number, from `ls`.
        job: u64,
    },
}

/// A duration as Go writes it: 300ms, 1m30s, 2h.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 300ms, 1m30s or 2h");
    let span: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(span).map_err(|_| wrong())
}

/// A path; an empty one means something too.
#[expect(clippy::unnecessary_wraps, reason = "clap asks for it")]
fn any_path(text: &str) -> Result<PathBuf, String> {
    Ok(text.into())
}

/// A number of bytes: 1048576, 512KiB, 256MiB, 1GiB.
fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a number of bytes such as 1048576, 512KiB, 256MiB or 1GiB");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "" => 1,
        "KiB" | "Ki" => 1 << 10,
        "MiB" | "Mi" => 1 << 20,
        "GiB" | "Gi" => 1 << 30,
        _ => return Err(wrong()),
    };
    digits.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)
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
    fn durations_of_an_election_go_together_or_the_flag_is_named() {
        let check = |election: bool, [lease, renew, retry]: [&str; 3]| {
            let flags = [
                format!("--enable-leader-election={election}"),
                format!("--leader-election-lease-duration={lease}"),
                format!("--leader-election-renew-deadline={renew}"),
                format!("--leader-election-retry-period={retry}"),
            ];
            Cli::try_parse_from(["herald".to_owned()].into_iter().chain(flags)).expect("accepted").check_election()
        };
        for (durations, wrong) in [
            (["35s", "30s", "5s"], None),
            (["15s", "10s", "2s"], None),
            (["2s", "1.2001s", "1s"], None),
            (["120s", "60s", "1ms"], None),
            (["35s", "30s", "0s"], Some("retry-period")),
            (["0s", "0s", "0s"], Some("retry-period")),
            (["35s", "0s", "5s"], Some("renew-deadline")),
            (["35s", "5s", "5s"], Some("renew-deadline")),
            (["35s", "6s", "5s"], Some("renew-deadline")),
            (["30s", "30s", "5s"], Some("lease-duration")),
            (["0s", "30s", "5s"], Some("lease-duration")),
            (["35s", "36s", "5s"], Some("lease-duration")),
        ] {
            let said = check(true, durations).err().map(|error| error.to_string());
            let named = said.as_deref().map(|said| said.split('=').next().unwrap_or_default());
            assert_eq!(named, wrong.map(|flag| format!("--leader-election-{flag}")).as_deref(), "{durations:?}");
            assert_eq!(check(false, durations), Ok(()), "{durations:?} without election");
        }
        Cli::parse_from(["herald", "--enable-leader-election"]).check_election().expect("the defaults work");
    }

    #[test]
    fn every_flag_of_the_peer_is_taken() {
        Cli::try_parse_from([
            "herald",
            "--events-addr=:9090",
            "--receiverAddr=:9292",
            "--metrics-addr=:8080",
            "--health-addr=:9440",
            "--concurrent=4",
            "--rate-limit-interval=5m",
            "--no-cross-namespace-refs",
            "--watch-all-namespaces=true",
            "--watch-configs-label-selector=a=b",
            "--export-http-path-metrics",
            "--default-service-account=",
            "--enable-leader-election",
            "--leader-election-release-on-cancel=false",
            "--leader-election-lease-duration=35s",
            "--leader-election-renew-deadline=30s",
            "--leader-election-retry-period=5s",
            "--min-retry-delay=750ms",
            "--max-retry-delay=15m",
            "--kube-api-qps=50",
            "--kube-api-burst=300",
            "--log-level=trace",
            "--log-encoding=console",
            "--feature-gates=CacheSecretsAndConfigMaps=true,ObjectLevelWorkloadIdentity=false",
            "--token-cache-max-size=0",
            "--token-cache-max-duration=1h",
        ])
        .expect("accepted");
    }

    #[test]
    fn the_outbox_path_may_be_empty_and_given_to_the_subcommand() {
        let path = |args: &[&str]| Cli::try_parse_from([&["herald"], args].concat()).expect("accepted").outbox_path;
        assert_eq!(path(&["--outbox-path="]), Some(PathBuf::new()));
        assert_eq!(path(&["outbox", "ls", "--outbox-path", "x.db"]), Some("x.db".into()));
        assert_eq!(path(&[]), None);
    }

    #[test]
    fn numbers_of_bytes() {
        assert_eq!(bytes("1048576"), Ok(1 << 20));
        assert_eq!(bytes("256MiB"), Ok(256 << 20));
        assert_eq!(bytes("1Gi"), Ok(1 << 30));
        for wrong in ["", "MiB", "1.5MiB", "-1", "1MB", "99999999999GiB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_unknown_feature_gate_is_an_error_that_names_the_known() {
        let error = Cli::try_parse_from(["herald", "--feature-gates=Nonsense=true"]).expect_err("refused");
        assert!(error.to_string().contains("ObjectLevelWorkloadIdentity"), "{error}");
    }
}
