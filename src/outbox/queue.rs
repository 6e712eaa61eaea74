//! Which job is next: the order, the turns and the bounds of an outbox, in memory. Both stores keep
//! one of these behind a lock; the durable one tells it of a job once the job is on disk.
//!
//! Each call does a handful of map operations; time comes in with the call.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use super::fingerprint::Fingerprint;
use super::repeats::Repeats;
use super::shares::{Cost, Shares};
use super::{
    Counts, Fate, Generations, Held, Job, JobId, NewJob, Pick, PutError, Receipt, Settled, Settlement, Stamp, Subject,
};
use crate::compose::{Notice, Slot, State};

/// Bounds of an outbox.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Jobs held at most, of which each namespace and each Provider gets a share (`shares`).
    pub jobs: usize,
    /// Bytes of all jobs held, about as they are written to disk; shared in the same way.
    pub bytes: usize,
    /// Jobs of one Provider under way at once, and so at most as many that may be told twice after a
    /// crash. More would seldom help: a host that takes seconds is busy, throttles (Azure DevOps delays
    /// before it refuses) or lets one write wait for another (GitLab locks each commit).
    pub per_provider: usize,
    /// Places and Slots remembered.
    pub memory: usize,
    /// How long the same message is a repeat.
    pub repeat_interval: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            jobs: 100_000,
            bytes: 192 << 20,
            per_provider: 16,
            memory: 65_536,
            repeat_interval: Duration::from_secs(300),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    limits: Limits,
    closed: bool,
    /// What is held of whom, and what is on its way to disk.
    shares: Shares,
    /// Subjects with a job.
    subjects: HashMap<Subject, Waiting>,
    /// By Provider UID: whose turn it is, job by job.
    lanes: HashMap<Arc<str>, Lane>,
    /// Lanes with something ready and room to do it, each once: those with a failure to tell first, in
    /// turns among their like.
    turns: BTreeMap<Place, Arc<str>>,
    /// Lanes that may not be claimed from until then, in the order of their turns.
    held_lanes: BTreeMap<(Instant, u64), Arc<str>>,
    /// Rises with each place that is given.
    places: u64,
    /// Subjects whose head waits for a time.
    delayed: BTreeSet<(Instant, JobId)>,
    delayed_subjects: HashMap<JobId, (Instant, Subject)>,
    /// Slots that have no job now, with the stamp of the newest statement accepted.
    settled: Generations<Fingerprint, Stamp>,
    /// The newest statement accepted about a Slot, waiting or not: its state, and the object it is about.
    accepted: Generations<Fingerprint, (State, Fingerprint)>,
    repeats: Repeats,
    held: usize,
    claimed: usize,
    looks: usize,
}

/// A place in a line: the lower number of [`NewJob::rank`] goes first, else who came first.
type Place = (u8, u64);

/// The jobs of one subject, oldest first.
#[derive(Debug)]
struct Waiting {
    jobs: VecDeque<Entry>,
    /// Where it stands in its lane, while the head can be claimed.
    ready: Option<Place>,
    /// The head is claimed.
    claimed: bool,
    /// Of the subject, if that is one.
    slot: Option<Fingerprint>,
    /// The newest statement accepted.
    latest: Stamp,
    /// See [`Job::taken_up`].
    taken_up: bool,
}

#[derive(Debug)]
struct Entry {
    id: JobId,
    new: Arc<NewJob>,
    cost: Cost,
    attempts: u32,
    due: Option<Instant>,
    /// See [`Job::said`].
    said: bool,
}

impl Entry {
    fn job(&self, taken_up: bool) -> Job {
        let Self { id, attempts, said, .. } = *self;
        Job { id, new: self.new.clone(), attempts, said, taken_up }
    }
}

/// A job as it goes in.
#[derive(Debug)]
pub(super) struct Incoming {
    /// Its number.
    pub id: JobId,
    /// What is to be said.
    pub new: NewJob,
    /// What it takes up.
    pub cost: Cost,
    /// How often it was tried, by an earlier process.
    pub attempts: u32,
    /// When it may be tried; `None` is at once.
    pub due: Option<Instant>,
}

