//! The one thread that writes the file. It takes everything that waits, writes it in one
//! transaction with one sync, and answers all who waited: a sync costs the same for one as for a
//! thousand. Started and fed by the durable outbox.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::ErrorCode;
use tokio::sync::{Notify, oneshot};

use super::file::{self, Lock};
use super::queue::{Incoming, Queue};
use super::record::{self, Times};
use super::store::{SlotSaid, Store, Writes};
use super::{Fate, Job, JobId, NewJob, Operation, PutError, Receipt, RepeatKey, Subject};
use crate::clock::Clock;
use crate::compose::Notice;

/// Calls that share one transaction at most: what keeps the first of them from waiting for ever.
const BATCH: usize = 2048;

/// How long callers are waited for that shared the last transaction and are likely to come again. A
/// sync takes longer.
const AGAIN: Duration = Duration::from_micros(200);

/// How often what nobody waits for is written, the file is looked at for wishes of operators, and a
/// failed write is tried again.
const TICK: Duration = Duration::from_millis(100);

/// How often what is old is forgotten.
const SWEEP: Duration = Duration::from_secs(60);

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
    pub clock: Arc<dyn Clock>,
}

/// What the thread is asked.
pub(super) enum Call {
    /// Store these; `records` are the jobs as they are written.
    Put { jobs: Vec<NewJob>, records: Vec<Vec<u8>>, reply: oneshot::Sender<Result<Receipt, PutError>> },
    /// A job is over; its place says what it wanted, or not.
    End { job: Arc<Job>, said: bool },
    /// A job is over that was never claimed.
    Forget(JobId),
    /// A message was accepted then: what is equal to it is a repeat. Until this is written the job
    /// itself says so.
    Remember(RepeatKey, Instant),
    /// A job is tried again.
    PutOff { job: Arc<Job>, due: Instant, told: bool, why: String },
    /// A vendor wants nothing through this Provider until then.
    Wait { provider: Arc<str>, until: Instant },
    /// Answer when everything before this is written.
    Flush(oneshot::Sender<()>),
}

impl Call {
    /// Somebody waits, or a message would be told twice or a vendor's wait be forgotten if this were
    /// lost. A status is read at the vendor before it is told again.
    fn is_urgent(&self) -> bool {
        match self {
            Call::Put { .. } | Call::Wait { .. } | Call::Flush(_) => true,
            Call::End { job, .. } => matches!(job.new.subject, Subject::Stream { .. }),
            Call::PutOff { told, .. } => *told,
            Call::Forget(_) | Call::Remember(..) => false,
        }
    }
}

/// The way to the thread. What is not urgent wakes nobody: it goes along with what is, or with the
/// next tick.
#[derive(Clone)]
pub(super) struct Calls {
    pub urgent: Sender<Call>,
    pub others: Arc<Mutex<Vec<Call>>>,
}

impl Calls {
    /// Tells the thread.
    pub fn tell(&self, call: Call) {
        if call.is_urgent() {
            // The thread ends only with the last sender.
            let _ = self.urgent.send(call);
        } else {
            self.others.lock().push(call);
        }
    }
}

pub(super) struct Writer {
    pub shared: Arc<Shared>,
    pub store: Store,
    pub path: PathBuf,
    pub _lock: Lock,
    pub max_bytes: u64,
    pub next_id: JobId,
    /// How long what a Slot said is kept.
    pub retention: Duration,
    /// How long a message is a repeat.
    pub repeat_interval: Duration,
    /// Added to every sync, by tests.
    pub sync_delay: Duration,
    /// See [`Calls`].
    pub others: Arc<Mutex<Vec<Call>>>,
    /// What is not written yet and nobody waits for.
    pub backlog: Vec<Call>,
    /// The last write worked.
    pub worked: bool,
    pub data_version: i64,
    /// Where the callers wait, if that is a runtime.
    pub runtime: Option<tokio::runtime::Handle>,
}

