//! What places were told, as far as is known: a memory with a bound, behind a lock of its own, because
//! each request asks it several times while the order is being changed. Both stores keep one.

use std::sync::Arc;

use parking_lot::Mutex;

use super::fingerprint::Fingerprint;
use super::{Generations, Known, Said};

/// See the module.
#[derive(Debug)]
pub(super) struct Places(Mutex<Memory>);

#[derive(Debug)]
struct Memory {
    known: Generations<Fingerprint, Known>,
    /// Nothing of `known` may be relied on.
    distrusted: bool,
    /// How often `known` was forgotten.
    forgotten: u64,
}

impl Places {
    /// Of so many places at most.
    pub fn new(capacity: usize) -> Self {
        Self(Mutex::new(Memory { known: Generations::new(capacity), distrusted: false, forgotten: 0 }))
    }

    /// See [`super::Outbox::distrust`].
    pub fn distrust(&self, distrust: bool) {
        let mut memory = self.0.lock();
        if std::mem::replace(&mut memory.distrusted, distrust) && !distrust {
            memory.forget();
        }
    }

    /// See [`super::Outbox::memory`].
    pub fn memory(&self) -> Option<u64> {
        let memory = self.0.lock();
        (!memory.distrusted).then_some(memory.forgotten)
    }

    /// See [`super::Outbox::forget_said`].
    pub fn forget_said(&self) {
        self.0.lock().forget();
    }

    /// See [`super::Outbox::forget_speaker`].
    pub fn forget_speaker(&self, provider: &str) {
        let nobody: Arc<str> = "".into();
        self.0.lock().known.retain(|_, known| {
            let spoke = *known.by == *provider;
            if spoke {
                known.by = nobody.clone();
            }
            !(spoke && known.is_contested())
        });
    }

    /// See [`super::Outbox::known`].
    pub fn known(&self, place: &str) -> Option<Known> {
        let place = Fingerprint::of(&[place]);
        let memory = self.0.lock();
        if memory.distrusted {
            return None;
        }
        memory.known.get(&place).cloned()
    }

    /// See [`super::Outbox::note`].
    pub fn note(&self, place: &str, known: Known) {
        let place = Fingerprint::of(&[place]);
        self.0.lock().known.insert(place, known);
    }
}

impl Memory {
    fn forget(&mut self) {
        self.forgotten += 1;
        self.known.retain(|_, known| known.said == Said::Uncertain);
    }
}
