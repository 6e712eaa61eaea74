//! A short name for a long one: 128 bits over the parts of a Slot or a place, so that remembering a
//! hundred thousand of them costs what their bits cost. Used by the stores, also as a key on disk.

use std::hash::{DefaultHasher, Hasher};

use super::Subject;
use crate::compose::Slot;

/// See the module. The hash is the standard library's, which the next Rust may change: on disk it
/// orders statements of the last two minutes, and nothing else hangs on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(u128);

impl Fingerprint {
    /// Of some parts; where one ends and the next begins counts.
    pub fn of(parts: &[&str]) -> Self {
        let half = |salt| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u8(salt);
            for part in parts {
                hasher.write_usize(part.len());
                hasher.write(part.as_bytes());
            }
            u128::from(hasher.finish())
        };
        Self(half(0) << 64 | half(1))
    }

    /// Of a Slot.
    pub fn of_slot(slot: &Slot) -> Self {
        Self::of(&[&slot.provider, &slot.repository, &slot.commit, &slot.name])
    }

    /// Of the Slot that a job is about, if it is about one.
    pub fn of_subject(subject: &Subject) -> Option<Self> {
        match subject {
            Subject::Slot(slot) => Some(Self::of_slot(slot)),
            Subject::Stream { .. } => None,
        }
    }

    /// As a key on disk.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// From a key on disk.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(Fingerprint::of(&["ab", "c"]), Fingerprint::of(&["a", "bc"]));
        assert_ne!(Fingerprint::of(&["a"]), Fingerprint::of(&["a", ""]));
    }

    #[test]
    fn it_comes_back_from_disk() {
        let slot = Fingerprint::of(&["provider", "", "commit", "name"]);
        assert_eq!(Fingerprint::from_bytes(slot.to_bytes()), slot);
        assert_ne!(slot.to_bytes()[..8], slot.to_bytes()[8..], "two halves, not one twice");
    }
}
