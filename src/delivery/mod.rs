//! STAGE 5: from the outbox to the vendor.
//!
//! One dispatcher claims what is due and starts a task for each job; everything else is bounded by
//! the outbox: one request at a time for a Slot, so many for a Provider. A job ends delivered,
//! unchanged, superseded or given up, and each end is counted and logged once.

mod halts;
mod headers;
mod listings;
mod places;
mod report;
pub mod resolve;
pub mod troubles;
mod verdict;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::Notify;

use self::halts::Halts;
use self::listings::Listings;
use self::places::Places;
use self::report::{Telling, Why};
use self::resolve::Resolver;
use self::troubles::Troubles;
pub use self::verdict::{Verdict, verdict};
use crate::clock::Clock;
use crate::compose::{CommitStatus, Notice, text};
use crate::ops::metrics::{Metrics, Outcome};
use crate::outbound::SendError;
use crate::outbox::{Act, Job, Operation, Outbox, Retry, Said, Settled, Settlement, Subject};
use crate::vendors::{Service, Statuses};
use crate::view::View;

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

/// Bytes of what went wrong that are kept with a job.
const LONGEST_REASON: usize = 500;

/// Tries of a job whose delivery panics: a bug, which another try seldom cures.
const PANIC_TRIES: u32 = 3;

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
    listings: Listings,
    halts: Halts,
    places: Places,
    telling: Telling,
    wake: Notify,
    under_way: AtomicUsize,
    idle: Notify,
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
        Self(Arc::new(Inner {
            outbox,
            view,
            resolver,
            clock,
            metrics,
            deadlines,
            listings: Listings::new(),
            halts: Halts::default(),
            places: Places::default(),
            telling: Telling::default(),
            wake: Notify::new(),
            under_way: AtomicUsize::new(0),
            idle: Notify::new(),
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

    /// A Provider or a Secret of it changed: what waits for it is tried now.
    pub fn provider_changed(&self, uid: &str) {
        self.0.outbox.wake(uid);
        self.wake();
    }

    /// Does what operators want, as long as the process runs.
    pub async fn obey(self) {
        let inner = &self.0;
        loop {
            for Operation { job, act } in inner.outbox.operations().await {
                match act {
                    Act::Retry => {
                        inner.outbox.retry(job);
                    }
                    Act::Drop => {
                        if let Some(job) = inner.outbox.discard(job) {
                            let why = Why::new("Dropped", "an operator dropped it");
                            inner.report(&job, Outcome::Failed, Some(&why));
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
        while !inner.stopping.load(Ordering::SeqCst) {
            let woken = inner.wake.notified();
            let room = MAX_UNDER_WAY.saturating_sub(inner.under_way.load(Ordering::SeqCst));
            let jobs = inner.outbox.claim(inner.clock.now(), room);
            for job in jobs {
                inner.under_way.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(self.clone().carry(job));
            }
            match inner.outbox.next_due() {
                Some(due) => {
                    let pause = due.saturating_duration_since(inner.clock.now());
                    let _ = tokio::time::timeout(pause, woken).await;
                }
                None => woken.await,
            }
        }
    }

    /// Works off what can be told within `grace`, then claims nothing more. What waits for a later
    /// time stays in the outbox.
    pub async fn drain(&self, grace: Duration) {
        let inner = &self.0;
        let deadline = inner.clock.now() + grace;
        let drained = async {
            loop {
                let idle = inner.idle.notified();
                let counts = inner.outbox.counts();
                let later = inner.outbox.next_due().is_none_or(|due| due > deadline);
                if counts.claimed == 0 && counts.ready == 0 && later {
                    return;
                }
                idle.await;
            }
        };
        if tokio::time::timeout(grace, drained).await.is_err() {
            tracing::warn!(logger = "delivery", "what was under way did not end in time");
        }
        inner.stopping.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// One job, one try, whatever happens in it.
    async fn carry(self, job: Arc<Job>) {
        let inner = &self.0;
        let before = inner.provider_version(&job);
        let ended = AssertUnwindSafe(inner.attempt(&job)).catch_unwind().await.unwrap_or_else(|_| {
            let why = Why::new("DeliveryFailed", "a bug in Herald: the delivery panicked; please report it");
            if job.attempts + 1 < PANIC_TRIES {
                Try::Again { pause: verdict::backoff(job.attempts), told: false, why }
            } else {
                Try::GivenUp(Outcome::Failed, why)
            }
        });
        inner.conclude(&job, ended);
        if inner.provider_version(&job) != before {
            // It changed during the try, and the change could wake only what was waiting then.
            inner.outbox.wake(job.new.subject.provider());
        }
        inner.under_way.fetch_sub(1, Ordering::SeqCst);
        inner.idle.notify_one();
        self.wake();
    }
}

impl Inner {
    /// The version of the job's Provider with its Secrets; `None` when it is gone.
    fn provider_version(&self, job: &Job) -> Option<u64> {
        self.view.provider_by_uid(job.new.subject.provider()).map(|view| view.version)
    }

    async fn attempt(&self, job: &Job) -> Try {
        let provider = job.new.subject.provider();
        let Some(view) = self.view.provider_by_uid(provider) else {
            return Try::GivenUp(Outcome::Refused, Why::new("ProviderNotFound", "its Provider was deleted"));
        };
        if view.provider.spec.suspend {
            return Try::Again { pause: verdict::parked(job.attempts), told: false, why: Why::suspended() };
        }
        let service = match self.resolver.resolve(&view) {
            Ok(service) => service,
            Err(error) => return self.again(job, verdict::parked(job.attempts), false, Why::resolving(error)),
        };
        if let Some((left, error)) = self.halts.of(provider, view.version, self.clock.now()) {
            return self.again(job, left, verdict(&error).is_told(), Why::sent(&error));
        }
        let sent = match (&*service, &job.new.notice) {
            (Service::Statuses(vendor), Notice::CommitStatus(status)) => {
                self.set(job, view.version, &**vendor, status).await
            }
            (Service::Events(vendor), Notice::Event(event)) => vendor.send(event).await.map(|()| Try::Delivered),
            _ => {
                let why = Why::new("UnsupportedType", "the Provider's type was changed to one that does not take this");
                return Try::GivenUp(Outcome::Refused, why);
            }
        };
        sent.unwrap_or_else(|error| self.judge(job, view.version, error))
    }

    /// Makes a place say `status` (rule R6): nothing when it does already, a look first when we do
    /// not know what it says.
    async fn set(
        &self,
        job: &Job,
        version: u64,
        vendor: &dyn Statuses,
        status: &CommitStatus,
    ) -> Result<Try, SendError> {
        let name = self.name_at_vendor(job);
        let place = format!("{}{}/{name}", vendor.repository(), status.commit);
        let _held = self.places.hold(&place).await;

        let wanted = Said::Status { state: Some(status.state), description: status.description.as_str().into() };
        let says = match self.outbox.said(&place) {
            Some(Said::Uncertain) => vendor.read(status).await?.said(name),
            Some(known) => known,
            None => {
                let commit = format!("{}{}", vendor.repository(), status.commit);
                // Whoever waited here for a read that was refused does not ask again.
                let read = async {
                    match self.halts.of(job.new.subject.provider(), version, self.clock.now()) {
                        Some((_, error)) => Err(error),
                        None => vendor.read(status).await,
                    }
                };
                let asked = if vendor.reads_whole_commits() { &commit } else { &place };
                // While others write too, only what is read from now on counts.
                let fresh = if self.outbox.is_trusted() { listings::FRESH } else { Duration::ZERO };
                self.listings.get(asked, self.clock.now(), fresh, read).await?.said(name)
            }
        };
        if says == wanted {
            self.outbox.note(&place, wanted);
            return Ok(Try::Unchanged);
        }
        if self.outbox.is_superseded(job) {
            return Ok(Try::Superseded);
        }
        self.outbox.note(&place, Said::Uncertain);
        vendor.write(status).await?;
        self.outbox.note(&place, wanted);
        Ok(Try::Delivered)
    }

    /// The status' name as the vendor compares it.
    fn name_at_vendor<'a>(&self, job: &'a Job) -> &'a str {
        match &job.new.subject {
            Subject::Slot(slot) => &slot.name,
            Subject::Stream { .. } => "",
        }
    }

    fn judge(&self, job: &Job, version: u64, error: SendError) -> Try {
        let why = Why::sent(&error);
        let verdict = verdict(&error);
        let told = verdict.is_told();
        let pause = match verdict {
            Verdict::Later => verdict::backoff(job.attempts),
            Verdict::Wait(pause) => pause.max(verdict::backoff(job.attempts)),
            Verdict::Park => verdict::parked(job.attempts),
            Verdict::Drop => return Try::GivenUp(Outcome::Failed, why),
        };
        if verdict::concerns_the_provider(&error) {
            self.halts.begin(job.new.subject.provider(), version, self.clock.now() + pause, error);
        }
        self.again(job, pause, told, why)
    }

    fn again(&self, job: &Job, pause: Duration, told: bool, why: Why) -> Try {
        let deadline = match job.new.notice {
            Notice::CommitStatus(_) => self.deadlines.status,
            Notice::Event(_) => self.deadlines.message,
        };
        let age = self.clock.now().saturating_duration_since(job.new.stamp.arrived);
        if age + pause > deadline {
            Try::GivenUp(Outcome::Failed, why.after(job.attempts + 1))
        } else {
            Try::Again { pause, told, why }
        }
    }

    /// Settles, and says so.
    fn conclude(&self, job: &Arc<Job>, ended: Try) {
        let now = self.clock.now();
        let (outcome, settlement, why) = match ended {
            Try::Delivered => (Outcome::Delivered, Settlement::Said, None),
            Try::Unchanged => (Outcome::Unchanged, Settlement::Said, None),
            Try::Superseded => (Outcome::Superseded, Settlement::Dropped, None),
            Try::GivenUp(outcome, why) => (outcome, Settlement::Dropped, Some(why)),
            Try::Again { pause, told, why } => {
                let retry = Retry { pause, told, why: text::cut(&why.to_string(), LONGEST_REASON) };
                match self.outbox.settle(job, now, Settlement::Retry(retry)) {
                    Settled::Superseded => self.report(job, Outcome::Superseded, None),
                    Settled::AsAsked => self.put_off(job, pause, &why),
                }
                return;
            }
        };
        self.outbox.settle(job, now, settlement);
        self.report(job, outcome, why.as_ref());
    }
}
