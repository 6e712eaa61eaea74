//! The path in one place: an event comes in, jobs go into the outbox. Every notification is made
//! here, whoever asks.
//!
//! ```text
//! event ─► index: which Alerts listen to the object ─► filters ─► gates ─► compose ─► outbox
//! ```

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::api::{Event, InvolvedObject, Key};
use crate::clock::Clock;
use crate::compose::{self, METADATA_CONFLICTS, Notice, Slot, State};
use crate::compute::Compute;
use crate::delivery::Delivery;
use crate::delivery::troubles::About;
use crate::matching::gate::{self, Marks, Skip};
use crate::matching::{Candidates, CompiledAlert, Effort, NeedsMore, SharedIndex, match_event};
use crate::ops::metrics::{Metrics, Outcome};
use crate::outbox::{Fate, Fingerprint, NewJob, Outbox, PutError, Receipt, RepeatKey, Stamp, Subject};
use crate::vendors::{self, Row};
use crate::view::{LabelsView, ObjectLabels, ProviderView, View};

/// How long an event waits for the labels of its object. Its sender gives up after 5 s.
const LABELS_PATIENCE: Duration = Duration::from_secs(2);

/// How long an event waits for expressions that take long. Its sender gives up after 5 s.
const COMPUTE_PATIENCE: Duration = Duration::from_secs(3);

/// How long a line about dropped notifications speaks for those that follow.
const QUIET: Duration = Duration::from_secs(10);

/// What the Provider and the Alert of a dropped notification say.
const NO_ROOM: &str =
    "dropped: the namespace or the Provider has its share of the outbox, and what waits there is not sent";

/// Everything between the doors and the outbox.
pub struct Pipeline {
    /// All Alerts.
    pub index: SharedIndex,
    /// Providers and Secrets.
    pub view: Arc<dyn View>,
    /// Where jobs go.
    pub outbox: Arc<dyn Outbox>,
    /// Woken when there are jobs.
    pub delivery: Delivery,
    /// For the stamps of jobs.
    pub clock: Arc<dyn Clock>,
    /// Counts what ends here.
    pub metrics: Arc<Metrics>,
    /// `--no-cross-namespace-refs`.
    pub no_cross_namespace: bool,
    /// Judges events whose Alerts have expressions that take long.
    pub compute: Arc<Compute>,
    /// When dropped notifications were logged last.
    pub dropped: Mutex<Option<Instant>>,
}

/// What becomes of an event, before anything is done about it.
struct Plan {
    matched: Vec<Arc<CompiledAlert>>,
    jobs: Vec<NewJob>,
    /// The type of each job's Provider, for the metrics.
    kinds: Vec<&'static str>,
    /// Those of `matched` without a job, each with the type of its Provider.
    skips: Vec<(Arc<CompiledAlert>, &'static str, Skip)>,
}

/// An event on its way, with what is made of it once for all Alerts.
struct Received<'a> {
    event: &'a Event,
    marks: Marks,
    stamp: Stamp,
    /// The copy that its messages hold.
    shared: OnceLock<Arc<Event>>,
}

/// What the sender is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Everything that had to be kept is kept.
    Accepted,
    /// Every Alert that matched was told this within the interval.
    Repeat,
    /// Not now: something is still being read, or the outbox cannot take it.
    Unavailable(&'static str),
}

impl Pipeline {
    /// Takes one event, its metadata already cleaned.
    pub async fn accept(self: &Arc<Self>, event: &Event) -> Answer {
        if !self.view.synced() {
            return Answer::Unavailable("Alerts and Providers are not all known yet");
        }
        let object = &event.involved_object;
        let candidates = self.index.candidates(&object.kind, &object.namespace, &object.name);
        let labels = match candidates.ask_for_labels(event) {
            false => None,
            true => match self.labels(object).await {
                Ok(labels) => labels,
                Err(unavailable) => return unavailable,
            },
        };
        let planned = match self.plan(event, &candidates, labels.as_deref(), &mut Effort::inline()) {
            Ok(plan) => Ok(plan),
            Err(NeedsMore) => self.plan_elsewhere(event, candidates, labels).await,
        };
        let Plan { matched, jobs, kinds, skips } = match planned {
            Ok(plan) => plan,
            Err(unavailable) => return unavailable,
        };
        if matched.is_empty() {
            tracing::debug!(logger = "event-server", object = %object, "discarding event, no alerts found for the involved object");
            return Answer::Accepted;
        }
        matched.iter().for_each(|alert| self.tell_of_conflicts(event, alert));
        skips.iter().for_each(|(alert, _, skip)| self.stands(alert, skip));
        // What is not accepted comes again, and is counted then.
        let count_skips = || skips.into_iter().for_each(|(alert, kind, skip)| self.skipped(event, &alert, kind, skip));
        if jobs.is_empty() {
            count_skips();
            return Answer::Accepted;
        }
        let everything = jobs.len() == matched.len();
        // A sender that hangs up takes this future with it; what is on disk by then is delivered and
        // counted all the same.
        match Outliving(Some(Box::pin(self.clone().store(jobs, kinds)))).await {
            Ok(fates) => {
                count_skips();
                let repeat = everything && fates.iter().all(|fate| *fate == Fate::Repeat);
                if repeat { Answer::Repeat } else { Answer::Accepted }
            }
            Err(PutError::Full) => Answer::Unavailable("as many notifications wait as may"),
            Err(PutError::Unwritable) => Answer::Unavailable("the outbox cannot be written"),
            Err(PutError::Closed) => Answer::Unavailable("Herald is stopping"),
        }
    }

