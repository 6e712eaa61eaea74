//! The outbox's file under the hands of others: removed, replaced, read for hours, on a full disk, written under a
//! clock that was set back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use herald::api::{Event, Key};
use herald::clock::{Clock, TurnedClock};
use herald::compose::{Notice, State};
use herald::outbox::{DurableOutbox, Limits, NewJob, Outbox, PutError, Reader, Settlement, Stamp, Subject};

use crate::outbox::{message_key, options, status_job};

/// How long the thread that writes may take to notice something.
const NOTICED: Duration = Duration::from_secs(20);

fn limits() -> Limits {
    Limits { repeat_interval: Duration::from_secs(300), ..Limits::default() }
}

fn clock() -> Arc<TurnedClock> {
    let clock = TurnedClock::new();
    clock.turn(Duration::from_secs(100_000));
    clock
}

fn open(path: &Path, clock: &Arc<TurnedClock>) -> DurableOutbox {
    DurableOutbox::open(options(path.to_owned(), limits()), clock.clone()).expect("it opens")
}

/// A message of so many bytes about its own object.
fn message(id: u64, bytes: usize, now: Instant) -> NewJob {
    let about = format!("about-{id}").into();
    let event = Event { message: "x".repeat(bytes), ..Default::default() };
    NewJob {
        subject: Subject::Stream { provider: "provider".into(), about },
        stamp: Stamp { object: "uid".into(), version: None, arrived: now },
        notice: Notice::Event(event.into()),
        provider: Key::new("ns", "provider"),
        alert: Key::new("ns", "alert"),
        object: "Kustomization/ns/app".into(),
        repeat: None,
    }
}

