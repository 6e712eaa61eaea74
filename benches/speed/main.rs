//! What an event costs: one table of measured values beside the limits they are held to. Run by
//! `cargo bench`; `benches/README.md` says how to read the table.
//!
//! A missed limit fails nothing: how busy a machine is would decide the colour of a build. What
//! does fail is a run that measured nothing, such as a program that does not start.

mod bounds;
mod burst;
mod cluster;
mod events;
mod faults;
mod matching;
mod memory;
mod outbox;
mod programs;
mod relay;
mod table;
mod traffic;

#[path = "../../tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};

use self::programs::Program;
use self::table::{Spread, Table};
use self::traffic::{Traffic, Vendor};

/// The same allocator as the program's, for the relay's and the index' sake.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The whole run; a machine that needs longer is too busy to measure on.
const DEADLINE: Duration = Duration::from_secs(600);

/// How long programs are left alone before their memory is read: jemalloc gives pages back after
/// ten seconds.
const SETTLE: Duration = Duration::from_secs(11);

/// Herald's large set of objects.
const MANY_ALERTS: usize = 5_000;

/// See [`MANY_ALERTS`].
const MANY_PROVIDERS: usize = 500;

/// Events after which memory is read in `traffic`, besides before the first and after the last; in
/// `memory`, what is shown of the readings.
const GROWN: usize = 20_000;

/// Measures Herald and prints one table.
#[derive(Clone, Debug, Parser)]
struct Options {
    /// What to measure; everything but `cluster` when none is named.
    parts: Vec<Part>,

    /// Rounds of traffic for each program, after one that is not counted.
    #[arg(long, default_value_t = 75)]
    rounds: usize,

    /// Events in a round.
    #[arg(long, default_value_t = 1_500)]
    events: usize,

    /// Events a second where latency is measured.
    #[arg(long, default_value_t = 500.0)]
    rate: f64,

    /// Events over which memory is watched.
    #[arg(long, default_value_t = 200_000)]
    told: usize,

    /// Keep-alive connections that events come on.
    #[arg(long, default_value_t = 32)]
    senders: usize,

    /// Another build of Herald, to be measured beside this one.
    #[arg(long, value_name = "PROGRAM")]
    beside: Option<PathBuf>,

    /// Be the bare relay in front of this vendor.
    #[arg(long, hide = true)]
    relay: Option<SocketAddr>,

    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Finding the Alerts that want an event.
    Matching,
    /// Putting notifications on disk.
    Outbox,
    /// Events from the door to the vendor.
    Traffic,
    /// Resident memory: at rest, and over many events.
    Memory,
    /// Many objects on one commit, at a vendor that takes its time.
    Burst,
    /// Events while a vendor fails or takes its time, and while the disk does.
    Faults,
    /// Memory at its worst, and with many expressions.
    Bounds,
    /// Memory and start on a real kube-apiserver with many Alerts; builds the test servers at first.
    Cluster,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    herald::install_tls_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let Some(vendor) = options.relay {
        return runtime.block_on(relay::run(vendor));
    }
    let wanted = |part| options.parts.is_empty() || options.parts.contains(&part);
    let mut table = Table::default();
    if wanted(Part::Matching) {
        matching::measure(&mut table);
    }
    if wanted(Part::Outbox) {
        runtime.block_on(outbox::measure(&mut table))?;
    }
    if wanted(Part::Traffic) || wanted(Part::Memory) {
        let programs = measure_programs(&options, wanted(Part::Traffic), wanted(Part::Memory), &mut table);
        runtime.block_on(async { tokio::time::timeout(DEADLINE, programs).await })??;
    }
    if wanted(Part::Burst) {
        let burst = burst::measure(&options, &mut table);
        runtime.block_on(async { tokio::time::timeout(DEADLINE, burst).await })??;
    }
    if wanted(Part::Faults) {
        let faults = faults::measure(&mut table);
        runtime.block_on(async { tokio::time::timeout(DEADLINE, faults).await })??;
    }
    if wanted(Part::Bounds) {
        let bounds = bounds::measure(&mut table);
        runtime.block_on(async { tokio::time::timeout(DEADLINE, bounds).await })??;
    }
    if options.parts.contains(&Part::Cluster) {
        let cluster = cluster::measure(&options, &mut table);
        runtime.block_on(async { tokio::time::timeout(DEADLINE, cluster).await })??;
    }
    println!("{table}");
    Ok(())
}

/// The programs that traffic goes through, in the order of their turns.
struct Programs {
    /// Herald with one Alert on everything.
    one: Program,
    /// The least that does the same.
    relay: Program,
    /// Herald with [`MANY_ALERTS`].
    many: Program,
    /// Another build of Herald, with one Alert.
    other: Option<Program>,
}

