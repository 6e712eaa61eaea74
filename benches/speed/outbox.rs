//! What a promise costs: notifications put on disk, by how many callers wait at the same time. One
//! sync is shared by all who wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use herald::api::Key;
use herald::clock::{Clock, SystemClock};
use herald::compose::{CommitStatus, Notice, Slot, State};
use herald::outbox::{DurableOutbox, Limits, NewJob, Options, Outbox, Settlement, Stamp, Subject};

use super::table::{Spread, Table};

/// Callers side by side.
const CALLERS: [usize; 3] = [1, 8, 64];

/// Rounds, after one that is not counted; in each every number of callers has its turn.
const ROUNDS: usize = 11;

/// How long each puts in a round.
const ROUND: Duration = Duration::from_millis(400);

/// How many times what one caller gets 64 must get together.
const SHARED: f64 = 15.0;

/// Adds the rows about the outbox.
pub async fn measure(table: &mut Table) -> anyhow::Result<()> {
    eprintln!("outbox");
    let dir = tempfile::tempdir()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let options = Options {
        path: dir.path().join("outbox.db"),
        max_bytes: 1 << 30,
        retention: Duration::from_secs(3600),
        limits: Limits { jobs: 1_000_000, bytes: 1 << 29, per_provider: 1_000_000, ..Limits::default() },
        sync_delay: Duration::ZERO,
    };
    let outbox: Arc<DurableOutbox> = Arc::new(DurableOutbox::open(options, clock.clone())?);
    let mut rates = CALLERS.map(|_| Vec::new());
    for round in 0..=ROUNDS {
        for (callers, rates) in CALLERS.iter().zip(&mut rates) {
            let begun = Instant::now();
            let putting = (0..*callers).map(|caller| {
                let (outbox, clock) = (outbox.clone(), clock.clone());
                tokio::spawn(async move {
                    let mut put = 0;
                    while begun.elapsed() < ROUND {
                        let name = format!("{round}-{caller}-{put}");
                        outbox.put(vec![job(&name, &*clock)]).await.expect("there is room");
                        put += 1;
                    }
                    put
                })
            });
            let mut put = 0;
            for caller in putting.collect::<Vec<_>>() {
                put += caller.await?;
            }
            let rate = f64::from(put) / begun.elapsed().as_secs_f64();
            if round > 0 {
                rates.push(rate);
            }
            for job in outbox.claim(clock.now(), usize::MAX) {
                outbox.settle(&job, clock.now(), Settlement::Said);
            }
            outbox.finish().await;
        }
    }
    for (callers, rates) in CALLERS.iter().zip(&rates) {
        let spread = Spread::of(rates);
        table.told(format!("notifications put on disk a second, {callers} waiting"), format!("{spread:.0}"));
    }
    let [one, .., many] = &rates;
    let times = Spread::of_ratios(many, one);
    table.judged("  64 beside 1", format!("{times:.1} times"), SHARED, times.median, "at least 15 times");
    Ok(())
}

fn job(name: &str, clock: &dyn Clock) -> NewJob {
    let commit: Arc<str> = "6dcb09b5b57875f334f61aebed695e2e4193db5e".into();
    let provider: Arc<str> = "0c9c2e41-d2f9-4f9b-9c41-bebc1984d67a".into();
    let name: Arc<str> = format!("kustomization/app-{name}/0c9c2e41").into();
    let status = CommitStatus {
        commit: commit.clone(),
        state: State::Success,
        name: name.clone(),
        description: "reconciliation succeeded".into(),
        label: "kustomization/app".into(),
        summary: None,
        over_failure: false,
    };
    NewJob {
        subject: Subject::Slot(Slot { provider: provider.clone(), repository: "".into(), commit, name }),
        stamp: Stamp { object: provider, version: Some(1), arrived: clock.now() },
        notice: Notice::CommitStatus(status),
        provider: Key::new("flux-system", "github"),
        alert: Key::new("flux-system", "github"),
        object: "Kustomization/flux-system/app".into(),
        repeat: None,
    }
}
