//! STAGE 5: from the outbox to the vendor.
//!
//! One dispatcher claims what is due and may go out (`budget`) and starts a task for each job; the
//! outbox bounds the rest: one request at a time for a Slot, so many for a Provider. A job ends delivered,
//! unchanged, superseded or given up, and each end is counted and logged once.

mod budget;
mod claim;
mod headers;
mod listings;
mod places;
mod report;
pub mod resolve;
mod set;
mod sharing;
mod strays;
mod suspension;
pub mod troubles;
mod verdict;

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::Notify;

use self::budget::{About, Pass, Share, Shares, Ticket};
use self::claim::Claim;
use self::listings::Listings;
use self::places::Places;
use self::report::{Telling, Why, about_provider};
use self::resolve::{ResolveError, Resolver};
use self::strays::Strays;
use self::suspension::Suspension;
use self::troubles::Troubles;
pub use self::verdict::{Scope, Verdict, verdict};
use crate::api::Key;
use crate::clock::Clock;
use crate::compose::{Notice, text};
use crate::ops::metrics::{Metrics, Outcome};
use crate::outbound::SendError;
use crate::outbox::{Act, Job, JobId, NewJob, Operation, Outbox, Pick, Retry, Settled, Settlement};
use crate::vendors::Service;
use crate::view::{ProviderView, View};

/// Requests under way at once, over all Providers: what a small pod's memory and sockets bear.
const MAX_UNDER_WAY: usize = 512;

/// How long after its event something is worth telling.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// A status: it stays until it is replaced.
    pub status: Duration,
    /// A message: it becomes old news.
    pub message: Duration,
}

/// How late something is still told that had to wait for its turn: a try of its own that comes as the
/// deadline passes is let be.
const LATE: Duration = Duration::from_secs(60);

/// How often it is looked for what waits past its deadline. A look takes less than a microsecond for each
/// job.
const LOOK: Duration = Duration::from_secs(60);

/// How long what waits for a deleted Provider waits for one of the same name.
const MADE_AGAIN: Duration = Duration::from_secs(600);

/// How long a deleted Provider is remembered: longer than any of its jobs sleeps.
const DELETED_KNOWN: Duration = Duration::from_secs(2 * 3600);

/// Jobs that one look gives up at most; then it is looked again.
const EXPIRE: usize = 1000;

/// How often it is looked whether everything is known by now.
const UNSYNCED: Duration = Duration::from_millis(50);

/// Bytes of what went wrong that are kept with a job.
const LONGEST_REASON: usize = 500;

/// Tries of a job whose delivery panics: a bug, which another try seldom cures.
const PANIC_TRIES: u32 = 3;

/// Jobs of which it is known how often they panicked, at most.
const MAX_PANICKED: usize = 1024;

/// The stage. Cheap to clone.
#[derive(Clone)]
pub struct Delivery(Arc<Inner>);

struct Inner {
    outbox: Arc<dyn Outbox>,
    view: Arc<dyn View>,
    resolver: Arc<Resolver>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    deadlines: Deadlines,
    /// What seconds of the memory of places are counted from.
    started: Instant,
    listings: Listings,
    places: Places,
    strays: Strays,
    telling: Telling,
    wake: Notify,
    /// Jobs under way.
    under_way: Arc<Mutex<Shares>>,
    /// Providers that jobs wait for and that were deleted, by UID: the name, and since when that is known.
    deleted: Mutex<HashMap<Arc<str>, (Key, Instant)>>,
    /// How often the delivery of a job panicked, where it did.
    panics: Mutex<HashMap<JobId, u32>>,
    /// Told after each round of claims, for [`Delivery::drain`].
    round: Notify,
    stopping: AtomicBool,
}

/// How one try of a job ended.
#[derive(Debug)]
enum Try {
    Delivered,
    Unchanged,
    Superseded,
    /// Try again after the pause; `told` when the vendor named it.
    Again {
        pause: Duration,
        told: bool,
        why: Why,
    },
    /// Ended so, but its place is to be looked at after the pause.
    Look {
        pause: Duration,
        outcome: Outcome,
    },
    /// Given up.
    GivenUp(Outcome, Why),
}

