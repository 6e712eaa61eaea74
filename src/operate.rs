//! `herald outbox`: what waits to be told, for the operator. Called by `main`. Reads the file of a
//! controller that runs or has ended; what it is asked to change, a running controller does itself.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::cli::OutboxCommand;
use crate::clock::Clock;
use crate::compose::Notice;
use crate::compose::text::cut;
use crate::outbox::record::Record;
use crate::outbox::{Act, JobId, Reader, Row, Subject, is_in_use, path_of};

/// How long a running controller may take to hear a wish; it looks ten times a second.
const HEARD_WITHIN: Duration = Duration::from_secs(10);

/// Characters of an error that the list shows; `show` has as many as are kept.
const LISTED: usize = 100;

/// Does what the command says.
///
/// # Errors
/// There is no such file or job, or the controller does not answer.
pub fn run(command: &OutboxCommand, path: Option<&Path>, clock: &dyn Clock) -> anyhow::Result<()> {
    let path = path_of(path, true).context("--outbox-path is empty: an outbox in memory cannot be looked at")?;
    let reader = Reader::open(&path).context(
        "run this where the controller runs, for example: kubectl -n flux-system exec \
         deploy/notification-controller -- /herald outbox ls",
    )?;
    let mut out = io::stdout().lock();
    match *command {
        OutboxCommand::Ls => list(&reader.jobs(None)?, clock, &mut out)?,
        OutboxCommand::Show { job } => show(&one(&reader, job)?, clock, &mut out)?,
        OutboxCommand::Retry { job } => {
            let row = one(&reader, job)?;
            if let Some(first) = before(&reader, &row)? {
                bail!(
                    "job {job} is told after job {first} of the same object; try that one: herald outbox retry {first}"
                );
            }
            let heard = change(&reader, &path, job, Act::Retry)?;
            let until = row.due.filter(|due| row.told && *due > clock.wall().as_millisecond());
            match until.and_then(|until| jiff::Timestamp::from_millisecond(until).ok()) {
                Some(until) => writeln!(out, "job {job} waits: the vendor asked to wait until {until:.0}")?,
                None if heard => {
                    writeln!(out, "job {job} is tried now, unless its vendor asked to wait or its whole host fails")?
                }
                None => writeln!(out, "no controller runs: job {job} is tried as soon as one does")?,
            }
        }
        OutboxCommand::Drop { job } => {
            one(&reader, job)?;
            change(&reader, &path, job, Act::Drop)?;
            if reader.jobs(Some(job))?.is_empty() {
                writeln!(out, "job {job} is given up")?;
            } else {
                bail!("job {job} is under way and cannot be dropped now; see herald outbox show {job}");
            }
        }
    }
    Ok(())
}

fn one(reader: &Reader, job: JobId) -> anyhow::Result<Row> {
    let row = reader.jobs(Some(job))?.pop();
    row.with_context(|| format!("no job {job} waits; herald outbox ls shows those that do"))
}

/// The first of the messages that are told before this one.
fn before(reader: &Reader, row: &Row) -> anyhow::Result<Option<JobId>> {
    let Some(subject @ Subject::Stream { .. }) = row.record.as_ref().ok().map(|record| &record.subject) else {
        return Ok(None);
    };
    let same = |other: &Row| other.record.as_ref().is_ok_and(|record| record.subject == *subject);
    Ok(reader.jobs(None)?.iter().find(|other| other.id < row.id && same(other)).map(|other| other.id))
}

/// Has it done; whether by a controller that runs.
fn change(reader: &Reader, path: &Path, job: JobId, act: Act) -> anyhow::Result<bool> {
    if !is_in_use(path)? {
        reader.act(job, act)?;
        return Ok(false);
    }
    reader.ask(job, act)?;
    let pause = Duration::from_millis(100);
    for _ in 0..HEARD_WITHIN.as_millis() / pause.as_millis() {
        std::thread::sleep(pause);
        if reader.is_heard()? && (act == Act::Retry || reader.jobs(Some(job))?.is_empty()) {
            return Ok(true);
        }
    }
    ensure!(
        reader.is_heard()?,
        "the controller did not take the wish within {} s; is it stopped?",
        HEARD_WITHIN.as_secs()
    );
    Ok(true)
}

