//! Memory at its worst: for each thing that Herald keeps from a vendor, a Secret or an event, a tenant that makes as
//! much of it as may be; and what Alerts with expressions take, with the time until they are in use. Called by `main`
//! for the part `bounds`. Each row has a Herald of its own.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;
use tokio::task::JoinSet;

use super::programs::Program;
use super::support::flux::{FluxEvent, Manifest, alert, kustomization_event, provider, secret, sha};
use super::support::hostile::{Hostile, Manner};
use super::table::Table;
use super::{MANY_ALERTS, SETTLE};

/// What each may take over a Herald at rest.
const MOST: f64 = 64.0;

/// How long memory is watched after the last event.
const WATCHED: Duration = Duration::from_secs(10);

/// How often it is read.
const READ: Duration = Duration::from_millis(20);

/// How long a sender waits for an answer, as Flux does.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of a manifest file: Herald reads 8 MiB at most.
const FILE: usize = 6 << 20;

/// Namespaces of a tenant with more than one.
const NAMESPACES: usize = 8;

/// The longest text in an event: the door takes bodies of 3 MiB.
const TEXT: usize = 2900 << 10;

/// Adds the rows.
pub async fn measure(table: &mut Table) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    let bounds = Bounds { scratch: scratch.path().to_owned() };
    bounds.answers(table).await?;
    bounds.listings(table).await?;
    bounds.descriptions(table).await?;
    bounds.masks(table).await?;
    bounds.copies(table).await?;
    bounds.expressions(table).await?;
    bounds.exclusions(table).await
}

struct Bounds {
    scratch: PathBuf,
}

impl Bounds {
    /// Answers that are nearly there: 8 MiB but for a byte, in as many requests as go out at once.
    async fn answers(&self, table: &mut Table) -> anyhow::Result<()> {
        let vendor = Hostile::start("127.0.0.1", Manner::Withhold).await;
        for (what, kind) in [("hooks", "generic"), ("Git hosts", "gitea")] {
            let parts = (0..NAMESPACES).flat_map(|space| {
                let url = vendor.url.clone();
                (0..20).flat_map(move |number| {
                    let name = format!("p-{number}");
                    let one = provider(kind, &name, &format!("{url}/own/{name}")).secret("token");
                    [one, alert(&name, &name)].map(|part| part.namespace(&format!("team-{space}")))
                })
            });
            let events = (0..NAMESPACES * 20).map(|number| own(number, number % NAMESPACES));
            let grown = self.peak(&format!("answers-{kind}"), parts.chain(tokens()), events).await?;
            judge(table, format!("worst case, answers of {what} that stop before their end"), grown);
        }
        Ok(())
    }

    /// Listings of a description of 4 MiB a page, of many commits.
    async fn listings(&self, table: &mut Table) -> anyhow::Result<()> {
        let vendor = Hostile::start("127.0.0.1", Manner::Fill).await;
        let events = (0..12 * NAMESPACES).map(|number| own(number, number % NAMESPACES));
        let grown = self.peak("listings", git(&vendor), events).await?;
        judge(table, "worst case, listings of long descriptions", grown);
        Ok(())
    }

    /// Statuses whose words are as long as an event may be.
    async fn descriptions(&self, table: &mut Table) -> anyhow::Result<()> {
        let vendor = Hostile::start("127.0.0.1", Manner::Lie(<_>::default())).await;
        let events = (0..200).map(|number| own(number, number % NAMESPACES).reason(&"r".repeat(TEXT)));
        let grown = self.peak("descriptions", git(&vendor), events).await?;
        judge(table, "worst case, descriptions that are remembered", grown);
        Ok(())
    }

