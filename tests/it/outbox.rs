//! Both outboxes against a model that is too simple to be wrong: lists of numbers. Random calls,
//! and after each the two must agree. The one on disk also crashes, at any point between two calls.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::executor::block_on;
use herald::api::{Event, Key};
use herald::clock::{Clock, TurnedClock};
use herald::compose::{CommitStatus, Notice, Slot, State};
use herald::matching::gate::Marks;
use herald::outbox::{
    Act, Counts, Disputes, DurableOutbox, Fate, Job, Known, LONGEST_WAIT, Limits, MemoryOutbox, NewJob, Operation,
    Options, Outbox, Pick, PutError, Reader, Refusal, RepeatKey, Retry, Said, Settled, Settlement, Source, Stamp,
    Standing, Subject,
};
use proptest::prelude::*;

const LIMITS: Limits =
    Limits { jobs: 12, bytes: 1 << 20, per_provider: 3, memory: 64, repeat_interval: Duration::from_secs(300) };

/// One job of a batch, in numbers: which subject, which version of the object, which words.
#[derive(Clone, Copy, Debug)]
struct Put {
    provider: u8,
    about: u8,
    is_slot: bool,
    version: Option<u64>,
    words: u8,
}

#[derive(Clone, Debug)]
enum Call {
    Put(Vec<Put>),
    Claim(usize),
    /// The claimed job at this place (modulo how many there are) ends, or is tried again later.
    Done(usize, bool),
    Retry(usize, u64),
    Wake(u8),
    /// What was put so many seconds ago is late.
    Expire(u64, usize),
    /// Seconds.
    Turn(u64),
    /// The process dies, and another takes up the file.
    Crash,
    Close,
}

fn calls(crashes: u32) -> impl Strategy<Value = Vec<Call>> {
    let put = (0..2u8, 0..3u8, any::<bool>(), prop::option::of(1..6u64), 0..3u8)
        .prop_map(|(provider, about, is_slot, version, words)| Put { provider, about, is_slot, version, words });
    let call = prop_oneof![
        8 => prop::collection::vec(put, 1..4).prop_map(Call::Put),
        6 => (0..8usize).prop_map(Call::Claim),
        5 => any::<prop::sample::Index>().prop_map(|at| Call::Done(at.index(1000), at.index(3) > 0)),
        5 => (any::<prop::sample::Index>(), 0..40u64).prop_map(|(at, after)| Call::Retry(at.index(1000), after)),
        2 => (0..2u8).prop_map(Call::Wake),
        2 => (0..200u64, 1..20usize).prop_map(|(age, limit)| Call::Expire(age, limit)),
        3 => (0..90u64).prop_map(Call::Turn),
        crashes => Just(Call::Crash),
    ];
    (prop::collection::vec(call, 1..120), prop::option::weighted(0.1, Just(Call::Close)))
        .prop_map(|(calls, close)| calls.into_iter().chain(close).collect())
}

fn provider(number: u8) -> Arc<str> {
    format!("provider-{number}").into()
}

fn new_job(put: Put, id: u64, now: Instant) -> NewJob {
    let subject = if put.is_slot {
        let name = format!("name-{}", put.about).into();
        Subject::Slot(Slot { provider: provider(put.provider), repository: "".into(), commit: "c".into(), name })
    } else {
        Subject::Stream { provider: provider(put.provider), about: format!("about-{}", put.about).into() }
    };
    let event = Event { message: format!("{} about {}", put.words, put.about), ..Default::default() };
    let repeat = RepeatKey::new(&event, Marks::of(&event), "alert", &provider(put.provider));
    NewJob {
        subject,
        stamp: Stamp { object: format!("object-{}", put.about).into(), version: put.version, arrived: now },
        // The model tells jobs apart by their words.
        notice: Notice::CommitStatus(CommitStatus {
            commit: "c".into(),
            state: [State::Failure, State::Success, State::Pending][usize::from(put.words)],
            name: "n".into(),
            label: "n".into(),
            summary: None,
            over_failure: false,
            description: id.to_string(),
        }),
        provider: Key::new("ns", "p"),
        alert: Key::new("ns", "a"),
        object: "o".into(),
        repeat: (!put.is_slot).then_some(repeat),
    }
}

fn number(job: &Job) -> u64 {
    let Notice::CommitStatus(status) = &job.new.notice else { panic!("the model puts statuses only") };
    status.description.parse().expect("a number")
}

/// What waits about one subject.
#[derive(Debug, Default)]
struct Line {
    jobs: VecDeque<u64>,
    claimed: bool,
    /// Until when the first waits.
    due: Option<Instant>,
    /// Until when the vendor said, as it stands on disk.
    told: Option<Instant>,
}

#[derive(Debug, Default)]
struct Model {
    lines: BTreeMap<(u8, bool, u8), Line>,
    /// The newest statement accepted about a slot.
    latest: BTreeMap<(u8, u8), Stamp>,
    /// The newest statement that a slot is known to say.
    said: BTreeMap<(u8, u8), Stamp>,
    /// Everything that was put.
    stamps: BTreeMap<u64, Stamp>,
    /// When a message was told.
    told: BTreeMap<(u8, u8, u8), Instant>,
    claims: Vec<(Put, Arc<Job>)>,
    puts: BTreeMap<u64, Put>,
    next: u64,
    ended: Vec<u64>,
    superseded: Vec<u64>,
    closed: bool,
}

impl Model {
    fn held(&self) -> usize {
        self.lines.values().map(|line| line.jobs.len()).sum()
    }

    fn line(&mut self, put: Put) -> &mut Line {
        self.lines.entry((put.provider, put.is_slot, put.about)).or_default()
    }

    fn of_provider(&self, provider: u8) -> usize {
        self.claims.iter().filter(|(put, _)| put.provider == provider).count()
    }

