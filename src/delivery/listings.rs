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

type Cell = Arc<OnceCell<Arc<Listing>>>;

/// Listings by API base, repository and commit.
pub struct Listings(Mutex<Generations<Arc<str>, (Instant, Cell)>>);

impl Listings {
    /// None yet.
    pub fn new() -> Self {
        Self(Mutex::new(Generations::new(CAPACITY)))
    }

    /// The listing of `commit` and when it was begun, less than `within` ago, read by the first who asks
    /// while the others wait. A failed read leaves nothing behind.
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
