//! What a test's Herald logs, at the most talkative level there is. Every task of a test runs on
//! the test's own thread, and so does its logging.

use std::io::Write;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::support::app::DEADLINE;
use crate::support::wait;

/// Collects until it is dropped.
pub struct Logs {
    lines: Lines,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Logs {
    pub fn collect() -> Self {
        let lines = Lines::default();
        let subscriber =
            tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_ansi(false).with_writer(lines.clone());
        Self { _guard: tracing::subscriber::set_default(subscriber.finish()), lines }
    }

    /// Everything so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.lines.0.lock()).into_owned()
    }

    /// The lines of Herald itself with a level that someone reads, and with all of these words.
    pub fn count(&self, words: &[&str]) -> usize {
        let text = self.text();
        let spoken = |line: &&str| line.contains(" herald::") && !line.contains("DEBUG") && !line.contains("TRACE");
        text.lines().filter(spoken).filter(|line| words.iter().all(|word| line.contains(word))).count()
    }

    /// Waits for such a line.
    #[track_caller]
    pub fn until(&self, words: &[&str]) -> impl Future<Output = ()> {
        wait::until_ok(DEADLINE, "a line in the log", move || async move {
            if self.count(words) > 0 { Ok(()) } else { Err(format!("no line with {words:?} in\n{}", self.spoken())) }
        })
    }

    fn spoken(&self) -> String {
        self.text().lines().filter(|line| line.contains(" herald::")).collect::<Vec<_>>().join("\n")
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