    /// The fates of those jobs of a batch that are not to be stored.
    fn fates(&self, puts: &[Put], jobs: &[NewJob]) -> Vec<Option<Fate>> {
        let mut fates = self.needless(puts, jobs);
        let mut order: Vec<usize> = (0..puts.len()).filter(|at| fates[*at].is_none()).collect();
        order.sort_by_key(|at| (!puts[*at].is_slot, puts[*at].words));
        let held = |of: u8| {
            self.lines.iter().filter(|((provider, ..), _)| *provider == of).map(|(_, line)| line.jobs.len()).sum()
        };
        let mut held: [usize; 2] = [held(0), held(1)];
        for at in order {
            let put = puts[at];
            let all = held[0] + held[1] + 1;
            let free = LIMITS.jobs.saturating_sub(all);
            // All are of one namespace.
            let (most, most_of_provider) = if put.is_slot { (9 * free, 4 * free) } else { (2 * free, free) };
            let of_provider = held[usize::from(put.provider)];
            let has_room =
                all <= LIMITS.jobs && (all == 1 || all <= most) && (of_provider == 0 || of_provider < most_of_provider);
            let waits = |line: &Line| line.jobs.len() > usize::from(line.claimed);
            let line = self.lines.get(&(put.provider, put.is_slot, put.about));
            if has_room || put.is_slot && line.is_some_and(waits) {
                held[usize::from(put.provider)] += 1;
            } else {
                fates[at] = Some(Fate::NoRoom);
            }
        }
        fates
    }

    fn needless(&self, puts: &[Put], jobs: &[NewJob]) -> Vec<Option<Fate>> {
        let fate = |(put, new): (&Put, &NewJob)| {
            if put.is_slot {
                let latest = self.latest.get(&(put.provider, put.about))?;
                return new.stamp.is_older_than(latest).then_some(Fate::Superseded);
            }
            let told = self.told.get(&(put.provider, put.about, put.words))?;
            (new.stamp.arrived - *told < LIMITS.repeat_interval).then_some(Fate::Repeat)
        };
        puts.iter().zip(jobs).map(fate).collect()
    }

    /// The fate of one job of a batch that has room; the second value is how many gave way to it.
    fn put(&mut self, put: Put, id: u64, new: &NewJob) -> (Fate, usize) {
        let now = new.stamp.arrived;
        self.puts.insert(id, put);
        self.stamps.insert(id, new.stamp.clone());
        if put.is_slot {
            let latest = self.latest.get(&(put.provider, put.about));
            if latest.is_some_and(|latest| new.stamp.is_older_than(latest)) {
                return (Fate::Superseded, 0);
            }
            let stamp = new.stamp.clone().following(latest);
            self.latest.insert((put.provider, put.about), stamp);
            let line = self.line(put);
            let waiting = line.jobs.split_off(usize::from(line.claimed));
            line.jobs.push_back(id);
            line.due = None;
            if !line.claimed {
                line.told = None;
            }
            self.superseded.extend(&waiting);
            return (Fate::Stored, waiting.len());
        }
        let key = (put.provider, put.about, put.words);
        if self.told.get(&key).is_some_and(|told| now - *told < LIMITS.repeat_interval) {
            return (Fate::Repeat, 0);
        }
        self.told.insert(key, now);
        self.line(put).jobs.push_back(id);
        (Fate::Stored, 0)
    }

    /// Whether the first job about a subject could be claimed.
    fn ready(&self, now: Instant) -> impl Iterator<Item = &(u8, bool, u8)> {
        let ready = move |line: &Line| !line.jobs.is_empty() && !line.claimed && line.due.is_none_or(|due| due <= now);
        self.lines.iter().filter(move |(_, line)| ready(line)).map(|(subject, _)| subject)
    }

    fn claimed(&mut self, job: Arc<Job>, now: Instant) {
        let put = self.puts[&number(&job)];
        let sooner = |subject: &&(u8, bool, u8)| {
            let first = self.lines[*subject].jobs[0];
            subject.0 == put.provider && self.puts[&first].words < put.words
        };
        let sooner = self.ready(now).find(sooner);
        assert_eq!(sooner, None, "failures go first, then successes, then what is pending");
        let room = self.of_provider(put.provider) < LIMITS.per_provider;
        let line = self.line(put);
        assert!(room, "more than may be are under way for one Provider");
        assert!(!line.claimed, "two jobs about one subject are under way");
        assert!(line.due.is_none_or(|due| due <= now), "it was not due");
        assert_eq!(
            line.jobs.front(),
            Some(&number(&job)),
            "messages keep their order, and of statuses the newest is told"
        );
        (line.claimed, line.due) = (true, None);
        self.claims.push((put, job));
    }

    /// What another process finds: claims are forgotten, of a slot's jobs the newest is left, and a
    /// pause stands only when the vendor named it.
    fn crash(&mut self, now: Instant) {
        self.claims.clear();
        for (&(provider, is_slot, about), line) in &mut self.lines {
            line.claimed = false;
            line.told = line.told.filter(|due| *due > now);
            line.due = line.told;
            if !is_slot {
                continue;
            }
            let lately = |stamp: &&Stamp| now - stamp.arrived <= Stamp::VERSION_WINDOW;
            let said = self.said.get(&(provider, about)).filter(lately).cloned();
            let accepted = line.jobs.iter().map(|id| self.stamps[id].clone());
            let latest = accepted.fold(said, |latest, stamp| Some(stamp.following(latest.as_ref())));
            while line.jobs.len() > 1 {
                (line.due, line.told) = (None, None);
                self.superseded.extend(line.jobs.pop_front());
            }
            match latest {
                Some(stamp) => self.latest.insert((provider, about), stamp),
                None => self.latest.remove(&(provider, about)),
            };
        }
    }

