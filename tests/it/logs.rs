//! What a test's Herald logs, at the most talkative level there is. Every task of a test runs on
//! the test's own thread, and so does its logging.

use std::io::Write;
use std::sync::{Arc, LazyLock};

use herald::ops::logging::{self, Encoding, LogLevel};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tracing::Dispatch;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::scene::Scene;
use crate::support::app::DEADLINE;
use crate::support::flux::{NAMESPACE, kustomization_event, sha};
use crate::support::forge::Fault;
use crate::support::wait;

/// Collects until it is dropped.
pub struct Logs {
    lines: Lines,
    _guard: DefaultGuard,
}

/// Registered beside those of the tests, and takes nothing. Of a single subscriber `tracing` asks only on the
/// thread that comes to a line first, which may be that of a test without one: then nobody gets the line.
pub static SECOND: LazyLock<Dispatch> =
    LazyLock::new(|| Dispatch::new(tracing_subscriber::fmt().with_writer(std::io::sink).finish()));

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Logs {
    pub fn collect() -> Self {
        LazyLock::force(&SECOND);
        let lines = Lines::default();
        let subscriber =
            tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_ansi(false).with_writer(lines.clone());
        Self { _guard: tracing::subscriber::set_default(subscriber.finish()), lines }
    }

    /// The lines as Herald prints them, with `--log-level=debug`.
    pub fn printed() -> Self {
        LazyLock::force(&SECOND);
        let lines = Lines::default();
        let subscriber = logging::subscriber(LogLevel::Debug, Encoding::Json, lines.clone());
        Self { _guard: tracing::subscriber::set_default(subscriber), lines }
    }

    /// What `flux logs` makes of them: it reads some keys as text, whatever the case of their letters, and
    /// stops for good at a line that is longer than it reads or has anything else there.
    pub fn as_flux_reads(&self) -> Vec<FluxLine> {
        let text = self.text();
        let lines = text.lines().filter(|line| line.starts_with('{'));
        lines.map(FluxLine::read).collect()
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

/// A line of the log, as `flux logs` has it. What is not there is empty.
#[derive(Debug)]
pub struct FluxLine {
    pub level: String,
    pub kind: String,
    pub name: String,
    pub namespace: String,
    pub message: String,
    pub error: String,
    /// The whole of it.
    pub json: Value,
}

impl FluxLine {
    #[track_caller]
    fn read(line: &str) -> Self {
        assert!(line.len() < 64 << 10, "a line of {} bytes", line.len());
        let json: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
        let of = |key: &str| {
            let mut text = String::new();
            for (name, value) in json.as_object().expect("an object").iter() {
                if name.eq_ignore_ascii_case(key) {
                    text = value.as_str().unwrap_or_else(|| panic!("{name} is no text in {line}")).to_owned();
                }
            }
            text
        };
        let time: jiff::Timestamp = of("ts").parse().unwrap_or_else(|error| panic!("{error} in {line}"));
        assert!(time > jiff::Timestamp::UNIX_EPOCH && !of("logger").is_empty(), "{line}");
        // What is asked for with --kind is compared with both.
        let kind = [of("controllerKind"), of("reconciler kind")].join(" ").trim().to_owned();
        Self {
            level: of("level"),
            kind,
            name: of("name"),
            namespace: of("namespace"),
            message: of("msg"),
            error: of("error"),
            json,
        }
    }

    /// Whether `flux logs --kind --name --namespace` shows it.
    pub fn is_about(&self, kind: &str, name: &str) -> bool {
        self.kind.split(' ').any(|is| is.eq_ignore_ascii_case(kind)) && self.name == name && self.namespace == NAMESPACE
    }
}

#[tokio::test]
async fn flux_logs_shows_what_became_of_an_alert_and_what_is_wrong_with_a_provider() {
    let logs = Logs::printed();
    let scene = Scene::of("github").await;
    scene.tell([kustomization_event("web", &sha(1)).message(&"long ".repeat(50_000))]).await;
    scene.forge.fail(Fault::answer(422).writes());
    scene.tell([kustomization_event("web", &sha(2))]).await;
    scene.end(2, 2).await;

    let lines = logs.as_flux_reads();
    let about = |kind, name| lines.iter().filter(move |line| line.is_about(kind, name)).collect::<Vec<_>>();
    let ends: Vec<_> = about("alert", "all").into_iter().filter(|line| line.json.get("outcome").is_some()).collect();
    let [told, given_up] = ends[..] else { panic!("{ends:#?}") };
    assert_eq!((told.level.as_str(), told.message.as_str()), ("info", "notification delivered"));
    assert_eq!(told.json["alert"], json!({"name": "all", "namespace": NAMESPACE, "providerName": "git"}));
    assert_eq!((given_up.level.as_str(), given_up.message.as_str()), ("error", "notification given up"));
    assert!(given_up.error.starts_with("answered 422"), "{given_up:?}");
    // Both names it goes by.
    for kind in ["Provider", "AlertProvider"] {
        let failures: Vec<_> =
            about(kind, "git").into_iter().filter(|line| line.message == "delivery failed").collect();
        let [failure] = failures[..] else { panic!("{lines:#?}") };
        assert_eq!(failure.level, "error");
        assert!(failure.error.starts_with("answered 422"), "{failure:?}");
    }
}

#[tokio::test]
async fn a_dead_provider_fills_no_log_and_every_end_is_told() {
    const JOBS: u64 = 300;
    let logs = Logs::printed();
    let scene = Scene::of("github").await;
    let refuse = |code| scene.forge.fail(Fault::answer(code).body(r#"{"message": "no"}"#).every(1));
    // Refused for good, each of them; then put off, each of them.
    refuse(400);
    for number in 0..JOBS {
        scene.post(&kustomization_event("web", &sha(number))).await;
    }
    scene.herald.idle().await;
    scene.forge.recover();
    refuse(404);
    for number in JOBS..2 * JOBS {
        scene.post(&kustomization_event("web", &sha(number))).await;
    }
    scene.quiet().await;

    let lines = logs.as_flux_reads();
    let count = |kind, message: &str| {
        let name = if kind == "Alert" { "all" } else { "git" };
        lines.iter().filter(|line| line.is_about(kind, name) && line.message == message).count() as u64
    };
    assert_eq!(count("Alert", "notification given up"), JOBS);
    assert_eq!(count("Alert", "notification not delivered yet, will try again"), 1);
    assert_eq!(count("Provider", "delivery failed"), 2, "of each class one");
    scene.herald.stop().await;
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