fn list(rows: &[Row], clock: &dyn Clock, out: &mut impl Write) -> anyhow::Result<()> {
    if rows.is_empty() {
        writeln!(out, "nothing waits: everything that was accepted was told or given up")?;
        return Ok(());
    }
    let now = clock.wall().as_millisecond();
    let mut table =
        vec![["ID", "AGE", "TRIES", "NEXT TRY", "PROVIDER", "OBJECT", "SAYS", "LAST ERROR"].map(String::from)];
    for row in rows {
        let (id, tries) = (row.id.to_string(), row.attempts.to_string());
        let why = row.why.as_deref().map_or_else(|| "-".to_owned(), |why| cut(&printable(why), LISTED));
        table.push(match &row.record {
            Ok(record) => {
                let [provider, object, says] =
                    [&record.provider.to_string(), &*record.object, &says(record)].map(printable);
                [id, span(now - record.arrived), tries, next(row, now), provider, object, says, why]
            }
            Err(error) => {
                let dash = || "-".to_owned();
                [id, dash(), tries, dash(), dash(), dash(), dash(), format!("cannot be read: {error}")]
            }
        });
    }
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; 8] = std::array::from_fn(width);
    for row in &table {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

fn show(row: &Row, clock: &dyn Clock, out: &mut impl Write) -> anyhow::Result<()> {
    let now = clock.wall().as_millisecond();
    let record = row.record.as_ref().map_err(|error| anyhow::anyhow!("job {} cannot be read: {error}", row.id))?;
    let mut line = |name: &str, value: &str| writeln!(out, "{name:<12}{}", printable(value));
    line("Job", &row.id.to_string())?;
    line("Provider", &record.provider.to_string())?;
    line("Alert", &record.alert.to_string())?;
    line("Object", &record.object)?;
    line("Accepted", &format!("{} ago", span(now - record.arrived)))?;
    line("Tries", &row.attempts.to_string())?;
    line("Next try", &next(row, now))?;
    if row.told && row.due.is_some_and(|due| due > now) {
        line("", "the vendor asked to wait until then")?;
    }
    if let Some(why) = &row.why {
        line("Last error", why)?;
    }
    match &record.notice {
        Notice::CommitStatus(status) => {
            line("Commit", &status.commit)?;
            line("Status", &status.name)?;
            line("State", &status.state.to_string())?;
            line("Text", &status.description)?;
        }
        Notice::Event(message) => {
            let event = &message.event;
            line("Severity", &event.severity)?;
            line("Reason", &event.reason)?;
            line("Message", &event.message)?;
        }
    }
    Ok(())
}

fn says(record: &Record) -> String {
    match &record.notice {
        Notice::CommitStatus(status) => format!("{} on {:.8}", status.state, status.commit),
        Notice::Event(message) => format!("{} {}", message.event.severity, message.event.reason),
    }
}

fn next(row: &Row, now: i64) -> String {
    match row.due {
        Some(due) if due > now => format!("in {}", span(due - now)),
        _ => "its turn".to_owned(),
    }
}

/// Text of others on one line, with nothing in it that a terminal would obey.
fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for (number, word) in text.split_whitespace().enumerate() {
        if number > 0 {
            printable.push(' ');
        }
        for char in word.chars() {
            // Besides those: marks that turn the direction of what follows.
            if char.is_control()
                || matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            {
                let _ = write!(printable, "{}", char.escape_unicode());
            } else {
                printable.push(char);
            }
        }
    }
    printable
}

/// A span of milliseconds as people say it: `42s`, `7m`, `3h12m`, `2d3h`.
fn span(millis: i64) -> String {
    let seconds = millis.max(0) / 1000;
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}