    /// What was put longer ago than this and is not under way.
    fn late(&self, now: Instant, age: Duration) -> Vec<u64> {
        let waits = self.lines.values().flat_map(|line| line.jobs.iter().skip(usize::from(line.claimed)));
        waits.filter(|id| now - self.stamps[*id].arrived > age).copied().collect()
    }

    fn expire(&mut self, id: u64) {
        let line = self.line(self.puts[&id]);
        let at = line.jobs.iter().position(|job| *job == id).expect("it waits");
        line.jobs.remove(at);
        if at == 0 {
            (line.due, line.told) = (None, None);
        }
        self.ended.push(id);
    }

    /// A claimed job ends; whether a newer one took its place.
    fn settle(&mut self, put: Put, job: &Job, retry_at: Option<(Instant, bool)>, said: bool) -> Settled {
        let line = self.line(put);
        line.claimed = false;
        let followed = put.is_slot && line.jobs.len() > 1;
        if let (Some((due, told)), false) = (retry_at, followed) {
            (line.due, line.told) = (Some(due), told.then_some(due));
            return Settled::AsAsked;
        }
        line.jobs.pop_front();
        line.told = None;
        if said && put.is_slot {
            let key = (put.provider, put.about);
            let stamp = job.new.stamp.clone().following(self.said.get(&key));
            self.said.insert(key, stamp);
        }
        if retry_at.is_some() {
            self.superseded.push(number(job));
            Settled::Superseded
        } else {
            self.ended.push(number(job));
            Settled::AsAsked
        }
    }
}

/// Does a call to both, and compares what they say.
fn step(outbox: &dyn Outbox, model: &mut Model, clock: &TurnedClock, call: Call) {
    let now = clock.now();
    match call {
        Call::Put(puts) => {
            let jobs: Vec<NewJob> = puts.iter().zip(model.next..).map(|(put, id)| new_job(*put, id, now)).collect();
            let answer = block_on(outbox.put(jobs.clone()));
            if model.closed {
                assert_eq!(answer.expect_err("closed"), PutError::Closed);
            } else {
                let fates = model.fates(&puts, &jobs);
                if fates.iter().all(Option::is_some) && fates.contains(&Some(Fate::NoRoom)) {
                    assert_eq!(answer.expect_err("full"), PutError::Full);
                    model.next += jobs.len() as u64;
                    return;
                }
                let receipt = answer.expect("there is room");
                let first = model.next;
                let of = puts.iter().zip(&jobs).zip(first..).zip(fates);
                let expected: Vec<_> = of
                    .map(|(((put, job), id), fate)| fate.map_or_else(|| model.put(*put, id, job), |fate| (fate, 0)))
                    .collect();
                assert_eq!(receipt.fates, expected.iter().map(|(fate, _)| *fate).collect::<Vec<_>>());
                assert_eq!(receipt.replaced, expected.iter().map(|(_, replaced)| *replaced).collect::<Vec<_>>());
            }
            model.next += jobs.len() as u64;
        }
        Call::Claim(limit) => {
            let claims = outbox.claim(now, limit);
            model
                .lines
                .values_mut()
                .filter(|line| line.due.is_some_and(|due| due <= now))
                .for_each(|line| line.due = None);
            let full = claims.len() == limit;
            assert!(claims.len() <= limit);
            for job in claims {
                model.claimed(job, now);
            }
            let left = model.ready(now).find(|subject| model.of_provider(subject.0) < LIMITS.per_provider);
            assert!(full || left.is_none(), "{left:?} could have been claimed");
        }
        Call::Done(at, _) | Call::Retry(at, _) if !model.claims.is_empty() => {
            let at = at % model.claims.len();
            let (put, job) = model.claims.swap_remove(at);
            let followed = put.is_slot && model.line(put).jobs.len() > 1;
            assert_eq!(outbox.is_superseded(&job), followed);
            let (settlement, retry_at) = match call {
                Call::Retry(_, after) => {
                    let (pause, told) = (Duration::from_secs(after), after % 2 == 0);
                    (Settlement::Retry(Retry { pause, told, why: "not now".into() }), Some((now + pause, told)))
                }
                Call::Done(_, true) => (Settlement::Said, None),
                _ => (Settlement::Dropped, None),
            };
            let said = settlement == Settlement::Said;
            let settled = outbox.settle(&job, now, settlement);
            assert_eq!(settled, model.settle(put, &job, retry_at, said));
        }
        Call::Done(..) | Call::Retry(..) => {}
        Call::Crash => unreachable!("done by whoever holds the file"),
        Call::Wake(of) => {
            outbox.wake(&provider(of));
            model.lines.iter_mut().filter(|((provider, ..), _)| *provider == of).for_each(|(_, line)| line.due = None);
        }
        Call::Expire(age, limit) => {
            let age = Duration::from_secs(age);
            let late = outbox.expire(limit, &|new| now - new.stamp.arrived > age);
            let late: Vec<u64> = late.iter().map(number).collect();
            let expected = model.late(now, age);
            assert_eq!(late.len(), expected.len().min(limit));
            assert!(late.is_sorted() && late.iter().all(|id| expected.contains(id)), "{late:?} of {expected:?}");
            late.into_iter().for_each(|id| model.expire(id));
        }
        Call::Turn(seconds) => clock.turn(Duration::from_secs(seconds)),
        Call::Close => {
            outbox.close();
            model.closed = true;
        }
    }
    let Counts { held, claimed, .. } = outbox.counts();
    assert_eq!((held, claimed), (model.held(), model.claims.len()));
    let due =
        model.lines.values().filter(|line| !line.claimed && !line.jobs.is_empty()).filter_map(|line| line.due).min();
    assert_eq!(outbox.next_due(), due);
    let soon = now + Duration::from_secs(20);
    let due_by = model.lines.iter().filter(|(_, line)| !line.claimed && !line.jobs.is_empty());
    let due_by = due_by.filter(|(_, line)| line.due.is_none_or(|due| due <= soon));
    assert_eq!(outbox.due_by(soon), due_by.map(|((of, ..), _)| provider(*of)).collect());
}