impl Delivery {
    /// The stage, not yet running.
    pub fn new(
        outbox: Arc<dyn Outbox>,
        view: Arc<dyn View>,
        resolver: Arc<Resolver>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        deadlines: Deadlines,
    ) -> Self {
        let started = clock.now();
        if let Some(key) = outbox.key() {
            resolver.budget().restore(key, outbox.kept());
        }
        Self(Arc::new(Inner {
            started,
            outbox,
            view,
            resolver,
            clock,
            metrics,
            deadlines,
            listings: Listings::new(),
            places: Places::default(),
            strays: Strays::default(),
            telling: Telling::default(),
            wake: Notify::new(),
            under_way: Arc::default(),
            deleted: Mutex::default(),
            panics: Mutex::default(),
            round: Notify::new(),
            stopping: AtomicBool::new(false),
        }))
    }

    /// There may be new work.
    pub fn wake(&self) {
        self.0.wake.notify_one();
    }

    /// Says what the log was spared, every minute, for ever.
    pub async fn say_unsaid(self) {
        loop {
            tokio::time::sleep(Duration::from_secs(60)).await;
            self.0.say_unsaid();
        }
    }

    /// What goes wrong now.
    pub fn troubles(&self) -> &Arc<Troubles> {
        &self.0.telling.troubles
    }

    /// What vendors say is left of their limits, by host: the least of what their credentials have. 64
    /// hosts at most, and `other` for the rest and for those whose names stand in Secrets. What is given
    /// back keeps nothing else of the stage: its metrics may hold it.
    pub fn limits_left(&self) -> impl Fn() -> BTreeMap<Arc<str>, u64> + Send + Sync + use<> {
        let budget = self.0.resolver.budget().clone();
        move || budget.left()
    }

    /// A Provider or a Secret of it changed, or it is gone: what waits for it is tried now, and what was
    /// contested is tried once more.
    pub fn provider_changed(&self, uid: &str) {
        self.0.changed(uid);
        // Each of their jobs finds the new one.
        self.0.predecessors(uid).iter().for_each(|old| self.0.outbox.wake(old));
        self.0.outbox.forget_speaker(uid);
        self.0.forget_sharing(uid);
        self.wake();
    }

    /// Does what operators want, as long as the process runs.
    pub async fn obey(self) {
        let inner = &self.0;
        while let Some(operations) = inner.outbox.operations().await {
            for Operation { job, act } in operations {
                match act {
                    Act::Retry => inner.retry(job),
                    Act::Drop => {
                        if let Some(job) = inner.outbox.discard(job) {
                            inner.report(&job, Outcome::Failed, Some(&Why::dropped()));
                        }
                    }
                }
            }
            self.wake();
        }
    }

    /// The dispatcher: runs until [`Delivery::drain`] is through.
    pub async fn run(self) {
        let inner = &self.0;
        // What an earlier process left must not be judged by Providers that are not known yet.
        while !inner.view.synced() && !inner.stopping.load(Ordering::SeqCst) {
            let _ = tokio::time::timeout(UNSYNCED, inner.wake.notified()).await;
        }
        let mut look = inner.clock.now();
        let mut suspension = Suspension::new(&*inner.clock);
        while !inner.stopping.load(Ordering::SeqCst) {
            let woken = inner.wake.notified();
            let now = inner.clock.now();
            if suspension.was(&*inner.clock) {
                tracing::info!(logger = "delivery", "the machine was suspended: statuses are read again");
                inner.outbox.forget_said();
            }
            if now >= look {
                look = if inner.expire() { now } else { now + LOOK };
            }
            for (job, leave) in inner.claim() {
                tokio::spawn(self.clone().carry(job, leave));
            }
            inner.round.notify_one();
            let due = inner.outbox.next_due().map_or(look, |due| due.min(look));
            let _ = tokio::time::timeout(due.saturating_duration_since(inner.clock.now()), woken).await;
        }
    }

