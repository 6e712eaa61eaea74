//! The outbox's tables, in SQLite: what is read when Herald starts, and the few statements that are
//! run afterwards. Owned by the writing thread; `herald outbox` reads the same file.

use std::collections::HashMap;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use aws_lc_rs::rand;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, params};

use super::file;
use super::fingerprint::Fingerprint;
use super::record::{self, Batch, Record, Times};
use super::{JobId, LONGEST_WAIT, Refusal, RepeatKey, Stamp, Standing};
use crate::api::Event;
use crate::compose::{CommitStatus, Slot};

/// Marks the file as ours: "Hrld".
const APPLICATION_ID: i32 = 0x4872_6C64;

/// The steps from one version of the tables to the next; the file's `user_version` says how many
/// were taken.
const MIGRATIONS: [&str; 5] = [
    "
    CREATE TABLE jobs (
        id       INTEGER PRIMARY KEY,  -- rises in the order of acceptance
        record   BLOB NOT NULL,        -- see record.rs
        attempts INTEGER NOT NULL DEFAULT 0,
        due      INTEGER,              -- when it is tried again, in milliseconds since 1970
        told     INTEGER NOT NULL DEFAULT 0,  -- the vendor named that time
        why      TEXT                  -- what went wrong the last time
    ) STRICT;
    CREATE TABLE said (                -- what Slots said, the last row of a Slot being what it says
        id          INTEGER PRIMARY KEY,
        slot        BLOB NOT NULL,     -- its fingerprint
        provider    TEXT NOT NULL,
        object      TEXT NOT NULL,
        sha         TEXT NOT NULL,
        name        TEXT NOT NULL,
        state       TEXT NOT NULL,
        description TEXT NOT NULL,
        uid         TEXT NOT NULL,     -- of the object, and its version: they order
        version     INTEGER,
        arrived     INTEGER NOT NULL,
        at          INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE messages (            -- what was accepted lately: a repeat of it is not told
        message BLOB PRIMARY KEY,
        at      INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE operations (          -- what operators want done
        id  INTEGER PRIMARY KEY,
        job INTEGER NOT NULL,
        act TEXT NOT NULL
    ) STRICT;
",
    "
    CREATE TABLE waits (               -- vendors that want nothing for a while
        provider TEXT PRIMARY KEY,     -- UID of a Provider with the credential it concerns
        until    INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
",
    "
    DROP TABLE waits;                  -- a Provider is not whom a vendor speaks to
    CREATE TABLE key (                 -- what credentials are known by below
        id  INTEGER PRIMARY KEY CHECK (id = 1),
        key BLOB NOT NULL
    ) STRICT;
    CREATE TABLE standing (            -- what vendors told credentials
        credential BLOB PRIMARY KEY,   -- its HMAC under the key
        wait       INTEGER,            -- nothing is wanted with it before then
        refused    INTEGER,            -- the status that refused it
        until      INTEGER,            -- when it is tried again; NULL: not before a change
        at         INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
",
    "
    -- How often the credential was refused in a row. What was never to be tried again is tried now.
    ALTER TABLE standing ADD COLUMN times INTEGER NOT NULL DEFAULT 1;
    UPDATE standing SET until = at WHERE refused IS NOT NULL AND until IS NULL;
",
    "
    CREATE TABLE bodies (              -- large events, each once for all its jobs
        id    INTEGER PRIMARY KEY,     -- that of the first of them
        event BLOB NOT NULL
    ) STRICT;
    ALTER TABLE jobs ADD COLUMN body INTEGER;  -- the event, where the record has none
    CREATE INDEX jobs_of_body ON jobs (body) WHERE body IS NOT NULL;
    CREATE TRIGGER body_of_no_job AFTER DELETE ON jobs WHEN old.body IS NOT NULL BEGIN
        DELETE FROM bodies WHERE id = old.body AND NOT EXISTS (SELECT 1 FROM jobs WHERE body = old.body);
    END;
",
];

/// A refusal is forgotten after this: whoever mends it while Herald runs ends it, and nobody asks for a
/// credential that nobody has any more.
const REFUSALS_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Credentials that are taken up at most, the newest: many more than there are Providers.
const MOST_KEPT: usize = 65_536;

/// What an operator can want of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Try it now.
    Retry,
    /// Give it up.
    Drop,
}

impl Act {
    fn name(self) -> &'static str {
        match self {
            Act::Retry => "retry",
            Act::Drop => "drop",
        }
    }
}

/// A job as it stands in the file.
#[derive(Debug)]
pub struct Row {
    /// Its number.
    pub id: JobId,
    /// The job, or why it cannot be read.
    pub record: Result<Record, record::RecordError>,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried again, in milliseconds since 1970.
    pub due: Option<i64>,
    /// The vendor named that time.
    pub told: bool,
    /// What went wrong the last time.
    pub why: Option<String>,
}

/// Why a file can never be used, however often it is tried.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("it is the file of another program")]
    Foreign,
    #[error("a later Herald wrote it (version {0} of its tables)")]
    Later(usize),
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> Unusable) -> Result<(), Unusable> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// Whether SQLite's error says that the file itself is bad. A full disk, a want of permission or somebody
/// else's lock says nothing of the kind.
pub(super) fn is_bad(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
    // Unknown is SQLite's word for a statement that makes no sense: the tables are not ours.
    let bad = [ErrorCode::DatabaseCorrupt, ErrorCode::NotADatabase, ErrorCode::Unknown];
    match error.sqlite_error_code() {
        Some(code) => bad.contains(&code),
        None => matches!(
            error,
            FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..)
        ),
    }
}

