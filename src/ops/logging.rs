//! Logs as Flux prints them: one JSON object a line on standard error, with `level`, `ts`,
//! `logger`, `msg` and string fields, so that `flux logs` can read them; or plain text for a
//! terminal (`--log-encoding=console`).

use std::fmt;

use serde::Serialize;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::clock::{Clock, SystemClock};
use crate::compose::text;

/// Characters of one field; `flux logs` stops reading a pod at a line of 64 KiB.
const MAX_FIELD: usize = 4_000;

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

/// Starts logging to standard error. Later calls in one process have no effect.
pub fn init(level: LogLevel, encoding: Encoding) {
    let (ours, theirs) = match level {
        LogLevel::Trace => (Level::TRACE, Level::DEBUG),
        LogLevel::Debug => (Level::DEBUG, Level::INFO),
        LogLevel::Info => (Level::INFO, Level::WARN),
        LogLevel::Error => (Level::WARN, Level::ERROR),
    };
    let filter = Targets::new().with_default(theirs).with_target("herald", ours);
    let layer = tracing_subscriber::fmt::layer().event_format(Lines(encoding)).with_writer(std::io::stderr);
    let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
}

struct Lines(Encoding);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let ts = SystemClock.wall().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
        match self.0 {
            Encoding::Json => {
                let logger = fields.logger.as_deref().unwrap_or_else(|| metadata.target());
                write!(out, "{{\"level\":\"{}\",\"ts\":\"{ts}\"", level(metadata.level()))?;
                for (name, value) in [("logger", logger), ("msg", &fields.message)] {
                    write!(out, ",\"{name}\":{}", encoded(value))?;
                }
                for (name, value) in &fields.rest {
                    write!(out, ",\"{name}\":{}", encoded(value))?;
                }
                writeln!(out, "}}")
            }
            Encoding::Console => {
                write!(out, "{ts} {:<5} {}", level(metadata.level()), fields.message)?;
                for (name, value) in &fields.rest {
                    write!(out, " {name}={value}")?;
                }
                writeln!(out)
            }
        }
    }
}

/// As JSON. Printing a `Value` says the same several times slower, a character at a time.
fn encoded<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
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

#[derive(Default)]
struct Fields {
    message: String,
    logger: Option<String>,
    /// In the order the code names them; names are Rust identifiers and need no escaping.
    rest: Vec<(&'static str, Value)>,
}

impl Fields {
    fn text(&mut self, field: &Field, value: &str) {
        let value = text::cut(value, MAX_FIELD);
        match field.name() {
            "message" => self.message = value,
            "logger" => self.logger = Some(value),
            // What an event has not is left out rather than shown empty.
            _ if value.is_empty() => {}
            name => self.rest.push((name, value.into())),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.rest.push((field.name(), value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.rest.push((field.name(), value.into()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.rest.push((field.name(), value.into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.rest.push((field.name(), value.into()));
    }
}
