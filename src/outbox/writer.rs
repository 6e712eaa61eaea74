//! The one thread that writes the file. It takes everything that waits, writes it in one
//! transaction with one sync, and answers all who waited: a sync costs the same for one as for a
//! thousand. Started and fed by the durable outbox.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::calls::{Call, Calls, Put};
use super::file::{self, Identity, Lock};
use super::queue::{Incoming, Queue};
use super::record::{self, Batch, Times};
use super::shares::Cost;
use super::store::{self, SlotSaid, Store, Writes};
use super::{Fate, Job, JobId, NewJob, Operation, PutError, Receipt, Subject};
use crate::clock::Clock;
use crate::compose::Notice;

/// How long callers are waited for that shared the last transactions, in times of what a transaction takes.
/// One that comes in time spares the CPU of another transaction, and while there is much to do they come late.
const PATIENCE: u32 = 3;

/// Bytes of new jobs that share a transaction, unless one caller brings more: the log holds a transaction whole,
/// and counts towards `--outbox-max-bytes` (`store::LOG_BYTES`).
const TRANSACTION: usize = 8 << 20;

/// The most of that.
const LONGEST_PATIENCE: Duration = Duration::from_millis(3);

/// How often what nobody waits for is written, and the file is looked at for wishes of operators. What
/// ended in that time is written at once: jobs that came one after the other go in one sweep.
const TICK: Duration = Duration::from_millis(100);

/// How long a file that could not be written is let be. Whoever comes meanwhile is refused for the same
/// reason, and nothing is tried over and over.
const PAUSE: Duration = Duration::from_secs(1);

/// How often what is old is forgotten.
const SWEEP: Duration = Duration::from_secs(60);

/// The room in the log that a file which had none must have to count as writable again: that of a few events.
const PROBE: usize = 64 << 10;

/// Bytes of an outbox's file that is not worth making smaller.
const SMALLEST: u64 = 256 << 10;

/// Rows of what was said that are forgotten at once when the file is full: what is to be said comes
/// first.
const ROWS_FOR_ROOM: usize = 10_000;

/// How full the file may be before what was said is forgotten early.
const FILL: f64 = 0.75;

/// What the callers and the thread both hold.
pub(super) struct Shared {
    pub queue: Mutex<Queue>,
    pub operations: Mutex<Vec<Operation>>,
    /// There are operations.
    pub asked: Notify,
    /// See [`super::Outbox::writes`].
    pub writes: AtomicBool,
    /// Since when the file has had no room.
    pub full_since: Mutex<Option<Instant>>,
    /// The thread ended.
    pub gone: AtomicBool,
    pub clock: Arc<dyn Clock>,
}

pub(super) struct Writer {
    pub shared: Arc<Shared>,
    pub store: Store,
    pub path: PathBuf,
    pub lock: Lock,
    /// The files as they were when they were opened.
    pub identity: Identity,
    /// That another process took their place was said.
    pub said_displaced: bool,
    pub max_bytes: u64,
    pub next_id: JobId,
    /// How long what a Slot said is kept.
    pub retention: Duration,
    /// How long a message is a repeat.
    pub repeat_interval: Duration,
    /// Added to every sync, by tests.
    pub sync_delay: Duration,
    pub calls: Arc<Calls>,
    /// What is not written yet and nobody waits for.
    pub backlog: Vec<Call>,
    /// Why the last write failed, and when the next one is tried.
    pub failing: Option<(PutError, Instant)>,
    /// That was said.
    pub said_failing: bool,
    /// The file holds every job that is held in memory: not so while a fresh one takes the place of one
    /// that went bad.
    pub whole: bool,
    pub data_version: i64,
    /// Where the callers wait, if that is a runtime.
    pub runtime: Option<tokio::runtime::Handle>,
}

