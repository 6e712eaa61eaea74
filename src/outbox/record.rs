//! A job as it is stored: one JSON text with a version, and beside it the event of a message, once for all its jobs, where
//! that is large. Written and read by the durable store, and
//! shown by `herald outbox show`.
//!
//! A record of a later version, or one that makes no sense, is an error: never a panic, never a
//! job that says something else.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::shares::{Body, Cost};
use super::{NewJob, RepeatKey, Stamp, Subject};
use crate::api::{Event, Key};
use crate::clock::Clock;
use crate::compose::{CommitStatus, Message, Notice};

/// The version that is written. Version 1, which has each message's event combined in its record, can be read.
pub const VERSION: u32 = 2;

/// Bytes of an event from which on it is stored once for all its jobs.
const LARGE: usize = 4 << 10;

/// The stored form of a job; its stamp's time is the wall clock's, which outlives the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// See [`NewJob::subject`].
    pub subject: Subject,
    /// UID of the involved object.
    pub uid: Arc<str>,
    /// Its resourceVersion.
    pub version: Option<u64>,
    /// When the event arrived, in milliseconds since 1970.
    pub arrived: i64,
    /// See [`NewJob::notice`].
    pub notice: Notice,
    /// See [`NewJob::provider`].
    pub provider: Key,
    /// See [`NewJob::alert`].
    pub alert: Key,
    /// See [`NewJob::object`].
    pub object: Arc<str>,
    /// See [`NewJob::repeat`].
    pub repeat: Option<RepeatKey>,
}

/// The same fields, borrowed for writing.
#[derive(Serialize)]
struct Borrowed<'a> {
    v: u32,
    subject: &'a Subject,
    uid: &'a str,
    version: Option<u64>,
    arrived: i64,
    notice: BorrowedNotice<'a>,
    provider: &'a Key,
    alert: &'a Key,
    object: &'a str,
    repeat: Option<&'a RepeatKey>,
}

#[derive(Serialize)]
enum BorrowedNotice<'a> {
    CommitStatus(&'a CommitStatus),
    Event {
        /// Absent where it is stored beside the record.
        #[serde(skip_serializing_if = "Option::is_none")]
        event: Option<&'a Event>,
        added: Option<&'a BTreeMap<String, String>>,
    },
}

/// The same fields, read; `N` is the notice of one version.
#[derive(Deserialize)]
struct Read<N> {
    subject: Subject,
    uid: Arc<str>,
    version: Option<u64>,
    arrived: i64,
    notice: N,
    provider: Key,
    alert: Key,
    object: Arc<str>,
    repeat: Option<RepeatKey>,
}

#[derive(Deserialize)]
enum NoticeOf1 {
    CommitStatus(CommitStatus),
    Event(Box<Event>),
}

#[derive(Deserialize)]
enum NoticeOf2 {
    CommitStatus(CommitStatus),
    Event { event: Option<Box<Event>>, added: Option<BTreeMap<String, String>> },
}

impl<N> Read<N> {
    fn with(self, notice: impl FnOnce(N) -> Result<Notice, RecordError>) -> Result<Record, RecordError> {
        let Self { subject, uid, version, arrived, notice: read, provider, alert, object, repeat } = self;
        Ok(Record { subject, uid, version, arrived, notice: notice(read)?, provider, alert, object, repeat })
    }
}

/// Why a stored record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It is not a record.
    #[error("it is not a record of a job: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A later Herald wrote it.
    #[error("it has version {0}, this Herald reads up to {VERSION}")]
    Version(u32),
    /// Its event was stored beside it, and is not there.
    #[error("its event is not in the file")]
    NoEvent,
}

/// Writes a job whole.
pub fn encode(job: &NewJob, times: &Times) -> Vec<u8> {
    write(job, times, false)
}

/// Writes a job, with its event or for one that is stored beside it.
fn write(job: &NewJob, times: &Times, event_beside: bool) -> Vec<u8> {
    let notice = match &job.notice {
        Notice::CommitStatus(status) => BorrowedNotice::CommitStatus(status),
        Notice::Event(message) => {
            BorrowedNotice::Event { event: (!event_beside).then_some(&message.event), added: message.added.as_ref() }
        }
    };
    let record = Borrowed {
        v: VERSION,
        subject: &job.subject,
        uid: &job.stamp.object,
        version: job.stamp.version,
        arrived: times.wall_of(job.stamp.arrived),
        notice,
        provider: &job.provider,
        alert: &job.alert,
        object: &job.object,
        repeat: job.repeat.as_ref(),
    };
    let mut bytes = Vec::with_capacity(if event_beside { REST } else { REST + size(job) });
    serde_json::to_writer(&mut bytes, &record).expect("maps with text keys always encode");
    bytes
}