    /// Which Alerts want the event, and what each makes of it.
    ///
    /// # Errors
    /// Their expressions need more than `effort` has here.
    fn plan(
        &self,
        event: &Event,
        candidates: &Candidates,
        labels: Option<&ObjectLabels>,
        effort: &mut Effort,
    ) -> Result<Plan, NeedsMore> {
        let matched = match_event(candidates, event, labels, effort)?;
        let marks = Marks::of(event);
        let object = &event.involved_object;
        let stamp = Stamp {
            object: object.uid.as_str().into(),
            version: object.resource_version.parse().ok(),
            arrived: self.clock.now(),
        };
        let (mut jobs, mut kinds) = (Vec::with_capacity(matched.len()), Vec::with_capacity(matched.len()));
        let mut skips = Vec::new();
        let received = Received { event, marks, stamp, shared: OnceLock::new() };
        for alert in &matched {
            let view = self.view.provider(&alert.provider).or_else(|| self.view.unreadable(&alert.provider));
            let row = view.as_ref().and_then(|view| vendors::row(&view.provider.spec.kind));
            let kind = row.map_or("", |row| row.name);
            match self.job(&received, alert, view.as_deref(), row, effort) {
                Ok(job) => {
                    jobs.push(job);
                    kinds.push(kind);
                }
                Err(Skip::NeedsMore) => return Err(NeedsMore),
                Err(skip) => skips.push((alert.clone(), kind, skip)),
            }
        }
        Ok(Plan { matched, jobs, kinds, skips })
    }

    /// The same where it holds up nobody else.
    async fn plan_elsewhere(
        self: &Arc<Self>,
        event: &Event,
        candidates: Candidates,
        labels: Option<Arc<ObjectLabels>>,
    ) -> Result<Plan, Answer> {
        let (this, its, namespace) = (self.clone(), event.clone(), event.involved_object.namespace.as_str().into());
        let work = move || {
            let mut effort = Effort::elsewhere();
            let plan = this.plan(&its, &candidates, labels.as_deref(), &mut effort);
            (plan, effort)
        };
        match tokio::time::timeout(COMPUTE_PATIENCE, self.compute.run(&namespace, work)).await {
            Ok(Ok((Ok(plan), effort))) => {
                for alert in effort.over() {
                    self.delivery.troubles().look_at(About::Alert(alert.clone()));
                }
                Ok(plan)
            }
            _ => Err(Answer::Unavailable("expressions of Alerts take too long")),
        }
    }

    /// Puts jobs into the outbox, wakes `delivery`, and counts those that end here; `kinds` are the types of
    /// their Providers.
    async fn store(self: Arc<Self>, jobs: Vec<NewJob>, kinds: Vec<&'static str>) -> Result<Vec<Fate>, PutError> {
        let of: Vec<_> =
            jobs.iter().map(|job| (job.subject.provider().clone(), job.provider.clone(), job.alert.clone())).collect();
        let Receipt { fates, replaced } = self.outbox.put(jobs).await?;
        self.delivery.wake();
        for ((fate, replaced), kind) in fates.iter().zip(replaced).zip(kinds) {
            for _ in 0..replaced {
                self.metrics.notification(Outcome::Superseded, kind);
            }
            match fate {
                Fate::Stored => {}
                Fate::Superseded => self.metrics.notification(Outcome::Superseded, kind),
                Fate::Repeat => self.metrics.notification(Outcome::Unchanged, kind),
                Fate::NoRoom => self.metrics.notification(Outcome::Dropped, kind),
            }
        }
        let dropped: Vec<_> = of.iter().zip(&fates).filter(|(_, fate)| **fate == Fate::NoRoom).collect();
        if let Some(((_, provider, _), _)) = dropped.first() {
            self.tell_of_dropped(provider, dropped.len());
        }
        for ((uid, provider, alert), _) in dropped {
            let abouts = [About::Provider(provider.clone()), About::Alert(alert.clone())];
            let version = self.view.provider_by_uid(uid).map_or(0, |view| view.version);
            self.delivery.troubles().failed(abouts, uid, version, "OutboxFull", NO_ROOM, self.clock.now());
        }
        Ok(fates)
    }

