//! Builds every part from the flags, starts every task, and stops them in reverse order. Called
//! by `main`, and by tests with addresses of their own.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use url::{Host, Url};

use crate::cli::{Cli, OBJECT_LEVEL_WORKLOAD_IDENTITY};
use crate::clock::{Clock, SystemClock};
use crate::cluster::lease::{Claim, Election, Timing};
use crate::cluster::manifests::Manifests;
use crate::cluster::replicas::Replicas;
use crate::cluster::{self, Accounts, Connection, ObjectKind, ObjectRef, Stores, discovery, lease};
use crate::compute::Compute;
use crate::delivery::resolve::{Identities, Resolver};
use crate::delivery::troubles::{About, Troubles};
use crate::delivery::{Deadlines, Delivery};
use crate::ingest::{self, Bounds, EventServer, listen};
use crate::ops::health;
use crate::ops::metrics::Metrics;
use crate::outbound::Addresses;
use crate::outbound::auth::{AzureEnvironment, ServiceAccounts, Tokens, Uses};
use crate::outbox::{self, DurableOutbox, Limits, MemoryOutbox, Outbox};
use crate::pipeline::Pipeline;
use crate::reconcile::{ClusterWriter, Events, LogWriter, Reconciler};
use crate::vendors;
use crate::view::View;

/// Where Providers, Alerts and Secrets come from.
pub enum Source {
    /// A cluster.
    Cluster(Connection),
    /// A directory of YAML.
    Manifests(PathBuf),
}

/// A running Herald.
pub struct App {
    /// Where the events door is.
    pub events: SocketAddr,
    /// Where the probes are.
    pub health: SocketAddr,
    /// Where the metrics are.
    pub metrics_at: SocketAddr,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is known of the cluster.
    pub stores: Arc<Stores>,
    /// What is accepted and not said yet.
    pub outbox: Arc<dyn Outbox>,
    delivery: Delivery,
    stop: watch::Sender<bool>,
    door: JoinHandle<()>,
    tasks: JoinSet<()>,
    election: Option<JoinHandle<bool>>,
    /// This replica among others, and what tells it that it has left.
    replica: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

impl App {
    /// Builds and starts everything.
    ///
    /// # Errors
    /// What keeps it from starting, in words with the flag to change.
    pub async fn start(cli: &Cli, source: Source) -> anyhow::Result<Self> {
        Self::start_by(Arc::new(SystemClock), cli, source).await
    }

