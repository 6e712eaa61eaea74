//! Requests for a place at a vendor: one at a time through one source (rule R2), also when two Providers
//! write there, and which writes are under way there through others. `set` holds a place for each try.
//!
//! Nobody waits for another longer than for a request of his own. Whoever waited that long goes ahead; so does
//! at once who has another route or credential. Both look at the place again afterwards.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::outbox::{Said, Source};

/// The places that somebody holds or waits for.
#[derive(Debug, Default)]
pub struct Places(Mutex<All>);

type Lock = Arc<AsyncMutex<()>>;
type Key = (Arc<str>, Source);

#[derive(Debug, Default)]
struct All {
    locks: HashMap<Key, Lock>,
    writes: HashMap<Arc<str>, Vec<Write>>,
    numbers: u64,
}

/// A write under way.
#[derive(Debug)]
struct Write {
    number: u64,
    says: Said,
    /// What others wrote at that place while it was under way.
    met: Vec<Said>,
}

/// Writes that one meets of which is kept what they say. More of them say nothing new to who looks again.
const MAX_MET: usize = 4;

impl Write {
    fn meet(&mut self, says: &Said) {
        if self.met.len() < MAX_MET && !self.met.contains(says) {
            self.met.push(says.clone());
        }
    }
}

/// A place, held until this is dropped.
#[derive(Debug)]
pub struct Held<'a> {
    places: &'a Places,
    key: Key,
    lock: Lock,
    guard: Option<OwnedMutexGuard<()>>,
    /// The number of the write that is under way.
    write: Option<u64>,
}

impl Places {
    /// Waits until nobody else holds `place` through this source, `patience` at most.
    pub async fn hold(&self, place: &str, source: Source, patience: Duration) -> Held<'_> {
        let key: Key = (place.into(), source);
        let mut over = pin!(tokio::time::sleep(patience));
        loop {
            let lock = self.0.lock().locks.entry(key.clone()).or_default().clone();
            // Made before the wait, so that a wait given up leaves nothing behind either.
            let mut held = Held { places: self, key: key.clone(), lock: lock.clone(), guard: None, write: None };
            let guard = tokio::select! {
                biased;
                guard = lock.lock_owned() => Some(guard),
                () = &mut over => None,
            };
            let Some(guard) = guard else {
                // Those who come later wait for this one, and not for the one that hangs.
                let lock = Lock::default();
                held.guard = lock.clone().try_lock_owned().ok();
                held.lock = lock.clone();
                self.0.lock().locks.insert(key, lock);
                return held;
            };
            held.guard = Some(guard);
            if held.is_current() {
                return held;
            }
        }
    }
}

impl Held<'_> {
    /// Whether nobody went ahead of this one.
    pub fn is_current(&self) -> bool {
        self.places.0.lock().locks.get(&self.key).is_some_and(|lock| Arc::ptr_eq(lock, &self.lock))
    }

    /// A write of this begins.
    pub fn begin(&mut self, says: &Said) {
        self.end();
        let mut all = self.places.0.lock();
        all.numbers += 1;
        let mut write = Write { number: all.numbers, says: says.clone(), met: Vec::new() };
        self.write = Some(write.number);
        let writes = all.writes.entry(self.key.0.clone()).or_default();
        for other in writes.iter_mut() {
            other.meet(says);
            write.meet(&other.says);
        }
        writes.push(write);
    }

    /// It ended; what others wrote at this place while it was under way.
    pub fn end(&mut self) -> Vec<Said> {
        let Some(number) = self.write.take() else { return Vec::new() };
        let mut all = self.places.0.lock();
        let Some(writes) = all.writes.get_mut(&self.key.0) else { return Vec::new() };
        let ended = writes.iter().position(|write| write.number == number).map(|at| writes.swap_remove(at));
        if writes.is_empty() {
            all.writes.remove(&self.key.0);
        }
        ended.map(|write| write.met).unwrap_or_default()
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.end();
        let mut all = self.places.0.lock();
        drop(self.guard.take());
        // The map's own reference and this one are the last: nobody else holds or waits.
        let is_last = |lock: &Lock| Arc::ptr_eq(lock, &self.lock) && Arc::strong_count(lock) == 2;
        if all.locks.get(&self.key).is_some_and(is_last) {
            all.locks.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Source = Source([1; 16]);
    const OTHER: Source = Source([2; 16]);
    const PATIENCE: Duration = Duration::from_millis(50);

    fn said(text: &str) -> Said {
        Said::status(None, text)
    }

    #[tokio::test]
    async fn a_place_is_held_by_one_of_a_source_and_forgotten_by_the_last() {
        let places = Places::default();
        let first = places.hold("p", ONE, PATIENCE).await;
        assert!(futures::poll!(Box::pin(places.hold("p", ONE, PATIENCE))).is_pending());
        drop(places.hold("p", OTHER, PATIENCE).await);
        drop(places.hold("other", ONE, PATIENCE).await);
        drop(first);
        drop(places.hold("p", ONE, PATIENCE).await);
        assert!(places.0.lock().locks.is_empty());
    }

    #[tokio::test]
    async fn who_waited_long_enough_goes_ahead_and_the_next_waits_for_him() {
        let places = Places::default();
        let mut hangs = places.hold("p", ONE, PATIENCE).await;
        hangs.begin(&said("hangs"));
        let began = tokio::time::Instant::now();
        let mut second = places.hold("p", ONE, PATIENCE).await;
        assert!(began.elapsed() >= PATIENCE);
        assert!(second.is_current() && !hangs.is_current());
        second.begin(&said("second"));
        let mut third = Box::pin(places.hold("p", ONE, PATIENCE));
        assert!(futures::poll!(&mut third).is_pending());
        assert_eq!(hangs.end(), [said("second")]);
        drop(hangs);
        assert!(second.is_current());
        assert!(futures::poll!(&mut third).is_pending());
        assert_eq!(second.end(), [said("hangs")]);
        drop(second);
        assert!(third.await.is_current());
        let all = places.0.lock();
        assert!(all.locks.is_empty() && all.writes.is_empty());
    }

    #[tokio::test]
    async fn writes_through_other_sources_are_seen() {
        let places = Places::default();
        let mut one = places.hold("p", ONE, PATIENCE).await;
        let mut other = places.hold("p", OTHER, PATIENCE).await;
        one.begin(&said("one"));
        other.begin(&said("other"));
        assert_eq!(one.end(), [said("other")]);
        one.begin(&said("later"));
        assert_eq!(other.end(), [said("one"), said("later")]);
        assert_eq!((one.end(), other.end()), (vec![said("other")], vec![]), "each once");
    }
}