/// What goes into a transaction each, in the order it came.
fn parts(puts: Vec<Put>) -> Vec<Vec<Put>> {
    let mut parts: Vec<Vec<Put>> = Vec::new();
    let mut bytes = 0;
    for put in puts {
        let more = put.batch.bytes();
        match parts.last_mut() {
            Some(part) if bytes + more <= TRANSACTION => part.push(put),
            _ => {
                bytes = 0;
                parts.push(vec![put]);
            }
        }
        bytes += more;
    }
    parts
}

/// Nothing is written once the thread is gone, were it by a panic; nobody waits for it then.
struct Unready(Arc<Shared>, Arc<Calls>);

impl Drop for Unready {
    fn drop(&mut self) {
        self.0.writes.store(false, Ordering::Relaxed);
        self.0.gone.store(true, Ordering::Relaxed);
        self.0.asked.notify_one();
        self.1.close();
        drop(self.1.take());
    }
}

impl Writer {
    /// Works until nobody calls any more.
    pub fn run(mut self) {
        let _unready = Unready(self.shared.clone(), self.calls.clone());
        let mut swept = self.shared.clock.now();
        let mut ticked = swept;
        // Calls that are likely, and how long a transaction takes.
        let (mut likely, mut took) = (0, Duration::ZERO);
        loop {
            let (mut came, mut ends) = self.calls.wait(1, TICK);
            let quiet = came == 0;
            let wanted = likely - likely / 8;
            if (1..wanted).contains(&came) {
                (came, ends) = self.calls.wait(wanted, (took * PATIENCE).min(LONGEST_PATIENCE));
                if came < wanted {
                    // Those who did not come are not waited for again.
                    likely = 0;
                }
            }
            let batch = self.calls.take();
            likely = batch.len().max(likely);
            let began = self.shared.clock.now();
            let ticks = quiet || ends || began.saturating_duration_since(ticked) >= TICK;
            if ticks {
                self.check_files();
            }
            if ticks || batch.iter().any(|call| matches!(call, Call::Flush(_))) {
                self.backlog.append(&mut self.calls.take_others());
            }
            self.carry_out(batch);
            let now = self.shared.clock.now();
            took = now.saturating_duration_since(began);
            if ends {
                return;
            }
            if ticks {
                ticked = now;
                self.hear_operators();
            }
            if now.saturating_duration_since(swept) >= SWEEP {
                swept = now;
                self.sweep();
            }
        }
    }

    /// Writes a batch, then tells everybody.
    fn carry_out(&mut self, batch: Vec<Call>) {
        let (mut puts, mut flushes) = (Vec::new(), Vec::new());
        for call in batch {
            match call {
                Call::Put(put) => puts.push(put),
                Call::Flush(reply) => flushes.push(reply),
                end => self.backlog.push(end),
            }
        }
        let mut parts = parts(puts);
        if parts.is_empty() && (!self.backlog.is_empty() || !self.whole || self.failing.is_some()) {
            parts.push(Vec::new());
        }
        for puts in parts {
            let now = self.shared.clock.now();
            let refused = match self.failing {
                // Somebody stops and wants to know.
                Some((error, until)) if now < until && flushes.is_empty() => Err(error),
                _ => self.try_to_write(&puts.iter().map(|put| &put.batch).collect::<Vec<_>>()),
            };
            self.answer(puts, refused);
        }
        if self.failing.is_some() && !flushes.is_empty() {
            tracing::error!(
                logger = "outbox",
                path = %self.path.display(),
                "the outbox cannot be written: what was told in the last moments may be told once more"
            );
        }
        for reply in flushes {
            let _ = reply.send(());
        }
    }

