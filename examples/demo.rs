//! Herald at work in one command: `cargo build && cargo run --example demo`.
//!
//! It starts the simulated Git host of `examples/forge.rs` in this process and the real herald binary beside it,
//! without a cluster: Providers, Alerts and Secrets come from `examples/demo/*.yaml`. Then it plays the events in
//! `examples/demo/events/` and checks every commit status that comes out. Exit code 0 means that all were exactly as
//! expected. With `--stay` it goes on, for trying things by hand.
//!
//! Events 01 to 06 are what a real kustomize-controller sent; the others are made after their likeness.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

#[expect(dead_code, unused_imports, reason = "the tests use the rest")]
#[path = "../tests/support/forge/mod.rs"]
mod forge;
#[path = "demo/herald.rs"]
mod herald;

use std::env;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use forge::{Forge, Status};
use herald::Herald;
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;

/// The manifests name this address, so it is no flag.
const FORGE: &str = "127.0.0.1:3080";
const EVENTS: &str = "127.0.0.1:9090";
const HEALTH: &str = "127.0.0.1:9440";
const METRICS: &str = "127.0.0.1:8080";

const GITHUB: &str = "acme/fleet";
const GITEA: &str = "acme/fleet-gitea";

const READY_WITHIN: Duration = Duration::from_secs(20);
/// For all statuses of one event. Herald needs milliseconds; a busy machine may need more.
const TOLD_WITHIN: Duration = Duration::from_secs(10);

/// The events in order, and the state that each is to leave behind at the two hosts.
///
/// `None` is as much a claim as a state: what kustomize-controller tells while it works carries no commit for the
/// status ("applied", "healthy"), so no host hears of it. Only an object annotated with its commit is told of
/// while it is still in progress, and then only at Gitea.
const STORY: [Chapter; 9] = [
    Chapter { file: "01-good-applied.json", github: None, gitea: None },
    Chapter { file: "02-good-healthy.json", github: None, gitea: None },
    Chapter { file: "03-good-succeeded.json", github: Some("success"), gitea: Some("success") },
    Chapter { file: "04-bad-failed.json", github: Some("failure"), gitea: Some("failure") },
    Chapter { file: "05-unhealthy-applied.json", github: None, gitea: None },
    Chapter { file: "06-unhealthy-failed.json", github: Some("failure"), gitea: Some("failure") },
    Chapter { file: "07-bad-recovered.json", github: Some("success"), gitea: Some("success") },
    Chapter { file: "08-annotated-applied.json", github: None, gitea: Some("pending") },
    Chapter { file: "09-annotated-succeeded.json", github: Some("success"), gitea: Some("success") },
];

struct Chapter {
    file: &'static str,
    github: Option<&'static str>,
    gitea: Option<&'static str>,
}

