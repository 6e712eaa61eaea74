//! Whether memory stays where it is: the real program over many events, each of which becomes a
//! status in a place of its own and a message, which fills everything that Herald remembers.

use std::path::Path;

use herald::outbox::Limits;

use super::programs::Program;
use super::table::Table;
use super::traffic::{MESSAGES, Traffic, Vendor};
use super::{GROWN, Options, events};

/// Events of one run; memory is read after each.
const STEP: usize = 10_000;

/// Adds the rows about memory over many events.
pub async fn measure(options: &Options, scratch: &Path, vendor: &Vendor, table: &mut Table) -> anyhow::Result<()> {
    let manifests = scratch.join("memory");
    events::write_manifests(&manifests, vendor.address, 1, 1)?;
    events::write_one(&manifests, "messages", "generic", &format!("http://{}{MESSAGES}", vendor.address), "")?;
    let program = Program::herald(None, &manifests).await?;
    let mut traffic = Traffic::new(vendor, options.senders);
    traffic.messages = true;
    eprintln!("{} events, each a status and a message", options.told);
    // After so many events, so many MiB.
    let mut read = vec![(0, program.resident()?)];
    while traffic.sent < options.told {
        traffic.drive(program.door, STEP, None).await?;
        read.push((traffic.sent, program.resident()?));
    }
    let mean = |from: usize, to: usize| {
        let within: Vec<f64> = read.iter().filter(|(told, _)| (from + 1..=to).contains(told)).map(|is| is.1).collect();
        (!within.is_empty()).then(|| within.iter().sum::<f64>() / within.len() as f64)
    };
    let shown: Vec<String> =
        read.iter().filter(|(told, _)| told % GROWN == 0).map(|(_, resident)| format!("{resident:.0}")).collect();
    let what = format!("memory after each {GROWN} of {} events, each a status and a message", traffic.sent);
    table.told(what, format!("{} MiB", shown.join(" ")));
    if let (Some(before), Some(after)) = (mean(40_000, 50_000), mean(90_000, 100_000)) {
        let grown = after - before;
        let percent = grown / before * 100.0;
        table.told("  grown between the events 50000 and 100000", format!("{grown:.1} MiB, {percent:.0} %"));
    }
    let full = Limits::default().memory;
    if let (Some(before), Some(after)) = (mean(full, traffic.sent / 2), mean(traffic.sent / 2, traffic.sent)) {
        let what = format!("  its second half beside the events {full} to {}", traffic.sent / 2);
        table.judged(what, format!("{:.2} times", after / before), after / before, 1.1, "1.1 times");
    }
    traffic.judge("  events refused, lost or told twice", table);
    Ok(())
}
