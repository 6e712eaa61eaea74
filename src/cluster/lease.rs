//! Which replica leads: a Lease, as client-go's leader election keeps it, under the name Flux's
//! controller uses. Every replica takes events; only the leader writes conditions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::watch;

use crate::clock::Clock;

/// The Lease of Flux's notification-controller.
pub const NAME: &str = "notification-controller-leader-election";

/// The three durations of client-go's leader election.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A holder that does not renew for this long has lost the Lease.
    pub lease_duration: Duration,
    /// A holder gives up when it could not renew for this long.
    pub renew_deadline: Duration,
    /// Pause between two tries.
    pub retry_period: Duration,
}

/// Whether this replica leads.
#[derive(Clone, Debug)]
pub struct Claim(Arc<AtomicBool>);

impl Claim {
    /// Nobody is elected: this replica does what a leader does.
    pub fn always() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    /// Not yet.
    pub fn sought() -> Self {
        Self(Arc::new(AtomicBool::new(false)))
    }

    /// Whether this replica leads now.
    pub fn leads(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// One replica's part in the election.
pub struct Election {
    api: Api<Lease>,
    identity: String,
    timing: Timing,
    clock: Arc<dyn Clock>,
    claim: Claim,
    /// The holder's last sign of life, and when we first saw it: clocks of two machines differ, so
    /// only our own is trusted.
    seen: Option<(Option<MicroTime>, Instant)>,
}

impl Election {
    /// A candidate in `namespace`.
    pub fn new(client: Client, namespace: &str, timing: Timing, clock: Arc<dyn Clock>, claim: Claim) -> Self {
        let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "herald".to_owned());
        let identity = format!("{host}_{}", uuid::Uuid::new_v4());
        Self { api: Api::namespaced(client, namespace), identity, timing, clock, claim, seen: None }
    }

    /// Waits for the Lease, calls `elected` once, and keeps it until `stop` turns true. Then it
    /// gives the Lease back if `release` says so, and returns true. Returns false when the Lease
    /// is lost, after which the process must end: another replica leads.
    pub async fn run(mut self, elected: impl FnOnce(), mut stop: watch::Receiver<bool>, release: bool) -> bool {
        let mut elected = Some(elected);
        let mut renewed = self.clock.now();
        loop {
            if tokio::time::timeout(self.timing.renew_deadline, self.try_hold()).await.unwrap_or(false) {
                renewed = self.clock.now();
                if let Some(elected) = elected.take() {
                    self.claim.0.store(true, Ordering::SeqCst);
                    tracing::info!(logger = "leader-election", identity = %self.identity, "leading");
                    elected();
                }
            } else if self.claim.leads()
                && self.clock.now().saturating_duration_since(renewed) >= self.timing.renew_deadline
            {
                self.claim.0.store(false, Ordering::SeqCst);
                tracing::error!(
                    logger = "leader-election",
                    error = "the Lease could not be renewed",
                    "no longer leading"
                );
                return false;
            }
            tokio::select! {
                () = tokio::time::sleep(self.timing.retry_period) => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        if self.claim.0.swap(false, Ordering::SeqCst) && release {
            self.release().await;
        }
        true
    }

    /// Gives the Lease back, so that the next replica need not wait for it to run out.
    async fn release(&self) {
        let released = async {
            let mut lease = self.api.get(NAME).await?;
            match &mut lease.spec {
                Some(spec) if spec.holder_identity.as_deref() == Some(&self.identity) => {
                    let now = MicroTime(self.clock.wall());
                    spec.holder_identity = Some(String::new());
                    spec.lease_duration_seconds = Some(1);
                    spec.acquire_time = Some(now.clone());
                    spec.renew_time = Some(now);
                }
                _ => return Ok(()),
            }
            self.api.replace(NAME, &PostParams::default(), &lease).await.map(drop)
        };
        if let Err(error) = released.await {
            tracing::warn!(logger = "leader-election", %error, "cannot give the Lease back; it runs out by itself");
        }
    }

    /// One try to take or renew the Lease.
    async fn try_hold(&mut self) -> bool {
        match self.hold().await {
            Ok(held) => held,
            Err(error) => {
                tracing::warn!(logger = "leader-election", %error, "cannot take or renew the Lease, will try again");
                false
            }
        }
    }

    async fn hold(&mut self) -> kube::Result<bool> {
        let now = MicroTime(self.clock.wall());
        let Some(mut lease) = self.api.get_opt(NAME).await? else {
            let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..Default::default() };
            let spec = self.spec(&now, &LeaseSpec::default());
            let lease = Lease { metadata, spec: Some(spec) };
            return taken(self.api.create(&PostParams::default(), &lease).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if !holder.is_empty() && holder != self.identity && self.is_alive(&spec) {
            return Ok(false);
        }
        lease.spec = Some(self.spec(&now, &spec));
        // Its resourceVersion lets only one of two candidates win.
        taken(self.api.replace(NAME, &PostParams::default(), &lease).await)
    }

    /// Whether another holder showed life within the Lease's duration, by our own clock.
    fn is_alive(&mut self, spec: &LeaseSpec) -> bool {
        let now = self.clock.now();
        match &self.seen {
            Some((sign, since)) if *sign == spec.renew_time => {
                now.saturating_duration_since(*since) < self.timing.lease_duration
            }
            _ => {
                self.seen = Some((spec.renew_time.clone(), now));
                true
            }
        }
    }

    fn spec(&self, now: &MicroTime, before: &LeaseSpec) -> LeaseSpec {
        let ours = before.holder_identity.as_deref() == Some(&self.identity);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.timing.lease_duration.as_secs()).ok(),
            acquire_time: if ours { before.acquire_time.clone() } else { Some(now.clone()) },
            renew_time: Some(now.clone()),
            lease_transitions: Some(
                before.lease_transitions.unwrap_or_default() + i32::from(!ours && before.holder_identity.is_some()),
            ),
            ..Default::default()
        }
    }
}

/// Another candidate was faster: not an error.
fn taken<T>(written: kube::Result<T>) -> kube::Result<bool> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}
