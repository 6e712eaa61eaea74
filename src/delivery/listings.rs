//! What vendors had on a commit, read once for all of its statuses: 500 objects of one commit ask
//! one question. Used by `delivery` for places it knows nothing of, or nothing new.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::{DefaultHashBuilder, HashSet};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::outbound::SendError;
use crate::outbox::Generations;
use crate::vendors::Listing;

/// Commits remembered.
const CAPACITY: usize = 512;

/// Statuses in all listings at most; past that all are let go, and read again by whoever needs one. A commit
/// can have 2,000, and one takes some 300 bytes.
const MAX_STATUSES: usize = 50_000;

/// Places that are told of a commit while its listing is kept; past that the listing is let go.
const MAX_TOLD: usize = 1024;

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

struct All {
    kept: Generations<Arc<str>, Kept>,
    /// When old ones were looked for.
    swept: Option<Instant>,
    /// Statuses listed since all were let go.
    statuses: usize,
}

struct Kept {
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
    /// Of which status it is to tell.
    pub name: &'a str,
    /// What [`crate::outbox::Outbox::memory`] is: a listing is forgotten with what was said. `None`
    /// wants one that is read from now on.
    pub memory: Option<u64>,
    /// Begun less than this ago; [`KEPT`] at most.
    pub within: Duration,
}

impl Listings {
    /// None yet.
    pub fn new() -> Self {
        let all = All { kept: Generations::new(CAPACITY), swept: None, statuses: 0 };
        Self { all: Mutex::new(all), hasher: DefaultHashBuilder::default() }
    }

    /// A listing that is good enough and when it was begun, read by the first who asks while the others wait. A
    /// failed read leaves nothing behind.
    pub async fn get<F>(&self, wanted: Wanted<'_>, now: Instant, read: F) -> Result<(Instant, Arc<Listing>), SendError>
    where
        F: Future<Output = Result<Listing, SendError>>,
    {
        let Wanted { commit, name, memory, within } = wanted;
        let name = self.hasher.hash_one(name);
        let age = |kept: &Kept| now.saturating_duration_since(kept.begun);
        let (begun, cell) = {
            let All { kept: listings, swept, .. } = &mut *self.all.lock();
            match listings.get(commit) {
                Some(kept)
                    if memory.is_some()
                        && kept.memory == memory
                        && age(kept) < within
                        && !kept.told.contains(&name) =>
                {
                    (kept.begun, kept.cell.clone())
                }
                _ => {
                    if swept.is_none_or(|at| now.saturating_duration_since(at) >= SWEEP) {
                        *swept = Some(now);
                        listings.retain(|_, kept| age(kept) < KEPT);
                    }
                    let cell = Cell::default();
                    let kept = Kept { begun: now, memory, told: HashSet::new(), cell: cell.clone() };
                    listings.insert(commit.into(), kept);
                    (now, cell)
                }
            }
        };
        let listing = cell.get_or_try_init(|| async { read.await.map(|listing| self.keep(listing)) }).await?;
        Ok((begun, listing.clone()))
    }

    fn keep(&self, listing: Listing) -> Arc<Listing> {
        let mut all = self.all.lock();
        all.statuses += listing.statuses.len();
        if all.statuses > MAX_STATUSES {
            (all.kept, all.statuses) = (Generations::new(CAPACITY), 0);
        }
        Arc::new(listing)
    }

    /// A status of this commit was told something, or may have been: a listing that was begun before tells
    /// nothing of it.
    pub fn told(&self, commit: &str, name: &str) {
        let listings = &mut self.all.lock().kept;
        let Some(kept) = listings.get_mut(commit) else { return };
        if kept.told.len() >= MAX_TOLD {
            listings.remove(commit);
        } else {
            kept.told.insert(self.hasher.hash_one(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, TurnedClock};
    use crate::outbox::Said;

    const MINUTE: Duration = Duration::from_secs(60);

    const WANTED: Wanted<'static> = Wanted { commit: "a", name: "n", memory: Some(0), within: MINUTE };

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
    async fn listings_are_bounded_by_what_is_in_them() {
        let (listings, now) = (Listings::new(), TurnedClock::new().now());
        let large = Listing { statuses: (0..2_000).map(|name| (name.to_string(), Said::Nothing)).collect() };
        for number in 0..MAX_STATUSES / 2_000 + 1 {
            let commit = number.to_string();
            let wanted = Wanted { commit: &commit, name: "", memory: Some(0), within: KEPT };
            let _ = listings.get(wanted, now, async { Ok(large.clone()) }).await.expect("it was read");
            assert_eq!(listings.all.lock().kept.len(), (number + 1) % (MAX_STATUSES / 2_000 + 1));
        }
    }

    #[tokio::test]
    async fn a_listing_is_read_once_and_forgotten_when_it_is_old() {
        let (listings, clock) = (Listings::new(), TurnedClock::new());
        assert_eq!(get(&listings, &clock, WANTED).await, (true, Duration::ZERO));
        assert_eq!(get(&listings, &clock, WANTED).await, (false, Duration::ZERO));
        clock.turn(MINUTE);
        assert_eq!(get(&listings, &clock, Wanted { within: 2 * MINUTE, ..WANTED }).await, (false, MINUTE));
        assert_eq!(get(&listings, &clock, WANTED).await, (true, Duration::ZERO));
        clock.turn(KEPT);
        assert_eq!(get(&listings, &clock, Wanted { commit: "b", ..WANTED }).await, (true, Duration::ZERO));
        assert_eq!(listings.all.lock().kept.len(), 1, "the old one is forgotten");
    }

    #[tokio::test]
    async fn a_listing_is_forgotten_with_what_was_said() {
        let (listings, clock) = (Listings::new(), TurnedClock::new());
        assert!(get(&listings, &clock, WANTED).await.0);
        let nobody_is_sure = Wanted { memory: None, ..WANTED };
        assert!(get(&listings, &clock, nobody_is_sure).await.0, "only what is read from now on");
        assert!(get(&listings, &clock, nobody_is_sure).await.0);
        let anew = Wanted { memory: Some(1), ..WANTED };
        assert!(get(&listings, &clock, anew).await.0, "a new memory");
        assert!(!get(&listings, &clock, anew).await.0);
    }

    #[tokio::test]
    async fn a_listing_tells_nothing_of_what_was_told_since() {
        let (listings, clock) = (Listings::new(), TurnedClock::new());
        let other = Wanted { name: "other", ..WANTED };
        listings.told("a", "n");
        assert!(get(&listings, &clock, WANTED).await.0);
        listings.told("a", "n");
        listings.told("b", "other");
        assert!(!get(&listings, &clock, other).await.0, "of the others it does");
        assert!(get(&listings, &clock, WANTED).await.0);
        assert!(!get(&listings, &clock, WANTED).await.0, "this one is younger");

        for told in 0..=MAX_TOLD {
            assert_eq!(listings.all.lock().kept.len(), 1, "{told}");
            listings.told("a", &told.to_string());
        }
        assert!(get(&listings, &clock, WANTED).await.0, "too many to keep count");
    }
}