/// Nothing is lost: what is left comes out, and then every job that was stored has ended, once.
fn work_off(outbox: &dyn Outbox, model: &mut Model, clock: &TurnedClock) {
    for _ in 0..LIMITS.jobs * 2 {
        clock.turn(Duration::from_secs(60));
        step(outbox, model, clock, Call::Claim(usize::MAX));
        for _ in 0..model.claims.len() {
            step(outbox, model, clock, Call::Done(0, true));
        }
    }
    assert_eq!(outbox.counts(), Counts::default());
    let mut all: Vec<u64> = model.ended.iter().chain(&model.superseded).copied().collect();
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count, "nothing ends twice");
}

/// A commit status about a name of its own.
pub fn status_job(about: u8, state: State, now: Instant) -> NewJob {
    let words =
        [State::Failure, State::Success, State::Pending].iter().position(|of| *of == state).expect("one of them");
    new_job(Put { provider: 0, about, is_slot: true, version: None, words: words as u8 }, about.into(), now)
}

/// What makes a message of this text a repeat.
pub fn message_key(text: &str) -> RepeatKey {
    let event = Event { message: text.into(), ..Default::default() };
    RepeatKey::new(&event, Marks::of(&event), "alert", "provider")
}

pub fn options(path: PathBuf, limits: Limits) -> Options {
    let (retention, sync_delay) = (Duration::from_secs(3600), Duration::ZERO);
    Options { path, max_bytes: 64 << 20, retention, limits, sync_delay }
}

fn open(path: &Path, clock: &Arc<TurnedClock>) -> DurableOutbox {
    DurableOutbox::open(options(path.to_owned(), LIMITS), clock.clone()).expect("it opens")
}

