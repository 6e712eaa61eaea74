//! Logs as Flux prints them: one JSON object a line on standard error, with `level`, `ts`,
//! `logger`, `msg` and string fields, so that `flux logs` can read them; or plain text for a
//! terminal (`--log-encoding=console`).

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::ops::Range;

use serde::Serialize;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use super::lines::Lines;
pub use super::lines::Rest;
use crate::clock::{Clock, SystemClock};
use crate::compose::text;

/// Characters of one field.
const MAX_FIELD: usize = 4_000;

/// Bytes of a line past which fields are cut to [`SHORT_FIELD`], and then left out: `flux logs`
/// stops reading a pod at a line of 64 KiB.
const MAX_LINE: usize = 48 << 10;

/// See [`MAX_LINE`].
const SHORT_FIELD: usize = 100;

/// Keys of the line itself; a field of some library with such a name gets another.
fn is_own(key: &str) -> bool {
    matches!(key, "level" | "ts" | "msg")
}

/// Fields that `flux logs` reads as text, and stops at when they are anything else.
fn is_text(key: &str) -> bool {
    matches!(key, "error" | "controllerKind" | "reconciler kind" | "name" | "namespace")
}

/// Fields whose text is JSON: objects in the peer's lines as well.
fn is_of_json(key: &str) -> bool {
    matches!(key, "alert" | "Alert" | "Provider" | "conflictingKeys")
}

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Encoding {
    /// One JSON object a line.
    #[default]
    Json,
    /// For a terminal.
    Console,
}

/// The least level that is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// What happens to each event.
    Debug,
    /// What was delivered, and what is wrong.
    #[default]
    Info,
    /// Only what someone should act on.
    Error,
}

/// Starts logging to standard error; what is logged last is written when what this gives is dropped.
/// Later calls in one process have no effect.
///
/// # Errors
/// There can be no thread that writes.
pub fn init(level: LogLevel, encoding: Encoding) -> std::io::Result<Rest> {
    let (lines, rest) = Lines::to(std::io::stderr())?;
    let _ = subscriber(level, encoding, lines).try_init();
    Ok(rest)
}

/// What [`init`] starts, with another writer; for tests.
pub fn subscriber<W>(level: LogLevel, encoding: Encoding, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (ours, theirs) = match level {
        LogLevel::Trace => (Level::TRACE, Level::DEBUG),
        LogLevel::Debug => (Level::DEBUG, Level::INFO),
        LogLevel::Info => (Level::INFO, Level::WARN),
        LogLevel::Error => (Level::WARN, Level::ERROR),
    };
    let filter = Targets::new().with_default(theirs).with_target("herald", ours);
    let layer = tracing_subscriber::fmt::layer().event_format(Format(encoding)).with_writer(writer);
    tracing_subscriber::registry().with(filter).with(layer)
}

struct Format(Encoding);

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::new();
        event.record(&mut fields);
        let metadata = event.metadata();
        let ts = SystemClock.wall();
        let text = |of: &Range<usize>| &fields.text[of.clone()];
        match self.0 {
            Encoding::Json => {
                let logger = fields.logger.as_ref().map_or(metadata.target(), text);
                let mut line = Vec::with_capacity(1024);
                line.extend_from_slice(b"{\"level\":\"");
                line.extend_from_slice(level(metadata.level()).as_bytes());
                // Three digits of a second, always.
                let _ = write!(line, "\",\"ts\":\"{ts:.3}\"");
                push(&mut line, "", "logger", logger);
                push(&mut line, "", "msg", text(&fields.message));
                for (name, value) in &fields.rest {
                    let prefix = if is_own(name) { "field." } else { "" };
                    let before = line.len();
                    match value {
                        Held::Text(of) if is_of_json(name) && is_json(text(of)) => {
                            key(&mut line, prefix, name);
                            line.extend_from_slice(text(of).as_bytes());
                        }
                        Held::Text(of) => push(&mut line, prefix, name, text(of)),
                        Held::Other(value) => push(&mut line, prefix, name, value),
                    }
                    if line.len() >= MAX_LINE {
                        line.truncate(before);
                        if before + name.len() + 6 * SHORT_FIELD < MAX_LINE {
                            push(&mut line, prefix, name, &text::cut(&fields.json(value), SHORT_FIELD));
                        }
                    }
                }
                line.extend_from_slice(b"}\n");
                // Made of text, and cut between fields.
                out.write_str(std::str::from_utf8(&line).map_err(|_| fmt::Error)?)
            }
            Encoding::Console => {
                write!(out, "{ts:.3} {:<5} {}", level(metadata.level()), text(&fields.message))?;
                for (name, value) in &fields.rest {
                    write!(out, " {name}={}", fields.json(value))?;
                }
                writeln!(out)
            }
        }
    }
}

