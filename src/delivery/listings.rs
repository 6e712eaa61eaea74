//! What vendors had on a commit, read once for all of its statuses: 500 objects of one commit ask
//! one question. Used by `delivery` for places it knows nothing of, or nothing new.
//!
//! A listing counts for the source that showed it alone. What is kept is bounded in bytes; when it is too much, the
//! namespace goes that has most.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hashbrown::{DefaultHashBuilder, HashSet};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::outbound::SendError;
use crate::outbox::Source;
use crate::vendors::Listing;

/// Bytes of all listings.
const MAX_BYTES: usize = 16 << 20;

/// What a listing takes besides its statuses.
const BASE: usize = 512;

/// Places that are told of a commit while its listing is kept; past that the listing is let go.
const MAX_TOLD: usize = 1024;

/// What each of them takes.
const TOLD: usize = 16;

/// Nobody wants a listing that is older.
pub const KEPT: Duration = Duration::from_secs(3600);

/// How often old ones are looked for.
const SWEEP: Duration = Duration::from_secs(60);

type Cell = Arc<OnceCell<Arc<Listing>>>;

/// Listings by API base, repository and commit.
pub struct Listings {
    all: Mutex<All>,
    hasher: DefaultHashBuilder,
}

#[derive(Default)]
struct All {
    kept: HashMap<Arc<str>, Vec<Kept>>,
    /// When old ones were looked for.
    swept: Option<Instant>,
    /// Bytes by namespace.
    bytes: HashMap<Arc<str>, usize>,
}

struct Kept {
    source: Source,
    /// Of the Provider that read it.
    namespace: Arc<str>,
    bytes: usize,
    begun: Instant,
    /// What [`crate::outbox::Outbox::memory`] was then.
    memory: Option<u64>,
    /// Hashes of the names that were told something since: of these it tells nothing. Two names of one hash
    /// cost a needless read.
    told: HashSet<u64>,
    cell: Cell,
}

/// Which listing is good enough.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// API base, repository and commit.
    pub commit: &'a str,
    /// Who vouches for it.
    pub source: Source,
    /// Of the Provider that wants it.
    pub namespace: &'a Arc<str>,
    /// Of which status it is to tell.
    pub name: &'a str,
    /// What [`crate::outbox::Outbox::memory`] is: a listing is forgotten with what was said. `None`
    /// wants one that is read from now on.
    pub memory: Option<u64>,
    /// Begun less than this ago; [`KEPT`] at most.
    pub within: Duration,
    /// How long it is waited for what somebody else reads.
    pub patience: Duration,
}

impl Listings {
    /// None yet.
    pub fn new() -> Self {
        Self { all: Mutex::default(), hasher: DefaultHashBuilder::default() }
    }

