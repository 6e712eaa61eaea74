//! The outbox on disk: an order in memory, and a file that is written before a sender is answered.
//! What `app` builds unless `--outbox-path` is empty.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::future::{BoxFuture, ready};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::calls::{Call, Calls, Put};
use super::file::{self, Lock};
use super::fingerprint::Fingerprint;
use super::places::Places;
use super::queue::{Incoming, Queue};
use super::record::{self, Batch, Times};
use super::store::{self, Store};
use super::writer::{Shared, Writer};
use super::{
    Counts, Fate, Held, Job, JobId, Known, LONGEST_WAIT, Limits, May, NewJob, Operation, Outbox, PutError, Receipt,
    Retry, Said, Settled, Settlement, Source, Stamp, Standing,
};
use crate::clock::Clock;
use crate::compose::{Slot, State};

/// Where the file is, and its bounds.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file. It is made, with its folder, when it is not there.
    pub path: PathBuf,
    /// Bytes the file and its log may take together.
    pub max_bytes: u64,
    /// How long what a Slot last said is kept.
    pub retention: Duration,
    /// Of the order in memory.
    pub limits: Limits,
    /// Added to every sync; zero but in tests of a slow disk.
    pub sync_delay: Duration,
}

/// See the module.
pub struct DurableOutbox {
    shared: Arc<Shared>,
    calls: Arc<Calls>,
    places: Places,
    key: [u8; 32],
    /// Of an earlier process.
    kept: Vec<Standing>,
    thread: Option<JoinHandle<()>>,
}

impl DurableOutbox {
    /// Opens the file and takes up what an earlier process left. A file that can never be used is set
    /// aside, and a fresh one is started.
    ///
    /// # Errors
    /// Another process uses the file, it is on a network file system, or it cannot be made or read now.
    pub fn open(options: Options, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let Options { path, max_bytes, retention, limits, sync_delay } = options;
        file::prepare(&path)?;
        let lock = Lock::take(&path)?;
        // Opening may need room too.
        file::release_reserve(&path);
        file::finish_fresh(&path)
            .with_context(|| format!("--outbox-path: cannot clean up beside {}", path.display()))?;
        let mut queue = Queue::new(limits);
        let times = Times::of(&*clock);
        let opened = Store::open(&path, max_bytes).and_then(|mut store| {
            let left = take_up(&mut store, &mut queue, limits.repeat_interval, &times)?;
            Ok((store, left))
        });
        let (store, left) = match opened {
            Ok(opened) => opened,
            // It is as it should be, and cannot be used just now: what waits in it must not be given up.
            Err(error) if !store::is_unusable(&error) => {
                let advice = "nothing in it was changed; free room on its disk, see who else uses it and who may \
                              write there, or give another path";
                return Err(error.context(format!("--outbox-path: cannot use {}: {advice}", path.display())));
            }
            Err(error) => {
                let aside = file::set_aside(&path)
                    .with_context(|| format!("--outbox-path: cannot set {} aside", path.display()))?;
                tracing::error!(
                    logger = "outbox", path = %path.display(), aside = ?aside.map(|aside| aside.display().to_string()),
                    error = %format!("{error:#}"),
                    "the outbox's file cannot be used; it was set aside and a fresh one is started. What waited in \
                     it is not told"
                );
                queue = Queue::new(limits);
                file::prepare(&path)?;
                let store = Store::open(&path, max_bytes)
                    .with_context(|| format!("--outbox-path: cannot start a fresh file at {}", path.display()))?;
                (store, Left::default())
            }
        };
        let waiting = queue.counts().held;
        if waiting > 0 {
            tracing::info!(logger = "outbox", waiting, "an earlier process left notifications; they go on");
        }
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            operations: Mutex::default(),
            asked: Notify::new(),
            writes: AtomicBool::new(true),
            full_since: Mutex::default(),
            gone: AtomicBool::new(false),
            clock,
        });
        file::keep_reserve(&path);
        let key = store.key;
        let calls: Arc<Calls> = Arc::default();
        let writer = Writer {
            calls: calls.clone(),
            shared: shared.clone(),
            // Something other than any answer, so that wishes left while nobody ran are read.
            data_version: -1,
            store,
            identity: file::Identity::of(&path),
            said_displaced: false,
            path,
            lock,
            max_bytes,
            next_id: left.next_id,
            retention,
            repeat_interval: limits.repeat_interval,
            sync_delay,
            failing: None,
            said_failing: false,
            whole: true,
            runtime: tokio::runtime::Handle::try_current().ok(),
            backlog: left.needless.into_iter().map(Call::Forget).collect(),
        };
        let thread = std::thread::Builder::new().name("outbox".into()).spawn(move || writer.run())?;
        Ok(Self { shared, calls, places: Places::new(limits.memory), key, kept: left.kept, thread: Some(thread) })
    }
}