/// The files as a crash would leave them now, in a folder of their own.
fn as_a_crash_leaves_it(path: &Path, number: usize) -> PathBuf {
    let copy = path.with_file_name(format!("{number}.db"));
    for suffix in ["", "-wal"] {
        let of = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
        if of(path).exists() {
            fs::copy(of(path), of(&copy)).expect("copied");
        }
    }
    copy
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_outbox_on_disk_does_what_a_list_would_and_survives(calls in calls(3)) {
        let (dir, clock) = (tempfile::tempdir().expect("a folder"), TurnedClock::new());
        clock.turn(Duration::from_secs(10_000));
        let mut path = dir.path().join("0.db");
        let mut outbox = open(&path, &clock);
        let mut model = Model::default();
        for (number, call) in calls.into_iter().enumerate() {
            if let Call::Crash = call {
                block_on(outbox.finish());
                path = as_a_crash_leaves_it(&path, number + 1);
                outbox = open(&path, &clock);
                model.crash(clock.now());
                model.closed = false;
            } else {
                step(&outbox, &mut model, &clock, call);
            }
        }
        work_off(&outbox, &mut model, &clock);
        block_on(outbox.finish());
        prop_assert_eq!(Reader::open(&path).expect("it opens").jobs(None).expect("it reads").len(), 0);
    }

    /// No settlement is waited for here: a job may be found again whose end was not written yet, but
    /// none is missing whose end was never told.
    #[test]
    fn a_crash_at_any_moment_loses_nothing(settled in 0..200usize) {
        let (dir, clock) = (tempfile::tempdir().expect("a folder"), TurnedClock::new());
        let path = dir.path().join("0.db");
        let limits = Limits { jobs: 1000, per_provider: 1000, ..LIMITS };
        let outbox = DurableOutbox::open(options(path.clone(), limits), clock.clone()).expect("it opens");
        let jobs = |from: u8| (from..from + 100).map(|about| {
            new_job(Put { provider: 0, about, is_slot: true, version: None, words: 0 }, about.into(), clock.now())
        });
        block_on(outbox.put(jobs(0).collect())).expect("there is room");
        block_on(outbox.put(jobs(100).collect())).expect("there is room");
        let claims = outbox.claim(clock.now(), usize::MAX);
        prop_assert_eq!(claims.len(), 200);
        for job in &claims[..settled] {
            outbox.settle(job, clock.now(), Settlement::Said);
        }
        let left = open(&as_a_crash_leaves_it(&path, 1), &clock);
        let found: Vec<u64> = left.claim(clock.now(), usize::MAX).iter().map(|job| number(job)).collect();
        let lines = left.counts();
        for job in &claims[settled..] {
            let waits = found.contains(&number(job)) || lines.held > found.len();
            prop_assert!(waits, "job {} is lost", number(job));
        }
        prop_assert!(lines.held >= 200 - settled);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_outbox_in_memory_does_what_a_list_would(calls in calls(0)) {
        let (outbox, clock) = (MemoryOutbox::new(LIMITS), TurnedClock::new());
        let mut model = Model::default();
        for call in calls {
            step(&outbox, &mut model, &clock, call);
        }
        work_off(&outbox, &mut model, &clock);
    }

    #[test]
    fn what_was_said_is_remembered_up_to_a_bound(places in prop::collection::vec(0..200u32, 1..400)) {
        let outbox = MemoryOutbox::new(LIMITS);
        for (number, place) in places.iter().enumerate() {
            let said = Said::status(None, &number.to_string());
            let known = Known { said, at: number as u32, by: "uid".into(), disputes: Disputes::default() };
            outbox.note(&place.to_string(), SOURCE, known.clone());
            prop_assert_eq!(outbox.known(&place.to_string(), SOURCE), Some(known));
        }
        let known = (0..200u32).filter(|place| outbox.known(&place.to_string(), SOURCE).is_some()).count();
        prop_assert!(known <= LIMITS.memory);
    }
}

#[test]
fn providers_take_turns() {
    let (outbox, clock) = (MemoryOutbox::new(Limits { jobs: 1000, ..LIMITS }), TurnedClock::new());
    let put = |provider, about| Put { provider, about, is_slot: true, version: None, words: 0 };
    for about in 0..100 {
        let busy = new_job(put(0, about), 0, clock.now());
        block_on(outbox.put(vec![busy])).expect("there is room");
    }
    let quiet = new_job(put(1, 0), 1, clock.now());
    block_on(outbox.put(vec![quiet])).expect("there is room");
    let first: Vec<_> = outbox.claim(clock.now(), 2).iter().map(|job| job.new.subject.provider().clone()).collect();
    assert!(first.contains(&provider(1)), "a hundred jobs of another do not come first: {first:?}");
}

/// A folder, a clock that is past its beginning, and the file in the folder.
fn place() -> (tempfile::TempDir, Arc<TurnedClock>, PathBuf) {
    let (dir, clock) = (tempfile::tempdir().expect("a folder"), TurnedClock::new());
    clock.turn(Duration::from_secs(10_000));
    let path = dir.path().join("sub/outbox.db");
    (dir, clock, path)
}

fn status(about: u8) -> Put {
    Put { provider: 0, about, is_slot: true, version: Some(5), words: 0 }
}

#[test]
fn a_file_that_cannot_be_used_is_set_aside() {
    type Case<'a> = (&'a str, &'a dyn Fn(&Path));
    let page = |text: &str| text.as_bytes().repeat(4096 / text.len());
    let foreign = |path: &Path| {
        let other = rusqlite::Connection::open(path).expect("it opens");
        other.execute_batch("CREATE TABLE theirs (x)").expect("it is made");
    };
    let later = |path: &Path| {
        drop(open(path, &TurnedClock::new()));
        let ours = rusqlite::Connection::open(path).expect("it opens");
        ours.pragma_update(None, "user_version", 99).expect("it is set");
    };
    let damage = |path: &Path| {
        let (outbox, clock) = (open(path, &TurnedClock::new()), TurnedClock::new());
        for about in 0..8 {
            block_on(outbox.put(vec![new_job(status(about), about.into(), clock.now())])).expect("there is room");
        }
        drop(outbox);
        let mut bytes = fs::read(path).expect("a file");
        let len = bytes.len();
        bytes[4096..len].fill(0xA5);
        fs::write(path, bytes).expect("it is written");
    };
    let garbage = |path: &Path| fs::write(path, page("not a database at all.")).expect("it is written");
    let cases: [Case<'_>; 4] = [("foreign", &foreign), ("later", &later), ("damaged", &damage), ("garbage", &garbage)];
    for (case, spoil) in cases {
        let (_dir, clock, path) = place();
        fs::create_dir(path.parent().expect("a folder")).expect("it is made");
        spoil(&path);
        let outbox = open(&path, &clock);
        assert_eq!(outbox.counts(), Counts::default(), "{case}");
        block_on(outbox.put(vec![new_job(status(1), 1, clock.now())])).expect("it works");
        assert!(PathBuf::from(format!("{}.unusable", path.display())).exists(), "{case}");
    }
}

#[test]
fn a_file_that_cannot_be_used_just_now_is_left_as_it_is() {
    let (_dir, clock, path) = place();
    let outbox = open(&path, &clock);
    block_on(outbox.put(vec![new_job(status(1), 1, clock.now())])).expect("there is room");
    drop(outbox);
    // SQLite can open neither, as when the disk has no room for them.
    for suffix in ["-wal", "-shm"] {
        let in_the_way = PathBuf::from(format!("{}{suffix}", path.display()));
        std::os::unix::fs::symlink("nowhere/to/be/found", &in_the_way).expect("it is made");
        let error = DurableOutbox::open(options(path.clone(), LIMITS), clock.clone()).err().expect("refused");
        let error = format!("{error:#}");
        assert!(error.contains("nothing in it was changed") && error.contains("unable to open"), "{error}");
        assert!(!PathBuf::from(format!("{}.unusable", path.display())).exists());
        fs::remove_file(in_the_way).expect("it is there");
    }
    assert_eq!(open(&path, &clock).counts().held, 1, "what waited in it goes on");
}

#[test]
fn no_wait_is_longer_after_a_restart_than_a_vendor_may_ask_for() {
    let (_dir, clock, path) = place();
    let outbox = open(&path, &clock);
    block_on(outbox.put(vec![new_job(status(1), 1, clock.now())])).expect("there is room");
    let job = outbox.claim(clock.now(), 1).pop().expect("it waits");
    // As it looks when the wall clock was set back meanwhile.
    let pause = Duration::from_secs(10 * 24 * 3600);
    outbox.settle(&job, clock.now(), Settlement::Retry(Retry { pause, told: true, why: "429".into() }));
    block_on(outbox.finish());
    drop(outbox);
    assert_eq!(open(&path, &clock).next_due(), Some(clock.now() + LONGEST_WAIT));
}

/// Panics when it is asked by a thread of this name, once it is told to.
struct Trap(Arc<TurnedClock>, AtomicBool);

impl Clock for Trap {
    fn now(&self) -> Instant {
        let caller = std::thread::current();
        assert!(!(self.1.load(Ordering::Relaxed) && caller.name() == Some("outbox")), "as the test wants");
        self.0.now()
    }

    fn wall(&self) -> jiff::Timestamp {
        self.0.wall()
    }
}

#[test]
fn an_outbox_that_ended_by_a_bug_says_so() {
    let (_dir, clock, path) = place();
    let trap = Arc::new(Trap(clock, AtomicBool::new(false)));
    let outbox = DurableOutbox::open(options(path, LIMITS), trap.clone()).expect("it opens");
    trap.1.store(true, Ordering::Relaxed);
    assert_eq!(block_on(outbox.operations()), None, "which ends the process");
    assert!(!outbox.writes());
    let put = block_on(outbox.put(vec![new_job(status(1), 1, trap.now())]));
    assert_eq!(put.expect_err("nobody writes it"), PutError::Closed);
}

#[test]
fn text_that_is_none_sets_a_file_aside() {
    let (_dir, clock, path) = place();
    let outbox = open(&path, &clock);
    block_on(outbox.put(vec![new_job(status(1), 1, clock.now())])).expect("room");
    drop(outbox);
    let other = rusqlite::Connection::open(&path).expect("it opens");
    other.execute("UPDATE jobs SET why = CAST(X'FF' AS TEXT)", []).expect("done");
    drop(other);
    assert_eq!(open(&path, &clock).counts(), Counts::default());
    assert!(PathBuf::from(format!("{}.unusable", path.display())).exists());
}

#[test]
fn a_disk_that_hiccups_is_found_well_again_though_nobody_comes() {
    let (_dir, clock, path) = place();
    let outbox = open(&path, &clock);
    let other = rusqlite::Connection::open(&path).expect("it opens");
    // Longer than a writer waits for an operator.
    other.execute_batch("BEGIN IMMEDIATE").expect("it is free");
    let put = || block_on(outbox.put(vec![new_job(status(1), 1, clock.now())]));
    assert_eq!(put().expect_err("it is locked"), PutError::Unwritable);
    assert!(!outbox.writes());
    assert_eq!(put().expect_err("it was so just now"), PutError::Unwritable, "and it is not tried again yet");
    drop(other);
    clock.turn(Duration::from_secs(2));
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !outbox.writes() {
        assert!(std::time::Instant::now() < deadline, "it is never tried again");
        std::thread::yield_now();
    }
    put().expect("it works");
}

#[test]
fn a_version_that_no_etcd_gives_spoils_nothing() {
    let (_dir, clock, path) = place();
    let outbox = open(&path, &clock);
    let mut job = new_job(status(1), 1, clock.now());
    job.stamp.version = Some(u64::MAX);
    block_on(outbox.put(vec![job])).expect("there is room");
    let job = outbox.claim(clock.now(), 1).pop().expect("it waits");
    outbox.settle(&job, clock.now(), Settlement::Said);
    block_on(outbox.finish());
    block_on(outbox.put(vec![new_job(status(2), 2, clock.now())])).expect("it can be written");
    assert!(outbox.writes());
    drop(outbox);
    assert_eq!(open(&path, &clock).counts().held, 1, "the first is over");
}

#[test]
fn a_file_that_goes_bad_in_use_is_replaced_by_what_is_in_memory() {
    let (_dir, clock, path) = place();
    let outbox = open(&path, &clock);
    block_on(outbox.put(vec![new_job(status(1), 1, clock.now())])).expect("there is room");
    let other = rusqlite::Connection::open(&path).expect("it opens");
    other.execute_batch("DROP TABLE jobs").expect("done");
    drop(other);
    let put = |about: u8| block_on(outbox.put(vec![new_job(status(about), about.into(), clock.now())]));
    let taken = (2..9).filter(|about| put(*about).is_ok()).count();
    assert!(taken > 0, "it works again");
    let held = outbox.counts().held;
    assert_eq!(held, taken + 1, "what was refused is not held");
    drop(outbox);
    assert_eq!(open(&path, &clock).counts().held, held, "and all of it is in the fresh file");
}

#[test]
fn the_file_and_its_folder_are_readable_by_nobody_else() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, clock, path) = place();
    let outbox = open(&path, &clock);
    block_on(outbox.put(vec![new_job(status(1), 1, clock.now())])).expect("there is room");
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(path.parent().expect("a folder")), 0o700);
    for suffix in ["", "-wal", "-shm", ".lock"] {
        assert_eq!(mode(Path::new(&format!("{}{suffix}", path.display()))), 0o600, "{suffix}");
    }
}