    /// One line for a spell of dropped notifications; the metric counts each, and conditions name whose they are.
    fn tell_of_dropped(&self, provider: &Key, count: usize) {
        let now = self.clock.now();
        let mut told = self.dropped.lock();
        if told.is_some_and(|at| now.saturating_duration_since(at) < QUIET) {
            return;
        }
        *told = Some(now);
        drop(told);
        tracing::error!(logger = "event-server", %provider, count, reason = NO_ROOM, "notifications dropped");
    }

    /// The labels of an event's object, where an Alert selects by them.
    ///
    /// They come by a watch, which an event may overtake by a moment: that of an object just made,
    /// or just labelled. To answer at once would lose it; to ask the API server would cost a request
    /// for each event about an object that is not there; to answer 503 would hold the sender's
    /// worker for 8 s. So this event alone waits until the watch has come to the version the event
    /// tells of, and goes on with what is known when that takes too long. While the kind is listed
    /// for the first time nothing is known, and the sender is asked to come again; `cluster` bounds
    /// how long that may be.
    async fn labels(&self, object: &InvolvedObject) -> Result<Option<Arc<ObjectLabels>>, Answer> {
        let patience = tokio::time::sleep(LABELS_PATIENCE);
        tokio::pin!(patience);
        let labels = loop {
            let changed = self.view.labels_changed();
            let seen = match self.view.labels(object) {
                LabelsView::Known(labels) => break labels,
                LabelsView::Unavailable => {
                    tracing::debug!(logger = "event-server", %object, "matchLabels select nothing: labels of the kind cannot be had");
                    return Ok(None);
                }
                seen => seen,
            };
            tokio::select! {
                () = changed => {}
                () = &mut patience => match seen {
                    LabelsView::Behind(labels) => break labels,
                    _ => return Err(Answer::Unavailable("the labels of the object's kind are being read")),
                },
            }
        };
        if labels.is_none() {
            let error = "it is not in this cluster, so matchLabels select nothing";
            tracing::warn!(logger = "event-server", %object, error, "error getting the involved object");
        }
        Ok(labels)
    }

    /// What one Alert makes of the event: gates in their order, then the notice.
    fn job(
        &self,
        received: &Received<'_>,
        alert: &CompiledAlert,
        view: Option<&ProviderView>,
        row: Option<&Row>,
        effort: &mut Effort,
    ) -> Result<NewJob, Skip> {
        let Received { event, marks, ref stamp, ref shared } = *received;
        let object = &event.involved_object;
        gate::cross_namespace(self.no_cross_namespace, &object.namespace, &alert.key)?;
        let view = view.ok_or(Skip::NoProvider)?;
        let provider = &view.provider;
        if provider.spec.suspend {
            return Err(Skip::ProviderSuspended);
        }
        let row = row.ok_or(Skip::UnsupportedType)?;
        let carried = gate::carried(row.carries, marks, || {
            let from = provider.meta.annotations.get(compose::COMMIT_STATUS_FROM_ANNOTATION);
            from.is_some_and(|from| from == "any") && compose::own_commit(event).is_some()
        });
        if let Err(skip) = carried.clone()
            && !(compose::may_recover(event) && compose::own_commit(event).is_some())
        {
            return Err(skip);
        }
        let composed = compose::compose(event, shared, alert, view, (row.carries, row.wording), effort);
        // What keeps a status from being named is no news of an event that is likely none.
        let mut notice = composed.map_err(|skip| match (&carried, skip) {
            (Err(carried), skip) if skip != Skip::NeedsMore => carried.clone(),
            (_, skip) => skip,
        })?;
        let name_of_object = object.to_string();

        let uid = provider.meta.uid.clone();
        let (subject, repeat) = match &mut notice {
            Notice::CommitStatus(status) => {
                let name = row.wording.identity(&status.name, status.summary.as_deref()).into();
                let slot = Slot { provider: uid, repository: "".into(), commit: status.commit.clone(), name };
                if let Err(skip) = carried {
                    status.over_failure = self.recovers(&slot, &name_of_object, view).ok_or(skip)?;
                }
                (Subject::Slot(slot), None)
            }
            Notice::Event(_) => {
                let repeat = RepeatKey::new(event, marks, &alert.uid, &uid);
                let about = format!("{}/{name_of_object}", alert.uid).into();
                (Subject::Stream { provider: uid, about }, Some(repeat))
            }
        };
        Ok(NewJob {
            subject,
            stamp: stamp.clone(),
            notice,
            provider: provider.meta.key.clone(),
            alert: alert.key.clone(),
            object: name_of_object.into(),
            repeat,
        })
    }

