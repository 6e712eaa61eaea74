//! Threads for computations that tenants write and that may take long, apart from those that serve. Namespaces take
//! turns, so the work of one delays another by one piece of work at most. Started by `app`; given work by
//! `pipeline` and `cluster`.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

/// Pieces of work of one namespace that may wait.
const WAITING_OF_ONE: usize = 16;

/// Pieces of work that may wait.
const WAITING: usize = 256;

type Work = Box<dyn FnOnce() + Send>;

/// See the module. The threads end with the value.
#[derive(Debug)]
pub struct Compute(Arc<Shared>);

/// Why a piece of work gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ComputeError {
    /// As much waits as may.
    #[error("as much work of namespaces waits as may")]
    Full,
    /// It panicked, or the process is stopping.
    #[error("the work ended without a result")]
    Ended,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    bell: Condvar,
}

#[derive(Default)]
struct Queue {
    of: HashMap<Arc<str>, VecDeque<Work>>,
    /// Namespaces with work, each once.
    turns: VecDeque<Arc<str>>,
    waiting: usize,
    closed: bool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

impl Compute {
    /// Starts half as many threads as there are processors, one at least.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get().div_ceil(2));
        for _ in 0..threads {
            let shared = shared.clone();
            std::thread::Builder::new().name("compute".into()).spawn(move || shared.work_off())?;
        }
        Ok(Self(shared))
    }

    /// Runs `work` of a namespace on a thread of its own, when its turn comes. Work that nobody waits for any more is
    /// not begun.
    ///
    /// # Errors
    /// Too much waits, or the work panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        namespace: &Arc<str>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ComputeError> {
        let (result, awaited) = oneshot::channel();
        let work = Box::new(move || {
            if !result.is_closed() {
                let _ = result.send(work());
            }
        });
        self.0.queue.lock().push(namespace, work)?;
        self.0.bell.notify_one();
        awaited.await.map_err(|_| ComputeError::Ended)
    }
}

impl Drop for Compute {
    fn drop(&mut self) {
        self.0.queue.lock().closed = true;
        self.0.bell.notify_all();
    }
}

impl Shared {
    fn work_off(&self) {
        loop {
            let mut queue = self.queue.lock();
            let work = loop {
                if queue.closed {
                    return;
                }
                match queue.pop() {
                    Some(work) => break work,
                    None => self.bell.wait(&mut queue),
                }
            };
            drop(queue);
            // Printed when it happens; who waits for the result gets an error.
            let _ = catch_unwind(AssertUnwindSafe(work));
        }
    }
}

impl Queue {
    fn push(&mut self, namespace: &Arc<str>, work: Work) -> Result<(), ComputeError> {
        let waiting = self.of.entry(namespace.clone()).or_default();
        if waiting.len() >= WAITING_OF_ONE || self.waiting >= WAITING {
            return Err(ComputeError::Full);
        }
        if waiting.is_empty() {
            self.turns.push_back(namespace.clone());
        }
        waiting.push_back(work);
        self.waiting += 1;
        Ok(())
    }

    fn pop(&mut self) -> Option<Work> {
        let namespace = self.turns.pop_front()?;
        let waiting = self.of.get_mut(&namespace)?;
        let work = waiting.pop_front();
        if waiting.is_empty() {
            self.of.remove(&namespace);
        } else {
            self.turns.push_back(namespace);
        }
        self.waiting -= usize::from(work.is_some());
        work
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_elsewhere_and_a_panic_hurts_itself_alone() {
        let compute = Compute::start().expect("threads");
        let namespace: Arc<str> = "apps".into();
        let here = std::thread::current().id();
        let there = compute.run(&namespace, || std::thread::current().id()).await.expect("a result");
        assert_ne!(here, there);
        let panicked = compute.run(&namespace, || panic!("of a test")).await;
        assert_eq!(panicked, Err::<(), _>(ComputeError::Ended));
        assert_eq!(compute.run(&namespace, || 7).await, Ok(7));
    }

    #[test]
    fn namespaces_take_turns_and_one_fills_its_own_room_alone() {
        let mut queue = Queue::default();
        let done = Arc::new(Mutex::new(Vec::new()));
        let work = |name: &'static str| -> Work {
            let done = done.clone();
            Box::new(move || done.lock().push(name))
        };
        let (tenant, platform): (Arc<str>, Arc<str>) = ("tenant".into(), "platform".into());
        for _ in 0..WAITING_OF_ONE {
            queue.push(&tenant, work("tenant")).expect("room");
        }
        assert_eq!(queue.push(&tenant, work("tenant")), Err(ComputeError::Full));
        queue.push(&platform, work("platform")).expect("room of its own");
        queue.push(&platform, work("platform")).expect("room of its own");
        for _ in 0..5 {
            queue.pop().expect("work")();
        }
        assert_eq!(*done.lock(), ["tenant", "platform", "tenant", "platform", "tenant"]);
        while queue.pop().is_some() {}
        assert_eq!((queue.waiting, queue.of.len(), queue.turns.len()), (0, 0, 0));
    }
}
