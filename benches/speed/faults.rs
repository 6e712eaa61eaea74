//! What senders notice of a vendor that fails or takes its time and of a disk that does: whether
//! anything is lost, and how long an answer takes.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use futures::future::try_join_all;

use super::events;
use super::programs::Program;
use super::table::{Spread, Table, percentile};
use super::traffic::{EVENTS, Manner, Run, Traffic, Vendor};

/// Events told to each vendor that fails, and how many a second.
const TO_FAILING: usize = 3_000;

/// See [`TO_FAILING`]. Three vendors have it at the same time.
const FAILING_RATE: f64 = 500.0;

/// One of so many of its writes fails.
const FAILS_EVERY: usize = 3;

/// Events a second where answers are looked at.
const RATE: f64 = 1_000.0;

/// Events of a round: five seconds.
const EVENTS_A_ROUND: usize = 5_000;

/// Rounds; in each every slowness has its turn.
const ROUNDS: usize = 3;

/// Senders, each of which waits for its answer: as many as keep the rate while answers take 64 ms.
const SENDERS: usize = 64;

/// What 99 of 100 answers may take, in milliseconds.
const ANSWER: f64 = 60.0;

/// A type of Provider and the path of its address.
const KINDS: [(&str, &str); 3] = [("github", "/acme/fleet"), ("gitlab", "/acme/fleet"), ("generic", EVENTS)];

/// What is slow; `default` is nothing.
#[derive(Clone, Copy, Default)]
struct Slow {
    /// What all vendors take for every answer.
    vendors: Duration,
    /// What is added to every sync.
    disk: Duration,
}

/// Adds the rows about faults.
pub async fn measure(table: &mut Table) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    measure_failing(scratch.path(), table).await?;
    measure_slow(scratch.path(), table).await
}

/// Vendors that answer some of their writes with 500: what of the events comes to nothing, and when the
/// last is told. A write that fails is tried again after a growing pause. Herald and vendor are others for
/// each type; most of their time is pauses, so they have it together.
async fn measure_failing(scratch: &Path, table: &mut Table) -> anyhow::Result<()> {
    eprintln!("{TO_FAILING} events to each of three vendors that fail");
    let mut vendors = Vec::new();
    for _ in KINDS {
        vendors.push(Vendor::with(Manner { fails_every: Some(FAILS_EVERY), ..Manner::default() }).await?);
    }
    let runs = KINDS.iter().zip(&vendors).map(async |((kind, path), vendor)| {
        let manifests = scratch.join(format!("failing-{kind}"));
        events::write_one(&manifests, kind, kind, &format!("http://{}{path}", vendor.address), "")?;
        let program = Program::herald(None, &manifests).await?;
        let mut traffic = Traffic::new(vendor, SENDERS);
        let run = traffic.drive(program.door, TO_FAILING, Some(FAILING_RATE)).await?;
        anyhow::Ok((traffic, run))
    });
    let runs = try_join_all(runs).await?;
    for (((kind, _), vendor), (traffic, run)) in KINDS.iter().zip(&vendors).zip(runs) {
        // For two writes that work there is one that does not.
        ensure!(vendor.failed() >= run.deliveries.len() / FAILS_EVERY, "only {} writes failed", vendor.failed());
        traffic.judge(&format!("every third write answered 500, {kind}: events refused, lost or told twice"), table);
        let slowest = run.deliveries.iter().max().copied().unwrap_or_default();
        table.told("  event to the vendor's write, slowest", format!("{:.1} s", slowest.as_secs_f64()));
        table.told("  writes answered 500", vendor.failed().to_string());
    }
    Ok(())
}

/// Vendors or the disk take their time: how long those who send wait for their answers. Of vendors they
/// notice nothing. Of the disk they wait for the sync that runs, and for the next, which is their own.
async fn measure_slow(scratch: &Path, table: &mut Table) -> anyhow::Result<()> {
    let (vendors, disk) = (Duration::from_secs(2), Duration::from_millis(20));
    let turns = [
        (format!("vendors take {vendors:?}"), Slow { vendors, ..Slow::default() }),
        (format!("sync slowed by {disk:?}"), Slow { disk, ..Slow::default() }),
        ("nothing slowed".to_owned(), Slow::default()),
    ];
    let mut answers = turns.each_ref().map(|_| Answers::default());
    for round in 0..ROUNDS {
        for (number, (what, slow)) in turns.iter().enumerate() {
            eprintln!("{EVENTS_A_ROUND} events, {what}");
            let scratch = scratch.join(format!("slow-{number}-{round}"));
            answers[number].measure(*slow, &scratch).await?;
        }
    }
    for ((what, _), answers) in turns.iter().zip(&answers) {
        answers.show(what, table);
    }
    Ok(())
}

/// How long answers took; one value for each round, in milliseconds.
#[derive(Default)]
struct Answers {
    p50: Vec<f64>,
    p99: Vec<f64>,
    slowest: Vec<f64>,
    /// From when the event was to be sent. The answers of senders that were late would otherwise look
    /// better than they are.
    since_due: Vec<f64>,
    refused: usize,
    sent: usize,
}

impl Answers {
    /// One round, with a Herald of its own.
    async fn measure(&mut self, slow: Slow, manifests: &Path) -> anyhow::Result<()> {
        let vendor = Vendor::with(Manner { takes: slow.vendors, ..Manner::default() }).await?;
        for (kind, path) in KINDS {
            events::write_one(manifests, kind, kind, &format!("http://{}{path}", vendor.address), "")?;
        }
        let delay = format!("--outbox-sync-delay={}ms", slow.disk.as_millis());
        let program = Program::herald_with(None, manifests, &[&delay]).await?;
        let mut traffic = Traffic::new(&vendor, SENDERS);
        // What goes on after the last answer is not looked at; at slow vendors it would take twenty minutes.
        traffic.patience = Duration::ZERO;
        let Run { mut answers, mut answers_since_due, mut deliveries, .. } =
            traffic.drive(program.door, EVENTS_A_ROUND, Some(RATE)).await?;
        ensure!(traffic.refused < traffic.sent, "none of {} events was accepted", traffic.sent);
        let ms = |times: &mut [Duration], part| percentile(times, part).as_secs_f64() * 1e3;
        for (what, times, slow) in [("answer", &mut answers, slow.disk), ("write", &mut deliveries, slow.vendors)] {
            let fastest = ms(times, 0.0);
            ensure!(fastest >= slow.as_secs_f64() * 1e3, "{what} after {fastest} ms: nothing was slowed by {slow:?}");
        }
        self.p50.push(ms(&mut answers, 0.5));
        self.p99.push(ms(&mut answers, 0.99));
        self.slowest.push(ms(&mut answers, 1.0));
        self.since_due.push(ms(&mut answers_since_due, 0.99));
        self.refused += traffic.refused;
        self.sent += traffic.sent;
        Ok(())
    }

    fn show(&self, what: &str, table: &mut Table) {
        let ms = |values: &[f64]| format!("{:.1} ms", Spread::of(values));
        let what = format!("{what}, {RATE} events a second: event to answer, p99");
        table.judged(what, ms(&self.p99), Spread::of(&self.p99).median, ANSWER, format!("{ANSWER} ms"));
        table.told("  p50", ms(&self.p50));
        table.told("  slowest", ms(&self.slowest));
        table.told("  from when the event was due, p99", ms(&self.since_due));
        let refused = format!("{} of {}", self.refused, self.sent);
        table.judged("  events not answered 202", refused, self.refused as f64, 0.0, "none");
    }
}
