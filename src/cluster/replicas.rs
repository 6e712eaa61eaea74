//! Whether other replicas of Herald run in this namespace (rule R7). Each holds a Lease of its own,
//! and watches all of them. While there are others, and for a minute after, what this one remembers of
//! the vendors may be out of date: `app` has the outbox ask them instead. The same while its own signs
//! of life do not come back to it by the watch: then the others take it for dead, or it is blind.
//!
//! During every rollout two replicas run side by side, each with an outbox of its own.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::clock::Clock;

/// Marks the Leases of replicas.
const LABEL: &str = "herald.sh/replica";

/// A replica renews its Lease this often.
const RENEW: Duration = Duration::from_secs(10);

/// A Lease that is not renewed for this long is that of a dead replica.
const LIFE: Duration = Duration::from_secs(30);

/// What another replica had under way when it was last seen is over after this long.
const AFTER: Duration = Duration::from_secs(60);

/// The Lease of a replica that has been dead for this long is removed.
const LITTER: Duration = Duration::from_secs(600);

/// A request about a Lease may take this long. So long Herald waits for its first sign of life, and
/// starts without.
const WITHIN: Duration = Duration::from_secs(5);

/// Leases removed at once.
const REMOVED_AT_ONCE: usize = 2;

/// This replica among others.
pub struct Replicas {
    api: Api<Lease>,
    name: String,
    clock: Arc<dyn Clock>,
    known: Mutex<Known>,
    /// Told whether there is company, at first and on change.
    company: Box<dyn Fn(bool) + Send + Sync>,
}

/// What the watch tells.
#[derive(Debug, Default)]
struct Known {
    /// Of other replicas, by name of the Lease: the last sign of life, and when we saw it. Clocks of two
    /// machines differ, so only our own is trusted.
    signs: HashMap<String, (Option<MicroTime>, Instant)>,
    /// Our own.
    own: Option<(Option<MicroTime>, Instant)>,
    /// When another was alive last, or may have been without our seeing it.
    alive: Option<Instant>,
}

impl Known {
    fn seen(&mut self, name: String, sign: Option<MicroTime>, now: Instant) {
        match self.signs.get(&name) {
            Some((before, _)) if *before == sign => {}
            _ => {
                self.signs.insert(name, (sign, now));
            }
        }
    }

    fn seen_own(&mut self, sign: Option<MicroTime>, now: Instant) {
        if self.own.as_ref().is_none_or(|(before, _)| *before != sign) {
            self.own = Some((sign, now));
        }
    }

    /// The Leases were listed anew, and these are there; others went while nobody looked.
    fn listed(&mut self, names: &BTreeSet<String>) {
        self.signs.retain(|name, _| names.contains(name));
    }

    /// Whether our own Lease ran out, as far as we can see.
    fn lost(&self, now: Instant) -> bool {
        self.own.as_ref().is_none_or(|(_, seen)| now.saturating_duration_since(*seen) >= LIFE)
    }

    /// Whether another is alive, or was a minute ago, or cannot be ruled out.
    fn company(&mut self, now: Instant) -> bool {
        let lost = self.lost(now);
        let alive = self.signs.values().any(|(_, seen)| now.saturating_duration_since(*seen) < LIFE);
        if alive || (lost && self.own.is_some()) {
            self.alive = Some(now);
        }
        lost || self.alive.is_some_and(|alive| now.saturating_duration_since(alive) < AFTER)
    }

    fn litter(&self, now: Instant) -> Vec<String> {
        let dead = |(_, seen): &(Option<MicroTime>, Instant)| now.saturating_duration_since(*seen) >= LITTER;
        self.signs.iter().filter(|(_, sign)| dead(sign)).map(|(name, _)| name.clone()).collect()
    }
}