    /// Large Secrets, each named by many Providers: a CA bundle, and a value that is no credential.
    async fn masks(&self, table: &mut Table) -> anyhow::Result<()> {
        let bundle = bundle()?;
        let junk: String = ('a'..='z').cycle().take(900_000).collect();
        for (what, key, value) in [("a CA bundle", "ca.crt", &bundle), ("900 KB", "junk", &junk)] {
            let secrets = [secret("big", "token", "only-for-tests").key(key, value)];
            let providers = (0..100).map(|number| {
                let one = provider("gitea", &format!("p-{number}"), &format!("http://127.0.0.1:9/own/repo-{number}"));
                let one = one.secret("big");
                if key == "junk" { one } else { one.spec("certSecretRef", json!({"name": "big"})) }
            });
            let grown = self.peak(&format!("masks-{key}"), providers.chain(secrets), []).await?;
            judge(table, format!("worst case, a Secret with {what} that 100 Providers name"), grown);
        }
        Ok(())
    }

    /// One long event for many hooks, none of which answers.
    async fn copies(&self, table: &mut Table) -> anyhow::Result<()> {
        let vendor = Hostile::start("127.0.0.1", Manner::Hang).await;
        let hook = provider("generic", "hook", &format!("{}/hook", vendor.url));
        let alerts = (0..300).map(|number| alert(&format!("a-{number}"), "hook"));
        let event = kustomization_event("web", &sha(1)).message(&"m".repeat(TEXT));
        let grown = self.peak("copies", alerts.chain([hook]), [event]).await?;
        judge(table, "worst case, an event of 2.9 MB for 300 Alerts", grown);
        Ok(())
    }

    /// Short expressions that become large machines, no two alike, and events that run them.
    async fn expressions(&self, table: &mut Table) -> anyhow::Result<()> {
        let hook = provider("generic", "hook", "http://127.0.0.1:9/hook");
        let alerts = (0..1000).map(|number| {
            let lists = vec![format!(r"(?i){}~{number}", "[a-z]{0,40}".repeat(8)), format!(r"(?i)\pL{{9}}{number}")];
            alert(&format!("a-{number}"), "hook").spec("exclusionList", lists)
        });
        let events = (0..20).map(|number| kustomization_event("web", &sha(number)).message(&"m".repeat(16 << 10)));
        let grown = self.peak("expressions", alerts.chain([hook]), events).await?;
        judge(table, "worst case, 1,000 Alerts with large expressions", grown);
        Ok(())
    }

    /// What many teams write: two sources and an ordinary exclusion.
    async fn exclusions(&self, table: &mut Table) -> anyhow::Result<()> {
        for (what, numbered, most, soonest) in [("of one text", false, 40.0, 1.0), ("of a text each", true, 64.0, 2.0)]
        {
            let hook = provider("generic", "hook", "http://127.0.0.1:9/hook");
            let alerts = (0..MANY_ALERTS).map(|number| {
                let name = format!("app-{number}");
                let sources = json!([{"kind": "Kustomization", "name": name}, {"kind": "HelmRelease", "name": name}]);
                let own = if numbered { format!(" {number}") } else { String::new() };
                alert(&name, "hook").sources(sources).spec("exclusionList", json!([format!(".*no change{own}.*")]))
            });
            let (idle, _) = self.start("idle", []).await?;
            let (program, seconds) = self.start(&what.replace(' ', "-"), alerts.chain([hook])).await?;
            tokio::time::sleep(SETTLE).await;
            let grown = program.resident()? - idle.resident()?;
            let row = format!("{MANY_ALERTS} Alerts with exclusions {what}, over none");
            table.judged(row, format!("{grown:.1} MiB"), grown, most, format!("{most} MiB"));
            table.judged("  start to ready", format!("{seconds:.2} s"), seconds, soonest, format!("{soonest} s"));
        }
        Ok(())
    }

    /// Herald with these objects, and the seconds until it was ready.
    async fn start(&self, name: &str, objects: impl IntoIterator<Item = Manifest>) -> anyhow::Result<(Program, f64)> {
        let folder = self.scratch.join(name);
        write(&folder, objects)?;
        let began = Instant::now();
        let program = Program::herald(None, &folder).await?;
        program.until_ready().await?;
        Ok((program, began.elapsed().as_secs_f64()))
    }

