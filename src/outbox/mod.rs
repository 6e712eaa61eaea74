//! STAGE 4: what was accepted and is not said yet, and what each place was last told.
//!
//! The promise of [`Outbox::put`]: once it returns a [`Receipt`], every job in it will be claimed
//! until it is settled. [`DurableOutbox`] keeps that promise across a crash of the process, because
//! it answers when the jobs are on disk; [`MemoryOutbox`] keeps it until the process ends.
//!
//! After a crash a job may be claimed again whose request went out: a status is then read at the
//! vendor before it is written, a message may be told twice.

mod calls;
mod durable;
mod file;
mod fingerprint;
mod generations;
mod job;
mod memory;
mod places;
mod queue;
pub mod record;
mod repeats;
mod shares;
mod store;
mod writer;

pub use durable::{DurableOutbox, Options};
pub use file::{is_in_use, path_of};
pub use fingerprint::Fingerprint;
pub use generations::Generations;
pub use job::{Job, JobId, NewJob, Stamp, Subject};
pub use memory::MemoryOutbox;
pub use places::Source;
pub use queue::Limits;
pub use repeats::{Kind, RepeatKey};
pub use store::{Act, Reader, Row};

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;

use crate::compose::{Slot, State};

/// A wait that a vendor names is honoured up to this long (rule R9).
pub const LONGEST_WAIT: Duration = Duration::from_secs(65 * 60);

/// How long a file without room counts as a passing thing.
const UNREADY_AFTER: Duration = Duration::from_secs(60);

/// What became of one job of a `put`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It waits to be claimed.
    Stored,
    /// A newer statement about its Slot was accepted before it; there is nothing to say.
    Superseded,
    /// The same message was told within the interval.
    Repeat,
    /// There was no room for it in the outbox, or its namespace or Provider has its share. It is dropped.
    NoRoom,
}

/// Proof that a batch of jobs was taken, with the fate of each in order. `ingest` needs one to
/// answer 202.
#[derive(Debug, Default)]
pub struct Receipt {
    /// One for each job.
    pub fates: Vec<Fate>,
    /// One for each job: how many that waited gave way to it, and were not said yet.
    pub replaced: Vec<usize>,
}

/// Why jobs were not taken. Nothing of the batch was stored, and the sender must come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    /// None of the jobs has room in the outbox, or in the share of its namespace or Provider.
    #[error("the outbox is full")]
    Full,
    /// The disk does not take them.
    #[error("the outbox cannot be written")]
    Unwritable,
    /// The process is stopping.
    #[error("the outbox is closed")]
    Closed,
}

/// How a claimed job ends, or goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Its place says what it wanted: delivered, or found so.
    Said,
    /// It is over without that: superseded, or given up.
    Dropped,
    /// To be tried again.
    Retry(Retry),
    /// Its place says what it wanted, and is to be looked at once more after the pause.
    Look(Retry),
}

/// When to try again, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// After so long, or sooner when its Provider changes. A newer job in the same Slot replaces it.
    pub pause: Duration,
    /// The vendor named the pause: it is kept across a restart too.
    pub told: bool,
    /// For people: what went wrong.
    pub why: String,
}

/// What an operator wants done with a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Which job.
    pub job: JobId,
    /// What.
    pub act: Act,
}

/// What became of a settled job besides its settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// As settled.
    AsAsked,
    /// It should have been tried again, or looked at, but a newer job of its Slot takes its place.
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
    /// Of those held: said, and to be looked at once more.
    pub looks: usize,
}

/// Whether a Provider may be told something now, and which of its jobs that should be, or when to ask again.
pub type May<'a> = dyn FnMut(&Arc<str>) -> Result<Pick, Instant> + 'a;

/// What a vendor told a credential that holds for every process; where it has nothing, it is forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which credential, at which host: an HMAC under [`Outbox::key`].
    pub credential: [u8; 32],
    /// Nothing is wanted with it before then.
    pub wait: Option<Instant>,
    /// It was refused.
    pub refusal: Option<Refusal>,
}

/// That a credential was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status that said so.
    pub status: u16,
    /// When it is tried again.
    pub until: Instant,
    /// How often it was refused in a row.
    pub times: u32,
}

/// Which job of a Provider is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// The first by [`NewJob::rank`].
    First,
    /// The one that waits longest for a try, whatever its rank: where one alone goes out at a time, those that
    /// fail again and again take turns with the rest.
    Longest,
}

/// Jobs of one Provider in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Claimed and not settled; else they wait.
    pub under_way: bool,
    /// How many.
    pub count: usize,
    /// When the oldest was accepted.
    pub oldest: Instant,
}