/// Whether there is no room for what is to be written.
pub(super) fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

/// Whether an error of opening a file says that this one can never be used.
pub(super) fn is_unusable(error: &anyhow::Error) -> bool {
    error.is::<Unusable>() || error.downcast_ref().is_some_and(is_bad)
}

/// The file, open for writing.
pub(super) struct Store {
    /// See [`super::Outbox::key`].
    pub key: [u8; 32],
    connection: Connection,
    synced: bool,
    log: PathBuf,
    /// The last write was refused because the log cannot be emptied.
    pub log_is_held: bool,
}

/// The most the write-ahead log is let grow before its pages go into the file.
const LOG_BYTES: u64 = 16 << 20;

/// The part of the log that new jobs leave to what ends.
const LOG_FOR_ENDS: u64 = 1 << 20;

/// How long a writer waits for an operator's command to get out of the way.
const BUSY: Duration = Duration::from_secs(5);

impl Store {
    /// Opens the file, makes the tables or brings them up to date, and checks that they are whole.
    pub fn open(path: &Path, max_bytes: u64) -> anyhow::Result<Self> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY)?;
        let whole: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        ensure(whole == "ok", || Unusable::Damaged(whole.clone()))?;
        let id: i32 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
        let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        ensure(id == APPLICATION_ID || tables == 0, || Unusable::Foreign)?;
        let version: usize = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        ensure(version <= MIGRATIONS.len(), || Unusable::Later(version))?;

        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let page: u64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
        connection.pragma_update(None, "max_page_count", max_bytes.saturating_sub(LOG_BYTES).max(1 << 20) / page)?;
        let transaction = connection.transaction()?;
        for (taken, step) in MIGRATIONS.iter().enumerate().skip(version) {
            transaction.execute_batch(step)?;
            transaction.pragma_update(None, "user_version", taken + 1)?;
        }
        if id != APPLICATION_ID {
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        }
        let mut fresh = [0; 32];
        rand::fill(&mut fresh).map_err(|_| anyhow::anyhow!("the system has no random numbers"))?;
        transaction.execute("INSERT OR IGNORE INTO key (id, key) VALUES (1, ?1)", [fresh])?;
        let key = transaction.query_row("SELECT key FROM key", [], |row| row.get(0))?;
        transaction.commit()?;
        connection.set_prepared_statement_cache_capacity(16);
        Ok(Self { key, connection, synced: true, log: file::beside(path, "-wal"), log_is_held: false })
    }

    /// Makes a small file at `path` that holds what is to outlive this one when its disk is full: the key, what
    /// vendors told credentials, the messages of late, and the jobs that `work` writes.
    ///
    /// # Errors
    /// There is no room for it, or this file cannot be read.
    pub fn make_fresh(
        &self,
        path: &Path,
        messages_since: i64,
        times: &Times,
        work: impl FnOnce(&Writes) -> rusqlite::Result<()>,
    ) -> anyhow::Result<()> {
        let mut connection = Connection::open(path)?;
        // A crash leaves the old file in its place, so this one needs no journal, for which there is no room.
        connection.pragma_update(None, "journal_mode", "OFF")?;
        {
            let transaction = connection.transaction()?;
            MIGRATIONS.iter().try_for_each(|step| transaction.execute_batch(step))?;
            transaction.pragma_update(None, "user_version", MIGRATIONS.len())?;
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.execute("INSERT INTO key (id, key) VALUES (1, ?1)", [self.key])?;
            let writes = Writes(transaction);
            for (message, at) in self.messages_since(messages_since)? {
                writes.remember(&message, at)?;
            }
            for standing in self.kept(times)? {
                writes.keep(&standing, times)?;
            }
            work(&writes)?;
            writes.0.commit()?;
        }
        connection.close().map_err(|(_, error)| error)?;
        Ok(())
    }

    /// Lets go of the file; every later call fails.
    pub fn close(&mut self) -> rusqlite::Result<()> {
        self.connection = Connection::open_in_memory()?;
        Ok(())
    }

    /// Has credentials known by another key.
    pub fn set_key(&mut self, key: [u8; 32]) -> rusqlite::Result<()> {
        self.connection.execute("UPDATE key SET key = ?1", [key])?;
        self.key = key;
        Ok(())
    }

    /// Every job, in the order of acceptance.
    pub fn jobs(&self) -> anyhow::Result<Vec<Row>> {
        jobs(&self.connection, None)
    }

    /// Dates messages and refusals that an earlier process dated ahead of now as of now: the wall clock was set
    /// back since, and such a row would count as fresh for as long as the clock moved.
    pub fn clamp_to(&self, wall: i64) -> rusqlite::Result<()> {
        for sql in ["UPDATE messages SET at = ?1 WHERE at > ?1", "UPDATE standing SET at = ?1 WHERE at > ?1"] {
            self.connection.execute(sql, [wall])?;
        }
        Ok(())
    }

    /// What was accepted since and said, newest first.
    pub fn said_since(&self, wall: i64, times: &Times) -> anyhow::Result<Vec<(Fingerprint, Stamp)>> {
        let mut statement =
            self.connection.prepare("SELECT slot, uid, version, arrived, at FROM said ORDER BY id DESC")?;
        let rows = statement.query_map([], |row| {
            let arrived = row.get(3)?;
            let stamp = Stamp { object: row.get(1)?, version: row.get(2)?, arrived: times.past_instant_of(arrived) };
            Ok((row.get::<_, i64>(4)?, arrived, Fingerprint::from_bytes(row.get(0)?), stamp))
        })?;
        let mut said = Vec::new();
        for row in rows {
            let (at, arrived, slot, stamp) = row?;
            // It was said after it arrived: from here on everything arrived before.
            if at < wall {
                break;
            }
            if arrived >= wall {
                said.push((slot, stamp));
            }
        }
        Ok(said)
    }

    /// The messages accepted since, oldest first.
    pub fn messages_since(&self, wall: i64) -> anyhow::Result<Vec<(RepeatKey, i64)>> {
        let mut statement = self.connection.prepare("SELECT message, at FROM messages WHERE at >= ?1 ORDER BY at")?;
        let rows = statement.query_map([wall], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let read = |row: Result<([u8; RepeatKey::BYTES], i64), rusqlite::Error>| {
            let (bytes, at) = row?;
            Ok(RepeatKey::from_bytes(bytes).map(|key| (key, at)))
        };
        rows.map(read).filter_map(Result::transpose).collect()
    }

    /// What vendors told credentials that still stands.
    pub fn kept(&self, times: &Times) -> rusqlite::Result<Vec<Standing>> {
        let sql = "SELECT credential, wait, refused, until, times FROM standing ORDER BY at DESC LIMIT ?1";
        let mut statement = self.connection.prepare(sql)?;
        let ahead = |wall: &i64| *wall > times.wall();
        let within = |wall| times.within(wall, LONGEST_WAIT);
        let rows = statement.query_map([MOST_KEPT], |row| {
            let (wait, until): (Option<i64>, Option<i64>) = (row.get(1)?, row.get(3)?);
            // That a proxy refused, which earlier versions kept, says nothing of a credential.
            let refused = row.get::<_, Option<u16>>(2)?.filter(|status| *status != 407).zip(until);
            let times = row.get(4)?;
            let refusal = refused.map(|(status, until)| Refusal { status, until: within(until), times });
            Ok(Standing { credential: row.get(0)?, wait: wait.filter(ahead).map(within), refusal })
        })?;
        let stands = |row: &rusqlite::Result<Standing>| {
            row.as_ref().map_or(true, |row| row.wait.is_some() || row.refusal.is_some())
        };
        rows.filter(stands).collect()
    }

    /// Forgets what is older than that: what was said before, and messages that came before; and of what
    /// vendors told credentials what stands no more.
    pub fn forget(&self, said_before: i64, messages_before: i64, times: &Times) -> rusqlite::Result<()> {
        let first_kept = "SELECT id FROM said WHERE at >= ?1 ORDER BY id LIMIT 1";
        let sql = format!("DELETE FROM said WHERE id < coalesce(({first_kept}), 9223372036854775807)");
        self.connection.execute(&sql, [said_before])?;
        self.connection.execute("DELETE FROM messages WHERE at < ?1", [messages_before])?;
        let sql = "DELETE FROM standing WHERE at < ?2
            OR coalesce(wait, 0) < ?1 AND refused IS NULL";
        self.connection.execute(sql, [times.wall(), times.before(REFUSALS_KEPT)])?;
        Ok(())
    }

    /// Forgets what was said longest ago, so many rows.
    pub fn forget_oldest(&self, count: usize) -> rusqlite::Result<usize> {
        self.connection.execute("DELETE FROM said WHERE id IN (SELECT id FROM said ORDER BY id LIMIT ?1)", [count])
    }

    /// The part of the room there is that is taken, between 0 and 1.
    pub fn fill(&self) -> rusqlite::Result<f64> {
        let pragma = |name: &str| self.connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, f64>(0));
        Ok((pragma("page_count")? - pragma("freelist_count")?) / pragma("max_page_count")?)
    }

    /// Takes what operators want, if any of them wrote since the last call.
    pub fn operations(&self) -> rusqlite::Result<Vec<super::Operation>> {
        let mut statement = self.connection.prepare_cached("DELETE FROM operations RETURNING job, act")?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, JobId>(0)?, row.get::<_, String>(1)?)))?;
        let mut operations = Vec::new();
        for row in rows {
            let (job, act) = row?;
            let act = if act == Act::Drop.name() { Act::Drop } else { Act::Retry };
            operations.push(super::Operation { job, act });
        }
        Ok(operations)
    }

    /// A number that changes when another process writes to the file.
    pub fn data_version(&self) -> rusqlite::Result<i64> {
        self.connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
    }

    /// Whether the write-ahead log has room for so many bytes of new jobs, emptied if need be. It cannot be emptied
    /// past what another process still reads; into an empty one goes any size.
    fn log_has_room(&self, bytes: u64) -> rusqlite::Result<bool> {
        let len = fs::metadata(&self.log).map_or(0, |log| log.len());
        let most = if bytes > 0 { LOG_BYTES - LOG_FOR_ENDS } else { LOG_BYTES };
        if len == 0 || len + bytes <= most {
            return Ok(true);
        }
        self.connection.busy_timeout(Duration::ZERO)?;
        let busy = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0));
        self.connection.busy_timeout(BUSY)?;
        match busy {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(false),
            busy => Ok(!busy?),
        }
    }

    /// Does everything in one transaction. With `sync` it is on the disk when this returns; without,
    /// it outlives the process, and the machine from the next synced one on.
    /// `bytes` are those of new jobs.
    ///
    /// # Errors
    /// The disk or SQLite refuse it, or another process reads the file for so long that the log has no room left.
    pub fn write(
        &mut self,
        sync: bool,
        bytes: usize,
        work: impl FnOnce(&Writes) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<()> {
        self.log_is_held = !self.log_has_room(bytes as u64)?;
        if self.log_is_held {
            let error = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
            let why = "another process has read the file for so long that its write-ahead log is full";
            return Err(rusqlite::Error::SqliteFailure(error, Some(why.to_owned())));
        }
        if self.synced != sync {
            self.connection.pragma_update(None, "synchronous", if sync { "FULL" } else { "NORMAL" })?;
            self.synced = sync;
        }
        let writes = Writes(self.connection.transaction()?);
        work(&writes)?;
        writes.0.commit()
    }
}