impl Replicas {
    /// A replica in `namespace`. Until something is known there is company.
    pub fn new(
        client: Client,
        namespace: &str,
        clock: Arc<dyn Clock>,
        company: impl Fn(bool) + Send + Sync + 'static,
    ) -> Self {
        let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "herald".to_owned()).to_lowercase();
        let id = uuid::Uuid::new_v4().simple().to_string();
        let name = format!("herald-{:.200}-{:.8}", host.replace(|c: char| !c.is_ascii_alphanumeric(), "-"), id);
        company(true);
        Self {
            api: Api::namespaced(client, namespace),
            name,
            clock,
            known: Mutex::default(),
            company: Box::new(company),
        }
    }

    /// Gives the first sign of life, so that the others know before this one takes an event.
    pub async fn announce(&self) {
        if !self.renew().await {
            tracing::warn!(
                logger = "replicas",
                "no Lease of its own, so other replicas do not know of this one; permit it to create, patch, list, \
                 watch and delete leases in its namespace"
            );
        }
    }

    /// Lives among the others until `left` turns true; then its Lease is removed.
    pub async fn run(self, left: watch::Receiver<bool>) {
        tokio::select! {
            () = self.live(left) => {}
            () = self.look() => {}
        }
        let params = DeleteParams::default();
        match tokio::time::timeout(WITHIN, self.api.delete(&self.name, &params)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::debug!(logger = "replicas", %error, "the Lease could not be removed; it runs out by itself");
            }
            Err(_) => tracing::debug!(logger = "replicas", "the Lease was not removed in time; it runs out by itself"),
        }
    }

    /// Gives signs of life, and removes the Leases of those that died without removing them, until it
    /// is asked to leave; a sign under way is not cut off, as it could come after the Lease was removed.
    async fn live(&self, mut left: watch::Receiver<bool>) {
        let mut renew = tokio::time::interval(RENEW);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = asked_to_leave(&mut left) => return,
                _ = renew.tick() => {}
            }
            self.renew().await;
            let litter = self.known.lock().litter(self.clock.now());
            let remove = |name: String| async move {
                // Whoever comes first; the watch takes it out of the list.
                let _ = self.api.delete(&name, &DeleteParams::default()).await;
            };
            let removed = futures::stream::iter(litter).for_each_concurrent(REMOVED_AT_ONCE, remove);
            let _ = tokio::time::timeout(WITHIN, removed).await;
        }
    }

    /// Watches the Leases and tells of company, for ever. Waits for no request but the watch's own.
    async fn look(&self) {
        let all = watcher::Config::default().labels(LABEL);
        let mut stream = watcher::watcher(self.api.clone(), all).default_backoff().boxed();
        let mut look = tokio::time::interval(Duration::from_secs(1));
        // A watch that breaks goes on where it was, mostly, with nothing listed anew; what it then shows is in
        // order, so nothing before it is missing. It shows our own sign of life if nothing else.
        let (mut sees, mut said, mut lost, mut told) = (false, false, false, true);
        let mut names = BTreeSet::new();
        loop {
            tokio::select! {
                _ = look.tick() => {}
                Some(event) = stream.next() => match event {
                    Ok(Event::Init) => names.clear(),
                    Ok(Event::InitApply(lease)) => {
                        self.saw(&lease);
                        names.insert(lease.name_any());
                    }
                    Ok(Event::InitDone) => {
                        self.known.lock().listed(&names);
                        (sees, said) = (true, false);
                    }
                    Ok(Event::Apply(lease)) => {
                        self.saw(&lease);
                        (sees, said) = (true, false);
                    }
                    Ok(Event::Delete(lease)) => {
                        self.known.lock().signs.remove(&lease.name_any());
                        (sees, said) = (true, false);
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut said, true) {
                            tracing::warn!(
                                logger = "replicas", %error,
                                "other replicas cannot be seen: every status is read at the vendor before it is decided"
                            );
                        }
                        sees = false;
                    }
                },
            }
            let now = self.clock.now();
            let (company, gone) = {
                let mut known = self.known.lock();
                (known.company(now) || !sees, known.own.is_some() && known.lost(now))
            };
            if gone && !std::mem::replace(&mut lost, gone) {
                tracing::warn!(
                    logger = "replicas",
                    "the Lease of this replica ran out, so others do not know of it: every status is read at the vendor \
                     before it is decided"
                );
            }
            lost = gone;
            if std::mem::replace(&mut told, company) != company {
                tracing::info!(logger = "replicas", company, "other replicas");
                (self.company)(company);
            }
        }
    }

    fn saw(&self, lease: &Lease) {
        let sign = lease.spec.as_ref().and_then(|spec| spec.renew_time.clone());
        let (name, now) = (lease.name_any(), self.clock.now());
        let mut known = self.known.lock();
        if name == self.name { known.seen_own(sign, now) } else { known.seen(name, sign, now) }
    }

    async fn renew(&self) -> bool {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some([(LABEL.to_owned(), "true".to_owned())].into()),
                ..Default::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.name.clone()),
                lease_duration_seconds: i32::try_from(LIFE.as_secs()).ok(),
                renew_time: Some(MicroTime(self.clock.wall())),
                ..Default::default()
            }),
        };
        let params = PatchParams::apply("herald").force();
        match tokio::time::timeout(WITHIN, self.api.patch(&self.name, &params, &Patch::Apply(&lease))).await {
            Ok(Ok(_)) => return true,
            Ok(Err(error)) => tracing::debug!(logger = "replicas", %error, "no sign of life"),
            Err(_) => tracing::debug!(logger = "replicas", error = "no answer in time", "no sign of life"),
        }
        false
    }
}