#[test]
fn a_second_process_is_told_who_has_the_file() {
    let (_dir, clock, path) = place();
    let _first = open(&path, &clock);
    let error = DurableOutbox::open(options(path, LIMITS), clock).err().expect("refused").to_string();
    assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
}

#[test]
fn a_full_file_refuses_and_loses_nothing() {
    let (_dir, clock, path) = place();
    let limits = Limits { jobs: 100_000, bytes: usize::MAX, ..LIMITS };
    let small = Options { max_bytes: 17 << 20, ..options(path.clone(), limits) };
    let outbox = DurableOutbox::open(small, clock.clone()).expect("it opens");
    let message = |id: u64| {
        let mut job = new_job(Put { is_slot: false, ..status(0) }, id, clock.now());
        job.repeat = None;
        job.notice = Notice::Event(Event { message: "x".repeat(50_000), ..Default::default() }.into());
        job
    };
    let taken = (0..200).take_while(|id| block_on(outbox.put(vec![message(*id)])).is_ok()).count();
    assert!((10..100).contains(&taken), "{taken} of 50 kB fit into a file of 1 MiB");
    assert!(matches!(block_on(outbox.put(vec![message(0)])), Err(PutError::Full)));
    assert_eq!(outbox.counts().held, taken);

    // Room comes with the first that ends.
    for _ in 0..4 {
        let job = outbox.claim(clock.now(), 1).pop().expect("one waits");
        outbox.settle(&job, clock.now(), Settlement::Said);
    }
    block_on(outbox.finish());
    block_on(outbox.put(vec![message(1)])).expect("there is room again");
    drop(outbox);
    let again = DurableOutbox::open(options(path, limits), clock).expect("it opens");
    assert_eq!(again.counts().held, taken - 3);
}

