//! The herald process under `examples/demo.rs`: started, watched, and never left behind.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::NamedTempFile;

/// How much of herald's log is shown when something went wrong.
const TAIL: usize = 25;

/// A running herald; killed when dropped, and also when this process dies without dropping anything.
pub struct Herald {
    process: Child,
    leash: Child,
    log: NamedTempFile,
}

impl Drop for Herald {
    fn drop(&mut self) {
        // The leash first: once herald is gone, its number may become another process'.
        for child in [&mut self.leash, &mut self.process] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Herald {
    /// Starts `binary`; everything it prints goes into a temporary file.
    pub fn start(binary: &Path, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> anyhow::Result<Self> {
        if !binary.exists() {
            bail!(
                "there is no herald at {}; build it with `cargo build`, or name it with --herald PATH",
                binary.display()
            );
        }
        let log = tempfile::Builder::new().prefix("herald-demo-").suffix(".log").tempfile()?;
        let output = OpenOptions::new().append(true).open(log.path())?;
        let mut process = Command::new(binary)
            .args(arguments)
            // A proxy in the environment is not meant for loopback.
            .env("NO_PROXY", "127.0.0.1,localhost")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // A group of its own: Ctrl-C is for the demo, which then ends herald.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        match leash(process.id()) {
            Ok(leash) => Ok(Self { process, leash, log }),
            Err(error) => {
                let _ = process.kill();
                Err(error).context("cannot start `sh`, which is to end herald should the demo be killed")
            }
        }
    }

    /// Waits until herald ends by itself.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The end of herald's log, and where all of it stays from now on.
    pub fn keep_log(mut self) -> io::Result<String> {
        let text = String::from_utf8_lossy(&fs::read(self.log.path())?).into_owned();
        self.log.disable_cleanup(true);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
        Ok(format!("{tail}\n(all of herald's log: {})", self.log.path().display()))
    }
}

/// A shell that waits for the end of its input, which only this process holds open, and then kills herald. The
/// kernel closes the pipe however we die, so this works where no code of ours runs any more.
fn leash(number: u32) -> io::Result<Child> {
    Command::new("sh")
        .args(["-c", "read -r _ || kill -9 \"$1\"", "leash", &number.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}