    /// A listing that is good enough and when it was begun, read by the first task that asks while the others wait,
    /// each for its own patience and then it reads itself. A failed read leaves nothing behind.
    pub async fn get<F>(&self, wanted: Wanted<'_>, now: Instant, read: F) -> Result<(Instant, Arc<Listing>), SendError>
    where
        F: Future<Output = Result<Listing, SendError>>,
    {
        let (begun, cell) = self.find(&wanted, now).unwrap_or_else(|| (now, self.begin(&wanted, now)));
        let mut read = pin!(read);
        let reads = AtomicBool::new(false);
        {
            let mut shared = pin!(cell.get_or_try_init(|| async {
                reads.store(true, Ordering::Relaxed);
                read.as_mut().await.map(Arc::new)
            }));
            let waited = tokio::time::timeout(wanted.patience, &mut shared).await;
            let listing = match waited {
                Ok(listing) => Some(listing),
                // It is not somebody else's.
                Err(_) if reads.load(Ordering::Relaxed) => Some(shared.await),
                Err(_) => None,
            };
            if let Some(listing) = listing {
                let listing = listing?.clone();
                if reads.load(Ordering::Relaxed) {
                    self.charge(&wanted, &cell, listing.bytes());
                }
                return Ok((begun, listing));
            }
        }
        let cell = self.begin(&wanted, now);
        let listing = Arc::new(read.await?);
        let _ = cell.set(listing.clone());
        self.charge(&wanted, &cell, listing.bytes());
        Ok((now, listing))
    }

    /// One that is good enough, read or being read.
    fn find(&self, wanted: &Wanted<'_>, now: Instant) -> Option<(Instant, Cell)> {
        let Wanted { commit, source, memory, .. } = *wanted;
        memory?;
        let name = self.hasher.hash_one(wanted.name);
        let all = self.all.lock();
        let kept = all.kept.get(commit)?.iter().find(|kept| kept.source == source && kept.memory == memory)?;
        let fresh = now.saturating_duration_since(kept.begun) < wanted.within;
        (fresh && !kept.told.contains(&name)).then(|| (kept.begun, kept.cell.clone()))
    }

    /// Makes room for one, in the place of what this source showed before.
    fn begin(&self, wanted: &Wanted<'_>, now: Instant) -> Cell {
        let Wanted { commit, source, memory, .. } = *wanted;
        let cell = Cell::default();
        let (namespace, bytes) = (wanted.namespace.clone(), BASE + commit.len());
        let (told, begun) = (HashSet::new(), now);
        let kept = Kept { source, namespace, bytes: 0, begun, memory, told, cell: cell.clone() };
        let mut all = self.all.lock();
        if all.swept.is_none_or(|at| now.saturating_duration_since(at) >= SWEEP) {
            all.swept = Some(now);
            all.retain(|kept| now.saturating_duration_since(kept.begun) < KEPT);
        }
        all.remove(commit, |kept| kept.source == source);
        all.kept.entry(commit.into()).or_default().push(kept);
        all.charge(commit, &cell, bytes);
        cell
    }

    /// A listing turned out to take so much.
    fn charge(&self, wanted: &Wanted<'_>, cell: &Cell, bytes: usize) {
        self.all.lock().charge(wanted.commit, cell, bytes);
    }

    /// A status of this commit was told something, or may have been, through whichever source: a listing that was
    /// begun before tells nothing of it.
    pub fn told(&self, commit: &str, name: &str) {
        let mut all = self.all.lock();
        let All { kept, bytes, .. } = &mut *all;
        let name = self.hasher.hash_one(name);
        for kept in kept.get_mut(commit).into_iter().flatten() {
            if kept.told.insert(name) {
                kept.bytes += TOLD;
                *bytes.entry(kept.namespace.clone()).or_default() += TOLD;
            }
        }
        all.remove(commit, |kept| kept.told.len() > MAX_TOLD);
    }
}

impl All {
    /// Adds to what a listing takes; when all take too much, the namespace that has most loses what it has.
    fn charge(&mut self, commit: &str, cell: &Cell, bytes: usize) {
        let kept = self.kept.get_mut(commit).into_iter().flatten().find(|kept| Arc::ptr_eq(&kept.cell, cell));
        // It was let go of by now.
        let Some(kept) = kept else { return };
        kept.bytes += bytes;
        *self.bytes.entry(kept.namespace.clone()).or_default() += bytes;
        while self.bytes.values().sum::<usize>() > MAX_BYTES {
            let most = self.bytes.iter().max_by_key(|(_, bytes)| **bytes).map(|(namespace, _)| namespace.clone());
            let Some(most) = most else { return };
            self.retain(|kept| kept.namespace != most);
            self.bytes.remove(&most);
        }
    }

    fn remove(&mut self, commit: &str, remove: impl Fn(&Kept) -> bool) {
        let Some(listings) = self.kept.get_mut(commit) else { return };
        for gone in listings.extract_if(.., |kept| remove(kept)) {
            give_back(&mut self.bytes, &gone);
        }
        if listings.is_empty() {
            self.kept.remove(commit);
        }
    }