/// Jobs as they are written together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// One for each job, with the place in `bodies` of its event where that is stored beside it.
    pub records: Vec<(Vec<u8>, Option<usize>)>,
    /// Large events, each once.
    pub bodies: Vec<Vec<u8>>,
}

impl Batch {
    /// Of these jobs and what each takes up.
    pub fn of<'a>(jobs: impl IntoIterator<Item = (&'a NewJob, Cost)>, times: &Times) -> Self {
        let (mut batch, mut places) = (Self::default(), HashMap::new());
        for (job, cost) in jobs {
            let body = match (&job.notice, cost.body) {
                (Notice::Event(message), Some(body)) => Some(*places.entry(body.at).or_insert_with(|| {
                    let event = serde_json::to_vec(&*message.event).expect("maps with text keys always encode");
                    batch.bodies.push(event);
                    batch.bodies.len() - 1
                })),
                _ => None,
            };
            batch.records.push((write(job, times, body.is_some()), body));
        }
        batch
    }

    /// How many there are of all.
    pub fn bytes(&self) -> usize {
        let records: usize = self.records.iter().map(|(record, _)| record.len()).sum();
        records + self.bodies.iter().map(Vec::len).sum::<usize>()
    }
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// The bytes are no record, or one of a later version, or its event is stored beside it.
pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
    decode_with(bytes, None)
}

/// The same of a job whose event is stored beside it.
///
/// # Errors
/// The bytes are no record, or one of a later version, or its event is not here.
pub fn decode_with(bytes: &[u8], body: Option<Arc<Event>>) -> Result<Record, RecordError> {
    #[derive(Deserialize)]
    struct Versioned {
        v: u32,
    }
    match serde_json::from_slice::<Versioned>(bytes)?.v {
        1 => serde_json::from_slice::<Read<NoticeOf1>>(bytes)?.with(|notice| {
            Ok(match notice {
                NoticeOf1::CommitStatus(status) => Notice::CommitStatus(status),
                NoticeOf1::Event(event) => Notice::Event(Message::from(*event)),
            })
        }),
        VERSION => serde_json::from_slice::<Read<NoticeOf2>>(bytes)?.with(|notice| {
            Ok(match notice {
                NoticeOf2::CommitStatus(status) => Notice::CommitStatus(status),
                NoticeOf2::Event { event, added } => {
                    let event = event.map(|event| Arc::new(*event)).or(body).ok_or(RecordError::NoEvent)?;
                    Notice::Event(Message { event, added })
                }
            })
        }),
        other => Err(RecordError::Version(other)),
    }
}

impl Record {
    /// The job, its times as of this process.
    pub fn into_job(self, times: &Times) -> NewJob {
        NewJob {
            stamp: Stamp { object: self.uid, version: self.version, arrived: times.past_instant_of(self.arrived) },
            subject: self.subject,
            notice: self.notice,
            provider: self.provider,
            alert: self.alert,
            object: self.object,
            repeat: self.repeat,
        }
    }
}

/// Keys, quotes, and the short fields of a record.
const REST: usize = 500;

/// What jobs take up in the outbox, in about the bytes of their records, without writing them.
pub(super) fn costs(jobs: &[NewJob]) -> Vec<Cost> {
    let mut last: Option<(&Arc<Event>, usize)> = None;
    let mut costs = Vec::with_capacity(jobs.len());
    for job in jobs {
        let mut cost = Cost { bytes: own_size(job), body: None };
        if let Notice::Event(message) = &job.notice {
            // Jobs of one event follow each other.
            let bytes = match last {
                Some((event, bytes)) if Arc::ptr_eq(event, &message.event) => bytes,
                _ => event_size(&message.event),
            };
            last = Some((&message.event, bytes));
            if bytes > LARGE {
                cost.body = Some(Body { at: Arc::as_ptr(&message.event).addr(), bytes });
            } else {
                cost.bytes += bytes;
            }
        }
        costs.push(cost);
    }
    costs
}

