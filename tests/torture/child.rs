//! `herald` as a process of its own: killed without warning, started again on the same file. Used by every test here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use herald::outbox::{Reader, Row};

use super::support::process::{Scratch, Server, free_port};

const BINARY: &str = env!("CARGO_BIN_EXE_herald");

/// How long it may take to be ready. An optimised one takes some milliseconds; this one may share a core.
const START: Duration = Duration::from_secs(30);

/// See the module. Its log and its outbox outlive a kill, and are removed when this is dropped.
pub struct Child {
    /// Where its events door is; the same after every start.
    pub events_url: String,
    health: String,
    metrics: String,
    flags: Vec<String>,
    http: reqwest::Client,
    server: Option<Server>,
    scratch: Scratch,
}

impl Child {
    /// Starts it on a directory of manifests, with an outbox that is empty.
    pub async fn start(manifests: &Path, flags: &[&str]) -> Self {
        let scratch = Scratch::new();
        let [events, health, metrics] = [(); 3].map(|()| format!("127.0.0.1:{}", free_port()));
        let mut all = vec![
            format!("--manifests={}", manifests.display()),
            format!("--outbox-path={}", scratch.path().join("outbox.db").display()),
            format!("--events-addr={events}"),
            format!("--health-addr={health}"),
            format!("--metrics-addr={metrics}"),
        ];
        if !flags.iter().any(|flag| flag.starts_with("--allow-address")) {
            all.push("--allow-address=127.0.0.0/8".to_owned());
        }
        all.extend(flags.iter().map(|&flag| flag.to_owned()));
        let mut child = Self {
            events_url: format!("http://{events}/"),
            health: format!("http://{health}/readyz"),
            metrics: format!("http://{metrics}/metrics"),
            flags: all,
            http: reqwest::Client::builder().no_proxy().build().expect("a plain HTTP client"),
            server: None,
            scratch,
        };
        child.resume().await;
        child
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// Starts it again.
    pub async fn resume(&mut self) {
        let mut command = Command::new(BINARY);
        command.args(&self.flags);
        let mut server = Server::start("herald", self.scratch.path(), &command);
        server.ready(START, || async { self.get(&self.health).await.is_some() }).await;
        self.server = Some(server);
    }

    async fn get(&self, url: &str) -> Option<String> {
        let answer = self.http.get(url).timeout(Duration::from_secs(1)).send().await.ok()?;
        answer.error_for_status().ok()?.text().await.ok()
    }

    /// One number of the metrics, without labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let metrics = self.get(&self.metrics).await.expect("it answers");
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no metric {name} in {metrics}")).parse().expect("a number")
    }

    /// Its resident memory in bytes; none when it does not answer within a second.
    pub async fn resident(&self) -> Option<f64> {
        let metrics = self.get(&self.metrics).await?;
        metrics.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes ")?.parse().ok())
    }

    /// Its outbox.
    pub fn outbox(&self) -> PathBuf {
        self.scratch.path().join("outbox.db")
    }

    /// How many jobs are in the file.
    pub fn held(&self) -> usize {
        Reader::open(&self.outbox()).and_then(|reader| reader.jobs(None)).expect("the file can be read").len()
    }

    /// What `herald outbox ls` prints.
    pub fn outbox_ls(&self) -> String {
        self.operate(&["ls"])
    }

    /// What `herald outbox …` prints.
    fn operate(&self, args: &[&str]) -> String {
        let mut command = Command::new(BINARY);
        command.arg("outbox").args(args).arg("--outbox-path").arg(self.outbox());
        let output = command.output().expect("herald is built");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("it prints text")
    }

    /// Has one of the jobs of a Provider in this namespace tried that wait for a later time; whether there was one.
    pub fn retry_one_in(&self, namespace: &str) -> bool {
        let jobs = Reader::open(&self.outbox()).and_then(|reader| reader.jobs(None)).expect("the file can be read");
        let is_its =
            |row: &&Row| row.due.is_some() && row.record.as_ref().is_ok_and(|it| *it.provider.namespace == *namespace);
        let Some(job) = jobs.iter().find(is_its) else { return false };
        let said = self.operate(&["retry", &job.id.to_string()]);
        assert!(said.contains("is tried now"), "{said}");
        true
    }

    /// The lines of its log that name something.
    pub fn log_of(&self, name: &str) -> String {
        let log = std::fs::read_to_string(self.scratch.path().join("herald.log")).expect("a log");
        log.lines().filter(|line| line.contains(name)).collect::<Vec<_>>().join("\n")
    }
}
