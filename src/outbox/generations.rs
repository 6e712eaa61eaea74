//! A map with a bound: two generations, of which the older is dropped whole when the younger is
//! full. What was used lately survives. Used wherever Herald remembers something that it could
//! find out again.

use std::hash::Hash;

use hashbrown::{Equivalent, HashMap};

/// Holds between `capacity / 2` and `capacity` of the most recently used entries.
#[derive(Debug)]
pub struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    capacity: usize,
}

impl<K: Hash + Eq, V> Generations<K, V> {
    /// An empty map that never holds more than `capacity` entries.
    pub fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), capacity }
    }

    /// The value of `key`; does not count as use.
    pub fn get<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// The same, to be changed.
    pub fn get_mut<Q: Hash + Equivalent<K> + ?Sized>(&mut self, key: &Q) -> Option<&mut V> {
        self.young.get_mut(key).or_else(|| self.old.get_mut(key))
    }

    /// Sets the value of `key`.
    pub fn insert(&mut self, key: K, value: V) {
        self.old.remove(&key);
        if self.young.len() >= self.capacity / 2 && !self.young.contains_key(&key) {
            std::mem::swap(&mut self.young, &mut self.old);
            // It keeps its room, which the next generation fills again.
            self.young.clear();
        }
        self.young.insert(key, value);
    }

    /// Takes `key` out.
    pub fn remove<Q: Hash + Equivalent<K> + ?Sized>(&mut self, key: &Q) -> Option<V> {
        self.young.remove(key).or_else(|| self.old.remove(key))
    }

    /// Keeps what `keep` says.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.young.retain(&mut keep);
        self.old.retain(keep);
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_within_its_bound_and_keeps_what_is_new() {
        let mut map = Generations::new(10);
        for key in 0..100 {
            map.insert(key, key);
            assert!(map.len() <= 10);
            assert_eq!(map.get(&key), Some(&key));
        }
        assert!((95..100).all(|key| map.get(&key).is_some()));
        assert_eq!(map.get(&1), None);
    }

    #[test]
    fn a_key_is_held_once() {
        let mut map = Generations::new(4);
        for key in [1, 2, 3, 1, 1] {
            map.insert(key, ());
        }
        assert_eq!(map.len(), 3);
        map.remove(&1);
        assert_eq!(map.get(&1), None);
    }
}
