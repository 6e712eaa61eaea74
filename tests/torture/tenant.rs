//! A tenant that means ill beside a platform that is well: one `herald`, one namespace whose Providers, Alerts and
//! Secrets do everything that a tenant may, and another whose 500 statuses are looked at.
//!
//! The platform's events come at an even rate three times: with nobody else there, then beside the tenant, then beside
//! the tenant with each object of the other colour on the same commits. What is wrong afterwards is told by its kind,
//! so that a failure names what broke:
//!
//! | kind | what it means |
//! |---|---|
//! | `late` | p99 from event to status is more than [`TIMES`] that of the first time, and more than [`FLOOR`]; or a probe got no answer within a second, [`SILENCES`] times or more |
//! | `lost` | a status or a message of the platform's never came |
//! | `wrong colour` | the platform's status is there and not the last one |
//! | `memory` | resident memory grew over [`GROWTH`] |
//! | `credential` | a server was shown a credential that is not for it |
//! | `address` | a server was reached at an address that was not allowed |
//!
//! The ratio is of two measurements of one process on one machine, minutes apart. On a busy machine both rise; [`FLOOR`]
//! keeps a first measurement of a few milliseconds from making the second one a matter of chance.
//!
//! | the tenant's | what it does |
//! |---|---|
//! | Providers | 500: hooks and Git hosts that hang, send without an end, fill memory, drip, redirect; the platform's own repository by proxies that hang and that lie; addresses which nobody allowed; Herald's own identity |
//! | Alerts | expressions that are small and take long to compile or to match, some of them on the platform's objects |
//! | Secrets | megabytes of values |
//! | events | 100 a second about its own objects, messages of 64 KiB and of 2 MiB among them |

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::json;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::child::Child;
use super::sender::Sender;
use super::support::flux::{FluxEvent, Folder, Manifest, NAMESPACE, alert, kustomization_event, provider, secret, sha};
use super::support::forge::{Application, Forge, Status};
use super::support::hostile::{Claims, Hostile, Manner};
use super::support::wait;

/// The tenant's namespace. In the order of names it comes before the platform's.
const TENANT: &str = "a-team";

const OBJECTS: usize = 500;
const PER_COMMIT: usize = 50;
const PROVIDERS: usize = 500;

/// The platform's events a second.
const RATE: u64 = 50;

/// How much slower the platform's p99 may be beside the tenant.
const TIMES: f64 = 2.0;

/// A p99 that is never too late.
const FLOOR: Duration = Duration::from_millis(250);

/// Probes without an answer within a second that make a kubelet restart the program.
const SILENCES: usize = 3;

/// What the process may grow by.
const GROWTH: f64 = (128 << 20) as f64;

/// How long after the last event statuses may come.
const DEADLINE: Duration = Duration::from_secs(20);

/// The only loopback address that Herald may reach.
const ALLOWED: &str = "127.0.0.1";

/// An address of this machine that nobody allowed.
const FORBIDDEN: &str = "127.0.0.2";

/// The platform's token. The tenant's are `tenants-…`.
const TOKEN: &str = "platforms-own-token";