    /// Whether a success without Flux's mark is the recovery of a failure that was told of the same object in this
    /// Slot, and if so, whether the vendor has to confirm that failure. After a restart nobody remembers it; then
    /// only the default name says that it is of the same object. Several replicas do not know what each was told.
    fn recovers(&self, slot: &Slot, object: &str, view: &ProviderView) -> Option<bool> {
        match self.outbox.accepted(slot) {
            Some((State::Failure, of)) if of == Fingerprint::of(&[object]) => Some(false),
            Some(_) if self.outbox.is_trusted() => None,
            _ => view.expression.is_none().then_some(true),
        }
    }

    /// What keeps an Alert from being told of anything is a trouble of it, as a failed delivery is.
    fn stands(&self, alert: &CompiledAlert, skip: &Skip) {
        let (reason, text) = match skip {
            Skip::NoProvider => ("ProviderNotFound", "there is no such Provider"),
            Skip::UnsupportedType => ("UnsupportedType", "its type is not built"),
            Skip::Expression(_) => ("InvalidExpression", "its commitStatusExpr gave no name for an event; see the log"),
            _ => return,
        };
        let about = About::Alert(alert.key.clone());
        let view = self.view.provider(&alert.provider);
        let (provider, version) = view.map_or_else(|| ("".into(), 0), |is| (is.provider.meta.uid.clone(), is.version));
        self.delivery.troubles().failed([about], &provider, version, reason, text, self.clock.now());
    }

    /// Once for each Alert as it is written; the peer warns for every event.
    fn tell_of_conflicts(&self, event: &Event, alert: &CompiledAlert) {
        if alert.conflicts.get().is_some() {
            return;
        }
        let conflicts = compose::conflicts(event, alert);
        if conflicts.is_empty() {
            return;
        }
        let keys: Vec<_> =
            conflicts.iter().map(|(key, sources)| serde_json::json!({"key": key, "sources": sources})).collect();
        if alert.conflicts.set(conflicts).is_ok() {
            let Key { namespace, name } = &alert.key;
            tracing::info!(
                logger = "event-server",
                controllerKind = "Alert",
                %name,
                %namespace,
                object = %event.involved_object,
                conflictingKeys = serde_json::Value::from(keys).to_string(),
                "warning: {METADATA_CONFLICTS}"
            );
            self.delivery.troubles().look_at(About::Alert(alert.key.clone()));
        }
    }

    fn skipped(&self, event: &Event, alert: &CompiledAlert, kind: &'static str, skip: Skip) {
        self.metrics.notification(if skip.is_fault() { Outcome::Refused } else { Outcome::Filtered }, kind);
        let Key { namespace, name } = &alert.key;
        let provider = &alert.provider;
        let object = &event.involved_object;
        match skip {
            // What only this event shows to be wrong stands in no condition.
            Skip::Expression(error) => tracing::error!(
                logger = "event-server",
                controllerKind = "Alert",
                %name,
                %namespace,
                %provider,
                %object,
                %error,
                "no commit status for the event"
            ),
            skip => tracing::debug!(
                logger = "event-server",
                controllerKind = "Alert",
                %name,
                %namespace,
                %provider,
                %object,
                reason = skip.label(),
                "event not sent"
            ),
        }
    }
}

/// A future that goes on by itself when whoever waits for it goes away: a task for those few, not for each.
struct Outliving<F: Future<Output: Send> + Send + 'static>(Option<Pin<Box<F>>>);

impl<F: Future<Output: Send> + Send + 'static> Future for Outliving<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // One that panics does not go on.
        let mut rest = self.0.take().expect("nobody asks after the end");
        let polled = rest.as_mut().poll(context);
        if polled.is_pending() {
            self.0 = Some(rest);
        }
        polled
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for Outliving<F> {
    fn drop(&mut self) {
        // There is no runtime any more when the process ends.
        if let (Some(rest), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(rest);
        }
    }
}
