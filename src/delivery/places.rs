//! One request at a time for a place at a vendor (rule R2), also when two Providers write there.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// The places that somebody holds or waits for.
#[derive(Debug, Default)]
pub struct Places(Mutex<HashMap<Arc<str>, Arc<AsyncMutex<()>>>>);

/// A place, held until this is dropped.
#[derive(Debug)]
pub struct Held<'a> {
    places: &'a Places,
    place: Arc<str>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Places {
    /// Waits until nobody else holds `place`.
    pub async fn hold(&self, place: &str) -> Held<'_> {
        let place: Arc<str> = place.into();
        let mutex = self.0.lock().entry(place.clone()).or_default().clone();
        // Made before the wait, so that a wait given up leaves nothing behind either.
        let mut held = Held { places: self, place, guard: None };
        held.guard = Some(mutex.lock_owned().await);
        held
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut places = self.places.0.lock();
        drop(self.guard.take());
        // The map's own reference is the last one: nobody holds or waits.
        if places.get(&self.place).is_some_and(|mutex| Arc::strong_count(mutex) == 1) {
            places.remove(&self.place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_place_is_held_by_one_and_forgotten_by_the_last() {
        let places = Places::default();
        let first = places.hold("p").await;
        assert!(futures::poll!(Box::pin(places.hold("p"))).is_pending());
        drop(places.hold("other").await);
        drop(first);
        drop(places.hold("p").await);
        assert!(places.0.lock().is_empty());
    }
}
