//! Child processes and folders that never outlive the test process, however it
//! ends. Called by the modules that start a server.
//!
//! Rust runs no destructor for a `static`, nor for anything after a SIGKILL. So
//! both are in the hands of a small shell that reads from a pipe held by the
//! test process alone: when the pipe closes, the shell cleans up.

use std::future::Future;
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use super::wait::PAUSE;

/// Starts "$@", kills it when standard input closes, and ends when it ended. A
/// shell gives its background jobs /dev/null as input, hence descriptor 3. Kill
/// is not polite on purpose: kube-apiserver takes a minute to stop when asked.
const SUPERVISOR: &str = r#"
    exec 3<&0
    "$@" 3<&- & server=$!
    { read -r _ <&3; kill -KILL $server; } & guard=$!
    wait $server
    echo "ended with status $?" >&2
    kill -KILL $guard
"#;

/// Removes folder $1 when standard input closes. It tries again because a
/// server that is being killed may still write a file.
const KEEPER: &str = r#"
    read -r _
    until rm -rf "$1" 2>/dev/null; do sleep 0.1; done
"#;

/// Runs `script` in a process group of its own: Ctrl-C in a terminal reaches
/// the test process only, and the shell then cleans up after it.
fn shell(script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).process_group(0).stdin(Stdio::piped());
    shell
}

/// A running server. Dropping it kills it.
pub struct Server {
    name: String,
    log: PathBuf,
    supervisor: Child,
}

impl Server {
    /// Starts `command` with all its output in `DIR/NAME.log`.
    pub fn start(name: &str, dir: &Path, command: &Command) -> Self {
        let log = dir.join(format!("{name}.log"));
        let output = std::fs::File::options().create(true).append(true).open(&log).expect("a log");
        let mut shell = shell(SUPERVISOR);
        shell.arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(key, value),
                None => shell.env_remove(key),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            shell.current_dir(dir);
        }
        shell.stdout(output.try_clone().expect("a second handle")).stderr(output);
        let supervisor = shell.spawn().expect("sh starts");
        Self { name: name.to_owned(), log, supervisor }
    }

    /// Waits until `probe` says yes. Panics with the end of the log when the
    /// server ends before that or takes longer than `deadline`.
    pub async fn ready<F, Fut>(&mut self, deadline: Duration, probe: F)
    where
        F: Fn() -> Fut,
        Fut: Future<Output = bool>,
    {
        let started = Instant::now();
        while !probe().await {
            let ended = self.supervisor.try_wait().expect("the supervisor is our child");
            assert!(ended.is_none(), "{} ended early:\n{}", self.name, self.log_tail());
            assert!(started.elapsed() < deadline, "{} not ready after {deadline:?}:\n{}", self.name, self.log_tail());
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The last 4 KiB the server wrote.
    pub fn log_tail(&self) -> String {
        let mut tail = Vec::new();
        let mut log = std::fs::File::open(&self.log).expect("the log is there");
        let length = log.metadata().expect("its length").len();
        log.seek(SeekFrom::Start(length.saturating_sub(4096))).expect("a file can seek");
        log.read_to_end(&mut tail).expect("a file can be read");
        String::from_utf8_lossy(&tail).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Waiting for a child closes the pipe to it first.
        let _ = self.supervisor.wait();
    }
}

/// A folder for one server's files. Put it last in a struct, so that it is
/// dropped, and with it removed, after the server that writes to it.
pub struct Scratch {
    path: PathBuf,
    keeper: Child,
}

impl Scratch {
    pub fn new() -> Self {
        let path = tempfile::Builder::new().prefix("herald-test-").tempdir().expect("a temporary folder").keep();
        let keeper = shell(KEEPER).arg(&path).spawn().expect("sh starts");
        Self { path, keeper }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file into the folder and gives its path.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path.join(name);
        std::fs::write(&path, content).expect("the folder is writable");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = self.keeper.wait();
    }
}

/// A loopback port nobody listens on. It comes from below the range the kernel
/// takes ports for outgoing connections from, so none can grab it in the moment
/// before the server binds it; processes start at different places for the same
/// reason.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() % 1000 * 10;
    loop {
        let taken = u32::from(TAKEN.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(20_000 + (start + taken) % 10_000).expect("below 30000");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