/// What taking up a file leaves to do.
#[derive(Default)]
struct Left {
    next_id: JobId,
    /// What vendors told credentials.
    kept: Vec<Standing>,
    /// Rows that say nothing any more.
    needless: Vec<JobId>,
}

/// Reads what an earlier process left into the order.
fn take_up(store: &mut Store, queue: &mut Queue, repeats: Duration, times: &Times) -> anyhow::Result<Left> {
    if let Err(error) = store.clamp_to(times.wall()) {
        tracing::debug!(logger = "outbox", %error, "times ahead of the clock cannot be put right");
    }
    for (slot, stamp) in store.said_since(times.before(Stamp::VERSION_WINDOW), times)?.into_iter().rev() {
        queue.remember_slot(slot, stamp);
    }
    let jobs = store.jobs()?;
    let mut messages: Vec<_> = store.messages_since(times.before(repeats))?;
    let waiting = jobs.iter().filter_map(|row| row.record.as_ref().ok());
    messages.extend(waiting.filter_map(|record| Some((record.repeat?, record.arrived))));
    messages.sort_by_key(|(_, at)| *at);
    for (key, at) in messages {
        queue.remember_message(key, times.past_instant_of(at));
    }
    let kept = store.kept(times)?;
    let mut left = Left { next_id: 1, kept, needless: Vec::new() };
    for row in jobs {
        left.next_id = row.id + 1;
        let new = match row.record {
            Ok(record) => record.into_job(times),
            Err(error) => {
                tracing::error!(
                    logger = "outbox", job = row.id, %error,
                    "a stored notification cannot be read and is given up"
                );
                left.needless.push(row.id);
                continue;
            }
        };
        // A pause of our own making is over with the process; one that a vendor named is kept.
        let due = row.due.filter(|due| row.told && *due > times.wall()).map(|due| times.within(due, LONGEST_WAIT));
        let placed = queue.restore(Incoming { id: row.id, cost: record::cost(&new), new, attempts: row.attempts, due });
        left.needless.extend(placed.replaced);
        if placed.fate != Fate::Stored {
            left.needless.push(row.id);
        }
    }
    Ok(left)
}