fn put(outbox: &DurableOutbox, job: NewJob) -> Result<(), PutError> {
    block_on(outbox.put(vec![job])).map(drop)
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + NOTICED;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The numbers of the jobs in the file.
fn rows(path: &Path) -> Vec<u64> {
    let Ok(reader) = Reader::open(path) else { return Vec::new() };
    reader.jobs(None).map(|rows| rows.iter().map(|row| row.id).collect()).unwrap_or_default()
}

fn with(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

#[test]
fn a_file_that_is_removed_or_replaced_is_made_anew_from_memory() {
    type Case<'a> = (&'a str, &'a dyn Fn(&Path));
    let remove = |path: &Path, suffixes: &[&str]| {
        suffixes.iter().for_each(|suffix| fs::remove_file(with(path, suffix)).expect("it is there"));
    };
    let all = |path: &Path| remove(path, &["", "-wal", "-shm", ".lock"]);
    let log = |path: &Path| remove(path, &["-wal"]);
    let file = |path: &Path| remove(path, &[""]);
    let folder = |path: &Path| fs::remove_dir_all(path.parent().expect("a folder")).expect("it is there");
    let another = |path: &Path| {
        fs::write(with(path, ".other"), "not a database").expect("it is written");
        fs::rename(with(path, ".other"), path).expect("it is moved");
    };
    let cases: [Case<'_>; 5] =
        [("all", &all), ("log", &log), ("file", &file), ("folder", &folder), ("another", &another)];
    for (case, harm) in cases {
        let (dir, clock) = (tempfile::tempdir().expect("a folder"), clock());
        let path = dir.path().join("sub/outbox.db");
        let outbox = open(&path, &clock);
        put(&outbox, status_job(1, State::Failure, clock.now())).expect("room");
        harm(&path);
        for id in 2..20 {
            let _ = put(&outbox, status_job(id, State::Failure, clock.now()));
        }
        until(case, || rows(&path).len() == outbox.counts().held);
        assert!(outbox.counts().held > 1 && outbox.unready().is_none(), "{case}");
        assert!(herald::outbox::is_in_use(&path).expect("known"), "{case}: the lock is held anew");
        let held = outbox.counts().held;
        drop(outbox);
        assert_eq!(open(&path, &clock).counts().held, held, "{case}");
    }
}

#[test]
fn a_path_that_another_process_took_is_left_to_it() {
    let (dir, clock) = (tempfile::tempdir().expect("a folder"), clock());
    let path = dir.path().join("outbox.db");
    let first = open(&path, &clock);
    for suffix in ["", "-wal", "-shm", ".lock"] {
        fs::remove_file(with(&path, suffix)).expect("it is there");
    }
    // The first may be quicker.
    let options = || options(path.clone(), limits());
    let Ok(second) = DurableOutbox::open(options(), clock.clone()) else { return };
    put(&second, status_job(7, State::Failure, clock.now())).expect("room");
    until("the first says that it cannot be written", || first.unready().is_some());
    assert_eq!(put(&first, status_job(1, State::Failure, clock.now())), Err(PutError::Unwritable));
    assert_eq!(rows(&path).len(), 1, "the file of the second is whole");
    drop(first);
    put(&second, status_job(8, State::Failure, clock.now())).expect("room");
}

#[test]
fn a_reader_that_stays_bounds_the_log_and_not_the_outbox_for_ever() {
    let (dir, clock) = (tempfile::tempdir().expect("a folder"), clock());
    let path = dir.path().join("outbox.db");
    let outbox = open(&path, &clock);
    put(&outbox, message(0, 10, clock.now())).expect("room");
    let reader = rusqlite::Connection::open(&path).expect("it opens");
    reader.execute_batch("BEGIN; SELECT count(*) FROM jobs").expect("it reads");
    let taken = (1..120u64).take_while(|id| put(&outbox, message(*id, 500_000, clock.now())).is_ok()).count();
    assert!((10..40).contains(&taken), "{taken} of 500 kB");
    let log = || fs::metadata(with(&path, "-wal")).expect("it is there").len() >> 20;
    assert!(log() <= 16, "{} MiB of log", log());
    // What ended is written all the same.
    let job = outbox.claim(clock.now(), 1).pop().expect("one waits");
    outbox.settle(&job, clock.now(), Settlement::Said);
    let small = (200..400u64).take_while(|id| put(&outbox, message(*id, 50_000, clock.now())).is_ok()).count();
    assert!(small < 30, "{small} of 50 kB");
    clock.turn(Duration::from_secs(61));
    assert!(outbox.unready().is_some_and(|why| why.contains("no room")), "{:?}", outbox.unready());
    drop(reader);
    until("there is room again", || {
        clock.turn(Duration::from_secs(2));
        put(&outbox, message(500, 500_000, clock.now())).is_ok()
    });
    assert_eq!((outbox.unready(), rows(&path).len()), (None, outbox.counts().held));
}

#[test]
fn a_clock_that_was_set_back_makes_no_message_a_repeat_for_long() {
    let (dir, clock) = (tempfile::tempdir().expect("a folder"), clock());
    let path = dir.path().join("outbox.db");
    let told = || NewJob { repeat: Some(message_key("disk full")), ..message(1, 10, clock.now()) };
    let outbox = open(&path, &clock);
    put(&outbox, told()).expect("room");
    let job = outbox.claim(clock.now(), 1).pop().expect("it waits");
    outbox.settle(&job, clock.now(), Settlement::Said);
    put(&outbox, status_job(2, State::Failure, clock.now())).expect("room");
    block_on(outbox.finish());
    drop(outbox);
    let other = rusqlite::Connection::open(&path).expect("it opens");
    assert_eq!(other.execute("UPDATE messages SET at = at + 3600000", []).expect("done"), 1);
    let record: Vec<u8> = other.query_row("SELECT record FROM jobs", [], |row| row.get(0)).expect("one");
    let mut record: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
    record["arrived"] = (record["arrived"].as_i64().expect("a number") + 3_600_000).into();
    other.execute("UPDATE jobs SET record = ?1", [record.to_string().as_bytes()]).expect("done");
    drop(other);

    // Twice: what was put right once stays so.
    for _ in 0..2 {
        drop(open(&path, &clock));
        clock.turn(Duration::from_secs(100));
    }
    let outbox = open(&path, &clock);
    let job = outbox.claim(clock.now(), 1).pop().expect("it waits");
    assert!(job.new.stamp.arrived <= clock.now());
    clock.turn(Duration::from_secs(120));
    put(&outbox, told()).expect("room");
    assert_eq!(outbox.counts().held, 2, "it is no repeat 320 s after it was told");
}

#[test]
fn after_a_restart_every_job_may_have_been_tried() {
    let (dir, clock) = (tempfile::tempdir().expect("a folder"), clock());
    let path = dir.path().join("outbox.db");
    let outbox = open(&path, &clock);
    put(&outbox, status_job(1, State::Failure, clock.now())).expect("room");
    let job = outbox.claim(clock.now(), 1).pop().expect("it waits");
    assert!(!job.taken_up, "this process knows what it did itself");
    drop(outbox);
    let outbox = open(&path, &clock);
    // A newer statement takes its place before anybody tries it.
    put(&outbox, status_job(1, State::Success, clock.now())).expect("room");
    let job = outbox.claim(clock.now(), 1).pop().expect("it waits");
    assert!(job.taken_up, "the first try may have been under way");
    put(&outbox, status_job(2, State::Failure, clock.now())).expect("room");
    assert!(!outbox.claim(clock.now(), 1)[0].taken_up, "of another status nothing was");
}

/// A file system of 4 MiB; unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Only root may mount; `None` else.
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a folder");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(dir.path()).output();
        mount.is_ok_and(|mount| mount.status.success()).then(|| Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

#[test]
fn a_disk_that_was_full_takes_events_again_once_what_waited_is_over() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("a disk of 4 MiB can be mounted by root only: nothing was tested");
        return;
    };
    let (clock, path) = (clock(), disk.0.path().join("outbox.db"));
    let outbox = open(&path, &clock);
    let taken = (1..400u64).take_while(|id| put(&outbox, message(*id, 20_000, clock.now())).is_ok()).count();
    assert!((50..200).contains(&taken), "{taken} of 20 kB");
    assert_eq!(outbox.unready(), None, "it may pass");
    clock.turn(Duration::from_secs(61));
    assert!(outbox.unready().is_some_and(|why| why.contains("no room")), "{:?}", outbox.unready());
    while let Some(job) = outbox.claim(clock.now(), 1).pop() {
        outbox.settle(&job, clock.now(), Settlement::Said);
    }
    until("there is room again", || {
        clock.turn(Duration::from_secs(2));
        put(&outbox, message(1000, 20_000, clock.now())).is_ok()
    });
    assert_eq!((outbox.unready(), rows(&path).len()), (None, outbox.counts().held));
    let held = outbox.counts().held;
    drop(outbox);
    assert_eq!(open(&path, &clock).counts().held, held, "nothing that was told waits again");
}