async fn asked_to_leave(left: &mut watch::Receiver<bool>) {
    let _ = left.wait_for(|left| *left).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TurnedClock;

    /// A replica that was just heard of itself.
    fn known(clock: &TurnedClock) -> Known {
        let mut known = Known::default();
        known.seen_own(Some(MicroTime(clock.wall())), clock.now());
        known
    }

    /// Time goes by, with a sign of life every now and then.
    fn live(known: &mut Known, clock: &TurnedClock, time: Duration) {
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(RENEW);
            clock.turn(step);
            left -= step;
            known.seen_own(Some(MicroTime(clock.wall())), clock.now());
            known.company(clock.now());
        }
    }

    #[test]
    fn another_is_there_until_a_minute_after_its_last_sign() {
        let clock = TurnedClock::new();
        let mut known = known(&clock);
        assert!(!known.company(clock.now()), "nobody yet");
        let sign = Some(MicroTime(clock.wall()));
        known.seen("a".into(), sign.clone(), clock.now());
        assert!(known.company(clock.now()));

        live(&mut known, &clock, LIFE - Duration::from_secs(1));
        known.seen("a".into(), sign, clock.now());
        assert!(known.company(clock.now()), "alive for as long as a Lease lives");
        live(&mut known, &clock, Duration::from_secs(1));
        assert!(known.company(clock.now()), "the same sign again is none; but it was alive a second ago");
        live(&mut known, &clock, AFTER - Duration::from_secs(1));
        assert!(!known.company(clock.now()), "a minute after");

        known.seen("a".into(), Some(MicroTime(clock.wall())), clock.now());
        assert!(known.company(clock.now()), "it is back");
        known.signs.remove("a");
        assert!(known.company(clock.now()), "what it had under way may still go out");
        live(&mut known, &clock, AFTER);
        assert!(!known.company(clock.now()));
    }

    #[test]
    fn who_does_not_hear_of_itself_trusts_nothing() {
        let clock = TurnedClock::new();
        assert!(Known::default().company(clock.now()), "it was never heard of");
        let mut known = known(&clock);
        let sign = Some(MicroTime(clock.wall()));
        assert!(!known.company(clock.now()));
        clock.turn(LIFE - Duration::from_secs(1));
        known.seen_own(sign, clock.now());
        assert!(!known.company(clock.now()), "the Lease is good");
        clock.turn(Duration::from_secs(1));
        assert!(known.company(clock.now()), "listing the same again renews nothing");

        clock.turn(Duration::from_secs(600));
        assert!(known.company(clock.now()));
        known.seen_own(Some(MicroTime(clock.wall())), clock.now());
        assert!(known.company(clock.now()), "others may have come, gone, and have something under way");
        live(&mut known, &clock, AFTER - Duration::from_secs(1));
        assert!(known.company(clock.now()));
        live(&mut known, &clock, Duration::from_secs(1));
        assert!(!known.company(clock.now()));
    }

    #[test]
    fn the_long_dead_are_litter() {
        let clock = TurnedClock::new();
        let mut known = known(&clock);
        known.seen("a".into(), None, clock.now());
        clock.turn(LITTER);
        known.seen("b".into(), None, clock.now());
        assert_eq!(known.litter(clock.now()), ["a"]);
    }

    /// A Lease that goes while the watch is broken is never told to be deleted.
    #[test]
    fn what_a_new_list_lacks_is_gone() {
        let clock = TurnedClock::new();
        let mut known = known(&clock);
        known.seen("a".into(), None, clock.now());
        known.seen("b".into(), None, clock.now());
        known.listed(&["b".to_owned()].into());
        assert!(known.company(clock.now()), "what it had under way may still go out");
        clock.turn(LITTER);
        assert_eq!(known.litter(clock.now()), ["b"]);
    }
}