/// Herald as it is deployed, beside the bare relay.
async fn measure_programs(options: &Options, traffic: bool, memory: bool, table: &mut Table) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    let vendor = Vendor::start().await?;

    eprintln!("starting the programs");
    let start = async |name: &str, build: Option<&Path>, alerts, providers| {
        let manifests = scratch.path().join(name);
        events::write_manifests(&manifests, vendor.address, alerts, providers)?;
        Program::herald(build, &manifests).await
    };
    let idle = start("idle", None, 0, 0).await?;
    let programs = Programs {
        one: start("one", None, 1, 1).await?,
        relay: Program::relay(scratch.path(), vendor.address).await?,
        many: start("many", None, MANY_ALERTS, MANY_PROVIDERS).await?,
        other: match &options.beside {
            Some(build) => Some(start("other", Some(build), 1, 1).await?),
            None => None,
        },
    };
    if memory {
        eprintln!("letting them come to rest");
        tokio::time::sleep(SETTLE).await;
        let resident = idle.resident()?;
        table.judged("memory, no Alerts", format!("{resident:.1} MiB"), resident, 16.0, "16 MiB");
        let resident = programs.many.resident()?;
        let what = format!("memory, {MANY_ALERTS} Alerts and {MANY_PROVIDERS} Providers");
        table.judged(what, format!("{resident:.1} MiB"), resident, 40.0, "40 MiB");
        memory::measure(options, scratch.path(), &vendor, table).await?;
    }
    drop(idle);
    if traffic {
        let mut traffic = Traffic::new(&vendor, options.senders);
        measure_cost(options, &mut traffic, &programs, table).await?;
        measure_latency(options, &mut traffic, &programs, table).await?;
        traffic.judge("events refused, lost or told twice", table);
    }
    Ok(())
}

/// CPU per event and events per second, with as many events under way as the senders can keep up.
async fn measure_cost(
    options: &Options,
    traffic: &mut Traffic<'_>,
    programs: &Programs,
    table: &mut Table,
) -> anyhow::Result<()> {
    let Programs { one, relay, many, other } = programs;
    let turns: Vec<&Program> = [one, relay, many].into_iter().chain(other).collect();
    let mut cost = vec![Vec::new(); turns.len()];
    let mut speed = vec![Vec::new(); turns.len()];
    eprintln!("{} rounds of {} events for each of {} programs", options.rounds, options.events, turns.len());
    let mut grown = vec![(0, one.resident()?, many.resident()?)];
    for round in 0..=options.rounds {
        // Whose turn comes first differs from round to round.
        for number in (0..turns.len()).map(|turn| (turn + round) % turns.len()) {
            let program = turns[number];
            let before = program.cpu()?;
            let run = traffic.drive(program.door, options.events, None).await?;
            let spent = program.cpu()? - before;
            // The first round opens connections and fills caches.
            if round > 0 {
                cost[number].push(spent.as_secs_f64() * 1e6 / options.events as f64);
                speed[number].push(options.events as f64 / run.elapsed.as_secs_f64());
            }
        }
        let told = (round + 1) * options.events;
        if round == options.rounds || (told >= GROWN && told - options.events < GROWN) {
            grown.push((told, one.resident()?, many.resident()?));
        }
    }
    let us = |number: usize| format!("{:.0} us", Spread::of(&cost[number]));
    let over_relay = Spread::of_ratios(&cost[0], &cost[1]);
    let what = "CPU per event, door to vendor, beside a bare relay";
    table.judged(what, format!("{over_relay:.2} times"), over_relay.median, 1.8, "1.8 times");
    table.told("  of Herald", us(0));
    table.told("  of the bare relay", us(1));
    let what = format!("CPU per event, {MANY_ALERTS} Alerts at {MANY_PROVIDERS} Providers beside 1 at 1");
    table.told(what, format!("{:.2} times", Spread::of_ratios(&cost[2], &cost[0])));
    table.told(format!("  of Herald with {MANY_ALERTS} Alerts"), us(2));
    if other.is_some() {
        table.told(
            "CPU per event beside the other build",
            format!("{:.2} times", Spread::of_ratios(&cost[0], &cost[3])),
        );
        table.told("  of the other build", us(3));
    }
    let names = ["events delivered a second", "  by the bare relay", &format!("  by Herald with {MANY_ALERTS} Alerts")];
    for (name, speed) in names.into_iter().chain(["  by the other build"]).zip(&speed) {
        table.told(name, format!("{:.0}", Spread::of(speed)));
    }
    for (told, one, many) in grown {
        let what = format!("memory after {told} events, 1 Alert and {MANY_ALERTS}");
        table.told(what, format!("{one:.1} and {many:.1} MiB"));
    }
    Ok(())
}

/// Latency at a rate that leaves the machine idle most of the time.
async fn measure_latency(
    options: &Options,
    traffic: &mut Traffic<'_>,
    programs: &Programs,
    table: &mut Table,
) -> anyhow::Result<()> {
    const ROUNDS: usize = 3;
    const SECONDS: f64 = 2.0;
    eprintln!("latency at {} events a second", options.rate);
    let events = (options.rate * SECONDS).ceil() as usize;
    let mut answers = [const { Vec::new() }; 2];
    let mut deliveries = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        for (number, program) in [&programs.one, &programs.relay].into_iter().enumerate() {
            let run = traffic.drive(program.door, events, Some(options.rate)).await?;
            answers[number].extend(run.answers);
            deliveries[number].extend(run.deliveries);
        }
    }
    for (what, times) in [("event to answer", &mut answers), ("event to the vendor's write", &mut deliveries)] {
        let names = [format!("{what}, p50 and p99, {} a second", options.rate), "  of the bare relay".to_owned()];
        for (name, times) in names.into_iter().zip(times) {
            let [p50, p99] = [0.5, 0.99].map(|part| table::percentile(times, part).as_secs_f64() * 1e3);
            table.told(name, format!("{p50:.2} and {p99:.2} ms"));
        }
    }
    Ok(())
}