/// Plays recorded Flux events through herald against a simulated Git host, and checks what comes out.
#[derive(Parser)]
struct Flags {
    /// Keep running afterwards, print each new status, and say how to send more events.
    #[arg(long)]
    stay: bool,
    /// The herald binary [default: the one that `cargo build` put beside this example]
    #[arg(long, value_name = "PATH")]
    herald: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let flags = Flags::parse();
    match demo(&flags).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the whole demo; says whether every status was as expected.
async fn demo(flags: &Flags) -> anyhow::Result<bool> {
    for address in [EVENTS, HEALTH, METRICS] {
        let free = TcpListener::bind(address);
        free.with_context(|| format!("herald needs {address}, which is taken; stop what listens there"))?;
    }
    let forge = Forge::start(FORGE).await;
    let forge =
        forge.with_context(|| format!("the Git host needs {FORGE}; stop what listens there, perhaps another demo"))?;
    let manifests = folder();
    let binary = flags.herald.clone().map_or_else(beside_this_example, Ok)?;
    let mut herald = Herald::start(
        &binary,
        ["--allow-address=127.0.0.0/8".as_ref(), "--manifests".as_ref(), manifests.as_os_str()]
            .into_iter()
            .chain(["--events-addr", EVENTS, "--health-addr", HEALTH, "--metrics-addr", METRICS].map(AsRef::as_ref)),
    )?;

    let outcome = async {
        let Some(good) = attended(&mut herald, play(&forge)).await? else {
            bail!("stopped before the end");
        };
        if flags.stay {
            attended(&mut herald, linger(&forge)).await?;
        }
        anyhow::Ok(good)
    }
    .await;
    if !matches!(outcome, Ok(true)) {
        eprintln!("--- herald's log ends with:\n{}\n---", herald.keep_log()?);
    }
    outcome
}

/// Does the work while herald lives: `None` if Ctrl-C came first, an error if herald ended by itself.
async fn attended<T>(herald: &mut Herald, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<Option<T>> {
    tokio::select! {
        done = work => done.map(Some),
        ended = herald.ended() => bail!("herald ended by itself ({}); its log above says why", ended?),
        _ = tokio::signal::ctrl_c() => Ok(None),
    }
}

/// The story from the first event to the verdict: whether every status is as expected.
async fn play(forge: &Forge) -> anyhow::Result<bool> {
    let client = Client::builder().no_proxy().timeout(TOLD_WITHIN).build()?;
    ready(&client).await?;
    println!("herald is ready; the Git host's page is {}/\n", forge.url());

    let mut lines: Vec<Line> = Vec::new();
    for chapter in STORY {
        let event = Event::read(chapter.file)?;
        println!("event   {:28} {}", chapter.file, event.reason);
        for (repository, state) in [(GITHUB, chapter.github), (GITEA, chapter.gitea)] {
            Line::of(&mut lines, &event, repository).expected.extend(state.map(|state| event.says(state)));
        }
        event.send(&client).await?;
        // The next event waits for these statuses, else it could overtake them: a newer state replaces one that is not
        // told yet, which is right, but would make this table a matter of luck.
        forge.until(TOLD_WITHIN, |forge| lines.iter().all(|line| line.told(forge).len() >= line.expected.len())).await;
        if let Some(missing) = lines.iter().find(|line| line.told(forge).len() < line.expected.len()) {
            println!("        waited {TOLD_WITHIN:?} in vain for {} on {}", missing.object, missing.repository);
            break;
        }
    }

    println!("\n   {:9} {:17} {:34} history", "commit", "repository", "status");
    let verdicts: Vec<bool> = lines.iter().map(|line| line.print(forge)).collect();
    let good = verdicts.iter().all(|good| *good);
    println!("\n{}", if good { "every status is as expected" } else { "not as expected, see the lines with ✗" });
    Ok(good)
}

/// Waits for herald's readiness door; asking again is all one can do with another process.
async fn ready(client: &Client) -> anyhow::Result<()> {
    let url = format!("http://{HEALTH}/readyz");
    let asking = async {
        loop {
            let answer = client.get(&url).send().await;
            if answer.is_ok_and(|answer| answer.status() == StatusCode::OK) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(READY_WITHIN, asking).await;
    in_time.with_context(|| format!("herald was not ready within {READY_WITHIN:?} ({url} never answered 200)"))
}

/// Prints each new status, for as long as it is let.
async fn linger(forge: &Forge) -> anyhow::Result<()> {
    let mut news = forge.subscribe();
    println!("\nThe page is {}/. To turn the commit of `bad` red and green again:\n", forge.url());
    for file in ["more-bad-failed.json", "more-bad-recovered.json"] {
        println!("  curl -i -H 'Content-Type: application/json' -d @examples/demo/events/{file} http://{EVENTS}/");
    }
    println!("\nCtrl-C stops everything. New statuses:\n");
    loop {
        match news.recv().await {
            Ok(status) => println!("{status}"),
            Err(RecvError::Lagged(missed)) => println!("… {missed} more"),
            Err(RecvError::Closed) => bail!("the Git host has stopped"),
        }
    }
}

/// What the table shows in one line: one object's commit at one host.
struct Line {
    repository: &'static str,
    object: String,
    commit: String,
    /// State and description of every status, in order.
    expected: Vec<(String, String)>,
}

impl Line {
    fn of<'a>(lines: &'a mut Vec<Self>, event: &Event, repository: &'static str) -> &'a mut Self {
        let object = &event.involved_object.name;
        let at = lines.iter().position(|line| line.repository == repository && line.object == *object);
        let at = at.unwrap_or_else(|| {
            let commit = event.commit().to_owned();
            lines.push(Self { repository, object: object.clone(), commit, expected: Vec::new() });
            lines.len() - 1
        });
        &mut lines[at]
    }

    fn told(&self, forge: &Forge) -> Vec<Status> {
        let mut statuses = forge.statuses(&self.commit);
        statuses.retain(|status| status.repository == self.repository);
        statuses
    }

    /// Prints the line; says whether all of it is as expected.
    fn print(&self, forge: &Forge) -> bool {
        let told = self.told(forge);
        let context = told.first().map_or("(none)", |status| status.context.as_str());
        let pairs: Vec<(String, String)> =
            told.iter().map(|status| (status.state.clone(), status.description.clone().unwrap_or_default())).collect();
        // The default name: kind, name, and the start of the Provider's UID.
        let named = told.iter().all(|status| {
            status.context == context && status.context.starts_with(&format!("kustomization/{}/", self.object))
        });
        let good = named && pairs == self.expected;
        let states =
            |pairs: &[(String, String)]| pairs.iter().map(|(state, _)| state.clone()).collect::<Vec<_>>().join(" -> ");
        let mark = if good { '✓' } else { '✗' };
        let commit = self.commit.get(..8).unwrap_or(&self.commit);
        println!("{mark}  {commit:9} {:17} {context:34} {}", self.repository, states(&pairs));
        if !good {
            println!("   expected: {:?}\n   found:    {pairs:?}", self.expected);
        }
        good
    }
}

/// The few fields of a Flux event that the demo needs to know what to expect.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    involved_object: Object,
    reason: String,
    metadata: Metadata,
    #[serde(skip)]
    text: String,
}

#[derive(Deserialize)]
struct Object {
    name: String,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(rename = "kustomize.toolkit.fluxcd.io/revision")]
    revision: String,
}

impl Event {
    fn read(file: &str) -> anyhow::Result<Self> {
        let path = folder().join("events").join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let event: Self =
            serde_json::from_str(&text).with_context(|| format!("{} is no Flux event", path.display()))?;
        Ok(Self { text, ..event })
    }

    async fn send(&self, client: &Client) -> anyhow::Result<()> {
        let request = client.post(format!("http://{EVENTS}/")).header("content-type", "application/json");
        let answer = request.body(self.text.clone()).send().await.context("herald did not answer an event")?;
        ensure!(
            answer.status() == StatusCode::ACCEPTED,
            "herald answered an event with {}, not with 202",
            answer.status()
        );
        Ok(())
    }

    /// The hash in a revision like `main@sha1:<hash>`.
    fn commit(&self) -> &str {
        self.metadata.revision.rsplit(':').next().unwrap_or_default()
    }

    /// The status that this event becomes: its state, and the reason's words as the description.
    fn says(&self, state: &str) -> (String, String) {
        let mut description = String::new();
        for letter in self.reason.chars() {
            if letter.is_uppercase() && !description.is_empty() {
                description.push(' ');
            }
            description.extend(letter.to_lowercase());
        }
        (state.to_owned(), description)
    }
}

/// Where the manifests and events are: below the current folder, or where this example was built.
fn folder() -> PathBuf {
    let here = Path::new("examples/demo");
    if here.is_dir() { here.to_owned() } else { Path::new(env!("CARGO_MANIFEST_DIR")).join(here) }
}

/// Cargo puts examples into a folder below the one of the binaries.
fn beside_this_example() -> anyhow::Result<PathBuf> {
    let this = env::current_exe()?;
    let folder = this.parent().and_then(Path::parent).context("this example lies in no folder")?;
    Ok(folder.join(format!("herald{}", env::consts::EXE_SUFFIX)))
}