/// How often the third round comes: beside the tenant, each object of the other colour than the time before.
fn rounds() -> usize {
    3
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_means_ill_costs_the_platform_nothing() {
    // Not held yet: statuses come late beside the tenant, and memory grows by more than 128 MiB. `make torture` shows
    // by how much. Nothing is lost, no colour is wrong and no credential strays.
    if !super::long() {
        eprintln!("only `make torture` runs this: what it wants is not held yet");
        return;
    }
    let forge = Forge::start("127.0.0.1:0").await.expect("a free port");
    let entra = Forge::start("127.0.0.1:0").await.expect("a free port");
    let identity = tempfile::NamedTempFile::new().expect("a file");
    let application =
        Application { tenant: "acme".to_owned(), client: "herald".to_owned(), subject: "herald".to_owned() };
    std::fs::write(identity.path(), application.assertion()).expect("a file");
    entra.application(application);
    let servers = Servers::start(&forge).await;
    let platform = platforms_provider(&forge);
    let folder = Folder::with(platforms(&forge));
    let flags = [
        format!("--allow-address={ALLOWED}"),
        format!("--azure-authority-host={}", entra.url()),
        "--azure-tenant-id=acme".to_owned(),
        "--azure-client-id=herald".to_owned(),
        format!("--azure-federated-token-file={}", identity.path().display()),
    ];
    let herald = Arc::new(Child::start(folder.path(), &flags.each_ref().map(String::as_str)).await);
    let sender = Arc::new(Sender::to(&herald.events_url));
    let idle = herald.resident().await.expect("it answers");
    let watch = Watch::start(&herald);
    let mut findings = Findings::default();

    let alone = round(0, &forge, &sender, &platform).await;
    println!("alone: p50 {:?}, p99 {:?}", alone.p50, alone.p99);
    findings.add("lost", alone.lost);
    findings.add("wrong colour", alone.wrong);

    folder.write_text("tenant.yaml", &tenants_file(&servers, &forge, &platform));
    let _flood = Flood::start(&herald.events_url);
    let known = async {
        while servers.hang.heads().is_empty() {
            sleep(wait::PAUSE).await
        }
    };
    if timeout(DEADLINE, known).await.is_err() {
        findings.add("late", [format!("nothing of the tenant's was tried within {DEADLINE:?}")]);
    }
    for number in 1..rounds() {
        servers.claim(number, &platform);
        announce(number, &sender, &servers).await;
        let beside = round(number, &forge, &sender, &platform).await;
        println!("beside the tenant: p50 {:?}, p99 {:?}", beside.p50, beside.p99);
        let allowed = alone.p99.mul_f64(TIMES).max(FLOOR);
        if beside.p99 > allowed {
            findings.add("late", [format!("p99 is {:?}, and {:?} without the tenant", beside.p99, alone.p99)]);
        }
        findings.add("lost", beside.lost);
        findings.add("wrong colour", beside.wrong);
    }
    let (most, silences) = watch.end();
    let grown = (most - idle) / f64::from(1 << 20);
    println!("memory grew by {grown:.0} MiB; {silences} probes without an answer");
    if most - idle > GROWTH {
        findings.add("memory", [format!("grew by {grown:.0} MiB")]);
    }
    if silences >= SILENCES {
        findings.add("late", [format!("{silences} probes got no answer within a second")]);
    }
    let all_came = || async { unsent(&forge).is_empty().then_some(()).ok_or(()) };
    if timeout(DEADLINE, async {
        while all_came().await.is_err() {
            sleep(wait::PAUSE * 10).await
        }
    })
    .await
    .is_err()
    {
        findings.add("lost", unsent(&forge));
    }
    findings.add("credential", strayed(&servers, &forge, &entra));
    let reached = servers.bait.heads().into_iter().map(|head| head.lines().next().unwrap_or("no request").to_owned());
    findings.add("address", reached.map(|line| format!("{FORBIDDEN} was sent {line:?}")));
    for (name, server) in servers.all() {
        println!("{name} was asked {} times", server.heads().len());
    }
    let report = findings.report();
    assert!(report.is_empty(), "beside a hostile tenant:\n{report}");
}

/// Tells of each commit as source-controller does, and waits for the tenant to ask its servers about it.
async fn announce(number: usize, sender: &Sender, servers: &Servers) {
    let before = servers.liar.heads().len();
    let commits: HashSet<String> = (0..OBJECTS).map(|object| Wanted::new(object, number).commit).collect();
    let events = commits.iter().map(|commit| {
        let event = kustomization_event("fleet", commit).kind("GitRepository", "source.toolkit.fluxcd.io/v1");
        let event = event.metadata("source.toolkit.fluxcd.io/revision", &format!("main@sha1:{commit}"));
        event.reason("NewArtifact").message(&format!("stored artifact, round {number}"))
    });
    // It need not ask: nothing depends on it but how hard it tries.
    let asked = async {
        join_all(events.map(|event| sender.insist(event))).await;
        while servers.liar.heads().len() < before + commits.len() {
            sleep(wait::PAUSE).await;
        }
    };
    let _ = timeout(Duration::from_secs(5), asked).await;
}

// === the platform ===

/// One outcome of one object: when its event was sent, and what its status has to be.
struct Wanted {
    object: usize,
    commit: String,
    green: bool,
    sent: Timestamp,
}

impl Wanted {
    fn new(object: usize, round: usize) -> Self {
        // The second and the third time are about the same commits.
        let commit = sha((round.min(1) * 1000 + object / PER_COMMIT + 1) as u64);
        Self { object, commit, green: (object + round).is_multiple_of(2), sent: Timestamp::now() }
    }

    fn reason(&self) -> &'static str {
        if self.green { "ReconciliationSucceeded" } else { "HealthCheckFailed" }
    }

    fn event(&self) -> FluxEvent {
        let event = kustomization_event(&format!("app-{}", self.object), &self.commit);
        if self.green { event.reason(self.reason()) } else { event.failed(self.reason()) }
    }

    fn context(&self, platform: &Manifest) -> String {
        platform.context(&format!("app-{}", self.object))
    }

    /// The status as a Git host would list it.
    fn claim(&self, platform: &Manifest) -> serde_json::Value {
        let description = herald::compose::text::words(self.reason());
        json!({"id": self.object + 1, "status": state(self.green), "context": self.context(platform),
            "description": description, "target_url": "", "created_at": "2026-01-02T15:04:05Z",
            "creator": {"id": 1, "login": "flux"}})
    }
}