    /// Works off what can be told within `grace`, then claims nothing more. What waits for a later
    /// time stays in the outbox, and so does what is held until then: it is not waited for.
    pub async fn drain(&self, grace: Duration) {
        let inner = &self.0;
        let deadline = inner.clock.now() + grace;
        let drained = async {
            loop {
                let round = inner.round.notified();
                // Each job that ends brings a round.
                let under_way = inner.outbox.counts().claimed > 0;
                if !under_way && !inner.outbox.due_by(deadline).iter().any(|of| inner.may_go_by(of, deadline)) {
                    return;
                }
                round.await;
            }
        };
        // Before everything is known, what an earlier process left is not begun.
        if inner.view.synced() && tokio::time::timeout(grace, drained).await.is_err() {
            tracing::warn!(logger = "delivery", "what was under way did not end in time");
        }
        inner.stopping.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// One job, one try, whatever happens in it.
    async fn carry(self, job: Arc<Job>, leave: Option<Leave>) {
        let inner = &self.0;
        let (ticket, share) = leave.map(|Leave { ticket, share }| (ticket, share)).unzip();
        let view = inner.view.provider_by_uid(job.new.subject.provider());
        let before = view.as_ref().map(|view| view.version);
        let wrote = AtomicBool::new(false);
        let tried = AssertUnwindSafe(inner.attempt(&job, view, ticket.as_ref(), &wrote)).catch_unwind();
        let ended = tried.await.unwrap_or_else(|_| {
            let times = inner.panicked(&job);
            let why = Why::new("DeliveryFailed", "a bug in Herald: the delivery panicked; please report it");
            if times < PANIC_TRIES {
                Try::Again { pause: verdict::backoff(job.attempts), told: false, why }
            } else {
                Try::GivenUp(Outcome::Failed, why)
            }
        });
        let parked = matches!(ended, Try::Again { told: false, .. });
        let claim = Claim::new(&*inner.outbox, &job, inner.clock.now());
        if catch_unwind(AssertUnwindSafe(|| inner.conclude(&job, claim, ended))).is_err() {
            // What was lent to the job is given back all the same.
            inner.panicked(&job);
        }
        if before.is_none() {
            inner.hand_over(job.new.subject.provider(), &job.new.provider);
        }
        if inner.provider_version(&job) != before {
            // It changed during the try, and the change could wake only what was waiting then.
            inner.changed(job.new.subject.provider());
        }
        if parked && ticket.as_ref().is_some_and(Ticket::is_outdated) {
            // So it is with what was lifted during the try.
            inner.outbox.retry(job.id);
        }
        if let Some(ticket) = ticket {
            let freed = ticket.end(wrote.into_inner());
            freed.release.iter().for_each(|provider| inner.outbox.release(provider));
            freed.wake.iter().for_each(|provider| inner.outbox.wake(provider));
        }
        let freed = share.map(Share::end).unwrap_or_default();
        freed.iter().for_each(|provider| inner.outbox.release(provider));
        self.wake();
    }
}

/// Leave for one job to send requests.
struct Leave {
    ticket: Ticket,
    share: Share,
}

impl Inner {
    /// Counts a panic that was caught; it was printed when it happened. How many it were for this job.
    fn panicked(&self, job: &Job) -> u32 {
        self.metrics.delivery_panic(self.kind(job));
        let mut panics = self.panics.lock();
        if panics.len() >= MAX_PANICKED {
            panics.clear();
        }
        let times = panics.entry(job.id).or_default();
        *times += 1;
        *times
    }

    /// A Provider or a Secret of it is another one: what waits for that is tried now, also where it was
    /// another Provider that was refused.
    fn changed(&self, provider: &str) {
        let version = self.view.provider_by_uid(provider).map_or(u64::MAX, |view| view.version);
        let keep = |standing| self.outbox.keep(standing);
        self.resolver.budget().forget_refusals(provider, version, keep).iter().for_each(|held| self.outbox.wake(held));
        self.outbox.wake(provider);
    }

    /// An operator wants a job tried now: it goes although its like was refused, but not while the vendor
    /// wants to be left alone.
    fn retry(&self, job: JobId) {
        let Some(provider) = self.outbox.retry(job) else { return };
        let ready = self.view.provider_by_uid(&provider).and_then(|view| self.ready(&view).ok());
        ready.inspect(|(_, pass)| pass.try_refused());
        // It may have been claimed, and put off for its refusal, before that was so.
        self.outbox.retry(job);
        self.outbox.release(&provider);
    }

    /// The version of the job's Provider with its Secrets; `None` when it is gone.
    fn provider_version(&self, job: &Job) -> Option<u64> {
        self.view.provider_by_uid(job.new.subject.provider()).map(|view| view.version)
    }

