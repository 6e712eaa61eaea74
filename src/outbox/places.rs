//! What places were told, as far as is known: a memory with a bound, behind a lock of its own, because
//! each request asks it several times while the order is being changed. Both stores keep one.
//!
//! What a source showed of a place counts for that source alone, and until a write goes out through another:
//! a proxy of one tenant's choice is believed by nobody else.

use std::sync::Arc;

use parking_lot::Mutex;

use super::fingerprint::Fingerprint;
use super::{Generations, Known, Said};

/// Who vouches for an answer: a fingerprint of the route, the credential and the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Source(pub [u8; 16]);

/// Statements of this process that are remembered for a place, the latest.
const MAX_WRITTEN: usize = 4;

/// See the module.
#[derive(Debug)]
pub(super) struct Places(Mutex<Memory>);

#[derive(Debug)]
struct Memory {
    /// By place and source.
    entries: Generations<Fingerprint, Entry>,
    /// By place.
    writers: Generations<Fingerprint, Writer>,
    /// Nothing that was confirmed may be relied on.
    distrusted: bool,
    /// How often all was forgotten.
    forgotten: u64,
    /// Writes, over all places.
    writes: u64,
}

/// What one source showed of a place.
#[derive(Debug, Default)]
struct Entry {
    known: Option<Known>,
    /// [`Memory::writes`] when that was noted.
    noted: u64,
    /// What was written through this source and when, as [`Known::at`] has it; the latest last.
    written: Vec<(Said, u32)>,
}

/// Who was at a place last.
#[derive(Debug)]
struct Writer {
    /// UID of the Provider; empty when that one has changed since.
    by: Arc<str>,
    /// Through which source the last write went, and [`Memory::writes`] then.
    wrote: (Source, u64),
}

impl Places {
    /// Of so many places at most.
    pub fn new(capacity: usize) -> Self {
        Self(Mutex::new(Memory {
            entries: Generations::new(capacity),
            writers: Generations::new(capacity),
            distrusted: false,
            forgotten: 0,
            writes: 0,
        }))
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
        let mut memory = self.0.lock();
        memory.entries.retain(|_, entry| {
            if let Some(known) = entry.known.as_mut().filter(|known| *known.by == *provider) {
                known.by = nobody.clone();
                if known.is_contested() {
                    entry.known = None;
                }
            }
            true
        });
        memory.writers.retain(|_, writer| *writer.by != *provider);
    }

    /// See [`super::Outbox::known`].
    pub fn known(&self, place: &str, source: Source) -> Option<Known> {
        let memory = self.0.lock();
        let entry = memory.entries.get(&of(place, source))?;
        let (wrote, at) = memory.writers.get(&Fingerprint::of(&[place])).map_or((source, 0), |writer| writer.wrote);
        let stands = wrote == source || at <= entry.noted;
        let known = entry.known.as_ref().filter(|known| stands || known.said.is_uncertain())?;
        (!memory.distrusted || known.said.is_uncertain()).then(|| known.clone())
    }

    /// See [`super::Outbox::written`].
    pub fn written(&self, place: &str, source: Source) -> Vec<(Said, u32)> {
        self.0.lock().entries.get(&of(place, source)).map_or_else(Vec::new, |entry| entry.written.clone())
    }

    /// See [`super::Outbox::writer`].
    pub fn writer(&self, place: &str) -> Option<Arc<str>> {
        let memory = self.0.lock();
        let writer = memory.writers.get(&Fingerprint::of(&[place])).filter(|_| !memory.distrusted)?;
        Some(writer.by.clone())
    }

    /// See [`super::Outbox::note`].
    pub fn note(&self, place: &str, source: Source, known: Known) {
        let mut memory = self.0.lock();
        memory.is_at(place, &known.by);
        let noted = memory.writes;
        memory.change(place, source, |entry| (entry.known, entry.noted) = (Some(known), noted));
    }

    /// See [`super::Outbox::note_write`].
    pub fn note_write(&self, place: &str, source: Source, said: &Said, at: u32) {
        let mut memory = self.0.lock();
        memory.writes += 1;
        let wrote = (source, memory.writes);
        memory.change(place, source, |entry| {
            entry.written.retain(|(written, _)| written != said);
            if entry.written.len() >= MAX_WRITTEN {
                entry.written.remove(0);
            }
            entry.written.push((said.clone(), at));
        });
        let key = Fingerprint::of(&[place]);
        let by = memory.writers.remove(&key).map_or_else(|| "".into(), |writer| writer.by);
        memory.writers.insert(key, Writer { by, wrote });
    }
}

impl Memory {
    fn forget(&mut self) {
        self.forgotten += 1;
        self.entries.retain(|_, entry| {
            entry.known = entry.known.take().filter(|known| known.said.is_uncertain());
            entry.known.is_some() || !entry.written.is_empty()
        });
    }

    /// A Provider is at a place.
    fn is_at(&mut self, place: &str, by: &Arc<str>) {
        let key = Fingerprint::of(&[place]);
        let wrote = self.writers.remove(&key).map_or_else(Default::default, |writer| writer.wrote);
        self.writers.insert(key, Writer { by: by.clone(), wrote });
    }

    /// Changes what is remembered of a source at a place, which counts as use.
    fn change(&mut self, place: &str, source: Source, change: impl FnOnce(&mut Entry)) {
        let key = of(place, source);
        let mut entry = self.entries.remove(&key).unwrap_or_default();
        change(&mut entry);
        self.entries.insert(key, entry);
    }
}

fn of(place: &str, Source(source): Source) -> Fingerprint {
    Fingerprint::of(&[place, &u128::from_be_bytes(source).to_string()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::Disputes;

    const ONE: Source = Source([1; 16]);
    const OTHER: Source = Source([2; 16]);

    fn known(text: &str, by: &str) -> Known {
        Known { said: Said::status(None, text), at: 1, by: by.into(), disputes: Disputes::default() }
    }

    #[test]
    fn what_one_source_showed_counts_for_no_other_and_until_another_writes() {
        let places = Places::new(100);
        places.note("place", ONE, known("a", "one"));
        assert_eq!(places.known("place", OTHER), None);
        places.note("place", OTHER, known("b", "other"));
        assert_eq!(places.known("place", ONE), Some(known("a", "one")), "who reads changes nothing");
        places.note_write("place", OTHER, &Said::status(None, "c"), 1);
        places.note("place", OTHER, known("c", "other"));
        assert_eq!((places.known("place", ONE), places.known("place", OTHER)), (None, Some(known("c", "other"))));
        assert_eq!(places.writer("place").as_deref(), Some("other"));
        places.note("place", ONE, known("c", "one"));
        assert!(places.known("place", ONE).is_some() && places.known("place", OTHER).is_some(), "looked at since");
        assert_eq!(places.known("elsewhere", ONE), None);
    }

    #[test]
    fn what_was_written_is_remembered_when_all_else_is_forgotten() {
        let places = Places::new(100);
        for text in ["a", "b", "c", "b", "d", "e"] {
            places.note_write("place", ONE, &Said::status(None, text), 1);
        }
        places.note("place", ONE, known("e", "one"));
        places.forget_said();
        assert_eq!(places.known("place", ONE), None);
        let written = ["c", "b", "d", "e"].map(|text| (Said::status(None, text), 1));
        assert_eq!(places.written("place", ONE), written);
        assert_eq!(places.written("place", OTHER), []);
    }
}