#[test]
fn a_provider_that_may_not_be_told_is_asked_for_again_in_its_turn() {
    let clock = TurnedClock::new();
    let outbox = MemoryOutbox::new(LIMITS);
    let message =
        |provider, about| new_job(Put { provider, about, is_slot: true, version: None, words: 1 }, 0, clock.now());
    block_on(outbox.put((0..3).flat_map(|about| [message(0, about), message(1, about)]).collect())).expect("room");
    let now = clock.now();
    let later = now + Duration::from_secs(1);
    let mut asked = 0;
    let claims = outbox.claim_if(now, 10, &mut |of| {
        asked += 1;
        if *of == provider(1) { Err(later) } else { Ok(Pick::First) }
    });
    assert_eq!((claims.len(), asked), (3, 4), "once for each job, and not again when it said no");
    let counts = outbox.counts();
    assert_eq!((counts.held, counts.claimed, counts.ready), (6, 3, 0));
    assert_eq!(outbox.next_due(), Some(later));
    assert!(outbox.claim(now, 10).is_empty());

    // A failure that comes meanwhile goes first, and asks for no sooner turn.
    block_on(outbox.put(vec![new_job(Put { words: 0, ..LATE }, 9, now)])).expect("room");
    assert!(outbox.claim(now, 10).is_empty());
    outbox.release(&provider(1));
    assert_eq!(number(&outbox.claim(now, 1)[0]), 9);
    // One at a time: the two take turns, though one of them was never let through before.
    let turn = |may: u8| {
        outbox.claim_if(later, 1, &mut |of| if *of == provider(may) { Ok(Pick::First) } else { Err(later) }).len()
    };
    assert_eq!((turn(1), turn(1), turn(0)), (1, 1, 0));
}

#[test]
fn where_one_goes_at_a_time_what_waits_longest_has_its_turn() {
    let clock = TurnedClock::new();
    let (outbox, now) = (MemoryOutbox::new(LIMITS), clock.now());
    let ranks = [(1, 1), (2, 0), (3, 0)];
    let jobs = ranks.map(|(about, words)| new_job(Put { about, words, ..LATE }, about.into(), now));
    block_on(outbox.put(jobs.to_vec())).expect("room");
    let mut order = Vec::new();
    for _ in 0..5 {
        let claims = outbox.claim_if(now, 1, &mut |_| Ok(Pick::Longest));
        let retry = Retry { pause: Duration::ZERO, told: false, why: String::new() };
        order.extend(claims.iter().map(|job| number(job)));
        outbox.settle(&claims[0], now, Settlement::Retry(retry));
    }
    assert_eq!(order, [1, 2, 3, 1, 2], "a success first, because it came first");
    assert_eq!(number(&outbox.claim(now, 1)[0]), 3, "failures first");
}

const LATE: Put = Put { provider: 1, about: 5, is_slot: true, version: None, words: 1 };

#[test]
fn what_a_credential_was_told_is_remembered_until_it_is_over() {
    let (_dir, clock, path) = place();
    let outbox = open(&path, &clock);
    let key = outbox.key().expect("it outlives the process");
    let minute = Duration::from_secs(60);
    let (now, at) = (clock.now(), |minutes: u32| Some(clock.now() + minutes * minute));
    let told = |credential: u8, wait, refusal| Standing { credential: [credential; 32], wait, refusal };
    let refused = |until: Option<Instant>, times| until.map(|until| Refusal { status: 401, until, times });
    let told_all = [
        told(1, at(1), None),
        told(2, at(1), None),
        told(2, at(2), None),
        told(3, None, refused(at(1), 1)),
        told(4, at(1), refused(at(2), 3)),
        told(5, None, refused(at(1), 1)),
        told(5, None, None),
    ];
    told_all.into_iter().for_each(|standing| outbox.keep(standing));
    block_on(outbox.finish());
    assert_eq!(outbox.kept(), [], "of an earlier process");
    drop(outbox);
    clock.turn(minute);
    let outbox = open(&path, &clock);
    assert_eq!(outbox.key(), Some(key));
    let mut kept = outbox.kept();
    kept.sort_by_key(|standing| standing.credential);
    // A refusal stands past its time: the next try tells whether it is over.
    let (due, later) = (refused(Some(now + minute), 1), Some(now + 2 * minute));
    assert_eq!(kept, [told(2, later, None), told(3, None, due), told(4, None, refused(later, 3))]);
    drop(outbox);
    clock.turn(minute);
    let kept = open(&path, &clock).kept();
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert!(kept.iter().all(|standing| standing.wait.is_none() && standing.refusal.is_some()));
}

/// Takes from a file what the last version of the tables added.
const WITHOUT_BODIES: &str =
    "DROP TRIGGER body_of_no_job; DROP INDEX jobs_of_body; ALTER TABLE jobs DROP COLUMN body; DROP TABLE bodies;";