/// Jobs between acceptance and settlement, and the memory of what was said.
pub trait Outbox: Send + Sync + 'static {
    /// Takes the jobs of a batch that have room, statuses first.
    fn put(&self, jobs: Vec<NewJob>) -> BoxFuture<'_, Result<Receipt, PutError>>;

    /// Up to `limit` jobs that are due, at most one of a [`Subject`] at a time, taking turns among
    /// Providers. A claimed job is nobody else's until it is settled.
    fn claim(&self, now: Instant, limit: usize) -> Vec<Arc<Job>> {
        self.claim_if(now, limit, &mut |_| Ok(Pick::First))
    }

    /// The same, but only of Providers that `may` be told something now: it is asked once for each job,
    /// with the Provider's UID, under a lock. Where it says no, it says when to ask again, which
    /// [`Outbox::release`] and [`Outbox::wake`] bring forward.
    fn claim_if(&self, now: Instant, limit: usize, may: &mut May<'_>) -> Vec<Arc<Job>>;

    /// Has [`Outbox::claim_if`] ask again for a Provider at once.
    fn release(&self, provider: &str);

    /// What credentials are to be known by in [`Standing`], for this process and those after it; `None` when
    /// none of that outlives the process.
    fn key(&self) -> Option<[u8; 32]>;

    /// Remembers, across a restart too, what a vendor told a credential, in the place of what it told it before.
    fn keep(&self, standing: Standing);

    /// What [`Outbox::keep`] remembers of an earlier process.
    fn kept(&self) -> Vec<Standing>;

    /// Ends a claim; `now` is where the delay of a retry starts.
    fn settle(&self, job: &Arc<Job>, now: Instant, settlement: Settlement) -> Settled;

    /// Whether a newer job of the same Slot waits behind this claimed one.
    fn is_superseded(&self, job: &Job) -> bool;

    /// State and object (a fingerprint of [`NewJob::object`]) of the newest status that was accepted for a Slot, by
    /// this process or one that it took jobs over from; `None` when none is remembered.
    fn accepted(&self, slot: &Slot) -> Option<(State, Fingerprint)>;

    /// Makes every job of a Provider that waits for its next try due now.
    fn wake(&self, provider: &str);

    /// Makes one job that waits for its next try due now; the UID of its Provider, if it waited.
    fn retry(&self, id: JobId) -> Option<Arc<str>>;

    /// Takes a job out that is not under way, for good. `None` when there is no such job or it is
    /// under way.
    fn discard(&self, id: JobId) -> Option<Job>;

    /// Gives what waits for one Provider, by UID, to another of the same name, in its place in the order. Those that a
    /// later statement for the other took the place of come back, taken out. Looks at every job, under a lock.
    fn hand_over(&self, from: &str, to: &Arc<str>) -> Vec<Job>;

    /// Takes jobs out that are late and not under way, `limit` at most, for good. Looks at every job,
    /// under a lock.
    fn expire(&self, limit: usize, is_late: &dyn Fn(&NewJob) -> bool) -> Vec<Job>;

    /// Waits for operators' wishes, which come through the file. `None` when the outbox has ended of
    /// itself, by a bug.
    fn operations(&self) -> BoxFuture<'_, Option<Vec<Operation>>>;

    /// When the next waiting job becomes due, or a Provider may be asked for again; `None` when none
    /// waits for a time.
    fn next_due(&self) -> Option<Instant>;

    /// UIDs of the Providers with a job that waits and is due by then, whether they may be told anything
    /// by then or not. Looks at every job that is due by then.
    fn due_by(&self, by: Instant) -> HashSet<Arc<str>>;

    /// Whether what is remembered of places may be out of date: others write there too. While it
    /// may, [`Outbox::known`] knows nothing; afterwards it begins anew.
    fn distrust(&self, distrust: bool);

    /// Which memory of places this is; a new one begins with each forgetting, and whoever keeps what he
    /// saw at a vendor forgets it then too. `None` while nothing remembered may be relied on.
    fn memory(&self) -> Option<u64>;

    /// Whether what is remembered of places may be relied on.
    fn is_trusted(&self) -> bool {
        self.memory().is_some()
    }

    /// Forgets what places were told, but for what is uncertain: those are asked for in any case.
    fn forget_said(&self);

    /// The Provider is another now: forgets that it spoke anywhere, and what is contested with it. Looks
    /// at every place.
    fn forget_speaker(&self, provider: &str);

    /// What a place was last told, as far as this source vouches for it and no other wrote there since.
    fn known(&self, place: &str, source: Source) -> Option<Known>;

    /// What this process wrote at a place through this source and when, as [`Known::at`] has it; the latest last, a
    /// few of them.
    fn written(&self, place: &str, source: Source) -> Vec<(Said, u32)>;

    /// UID of the Provider through which Herald last told or found a place, through whichever source; empty
    /// when that one has changed since.
    fn writer(&self, place: &str) -> Option<Arc<str>>;

    /// Notes what a place was told, by what this source showed.
    fn note(&self, place: &str, source: Source, known: Known);

    /// A write of this goes out: what other sources showed of the place counts no more.
    fn note_write(&self, place: &str, source: Source, said: &Said, at: u32);

    /// What is held for each Provider, by UID, waiting and under way apart. Looks at every job.
    fn held(&self) -> Vec<(Arc<str>, Held)>;

    /// How much there is.
    fn counts(&self) -> Counts;

    /// Takes nothing more; what is held can still be claimed and settled.
    fn close(&self);

    /// Waits until every settlement is written. How many jobs end with the process.
    fn finish(&self) -> BoxFuture<'_, usize>;

    /// Whether the last write worked, or failed only for want of room.
    fn writes(&self) -> bool;

    /// How long the file has had no room for what comes: its disk is full, or it is as large as it may be.
    fn is_full_for(&self) -> Option<Duration>;

    /// Why events should not be sent here, for an operator; `None` when they may.
    fn unready(&self) -> Option<&'static str> {
        if !self.writes() {
            return Some("the outbox cannot be written, see the log");
        }
        let full = self.is_full_for().is_some_and(|full| full >= UNREADY_AFTER);
        full.then_some(
            "the outbox's file has had no room for a minute: its disk is full, or --outbox-max-bytes is reached",
        )
    }
}

