//! What the status of our objects should say, and saying it.
//!
//! One loop over what changed: desired conditions are pure functions of the object and what it
//! refers to; they are written only when they differ from what stands (rule R5).

pub mod alert;
mod events;
pub mod provider;
mod writer;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;

pub use self::events::Events;
use self::events::Happening;
pub use self::writer::{ClusterWriter, LogWriter, StatusWriter, WriteError};
use crate::api::conditions::{Condition, Desired};
use crate::clock::{Clock, doubling};
use crate::cluster::{ObjectKind, ObjectRef, Observed, Reach, Stores};
use crate::compose::{METADATA_CONFLICTS, text};
use crate::delivery::resolve::{ResolveError, Resolved, Resolver, SECRET_NOT_READ};
use crate::delivery::troubles::{About, Trouble, Troubles};
use crate::matching::Source;
use crate::ops::metrics::{Metrics, Reconciled};
use crate::view::{ProviderView, View};

/// Writes under way at once; see the reads of `cluster::secrets`, whose connections they share.
const WRITES_AT_ONCE: usize = 3;

/// Writes of one object within [`WINDOW`]; past that the next waits.
const WRITES_PER_WINDOW: usize = 6;

/// See [`WRITES_PER_WINDOW`].
const WINDOW: Duration = Duration::from_secs(60);

/// A changed message waits this long for the next one; a changed status or reason does not.
const MESSAGE_PAUSE: Duration = Duration::from_secs(30);

/// Pause after a write that failed; doubled with each more of the same object.
const RETRY: Duration = Duration::from_secs(5);

/// The longest pause.
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// Characters of a message: what people read, and far below what the API server takes (32,768).
const MAX_MESSAGE: usize = 4_000;

/// The loop.
pub struct Reconciler {
    stores: Arc<Stores>,
    resolver: Arc<Resolver>,
    clock: Arc<dyn Clock>,
    writer: Arc<dyn StatusWriter>,
    metrics: Arc<Metrics>,
    troubles: Arc<Troubles>,
    /// `None` without a cluster.
    events: Option<Events>,
    told: HashMap<ObjectRef, News>,
    /// UID and generation of Alerts whose conflicts were told of.
    conflicts_told: HashMap<ObjectRef, (Arc<str>, i64)>,
    written: HashMap<ObjectRef, VecDeque<Instant>>,
    waiting: HashMap<ObjectRef, Instant>,
    /// Writes that failed, one after the other.
    failed: HashMap<ObjectRef, u32>,
}

/// What an Event says is wrong with an object.
#[derive(Debug, PartialEq, Eq)]
struct News {
    reason: &'static str,
    message: String,
    count: u64,
}

/// What to do about an object now.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Write,
    /// Look again then.
    Wait(Instant),
}

impl Reconciler {
    /// The loop, not yet running.
    pub fn new(
        stores: Arc<Stores>,
        resolver: Arc<Resolver>,
        clock: Arc<dyn Clock>,
        writer: Arc<dyn StatusWriter>,
        metrics: Arc<Metrics>,
        troubles: Arc<Troubles>,
        events: Option<Events>,
    ) -> Self {
        Self {
            stores,
            resolver,
            clock,
            writer,
            metrics,
            troubles,
            events,
            told: HashMap::new(),
            conflicts_told: HashMap::new(),
            written: HashMap::new(),
            waiting: HashMap::new(),
            failed: HashMap::new(),
        }
    }

    /// Runs for ever.
    pub async fn run(mut self) {
        loop {
            let next = self.waiting.values().min().copied();
            let changed = self.stores.for_reconcile.take();
            let mut objects = match next {
                None => changed.await,
                Some(at) => {
                    let pause = at.saturating_duration_since(self.clock.now());
                    tokio::time::timeout(pause, changed).await.unwrap_or_default()
                }
            };
            let now = self.clock.now();
            self.waiting.retain(|object, at| {
                let due = *at <= now;
                if due {
                    objects.insert(object.clone());
                }
                !due
            });
            let mut writes = Vec::new();
            for object in objects {
                self.consider(object, now, &mut writes);
            }
            let results: Vec<_> = futures::stream::iter(writes)
                .map(|(object, observed, conditions)| {
                    let (writer, clock) = (self.writer.clone(), self.clock.clone());
                    async move {
                        let began = clock.now();
                        let written = writer.write(&object, &observed, &conditions).await;
                        (object, written, clock.now().saturating_duration_since(began))
                    }
                })
                .buffer_unordered(WRITES_AT_ONCE)
                .collect()
                .await;
            for (object, result, took) in results {
                let controller = controller(object.kind);
                if result != Err(WriteError::Retry) {
                    self.failed.remove(&object);
                }
                match result {
                    Ok(()) => {
                        self.metrics.reconcile(controller, Reconciled::Success, took);
                        self.written.entry(object).or_default().push_back(self.clock.now());
                    }
                    Err(WriteError::Gone) => self.metrics.reconcile(controller, Reconciled::Success, took),
                    Err(WriteError::Retry) => {
                        self.metrics.reconcile(controller, Reconciled::Error, took);
                        let times = self.failed.entry(object.clone()).or_default();
                        let pause = doubling(RETRY, LONGEST_RETRY, *times);
                        *times += 1;
                        self.waiting.insert(object, self.clock.now() + pause);
                    }
                }
            }
        }
    }

