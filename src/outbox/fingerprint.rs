//! A short name for a long one: 128 bits of SHA-256 over the parts of a Slot or a place, so that
//! remembering a hundred thousand of them costs what their bits cost. Used by the stores; stable,
//! because it is also a key on disk.

use aws_lc_rs::digest;

use crate::compose::Slot;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(u128);

impl Fingerprint {
    /// Of some parts; where one ends and the next begins counts.
    pub fn of(parts: &[&str]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let digest = context.finish();
        let (first, _) = digest.as_ref().split_first_chunk().expect("SHA-256 has 32 bytes");
        Self(u128::from_be_bytes(*first))
    }

    /// Of a Slot.
    pub fn of_slot(slot: &Slot) -> Self {
        Self::of(&[&slot.provider, &slot.repository, &slot.commit, &slot.name])
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
    fn it_is_the_same_in_every_process() {
        let bytes = Fingerprint::of(&["provider", "", "commit", "name"]).to_bytes();
        assert_eq!(Fingerprint::from_bytes(bytes), Fingerprint::of(&["provider", "", "commit", "name"]));
        assert_eq!(format!("{:02x}{:02x}", bytes[0], bytes[1]), "6e31");
    }
}