    /// How many MiB a Herald with these objects and events took at most over one without any.
    async fn peak(
        &self,
        name: &str,
        objects: impl IntoIterator<Item = Manifest>,
        events: impl IntoIterator<Item = FluxEvent>,
    ) -> anyhow::Result<f64> {
        eprintln!("the worst case of {name}");
        let (idle, _) = self.start("idle", []).await?;
        let (program, _) = self.start(name, objects).await?;
        let door = format!("http://{}/", program.door);
        let bodies: Vec<String> = events.into_iter().map(|event| event.to_string()).collect();
        let mut sending = JoinSet::new();
        sending.spawn(post(door, bodies));
        let (mut most, mut last) = (0.0_f64, Instant::now());
        while last.elapsed() < WATCHED {
            most = most.max(program.resident()?);
            if let Some(sent) = sending.try_join_next() {
                sent??;
            }
            if !sending.is_empty() {
                last = Instant::now();
            }
            tokio::time::sleep(READ).await;
        }
        let grown = most - idle.resident()?;
        eprintln!("  {grown:.1} MiB");
        Ok(grown)
    }
}

/// Posts one after the other, whatever is answered: what a tenant has too much of may be refused, or take too long.
async fn post(door: String, bodies: Vec<String>) -> anyhow::Result<()> {
    let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
    let (all, mut unanswered) = (bodies.len(), 0);
    for body in bodies {
        match http.post(&door).body(body).send().await {
            Ok(answer) => ensure!([202, 503].contains(&answer.status().as_u16()), "answered {}", answer.status()),
            Err(_) => unanswered += 1,
        }
    }
    if unanswered > 0 {
        eprintln!("  {unanswered} of {all} events got no answer within {PATIENCE:?}");
    }
    Ok(())
}

fn judge(table: &mut Table, what: impl Into<String>, grown: f64) {
    table.judged(what, format!("{grown:.1} MiB"), grown, MOST, format!("{MOST} MiB"));
}

/// An event about an object of a tenant's, on a commit of its own.
fn own(number: usize, space: usize) -> FluxEvent {
    kustomization_event(&format!("app-{number}"), &sha(number as u64 + 1)).namespace(&format!("team-{space}"))
}

/// A Secret in each namespace.
fn tokens() -> impl Iterator<Item = Manifest> {
    (0..NAMESPACES).map(|space| secret("token", "token", "only-for-tests").namespace(&format!("team-{space}")))
}

/// A Git host's Provider in each namespace, told of everything.
fn git(vendor: &Hostile) -> impl Iterator<Item = Manifest> {
    let address = format!("{}/own/repo", vendor.url);
    let parts = (0..NAMESPACES).flat_map(move |space| {
        let parts = [provider("gitea", "git", &address).secret("token"), alert("all", "git")];
        parts.map(|part| part.namespace(&format!("team-{space}")))
    });
    parts.chain(tokens())
}

/// As many roots as a company's bundle has: about 200 KiB.
fn bundle() -> anyhow::Result<String> {
    let mut bundle = String::new();
    while bundle.len() < 200 << 10 {
        let certificate = rcgen::generate_simple_self_signed(vec!["example.com".repeat(20)])?;
        bundle += &certificate.cert.pem();
    }
    Ok(bundle)
}

/// Writes manifests into files of a size that Herald reads.
fn write(folder: &Path, objects: impl IntoIterator<Item = Manifest>) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut files = vec![String::new()];
    for object in objects {
        let text = format!("---\n{}\n", *object);
        if files.last().is_some_and(|file| !file.is_empty() && file.len() + text.len() > FILE) {
            files.push(String::new());
        }
        *files.last_mut().expect("one at least") += &text;
    }
    for (number, file) in files.iter().enumerate() {
        std::fs::write(folder.join(format!("{number}.yaml")), file)?;
    }
    Ok(())
}
