//! The outbox in memory: the promises of the trait without a disk.
//!
//! One lock over everything; each call does a handful of map operations under it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, ready};
use hashbrown::HashMap;
use parking_lot::Mutex;

use super::repeats::Repeats;
use super::{
    Counts, Fate, Generations, Job, JobId, NewJob, Outbox, PutError, Receipt, Said, Settled, Settlement, Stamp, Subject,
};

/// Bounds of the store.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Jobs held at most; past that `put` answers `Full`.
    pub jobs: usize,
    /// Jobs of one Provider under way at once.
    pub per_provider: usize,
    /// Places and Slots remembered.
    pub memory: usize,
    /// How long the same message is a repeat.
    pub repeat_interval: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { jobs: 100_000, per_provider: 16, memory: 65_536, repeat_interval: Duration::from_secs(300) }
    }
}

/// See the module.
#[derive(Debug)]
pub struct MemoryOutbox(Mutex<State>);

#[derive(Debug)]
struct State {
    limits: Limits,
    closed: bool,
    last_id: JobId,
    /// Subjects with a job.
    subjects: HashMap<Subject, Waiting>,
    /// By Provider UID: whose turn it is, job by job.
    lanes: HashMap<Arc<str>, Lane>,
    /// Lanes with something ready and room to do it, each once.
    turns: VecDeque<Arc<str>>,
    /// Subjects whose head waits for a time.
    delayed: BTreeSet<(Instant, JobId)>,
    delayed_subjects: HashMap<JobId, (Instant, Subject)>,
    /// Slots that have no job now, with the stamp of the newest statement accepted.
    settled: Generations<Subject, Stamp>,
    said: Generations<Arc<str>, Said>,
    repeats: Repeats,
    held: usize,
    claimed: usize,
}

/// The jobs of one subject, oldest first.
#[derive(Debug)]
struct Waiting {
    jobs: VecDeque<Entry>,
    /// The head is claimed.
    claimed: bool,
    /// The newest statement accepted.
    latest: Stamp,
}

#[derive(Debug)]
struct Entry {
    id: JobId,
    new: NewJob,
    attempts: u32,
    due: Option<Instant>,
}

#[derive(Debug, Default)]
struct Lane {
    ready: VecDeque<Subject>,
    claimed: usize,
    in_turn: bool,
}

impl MemoryOutbox {
    /// An empty outbox.
    pub fn new(limits: Limits) -> Self {
        Self(Mutex::new(State {
            limits,
            closed: false,
            last_id: 0,
            subjects: HashMap::new(),
            lanes: HashMap::new(),
            turns: VecDeque::new(),
            delayed: BTreeSet::new(),
            delayed_subjects: HashMap::new(),
            settled: Generations::new(limits.memory),
            said: Generations::new(limits.memory),
            repeats: Repeats::new(limits.repeat_interval),
            held: 0,
            claimed: 0,
        }))
    }

    /// Takes nothing more; what is held can still be claimed and settled.
    pub fn close(&self) {
        self.0.lock().closed = true;
    }
}

impl State {
    fn put(&mut self, jobs: Vec<NewJob>) -> Result<Receipt, PutError> {
        if self.closed {
            return Err(PutError::Closed);
        }
        if self.held + jobs.len() > self.limits.jobs {
            return Err(PutError::Full);
        }
        let held = self.held;
        let fates: Vec<Fate> = jobs.into_iter().map(|job| self.put_one(job)).collect();
        let stored = fates.iter().filter(|fate| **fate == Fate::Stored).count();
        Ok(Receipt { fates, replaced: held + stored - self.held })
    }

    fn put_one(&mut self, new: NewJob) -> Fate {
        if let Some(key) = new.repeat {
            if self.repeats.is_repeat(&key, new.stamp.arrived) {
                return Fate::Repeat;
            }
            self.repeats.note(key, new.stamp.arrived);
        }
        let subject = new.subject.clone();
        let is_slot = matches!(subject, Subject::Slot(_));
        let earlier = self.subjects.get(&subject).map(|waiting| &waiting.latest).or_else(|| self.settled.get(&subject));
        if is_slot && earlier.is_some_and(|latest| new.stamp.is_older_than(latest)) {
            return Fate::Superseded;
        }

        self.last_id += 1;
        self.held += 1;
        let entry = Entry { id: self.last_id, attempts: 0, due: None, new };
        let latest = entry.new.stamp.clone();
        let Some(waiting) = self.subjects.get_mut(&subject) else {
            self.settled.remove(&subject);
            self.subjects.insert(subject.clone(), Waiting { jobs: VecDeque::from([entry]), claimed: false, latest });
            self.make_ready(subject);
            return Fate::Stored;
        };
        waiting.latest = latest;
        if is_slot {
            // Newest wins: whatever waits gives way; what is under way is followed.
            let keep = usize::from(waiting.claimed);
            let dropped: Vec<Entry> = waiting.jobs.drain(keep..).collect();
            self.held -= dropped.len();
            waiting.jobs.push_back(entry);
            for old in dropped {
                // A waiting head that was delayed is due now; a ready one keeps its turn.
                if let Some(due) = old.due {
                    self.delayed.remove(&(due, old.id));
                    self.delayed_subjects.remove(&old.id);
                    self.make_ready(subject.clone());
                }
            }
        } else {
            waiting.jobs.push_back(entry);
        }
        Fate::Stored
    }

