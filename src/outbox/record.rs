//! A job as it is stored: one JSON text with a version. Written and read by the durable store, and
//! shown by `herald outbox show`.
//!
//! A record of a later version, or one that makes no sense, is an error: never a panic, never a
//! job that says something else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{NewJob, RepeatKey, Stamp, Subject};
use crate::api::Key;
use crate::clock::Clock;
use crate::compose::Notice;

/// The version that is written. Older ones can be read; none exists yet.
pub const VERSION: u32 = 1;

/// The stored form of a job; its stamp's time is the wall clock's, which outlives the process.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Record {
    /// [`VERSION`].
    pub v: u32,
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
    notice: &'a Notice,
    provider: &'a Key,
    alert: &'a Key,
    object: &'a str,
    repeat: Option<&'a RepeatKey>,
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
}

/// Writes a job.
pub fn encode(job: &NewJob, times: &Times) -> Vec<u8> {
    let record = Borrowed {
        v: VERSION,
        subject: &job.subject,
        uid: &job.stamp.object,
        version: job.stamp.version,
        arrived: times.wall_of(job.stamp.arrived),
        notice: &job.notice,
        provider: &job.provider,
        alert: &job.alert,
        object: &job.object,
        repeat: job.repeat.as_ref(),
    };
    let mut bytes = Vec::with_capacity(size(job) + 256);
    serde_json::to_writer(&mut bytes, &record).expect("maps with text keys always encode");
    bytes
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// The bytes are no record, or one of a later version.
pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
    #[derive(Deserialize)]
    struct Versioned {
        v: u32,
    }
    match serde_json::from_slice::<Versioned>(bytes)?.v {
        VERSION => Ok(serde_json::from_slice(bytes)?),
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

/// About how many bytes a job takes, without writing it.
pub fn size(job: &NewJob) -> usize {
    /// Keys, quotes, and the short fields.
    const REST: usize = 500;
    match &job.notice {
        Notice::CommitStatus(status) => REST + status.name.len() * 2 + status.description.len(),
        Notice::Event(event) => {
            let metadata: usize = event.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
            REST + event.message.len() + metadata
        }
    }
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
    use crate::api::Event;
    use crate::clock::TurnedClock;
    use crate::compose::{CommitStatus, Slot, State};

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
            job(stream, Notice::Event(Box::new(event)), Some(repeat)),
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
        let later = String::from_utf8(good.clone()).expect("text").replacen("\"v\":1", "\"v\":2", 1);
        assert!(matches!(decode(later.as_bytes()), Err(RecordError::Version(2))));
        for at in 0..good.len() {
            assert!(decode(&good[..at]).is_err(), "cut at {at}");
        }
        assert!(decode(b"{\"v\":1}").is_err());
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
