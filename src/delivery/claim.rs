//! A claimed job on its way to its end. `delivery` settles it; a job whose end panics is given back when the claim is
//! dropped, and is tried again.

use std::sync::Arc;
use std::time::Instant;

use super::verdict;
use crate::outbox::{Job, Outbox, Retry, Settled, Settlement};

/// See the module.
pub struct Claim<'a> {
    outbox: &'a dyn Outbox,
    job: &'a Arc<Job>,
    now: Instant,
    settled: bool,
}

impl<'a> Claim<'a> {
    /// Of a job whose try ended now.
    pub fn new(outbox: &'a dyn Outbox, job: &'a Arc<Job>, now: Instant) -> Self {
        Self { outbox, job, now, settled: false }
    }

    /// Ends it.
    pub fn settle(mut self, settlement: Settlement) -> Settled {
        // Before: what panics in there is not settled twice.
        self.settled = true;
        self.outbox.settle(self.job, self.now, settlement)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if !self.settled {
            let why = "a bug in Herald: the end of the delivery panicked".to_owned();
            let pause = verdict::backoff(self.job.attempts);
            self.outbox.settle(self.job, self.now, Settlement::Retry(Retry { pause, told: false, why }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::time::Duration;

    use super::*;
    use crate::api::Key;
    use crate::clock::{Clock, TurnedClock};
    use crate::compose::Notice;
    use crate::outbox::{Limits, MemoryOutbox, NewJob, Stamp, Subject};

    #[tokio::test]
    async fn a_claim_that_is_dropped_is_given_back() {
        let (outbox, clock) = (MemoryOutbox::new(Limits::default()), TurnedClock::new());
        let new = NewJob {
            subject: Subject::Stream { provider: "uid".into(), about: "it".into() },
            stamp: Stamp { object: "object".into(), version: None, arrived: clock.now() },
            notice: Notice::Event(crate::api::Event::default().into()),
            provider: Key::new("apps", "hook"),
            alert: Key::new("apps", "all"),
            object: "Kustomization/apps/web".into(),
            repeat: None,
        };
        outbox.put(vec![new]).await.expect("there is room");
        let job = outbox.claim(clock.now(), 1).pop().expect("it is due");
        let claim = Claim::new(&outbox, &job, clock.now());
        let ended = catch_unwind(AssertUnwindSafe(move || {
            let _claim = claim;
            std::panic::resume_unwind(Box::new("a bug"));
        }));
        assert!(ended.is_err());
        assert_eq!((outbox.counts().claimed, outbox.counts().held), (0, 1));
        clock.turn(Duration::from_secs(60));
        let again = outbox.claim(clock.now(), 1).pop().expect("it is due again");
        Claim::new(&outbox, &again, clock.now()).settle(Settlement::Said);
        assert_eq!(outbox.counts().held, 0);
    }
}
