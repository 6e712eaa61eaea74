//! Providers that must be left alone for a while: the vendor refused the credential, or asked to wait.
//! Nothing is sent through them meanwhile, whatever comes (rules R8 and R9). Used by `delivery`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::outbound::SendError;

/// See the module. By Provider UID; bounded by how many Providers there were. One ends by time or
/// by a change of the Provider; a request that was under way and worked does not end it.
#[derive(Debug, Default)]
pub struct Halts(Mutex<HashMap<Arc<str>, Halt>>);

#[derive(Debug)]
struct Halt {
    /// Of the Provider and its Secrets: a change of them ends the halt.
    version: u64,
    until: Instant,
    error: SendError,
}

impl Halts {
    /// How long the Provider is still to be left alone, and why.
    pub fn of(&self, provider: &str, version: u64, now: Instant) -> Option<(Duration, SendError)> {
        let halts = self.0.lock();
        let halt = halts.get(provider).filter(|halt| halt.version == version && halt.until > now)?;
        Some((halt.until - now, halt.error.clone()))
    }

    /// Leaves it alone until then, unless it is already.
    pub fn begin(&self, provider: &Arc<str>, version: u64, until: Instant, error: SendError) {
        let mut halts = self.0.lock();
        let standing = halts.get(provider).filter(|halt| halt.version == version);
        if standing.is_none_or(|halt| halt.until < until) {
            halts.insert(provider.clone(), Halt { version, until, error });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, TurnedClock};

    #[test]
    fn a_halt_ends_by_time_and_by_change() {
        let now = TurnedClock::new().now();
        let minute = Duration::from_secs(60);
        let halts = Halts::default();
        let provider: Arc<str> = "uid".into();
        halts.begin(&provider, 1, now + minute, SendError::Redirect);
        assert_eq!(halts.of("uid", 1, now), Some((minute, SendError::Redirect)));
        assert_eq!(halts.of("uid", 2, now), None, "the Secret changed");
        assert_eq!(halts.of("other", 1, now), None);
        assert_eq!(halts.of("uid", 1, now + minute), None);
    }
}
