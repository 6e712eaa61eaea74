//! What vendors had on a commit, read once for all of its statuses: 500 objects of one commit ask
//! one question. Used by `delivery` for places it knows nothing of, or nothing new.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::outbound::SendError;
use crate::outbox::Generations;
use crate::vendors::Listing;

/// Commits remembered.
const CAPACITY: usize = 512;

/// Nobody wants a listing that is older.
pub const KEPT: Duration = Duration::from_secs(3600);

type Cell = Arc<OnceCell<Arc<Listing>>>;

/// Listings by API base, repository and commit.
pub struct Listings(Mutex<Generations<Arc<str>, (Instant, Cell)>>);

impl Listings {
    /// None yet.
    pub fn new() -> Self {
        Self(Mutex::new(Generations::new(CAPACITY)))
    }

    /// The listing of `commit` and when it was begun, less than `within` ago, read by the first who asks
    /// while the others wait. `within` is [`KEPT`] at most. A failed read leaves nothing behind.
    pub async fn get<F>(
        &self,
        commit: &str,
        now: Instant,
        within: Duration,
        read: F,
    ) -> Result<(Instant, Arc<Listing>), SendError>
    where
        F: Future<Output = Result<Listing, SendError>>,
    {
        let (at, cell) = {
            let mut listings = self.0.lock();
            match listings.get(commit) {
                Some((at, cell)) if now.saturating_duration_since(*at) < within => (*at, cell.clone()),
                _ => {
                    listings.retain(|_, (at, _)| now.saturating_duration_since(*at) < KEPT);
                    let cell = Cell::default();
                    listings.insert(commit.into(), (now, cell.clone()));
                    (now, cell)
                }
            }
        };
        let listing = cell.get_or_try_init(|| async { read.await.map(Arc::new) }).await?;
        Ok((at, listing.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, TurnedClock};

    #[tokio::test]
    async fn a_listing_is_read_once_and_forgotten_when_it_is_old() {
        let (listings, clock) = (Listings::new(), TurnedClock::new());
        let get = async |commit, within| {
            let mut asked = false;
            let read = async {
                asked = true;
                Ok(Listing::default())
            };
            let (at, _) = listings.get(commit, clock.now(), within, read).await.expect("it was read");
            (asked, clock.now() - at)
        };
        let minute = Duration::from_secs(60);
        assert_eq!(get("a", minute).await, (true, Duration::ZERO));
        assert_eq!(get("a", minute).await, (false, Duration::ZERO));
        assert_eq!(get("a", Duration::ZERO).await, (true, Duration::ZERO), "only what is read from now on");
        clock.turn(minute);
        assert_eq!(get("a", 2 * minute).await, (false, minute));
        assert_eq!(get("a", minute).await, (true, Duration::ZERO));
        clock.turn(KEPT);
        assert_eq!(get("b", KEPT).await, (true, Duration::ZERO));
        assert_eq!(listings.0.lock().len(), 1, "the old one is forgotten");
    }
}