/// The same of one job.
pub(super) fn cost(job: &NewJob) -> Cost {
    costs(std::slice::from_ref(job))[0]
}

/// About how many bytes a job takes whole.
fn size(job: &NewJob) -> usize {
    let event = if let Notice::Event(message) = &job.notice { event_size(&message.event) } else { 0 };
    own_size(job) + event
}

/// The same without the event of a message.
fn own_size(job: &NewJob) -> usize {
    let names = job.alert.name.len() + job.provider.name.len() + job.object.len() * 2;
    REST + names
        + match &job.notice {
            Notice::CommitStatus(status) => status.name.len() * 2 + escaped(&status.description),
            Notice::Event(message) => {
                message.added.iter().flatten().map(|(key, value)| escaped(key) + escaped(value)).sum()
            }
        }
}

fn event_size(event: &Event) -> usize {
    let metadata: usize = event.metadata.iter().map(|(key, value)| escaped(key) + escaped(value) + 6).sum();
    let object = &event.involved_object;
    let rest = [&event.reason, &event.severity, &object.name, &object.kind, &event.reporting_controller];
    escaped(&event.message) + metadata + rest.iter().map(|text| escaped(text)).sum::<usize>()
}

/// Bytes of a text in JSON.
fn escaped(text: &str) -> usize {
    let more = |byte: u8| match byte {
        b'"' | b'\\' => 1,
        0..0x20 => 5,
        _ => 0,
    };
    text.len() + text.bytes().map(more).sum::<usize>()
}

/// This process' monotonic clock against the wall clock, both read once.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    now: Instant,
    /// Milliseconds since 1970.
    wall: i64,
}

impl Times {
    /// Of now.
    pub fn of(clock: &dyn Clock) -> Self {
        Self { now: clock.now(), wall: clock.wall().as_millisecond() }
    }

    /// Milliseconds since 1970.
    pub fn wall(&self) -> i64 {
        self.wall
    }

    /// The wall clock's time so long ago.
    pub fn before(&self, span: Duration) -> i64 {
        self.wall.saturating_sub(millis(span))
    }

    /// An instant on the wall clock.
    pub fn wall_of(&self, at: Instant) -> i64 {
        match at.checked_duration_since(self.now) {
            Some(ahead) => self.wall.saturating_add(millis(ahead)),
            None => self.wall.saturating_sub(millis(self.now - at)),
        }
    }

    /// A wall clock's time as an instant; what is out of reach, such as a time before the machine
    /// started, is now.
    pub fn instant_of(&self, wall: i64) -> Instant {
        let span = Duration::from_millis(self.wall.abs_diff(wall));
        let at = if wall > self.wall { self.now.checked_add(span) } else { self.now.checked_sub(span) };
        at.unwrap_or(self.now)
    }

    /// The same of something that has happened: no later than now, although the wall clock may have been set
    /// back since it was written.
    pub fn past_instant_of(&self, wall: i64) -> Instant {
        self.instant_of(wall.min(self.wall))
    }

    /// The same of a time that is no further ahead than this: the wall clock may have been set back since it
    /// was written.
    pub fn within(&self, wall: i64, longest: Duration) -> Instant {
        self.instant_of(wall).min(self.now + longest)
    }
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TurnedClock;
    use crate::compose::{Slot, State};

    fn jobs(arrived: Instant) -> [NewJob; 2] {
        let job = |subject, notice, repeat| NewJob {
            subject,
            stamp: Stamp { object: "uid".into(), version: Some(7), arrived },
            notice,
            provider: Key::new("ns", "provider"),
            alert: Key::new("ns", "alert"),
            object: "Kustomization/ns/app".into(),
            repeat,
        };
        let slot =
            Slot { provider: "uid".into(), repository: "".into(), commit: "c0ffee".into(), name: "kind/name".into() };
        let status = CommitStatus {
            commit: "c0ffee".into(),
            state: State::Failure,
            name: "kind/name".into(),
            description: "build failed \u{2028} \"quoted\"".into(),
            label: "l".into(),
            summary: Some("s".into()),
            over_failure: false,
        };
        let event = Event { message: "m".into(), reason: "r".into(), ..Default::default() };
        let repeat = RepeatKey::new(&event, crate::matching::gate::Marks::of(&event), "a", "p");
        let stream = Subject::Stream { provider: "uid".into(), about: "x".into() };
        [
            job(Subject::Slot(slot), Notice::CommitStatus(status), None),
            job(stream, Notice::Event(event.into()), Some(repeat)),
        ]
    }