#[test]
fn a_file_of_an_earlier_herald_is_brought_up_to_date() {
    // What the tables of each version had besides those of the first.
    let waits = "CREATE TABLE waits (provider TEXT PRIMARY KEY, until INTEGER NOT NULL) STRICT, WITHOUT ROWID;
        INSERT INTO waits VALUES ('uid', 9000000000000);";
    let credentials = "DROP TABLE standing; DROP TABLE key;";
    let versions = [
        (1, credentials.to_owned()),
        (2, format!("{credentials} {waits}")),
        (3, "ALTER TABLE standing DROP COLUMN times;".to_owned()),
        (4, String::new()),
    ];
    for (version, tables) in versions {
        let (_dir, clock, path) = place();
        let outbox = open(&path, &clock);
        block_on(outbox.put(vec![new_job(status(1), 1, clock.now())])).expect("room");
        drop(outbox);
        let other = rusqlite::Connection::open(&path).expect("it opens");
        let earlier = format!("{WITHOUT_BODIES} {tables} PRAGMA user_version = {version};");
        other.execute_batch(&earlier).expect("done");
        drop(other);

        assert_eq!(Reader::open(&path).expect("it opens").jobs(None).expect("as it is").len(), 1, "version {version}");
        let outbox = open(&path, &clock);
        let jobs = outbox.claim(clock.now(), 10);
        assert_eq!(jobs.iter().map(|job| number(job)).collect::<Vec<_>>(), [1], "version {version}");
        assert_eq!(outbox.kept(), [], "of whom a Provider was then nobody knows");
        let standing = Standing { credential: [1; 32], wait: Some(clock.now() + LONGEST_WAIT), refusal: None };
        outbox.keep(standing.clone());
        let key = outbox.key();
        drop(outbox);
        let outbox = open(&path, &clock);
        assert_eq!((outbox.kept(), outbox.key()), (vec![standing], key));
        assert!(!PathBuf::from(format!("{}.unusable", path.display())).exists());
    }
}

#[test]
fn what_was_refused_for_ever_is_tried_again_and_what_a_proxy_refused_is_forgotten() {
    let (_dir, clock, path) = place();
    drop(open(&path, &clock));
    let other = rusqlite::Connection::open(&path).expect("it opens");
    let earlier = "ALTER TABLE standing DROP COLUMN times;
        INSERT INTO standing VALUES (zeroblob(32), NULL, 401, NULL, 1000);
        INSERT INTO standing VALUES (randomblob(32), NULL, 407, NULL, 1000);
        PRAGMA user_version = 3;";
    other.execute_batch(&format!("{WITHOUT_BODIES} {earlier}")).expect("done");
    drop(other);
    let kept = open(&path, &clock).kept();
    let [Standing { credential: [0, ..], wait: None, refusal: Some(refusal) }] = &kept[..] else { panic!("{kept:?}") };
    assert!((refusal.status, refusal.times) == (401, 1) && refusal.until <= clock.now());
}

#[test]
fn operators_are_heard_while_it_runs() {
    let (_dir, clock, path) = place();
    let outbox = open(&path, &clock);
    block_on(outbox.put((1..4).map(|about| new_job(status(about), about.into(), clock.now())).collect()))
        .expect("room");
    let job = outbox.claim(clock.now(), 1).pop().expect("one waits");
    let why = "the vendor answered 502".to_owned();
    let retry = Retry { pause: Duration::from_secs(600), told: false, why: why.clone() };
    outbox.settle(&job, clock.now(), Settlement::Retry(retry));
    block_on(outbox.finish());

    let reader = Reader::open(&path).expect("it opens beside the writer");
    let rows = reader.jobs(None).expect("it reads");
    assert_eq!(rows.len(), 3);
    let row = rows.iter().find(|row| row.id == job.id).expect("it is there");
    assert_eq!((row.attempts, row.why.as_ref()), (1, Some(&why)));
    reader.ask(job.id, Act::Retry).expect("it writes");
    assert_eq!(block_on(outbox.operations()).expect("it runs"), [Operation { job: job.id, act: Act::Retry }]);
    assert!(reader.is_heard().expect("it reads"));
    assert_eq!(outbox.retry(job.id).as_ref(), Some(job.new.subject.provider()));
    assert_eq!(outbox.retry(job.id), None, "it waits no more");
    assert_eq!(outbox.next_due(), None);

    let dropped = outbox.discard(job.id).expect("it is not under way");
    assert_eq!(dropped.id, job.id);
    assert!(outbox.discard(job.id).is_none());
    assert_eq!(outbox.claim(clock.now(), 10).len(), 2, "the others are not touched");
    block_on(outbox.finish());
    assert_eq!(reader.jobs(Some(job.id)).expect("it reads").len(), 0);
}

/// Who vouches for what is noted here.
const SOURCE: Source = Source([1; 16]);

#[test]
fn what_is_uncertain_outlives_all_that_was_said() {
    let outbox = MemoryOutbox::new(LIMITS);
    let note = |place, said| {
        outbox.note(place, SOURCE, Known { said, at: 1, by: "p".into(), disputes: Disputes::default() });
    };
    let said = |outbox: &MemoryOutbox, place| outbox.known(place, SOURCE).map(|known| known.said);
    let mut memories = vec![outbox.memory()];
    let forget = [
        |outbox: &MemoryOutbox| outbox.forget_said(),
        |outbox: &MemoryOutbox| {
            outbox.distrust(true);
            let said = |place| outbox.known(place, SOURCE).map(|known| known.said);
            assert_eq!((outbox.memory(), said("said")), (None, None));
            assert_eq!(said("uncertain"), Some(Said::Uncertain(None)), "the vendor is asked in any case");
            outbox.distrust(false);
        },
    ];
    for forget in forget {
        note("said", Said::Nothing);
        note("uncertain", Said::Uncertain(None));
        forget(&outbox);
        assert_eq!(said(&outbox, "said"), None);
        assert_eq!(said(&outbox, "uncertain"), Some(Said::Uncertain(None)));
        memories.push(outbox.memory());
    }
    assert!(memories.iter().all(Option::is_some));
    memories.dedup();
    assert_eq!(memories.len(), 3, "each forgetting begins another memory");
}