    /// Takes what is on disk into the order, and answers those who brought it.
    fn answer(&mut self, puts: Vec<Put>, written: Result<(), PutError>) {
        let shared = self.shared.clone();
        let mut answers = Vec::with_capacity(puts.len());
        for Put { jobs, reply, .. } in puts {
            // Whoever claims and settles meanwhile waits for one of them, not for all.
            let mut queue = shared.queue.lock();
            let answer = match written {
                Ok(()) => Ok(self.accept(&mut queue, jobs)),
                Err(error) => {
                    jobs.iter().for_each(|(job, cost)| queue.release_room(job, cost));
                    Err(error)
                }
            };
            answers.push((reply, answer));
        }
        let send = || {
            for (reply, answer) in answers {
                // Whoever went away meanwhile is told nothing; what it brought is kept.
                let _ = reply.send(answer);
            }
        };
        match &self.runtime {
            // One thread of the runtime is woken for all of them, not one for each.
            Some(runtime) => drop(runtime.spawn(async { send() })),
            None => send(),
        }
    }

    /// Writes, with what can be done when there is no room.
    fn try_to_write(&mut self, batches: &[&Batch]) -> Result<(), PutError> {
        let ends = !self.backlog.is_empty();
        let mut written = self.write(batches);
        // Where another process holds the log, neither helps.
        let no_room = |written: &rusqlite::Result<()>, store: &Store| {
            written.as_ref().is_err_and(store::is_full) && !store.log_is_held
        };
        if no_room(&written, &self.store)
            && matches!(self.store.forget_oldest(ROWS_FOR_ROOM), Ok(forgotten) if forgotten > 0)
        {
            written = self.write(batches);
        }
        if no_room(&written, &self.store) && self.shrink() {
            written = self.write(batches);
        }
        self.note(&written);
        if written.is_err() && !self.whole {
            written = self.write(batches);
            self.note(&written);
        }
        let answer =
            written.map_err(|error| if store::is_full(&error) { PutError::Full } else { PutError::Unwritable });
        self.failing = answer.err().map(|error| (error, self.shared.clock.now() + PAUSE));
        if answer == Err(PutError::Full) && ends && !batches.is_empty() && self.write(&[]).is_ok() {
            // What ended makes room for what comes next.
            self.failing = None;
        }
        let mut full_since = self.shared.full_since.lock();
        match self.failing {
            Some((PutError::Full, _)) => drop(full_since.get_or_insert_with(|| self.shared.clock.now())),
            _ => *full_since = None,
        }
        drop(full_since);
        if self.failing.is_some() {
            self.backlog = last_of_each(std::mem::take(&mut self.backlog));
        }
        answer
    }

    /// One transaction: what ended and what is new.
    fn write(&mut self, batches: &[&Batch]) -> rusqlite::Result<()> {
        let times = Times::of(&*self.shared.clock);
        let (backlog, first, failing) = (&self.backlog, self.next_id, self.failing.is_some());
        let all = if self.whole { Vec::new() } else { self.shared.queue.lock().all() };
        let whole = (!all.is_empty()).then(|| encoded(&all, &times));
        let mut bytes = batches.iter().map(|batch| batch.bytes()).sum();
        if failing && batches.is_empty() && backlog.is_empty() {
            bytes = PROBE;
        }
        self.store.write(!batches.is_empty() || !all.is_empty(), bytes, |writes| {
            if let Some(whole) = &whole {
                writes.insert(whole, all.iter().map(|job| (job.id, job.attempts)))?;
            }
            for end in backlog {
                write_end(writes, end, &times)?;
            }
            delete(writes, backlog)?;
            let mut first = first;
            for batch in batches {
                writes.insert(batch, (first..).map(|id| (id, 0)))?;
                first += batch.records.len() as JobId;
            }
            // Whether it can be written is not seen by writing nothing.
            if failing && batches.is_empty() && backlog.is_empty() { writes.touch() } else { Ok(()) }
        })?;
        self.whole = true;
        self.backlog.clear();
        if !batches.is_empty() && !self.sync_delay.is_zero() {
            std::thread::sleep(self.sync_delay);
        }
        Ok(())
    }