    fn consider(
        &mut self,
        object: ObjectRef,
        now: Instant,
        writes: &mut Vec<(ObjectRef, Observed, Option<Vec<Condition>>)>,
    ) {
        let began = self.clock.now();
        let Some(observed) = self.stores.observed(&object) else {
            self.written.remove(&object);
            self.failed.remove(&object);
            self.told.remove(&object);
            self.conflicts_told.remove(&object);
            self.troubles.forget(&about(&object));
            return;
        };
        if observed.finalizers_to_strip.is_some() {
            // Nobody waits for the conditions of what is being deleted, but for its end.
            writes.push((object, observed, None));
            return;
        }
        let Some(mut desired) = self.desired(&object) else { return };
        desired.iter_mut().for_each(|want| want.message = text::cut(&want.message, MAX_MESSAGE));
        self.tell(&object, &observed, &desired);
        let written = self.written.entry(object.clone()).or_default();
        while written.front().is_some_and(|at| now.saturating_duration_since(*at) >= WINDOW) {
            written.pop_front();
        }
        // Counted once each: what is written, when that ended.
        let controller = controller(object.kind);
        let took = || self.clock.now().saturating_duration_since(began);
        match step(&desired, &observed, written, now) {
            Step::Write => {
                let conditions = conditions(&desired, &observed, self.clock.wall());
                writes.push((object, observed, Some(conditions)));
            }
            Step::Wait(until) => {
                self.metrics.reconcile(controller, Reconciled::RequeueAfter, took());
                self.waiting.insert(object, until);
            }
            Step::Nothing => self.metrics.reconcile(controller, Reconciled::Success, took()),
        }
        if written.is_empty() {
            // Nothing to remember: what is not written lately may be written at once.
            self.written.retain(|_, written| !written.is_empty());
        }
    }

    /// What ought to stand; `None` while that is not known: as long as the first lists, a Secret, or
    /// the labels of a kind are being read. Saying so would be news to everybody at every start of Herald.
    fn desired(&self, object: &ObjectRef) -> Option<Vec<Desired>> {
        if !self.stores.synced() {
            return None;
        }
        if let Some(why) = self.stores.bad(object) {
            let unhealthy = Desired::unhealthy("InvalidSpec", "the spec cannot be read".to_owned());
            return Some(vec![Desired::not_ready("InvalidSpec", why), unhealthy]);
        }
        match object.kind {
            ObjectKind::Provider => {
                let view = self.stores.provider(&object.key)?;
                let resolved = self.resolve(&view);
                let trouble = self.trouble(object, Some(&view));
                let shares = self.troubles.sharing.shares(&view.provider.meta.uid);
                known(&resolved).then(|| provider::conditions(&view, &resolved, trouble.as_ref(), shares))
            }
            ObjectKind::Alert => {
                let alert = self.stores.index.get(&object.key)?;
                let view = self.stores.provider(&alert.provider);
                let unreadable = || {
                    let provider = ObjectRef { kind: ObjectKind::Provider, key: alert.provider.clone() };
                    let message = "its spec cannot be read; its condition Ready says what to mend".to_owned();
                    let error = ResolveError { reason: "InvalidSpec", message, terminal: false };
                    self.stores.bad(&provider).map(|_| Err(error))
                };
                let resolved = view.as_ref().map(|view| self.resolve(view)).or_else(unreadable);
                let reach = |source: &Source| self.stores.labels.reach(&source.kind, &source.namespace);
                let all_known = resolved.as_ref().is_none_or(known)
                    && !alert.selected_by_label().any(|source| reach(source) == Reach::Syncing);
                let trouble = self.trouble(object, view.as_deref());
                let denies = self.stores.no_cross_namespace;
                all_known.then(|| alert::conditions(&alert, resolved.as_ref(), trouble.as_ref(), reach, denies))
            }
        }
    }

