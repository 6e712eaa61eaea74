//! Kubernetes Events on Alerts and Providers, for `kubectl describe` and `flux events`.
//!
//! Told on change, never for each event of Flux: the [`Reconciler`](super::Reconciler) and the
//! [`ClusterWriter`](super::ClusterWriter) say what began; one task writes it. What is told again
//! counts up the Event that stands. Everything here is bounded, and what does not fit is dropped:
//! the conditions and the log have it too.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::cluster::lease::Claim;
use crate::cluster::{ObjectRef, Observed, discovery};
use crate::compose::text;

/// Who says it: Flux's name, which its users filter by.
const COMPONENT: &str = "notification-controller";

/// Happenings that wait to be written.
const MAX_WAITING: usize = 1024;

/// Events that are remembered, to be counted up.
const MAX_KNOWN: usize = 4096;

/// The API server forgets an Event an hour after its last change (`--event-ttl`); counting it up
/// later would begin with a refusal.
const LIFE: Duration = Duration::from_secs(60 * 60);

/// Writes about one object within [`WINDOW`]; see the conditions' bound of the same size (rule R5).
const WRITES_PER_WINDOW: usize = 6;

/// See [`WRITES_PER_WINDOW`].
const WINDOW: Duration = Duration::from_secs(60);

/// Characters of a message; the API server takes 1024 bytes.
const MAX_MESSAGE: usize = 1000;

/// Pause after each write: a Provider with thousands of Alerts may begin to fail at once, and the API
/// server has better things to do.
const PACE: Duration = Duration::from_millis(20);

/// A write that takes longer is given up; it is not tried again.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Something an Event is written about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// `Warning`, else `Normal`.
    pub warning: bool,
    /// CamelCase, one of those Flux uses.
    pub reason: &'static str,
    /// For people; never a remote's text.
    pub message: String,
    /// On the Event.
    pub annotations: BTreeMap<String, String>,
    /// How often it happened.
    pub times: u64,
}

impl Happening {
    /// Something is wrong.
    pub fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: true, reason, message: message.into(), annotations: BTreeMap::new(), times: 1 }
    }

    /// Something was done.
    pub fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: false, ..Self::warning(reason, message) }
    }
}

/// An Event's object, as it was.
#[derive(Clone, Debug)]
struct Subject {
    object: ObjectRef,
    uid: Arc<str>,
    resource_version: String,
}

/// Takes happenings. Cheap to clone; never waits.
#[derive(Clone)]
pub struct Events {
    sender: mpsc::Sender<(Subject, Happening)>,
    claim: Claim,
}

impl Events {
    /// The taker, and the task that writes, not yet running.
    pub fn new(client: Client, api: discovery::Api, claim: Claim, clock: Arc<dyn Clock>) -> (Self, Writer) {
        let (sender, happenings) = mpsc::channel(MAX_WAITING);
        let writer = Writer { client, api, clock, happenings, known: HashMap::new(), written: HashMap::new() };
        (Self { sender, claim }, writer)
    }

    /// Whether this replica writes Events: the leader does.
    pub fn leads(&self) -> bool {
        self.claim.leads()
    }

    /// Tells of an object.
    pub fn tell(&self, object: &ObjectRef, observed: &Observed, happening: Happening) {
        if !self.leads() {
            return;
        }
        let subject = Subject {
            object: object.clone(),
            uid: observed.uid.clone(),
            resource_version: observed.resource_version.clone(),
        };
        if let Err(error) = self.sender.try_send((subject, happening)) {
            tracing::debug!(logger = "events", %error, "an Event is left out");
        }
    }
}