/// One transaction.
pub(super) struct Writes<'a>(Transaction<'a>);

impl Writes<'_> {
    /// Adds jobs with these numbers and tries.
    pub fn insert(&self, batch: &Batch, jobs: impl Iterator<Item = (JobId, u32)>) -> rusqlite::Result<()> {
        let sql = "INSERT INTO jobs (id, record, attempts, body) VALUES (?1, ?2, ?3, ?4)";
        let mut statement = self.0.prepare_cached(sql)?;
        let mut bodies = vec![None; batch.bodies.len()];
        for ((record, body), (id, attempts)) in batch.records.iter().zip(jobs) {
            let body = match *body {
                Some(at) if bodies[at].is_none() => {
                    let mut statement = self.0.prepare_cached("INSERT INTO bodies (id, event) VALUES (?1, ?2)")?;
                    statement.execute(params![id, batch.bodies[at]])?;
                    bodies[at] = Some(id);
                    bodies[at]
                }
                Some(at) => bodies[at],
                None => None,
            };
            statement.execute(params![id, record, attempts, body])?;
        }
        Ok(())
    }

    /// Writes a page that says what it said.
    pub fn touch(&self) -> rusqlite::Result<()> {
        self.0.pragma_update(None, "user_version", MIGRATIONS.len())
    }

    /// Remembers a message.
    pub fn remember(&self, key: &RepeatKey, at: i64) -> rusqlite::Result<()> {
        let mut statement = self.0.prepare_cached("INSERT OR REPLACE INTO messages (message, at) VALUES (?1, ?2)")?;
        statement.execute(params![key.to_bytes(), at]).map(drop)
    }

    /// Remembers what a vendor told a credential, or forgets what it told it before.
    pub fn keep(&self, standing: &Standing, times: &Times) -> rusqlite::Result<()> {
        let Standing { credential, wait, refusal } = standing;
        if wait.is_none() && refusal.is_none() {
            let mut statement = self.0.prepare_cached("DELETE FROM standing WHERE credential = ?1")?;
            return statement.execute([credential]).map(drop);
        }
        let sql = "INSERT OR REPLACE INTO standing (credential, wait, refused, until, times, at)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let wall = |at: Instant| times.wall_of(at);
        let (status, until) = refusal.map(|refusal| (refusal.status, wall(refusal.until))).unzip();
        let count = refusal.map_or(0, |refusal| refusal.times);
        let values = params![credential, wait.map(wall), status, until, count, times.wall()];
        self.0.prepare_cached(sql)?.execute(values).map(drop)
    }

    /// Removes the jobs with these numbers.
    pub fn delete(&self, ids: RangeInclusive<JobId>) -> rusqlite::Result<()> {
        let mut statement = self.0.prepare_cached("DELETE FROM jobs WHERE id BETWEEN ?1 AND ?2")?;
        statement.execute([ids.start(), ids.end()]).map(drop)
    }

    /// A job is tried again at `due`.
    pub fn put_off(&self, id: JobId, attempts: u32, due: i64, told: bool, why: &str) -> rusqlite::Result<()> {
        let sql = "UPDATE jobs SET attempts = ?2, due = ?3, told = ?4, why = ?5 WHERE id = ?1";
        self.0.prepare_cached(sql)?.execute(params![id, attempts, due, told, why]).map(drop)
    }

    /// A Slot says this now.
    pub fn said(&self, said: &SlotSaid<'_>) -> rusqlite::Result<()> {
        let sql = "INSERT INTO said
            (slot, provider, object, sha, name, state, description, uid, version, arrived, at)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
        let values = params![
            Fingerprint::of_slot(said.slot).to_bytes(),
            said.provider,
            said.object,
            said.status.commit,
            said.status.name,
            said.status.state.to_string(),
            said.status.description,
            said.stamp.object,
            // SQLite's numbers have a sign, as etcd's revisions have; a larger one orders nothing.
            said.stamp.version.and_then(|version| i64::try_from(version).ok()),
            said.arrived,
            said.at,
        ];
        self.0.prepare_cached(sql)?.execute(values).map(drop)
    }
}