    /// The batch is on disk: it can be claimed.
    fn accept(&mut self, queue: &mut Queue, jobs: Vec<(NewJob, Cost)>) -> Receipt {
        let mut receipt = Receipt::default();
        for (new, cost) in jobs {
            let id = self.next_id;
            self.next_id += 1;
            let message = new.repeat.map(|key| Call::Remember(key, new.stamp.arrived));
            let placed = queue.put(Incoming { id, new, cost, attempts: 0, due: None });
            receipt.fates.push(placed.fate);
            receipt.replaced.push(placed.superseded);
            self.backlog.extend(message.filter(|_| placed.fate == Fate::Stored));
            let needless = (placed.fate != Fate::Stored).then_some(id);
            self.backlog.extend(placed.replaced.into_iter().chain(needless).map(Call::Forget));
        }
        receipt
    }

    /// Says once when writing begins to fail, and once when it works again; a file that went bad
    /// under our hands is replaced by one made from what is in memory.
    fn note(&mut self, written: &rusqlite::Result<()>) {
        self.shared.writes.store(written.as_ref().err().is_none_or(store::is_full), Ordering::Relaxed);
        let path = self.path.display();
        match written {
            Ok(()) => {
                if std::mem::take(&mut self.said_failing) {
                    tracing::info!(logger = "outbox", %path, "the outbox can be written again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.said_failing, true) {
                    tracing::error!(
                        logger = "outbox", %path, %error,
                        "the outbox cannot be written: events are refused with 503 and their senders come again; \
                         is the disk full?"
                    );
                }
                if store::is_bad(error) {
                    self.replace();
                }
            }
        }
    }

    /// Puts a fresh file in the place of one that went bad; the next write fills it with what is held.
    fn replace(&mut self) {
        let replaced = self.start_fresh();
        let path = self.path.display();
        match replaced {
            Ok(aside) => tracing::error!(
                logger = "outbox", %path, aside = ?aside.map(|aside| aside.display().to_string()),
                "the outbox's file was damaged while it was in use; it was set aside, and a fresh one takes what waits"
            ),
            Err(error) => tracing::error!(
                logger = "outbox", %path, error = %format!("{error:#}"),
                "the outbox's file was damaged while it was in use, and no fresh one can be made"
            ),
        }
    }

    /// Sets aside what stands at the path and opens a fresh file there.
    fn start_fresh(&mut self) -> anyhow::Result<Option<PathBuf>> {
        let aside = file::set_aside(&self.path)?;
        file::prepare(&self.path)?;
        let key = self.store.key;
        self.store = Store::open(&self.path, self.max_bytes)?;
        // What this process keeps from now on is known by it.
        self.store.set_key(key)?;
        self.whole = false;
        self.data_version = self.store.data_version()?;
        self.identity = Identity::of(&self.path);
        Ok(aside)
    }

    /// Looks whether somebody removed or replaced the outbox's files. The open ones are then nobody's after the
    /// process ends, so a fresh file takes what is held, unless another process has taken the path.
    fn check_files(&mut self) {
        if Identity::of(&self.path) == self.identity {
            return;
        }
        let path = self.path.clone();
        let replaced = file::prepare(&path).and_then(|()| {
            // The lock may have been removed with the rest.
            self.lock.take_again(&path)?;
            self.start_fresh()
        });
        match replaced {
            Ok(aside) => {
                self.said_displaced = false;
                tracing::error!(
                    logger = "outbox", path = %path.display(), aside = ?aside.map(|aside| aside.display().to_string()),
                    "the outbox's file was removed or replaced while it was in use; a fresh one takes what waits"
                );
            }
            Err(error) => {
                self.failing = Some((PutError::Unwritable, self.shared.clock.now() + PAUSE));
                self.shared.writes.store(false, Ordering::Relaxed);
                if !std::mem::replace(&mut self.said_displaced, true) {
                    tracing::error!(
                        logger = "outbox", path = %path.display(), error = %format!("{error:#}"),
                        "the outbox's file was removed or replaced while it was in use, and no fresh one can be made: \
                         events are answered 503"
                    );
                }
            }
        }
    }

    /// On a full disk: makes a small file of what is held and puts it in the place of one that is mostly log and free
    /// pages, which can be given back only with room that is not there. Whether that was done.
    fn shrink(&mut self) -> bool {
        let held = self.shared.queue.lock().bytes() as u64;
        if file::size(&self.path) < 2 * held + SMALLEST {
            return false;
        }
        let shrunk = self.make_small();
        if let Err(error) = &shrunk {
            let _ = std::fs::remove_file(file::fresh(&self.path));
            tracing::debug!(logger = "outbox", error = %format!("{error:#}"), "the outbox's file cannot be made smaller");
        }
        file::keep_reserve(&self.path);
        shrunk.is_ok()
    }

    fn make_small(&mut self) -> anyhow::Result<()> {
        let times = Times::of(&*self.shared.clock);
        let all = self.shared.queue.lock().all();
        let fresh = file::fresh(&self.path);
        let _ = std::fs::remove_file(&fresh);
        file::release_reserve(&self.path);
        self.store.make_fresh(&fresh, times.before(self.repeat_interval), &times, |writes| {
            writes.insert(&encoded(&all, &times), all.iter().map(|job| (job.id, job.attempts)))
        })?;
        self.store.close()?;
        file::put_fresh(&self.path)?;
        self.store = Store::open(&self.path, self.max_bytes)?;
        self.whole = true;
        self.data_version = self.store.data_version()?;
        self.identity = Identity::of(&self.path);
        tracing::info!(
            logger = "outbox", path = %self.path.display(), waiting = all.len(),
            "the disk is full: a smaller file took the place of the outbox's"
        );
        Ok(())
    }

    fn hear_operators(&mut self) {
        let heard = self.store.data_version().and_then(|version| {
            if std::mem::replace(&mut self.data_version, version) == version {
                return Ok(Vec::new());
            }
            self.store.operations()
        });
        match heard {
            Ok(operations) if !operations.is_empty() => {
                self.shared.operations.lock().extend(operations);
                self.shared.asked.notify_one();
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(logger = "outbox", %error, "operators' wishes cannot be read"),
        }
    }

    fn sweep(&self) {
        let times = Times::of(&*self.shared.clock);
        let (said, messages) = (times.before(self.retention), times.before(self.repeat_interval));
        let swept = self.store.forget(said, messages, &times).and_then(|()| {
            while self.store.fill()? > FILL && self.store.forget_oldest(ROWS_FOR_ROOM)? > 0 {}
            Ok(())
        });
        if let Err(error) = swept {
            tracing::debug!(logger = "outbox", %error, "what is old cannot be forgotten");
        }
    }
}

/// Jobs as they are written.
fn encoded(jobs: &[Job], times: &Times) -> Batch {
    Batch::of(jobs.iter().map(|job| (&*job.new, record::cost(&job.new))), times)
}

/// Of each job and credential only the last that is to be written of it, so that what waits for a disk has its
/// bound in their number.
fn last_of_each(backlog: Vec<Call>) -> Vec<Call> {
    let (mut seen, mut credentials) = (HashSet::new(), HashSet::new());
    let counts = |call: &Call| match call {
        Call::PutOff { job, .. } | Call::End { job, .. } => seen.insert(job.id),
        Call::Keep(standing) => credentials.insert(standing.credential),
        _ => true,
    };
    let mut kept: Vec<Call> = backlog.into_iter().rev().filter(counts).collect();
    kept.reverse();
    kept
}

/// Deletes the jobs that are over, those with numbers in a row at once.
fn delete(writes: &Writes<'_>, backlog: &[Call]) -> rusqlite::Result<()> {
    let over = |call: &Call| match call {
        Call::End { job, .. } => Some(job.id),
        Call::Forget(id) => Some(*id),
        _ => None,
    };
    let mut ids: Vec<JobId> = backlog.iter().filter_map(over).collect();
    ids.sort_unstable();
    ids.chunk_by(|id, next| next - id <= 1).try_for_each(|row| writes.delete(row[0]..=row[row.len() - 1]))
}

/// Writes what is to be kept of a call.
fn write_end(writes: &Writes<'_>, end: &Call, times: &Times) -> rusqlite::Result<()> {
    match end {
        Call::End { job, said } => {
            if let (true, Subject::Slot(slot), Notice::CommitStatus(status)) =
                (*said, &job.new.subject, &job.new.notice)
            {
                let stamp = &job.new.stamp;
                writes.said(&SlotSaid {
                    slot,
                    provider: job.new.provider.to_string(),
                    object: &job.new.object,
                    status,
                    stamp,
                    arrived: times.wall_of(stamp.arrived),
                    at: times.wall(),
                })?;
            }
            Ok(())
        }
        Call::Remember(key, at) => writes.remember(key, times.wall_of(*at)),
        Call::PutOff { job, due, told, why } => {
            writes.put_off(job.id, job.attempts + 1, times.wall_of(*due), *told, why)
        }
        Call::Keep(standing) => writes.keep(standing, times),
        Call::Forget(_) | Call::Put(_) | Call::Flush(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Key;
    use tokio::sync::oneshot;

    use crate::clock::TurnedClock;
    use crate::outbox::{Stamp, Standing};

    #[test]
    fn a_transaction_has_a_bound_and_a_caller_s_jobs_are_not_parted() {
        const MIB: usize = 1 << 20;
        let put = |sizes: &[usize]| {
            let records = sizes.iter().map(|size| (vec![0; size * MIB], None)).collect();
            Put { jobs: Vec::new(), batch: Batch { records, bodies: Vec::new() }, reply: oneshot::channel().0 }
        };
        let puts = [&[3][..], &[3], &[1, 1], &[1], &[9, 9], &[], &[1]].map(put).into();
        let sizes = |part: &Vec<Put>| part.iter().map(|put| put.batch.bytes() / MIB).collect::<Vec<_>>();
        let shown: Vec<_> = parts(puts).iter().map(sizes).collect();
        assert_eq!(shown, [vec![3, 3, 2], vec![1], vec![18], vec![0, 1]]);
        assert!(parts(Vec::new()).is_empty());
    }

    #[test]
    fn what_waits_for_a_disk_has_a_bound() {
        let now = TurnedClock::new().now();
        let job = |id| {
            let subject = Subject::Stream { provider: "p".into(), about: "a".into() };
            let stamp = Stamp { object: "uid".into(), version: None, arrived: now };
            let notice = Notice::Event(crate::api::Event::default().into());
            let (provider, alert) = (Key::new("ns", "provider"), Key::new("ns", "alert"));
            let new = NewJob { subject, stamp, notice, provider, alert, object: "o".into(), repeat: None };
            Arc::new(Job { id, new: Arc::new(new), attempts: 0, said: false, taken_up: false })
        };
        let put_off = |id| Call::PutOff { job: job(id), due: now, told: false, why: String::new() };
        let end = |id| Call::End { job: job(id), said: true };
        let keep = |of, wait| Call::Keep(Standing { credential: [of; 32], wait, refusal: None });
        let mut calls = vec![put_off(1), put_off(2), Call::Forget(7), put_off(1), put_off(2), end(1), Call::Forget(8)];
        calls.extend([keep(1, Some(now)), keep(2, None), keep(1, None)]);
        let shown = |call: &Call| match call {
            Call::PutOff { job, .. } => format!("put off {}", job.id),
            Call::End { job, .. } => format!("end {}", job.id),
            Call::Forget(id) => format!("forget {id}"),
            Call::Keep(standing) => format!("keep {} {}", standing.credential[0], standing.wait.is_some()),
            _ => "other".to_owned(),
        };
        let left: Vec<_> = last_of_each(calls).iter().map(shown).collect();
        assert_eq!(left, ["forget 7", "put off 2", "end 1", "forget 8", "keep 2 false", "keep 1 false"]);
    }
}