/// What makes two happenings one Event.
type Identity = (ObjectRef, Arc<str>, &'static str, String);

/// An Event that was written.
struct Known {
    name: String,
    count: u64,
    last: Instant,
}

/// Writes what is told.
pub struct Writer {
    client: Client,
    api: discovery::Api,
    clock: Arc<dyn Clock>,
    happenings: mpsc::Receiver<(Subject, Happening)>,
    known: HashMap<Identity, Known>,
    written: HashMap<ObjectRef, VecDeque<Instant>>,
}

impl Writer {
    /// Runs until every [`Events`] is gone.
    pub async fn run(mut self) {
        while let Some((subject, happening)) = self.happenings.recv().await {
            let now = self.clock.now();
            self.forget_old(now);
            let identity = (subject.object.clone(), subject.uid.clone(), happening.reason, happening.message.clone());
            let known = self.known.get_mut(&identity);
            if let Some(known) = known {
                known.count += happening.times;
            } else if self.known.len() >= MAX_KNOWN {
                tracing::debug!(logger = "events", "as many Events as are remembered; one is left out");
                continue;
            }
            if !room(self.written.entry(subject.object.clone()).or_default(), now) {
                // What stands is counted up by the next that may be written.
                continue;
            }
            let written = tokio::time::timeout(TIMEOUT, self.write(&subject, &happening, &identity)).await;
            let done = match written {
                Ok(Ok(known)) => {
                    self.known.insert(identity, known);
                    Ok(())
                }
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("no answer in time".to_owned()),
            };
            if let Err(error) = done {
                // A namespace that is being deleted takes no Events, and some clusters allow none.
                tracing::debug!(logger = "events", object = ?subject.object, error, "an Event was not written");
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// Counts up the Event that stands, or makes one.
    async fn write(&self, subject: &Subject, happening: &Happening, of: &Identity) -> Result<Known, kube::Error> {
        let key = &subject.object.key;
        let events: Api<Event> = Api::namespaced(self.client.clone(), &key.namespace);
        let time = self.clock.wall();
        let last = self.clock.now();
        let mut count = happening.times;
        if let Some(known) = self.known.get(of) {
            count = known.count;
            let patch = json!({"count": capped(count), "lastTimestamp": Time(whole(time))});
            match events.patch(&known.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => return Ok(Known { name: known.name.clone(), count, last }),
                // The API server forgot it.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let name = event_name(&key.name, time);
        let event = self.event(name.clone(), subject, happening, count, whole(time));
        events.create(&PostParams::default(), &event).await?;
        Ok(Known { name, count, last })
    }

    fn event(
        &self,
        name: String,
        subject: &Subject,
        happening: &Happening,
        count: u64,
        time: jiff::Timestamp,
    ) -> Event {
        let resource = self.api.resource(subject.object.kind);
        let key = &subject.object.key;
        let annotations: BTreeMap<String, String> = happening
            .annotations
            .iter()
            .filter(|(key, _)| is_qualified_name(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(key.namespace.to_string()),
                annotations: (!annotations.is_empty()).then_some(annotations),
                ..Default::default()
            },
            involved_object: ObjectReference {
                api_version: Some(resource.api_version),
                kind: Some(resource.kind),
                namespace: Some(key.namespace.to_string()),
                name: Some(key.name.to_string()),
                uid: Some(subject.uid.to_string()),
                resource_version: Some(subject.resource_version.clone()),
                field_path: None,
            },
            type_: Some(if happening.warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(happening.reason.to_owned()),
            message: Some(text::cut(&happening.message, MAX_MESSAGE)),
            count: Some(capped(count)),
            first_timestamp: Some(Time(time)),
            last_timestamp: Some(Time(time)),
            source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: None }),
            reporting_component: Some(COMPONENT.to_owned()),
            reporting_instance: Some(String::new()),
            ..Default::default()
        }
    }

    fn forget_old(&mut self, now: Instant) {
        if self.known.len() >= MAX_KNOWN / 2 {
            self.known.retain(|_, known| now.saturating_duration_since(known.last) < LIFE);
        }
        if self.written.len() >= MAX_KNOWN / 2 {
            self.written
                .retain(|_, written| written.back().is_some_and(|last| now.saturating_duration_since(*last) < WINDOW));
        }
    }
}

/// Whether one more write about an object may go out now; notes it if so.
fn room(written: &mut VecDeque<Instant>, now: Instant) -> bool {
    while written.front().is_some_and(|at| now.saturating_duration_since(*at) >= WINDOW) {
        written.pop_front();
    }
    let room = written.len() < WRITES_PER_WINDOW;
    if room {
        written.push_back(now);
    }
    room
}

/// A name no other Event has, as client-go makes them.
fn event_name(object: &str, time: jiff::Timestamp) -> String {
    // A name has 253 characters at most, and these are ASCII.
    let object: String = object.chars().take(200).collect();
    format!("{}.{:x}", object.trim_end_matches(['.', '-']), time.as_nanosecond())
}

/// Timestamps of Events have whole seconds.
fn whole(time: jiff::Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn capped(count: u64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Whether a text can be the key of an annotation: a name of up to 63 characters, perhaps after a
/// domain and a slash.
fn is_qualified_name(key: &str) -> bool {
    let (domain, name) = key.rsplit_once('/').map_or((None, key), |(domain, name)| (Some(domain), name));
    let ends = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    let name_fits = name.len() <= 63
        && ends(name)
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    let domain_fits = domain.is_none_or(|domain| {
        domain.len() <= 253
            && domain.split('.').all(|label| {
                label.len() <= 63
                    && ends(label)
                    && label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            })
    });
    name_fits && domain_fits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TurnedClock;

    #[test]
    fn so_many_writes_about_an_object() {
        let clock = TurnedClock::new();
        let mut written = VecDeque::new();
        let admitted = (0..100).filter(|_| room(&mut written, clock.now())).count();
        assert_eq!(admitted, WRITES_PER_WINDOW);
        clock.turn(WINDOW);
        assert!(room(&mut written, clock.now()));
    }

    #[test]
    fn keys_that_annotations_can_have() {
        for (key, fits) in [
            ("revision", true),
            ("a.b-c_d", true),
            ("example.org/a", true),
            ("a/b/c", false),
            ("Example.org/a", false),
            ("", false),
            ("-a", false),
            ("a b", false),
            ("a/", false),
        ] {
            assert_eq!(is_qualified_name(key), fits, "{key}");
        }
        assert!(is_qualified_name(&"x".repeat(63)) && !is_qualified_name(&"x".repeat(64)));
    }

    #[test]
    fn names_of_events() {
        let time = jiff::Timestamp::from_second(1).expect("valid");
        assert_eq!(event_name("all", time), "all.3b9aca00");
        assert!(event_name(&"x.".repeat(126), time).len() < 253);
    }
}