    /// The subject's head may be claimed.
    fn make_ready(&mut self, subject: Subject) {
        let provider = subject.provider().clone();
        self.lanes.entry(provider.clone()).or_default().ready.push_back(subject);
        self.take_turn(provider);
    }

    /// Queues a lane for its turn when it has something to do and room to do it.
    fn take_turn(&mut self, provider: Arc<str>) {
        let Some(lane) = self.lanes.get_mut(&provider) else { return };
        if lane.ready.is_empty() && lane.claimed == 0 {
            self.lanes.remove(&provider);
        } else if !lane.in_turn && !lane.ready.is_empty() && lane.claimed < self.limits.per_provider {
            lane.in_turn = true;
            self.turns.push_back(provider);
        }
    }

    fn claim(&mut self, now: Instant, limit: usize) -> Vec<Arc<Job>> {
        while let Some(&(due, id)) = self.delayed.first().filter(|(due, _)| *due <= now) {
            self.delayed.remove(&(due, id));
            if let Some((_, subject)) = self.delayed_subjects.remove(&id) {
                self.undelay(subject);
            }
        }
        let mut claims = Vec::new();
        while claims.len() < limit {
            let Some(provider) = self.turns.pop_front() else { break };
            let Some(lane) = self.lanes.get_mut(&provider) else { continue };
            lane.in_turn = false;
            let Some(subject) = lane.ready.pop_front() else { continue };
            if let Some(waiting) = self.subjects.get_mut(&subject)
                && let Some(head) = waiting.jobs.front_mut()
            {
                waiting.claimed = true;
                head.attempts += 1;
                lane.claimed += 1;
                self.claimed += 1;
                claims.push(Arc::new(Job { id: head.id, new: head.new.clone(), attempts: head.attempts - 1 }));
            }
            self.take_turn(provider);
        }
        claims
    }

    fn undelay(&mut self, subject: Subject) {
        if let Some(head) = self.subjects.get_mut(&subject).and_then(|waiting| waiting.jobs.front_mut()) {
            head.due = None;
            self.make_ready(subject);
        }
    }

    fn settle(&mut self, job: &Job, now: Instant, settlement: Settlement) -> Settled {
        let subject = &job.new.subject;
        let provider = subject.provider().clone();
        if let Some(lane) = self.lanes.get_mut(&provider) {
            lane.claimed = lane.claimed.saturating_sub(1);
        }
        self.claimed -= 1;
        let waiting = self.subjects.get_mut(subject).expect("a claimed job keeps its subject");
        waiting.claimed = false;
        let superseded = matches!(subject, Subject::Slot(_)) && waiting.jobs.len() > 1;
        let settled = match settlement {
            Settlement::Retry(delay) if !superseded => {
                let head = waiting.jobs.front_mut().expect("a claimed job is the head");
                let due = now + delay;
                head.due = Some(due);
                self.delayed.insert((due, head.id));
                self.delayed_subjects.insert(head.id, (due, subject.clone()));
                Settled::AsAsked
            }
            _ => {
                waiting.jobs.pop_front();
                self.held -= 1;
                if waiting.jobs.is_empty() {
                    let done = self.subjects.remove(subject).expect("looked up above");
                    if matches!(subject, Subject::Slot(_)) {
                        self.settled.insert(subject.clone(), done.latest);
                    }
                } else {
                    self.make_ready(subject.clone());
                }
                if matches!(settlement, Settlement::Done) { Settled::AsAsked } else { Settled::Superseded }
            }
        };
        self.take_turn(provider);
        settled
    }
}

impl Outbox for MemoryOutbox {
    fn put(&self, jobs: Vec<NewJob>) -> BoxFuture<'_, Result<Receipt, PutError>> {
        Box::pin(ready(self.0.lock().put(jobs)))
    }

    fn claim(&self, now: Instant, limit: usize) -> Vec<Arc<Job>> {
        self.0.lock().claim(now, limit)
    }

    fn settle(&self, job: &Job, now: Instant, settlement: Settlement) -> Settled {
        self.0.lock().settle(job, now, settlement)
    }

    fn is_superseded(&self, job: &Job) -> bool {
        matches!(job.new.subject, Subject::Slot(_))
            && self.0.lock().subjects.get(&job.new.subject).is_some_and(|waiting| waiting.jobs.len() > 1)
    }

    fn wake(&self, provider: &str) {
        let mut state = self.0.lock();
        let of_provider = |(_, subject): &(Instant, Subject)| **subject.provider() == *provider;
        let ids: Vec<JobId> =
            state.delayed_subjects.iter().filter(|(_, delayed)| of_provider(delayed)).map(|(id, _)| *id).collect();
        for id in ids {
            if let Some((due, subject)) = state.delayed_subjects.remove(&id) {
                state.delayed.remove(&(due, id));
                state.undelay(subject);
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.0.lock().delayed.first().map(|(due, _)| *due)
    }

    fn said(&self, place: &str) -> Option<Said> {
        self.0.lock().said.get(place).cloned()
    }

    fn note(&self, place: &str, said: Said) {
        self.0.lock().said.insert(place.into(), said);
    }

    fn counts(&self) -> Counts {
        let state = self.0.lock();
        let ready = state.lanes.values().map(|lane| lane.ready.len()).sum();
        Counts { held: state.held, claimed: state.claimed, ready }
    }
}