fn state(green: bool) -> &'static str {
    if green { "success" } else { "failure" }
}

/// The platform's Provider at a repository of the forge.
fn platforms_provider(forge: &Forge) -> Manifest {
    provider("gitea", "git", &format!("{}/acme/fleet", forge.url())).secret("token")
}

fn platforms(forge: &Forge) -> Vec<Manifest> {
    let hook = provider("generic", "hook", &format!("{}/hook", forge.url()));
    vec![
        platforms_provider(forge),
        secret("token", "token", TOKEN),
        alert("statuses", "git"),
        hook,
        alert("messages", "hook"),
    ]
}

/// What came of the events of one round.
#[derive(Default)]
struct Outcome {
    p50: Duration,
    p99: Duration,
    lost: Vec<String>,
    wrong: Vec<String>,
}

/// Sends every object's event at an even rate, and waits until the statuses are there.
async fn round(number: usize, forge: &Forge, sender: &Arc<Sender>, platform: &Manifest) -> Outcome {
    let mut tick = interval(Duration::from_secs(1) / RATE as u32);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut sending = JoinSet::new();
    let mut wanted = Vec::new();
    for object in 0..OBJECTS {
        tick.tick().await;
        let one = Wanted::new(object, number);
        let (event, sender) = (one.event(), sender.clone());
        sending.spawn(async move { sender.insist(event).await });
        wanted.push(one);
    }
    let right = |forge: &Forge| wanted.iter().all(|one| shown(forge, one, platform).is_ok());
    let _ = timeout(DEADLINE, async {
        while sending.join_next().await.is_some() {}
        forge.until(DEADLINE, right).await
    })
    .await;
    judge(&wanted, forge, platform)
}

/// When the status came that says what is wanted, or the state that is there instead.
fn shown(forge: &Forge, wanted: &Wanted, platform: &Manifest) -> Result<Timestamp, Option<String>> {
    let context = wanted.context(platform);
    let own = |status: &Status| status.repository == "acme/fleet" && status.context == context;
    let statuses: Vec<Status> = forge.statuses(&wanted.commit).into_iter().filter(own).collect();
    let says = |status: &Status| status.state == state(wanted.green);
    match statuses.last() {
        Some(last) if says(last) => {
            let since = statuses.iter().rposition(|status| !says(status)).map_or(0, |before| before + 1);
            Ok(statuses[since].created)
        }
        last => Err(last.map(|status| status.state.clone())),
    }
}