    /// The same by another clock: a test turns it.
    ///
    /// # Errors
    /// As [`App::start`].
    pub async fn start_by(clock: Arc<dyn Clock>, cli: &Cli, source: Source) -> anyhow::Result<Self> {
        crate::install_tls_provider();
        cli.check_election()?;
        let namespace = match (cli.watch_all_namespaces, &cli.runtime_namespace) {
            (true, _) => None,
            (false, Some(namespace)) if !namespace.is_empty() => Some(namespace.clone()),
            (false, _) => {
                anyhow::bail!("--watch-all-namespaces=false needs the namespace in RUNTIME_NAMESPACE, which is empty")
            }
        };
        for gate in &cli.feature_gates {
            tracing::info!(logger = "setup", gate = gate.name, enabled = gate.on, "loading feature gate");
        }
        let events = bind("--events-addr", &cli.events_addr).await?;
        let health_listener = bind("--health-addr", &cli.health_addr).await?;
        let metrics_listener = bind("--metrics-addr", &cli.metrics_addr).await?;

        let metrics = Arc::new(Metrics::new(cli.export_http_path_metrics));
        let accounts = match &source {
            Source::Cluster(cluster) => {
                Some(Arc::new(Accounts::new(cluster.clone().counted(metrics.clone()))) as Arc<_>)
            }
            Source::Manifests(_) => None,
        };
        let identities = identities(cli, accounts, clock.clone())?;
        tell_of_tokens(&metrics, &identities.tokens);
        let stores = Arc::new(Stores::new(cli.no_cross_namespace_refs));
        let view: Arc<dyn View> = stores.clone();
        let addresses = Addresses::allowing(&cli.allow_address);
        let resolver =
            Arc::new(Resolver::new(clock.clone(), addresses, cli.bitbucket_api_base_url.clone(), identities));
        let outbox = open_outbox(cli, matches!(source, Source::Cluster(_)), clock.clone())?;
        tell_of_outbox(&metrics, &outbox, &view, &clock);
        let deadlines = Deadlines { status: cli.delivery_deadline_status, message: cli.delivery_deadline_message };
        let (view_, resolver_) = (view.clone(), resolver.clone());
        let delivery = Delivery::new(outbox.clone(), view_, resolver_, clock.clone(), metrics.clone(), deadlines);
        let left = delivery.limits_left();
        metrics.at_scrape(
            "herald_vendor_rate_limit_remaining",
            "What a vendor last said is left of its rate limit, by host; the least of several credentials",
            ["host"],
            move || left().into_iter().map(|(host, left)| ([host], left)).collect(),
        );
        let compute = Arc::new(Compute::start().context("cannot start a thread")?);
        let pipeline = Arc::new(Pipeline {
            index: stores.index.clone(),
            view: view.clone(),
            outbox: outbox.clone(),
            delivery: delivery.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            no_cross_namespace: cli.no_cross_namespace_refs,
            compute: compute.clone(),
            dropped: Default::default(),
        });

        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let app_events = events.local_addr()?;
        let app_health = health_listener.local_addr()?;
        let metrics_at = metrics_listener.local_addr()?;
        tasks.spawn(serve_operators(
            health_listener,
            clock.clone(),
            health::probes(view.clone(), {
                let outbox = outbox.clone();
                move || outbox.unready()
            }),
        ));
        tasks.spawn(serve_operators(metrics_listener, clock.clone(), health::metrics(metrics.clone())));
        let (known, run) = (stores.clone(), delivery.clone().run());
        tasks.spawn(async move {
            // Earlier than that, the Providers of what an earlier process left would seem to be deleted.
            known.when_synced().await;
            run.await;
        });
        tasks.spawn(delivery.clone().obey());
        tasks.spawn(delivery.clone().say_unsaid());
        tasks.spawn(tell_delivery(stores.clone(), resolver.clone(), delivery.clone()));
        tasks.spawn(tell_reconcile(delivery.troubles().clone(), stores.clone()));
        let door = EventServer::new(pipeline, metrics.clone());
        let mut door_stopped = stopped.clone();
        let door = tokio::spawn(door.serve(events, async move {
            let _ = door_stopped.wait_for(|stop| *stop).await;
        }));
        let mut election = None;
        let mut replica = None;
        match source {
            Source::Manifests(dir) => {
                let manifests = Manifests::open(&dir, stores.clone(), metrics.clone())
                    .with_context(|| format!("--manifests: cannot read and follow the directory {}", dir.display()))?;
                tasks.spawn(manifests.follow());
                let writer = Arc::new(LogWriter::default());
                let troubles = delivery.troubles().clone();
                let reconciler =
                    Reconciler::new(stores.clone(), resolver, clock, writer, metrics.clone(), troubles, None);
                tasks.spawn(reconciler.run());
            }
            Source::Cluster(connection) => {
                let client = connection.counted(metrics.clone());
                let mut claim = Claim::always();
                if cli.enable_leader_election {
                    claim = Claim::sought();
                    let held = claim.clone();
                    metrics.at_scrape(
                        "leader_election_master_status",
                        "Whether this replica holds the Lease of that name: 1 if it does, else 0",
                        ["name"],
                        move || vec![([lease::NAME], u64::from(held.leads()))],
                    );
                    let candidate = candidate(cli, client.clone(), clock.clone(), claim.clone());
                    let stores = stores.clone();
                    let release = cli.leader_election_release_on_cancel;
                    let outbox = outbox.clone();
                    let elected = move || {
                        outbox.forget_said();
                        stores.reconsider();
                    };
                    election = Some(tokio::spawn(candidate.run(elected, stopped, release)));
                }
                let (leave, left) = watch::channel(false);
                let asked = outbox.clone();
                let among =
                    Replicas::new(client.clone(), &own_namespace(cli, &client), clock.clone(), move |company| {
                        asked.distrust(company);
                    });
                let (announced, ready) = tokio::sync::oneshot::channel();
                let among = tokio::spawn(async move {
                    among.announce().await;
                    let _ = announced.send(());
                    among.run(left).await;
                });
                replica = Some((leave, among));
                let (stores, metrics) = (stores.clone(), metrics.clone());
                let troubles = delivery.troubles().clone();
                tasks.spawn(async move {
                    // Until the others know of this one it must not take events.
                    let _ = ready.await;
                    loop {
                        let api = discovery::discover(&client).await;
                        let mut tasks = JoinSet::new();
                        cluster::start(&mut tasks, &client, &api, namespace.as_deref(), &stores, &metrics, &compute);
                        let (events, events_writer) =
                            Events::new(client.clone(), api.clone(), claim.clone(), clock.clone());
                        tasks.spawn(events_writer.run());
                        let writer = ClusterWriter::new(client.clone(), api.clone(), claim.clone(), events.clone());
                        let (stores, resolver, clock) = (stores.clone(), resolver.clone(), clock.clone());
                        let (metrics, troubles) = (metrics.clone(), troubles.clone());
                        let reconciler =
                            Reconciler::new(stores, resolver, clock, Arc::new(writer), metrics, troubles, Some(events));
                        tasks.spawn(reconciler.run());
                        tokio::select! {
                            // None of them ever ends.
                            _ = tasks.join_next() => return,
                            () = discovery::changed(&client, &api) => {}
                        }
                    }
                });
            }
        }
        tracing::info!(logger = "setup", events = %app_events, health = %app_health, "started");
        Ok(Self {
            events: app_events,
            health: app_health,
            metrics_at,
            metrics,
            stores,
            outbox,
            delivery,
            stop,
            door,
            tasks,
            election,
            replica,
        })
    }