    #[test]
    fn a_job_comes_back_as_it_was() {
        let clock = TurnedClock::new();
        clock.turn(Duration::from_secs(100));
        let times = Times::of(&*clock);
        for job in jobs(clock.now() - Duration::from_secs(3)) {
            let back = decode(&encode(&job, &times)).expect("it was just written").into_job(&times);
            assert_eq!(format!("{back:?}"), format!("{job:?}"));
        }
    }

    #[test]
    fn what_is_no_record_is_an_error() {
        let clock = TurnedClock::new();
        let times = Times::of(&*clock);
        let good = encode(&jobs(clock.now())[0], &times);
        let later = String::from_utf8(good.clone()).expect("text").replacen("\"v\":2", "\"v\":3", 1);
        assert!(matches!(decode(later.as_bytes()), Err(RecordError::Version(3))));
        for at in 0..good.len() {
            assert!(decode(&good[..at]).is_err(), "cut at {at}");
        }
        assert!(decode(b"{\"v\":2}").is_err());
    }

    #[test]
    fn a_record_of_version_1_is_read() {
        let text = r#"{"v":1,"subject":{"Stream":{"provider":"uid","about":"x"}},"uid":"u","version":7,"arrived":5,
            "notice":{"Event":{"involvedObject":{"kind":"K","namespace":"ns","name":"n"},"severity":"info",
            "timestamp":null,"message":"m","reason":"r","metadata":{"revision":"main"}}},
            "provider":{"namespace":"ns","name":"p"},"alert":{"namespace":"ns","name":"a"},"object":"K/ns/n","repeat":null}"#;
        let record = decode(text.as_bytes()).expect("it was written so once");
        let Notice::Event(message) = &record.notice else { panic!("{record:?}") };
        let sent = message.combined();
        assert_eq!((sent.message.as_str(), sent.metadata["revision"].as_str()), ("m", "main"));
    }

    #[test]
    fn a_large_event_is_written_once_for_its_jobs() {
        let clock = TurnedClock::new();
        let times = Times::of(&*clock);
        let [_, message] = jobs(clock.now());
        let event = Arc::new(Event { message: "\u{1}".repeat(10_000), ..Default::default() });
        let with = |added: &str| {
            let added = Some(BTreeMap::from([("env".to_owned(), added.to_owned())]));
            NewJob { notice: Notice::Event(Message { event: event.clone(), added }), ..message.clone() }
        };
        let jobs = [with("one"), with("two"), message.clone()];
        let costs = costs(&jobs);
        assert_eq!(costs[0].body, costs[1].body);
        assert!(costs[0].body.is_some_and(|body| body.bytes >= 60_000) && costs[2].body.is_none());
        let batch = Batch::of(jobs.iter().zip(costs), &times);
        assert_eq!(batch.bodies.len(), 1);
        for (job, (record, body)) in jobs.iter().zip(&batch.records) {
            assert!(record.len() < 1000);
            let event = body.map(|at| serde_json::from_slice::<Event>(&batch.bodies[at]).expect("an event").into());
            assert_eq!(event.is_none(), decode(record).is_ok());
            let back = decode_with(record, event).expect("it was just written").into_job(&times);
            assert_eq!(format!("{back:?}"), format!("{job:?}"));
        }
    }

    #[test]
    fn times_beyond_this_process_are_kept() {
        let clock = TurnedClock::new();
        let times = Times::of(&*clock);
        let long_ago = times.instant_of(0);
        assert_eq!(times.wall_of(long_ago), 0);
        let _out_of_reach = (times.instant_of(i64::MIN), times.instant_of(i64::MAX));
        assert_eq!(times.instant_of(times.wall() + 5000), clock.now() + Duration::from_secs(5));
        assert_eq!(times.past_instant_of(times.wall() + 5000), clock.now(), "it has happened");
    }
}