/// A row of `said`.
pub(super) struct SlotSaid<'a> {
    pub slot: &'a Slot,
    pub provider: String,
    pub object: &'a str,
    pub status: &'a CommitStatus,
    pub stamp: &'a Stamp,
    /// Milliseconds since 1970, both.
    pub arrived: i64,
    pub at: i64,
}

fn jobs(connection: &Connection, id: Option<JobId>) -> anyhow::Result<Vec<Row>> {
    // `herald outbox` reads the file of an earlier Herald as it is.
    let version: usize = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let has_bodies = version > 4;
    let body = if has_bodies { "body" } else { "NULL" };
    let sql = format!(
        "SELECT id, record, attempts, due, told, why, {body} FROM jobs WHERE ?1 IS NULL OR id = ?1 ORDER BY id"
    );
    let mut bodies: HashMap<JobId, Arc<Event>> = HashMap::new();
    if has_bodies {
        let of_one = "SELECT id, event FROM bodies WHERE ?1 IS NULL OR id = (SELECT body FROM jobs WHERE id = ?1)";
        let mut statement = connection.prepare(of_one)?;
        let mut rows = statement.query([id])?;
        while let Some(row) = rows.next()? {
            // One that cannot be read is missed by its jobs.
            if let Ok(event) = serde_json::from_slice::<Event>(row.get_ref(1)?.as_blob()?) {
                bodies.insert(row.get(0)?, event.into());
            }
        }
    }
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map([id], |row| {
        let bytes: Vec<u8> = row.get(1)?;
        let body = row.get::<_, Option<JobId>>(6)?.and_then(|body| bodies.get(&body)).cloned();
        Ok(Row {
            id: row.get(0)?,
            record: record::decode_with(&bytes, body),
            attempts: row.get(2)?,
            due: row.get(3)?,
            told: row.get(4)?,
            why: row.get(5)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The file, for `herald outbox`: read while a controller writes it, or when none does.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
}

impl Reader {
    /// Opens it.
    ///
    /// # Errors
    /// There is no such file, or it is not an outbox.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        anyhow::ensure!(path.exists(), "there is no outbox at {}", path.display());
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(path, flags).and_then(|connection| {
            connection.busy_timeout(BUSY)?;
            let id: i32 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
            Ok((connection, id))
        });
        let (connection, id) = opened.with_context(|| format!("cannot read {}", path.display()))?;
        anyhow::ensure!(id == APPLICATION_ID, "{} is not an outbox of Herald", path.display());
        Ok(Self { connection })
    }

    /// Every job, or the one with this number.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn jobs(&self, id: Option<JobId>) -> anyhow::Result<Vec<Row>> {
        jobs(&self.connection, id)
    }

    /// Leaves a wish for the controller.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn ask(&self, job: JobId, act: Act) -> anyhow::Result<()> {
        let sql = "INSERT INTO operations (job, act) VALUES (?1, ?2)";
        self.connection.execute(sql, params![job, act.name()])?;
        Ok(())
    }

    /// Whether the controller has taken every wish.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn is_heard(&self) -> anyhow::Result<bool> {
        Ok(self.connection.query_row("SELECT 1 FROM operations", [], |_| Ok(())).optional()?.is_none())
    }

    /// Does it, when no controller runs.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn act(&self, job: JobId, act: Act) -> anyhow::Result<()> {
        let sql = match act {
            Act::Retry => "UPDATE jobs SET due = NULL, told = 0 WHERE id = ?1",
            Act::Drop => "DELETE FROM jobs WHERE id = ?1",
        };
        self.connection.execute(sql, [job])?;
        Ok(())
    }
}
