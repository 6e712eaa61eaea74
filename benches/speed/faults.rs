//! What senders notice of a vendor that fails or takes its time and of a disk that does: whether
//! anything is lost, and how long an answer takes.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;

use super::events;
use super::programs::Program;
use super::table::{Table, percentile};
use super::traffic::{EVENTS, Manner, Run, Traffic, Vendor};

/// Events a second.
const RATE: f64 = 1_000.0;

/// Events told to a vendor that fails.
const TO_FAILING: usize = 3_000;

/// One of so many of its writes fails.
const FAILS_EVERY: usize = 3;

/// Events of a run of five seconds, where answers are looked at.
const ANSWERED: usize = 5_000;

/// Senders, each of which waits for its answer: as many as keep the rate while answers take 64 ms.
const SENDERS: usize = 64;

/// What a slow vendor takes for every answer.
const TAKES: Duration = Duration::from_secs(2);

/// What is added to every sync of a slow disk.
const SYNC: Duration = Duration::from_millis(20);

/// What 99 of 100 answers may take, in milliseconds.
const ANSWER: f64 = 60.0;

/// A type of Provider and the address of one, at a host.
const KINDS: [(&str, &str); 3] = [("github", "/acme/fleet"), ("gitlab", "/acme/fleet"), ("generic", EVENTS)];

/// Adds the rows about faults.
pub async fn measure(table: &mut Table) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    for (kind, path) in KINDS {
        measure_failing(kind, path, scratch.path(), table).await?;
    }
    measure_slow_vendors(scratch.path(), table).await?;
    measure_disk(SYNC, scratch.path(), table).await?;
    measure_disk(Duration::ZERO, scratch.path(), table).await
}

/// A vendor that answers some of its writes with 500: what of the events comes to nothing, and when the
/// last is told. A write that fails is tried again after a growing pause.
async fn measure_failing(kind: &str, path: &str, scratch: &Path, table: &mut Table) -> anyhow::Result<()> {
    eprintln!("{TO_FAILING} events to {kind}, which fails");
    let vendor = Vendor::with(Manner { fails_every: Some(FAILS_EVERY), ..Manner::default() }).await?;
    let manifests = scratch.join(format!("failing-{kind}"));
    events::write_one(&manifests, kind, kind, &format!("http://{}{path}", vendor.address), "")?;
    let program = Program::herald(None, &manifests).await?;
    let mut traffic = Traffic::new(&vendor, SENDERS);
    let run = traffic.drive(program.door, TO_FAILING, Some(RATE)).await?;
    // For two writes that work there is one that does not.
    ensure!(vendor.failed() >= run.deliveries.len() / FAILS_EVERY, "only {} writes failed", vendor.failed());
    traffic.judge(&format!("every third write answered 500, {kind}: events refused, lost or told twice"), table);
    let slowest = run.deliveries.iter().max().copied().unwrap_or_default();
    table.told("  event to the vendor's write, slowest", format!("{:.1} s", slowest.as_secs_f64()));
    table.told("  writes answered 500", vendor.failed().to_string());
    Ok(())
}

/// All vendors take their time: nobody who sends notices.
async fn measure_slow_vendors(scratch: &Path, table: &mut Table) -> anyhow::Result<()> {
    eprintln!("{ANSWERED} events to vendors that take {TAKES:?}");
    let vendor = Vendor::with(Manner { takes: TAKES, ..Manner::default() }).await?;
    let manifests = scratch.join("slow-vendors");
    for (kind, path) in KINDS {
        events::write_one(&manifests, kind, kind, &format!("http://{}{path}", vendor.address), "")?;
    }
    let program = Program::herald(None, &manifests).await?;
    let mut traffic = Traffic::new(&vendor, SENDERS);
    // Waiting for all would take twenty minutes.
    traffic.patience = Duration::ZERO;
    let run = traffic.drive(program.door, ANSWERED, Some(RATE)).await?;
    show_answers(&format!("vendors take {TAKES:?}, {RATE} events a second"), &traffic, run, table)
}

/// The disk takes so much longer: whoever sends waits for the sync that runs, and for the next, which is its
/// own. Without it is what the machine makes of the same events.
async fn measure_disk(longer: Duration, scratch: &Path, table: &mut Table) -> anyhow::Result<()> {
    eprintln!("{ANSWERED} events with a sync that takes {longer:?} longer");
    let vendor = Vendor::start().await?;
    let manifests = scratch.join(format!("disk-{longer:?}"));
    events::write_one(&manifests, "fleet", "github", &format!("http://{}/acme/fleet", vendor.address), "")?;
    let delay = format!("--outbox-sync-delay={}ms", longer.as_millis());
    let program = Program::herald_with(None, &manifests, &[&delay]).await?;
    let mut traffic = Traffic::new(&vendor, SENDERS);
    let run = traffic.drive(program.door, ANSWERED, Some(RATE)).await?;
    let fastest = run.answers.iter().min().copied().unwrap_or_default();
    ensure!(fastest >= longer, "an answer after {fastest:?}: the sync was not slowed");
    let what = if longer.is_zero() { "nothing slowed".to_owned() } else { format!("sync slowed by {longer:?}") };
    show_answers(&format!("{what}, {RATE} events a second"), &traffic, run, table)?;
    traffic.judge("  events refused, lost or told twice", table);
    Ok(())
}

/// How long the answers of a run took.
fn show_answers(what: &str, traffic: &Traffic<'_>, mut run: Run, table: &mut Table) -> anyhow::Result<()> {
    ensure!(traffic.refused < traffic.sent, "none of {} events was accepted", traffic.sent);
    let ms = |times: &mut [Duration], part| percentile(times, part).as_secs_f64() * 1e3;
    let [p50, p99] = [0.5, 0.99].map(|part| ms(&mut run.answers, part));
    let most = ms(&mut run.answers, 1.0);
    table.judged(format!("{what}: event to answer, p99"), format!("{p99:.1} ms"), p99, ANSWER, format!("{ANSWER} ms"));
    table.told("  p50 and slowest", format!("{p50:.1} and {most:.1} ms"));
    // The answers of senders that were late would otherwise look better than they are.
    let p99 = ms(&mut run.answers_since_due, 0.99);
    table.told("  from when the event was due, p99", format!("{p99:.1} ms"));
    table.judged(
        "  events not answered 202",
        format!("{} of {}", traffic.refused, traffic.sent),
        traffic.refused as f64,
        0.0,
        "none",
    );
    Ok(())
}
