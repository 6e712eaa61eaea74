//! Lines of the log on their way to standard error. A thread writes them, those of a moment together:
//! one write costs the same for one line as for fifty, and a reader that is stuck stops the log, not the
//! program. Started by `main` through `logging`.

use std::io::{self, Write};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// How long a line waits for others. What is wrong waits for none.
const LINGER: Duration = Duration::from_millis(20);

/// Bytes that are worth a write of their own.
const ENOUGH: usize = 64 << 10;

/// Bytes that wait at most; lines past that are counted and left out.
const MAX_WAITING: usize = 4 << 20;

/// Where lines are written to. Cheap to clone.
#[derive(Clone)]
pub struct Lines(Arc<Shared>);

struct Shared {
    waiting: Mutex<Waiting>,
    there: Condvar,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    left_out: usize,
    urgent: bool,
    ended: bool,
}

/// Writes what waits when it is dropped, and ends the thread.
#[must_use = "what waits is written when this is dropped"]
pub struct Rest {
    lines: Lines,
    /// Says that the thread ended, by being closed.
    ended: mpsc::Receiver<()>,
}

/// How long the end waits for what is not read.
const PATIENCE: Duration = Duration::from_secs(1);

impl Lines {
    /// Lines to `out`, until the second of the pair is dropped.
    ///
    /// # Errors
    /// There can be no thread.
    pub fn to(out: impl Write + Send + 'static) -> io::Result<(Self, Rest)> {
        let lines = Self(Arc::new(Shared { waiting: Mutex::default(), there: Condvar::new() }));
        let (writer, (ends, ended)) = (lines.clone(), mpsc::channel());
        std::thread::Builder::new().name("log".into()).spawn(move || {
            let _ends = ends;
            writer.write_to(out);
        })?;
        Ok((lines.clone(), Rest { lines, ended }))
    }

    fn write_to(self, mut out: impl Write) {
        let mut bytes = Vec::with_capacity(ENOUGH);
        loop {
            let mut waiting = self.0.waiting.lock();
            while waiting.bytes.is_empty() && !waiting.ended {
                self.0.there.wait(&mut waiting);
            }
            if waiting.bytes.is_empty() {
                return;
            }
            if !waiting.urgent && !waiting.ended {
                self.0.there.wait_for(&mut waiting, LINGER);
            }
            std::mem::swap(&mut bytes, &mut waiting.bytes);
            let left_out = std::mem::take(&mut waiting.left_out);
            waiting.urgent = false;
            drop(waiting);
            // There is nowhere to say that nothing can be said.
            let _ = out.write_all(&bytes).and_then(|()| out.flush());
            bytes.clear();
            bytes.shrink_to(ENOUGH);
            if left_out > 0 {
                tracing::warn!(logger = "log", lines = left_out, "the log was read too slowly; lines were left out");
            }
        }
    }

    fn add(&self, line: &[u8], urgent: bool) {
        let mut waiting = self.0.waiting.lock();
        if waiting.bytes.len() + line.len() > MAX_WAITING {
            waiting.left_out += 1;
            return;
        }
        let urgent = urgent || waiting.bytes.len() >= ENOUGH;
        let wakes = waiting.bytes.is_empty() || (urgent && !waiting.urgent);
        waiting.bytes.extend_from_slice(line);
        waiting.urgent |= urgent;
        drop(waiting);
        if wakes {
            self.0.there.notify_one();
        }
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.lines.0.waiting.lock().ended = true;
        self.lines.0.there.notify_one();
        let _ = self.ended.recv_timeout(PATIENCE);
    }
}

/// Takes the lines of one level.
pub struct Taker<'a> {
    lines: &'a Lines,
    urgent: bool,
}

impl Write for Taker<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.add(line, self.urgent);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Taker<'a>;

    fn make_writer(&'a self) -> Taker<'a> {
        Taker { lines: self, urgent: false }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Taker<'a> {
        Taker { lines: self, urgent: *metadata.level() <= Level::WARN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes each write; waits in the first until it is let go on.
    struct Slow {
        written: mpsc::Sender<Vec<u8>>,
        go_on: mpsc::Receiver<()>,
        first: bool,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.written.send(bytes.to_vec()).expect("the test listens");
            if std::mem::take(&mut self.first) {
                self.go_on.recv().expect("the test says so");
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_of_a_moment_are_written_together_and_a_stuck_reader_stops_nobody() {
        let (written, out) = mpsc::channel();
        let (let_go_on, go_on) = mpsc::channel();
        let (lines, rest) = Lines::to(Slow { written, go_on, first: true }).expect("a thread");
        lines.add(b"first\n", true);
        assert_eq!(out.recv().expect("written"), b"first\n");
        // The thread is stuck in that write.
        lines.add(b"second\n", false);
        lines.add(b"third\n", true);
        lines.add(&vec![b'x'; MAX_WAITING], true);
        assert_eq!(lines.0.waiting.lock().left_out, 1);
        let_go_on.send(()).expect("it waits");
        assert_eq!(out.recv().expect("written"), b"second\nthird\n");
        lines.add(b"last\n", false);
        drop(rest);
        assert_eq!(out.recv().expect("what waits is written at the end"), b"last\n");
    }
}