impl Writer {
    /// Works until every sender of calls is gone.
    pub fn run(mut self, calls: &Receiver<Call>) {
        let mut swept = self.shared.clock.now();
        let mut ticked = swept;
        let mut before = 0;
        loop {
            let first = calls.recv_timeout(TICK);
            let quiet = matches!(first, Err(RecvTimeoutError::Timeout));
            let ends = matches!(first, Err(RecvTimeoutError::Disconnected));
            let mut batch: Vec<Call> = first.into_iter().collect();
            batch.extend(calls.try_iter().take(BATCH));
            if !batch.is_empty() && batch.len() < before {
                std::thread::sleep(AGAIN);
                batch.extend(calls.try_iter().take(BATCH));
            }
            before = batch.len();
            self.backlog.append(&mut self.others.lock());
            self.carry_out(batch);
            if ends {
                return;
            }
            let now = self.shared.clock.now();
            if quiet || now.saturating_duration_since(ticked) >= TICK {
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
                Call::Put { jobs, records, reply } => puts.push((jobs, records, reply)),
                Call::Flush(reply) => flushes.push(reply),
                end => self.backlog.push(end),
            }
        }
        let records: Vec<_> = puts.iter().flat_map(|(_, records, _)| records).collect();
        if !records.is_empty() || !self.backlog.is_empty() {
            let mut written = self.write(&records);
            if matches!(&written, Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull)) {
                match self.store.forget_oldest(ROWS_FOR_ROOM) {
                    Ok(forgotten) if forgotten > 0 => written = self.write(&records),
                    _ => {}
                }
            }
            self.note(&written);
            let answer = written.map_err(|error| match error.sqlite_error_code() {
                Some(ErrorCode::DiskFull) => PutError::Full,
                _ => PutError::Unwritable,
            });
            let mut answers = Vec::with_capacity(puts.len());
            for (jobs, records, reply) in puts {
                let bytes = records.iter().map(Vec::len).sum();
                self.shared.queue.lock().keep_promise(jobs.len(), bytes);
                answers.push((reply, answer.map(|()| self.accept(jobs, &records))));
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
        for reply in flushes {
            let _ = reply.send(());
        }
    }

    /// One transaction: what ended and what is new.
    fn write(&mut self, records: &[&Vec<u8>]) -> rusqlite::Result<()> {
        let times = Times::of(&*self.shared.clock);
        let (backlog, first) = (&self.backlog, self.next_id);
        self.store.write(!records.is_empty(), |writes| {
            for end in backlog {
                write_end(writes, end, &times)?;
            }
            for (record, id) in records.iter().zip(first..) {
                writes.insert(id, record, 0)?;
            }
            Ok(())
        })?;
        self.backlog.clear();
        if !records.is_empty() && !self.sync_delay.is_zero() {
            std::thread::sleep(self.sync_delay);
        }
        Ok(())
    }

    /// The batch is on disk: it can be claimed.
    fn accept(&mut self, jobs: Vec<NewJob>, records: &[Vec<u8>]) -> Receipt {
        let mut receipt = Receipt::default();
        let mut queue = self.shared.queue.lock();
        for (new, record) in jobs.into_iter().zip(records) {
            let id = self.next_id;
            self.next_id += 1;
            let message = new.repeat.map(|key| Call::Remember(key, new.stamp.arrived));
            let placed = queue.put(Incoming { id, new, bytes: record.len(), attempts: 0, due: None });
            receipt.fates.push(placed.fate);
            receipt.replaced.push(placed.replaced.len());
            self.backlog.extend(message.filter(|_| placed.fate == Fate::Stored));
            let needless = (placed.fate != Fate::Stored).then_some(id);
            self.backlog.extend(placed.replaced.into_iter().chain(needless).map(Call::Forget));
        }
        receipt
    }

    /// Says once when writing begins to fail, and once when it works again; a file that went bad
    /// under our hands is replaced by one made from what is in memory.
    fn note(&mut self, written: &rusqlite::Result<()>) {
        let full = matches!(written, Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull));
        self.shared.writes.store(written.is_ok() || full, Ordering::Relaxed);
        let worked = std::mem::replace(&mut self.worked, written.is_ok());
        let path = self.path.display();
        match written {
            Ok(()) if worked => {}
            Ok(()) => tracing::info!(logger = "outbox", %path, "the outbox can be written again"),
            Err(error) => {
                if worked {
                    tracing::error!(
                        logger = "outbox", %path, %error,
                        "the outbox cannot be written: events are refused with 503 and their senders come again; \
                         is the disk full?"
                    );
                }
                // Unknown is SQLite's word for a statement that makes no sense: the tables are not ours.
                let bad = [ErrorCode::DatabaseCorrupt, ErrorCode::NotADatabase, ErrorCode::Unknown];
                if error.sqlite_error_code().is_some_and(|code| bad.contains(&code)) {
                    self.replace();
                }
            }
        }
    }

    fn replace(&mut self) {
        let replaced = file::set_aside(&self.path).map_err(anyhow::Error::from).and_then(|aside| {
            file::prepare(&self.path)?;
            self.store = Store::open(&self.path, self.max_bytes)?;
            self.data_version = self.store.data_version()?;
            let times = Times::of(&*self.shared.clock);
            let jobs = self.shared.queue.lock().all();
            self.store.write(true, |writes| {
                jobs.iter().try_for_each(|job| writes.insert(job.id, &record::encode(&job.new, &times), job.attempts))
            })?;
            Ok((aside, jobs.len()))
        });
        let path = self.path.display();
        match replaced {
            Ok((aside, jobs)) => tracing::error!(
                logger = "outbox", %path, aside = %aside.display(), jobs,
                "the outbox's file was damaged while it was in use; it was set aside, and a fresh one holds what waits"
            ),
            Err(error) => tracing::error!(
                logger = "outbox", %path, error = %format!("{error:#}"),
                "the outbox's file was damaged while it was in use, and no fresh one can be made"
            ),
        }
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
        let swept = self.store.forget(said, messages, times.wall()).and_then(|()| {
            while self.store.fill()? > FILL && self.store.forget_oldest(ROWS_FOR_ROOM)? > 0 {}
            Ok(())
        });
        if let Err(error) = swept {
            tracing::debug!(logger = "outbox", %error, "what is old cannot be forgotten");
        }
    }
}

fn write_end(writes: &Writes<'_>, end: &Call, times: &Times) -> rusqlite::Result<()> {
    match end {
        Call::End { job, said } => {
            writes.delete(job.id)?;
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
        Call::Forget(id) => writes.delete(*id),
        Call::Remember(key, at) => writes.remember(key, times.wall_of(*at)),
        Call::PutOff { job, due, told, why } => {
            writes.put_off(job.id, job.attempts + 1, times.wall_of(*due), *told, why)
        }
        Call::Wait { provider, until } => writes.wait(provider, times.wall_of(*until)),
        Call::Put { .. } | Call::Flush(_) => Ok(()),
    }
}
