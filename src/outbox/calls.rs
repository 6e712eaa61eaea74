//! The way to the thread that writes: what it is asked, and when it is woken for it. The durable
//! outbox calls, the writer listens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::record::Batch;
use super::shares::Cost;
use super::{Job, JobId, NewJob, PutError, Receipt, RepeatKey, Standing, Subject};

/// What the thread is asked.
pub(super) enum Call {
    /// Store these.
    Put(Put),
    /// A job is over; its place says what it wanted, or not.
    End { job: Arc<Job>, said: bool },
    /// A job is over that was never claimed.
    Forget(JobId),
    /// A message was accepted then: what is equal to it is a repeat. Until this is written the job
    /// itself says so.
    Remember(RepeatKey, Instant),
    /// A job is tried again.
    PutOff { job: Arc<Job>, due: Instant, told: bool, why: String },
    /// A vendor told a credential this.
    Keep(Standing),
    /// Answer when everything before this is written.
    Flush(oneshot::Sender<()>),
}

/// Jobs that have room, on their way to disk.
pub(super) struct Put {
    /// The jobs, and what each takes up.
    pub jobs: Vec<(NewJob, Cost)>,
    /// The same as they are written.
    pub batch: Batch,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<Receipt, PutError>>,
}

impl Call {
    /// Somebody waits, or a message would be told twice or a vendor's word be forgotten if this were
    /// lost. A status is read at the vendor before it is told again.
    fn is_urgent(&self) -> bool {
        match self {
            // In their order: the last pause of a job is the one that counts.
            Call::Put(_) | Call::PutOff { .. } | Call::Keep(_) | Call::Flush(_) => true,
            Call::End { job, .. } => matches!(job.new.subject, Subject::Stream { .. }),
            Call::Forget(_) | Call::Remember(..) => false,
        }
    }
}

/// Calls that the thread has not taken yet. What is not urgent wakes nobody: it goes along with what is,
/// or with the next tick.
#[derive(Default)]
pub(super) struct Calls {
    inbox: Mutex<Inbox>,
    came: Condvar,
}

#[derive(Default)]
struct Inbox {
    urgent: Vec<Call>,
    others: Vec<Call>,
    /// How many urgent ones wake the thread.
    wanted: usize,
    /// Nobody calls any more, or nobody listens.
    closed: bool,
}

impl Calls {
    /// Tells the thread. When it is gone the call is dropped, and with it the reply that somebody waits for.
    pub fn tell(&self, call: Call) {
        let mut inbox = self.inbox.lock();
        if inbox.closed {
            drop(inbox);
        } else if call.is_urgent() {
            inbox.urgent.push(call);
            let enough = inbox.urgent.len() == inbox.wanted;
            drop(inbox);
            if enough {
                self.came.notify_one();
            }
        } else {
            inbox.others.push(call);
        }
    }

    /// Sleeps until so many urgent calls are there or none will come, for so long at most. How many are
    /// there, and whether none will come.
    pub fn wait(&self, wanted: usize, patience: Duration) -> (usize, bool) {
        let mut inbox = self.inbox.lock();
        inbox.wanted = wanted;
        let too_few = |inbox: &mut Inbox| inbox.urgent.len() < wanted && !inbox.closed;
        self.came.wait_while_for(&mut inbox, too_few, patience);
        (inbox.urgent.len(), inbox.closed)
    }

    /// Takes the urgent calls.
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.inbox.lock().urgent)
    }

    /// Takes the others.
    pub fn take_others(&self) -> Vec<Call> {
        std::mem::take(&mut self.inbox.lock().others)
    }

    /// One side is gone.
    pub fn close(&self) {
        self.inbox.lock().closed = true;
        self.came.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};

    /// Nobody sleeps as long who is woken.
    const LONG: Duration = Duration::from_secs(10);

    fn sleeper(calls: &Arc<Calls>, wanted: usize) -> std::thread::JoinHandle<(usize, bool)> {
        let thread = std::thread::spawn({
            let calls = calls.clone();
            move || {
                let began = SystemClock.now();
                let woken = calls.wait(wanted, LONG);
                assert!(SystemClock.now() - began < LONG, "nobody woke it");
                woken
            }
        });
        // It says what it wants and lets go of the lock only to sleep.
        while calls.inbox.lock().wanted != wanted {
            std::thread::yield_now();
        }
        thread
    }

    fn flush(calls: &Calls) -> oneshot::Receiver<()> {
        let (reply, answer) = oneshot::channel();
        calls.tell(Call::Flush(reply));
        answer
    }

    #[test]
    fn the_thread_sleeps_until_enough_are_there() {
        let calls = Arc::new(Calls::default());
        let thread = sleeper(&calls, 2);
        calls.tell(Call::Forget(7));
        let _answers = [flush(&calls), flush(&calls)];
        assert_eq!(thread.join().expect("it ends"), (2, false));
        assert_eq!((calls.take().len(), calls.take_others().len()), (2, 1));
        assert_eq!(calls.wait(1, Duration::ZERO), (0, false), "they are taken");
    }

    #[test]
    fn nobody_waits_for_a_side_that_is_gone() {
        let calls = Arc::new(Calls::default());
        let thread = sleeper(&calls, 1);
        calls.close();
        assert_eq!(thread.join().expect("it ends"), (0, true));
        assert_eq!(flush(&calls).try_recv(), Err(oneshot::error::TryRecvError::Closed), "the reply is dropped");
    }
}