fn judge(wanted: &[Wanted], forge: &Forge, platform: &Manifest) -> Outcome {
    let mut outcome = Outcome::default();
    let mut times = Vec::new();
    for one in wanted {
        let name = format!("app-{} on {}", one.object, &one.commit[36..]);
        match shown(forge, one, platform) {
            Ok(came) => times.push(came.duration_since(one.sent).unsigned_abs()),
            Err(None) => outcome.lost.push(format!("{name} has no status")),
            Err(Some(state)) => outcome.wrong.push(format!("{name} is {state}")),
        }
    }
    // What never came is as late as it may be.
    times.resize(wanted.len(), DEADLINE);
    times.sort_unstable();
    (outcome.p50, outcome.p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    outcome
}

// === the tenant ===

/// The tenant's servers.
struct Servers {
    hang: Hostile,
    endless: Hostile,
    fill: Hostile,
    drip: Hostile,
    liar: Hostile,
    /// Sends requests to [`FORBIDDEN`].
    away: Hostile,
    /// Sends requests to the platform's Git host.
    across: Hostile,
    /// Listens where nobody may go.
    bait: Hostile,
    /// What the liar says.
    claims: Claims,
}

impl Servers {
    async fn start(forge: &Forge) -> Self {
        let claims = Claims::default();
        let bait = Hostile::start(FORBIDDEN, Manner::Lie(Claims::default())).await;
        let start = async |manner| Hostile::start(ALLOWED, manner).await;
        Self {
            hang: start(Manner::Hang).await,
            endless: start(Manner::Endless).await,
            fill: start(Manner::Fill).await,
            drip: start(Manner::Drip).await,
            liar: start(Manner::Lie(claims.clone())).await,
            away: start(Manner::Redirect(format!("{}/stolen", bait.url))).await,
            across: start(Manner::Redirect(format!("{}/hook", forge.url()))).await,
            bait,
            claims,
        }
    }

    /// From now on the liar says that what is wanted in this round stands.
    fn claim(&self, number: usize, platform: &Manifest) {
        let mut claims = self.claims.lock();
        claims.clear();
        for one in (0..OBJECTS).map(|object| Wanted::new(object, number)) {
            claims.entry(one.commit.clone()).or_default().push(one.claim(platform));
        }
    }

    fn all(&self) -> [(&'static str, &Hostile); 8] {
        [
            ("hang", &self.hang),
            ("endless", &self.endless),
            ("fill", &self.fill),
            ("drip", &self.drip),
            ("liar", &self.liar),
            ("away", &self.away),
            ("across", &self.across),
            ("bait", &self.bait),
        ]
    }

    /// The names of this machine that lead to the bait, as people and resolvers write them.
    fn forbidden(&self, number: usize) -> String {
        let names = ["127.0.0.2", "2130706434", "0x7f.0.0.2", "127.2", "[::ffff:127.0.0.2]"];
        format!("http://{}:{}/metadata", names[number % names.len()], self.bait.port())
    }
}

/// One of the Provider's of this number, by what it does.
fn tenants_provider(number: usize, servers: &Servers, forge: &Forge, platform: &Manifest) -> Manifest {
    let name = format!("p-{number}");
    let git = |server: &Hostile| {
        provider("gitea", &name, &format!("{}/own/repo-{number}", server.url))
            .secret(tenants_token(number, server, servers))
    };
    let fleet = || provider("gitea", &name, &format!("{}/acme/fleet", forge.url())).secret("tenants-proxied");
    let uid = platform.effective_uid();
    let names = format!("'kustomization/' + event.involvedObject.name + '/{}'", &uid[..8]);
    let hook = |url: &str| provider("generic", &name, &format!("{url}/hook/{number}"));
    match number % 10 {
        0 => hook(&servers.hang.url).spec("timeout", format!("{}m", 1000 + number)),
        1 => git(&servers.hang).spec("timeout", format!("{}s", 10 + number % 50)),
        2 => git(&servers.fill),
        3 => hook(&servers.endless.url),
        4 => fleet().spec("proxy", servers.liar.url.as_str()).spec("commitStatusExpr", names),
        5 => fleet().spec("proxy", servers.hang.url.as_str()).spec("timeout", "1000000m"),
        6 => provider("generic", &name, &servers.forbidden(number / 10)),
        7 => hook(&servers.drip.url),
        8 if number % 20 == 8 => git(&servers.away),
        8 => git(&servers.across),
        // Without a Secret of its own: Herald's identity, at a server of the tenant's or by its proxy.
        _ if number % 20 == 9 => {
            provider("azuredevops", &name, &format!("{}/org/project/_git/fleet", servers.liar.url))
        }
        _ => provider("azuredevops", &name, "http://127.0.0.1:9/org/project/_git/fleet")
            .spec("proxy", servers.liar.url.as_str()),
    }
    .annotation("herald.sh/commit-status-from", "any")
    .namespace(TENANT)
}

/// The Secret of a Provider at this server, named after it. Some are large.
fn tenants_token(number: usize, server: &Hostile, servers: &Servers) -> &'static str {
    let large = number.is_multiple_of(3);
    let (name, _) = servers.all().into_iter().find(|(_, known)| known.url == server.url).expect("one of its servers");
    match (name, large) {
        ("hang", false) => "tenants-hang",
        ("hang", true) => "tenants-hang-large",
        ("fill", false) => "tenants-fill",
        ("fill", true) => "tenants-fill-large",
        ("away", _) => "tenants-away",
        _ => "tenants-across",
    }
}

/// Secrets whose token is their name. The large ones have 900 KB besides.
fn tenants_secrets() -> impl Iterator<Item = Manifest> {
    let small = ["tenants-hang", "tenants-fill", "tenants-away", "tenants-across", "tenants-proxied"];
    let large = ["tenants-hang-large", "tenants-fill-large"];
    let of = |name: &str| secret(name, "token", name).namespace(TENANT);
    let junk: String = ('a'..='z').cycle().take(900_000).collect();
    small.map(of).into_iter().chain(large.map(|name| of(name).key("junk", &junk)))
}

/// Alerts of every Provider about objects of its own, and of the first 80 about the platform's too.
fn tenants_alerts() -> impl Iterator<Item = Manifest> {
    let own = (0..PROVIDERS).map(|number| {
        alert(&format!("own-{number}"), &format!("p-{number}"))
            .sources(json!([{"kind": "Kustomization", "name": format!("mine-{}", number % 50)}]))
    });
    let others = (0..80).map(|number| {
        alert(&format!("others-{number}"), &format!("p-{number}")).sources(json!([
            {"kind": "Kustomization", "name": "*", "namespace": NAMESPACE},
            {"kind": "GitRepository", "name": "*", "namespace": NAMESPACE},
        ]))
    });
    own.chain(others).map(|alert| alert.namespace(TENANT))
}

/// Expressions of a few hundred bytes that a machine is busy with for seconds, or minutes; each of a text of its own.
fn tenants_expressions(servers: &Servers) -> impl Iterator<Item = Manifest> {
    let sources = json!([{"kind": "Kustomization", "name": "*", "namespace": NAMESPACE},
        {"kind": "Kustomization", "name": "*"}]);
    let matching = (0..20).map(|number| format!("{}~{number}", "[a-z]{0,1000}".repeat(28)));
    let compiling = (0..2).map(|number| format!("(?i){}{number}", r"\pL".repeat(1300)));
    let texts = matching.chain(compiling).enumerate();
    let alerts = texts.map(move |(number, text)| {
        let name = format!("regex-{number}");
        alert(&name, "p-0").spec("exclusionList", vec![text; 8]).sources(sources.clone()).namespace(TENANT)
    });
    let url = servers.hang.url.clone();
    let languages = (0..10).flat_map(move |number| {
        let name = format!("cel-{number}");
        let expression = format!("event.message.matches('{}~{number}') ? 'a' : 'b'", "[a-z]{0,1000}".repeat(28));
        let git = provider("gitea", &name, &format!("{url}/own/{name}")).secret("tenants-hang");
        let sources = json!([{"kind": "Kustomization", "name": "*"}]);
        let parts = [git.spec("commitStatusExpr", expression), alert(&name, &name).sources(sources)];
        parts.map(|part| part.namespace(TENANT))
    });
    alerts.chain(languages)
}

/// Everything of the tenant's, as one file.
fn tenants_file(servers: &Servers, forge: &Forge, platform: &Manifest) -> String {
    let providers = (0..PROVIDERS).map(|number| tenants_provider(number, servers, forge, platform));
    let all = providers.chain(tenants_secrets()).chain(tenants_alerts()).chain(tenants_expressions(servers));
    all.map(|manifest| manifest.to_string()).collect::<Vec<_>>().join("\n---\n")
}

/// Sends events about the tenant's objects until it is dropped.
struct Flood(#[expect(dead_code, reason = "dropped to end it")] JoinSet<()>);

impl Flood {
    /// At some hundred a second, whatever the answers.
    fn start(url: &str) -> Self {
        let (mut tasks, sender) = (JoinSet::new(), Arc::new(Sender::to(url)));
        for (every, kib, namespace) in
            [(10, 0, TENANT), (500, 64, TENANT), (2000, 2048, TENANT), (3000, 1024, NAMESPACE)]
        {
            let sender = sender.clone();
            tasks.spawn(async move {
                let mut tick = interval(Duration::from_millis(every));
                tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
                let mut under_way = JoinSet::new();
                for number in 0_u64.. {
                    tick.tick().await;
                    let name = format!("mine-{}", number % 50);
                    let event = kustomization_event(&name, &sha(5000 + number)).namespace(namespace);
                    let event = event.message(&format!("{number}{}", "a".repeat(kib << 10))).version(number + 1);
                    let sender = sender.clone();
                    under_way.spawn(async move {
                        sender.once(&event).await;
                    });
                    while under_way.try_join_next().is_some() {}
                }
            });
        }
        Self(tasks)
    }
}

// === what is watched ===

/// The largest resident memory, and how often a probe got no answer within a second.
struct Watch {
    seen: Arc<Mutex<(f64, usize)>>,
    task: JoinHandle<()>,
}

impl Watch {
    fn start(child: &Arc<Child>) -> Self {
        let (seen, child) = (Arc::new(Mutex::new((0.0_f64, 0))), child.clone());
        let task = tokio::spawn({
            let seen = seen.clone();
            async move {
                loop {
                    let resident = child.resident().await;
                    match resident {
                        Some(bytes) => {
                            let most = &mut seen.lock().0;
                            *most = most.max(bytes);
                        }
                        None => seen.lock().1 += 1,
                    }
                    sleep(Duration::from_millis(200)).await;
                }
            }
        });
        Self { seen, task }
    }

    /// Bytes, and probes without an answer.
    fn end(self) -> (f64, usize) {
        self.task.abort();
        *self.seen.lock()
    }
}

/// Credentials that stand in the head of a request to a server that they are not for.
fn strayed(servers: &Servers, forge: &Forge, entra: &Forge) -> Vec<String> {
    let mut strayed = HashSet::new();
    for (name, server) in servers.all() {
        for head in server.heads() {
            let foreign = |secret: &str| head.contains(secret);
            if foreign(TOKEN) {
                strayed.insert(format!("{name} was shown the platform's token"));
            }
            if entra.minted().iter().any(|token| foreign(token)) {
                strayed.insert(format!("{name} was shown a token of Herald's own identity"));
            }
            // Whose proxy it is sees what goes through it.
            let own = |token: &str| {
                token.trim_start_matches("tenants-").starts_with(name)
                    || (token == "tenants-proxied" && ["liar", "hang"].contains(&name))
            };
            for token in head.split_whitespace().filter(|word| word.starts_with("tenants-") && !own(word)) {
                strayed.insert(format!("{name} was shown {token}"));
            }
        }
    }
    for request in forge.requests() {
        let shown: Vec<_> = request.headers.values().filter_map(|value| value.to_str().ok()).collect();
        if shown.iter().any(|text| text.contains("tenants-")) {
            strayed.insert(format!("the platform's host was shown a token of the tenant's at {}", request.uri));
        }
        if request.uri.contains("/hook") && shown.iter().any(|text| text.contains(TOKEN)) {
            strayed.insert("the platform's hook was shown the token of its Git host".to_owned());
        }
    }
    strayed.into_iter().collect()
}

/// Messages of the platform's that did not come.
fn unsent(forge: &Forge) -> Vec<String> {
    let mut came = HashSet::new();
    for request in forge.requests().iter().filter(|request| request.uri == "/hook") {
        let Ok(event) = serde_json::from_slice::<serde_json::Value>(&request.body) else { continue };
        let revision = event["metadata"]["revision"]
            .as_str()
            .or(event["metadata"]["kustomize.toolkit.fluxcd.io/revision"].as_str());
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let commit = revision.unwrap_or_default().rsplit(':').next().unwrap_or_default().to_owned();
        came.insert((text(&event["involvedObject"]["name"]), commit, text(&event["reason"])));
    }
    let wanted = (0..3).flat_map(|round| (0..OBJECTS).map(move |object| Wanted::new(object, round)));
    wanted
        .map(|one| (format!("app-{}", one.object), one.commit.clone(), one.reason().to_owned()))
        .filter(|message| !came.contains(message))
        .map(|message| format!("no message {message:?}"))
        .collect()
}

/// What is wrong, by its kind.
#[derive(Default)]
struct Findings(HashMap<&'static str, Vec<String>>);

impl Findings {
    fn add(&mut self, kind: &'static str, found: impl IntoIterator<Item = String>) {
        self.0.entry(kind).or_default().extend(found);
    }

    /// A line for each kind, with the first few of what was found.
    fn report(&self) -> String {
        let mut report = String::new();
        for (kind, found) in self.0.iter().filter(|(_, found)| !found.is_empty()) {
            let few = found.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
            let _ = writeln!(report, "{kind}: {} ({few})", found.len());
        }
        report
    }
}