/// Whether the text is JSON, and whole: a long one was cut.
fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// Adds one key.
fn key(line: &mut Vec<u8>, prefix: &str, name: &str) {
    // Names are written in our code, or are identifiers in a library's.
    [",\"", prefix, name, "\":"].iter().for_each(|part| line.extend_from_slice(part.as_bytes()));
}

/// Adds one key and its value, as JSON. Printing a `Value` says the same several times slower, a character
/// at a time.
fn push<T: Serialize + ?Sized>(line: &mut Vec<u8>, prefix: &str, name: &str, value: &T) {
    key(line, prefix, name);
    // Text and numbers can always be written.
    let _ = serde_json::to_writer(line, value);
}

/// The level's word; a warning is `info` with an `error` field in Flux's vocabulary.
fn level(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "error",
        Level::WARN | Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// What an event says, as it is recorded.
struct Fields {
    /// All that is text, one after the other: a line has a dozen of them, and one is written for each event.
    text: String,
    message: Range<usize>,
    logger: Option<Range<usize>>,
    /// In the order the code names them.
    rest: Vec<(&'static str, Held)>,
}

/// The value of a field.
enum Held {
    /// Where it stands in [`Fields::text`].
    Text(Range<usize>),
    /// A number or a boolean.
    Other(Value),
}

impl Fields {
    /// Nothing yet, and room for a usual line.
    fn new() -> Self {
        Self { text: String::with_capacity(1024), message: 0..0, logger: None, rest: Vec::with_capacity(16) }
    }

    /// A field that is text, which `write` adds to the rest.
    fn text(&mut self, field: &Field, write: impl FnOnce(&mut String)) {
        let from = self.text.len();
        write(&mut self.text);
        if self.text.len() - from > MAX_FIELD {
            let cut = text::cut(&self.text[from..], MAX_FIELD);
            self.text.truncate(from);
            self.text.push_str(&cut);
        }
        let value = from..self.text.len();
        match field.name() {
            "message" => self.message = value,
            "logger" => self.logger = Some(value),
            // What an event has not is left out rather than shown empty.
            _ if value.is_empty() => {}
            name => self.rest.push((name, Held::Text(value))),
        }
    }

    fn value(&mut self, field: &Field, value: Value) {
        match field.name() {
            name if is_text(name) || matches!(name, "message" | "logger") => {
                self.text(field, |text| text.push_str(&value.to_string()));
            }
            name => self.rest.push((name, Held::Other(value))),
        }
    }

    /// A value as JSON.
    fn json(&self, value: &Held) -> String {
        match value {
            Held::Text(of) => Value::from(&self.text[of.clone()]).to_string(),
            Held::Other(value) => value.to_string(),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail; what cannot say what it is ends early.
        self.text(field, |text| {
            let _ = write!(text, "{value:?}");
        });
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, |text| text.push_str(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.value(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.value(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.value(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.value(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use super::*;
    use parking_lot::Mutex;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Buffer {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// What is printed, as JSON, and how long the line is.
    fn printed(say: impl FnOnce()) -> (Value, usize) {
        let buffer = Buffer::default();
        let layer = tracing_subscriber::fmt::layer().event_format(Format(Encoding::Json)).with_writer(buffer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), say);
        let text = String::from_utf8(buffer.0.lock().clone()).expect("text");
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        (serde_json::from_str(&text).expect("one JSON object"), text.len())
    }

    #[test]
    fn a_line_is_short_enough_whatever_is_in_it() {
        for filler in ["x", "\u{1}", "😀", "\""] {
            let long = filler.repeat(100_000);
            let (line, length) = printed(|| {
                tracing::error!(
                    a = long,
                    b = long,
                    c = long,
                    d = long,
                    e = long,
                    f = long,
                    g = long,
                    h = long,
                    alert = long,
                    i = long,
                    j = long,
                    k = long,
                    l = long,
                    m = long,
                    n = long,
                    o = long,
                    p = long,
                    error = long,
                    "{long}"
                );
            });
            assert!(length < 64 << 10, "{length}");
            assert!(line["msg"].is_string() && line["a"].is_string(), "{line}");
        }
    }

    #[test]
    fn what_flux_reads_is_text() {
        let (line, _) = printed(|| {
            tracing::warn!(
                logger = 1,
                error = 2,
                name = true,
                namespace = 1.5,
                level = "mine",
                ts = 7,
                count = 3,
                controllerKind = "Provider",
                "reconciler kind" = "AlertProvider",
                alert = r#"{"name":"a"}"#,
                "text"
            );
        });
        for key in ["level", "ts", "msg", "logger", "error", "name", "namespace", "controllerKind", "reconciler kind"] {
            assert!(line[key].is_string(), "{key} in {line}");
        }
        assert_eq!((&line["level"], &line["field.level"]), (&"info".into(), &"mine".into()));
        assert_eq!((&line["field.ts"], &line["count"], &line["alert"]["name"]), (&7.into(), &3.into(), &"a".into()));
    }
}
