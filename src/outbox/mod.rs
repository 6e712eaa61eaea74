//! STAGE 4: what was accepted and is not said yet, and what each place was last told.
//!
//! The promise of [`Outbox::put`]: once it returns a [`Receipt`], every job in it will be claimed
//! until it is settled. The store in memory keeps that promise until the process ends; a store on
//! disk will keep it across a crash, behind the same trait.

mod generations;
mod job;
mod memory;
mod repeats;

pub use generations::Generations;
pub use job::{Job, JobId, NewJob, Stamp, Subject};
pub use memory::{Limits, MemoryOutbox};
pub use repeats::{Kind, RepeatKey};

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;

use crate::compose::State;

/// What became of one job of a `put`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It waits to be claimed.
    Stored,
    /// A newer statement about its Slot was accepted before it; there is nothing to say.
    Superseded,
    /// The same message was told within the interval.
    Repeat,
}

/// Proof that a batch of jobs was taken, with the fate of each in order. `ingest` needs one to
/// answer 202.
#[derive(Debug)]
pub struct Receipt {
    /// One for each job.
    pub fates: Vec<Fate>,
    /// Jobs that waited and gave way to a newer one of this batch.
    pub replaced: usize,
}

/// Why jobs were not taken. Nothing of the batch was stored, and the sender must come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    /// As many jobs wait as may.
    #[error("the outbox is full")]
    Full,
    /// The process is stopping.
    #[error("the outbox is closed")]
    Closed,
}

/// How a claimed job ends, or goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It is over: delivered, found unchanged, superseded, or given up. The job is forgotten.
    Done,
    /// To be tried again after the delay, or sooner when its Provider changes. A newer job in the
    /// same Slot replaces it.
    Retry(Duration),
}

/// What became of a settled job besides its settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// As settled.
    AsAsked,
    /// It should have been tried again, but a newer job of its Slot takes its place.
    Superseded,
}

/// Jobs that wait, and jobs under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accepted and not settled, claimed ones included.
    pub held: usize,
    /// Claimed and not settled.
    pub claimed: usize,
    /// Subjects whose next job can be claimed now.
    pub ready: usize,
}

/// Jobs between acceptance and settlement, and the memory of what was said.
pub trait Outbox: Send + Sync + 'static {
    /// Takes a batch whole or not at all.
    fn put(&self, jobs: Vec<NewJob>) -> BoxFuture<'_, Result<Receipt, PutError>>;

    /// Up to `limit` jobs that are due, at most one of a [`Subject`] at a time, taking turns among
    /// Providers. A claimed job is nobody else's until it is settled.
    fn claim(&self, now: Instant, limit: usize) -> Vec<Arc<Job>>;

    /// Ends a claim; `now` is where the delay of a retry starts.
    fn settle(&self, job: &Job, now: Instant, settlement: Settlement) -> Settled;

    /// Whether a newer job of the same Slot waits behind this claimed one.
    fn is_superseded(&self, job: &Job) -> bool;

    /// Makes every job of a Provider that waits for its next try due now.
    fn wake(&self, provider: &str);

    /// When the next waiting job becomes due; `None` when none waits for a time.
    fn next_due(&self) -> Option<Instant>;

    /// What a place was last told, as far as is known.
    fn said(&self, place: &str) -> Option<Said>;

    /// Notes what a place was told.
    fn note(&self, place: &str, said: Said);

    /// How much there is.
    fn counts(&self) -> Counts;
}

/// What a place (API base, repository, commit, name) was last told (rule R6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A request went out and no answer was parsed yet: the vendor must be asked.
    Uncertain,
    /// The vendor has no status there.
    Nothing,
    /// The vendor has this one.
    Status {
        /// Its state; `None` for a word we never say.
        state: Option<State>,
        /// Its description.
        description: Arc<str>,
    },
}