    fn retain(&mut self, keep: impl Fn(&Kept) -> bool) {
        let bytes = &mut self.bytes;
        self.kept.retain(|_, listings| {
            listings.extract_if(.., |kept| !keep(kept)).for_each(|gone| give_back(bytes, &gone));
            !listings.is_empty()
        });
    }
}

fn give_back(bytes: &mut HashMap<Arc<str>, usize>, gone: &Kept) {
    let Some(has) = bytes.get_mut(&gone.namespace) else { return };
    *has = has.saturating_sub(gone.bytes);
    if *has == 0 {
        bytes.remove(&gone.namespace);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, TurnedClock};

    const MINUTE: Duration = Duration::from_secs(60);

    const PATIENCE: Duration = Duration::from_millis(50);

    const SOURCE: Source = Source([1; 16]);

    fn wanted<'a>(commit: &'a str, namespace: &'a Arc<str>) -> Wanted<'a> {
        let (source, memory, within, patience) = (SOURCE, Some(0), MINUTE, MINUTE);
        Wanted { commit, source, namespace, name: "n", memory, within, patience }
    }

    fn large() -> Listing {
        let row = |number: i64| (Some(number), number.to_string(), crate::vendors::Listed::NOTHING);
        Listing::newest((0..2_000).map(row))
    }

    /// Whether it was read, and its age.
    async fn get(listings: &Listings, clock: &TurnedClock, wanted: Wanted<'_>) -> (bool, Duration) {
        let mut asked = false;
        let read = async {
            asked = true;
            Ok(Listing::default())
        };
        let (at, _) = listings.get(wanted, clock.now(), read).await.expect("it was read");
        (asked, clock.now() - at)
    }

    #[tokio::test]
    async fn listings_are_bounded_in_bytes_and_the_namespace_goes_that_has_most() {
        let (listings, now) = (Listings::new(), TurnedClock::new().now());
        let [team, platform]: [Arc<str>; 2] = ["team".into(), "platform".into()];
        let _ = listings.get(wanted("mine", &platform), now, async { Ok(large()) }).await.expect("it was read");
        for number in 0..1000 {
            let commit = number.to_string();
            let _ = listings.get(wanted(&commit, &team), now, async { Ok(large()) }).await.expect("it was read");
            let all = listings.all.lock();
            let has: usize = all.kept.values().flatten().map(|kept| kept.bytes).sum();
            assert!(has <= MAX_BYTES && has == all.bytes.values().sum::<usize>(), "{has} bytes");
        }
        assert!(listings.find(&wanted("mine", &platform), now).is_some());
    }

    #[tokio::test]
    async fn what_one_source_lists_counts_for_no_other() {
        let (listings, clock) = (Listings::new(), TurnedClock::new());
        let apps = "apps".into();
        let other = Wanted { source: Source([2; 16]), ..wanted("a", &apps) };
        assert!(get(&listings, &clock, wanted("a", &apps)).await.0);
        assert!(get(&listings, &clock, other).await.0);
        assert!(!get(&listings, &clock, wanted("a", &apps)).await.0 && !get(&listings, &clock, other).await.0);
        // What is written through one concerns both.
        listings.told("a", "n");
        assert!(get(&listings, &clock, wanted("a", &apps)).await.0);
        assert!(get(&listings, &clock, other).await.0);
    }

    #[tokio::test]
    async fn nobody_waits_longer_for_a_read_of_another_than_for_one_of_his_own() {
        let (listings, clock) = (Listings::new(), TurnedClock::new());
        let apps = "apps".into();
        let wanted = Wanted { patience: PATIENCE, ..wanted("a", &apps) };
        let mut hangs = Box::pin(listings.get(wanted, clock.now(), std::future::pending()));
        assert!(futures::poll!(&mut hangs).is_pending());
        let began = tokio::time::Instant::now();
        assert!(get(&listings, &clock, wanted).await.0);
        assert!(began.elapsed() >= PATIENCE);
        assert!(!get(&listings, &clock, wanted).await.0, "it is there for the next");
        // Its own read may take as long as it takes.
        let slow = async {
            tokio::time::sleep(3 * PATIENCE).await;
            Ok(Listing::default())
        };
        assert!(listings.get(Wanted { commit: "b", ..wanted }, clock.now(), slow).await.is_ok());
    }

    #[tokio::test]
    async fn a_listing_is_read_once_and_forgotten_when_it_is_old() {
        let (listings, clock) = (Listings::new(), TurnedClock::new());
        let apps = "apps".into();
        let wanted = wanted("a", &apps);
        assert_eq!(get(&listings, &clock, wanted).await, (true, Duration::ZERO));
        assert_eq!(get(&listings, &clock, wanted).await, (false, Duration::ZERO));
        clock.turn(MINUTE);
        assert_eq!(get(&listings, &clock, Wanted { within: 2 * MINUTE, ..wanted }).await, (false, MINUTE));
        assert_eq!(get(&listings, &clock, wanted).await, (true, Duration::ZERO));
        clock.turn(KEPT);
        assert_eq!(get(&listings, &clock, Wanted { commit: "b", ..wanted }).await, (true, Duration::ZERO));
        assert_eq!(listings.all.lock().kept.len(), 1, "the old one is forgotten");
    }

    #[tokio::test]
    async fn a_listing_is_forgotten_with_what_was_said() {
        let (listings, clock) = (Listings::new(), TurnedClock::new());
        let apps = "apps".into();
        let wanted = wanted("a", &apps);
        assert!(get(&listings, &clock, wanted).await.0);
        let nobody_is_sure = Wanted { memory: None, ..wanted };
        assert!(get(&listings, &clock, nobody_is_sure).await.0, "only what is read from now on");
        assert!(get(&listings, &clock, nobody_is_sure).await.0);
        let anew = Wanted { memory: Some(1), ..wanted };
        assert!(get(&listings, &clock, anew).await.0, "a new memory");
        assert!(!get(&listings, &clock, anew).await.0);
    }

    #[tokio::test]
    async fn a_listing_tells_nothing_of_what_was_told_since() {
        let (listings, clock) = (Listings::new(), TurnedClock::new());
        let apps = "apps".into();
        let wanted = wanted("a", &apps);
        let other = Wanted { name: "other", ..wanted };
        listings.told("a", "n");
        assert!(get(&listings, &clock, wanted).await.0);
        listings.told("a", "n");
        listings.told("b", "other");
        assert!(!get(&listings, &clock, other).await.0, "of the others it does");
        assert!(get(&listings, &clock, wanted).await.0);
        assert!(!get(&listings, &clock, wanted).await.0, "this one is younger");

        for told in 0..=MAX_TOLD {
            assert_eq!(listings.all.lock().kept.len(), 1, "{told}");
            listings.told("a", &told.to_string());
        }
        assert!(get(&listings, &clock, wanted).await.0, "too many to keep count");
    }
}
