//! The outbox in memory against a model that is too simple to be wrong: lists of numbers. Random
//! calls, and after each the two must agree.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use herald::api::{Event, Key};
use herald::clock::{Clock, TurnedClock};
use herald::compose::{CommitStatus, Notice, Slot, State};
use herald::matching::gate::Marks;
use herald::outbox::{
    Counts, Fate, Job, Limits, MemoryOutbox, NewJob, Outbox, PutError, RepeatKey, Said, Settled, Settlement, Stamp,
    Subject,
};
use proptest::prelude::*;

const LIMITS: Limits = Limits { jobs: 12, per_provider: 3, memory: 64, repeat_interval: Duration::from_secs(300) };

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
    Done(usize),
    Retry(usize, u64),
    Wake(u8),
    /// Seconds.
    Turn(u64),
    Close,
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let put = (0..2u8, 0..3u8, any::<bool>(), prop::option::of(1..6u64), 0..3u8)
        .prop_map(|(provider, about, is_slot, version, words)| Put { provider, about, is_slot, version, words });
    let call = prop_oneof![
        8 => prop::collection::vec(put, 1..4).prop_map(Call::Put),
        6 => (0..8usize).prop_map(Call::Claim),
        5 => any::<prop::sample::Index>().prop_map(|at| Call::Done(at.index(1000))),
        5 => (any::<prop::sample::Index>(), 0..40u64).prop_map(|(at, after)| Call::Retry(at.index(1000), after)),
        2 => (0..2u8).prop_map(Call::Wake),
        3 => (0..90u64).prop_map(Call::Turn),
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
            state: State::Success,
            name: "n".into(),
            label: "n".into(),
            summary: None,
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
}

#[derive(Debug, Default)]
struct Model {
    lines: BTreeMap<(u8, bool, u8), Line>,
    /// The newest statement accepted about a slot.
    latest: BTreeMap<(u8, u8), Stamp>,
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

    /// The fate of one job of a batch that has room; the second value is how many gave way to it.
    fn put(&mut self, put: Put, id: u64, new: &NewJob) -> (Fate, usize) {
        let now = new.stamp.arrived;
        self.puts.insert(id, put);
        if put.is_slot {
            let latest = self.latest.get(&(put.provider, put.about));
            if latest.is_some_and(|latest| new.stamp.is_older_than(latest)) {
                return (Fate::Superseded, 0);
            }
            self.latest.insert((put.provider, put.about), new.stamp.clone());
            let line = self.line(put);
            let waiting = line.jobs.split_off(usize::from(line.claimed));
            line.jobs.push_back(id);
            line.due = None;
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

    /// A claimed job ends; whether a newer one took its place.
    fn settle(&mut self, put: Put, job: &Job, retry_at: Option<Instant>) -> Settled {
        let line = self.line(put);
        line.claimed = false;
        let followed = put.is_slot && line.jobs.len() > 1;
        if let (Some(due), false) = (retry_at, followed) {
            line.due = Some(due);
            return Settled::AsAsked;
        }
        line.jobs.pop_front();
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
fn step(outbox: &MemoryOutbox, model: &mut Model, clock: &TurnedClock, call: Call) {
    let now = clock.now();
    match call {
        Call::Put(puts) => {
            let jobs: Vec<NewJob> = puts.iter().zip(model.next..).map(|(put, id)| new_job(*put, id, now)).collect();
            let answer = outbox.put(jobs.clone()).now_or_never().expect("memory answers at once");
            if model.closed {
                assert_eq!(answer.expect_err("closed"), PutError::Closed);
            } else if model.held() + jobs.len() > LIMITS.jobs {
                assert_eq!(answer.expect_err("full"), PutError::Full);
            } else {
                let receipt = answer.expect("there is room");
                let first = model.next;
                let expected: Vec<_> =
                    puts.iter().zip(&jobs).zip(first..).map(|((put, job), id)| model.put(*put, id, job)).collect();
                assert_eq!(receipt.fates, expected.iter().map(|(fate, _)| *fate).collect::<Vec<_>>());
                assert_eq!(receipt.replaced, expected.iter().map(|(_, replaced)| replaced).sum::<usize>());
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
        Call::Done(at) | Call::Retry(at, _) if !model.claims.is_empty() => {
            let at = at % model.claims.len();
            let (put, job) = model.claims.swap_remove(at);
            let followed = put.is_slot && model.line(put).jobs.len() > 1;
            assert_eq!(outbox.is_superseded(&job), followed);
            let (settlement, retry_at) = match call {
                Call::Retry(_, after) => {
                    let after = Duration::from_secs(after);
                    (Settlement::Retry(after), Some(now + after))
                }
                _ => (Settlement::Done, None),
            };
            let settled = outbox.settle(&job, now, settlement);
            assert_eq!(settled, model.settle(put, &job, retry_at));
        }
        Call::Done(_) | Call::Retry(..) => {}
        Call::Wake(of) => {
            outbox.wake(&provider(of));
            model.lines.iter_mut().filter(|((provider, ..), _)| *provider == of).for_each(|(_, line)| line.due = None);
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
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_outbox_does_what_a_list_would(calls in calls()) {
        let (outbox, clock) = (MemoryOutbox::new(LIMITS), TurnedClock::new());
        let mut model = Model::default();
        for call in calls {
            step(&outbox, &mut model, &clock, call);
        }

        // Nothing is lost: what is left comes out, and then every job that was stored has ended.
        for _ in 0..LIMITS.jobs * 2 {
            clock.turn(Duration::from_secs(60));
            step(&outbox, &mut model, &clock, Call::Claim(usize::MAX));
            for _ in 0..model.claims.len() {
                step(&outbox, &mut model, &clock, Call::Done(0));
            }
        }
        assert_eq!(outbox.counts(), Counts::default());
        let mut all: Vec<u64> = model.ended.iter().chain(&model.superseded).copied().collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        prop_assert_eq!(all.len(), count, "nothing ends twice");
    }

    #[test]
    fn what_was_said_is_remembered_up_to_a_bound(places in prop::collection::vec(0..200u32, 1..400)) {
        let outbox = MemoryOutbox::new(LIMITS);
        for (number, place) in places.iter().enumerate() {
            let said = Said::Status { state: None, description: number.to_string().as_str().into() };
            outbox.note(&place.to_string(), said.clone());
            prop_assert_eq!(outbox.said(&place.to_string()), Some(said));
        }
        let known = (0..200u32).filter(|place| outbox.said(&place.to_string()).is_some()).count();
        prop_assert!(known <= LIMITS.memory);
    }
}

#[test]
fn providers_take_turns() {
    let (outbox, clock) = (MemoryOutbox::new(Limits { jobs: 1000, ..LIMITS }), TurnedClock::new());
    let put = |provider, about| Put { provider, about, is_slot: true, version: None, words: 0 };
    for about in 0..100 {
        let busy = new_job(put(0, about), 0, clock.now());
        outbox.put(vec![busy]).now_or_never().expect("at once").expect("there is room");
    }
    let quiet = new_job(put(1, 0), 1, clock.now());
    outbox.put(vec![quiet]).now_or_never().expect("at once").expect("there is room");
    let first: Vec<_> = outbox.claim(clock.now(), 2).iter().map(|job| job.new.subject.provider().clone()).collect();
    assert!(first.contains(&provider(1)), "a hundred jobs of another do not come first: {first:?}");
}