    fn resolve(&self, view: &ProviderView) -> Resolved {
        self.resolver.resolve(view, || self.stores.provider(&view.provider.meta.key).is_some())
    }

    /// What deliveries through this Provider meet with.
    fn trouble(&self, object: &ObjectRef, provider: Option<&ProviderView>) -> Option<Trouble> {
        let (uid, version) = provider.map_or(("", 0), |view| (&*view.provider.meta.uid, view.version));
        self.troubles.of(&about(object), uid, version)
    }

    /// Tells of what began, by Events.
    fn tell(&mut self, object: &ObjectRef, observed: &Observed, desired: &[Desired]) {
        let Some(events) = self.events.clone().filter(Events::leads) else { return };
        let news = self.news(object, desired);
        match (self.told.get(object), &news) {
            (Some(told), Some(news)) if told.reason == news.reason && told.message == news.message => {
                if news.count > told.count {
                    let times = news.count - told.count;
                    events.tell(
                        object,
                        observed,
                        Happening { times, ..Happening::warning(news.reason, &news.message) },
                    );
                }
            }
            // What an earlier process told of a spec stands in the conditions. Of deliveries it may not
            // have told: they are tried anew.
            (None, Some(news)) if news.reason != DISPATCH_FAILED && !differs(desired, observed) => {}
            (_, Some(news)) => {
                let times = news.count;
                events.tell(object, observed, Happening { times, ..Happening::warning(news.reason, &news.message) });
            }
            (_, None) => {}
        }
        match news {
            Some(news) => self.told.insert(object.clone(), news),
            None => self.told.remove(object),
        };
        self.tell_of_conflicts(&events, object, observed);
    }

    /// What an Event would say is wrong now.
    fn news(&self, object: &ObjectRef, desired: &[Desired]) -> Option<News> {
        let news = |reason, message: &str, count| News { reason, message: message.to_owned(), count };
        let wrong = |kind| desired.iter().find(|is| is.kind == kind && !is.ok);
        if let Some(ready) = wrong("Ready") {
            return Some(news("InvalidConfig", &ready.message, 1));
        }
        let healthy = wrong("Healthy")?;
        if object.kind != ObjectKind::Alert {
            // The Alerts are told what it means to them; the Provider's condition has it.
            return None;
        }
        let alert = self.stores.index.get(&object.key)?;
        if !alert.problems.is_empty() {
            return Some(news("InvalidConfig", &healthy.message, 1));
        }
        if alert::WITHOUT_LABELS.contains(&healthy.reason) {
            return Some(news("SourceFetchFailed", &healthy.message, 1));
        }
        // Not before something was to be told: a Provider may be created after its Alert.
        let trouble = self.trouble(object, self.stores.provider(&alert.provider).as_deref())?;
        Some(news(DISPATCH_FAILED, &healthy.message, trouble.count))
    }

    fn tell_of_conflicts(&mut self, events: &Events, object: &ObjectRef, observed: &Observed) {
        if object.kind != ObjectKind::Alert {
            return;
        }
        let Some(alert) = self.stores.index.get(&object.key) else { return };
        let Some(conflicts) = alert.conflicts.get() else { return };
        let of = (alert.uid.clone(), alert.generation);
        if self.conflicts_told.get(object) == Some(&of) {
            return;
        }
        self.conflicts_told.insert(object.clone(), of);
        let annotations = conflicts.iter().map(|(key, sources)| (key.clone(), sources.join(", "))).collect();
        let happening = Happening::warning("MetadataAppendFailed", METADATA_CONFLICTS);
        events.tell(object, observed, Happening { annotations, ..happening });
    }
}

/// The reason of the Event about deliveries.
const DISPATCH_FAILED: &str = "NotificationDispatchFailed";

/// The object in `delivery`'s words.
fn about(object: &ObjectRef) -> About {
    match object.kind {
        ObjectKind::Alert => About::Alert(object.key.clone()),
        ObjectKind::Provider => About::Provider(object.key.clone()),
    }
}

/// Whether status, reason or message of a condition differ from what stands.
fn differs(desired: &[Desired], observed: &Observed) -> bool {
    desired.iter().any(|want| {
        let standing = observed.conditions.iter().find(|is| is.kind == want.kind);
        standing.is_none_or(|is| is.status != want.status() || is.reason != want.reason || is.message != want.message)
    })
}

/// What the metrics call it.
fn controller(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Alert => "alert",
        ObjectKind::Provider => "provider",
    }
}