/// What is known of a place (API base, repository, commit, name).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// What it was last told.
    pub said: Said,
    /// When the vendor last confirmed it, in seconds since a moment that whoever notes it chose: an
    /// `Instant` would make the memory a quarter larger.
    pub at: u32,
    /// UID of the Provider through which Herald last told or found it, sharing the Provider's own text;
    /// empty when that one has changed since.
    pub by: Arc<str>,
    /// What others did to what was said.
    pub disputes: Disputes,
}

/// How often somebody else was found to have written over what Herald said at a place, since it said so first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disputes {
    /// With another state.
    pub states: u8,
    /// With other words for the same state, ever.
    pub words: bool,
}

impl Known {
    /// Somebody else wrote another state over it again after it was restored: it is left to them.
    pub fn is_contested(&self) -> bool {
        self.disputes.states > 1
    }
}

/// What a place was last told (rule R6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A request went out and no answer was parsed yet: the vendor must be asked. With what it had before, as
    /// far as is known.
    Uncertain(Option<Arc<Said>>),
    /// The vendor has no status there.
    Nothing,
    /// The vendor has this one. Made by [`Said::status`].
    Status {
        /// Its state; `None` for a word we never say.
        state: Option<State>,
        /// Its description, or a hash of one that is longer than any Herald writes.
        description: Arc<str>,
    },
}

/// Bytes of a text that are kept to be compared; of a longer one a hash is kept.
const LONGEST_COMPARED: usize = 255;

/// A text in at most [`LONGEST_COMPARED`] bytes, equal only for equal texts: a vendor chooses how long its texts
/// are.
pub fn comparable(text: &str) -> Arc<str> {
    // No other text begins so.
    const HASHED: char = '\0';
    if text.len() <= LONGEST_COMPARED && !text.starts_with(HASHED) {
        return text.into();
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let hex = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
    std::iter::once(HASHED.to_string()).chain(hex).collect::<String>().into()
}

impl Said {
    /// A status of this state and description.
    pub fn status(state: Option<State>, description: &str) -> Self {
        Self::Status { state, description: comparable(description) }
    }

    /// Whether it is a status of this state, whatever its description.
    pub fn has_state(&self, wanted: State) -> bool {
        matches!(self, Self::Status { state: Some(state), .. } if *state == wanted)
    }

    /// Whether the vendor must be asked.
    pub fn is_uncertain(&self) -> bool {
        matches!(self, Self::Uncertain(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_compared_by_their_hash() {
        let long = |last: char| format!("{}{last}", "x".repeat(8 << 20));
        for text in ["", "a", &"x".repeat(255)] {
            assert_eq!(&*comparable(text), text);
        }
        assert_eq!(comparable(&long('a')), comparable(&long('a')));
        assert_ne!(comparable(&long('a')), comparable(&long('b')));
        assert!(comparable(&long('a')).len() <= LONGEST_COMPARED);
        let hash = comparable(&long('a'));
        assert_ne!(comparable(&hash), hash, "nobody passes a hash off as the text");
    }
}
