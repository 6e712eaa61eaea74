//! Whether other replicas of Herald run in this namespace (rule R7). Each holds a Lease of its own,
//! and watches those of the others. While there are others, and for a minute after, what this one
//! remembers of the vendors may be out of date: `app` has the outbox ask them instead.
//!
//! During every rollout two replicas run side by side, each with an outbox of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt};
use tokio::sync::watch;

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

/// The first sign of life may take this long; after that Herald starts without.
const ANNOUNCED_WITHIN: Duration = Duration::from_secs(5);

/// This replica among others.
pub struct Replicas {
    api: Api<Lease>,
    name: String,
    clock: Arc<dyn Clock>,
    others: Others,
    told: Option<bool>,
    /// Told whether there is company, at first and on change.
    company: Box<dyn Fn(bool) + Send + Sync>,
}

/// The Leases of other replicas.
#[derive(Debug, Default)]
struct Others {
    /// By name: the last sign of life, and when we saw it. Clocks of two machines differ, so only
    /// our own is trusted.
    signs: HashMap<String, (Option<MicroTime>, Instant)>,
    /// When one of them was alive last.
    alive: Option<Instant>,
}

impl Others {
    fn seen(&mut self, name: String, sign: Option<MicroTime>, now: Instant) {
        match self.signs.get(&name) {
            Some((before, _)) if *before == sign => {}
            _ => {
                self.signs.insert(name, (sign, now));
            }
        }
    }

    /// Whether one is alive, or was a minute ago.
    fn are_there(&mut self, now: Instant) -> bool {
        let alive = self.signs.values().any(|(_, seen)| now.saturating_duration_since(*seen) < LIFE);
        if alive {
            self.alive = Some(now);
        }
        self.alive.is_some_and(|alive| now.saturating_duration_since(alive) < AFTER)
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
            others: Others::default(),
            told: Some(true),
            company: Box::new(company),
        }
    }

    /// Gives the first sign of life, so that the others know before this one takes an event.
    pub async fn announce(&self) {
        let announced = tokio::time::timeout(ANNOUNCED_WITHIN, self.renew()).await;
        if !matches!(announced, Ok(true)) {
            tracing::warn!(
                logger = "replicas",
                "no Lease of its own, so other replicas do not know of this one; permit it to create, patch, list, \
                 watch and delete leases in its namespace"
            );
        }
    }

    /// Lives among the others until `left` turns true; then its Lease is removed.
    pub async fn run(mut self, mut left: watch::Receiver<bool>) {
        let others = watcher::Config::default().labels(LABEL);
        let mut stream = watcher::watcher(self.api.clone(), others).default_backoff().boxed();
        let mut renew = tokio::time::interval(RENEW);
        let mut look = tokio::time::interval(Duration::from_secs(1));
        let (mut listed, mut forbidden) = (false, false);
        loop {
            tokio::select! {
                () = asked_to_leave(&mut left) => break,
                _ = renew.tick() => {
                    self.renew().await;
                    self.tidy().await;
                }
                _ = look.tick() => {}
                Some(event) = stream.next() => match event {
                    Ok(Event::Apply(lease) | Event::InitApply(lease)) => self.saw(&lease),
                    Ok(Event::Delete(lease)) => {
                        self.others.signs.remove(&lease.name_any());
                    }
                    Ok(Event::Init) => {}
                    Ok(Event::InitDone) => listed = true,
                    Err(error) => {
                        if !std::mem::replace(&mut forbidden, true) {
                            tracing::warn!(
                                logger = "replicas", %error,
                                "other replicas cannot be seen: every status is read at the vendor before it is decided"
                            );
                        }
                        listed = false;
                    }
                },
            }
            let now = self.clock.now();
            let company = self.others.are_there(now) || !listed;
            if self.told.replace(company) != Some(company) {
                tracing::info!(logger = "replicas", company, "other replicas");
                (self.company)(company);
            }
        }
        let removed = self.api.delete(&self.name, &DeleteParams::default()).await;
        if let Err(error) = removed {
            tracing::debug!(logger = "replicas", %error, "the Lease could not be removed; it runs out by itself");
        }
    }

    fn saw(&mut self, lease: &Lease) {
        if lease.name_any() != self.name {
            let sign = lease.spec.as_ref().and_then(|spec| spec.renew_time.clone());
            self.others.seen(lease.name_any(), sign, self.clock.now());
        }
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
        let renewed = self.api.patch(&self.name, &params, &Patch::Apply(&lease)).await;
        if let Err(error) = &renewed {
            tracing::debug!(logger = "replicas", %error, "no sign of life");
        }
        renewed.is_ok()
    }

    /// Removes the Leases of replicas that died without removing them.
    async fn tidy(&mut self) {
        for name in self.others.litter(self.clock.now()) {
            // Whoever comes first; the watch takes it out of the list.
            let _ = self.api.delete(&name, &DeleteParams::default()).await;
        }
    }
}

async fn asked_to_leave(left: &mut watch::Receiver<bool>) {
    let _ = left.wait_for(|left| *left).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TurnedClock;

    #[test]
    fn another_is_there_until_a_minute_after_its_last_sign() {
        let clock = TurnedClock::new();
        let mut others = Others::default();
        assert!(!others.are_there(clock.now()), "nobody yet");
        let sign = Some(MicroTime(clock.wall()));
        others.seen("a".into(), sign.clone(), clock.now());
        assert!(others.are_there(clock.now()));

        clock.turn(LIFE - Duration::from_secs(1));
        others.seen("a".into(), sign, clock.now());
        assert!(others.are_there(clock.now()), "alive for as long as a Lease lives");
        clock.turn(Duration::from_secs(1));
        assert!(others.are_there(clock.now()), "the same sign again is none; but it was alive a second ago");
        clock.turn(AFTER - Duration::from_secs(1));
        assert!(!others.are_there(clock.now()), "a minute after");

        others.seen("a".into(), Some(MicroTime(clock.wall())), clock.now());
        assert!(others.are_there(clock.now()), "it is back");
        others.signs.remove("a");
        assert!(others.are_there(clock.now()), "what it had under way may still go out");
        clock.turn(AFTER);
        assert!(!others.are_there(clock.now()));
    }

    #[test]
    fn the_long_dead_are_litter() {
        let clock = TurnedClock::new();
        let mut others = Others::default();
        others.seen("a".into(), None, clock.now());
        clock.turn(LITTER);
        others.seen("b".into(), None, clock.now());
        assert_eq!(others.litter(clock.now()), ["a"]);
    }
}