    /// Claims what may go out now, each with leave for it.
    fn claim(&self) -> Vec<(Arc<Job>, Option<Leave>)> {
        let room = MAX_UNDER_WAY.saturating_sub(self.under_way.lock().total());
        let now = self.clock.now();
        let (mut claims, mut leaves) = (Vec::new(), Vec::new());
        loop {
            let mut unresolved = Vec::new();
            let jobs = self.outbox.claim_if(now, room - claims.len(), &mut |provider| {
                let leave = match self.view.provider_by_uid(provider).map(|view| (self.resolver.pass(&view), view)) {
                    // Nothing is made under the outbox's lock.
                    Some((None, view)) => {
                        unresolved.push(view);
                        return Err(now + UNSYNCED);
                    }
                    Some((Some(Some(pass)), view)) if !view.provider.spec.suspend => {
                        Some(self.leave(&view.provider.meta.key.namespace, &pass, now)?)
                    }
                    // No request will be made.
                    _ => None,
                };
                let canary = leave.as_ref().is_some_and(|leave| leave.ticket.is_canary());
                leaves.push(leave);
                Ok(if canary { Pick::Longest } else { Pick::First })
            });
            claims.extend(jobs);
            if unresolved.is_empty() {
                return claims.into_iter().zip(leaves).collect();
            }
            for view in unresolved {
                let _ = self.ready(&view);
                self.outbox.release(&view.provider.meta.uid);
            }
        }
    }

    /// Leave for a job of a Provider, within the share of its namespace.
    fn leave(&self, namespace: &Arc<str>, pass: &Arc<Pass>, now: Instant) -> Result<Leave, Instant> {
        {
            let mut under_way = self.under_way.lock();
            if !under_way.has_room(namespace, MAX_UNDER_WAY) {
                under_way.wait(namespace, pass.provider());
                pass.pass_over();
                return Err(now + budget::NO_ROOM);
            }
        }
        let ticket = pass.admit()?;
        Ok(Leave { ticket, share: Share::begin(&self.under_way, namespace) })
    }

    /// What a Provider says things by.
    fn ready(&self, view: &ProviderView) -> Result<(Arc<Service>, Arc<Pass>), ResolveError> {
        self.resolver.ready(view, || self.view.provider(&view.provider.meta.key).is_some())
    }

    /// Whether something may become of a Provider's jobs by then. Where nothing has to go out, it does.
    fn may_go_by(&self, provider: &str, by: Instant) -> bool {
        let pass = self.view.provider_by_uid(provider).and_then(|view| self.resolver.pass(&view)).flatten();
        pass.is_none_or(|pass| pass.may_go_by(by))
    }

    /// Tells a vendor; `view`: the job's Provider as it is now.
    async fn attempt(
        &self,
        job: &Job,
        view: Option<Arc<ProviderView>>,
        ticket: Option<&Ticket>,
        wrote: &AtomicBool,
    ) -> Try {
        let Some(view) = view else {
            let uid = job.new.subject.provider();
            // It may have been mended between one look and the next; then it wakes what waits for it.
            if self.view.is_unreadable(uid) || self.view.provider_by_uid(uid).is_some() {
                return self.again(job, verdict::parked(job.attempts), false, Why::unreadable());
            }
            return self.without_provider(job);
        };
        if view.provider.spec.suspend {
            return Try::Again { pause: verdict::parked(job.attempts), told: false, why: Why::suspended() };
        }
        let (service, pass) = match self.ready(&view) {
            Ok(ready) => ready,
            Err(error) => return self.again(job, verdict::parked(job.attempts), false, Why::resolving(error)),
        };
        if self.is_late(&job.new) {
            return Try::GivenUp(Outcome::Failed, Why::expired(None).after(job.attempts));
        }
        if let Err(held) = pass.check(ticket) {
            return self.judge(job, &pass, wrote, held);
        }
        let about = about(job);
        if let Some(Err(refused)) = about.map(|about| pass.check_status(about)) {
            return self.judge(job, &pass, wrote, refused);
        }
        let well = pass.answered_well();
        let sent = match (&*service, &job.new.notice) {
            (Service::Statuses(vendor), Notice::CommitStatus(status)) => {
                self.set(job, &pass, &**vendor, status, wrote).await
            }
            (Service::Events(vendor), Notice::Event(message)) => {
                wrote.store(true, Ordering::Relaxed);
                // The combined event is gone once the request is made of it.
                let sent = vendor.send(&message.combined());
                sent.await.map(|()| Try::Delivered)
            }
            _ => {
                let why = Why::new("UnsupportedType", "the Provider's type was changed to one that does not take this");
                return Try::GivenUp(Outcome::Refused, why);
            }
        };
        let lifted = match sent {
            Ok(Try::Delivered | Try::Look { outcome: Outcome::Delivered, .. }) => {
                if job.attempts >= verdict::LASTING {
                    // What failed for as long for the same reason need not wait out its pause.
                    self.outbox.wake(job.new.subject.provider());
                }
                pass.worked(false, about)
            }
            // What it found it had asked for just now, not known before.
            Ok(_) if pass.answered_well() > well => pass.worked(true, about),
            _ => Vec::new(),
        };
        lifted.iter().for_each(|provider| self.outbox.wake(provider));
        let ended = sent.unwrap_or_else(|error| self.judge(job, &pass, wrote, error));
        self.keep(job, &pass);
        ended
    }