    /// Stops in the order that loses least: no more events, then what is under way, then the rest.
    pub async fn shutdown(mut self, grace: Duration) {
        self.outbox.close();
        let _ = self.stop.send(true);
        self.delivery.drain(grace).await;
        if let Some(election) = self.election.take() {
            // It saw `stop` and gives the Lease back.
            let _ = tokio::time::timeout(LEASE_GRACE, election).await;
        }
        if let Some((leave, replica)) = self.replica.take() {
            let _ = leave.send(true);
            let _ = tokio::time::timeout(LEASE_GRACE, replica).await;
        }
        let held = self.outbox.counts().held;
        let lost = self.outbox.finish().await;
        if lost > 0 {
            tracing::error!(logger = "setup", lost, "the outbox is in memory: what waited is lost with the process");
        } else if held > 0 {
            tracing::info!(logger = "setup", waiting = held, "what waits is on disk and goes on with the next start");
        }
        self.door.abort();
        self.tasks.shutdown().await;
    }

    /// Runs until a part ends that never should; says which.
    pub async fn failed(&mut self) -> anyhow::Error {
        let Self { tasks, election, .. } = self;
        let lost = async {
            match election {
                Some(running) => {
                    let ended = running.await;
                    // Nobody must wait for it again.
                    *election = None;
                    ended
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = tasks.join_next() => match ended {
                Some(Err(error)) => anyhow::anyhow!("a part of Herald panicked: {error}"),
                _ => anyhow::anyhow!("a part of Herald ended that never should"),
            },
            ended = lost => match ended {
                Err(error) => anyhow::anyhow!("leader election panicked: {error}"),
                Ok(_) => anyhow::anyhow!("another replica leads now; this one starts anew"),
            },
        }
    }
}

/// What credentials are made of besides Secrets.
fn identities(
    cli: &Cli,
    accounts: Option<Arc<dyn ServiceAccounts>>,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<Identities> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let object_level = cli.gate(OBJECT_LEVEL_WORKLOAD_IDENTITY);
    let default_account = Some(cli.default_service_account.clone()).filter(|name| !name.is_empty());
    if default_account.is_some() && !object_level {
        anyhow::bail!(
            "--default-service-account needs the feature gate {OBJECT_LEVEL_WORKLOAD_IDENTITY}; add \
             --feature-gates={OBJECT_LEVEL_WORKLOAD_IDENTITY}=true"
        );
    }
    let authority = match given(&cli.azure_authority_host) {
        None => None,
        Some(text) => {
            let url = Url::parse(&text).ok().filter(|url| {
                // What goes there is as good as a password.
                let loopback = matches!(url.host(), Some(Host::Ipv4(address)) if address.is_loopback());
                url.scheme() == "https" || (url.scheme() == "http" && loopback)
            });
            Some(
                url.context("AZURE_AUTHORITY_HOST is not an https address such as https://login.microsoftonline.com/")?,
            )
        }
    };
    let azure = AzureEnvironment {
        authority,
        tenant: given(&cli.azure_tenant_id),
        client: given(&cli.azure_client_id),
        token_file: cli.azure_federated_token_file.clone().filter(|file| !file.as_os_str().is_empty()),
    };
    let max_size = usize::try_from(cli.token_cache_max_size).unwrap_or(0);
    let tokens = Arc::new(Tokens::new(clock, max_size, cli.token_cache_max_duration));
    Ok(Identities { tokens, azure, accounts, object_level, default_account })
}

fn open_outbox(cli: &Cli, with_cluster: bool, clock: Arc<dyn Clock>) -> anyhow::Result<Arc<dyn Outbox>> {
    let limits = Limits {
        jobs: cli.outbox_max_jobs,
        // The rest is for the log, and for what is not a job.
        bytes: usize::try_from(cli.outbox_max_bytes / 4 * 3).unwrap_or(usize::MAX),
        repeat_interval: cli.rate_limit_interval,
        ..Limits::default()
    };
    let Some(path) = outbox::path_of(cli.outbox_path.as_deref(), with_cluster) else {
        tracing::warn!(
            logger = "setup",
            "the outbox is in memory: what was accepted and not told yet is lost when the process ends; \
             --outbox-path keeps it in a file"
        );
        return Ok(Arc::new(MemoryOutbox::new(limits)));
    };
    let (max_bytes, retention, sync_delay) = (cli.outbox_max_bytes, cli.posted_retention, cli.outbox_sync_delay);
    let options = outbox::Options { path, max_bytes, retention, limits, sync_delay };
    Ok(Arc::new(DurableOutbox::open(options, clock)?))
}

/// How long giving the Lease back may take.
const LEASE_GRACE: Duration = Duration::from_secs(2);

/// Gauges of what is held, by state and type of Provider: how much, and how old the oldest is.
fn tell_of_outbox(metrics: &Metrics, outbox: &Arc<dyn Outbox>, view: &Arc<dyn View>, clock: &Arc<dyn Clock>) {
    let held = {
        let (outbox, view) = (outbox.clone(), view.clone());
        move || {
            // Nothing held is worth a sample too: an alert can be written on it.
            let mut held = BTreeMap::from([(["waiting", ""], (0, None)), (["under_way", ""], (0, None))]);
            for (provider, of) in outbox.held() {
                let view = view.provider_by_uid(&provider);
                let kind = view.map_or("", |view| vendors::label(&view.provider.spec.kind));
                let state = if of.under_way { "under_way" } else { "waiting" };
                let (count, oldest) = held.entry([state, kind]).or_default();
                *count += of.count as u64;
                *oldest = (*oldest).into_iter().chain([of.oldest]).min();
            }
            held
        }
    };
    let count = held.clone();
    metrics.at_scrape(
        "herald_outbox_jobs",
        "Notifications accepted and not settled, by state and type of Provider",
        ["state", "type"],
        move || count().into_iter().map(|(labels, (count, _))| (labels, count)).collect(),
    );
    let clock = clock.clone();
    metrics.at_scrape(
        "herald_outbox_oldest_seconds",
        "How long ago the oldest of them was accepted",
        ["state", "type"],
        move || {
            let age =
                |oldest: Option<Instant>| oldest.map_or(0, |at| clock.now().saturating_duration_since(at).as_secs());
            held().into_iter().map(|(labels, (_, oldest))| (labels, age(oldest))).collect()
        },
    );
}

/// The cache of tokens, under the names and labels of Flux's controller (spec/pipeline.md 6.3).
fn tell_of_tokens(metrics: &Metrics, tokens: &Arc<Tokens>) {
    let of = tokens.clone();
    metrics.counted_elsewhere(
        "gotk_token_cache_events",
        "Tokens that a Provider asked for, by whether one was there",
        ["event_type", "kind", "name", "namespace", "operation"],
        move || {
            let rows = |Uses { namespace, name, hits, misses }: Uses| {
                [("cache_hit", hits), ("cache_miss", misses)].map(|(event, count)| {
                    ([event.into(), "Provider".into(), name.clone(), namespace.clone(), "post".into()], count)
                })
            };
            let rows: Vec<([Arc<str>; 5], u64)> = of.uses().into_iter().flat_map(rows).collect();
            rows
        },
    );
    let of = tokens.clone();
    metrics.counted_elsewhere(
        "gotk_token_cache_requests",
        "Tokens asked for, by whether one was had",
        ["status"],
        move || {
            let (given, denied) = of.requests();
            vec![(["success"], given), (["failure"], denied)]
        },
    );
    let of = tokens.clone();
    metrics.counted_elsewhere(
        "gotk_token_cache_evictions",
        "Tokens that went because there was no room for them",
        [],
        move || vec![([""; 0], of.evictions())],
    );
    let of = tokens.clone();
    metrics
        .at_scrape("gotk_token_cached_items", "Tokens that are kept", [], move || vec![([""; 0], of.cached() as u64)]);
}

/// Where this replica's Leases are.
fn own_namespace(cli: &Cli, client: &kube::Client) -> String {
    match &cli.runtime_namespace {
        Some(namespace) if !namespace.is_empty() => namespace.clone(),
        _ => client.default_namespace().to_owned(),
    }
}

fn candidate(cli: &Cli, client: kube::Client, clock: Arc<dyn Clock>, claim: Claim) -> Election {
    let namespace = own_namespace(cli, &client);
    let timing = Timing {
        lease_duration: cli.leader_election_lease_duration,
        renew_deadline: cli.leader_election_renew_deadline,
        retry_period: cli.leader_election_retry_period,
    };
    Election::new(client, &namespace, timing, clock, claim)
}

/// Resolves at SIGTERM or SIGINT.
pub async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    tracing::info!(logger = "setup", "asked to stop");
}

async fn bind(flag: &str, address: &str) -> anyhow::Result<TcpListener> {
    listen(address).await.map_err(|error| {
        let hint = if error.kind() == ErrorKind::AddrInUse { "; is another process there?" } else { "" };
        anyhow::Error::new(error).context(format!("{flag}: cannot listen on {address}{hint}"))
    })
}

/// For the kubelet and a few scrapers; the time-out is that of the events door. There are more connections than they
/// need, so that the kernel's queue of silent ones (1,024) empties within one or two time-outs.
const FOR_OPERATORS: Bounds =
    Bounds { logger: "setup", connections: 1024, silence: Duration::from_secs(10), buffer: 16 << 10 };

/// Serves probes or metrics; ends only with the process.
async fn serve_operators(listener: TcpListener, clock: Arc<dyn Clock>, router: Router) {
    ingest::serve(listener, FOR_OPERATORS, clock, router, std::future::pending()).await;
}

/// Has the conditions looked at of what deliveries fail for, or work for again.
async fn tell_reconcile(troubles: Arc<Troubles>, stores: Arc<Stores>) {
    loop {
        for about in troubles.changes().await {
            let (kind, key) = match about {
                About::Alert(key) => (ObjectKind::Alert, key),
                About::Provider(key) => (ObjectKind::Provider, key),
            };
            stores.for_reconcile.add(ObjectRef { kind, key });
        }
    }
}

/// Wakes what waits for a Provider when it or a Secret of it changes, or when it is gone.
async fn tell_delivery(stores: Arc<Stores>, resolver: Arc<Resolver>, delivery: Delivery) {
    loop {
        for (key, uid) in stores.for_delivery.take().await {
            if stores.provider(&key).is_none() {
                resolver.forget(&key);
            }
            delivery.provider_changed(&uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[tokio::test]
    async fn an_election_that_cannot_work_is_no_start() {
        let flags = ["herald", "--enable-leader-election", "--leader-election-retry-period=0s"];
        let error = App::start(&Cli::parse_from(flags), Source::Manifests(PathBuf::new())).await.err();
        let said = error.expect("refused").to_string();
        assert!(said.starts_with("--leader-election-retry-period=0s"), "{said}");
    }

    #[tokio::test]
    async fn another_process_is_suspected_only_where_one_can_be() {
        let first = bind("--events-addr", "127.0.0.1:0").await.expect("a free port");
        let taken = first.local_addr().expect("it is bound").to_string();
        for (address, suspected) in [(taken.as_str(), true), ("192.0.2.1:0", false), ("nonsense", false)] {
            let error = format!("{:#}", bind("--events-addr", address).await.expect_err("it cannot listen there"));
            assert!(error.starts_with(&format!("--events-addr: cannot listen on {address}")), "{error}");
            assert_eq!(error.contains("another process"), suspected, "{error}");
        }
    }
}
