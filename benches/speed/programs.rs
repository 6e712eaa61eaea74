//! The programs that are measured, as processes of their own, and what the kernel knows of them:
//! CPU time and resident memory, from `/proc`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How long a program may take to start.
const START: Duration = Duration::from_secs(60);

/// How long it may take from then until it is ready.
const READY: Duration = Duration::from_secs(120);

/// Kills process $1 when standard input closes, which it does even when the one who holds the
/// other end is killed.
const GUARD: &str = "read -r _; kill -KILL $1";

/// A running program. Dropping it kills it.
pub struct Program {
    /// Where it takes events.
    pub door: SocketAddr,
    /// Where its probes are, once the log names the address.
    pub probes: Option<SocketAddr>,
    child: Child,
    guard: Child,
}

impl Program {
    /// Herald with its usual flags and its outbox on disk, reading `manifests`: the one built with this,
    /// or another.
    pub async fn herald(other: Option<&Path>, manifests: &Path) -> anyhow::Result<Self> {
        Self::herald_with(other, manifests, &[]).await
    }

    /// The same with `more` flags.
    pub async fn herald_with(other: Option<&Path>, manifests: &Path, more: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(other.unwrap_or(env!("CARGO_BIN_EXE_herald").as_ref()));
        // An earlier build knows no such flag, and refuses no address.
        if other.is_none() {
            command.arg("--allow-address=127.0.0.0/8");
        }
        command
            .args(["--events-addr=127.0.0.1:0", "--health-addr=127.0.0.1:0", "--metrics-addr=127.0.0.1:0"])
            .arg("--outbox-path")
            .arg(manifests.with_extension("db"))
            .arg("--manifests")
            .arg(manifests)
            .args(more);
        Self::start(command, &manifests.with_extension("log")).await
    }

    /// Herald in the cluster that `kubeconfig` names; its outbox and log are in `dir`.
    pub async fn herald_in(kubeconfig: PathBuf, other: Option<&Path>, dir: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(other.unwrap_or(env!("CARGO_BIN_EXE_herald").as_ref()));
        command
            .args(["--events-addr=127.0.0.1:0", "--health-addr=127.0.0.1:0", "--metrics-addr=127.0.0.1:0"])
            .arg("--outbox-path")
            .arg(dir.join("cluster.db"))
            .env("KUBECONFIG", kubeconfig)
            .env("RUNTIME_NAMESPACE", "flux-system");
        Self::start(command, &dir.join("cluster.log")).await
    }

    /// The bare relay in front of `vendor`.
    pub async fn relay(dir: &Path, vendor: SocketAddr) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(format!("--relay={vendor}"));
        Self::start(command, &dir.join("relay.log")).await
    }

    /// Starts `command` with its log in a file, as a container's would be.
    async fn start(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let output = std::fs::File::create(log)?;
        let child = command
            .stdin(Stdio::null())
            .stderr(output)
            .spawn()
            .with_context(|| format!("{:?}", command.get_program()))?;
        let guard = Command::new("sh").args(["-c", GUARD, "sh", &child.id().to_string()]).stdin(Stdio::piped()).spawn();
        let door = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut program = Self { door, probes: None, child, guard: guard.context("sh")? };
        (program.door, program.probes) = program.started(log.to_owned()).await?;
        Ok(program)
    }

    /// Waits for the log's line that names the addresses: for events, and for probes.
    async fn started(&mut self, log: PathBuf) -> anyhow::Result<(SocketAddr, Option<SocketAddr>)> {
        let begun = Instant::now();
        loop {
            let text = std::fs::read_to_string(&log)?;
            let line = text.lines().find(|line| line.contains("\"msg\":\"started\""));
            let field = |name: &str| line?.split(&format!("\"{name}\":\"")).nth(1)?.split('"').next();
            if let Some(door) = field("events") {
                return Ok((door.parse()?, field("health").map(str::parse).transpose()?));
            }
            if begun.elapsed() > START || self.child.try_wait()?.is_some() {
                bail!("the program did not start:\n{text}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until its probe says that it is ready.
    pub async fn until_ready(&self) -> anyhow::Result<()> {
        let ready = format!("http://{}/readyz", self.probes.context("the log does not name the probes")?);
        let (began, http) = (Instant::now(), reqwest::Client::builder().no_proxy().build()?);
        while !http.get(&ready).send().await.is_ok_and(|answer| answer.status().is_success()) {
            anyhow::ensure!(began.elapsed() < READY, "not ready within {READY:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// CPU time of all its threads so far, as the scheduler counts it: to the nanosecond, where
    /// `stat` counts ticks of ten milliseconds. Threads that ended are missing, but those of the
    /// runtime never do.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let mut total = 0;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            // One that ends just now has nothing to tell.
            let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) else { continue };
            total += text.split(' ').next().context("an empty schedstat")?.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(total))
    }

    /// Resident memory in MiB: the kernel's VmRSS.
    pub fn resident(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The guard first, lest it kills whoever gets the number next.
        for process in [&mut self.guard, &mut self.child] {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