    /// A job whose Provider was deleted. One that is made again under the same name within ten minutes takes it over.
    fn without_provider(&self, job: &Job) -> Try {
        let why = Why::new("ProviderNotFound", "its Provider was deleted");
        let (now, key) = (self.clock.now(), &job.new.provider);
        let mut deleted = self.deleted.lock();
        deleted.retain(|_, (_, since)| now.saturating_duration_since(*since) < DELETED_KNOWN);
        let uid = job.new.subject.provider();
        let (_, since) = *deleted.entry(uid.clone()).or_insert_with(|| (key.clone(), now));
        drop(deleted);
        if self.view.provider(key).is_some() {
            return Try::Again { pause: Duration::ZERO, told: false, why };
        }
        match MADE_AGAIN.checked_sub(now.saturating_duration_since(since)) {
            None | Some(Duration::ZERO) => Try::GivenUp(Outcome::Refused, why),
            Some(left) => self.again(job, left, false, why),
        }
    }

    /// Gives what waits for a deleted Provider to the one that has its name now.
    fn hand_over(&self, uid: &str, key: &Key) {
        if self.view.provider_by_uid(uid).is_some() || self.view.is_unreadable(uid) {
            return;
        }
        let Some(view) = self.view.provider(key) else { return };
        for job in self.outbox.hand_over(uid, &view.provider.meta.uid) {
            self.report(&job, Outcome::Superseded, None);
        }
    }

    /// The UIDs of deleted Providers that had the name of this one.
    fn predecessors(&self, uid: &str) -> Vec<Arc<str>> {
        let Some(view) = self.view.provider_by_uid(uid) else { return Vec::new() };
        let deleted = self.deleted.lock();
        let of_name = deleted.iter().filter(|(old, (key, _))| ***old != *uid && *key == view.provider.meta.key);
        of_name.map(|(old, _)| old.clone()).collect()
    }

    /// What the vendor told the credential just now is for other processes too.
    fn keep(&self, job: &Job, pass: &Pass) {
        if let Some((until, because)) = pass.save(|standing| self.outbox.keep(standing)) {
            about_provider!(
                warn,
                job.new.provider,
                seconds = until.saturating_duration_since(self.clock.now()).as_secs(),
                reason = Why::sent(&because).reason,
                "the vendor asks to wait: nothing is sent with this credential meanwhile"
            );
        }
    }

    fn judge(&self, job: &Job, pass: &Pass, wrote: &AtomicBool, error: SendError) -> Try {
        let mut why = Why::sent(&error);
        let (fails, canary) = pass.host_fails();
        let well = pass.host_well_for();
        why.stands = fails && (canary || job.attempts + 1 >= report::PERSISTENT_AT_A_FAILING_HOST);
        let (pause, told) = match (&error, verdict(&error)) {
            (SendError::Held { pause, told, .. }, _) => (*pause, *told),
            (_, Verdict::Later) => (verdict::later(&error, job.attempts, well, || pass.turn()), false),
            // It may be longer by now: others were told too.
            (_, Verdict::Wait(pause)) => (pass.waits().unwrap_or(pause).max(verdict::backoff(job.attempts)), true),
            (_, Verdict::Park(_)) => {
                let noted = pass.note(&error, !wrote.load(Ordering::Relaxed), about(job));
                (noted.unwrap_or_else(|| verdict::parked(job.attempts)), false)
            }
            (_, Verdict::Drop) => {
                about(job).into_iter().for_each(|about| pass.give_up(&error, about));
                return Try::GivenUp(Outcome::Failed, why);
            }
        };
        let refused =
            matches!(error, SendError::Held { told: false, .. }) || matches!(verdict(&error), Verdict::Park(_));
        why.passes = refused && pause < report::LONG;
        self.again(job, pause, told, why)
    }