/// What became of each job of a batch when room was reserved; `None` is to be put.
#[derive(Debug)]
pub(super) struct Reserved(Vec<Option<Fate>>);

impl Reserved {
    /// Of something of each job that of those to be put.
    pub fn taken<T>(&self, all: impl Iterator<Item = T>) -> Vec<T> {
        all.zip(&self.0).filter(|(_, fate)| fate.is_none()).map(|(of, _)| of).collect()
    }

    /// The receipt of the whole batch; `of_taken` is that of the jobs that were put.
    pub fn receipt(&self, of_taken: Receipt) -> Receipt {
        let mut put = of_taken.fates.into_iter().zip(of_taken.replaced);
        let of = |fate: &Option<Fate>| fate.map_or_else(|| put.next().expect("one for each job put"), |fate| (fate, 0));
        let (fates, replaced) = self.0.iter().map(of).unzip();
        Receipt { fates, replaced }
    }
}

/// What became of a job that went in.
#[derive(Debug)]
pub(super) struct Placed {
    /// Whether it waits now.
    pub fate: Fate,
    /// Jobs that gave way to it.
    pub replaced: Vec<JobId>,
    /// How many of them were not said yet.
    pub superseded: usize,
}

/// The jobs of a Provider that can be claimed: failures before successes before what is pending
/// (rule R9), and first come, first served among these.
#[derive(Debug, Default)]
struct Lane {
    ready: BTreeMap<Place, Subject>,
    claimed: usize,
    turn: Option<Place>,
    held: Option<(Instant, u64)>,
}

impl Lane {
    /// The place of what can be claimed for the longest time, whatever its rank.
    fn longest(&self) -> Option<Place> {
        let (mut longest, mut rank) = (None::<Place>, 0);
        while let Some((&place, _)) = self.ready.range((rank, 0)..).next() {
            longest = Some(longest.filter(|longest| longest.1 < place.1).unwrap_or(place));
            rank = place.0 + 1;
        }
        longest
    }
}