impl Outbox for DurableOutbox {
    fn put(&self, jobs: Vec<NewJob>) -> BoxFuture<'_, Result<Receipt, PutError>> {
        let times = Times::of(&*self.shared.clock);
        let costs = record::costs(&jobs);
        let reserved = match self.shared.queue.lock().reserve(&jobs, &costs) {
            Ok(reserved) => reserved,
            Err(error) => return Box::pin(ready(Err(error))),
        };
        let jobs: Vec<_> = reserved.taken(jobs.into_iter().zip(costs));
        if jobs.is_empty() {
            return Box::pin(ready(Ok(reserved.receipt(Receipt::default()))));
        }
        let batch = Batch::of(jobs.iter().map(|(job, cost)| (job, *cost)), &times);
        let (reply, answer) = oneshot::channel();
        self.calls.tell(Call::Put(Put { jobs, batch, reply }));
        Box::pin(async move {
            let receipt = answer.await.unwrap_or(Err(PutError::Closed))?;
            Ok(reserved.receipt(receipt))
        })
    }

    fn claim_if(&self, now: Instant, limit: usize, may: &mut May<'_>) -> Vec<Arc<Job>> {
        self.shared.queue.lock().claim(now, limit, may)
    }

    fn release(&self, provider: &str) {
        self.shared.queue.lock().release(provider);
    }

    fn key(&self) -> Option<[u8; 32]> {
        Some(self.key)
    }

    fn keep(&self, standing: Standing) {
        self.calls.tell(Call::Keep(standing));
    }

    fn kept(&self) -> Vec<Standing> {
        self.kept.clone()
    }

    fn settle(&self, job: &Arc<Job>, now: Instant, settlement: Settlement) -> Settled {
        let settled = self.shared.queue.lock().settle(job, now, &settlement);
        let job = job.clone();
        self.calls.tell(match (settlement, settled) {
            (Settlement::Retry(retry) | Settlement::Look(retry), Settled::AsAsked) => {
                let Retry { pause, told, why } = retry;
                Call::PutOff { job, due: now + pause, told, why }
            }
            (settlement, _) => Call::End { job, said: settlement == Settlement::Said },
        });
        settled
    }

    fn is_superseded(&self, job: &Job) -> bool {
        self.shared.queue.lock().is_superseded(job)
    }

    fn accepted(&self, slot: &Slot) -> Option<(State, Fingerprint)> {
        self.shared.queue.lock().accepted(slot)
    }

    fn wake(&self, provider: &str) {
        self.shared.queue.lock().wake(provider);
    }

    fn retry(&self, id: JobId) -> Option<Arc<str>> {
        self.shared.queue.lock().wake_job(id)
    }

    fn discard(&self, id: JobId) -> Option<Job> {
        let job = self.shared.queue.lock().discard(id)?;
        self.calls.tell(Call::Forget(id));
        Some(job)
    }

    /// The file keeps the Provider that a job came for; another process hands it over again.
    fn hand_over(&self, from: &str, to: &Arc<str>) -> Vec<Job> {
        let superseded = self.shared.queue.lock().hand_over(from, to);
        superseded.iter().for_each(|job| self.calls.tell(Call::Forget(job.id)));
        superseded
    }

    fn expire(&self, limit: usize, is_late: &dyn Fn(&NewJob) -> bool) -> Vec<Job> {
        let late = self.shared.queue.lock().expire(limit, is_late);
        late.iter().for_each(|job| self.calls.tell(Call::Forget(job.id)));
        late
    }

    fn operations(&self) -> BoxFuture<'_, Option<Vec<Operation>>> {
        Box::pin(async {
            loop {
                let asked = self.shared.asked.notified();
                if self.shared.gone.load(Ordering::Relaxed) {
                    return None;
                }
                let operations = std::mem::take(&mut *self.shared.operations.lock());
                if !operations.is_empty() {
                    return Some(operations);
                }
                asked.await;
            }
        })
    }

    fn next_due(&self) -> Option<Instant> {
        self.shared.queue.lock().next_due()
    }

    fn due_by(&self, by: Instant) -> HashSet<Arc<str>> {
        self.shared.queue.lock().due_by(by)
    }

    fn distrust(&self, distrust: bool) {
        self.places.distrust(distrust);
    }

    fn memory(&self) -> Option<u64> {
        self.places.memory()
    }

    fn forget_said(&self) {
        self.places.forget_said();
    }

    fn forget_speaker(&self, provider: &str) {
        self.places.forget_speaker(provider);
    }

    fn known(&self, place: &str, source: Source) -> Option<Known> {
        self.places.known(place, source)
    }

    fn written(&self, place: &str, source: Source) -> Vec<(Said, u32)> {
        self.places.written(place, source)
    }

    fn writer(&self, place: &str) -> Option<Arc<str>> {
        self.places.writer(place)
    }

    fn note(&self, place: &str, source: Source, known: Known) {
        self.places.note(place, source, known);
    }

    fn note_write(&self, place: &str, source: Source, said: &Said, at: u32) {
        self.places.note_write(place, source, said, at);
    }

    fn held(&self) -> Vec<(Arc<str>, Held)> {
        self.shared.queue.lock().held()
    }

    fn counts(&self) -> Counts {
        self.shared.queue.lock().counts()
    }

    fn close(&self) {
        self.shared.queue.lock().close();
    }

    fn finish(&self) -> BoxFuture<'_, usize> {
        let (reply, written) = oneshot::channel();
        self.calls.tell(Call::Flush(reply));
        Box::pin(async move {
            let _ = written.await;
            // They are on disk; nothing ends with the process.
            0
        })
    }

    fn writes(&self) -> bool {
        self.shared.writes.load(Ordering::Relaxed)
    }

    fn is_full_for(&self) -> Option<Duration> {
        let since = (*self.shared.full_since.lock())?;
        Some(self.shared.clock.now().saturating_duration_since(since))
    }
}

impl Drop for DurableOutbox {
    /// Waits for the thread, so that the file is free when the outbox is gone.
    fn drop(&mut self) {
        self.calls.close();
        if let Some(thread) = self.thread.take() {
            // A panic there was printed when it happened.
            let _ = thread.join();
        }
    }
}
