//! The outbox in memory: the promises of the trait until the process ends. For `--outbox-path=` and
//! for running without a cluster.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, pending, ready};
use parking_lot::Mutex;

use super::fingerprint::Fingerprint;
use super::places::Places;
use super::queue::{Incoming, Limits, Queue};
use super::{
    Counts, Held, Job, JobId, Known, May, NewJob, Operation, Outbox, PutError, Receipt, Said, Settled, Settlement,
    Source, Standing, record,
};
use crate::compose::{Slot, State};

/// See the module.
#[derive(Debug)]
pub struct MemoryOutbox {
    queue: Mutex<Queue>,
    places: Places,
    last_id: AtomicU64,
}

impl MemoryOutbox {
    /// An empty outbox.
    pub fn new(limits: Limits) -> Self {
        Self { queue: Mutex::new(Queue::new(limits)), places: Places::new(limits.memory), last_id: AtomicU64::new(0) }
    }

    fn put_now(&self, jobs: Vec<NewJob>) -> Result<Receipt, PutError> {
        let costs = record::costs(&jobs);
        let mut queue = self.queue.lock();
        let reserved = queue.reserve(&jobs, &costs)?;
        let mut receipt = Receipt::default();
        for (new, cost) in reserved.taken(jobs.into_iter().zip(costs)) {
            let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
            let placed = queue.put(Incoming { id, new, cost, attempts: 0, due: None });
            receipt.fates.push(placed.fate);
            receipt.replaced.push(placed.superseded);
        }
        Ok(reserved.receipt(receipt))
    }
}

impl Outbox for MemoryOutbox {
    fn put(&self, jobs: Vec<NewJob>) -> BoxFuture<'_, Result<Receipt, PutError>> {
        Box::pin(ready(self.put_now(jobs)))
    }

    fn claim_if(&self, now: Instant, limit: usize, may: &mut May<'_>) -> Vec<Arc<Job>> {
        self.queue.lock().claim(now, limit, may)
    }

    fn release(&self, provider: &str) {
        self.queue.lock().release(provider);
    }

    fn key(&self) -> Option<[u8; 32]> {
        None
    }

    /// It ends with the process, as all of this does.
    fn keep(&self, _standing: Standing) {}

    fn kept(&self) -> Vec<Standing> {
        Vec::new()
    }

    fn settle(&self, job: &Arc<Job>, now: Instant, settlement: Settlement) -> Settled {
        self.queue.lock().settle(job, now, &settlement)
    }

    fn is_superseded(&self, job: &Job) -> bool {
        self.queue.lock().is_superseded(job)
    }

    fn accepted(&self, slot: &Slot) -> Option<(State, Fingerprint)> {
        self.queue.lock().accepted(slot)
    }

    fn wake(&self, provider: &str) {
        self.queue.lock().wake(provider);
    }

    fn retry(&self, id: JobId) -> Option<Arc<str>> {
        self.queue.lock().wake_job(id)
    }

    fn discard(&self, id: JobId) -> Option<Job> {
        self.queue.lock().discard(id)
    }

    fn hand_over(&self, from: &str, to: &Arc<str>) -> Vec<Job> {
        self.queue.lock().hand_over(from, to)
    }

    fn expire(&self, limit: usize, is_late: &dyn Fn(&NewJob) -> bool) -> Vec<Job> {
        self.queue.lock().expire(limit, is_late)
    }

    fn operations(&self) -> BoxFuture<'_, Option<Vec<Operation>>> {
        Box::pin(pending())
    }

    fn next_due(&self) -> Option<Instant> {
        self.queue.lock().next_due()
    }

    fn due_by(&self, by: Instant) -> HashSet<Arc<str>> {
        self.queue.lock().due_by(by)
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
        self.queue.lock().held()
    }

    fn counts(&self) -> Counts {
        self.queue.lock().counts()
    }

    fn close(&self) {
        self.queue.lock().close();
    }

    fn finish(&self) -> BoxFuture<'_, usize> {
        Box::pin(ready(self.queue.lock().counts().held))
    }

    fn writes(&self) -> bool {
        true
    }

    fn is_full_for(&self) -> Option<Duration> {
        None
    }
}
