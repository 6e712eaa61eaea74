//! What goes wrong with deliveries now, by Provider and by Alert: what their `Healthy` conditions
//! and Kubernetes Events tell. Written by `delivery` for each job that fails to stay, read by
//! `reconcile`, which is told what changed.
//!
//! The newest delivery decides: one that works clears what stood. Nothing is kept across a restart;
//! whatever still fails says so again.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::sharing::Sharing;
use crate::api::Key;

/// A standing failure that goes on is counted, but told anew only this often.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// An object with deliveries.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum About {
    /// What goes through it.
    Provider(Key),
    /// What it asked for.
    Alert(Key),
}

/// A failure that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// CamelCase class: a condition's reason.
    pub reason: &'static str,
    /// Class and code, which any tenant may read.
    pub text: String,
    /// How often it was seen since it began.
    pub count: u64,
    /// UID of the Provider, and the version of it with its Secrets: another one may work. Empty and
    /// 0 when there was none.
    provider: Arc<str>,
    version: u64,
    told: Instant,
}

/// See the module. Bounded by how many Alerts and Providers there are: `reconcile` has those
/// forgotten that are gone.
#[derive(Debug, Default)]
pub struct Troubles {
    /// Providers that write the same statuses, which is no trouble yet.
    pub sharing: Sharing,
    state: Mutex<State>,
    /// How many stand, so that a delivery that works costs nothing while none does.
    standing: AtomicUsize,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    standing: HashMap<About, Trouble>,
    changed: BTreeSet<About>,
}

impl Troubles {
    /// A delivery through this version of the Provider failed to stay.
    ///
    /// `reason` is a CamelCase class, `text` has class and code in words that any tenant may read.
    pub fn failed(
        &self,
        abouts: impl IntoIterator<Item = About>,
        provider: &Arc<str>,
        version: u64,
        reason: &'static str,
        text: &str,
        now: Instant,
    ) {
        let mut state = self.state.lock();
        for about in abouts {
            let standing = state.standing.get_mut(&about).filter(|is| {
                is.provider == *provider && is.version == version && is.reason == reason && is.text == text
            });
            match standing {
                Some(is) => {
                    is.count += 1;
                    if now.saturating_duration_since(is.told) < TELL_AGAIN {
                        continue;
                    }
                    is.told = now;
                }
                None => {
                    let trouble = Trouble {
                        reason,
                        text: text.to_owned(),
                        count: 1,
                        provider: provider.clone(),
                        version,
                        told: now,
                    };
                    state.standing.insert(about.clone(), trouble);
                }
            }
            state.changed.insert(about);
        }
        self.standing.store(state.standing.len(), Ordering::SeqCst);
        drop(state);
        self.changed.notify_one();
    }

    /// A delivery worked: nothing stands for these any more. Gives what stood for the first.
    pub(super) fn worked(&self, abouts: impl FnOnce() -> [About; 2]) -> Option<Trouble> {
        if self.standing.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut state = self.state.lock();
        let [first, second] = abouts().map(|about| {
            let stood = state.standing.remove(&about)?;
            state.changed.insert(about);
            Some(stood)
        });
        self.standing.store(state.standing.len(), Ordering::SeqCst);
        drop(state);
        if first.is_some() || second.is_some() {
            self.changed.notify_one();
        }
        first
    }

    /// What stands for an object whose Provider has this UID and version.
    pub fn of(&self, about: &About, provider: &str, version: u64) -> Option<Trouble> {
        if self.standing.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let state = self.state.lock();
        state.standing.get(about).filter(|is| &*is.provider == provider && is.version == version).cloned()
    }

    /// The object is gone.
    pub fn forget(&self, about: &About) {
        if self.standing.load(Ordering::SeqCst) > 0 {
            let mut state = self.state.lock();
            state.standing.remove(about);
            self.standing.store(state.standing.len(), Ordering::SeqCst);
        }
    }

    /// There is something else to be told of this object.
    pub fn look_at(&self, about: About) {
        self.state.lock().changed.insert(about);
        self.changed.notify_one();
    }

    /// Everything that changed since the last call; waits until something has. For one reader.
    pub async fn changes(&self) -> BTreeSet<About> {
        loop {
            let changed = self.changed.notified();
            let abouts = std::mem::take(&mut self.state.lock().changed);
            if !abouts.is_empty() {
                return abouts;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, TurnedClock};

    fn abouts() -> [About; 2] {
        [About::Provider(Key::new("apps", "git")), About::Alert(Key::new("apps", "all"))]
    }

    #[tokio::test]
    async fn a_failure_stands_until_one_works_or_the_provider_changes() {
        let clock = TurnedClock::new();
        let troubles = Troubles::default();
        let uid: Arc<str> = "uid".into();
        let fail = |reason, text| troubles.failed(abouts(), &uid, 1, reason, text, clock.now());
        let [provider, alert] = abouts();

        fail("Unauthorized", "answered 401");
        assert_eq!(troubles.changes().await, BTreeSet::from(abouts()));
        assert_eq!(troubles.of(&alert, "uid", 1).map(|is| is.reason), Some("Unauthorized"));
        assert_eq!(troubles.of(&provider, "uid", 2), None, "of another version of the Provider");
        assert_eq!(troubles.of(&provider, "other", 1), None, "of another Provider");

        // The same again is counted, and told once a minute.
        for _ in 0..1000 {
            fail("Unauthorized", "answered 401");
        }
        assert!(troubles.state.lock().changed.is_empty());
        clock.turn(TELL_AGAIN);
        fail("Unauthorized", "answered 401");
        assert_eq!(troubles.changes().await, BTreeSet::from(abouts()));
        assert_eq!(troubles.of(&provider, "uid", 1).map(|is| is.count), Some(1002));

        // Another one is told at once.
        fail("NotFound", "answered 404");
        assert_eq!(troubles.changes().await, BTreeSet::from(abouts()));
        assert_eq!(troubles.worked(abouts).map(|is| (is.reason, is.count)), Some(("NotFound", 1)));
        assert_eq!(troubles.changes().await, BTreeSet::from(abouts()));
        assert_eq!(troubles.of(&alert, "uid", 1), None);
        assert_eq!(troubles.worked(|| unreachable!("nothing stands")), None);
    }
}
