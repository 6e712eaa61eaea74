//! How many of a bounded number of requests each namespace has under way, so that one that hangs leaves room
//! for the others. The dispatcher keeps one over all requests, and each host one of its own.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

/// Requests that a namespace may have whatever the others have.
const GUARANTEED: usize = 2;

/// Providers of one namespace that are asked again when a request of it ends.
const ASKED_AGAIN: usize = 4;

/// Requests under way by namespace.
#[derive(Debug, Default)]
pub struct Shares {
    counts: HashMap<Arc<str>, usize>,
    total: usize,
    /// Providers that found no room in the share of their namespace.
    waiting: HashMap<Arc<str>, HashSet<Arc<str>>>,
}

impl Shares {
    /// Requests of all namespaces.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Whether the namespace has less than what is kept for it.
    pub fn is_guaranteed(&self, namespace: &str) -> bool {
        self.counts.get(namespace).is_none_or(|count| *count < GUARANTEED)
    }

    /// Whether the namespace may have one more of `room`: as long as that leaves as much as it has. The last
    /// eighth is kept for namespaces that have nearly none.
    pub fn has_room(&self, namespace: &str, room: usize) -> bool {
        let own = self.counts.get(namespace).copied().unwrap_or_default();
        let free = room.saturating_sub(self.total);
        free > 0 && (own < GUARANTEED || own < free.saturating_sub(room / 8))
    }

    /// A request of the namespace begins.
    pub fn begin(&mut self, namespace: &Arc<str>) {
        *self.counts.entry(namespace.clone()).or_default() += 1;
        self.total += 1;
    }

    /// It ended.
    pub fn end(&mut self, namespace: &str) {
        self.total -= 1;
        let count = self.counts.get_mut(namespace).expect("a request that ends has begun");
        *count -= 1;
        if *count == 0 {
            self.counts.remove(namespace);
        }
    }

    /// A Provider found no room, and is to be asked again when there is some.
    pub fn wait(&mut self, namespace: &Arc<str>, provider: &Arc<str>) {
        self.waiting.entry(namespace.clone()).or_default().insert(provider.clone());
    }

    /// Providers to ask again after a request of this namespace ended: a few of its own, and one of each other.
    pub fn freed(&mut self, namespace: &str) -> Vec<Arc<str>> {
        let mut freed = Vec::new();
        self.waiting.retain(|of, providers| {
            let count = if **of == *namespace { ASKED_AGAIN } else { 1 };
            freed.extend(super::take(providers, count));
            !providers.is_empty()
        });
        freed
    }
}

/// One job of those that a namespace has under way. Given back when this is dropped.
#[derive(Debug)]
pub struct Share {
    shares: Arc<Mutex<Shares>>,
    /// `None` once it is given back.
    namespace: Option<Arc<str>>,
}

impl Share {
    /// One more job of the namespace.
    pub fn begin(shares: &Arc<Mutex<Shares>>, namespace: &Arc<str>) -> Self {
        shares.lock().begin(namespace);
        Self { shares: shares.clone(), namespace: Some(namespace.clone()) }
    }

    /// The job ended; see [`Shares::freed`].
    pub fn end(mut self) -> Vec<Arc<str>> {
        self.give_back()
    }

    fn give_back(&mut self) -> Vec<Arc<str>> {
        let Some(namespace) = self.namespace.take() else { return Vec::new() };
        let mut shares = self.shares.lock();
        shares.end(&namespace);
        shares.freed(&namespace)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = 512;

    /// Has a namespace take all it may have; how many that are.
    fn fill(shares: &mut Shares, namespace: &str) -> usize {
        let namespace: Arc<str> = namespace.into();
        let mut taken = 0;
        while shares.has_room(&namespace, ROOM) {
            shares.begin(&namespace);
            taken += 1;
        }
        taken
    }

    #[test]
    fn a_namespace_alone_has_nearly_half_and_leaves_room_for_many_others() {
        let mut shares = Shares::default();
        assert_eq!(fill(&mut shares, "team-a"), 224);
        for number in 0..20 {
            fill(&mut shares, &format!("team-{number}"));
        }
        assert!(shares.total() <= ROOM - ROOM / 8 + 40, "{}", shares.total());
        assert_eq!(fill(&mut shares, "platform"), GUARANTEED);
    }

    #[test]
    fn a_request_that_ends_gives_its_room_back() {
        let mut shares = Shares::default();
        let team: Arc<str> = "team".into();
        let count = fill(&mut shares, "team");
        shares.wait(&team, &"provider".into());
        shares.wait(&"other".into(), &"elsewhere".into());
        shares.end("team");
        let freed: HashSet<_> = shares.freed("team").into_iter().collect();
        assert_eq!(freed, HashSet::from(["provider".into(), "elsewhere".into()]));
        assert_eq!(shares.freed("team"), [] as [Arc<str>; 0]);
        assert!(shares.has_room("team", ROOM));
        (1..count).for_each(|_| shares.end("team"));
        assert!(shares.counts.is_empty() && shares.total() == 0);
    }
}