impl Queue {
    /// An empty one.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            closed: false,
            shares: Shares::new(limits.jobs, limits.bytes),
            subjects: HashMap::new(),
            lanes: HashMap::new(),
            turns: BTreeMap::new(),
            held_lanes: BTreeMap::new(),
            places: 0,
            delayed: BTreeSet::new(),
            delayed_subjects: HashMap::new(),
            settled: Generations::new(limits.memory),
            accepted: Generations::new(limits.memory),
            repeats: Repeats::new(limits.repeat_interval),
            held: 0,
            claimed: 0,
            looks: 0,
        }
    }

    /// Takes nothing more; what is held can still be claimed and settled.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Reserves room for the jobs of a batch that are to be stored, statuses first. Each of them is then put, or its
    /// room released.
    ///
    /// # Errors
    /// No job is stored, and at least one for want of room; or the outbox is closed.
    pub fn reserve(&mut self, batch: &[NewJob], costs: &[Cost]) -> Result<Reserved, PutError> {
        if self.closed {
            return Err(PutError::Closed);
        }
        let mut fates: Vec<Option<Fate>> = batch.iter().map(|job| self.is_needless(job)).collect();
        let mut order: Vec<usize> = (0..batch.len()).filter(|at| fates[*at].is_none()).collect();
        order.sort_by_key(|at| (matches!(batch[*at].subject, Subject::Stream { .. }), batch[*at].rank()));
        let mut taken = 0;
        for &at in &order {
            let (job, cost) = (&batch[at], &costs[at]);
            if self.takes_a_place(job) || self.shares.has_room(job, cost) {
                self.shares.add(job, cost);
                taken += 1;
            } else {
                fates[at] = Some(Fate::NoRoom);
            }
        }
        if taken == 0 && !order.is_empty() {
            return Err(PutError::Full);
        }
        Ok(Reserved(fates))
    }

    /// Releases the room of a job that was not put.
    pub fn release_room(&mut self, job: &NewJob, cost: &Cost) {
        self.shares.remove(job, cost);
    }

    /// Whether a status waits that gives way to this one: it needs no more room, and an old statement must not stand
    /// because the new one found none.
    fn takes_a_place(&self, new: &NewJob) -> bool {
        matches!(new.subject, Subject::Slot(_))
            && self.subjects.get(&new.subject).is_some_and(|waiting| waiting.jobs.len() > usize::from(waiting.claimed))
    }

    /// What would become of a job if it were put now, when there is nothing to store of it.
    fn is_needless(&self, new: &NewJob) -> Option<Fate> {
        match &new.repeat {
            Some(key) => self.repeats.is_repeat(key, new.stamp.arrived).then_some(Fate::Repeat),
            None => self.is_older(new, Fingerprint::of_subject(&new.subject)).then_some(Fate::Superseded),
        }
    }

    /// Whether a newer statement about the Slot was accepted (rule R1); `slot` is `None` for a message.
    fn is_older(&self, new: &NewJob, slot: Option<Fingerprint>) -> bool {
        let Some(slot) = slot else { return false };
        let waiting = self.subjects.get(&new.subject).map(|waiting| &waiting.latest);
        let latest = waiting.or_else(|| self.settled.get(&slot));
        latest.is_some_and(|latest| new.stamp.is_older_than(latest))
    }

    /// Remembers a statement about a Slot that an earlier process settled.
    pub fn remember_slot(&mut self, slot: Fingerprint, stamp: Stamp) {
        let stamp = stamp.following(self.settled.get(&slot));
        self.settled.insert(slot, stamp);
    }

    /// Remembers a message that an earlier process accepted.
    pub fn remember_message(&mut self, key: super::RepeatKey, at: Instant) {
        self.repeats.note(key, at);
    }

    /// Puts a job whose acceptance was decided by an earlier process: it is no repeat of itself. That process may
    /// have ended while a request for the job was out, which no row of the file tells.
    pub fn restore(&mut self, job: Incoming) -> Placed {
        self.shares.add(&job.new, &job.cost);
        self.place(job, true)
    }

    /// Puts a job for which room was reserved.
    pub fn put(&mut self, job: Incoming) -> Placed {
        if let Some(key) = job.new.repeat {
            if self.repeats.is_repeat(&key, job.new.stamp.arrived) {
                self.shares.remove(&job.new, &job.cost);
                return Placed { fate: Fate::Repeat, replaced: Vec::new(), superseded: 0 };
            }
            self.repeats.note(key, job.new.stamp.arrived);
        }
        self.place(job, false)
    }

    fn place(&mut self, job: Incoming, taken_up: bool) -> Placed {
        let slot = Fingerprint::of_subject(&job.new.subject);
        if self.is_older(&job.new, slot) {
            self.shares.remove(&job.new, &job.cost);
            return Placed { fate: Fate::Superseded, replaced: Vec::new(), superseded: 0 };
        }
        let Incoming { id, new, cost, attempts, due } = job;
        if let (Some(slot), Notice::CommitStatus(status)) = (slot, &new.notice) {
            self.accepted.insert(slot, (status.state, Fingerprint::of(&[&new.object])));
        }
        let subject = new.subject.clone();
        let latest = new.stamp.clone();
        self.held += 1;
        let mut entry = Entry { id, new: Arc::new(new), cost, attempts, due: None, said: false };
        let (mut replaced, mut superseded) = (Vec::new(), 0);
        let Some(waiting) = self.subjects.get_mut(&subject) else {
            let before = slot.and_then(|slot| self.settled.remove(&slot));
            let latest = latest.following(before.as_ref());
            entry.due = due;
            let jobs = VecDeque::from([entry]);
            let waiting = Waiting { jobs, ready: None, claimed: false, slot, latest, taken_up };
            self.subjects.insert(subject.clone(), waiting);
            match due {
                Some(due) => self.delay(due, id, subject),
                None => self.make_ready(subject),
            }
            return Placed { fate: Fate::Stored, replaced, superseded };
        };
        waiting.latest = latest.following(Some(&waiting.latest));
        waiting.taken_up |= taken_up;
        if matches!(subject, Subject::Slot(_)) {
            // Newest wins: whatever waits gives way; what is under way is followed.
            let keep = usize::from(waiting.claimed);
            let dropped: Vec<Entry> = waiting.jobs.drain(keep..).collect();
            waiting.jobs.push_back(entry);
            for old in dropped {
                self.held -= 1;
                self.shares.remove(&old.new, &old.cost);
                replaced.push(old.id);
                self.looks -= usize::from(old.said);
                superseded += usize::from(!old.said);
                if let Some(due) = old.due {
                    self.delayed.remove(&(due, old.id));
                    self.delayed_subjects.remove(&old.id);
                }
            }
            if !waiting.claimed {
                // A head that was delayed is due now; a ready one keeps its turn among its like.
                self.make_ready(subject);
            }
        } else {
            waiting.jobs.push_back(entry);
        }
        Placed { fate: Fate::Stored, replaced, superseded }
    }

    fn delay(&mut self, due: Instant, id: JobId, subject: Subject) {
        self.delayed.insert((due, id));
        self.delayed_subjects.insert(id, (due, subject));
    }

    /// The subject's head may be claimed. One that may already keeps its turn among its like.
    fn make_ready(&mut self, subject: Subject) {
        let Some(waiting) = self.subjects.get_mut(&subject) else { return };
        let Some(head) = waiting.jobs.front() else { return };
        let provider = subject.provider().clone();
        let lane = self.lanes.entry(provider.clone()).or_default();
        self.places += 1;
        let came = match waiting.ready.take() {
            Some(place) => {
                lane.ready.remove(&place);
                place.1
            }
            None => self.places,
        };
        let place = (head.new.rank(), came);
        waiting.ready = Some(place);
        lane.ready.insert(place, subject);
        self.take_turn(provider);
    }

    /// Queues a lane for its turn when it has something to do and room to do it.
    fn take_turn(&mut self, provider: Arc<str>) {
        let Some(lane) = self.lanes.get_mut(&provider) else { return };
        let Some((&(rank, _), _)) = lane.ready.first_key_value() else {
            if let Some(turn) = lane.turn.take() {
                self.turns.remove(&turn);
            }
            if lane.claimed == 0 {
                lane.held.inspect(|held| drop(self.held_lanes.remove(held)));
                self.lanes.remove(&provider);
            }
            return;
        };
        if lane.held.is_some() || lane.claimed >= self.limits.per_provider {
            return;
        }
        let came = match lane.turn {
            Some(turn) if turn.0 == rank => return,
            Some(turn) => {
                self.turns.remove(&turn);
                turn.1
            }
            None => {
                self.places += 1;
                self.places
            }
        };
        lane.turn = Some((rank, came));
        self.turns.insert((rank, came), provider);
    }

    /// Lets a lane be asked again that was held; whether it was.
    pub fn release(&mut self, provider: &str) -> bool {
        let Some(lane) = self.lanes.get_mut(provider) else { return false };
        let Some(provider) = lane.held.take().and_then(|held| self.held_lanes.remove(&held)) else { return false };
        self.take_turn(provider);
        true
    }

    /// See [`super::Outbox::claim_if`].
    pub fn claim(&mut self, now: Instant, limit: usize, may: &mut super::May<'_>) -> Vec<Arc<Job>> {
        while let Some(&(due, id)) = self.delayed.first().filter(|(due, _)| *due <= now) {
            self.delayed.remove(&(due, id));
            if let Some((_, subject)) = self.delayed_subjects.remove(&id) {
                self.undelay(subject);
            }
        }
        while let Some(entry) = self.held_lanes.first_entry().filter(|entry| entry.key().0 <= now) {
            let provider = entry.get().clone();
            self.release(&provider);
        }
        let mut claims = Vec::new();
        while claims.len() < limit {
            let Some((_, provider)) = self.turns.pop_first() else { break };
            let Some(lane) = self.lanes.get_mut(&provider) else { continue };
            lane.turn = None;
            if lane.ready.is_empty() {
                self.take_turn(provider);
                continue;
            }
            let place = match may(&provider) {
                Ok(Pick::First) => lane.ready.first_key_value().map(|(place, _)| *place),
                Ok(Pick::Longest) => lane.longest(),
                Err(until) => {
                    self.places += 1;
                    let held = (until, self.places);
                    lane.held = Some(held);
                    self.held_lanes.insert(held, provider);
                    continue;
                }
            };
            let place = place.expect("it has something ready");
            let subject = lane.ready.remove(&place).expect("it was just seen");
            let waiting = self.subjects.get_mut(&subject).expect("what is ready is there");
            let head = waiting.jobs.front_mut().expect("what is ready has a head");
            (waiting.ready, waiting.claimed) = (None, true);
            claims.push(Arc::new(head.job(waiting.taken_up)));
            head.attempts += 1;
            lane.claimed += 1;
            self.claimed += 1;
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

    /// See [`super::Outbox::settle`].
    pub fn settle(&mut self, job: &Job, now: Instant, settlement: &Settlement) -> Settled {
        let subject = &job.new.subject;
        let provider = subject.provider().clone();
        if let Some(lane) = self.lanes.get_mut(&provider) {
            lane.claimed = lane.claimed.saturating_sub(1);
        }
        self.claimed -= 1;
        let waiting = self.subjects.get_mut(subject).expect("a claimed job keeps its subject");
        waiting.claimed = false;
        let superseded = matches!(subject, Subject::Slot(_)) && waiting.jobs.len() > 1;
        let again = match settlement {
            Settlement::Retry(retry) | Settlement::Look(retry) if !superseded => Some(now + retry.pause),
            _ => None,
        };
        if let Some(due) = again {
            let head = waiting.jobs.front_mut().expect("a claimed job is the head");
            head.due = Some(due);
            if matches!(settlement, Settlement::Look(_)) && !std::mem::replace(&mut head.said, true) {
                self.looks += 1;
            }
            let id = head.id;
            self.delay(due, id, subject.clone());
        } else {
            self.remove_head(subject);
        }
        let settled = match settlement {
            Settlement::Retry(_) | Settlement::Look(_) if again.is_none() => Settled::Superseded,
            _ => Settled::AsAsked,
        };
        self.take_turn(provider);
        settled
    }

    /// Takes the first job about a subject out; the next one, if there is one, becomes ready.
    fn remove_head(&mut self, subject: &Subject) {
        let Some(waiting) = self.subjects.get_mut(subject) else { return };
        let Some(head) = waiting.jobs.pop_front() else { return };
        self.held -= 1;
        self.looks -= usize::from(head.said);
        self.shares.remove(&head.new, &head.cost);
        if !waiting.jobs.is_empty() {
            self.make_ready(subject.clone());
        } else if let Some(Waiting { slot: Some(slot), latest, .. }) = self.subjects.remove(subject) {
            self.settled.insert(slot, latest);
        }
    }

    /// See [`super::Outbox::is_superseded`].
    pub fn is_superseded(&self, job: &Job) -> bool {
        matches!(job.new.subject, Subject::Slot(_))
            && self.subjects.get(&job.new.subject).is_some_and(|waiting| waiting.jobs.len() > 1)
    }

    /// See [`super::Outbox::accepted`].
    pub fn accepted(&self, slot: &Slot) -> Option<(State, Fingerprint)> {
        self.accepted.get(&Fingerprint::of_slot(slot)).copied()
    }

    /// See [`super::Outbox::wake`].
    pub fn wake(&mut self, provider: &str) {
        let of_provider = |(_, subject): &(Instant, Subject)| **subject.provider() == *provider;
        let ids: Vec<JobId> =
            self.delayed_subjects.iter().filter(|(_, delayed)| of_provider(delayed)).map(|(id, _)| *id).collect();
        for id in ids {
            self.wake_job(id);
        }
        self.release(provider);
    }

    /// Makes a job that waits for its next try due now; its Provider, if there is such a one.
    pub fn wake_job(&mut self, id: JobId) -> Option<Arc<str>> {
        let (due, subject) = self.delayed_subjects.remove(&id)?;
        self.delayed.remove(&(due, id));
        let provider = subject.provider().clone();
        self.undelay(subject);
        Some(provider)
    }

    /// Takes a job out that is not under way.
    pub fn discard(&mut self, id: JobId) -> Option<Job> {
        let holds = |waiting: &Waiting| waiting.jobs.iter().any(|entry| entry.id == id);
        let (subject, _) = self.subjects.iter().find(|(_, waiting)| holds(waiting))?;
        self.take_out(id, &subject.clone())
    }

    /// See [`super::Outbox::hand_over`].
    pub fn hand_over(&mut self, from: &str, to: &Arc<str>) -> Vec<Job> {
        let idle = self.subjects.iter().filter(|(of, waiting)| **of.provider() == *from && !waiting.claimed);
        let subjects: Vec<Subject> = idle.map(|(subject, _)| subject.clone()).collect();
        let mut jobs = self.take_all(&subjects);
        for job in &mut jobs {
            job.new = Arc::new(NewJob::clone(&job.new).for_provider(to));
        }
        // Messages that came for the new one meanwhile follow.
        let streams = jobs.iter().map(|job| &job.new.subject).filter(|of| matches!(of, Subject::Stream { .. }));
        let followed: HashSet<Subject> = streams.filter(|of| self.subjects.contains_key(*of)).cloned().collect();
        jobs.extend(self.take_all(&followed.into_iter().collect::<Vec<_>>()));
        jobs.sort_unstable_by_key(|job| job.id);
        let mut superseded = Vec::new();
        for job in jobs {
            if self.is_outdated(&job) {
                superseded.push(job);
                continue;
            }
            let Job { id, new, attempts, said, taken_up } = job;
            let new = Arc::unwrap_or_clone(new);
            let subject = new.subject.clone();
            let cost = super::record::cost(&new);
            self.shares.add(&new, &cost);
            self.place(Incoming { id, new, cost, attempts, due: None }, taken_up);
            let entry = self.subjects.get_mut(&subject).and_then(|waiting| waiting.jobs.back_mut());
            if let Some(entry) = entry.filter(|entry| said && entry.id == id) {
                entry.said = true;
                self.looks += 1;
            }
        }
        superseded
    }

    /// Takes everything about these subjects out that is not under way.
    fn take_all(&mut self, subjects: &[Subject]) -> Vec<Job> {
        let mut jobs = Vec::new();
        for subject in subjects {
            let Some(waiting) = self.subjects.get(subject) else { continue };
            let ids: Vec<JobId> =
                waiting.jobs.iter().skip(usize::from(waiting.claimed)).map(|entry| entry.id).collect();
            jobs.extend(ids.into_iter().filter_map(|id| self.take_out(id, subject)));
        }
        jobs
    }

    /// Whether a later statement about the job's Slot waits or was made.
    fn is_outdated(&self, job: &Job) -> bool {
        let Some(slot) = Fingerprint::of_subject(&job.new.subject) else { return false };
        match self.subjects.get(&job.new.subject) {
            Some(waiting) => waiting.jobs.iter().any(|entry| entry.id > job.id),
            None => self.settled.get(&slot).is_some_and(|latest| latest.arrived > job.new.stamp.arrived),
        }
    }

    /// See [`super::Outbox::expire`].
    pub fn expire(&mut self, limit: usize, is_late: &dyn Fn(&NewJob) -> bool) -> Vec<Job> {
        let mut late = Vec::new();
        for (subject, waiting) in &self.subjects {
            let entries = waiting.jobs.iter().skip(usize::from(waiting.claimed)).filter(|entry| is_late(&entry.new));
            late.extend(entries.take(limit - late.len()).map(|entry| (entry.id, subject.clone())));
            if late.len() == limit {
                break;
            }
        }
        late.sort_unstable_by_key(|(id, _)| *id);
        late.into_iter().filter_map(|(id, subject)| self.take_out(id, &subject)).collect()
    }

    /// Takes a job about this subject out, unless it is under way.
    fn take_out(&mut self, id: JobId, subject: &Subject) -> Option<Job> {
        let waiting = self.subjects.get_mut(subject)?;
        let at = waiting.jobs.iter().position(|entry| entry.id == id)?;
        if at == 0 && waiting.claimed {
            return None;
        }
        let entry = &waiting.jobs[at];
        let job = entry.job(waiting.taken_up);
        if at > 0 {
            if let Some(entry) = waiting.jobs.remove(at) {
                self.shares.remove(&entry.new, &entry.cost);
            }
            self.held -= 1;
        } else {
            // As if it had been claimed and done: what is ready is claimed by its place in the lane.
            self.wake_job(id);
            let place = self.subjects.get_mut(subject).and_then(|waiting| waiting.ready.take());
            let lane = self.lanes.get_mut(subject.provider())?;
            place.inspect(|place| drop(lane.ready.remove(place)));
            self.remove_head(subject);
            self.take_turn(subject.provider().clone());
        }
        Some(job)
    }

    /// When the next waiting job becomes due.
    pub fn next_due(&self) -> Option<Instant> {
        let held = self.held_lanes.first_key_value().map(|((until, _), _)| *until);
        self.delayed.first().map(|(due, _)| *due).into_iter().chain(held).min()
    }

    /// See [`super::Outbox::due_by`].
    pub fn due_by(&self, by: Instant) -> HashSet<Arc<str>> {
        let ready = self.lanes.iter().filter(|(_, lane)| !lane.ready.is_empty()).map(|(provider, _)| provider);
        let delayed = self.delayed.range(..=(by, JobId::MAX)).filter_map(|(_, id)| self.delayed_subjects.get(id));
        ready.chain(delayed.map(|(_, subject)| subject.provider())).cloned().collect()
    }

    /// See [`super::Outbox::held`].
    pub fn held(&self) -> Vec<(Arc<str>, Held)> {
        let mut held: HashMap<(&Arc<str>, bool), Held> = HashMap::new();
        for (subject, waiting) in &self.subjects {
            for (at, entry) in waiting.jobs.iter().enumerate() {
                let under_way = waiting.claimed && at == 0;
                let arrived = entry.new.stamp.arrived;
                let of = held.entry((subject.provider(), under_way));
                let of = of.or_insert(Held { under_way, count: 0, oldest: arrived });
                of.count += 1;
                of.oldest = of.oldest.min(arrived);
            }
        }
        held.into_iter().map(|((provider, _), of)| (provider.clone(), of)).collect()
    }

    /// Bytes of the jobs held.
    pub fn bytes(&self) -> usize {
        self.shares.bytes()
    }

    /// How much there is.
    pub fn counts(&self) -> Counts {
        let ready = self.lanes.values().filter(|lane| lane.held.is_none()).map(|lane| lane.ready.len()).sum();
        Counts { held: self.held, claimed: self.claimed, ready, looks: self.looks }
    }

    /// Every job held, in the order of acceptance.
    pub fn all(&self) -> Vec<Job> {
        let of = |waiting: &Waiting| waiting.jobs.iter().map(|entry| entry.job(waiting.taken_up)).collect::<Vec<_>>();
        let mut all: Vec<Job> = self.subjects.values().flat_map(of).collect();
        all.sort_unstable_by_key(|job| job.id);
        all
    }
}