    fn age(&self, new: &NewJob) -> Duration {
        self.clock.now().saturating_duration_since(new.stamp.arrived)
    }

    fn deadline(&self, new: &NewJob) -> Duration {
        match new.notice {
            Notice::CommitStatus(_) => self.deadlines.status,
            Notice::Event(_) => self.deadlines.message,
        }
    }

    /// Whether it is not told any more, if only its turn comes now.
    fn is_late(&self, new: &NewJob) -> bool {
        self.age(new) > self.deadline(new) + LATE
    }

    /// Gives up what is late, which what holds it may not let anybody see for hours; whether there may be
    /// more.
    fn expire(&self) -> bool {
        let late = self.outbox.expire(EXPIRE, &|new| self.is_late(new));
        for job in &late {
            let why = Why::expired(self.held_by(job)).after(job.attempts);
            self.report(job, Outcome::Failed, Some(&why));
        }
        late.len() == EXPIRE
    }

    /// What keeps a waiting job from being sent, if it is known.
    fn held_by(&self, job: &Job) -> Option<Why> {
        let provider = job.new.subject.provider();
        let Some(view) = self.view.provider_by_uid(provider) else {
            return self.view.is_unreadable(provider).then(Why::unreadable);
        };
        if view.provider.spec.suspend {
            return Some(Why::suspended());
        }
        match self.ready(&view) {
            Ok((_, pass)) => {
                let held = pass.held_by().or_else(|| about(job).and_then(|about| pass.held(about)));
                held.map(|error| Why::sent(&error))
            }
            Err(error) => Some(Why::resolving(error)),
        }
    }

    fn again(&self, job: &Job, pause: Duration, told: bool, why: Why) -> Try {
        match self.deadline(&job.new).checked_sub(self.age(&job.new)) {
            None | Some(Duration::ZERO) => Try::GivenUp(Outcome::Failed, why.after(job.attempts + 1)),
            // A change of the Provider may wake it before; at its deadline it is looked at a last time.
            Some(left) => Try::Again { pause: pause.min(left), told, why },
        }
    }

    /// Settles, and says so.
    fn conclude(&self, job: &Arc<Job>, claim: Claim<'_>, ended: Try) {
        let (outcome, settlement, why) = match ended {
            Try::Delivered => (Outcome::Delivered, Settlement::Said, None),
            Try::Unchanged => (Outcome::Unchanged, Settlement::Said, None),
            Try::Superseded => (Outcome::Superseded, Settlement::Dropped, None),
            Try::GivenUp(outcome, why) => (outcome, Settlement::Dropped, Some(why)),
            Try::Look { pause, outcome } => {
                // Whoever takes its place looks in its stead. So does another process, which tries it at once and
                // knows that it was tried before.
                let why = "was told, and is looked at again: an earlier request may still take effect".to_owned();
                (outcome, Settlement::Look(Retry { pause, told: false, why }), None)
            }
            Try::Again { pause, told, why } => {
                let retry = Retry { pause, told, why: text::cut(&why.to_string(), LONGEST_REASON) };
                match claim.settle(Settlement::Retry(retry)) {
                    Settled::Superseded => self.report(job, Outcome::Superseded, None),
                    Settled::AsAsked => self.put_off(job, pause, &why),
                }
                return;
            }
        };
        claim.settle(settlement);
        self.report(job, outcome, why.as_ref());
    }
}

/// The status that a job is to write.
fn about(job: &Job) -> Option<About<'_>> {
    match &job.new.notice {
        Notice::CommitStatus(status) => Some(About { status, arrived: job.new.stamp.arrived }),
        Notice::Event(_) => None,
    }
}