/// Whether everything the Provider refers to was read.
fn known(resolved: &Resolved) -> bool {
    !resolved.as_ref().is_err_and(|error| error.reason == SECRET_NOT_READ)
}

/// What a Healthy condition adds about our own annotations that nobody reads (rule R10).
fn about_unknown(annotations: &BTreeMap<String, String>, known: &[&str]) -> String {
    let unknown: Vec<&str> = annotations.keys().map(String::as_str).filter(|key| !known.contains(key)).collect();
    match (unknown.is_empty(), known.is_empty()) {
        (true, _) => String::new(),
        (false, true) => format!("; unknown annotations without effect: {}", unknown.join(", ")),
        (false, false) => {
            format!("; unknown annotations without effect: {}; known are {}", unknown.join(", "), known.join(", "))
        }
    }
}

/// What to do, given what ought to stand, what stands, and when this object was written lately.
fn step(desired: &[Desired], observed: &Observed, written: &VecDeque<Instant>, now: Instant) -> Step {
    let standing = |want: &Desired| observed.conditions.iter().find(|condition| condition.kind == want.kind);
    let class_differs = desired
        .iter()
        .any(|want| standing(want).is_none_or(|is| is.status != want.status() || is.reason != want.reason));
    let text_differs = desired.iter().any(|want| {
        standing(want).is_none_or(|is| is.message != want.message || is.observed_generation != observed.generation)
    });
    let may_write = match written.front() {
        Some(first) if written.len() >= WRITES_PER_WINDOW => *first + WINDOW,
        _ => now,
    };
    let due = match (class_differs, text_differs, written.back()) {
        (true, ..) => may_write,
        (false, true, Some(last)) => may_write.max(*last + MESSAGE_PAUSE),
        (false, true, None) => may_write,
        (false, false, _) => return Step::Nothing,
    };
    if due <= now { Step::Write } else { Step::Wait(due) }
}

/// The conditions to write: the time of a transition moves only when the status does.
fn conditions(desired: &[Desired], observed: &Observed, wall: jiff::Timestamp) -> Vec<Condition> {
    let now = wall.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    desired
        .iter()
        .map(|want| {
            let since = observed
                .conditions
                .iter()
                .find(|is| is.kind == want.kind && is.status == want.status())
                .map(|is| is.last_transition_time.clone());
            Condition {
                kind: want.kind.to_owned(),
                status: want.status().to_owned(),
                reason: want.reason.to_owned(),
                message: want.message.clone(),
                observed_generation: observed.generation,
                last_transition_time: since.unwrap_or_else(|| now.clone()),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TurnedClock;

    fn standing(desired: &[Desired], generation: i64) -> Observed {
        let bare = Observed { generation, ..Default::default() };
        Observed { conditions: conditions(desired, &bare, jiff::Timestamp::UNIX_EPOCH), ..bare }
    }

    #[test]
    fn writes_on_change_only_and_in_bounds() {
        let now = TurnedClock::new().now();
        let ok = [Desired::ready(), Desired::healthy("fine")];
        let other_text = [Desired::ready(), Desired::healthy("better")];
        let bad = [Desired::ready(), Desired::unhealthy("SecretNotFound", "missing".into())];
        let none = VecDeque::new();
        let lately = VecDeque::from([now]);
        let often = VecDeque::from([now; WRITES_PER_WINDOW]);

        assert_eq!(step(&ok, &Observed::default(), &none, now), Step::Write);
        assert_eq!(step(&ok, &standing(&ok, 0), &none, now), Step::Nothing);
        assert_eq!(step(&bad, &standing(&ok, 0), &lately, now), Step::Write);
        assert_eq!(step(&bad, &standing(&ok, 0), &often, now), Step::Wait(now + WINDOW));
        assert_eq!(step(&other_text, &standing(&ok, 0), &lately, now), Step::Wait(now + MESSAGE_PAUSE));
        assert_eq!(step(&other_text, &standing(&ok, 0), &none, now), Step::Write);
    }

    #[test]
    fn a_transition_keeps_its_time_while_the_status_stands() {
        let first = [Desired::healthy("fine")];
        let observed = standing(&first, 1);
        let later: jiff::Timestamp = "2026-01-02T15:04:05Z".parse().expect("valid");
        let same = conditions(&[Desired::healthy("still fine")], &observed, later);
        assert_eq!(same[0].last_transition_time, "1970-01-01T00:00:00Z");
        let other = conditions(&[Desired::unhealthy("X", "broken".into())], &observed, later);
        assert_eq!(other[0].last_transition_time, "2026-01-02T15:04:05Z");
    }
}
