//! Room in memory for answers: a bound over all answers that are read at once, with a share for each namespace.
//! `target` asks for it while it reads a body; what is granted is given back on drop.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Bytes of all answers together, beyond [`FREE`] of each.
const ALL: usize = 24 << 20;

/// Bytes of an answer that need no room: most answers are shorter. 512 requests may be under way, so these are
/// 16 MiB at most.
const FREE: usize = 32 << 10;

/// The room of the process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct AnswerRoom(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// By namespace of the Provider; only those that have some.
    by_tenant: HashMap<Arc<str>, usize>,
}

/// Room for one answer.
#[derive(Debug)]
pub(super) struct Share {
    room: AnswerRoom,
    tenant: Arc<str>,
    /// Bytes read so far.
    read: usize,
    /// Bytes that were granted.
    taken: usize,
}

impl AnswerRoom {
    /// A share for an answer to one of this namespace's Providers.
    pub(super) fn share(&self, tenant: &Arc<str>) -> Share {
        Share { room: self.clone(), tenant: tenant.clone(), read: 0, taken: 0 }
    }
}

impl Share {
    /// Asks for so many bytes more. A namespace may have half of what the others leave, so there is always some
    /// left for the next.
    pub fn grow(&mut self, bytes: usize) -> bool {
        self.read += bytes;
        let wanted = self.read.saturating_sub(FREE);
        let more = wanted.saturating_sub(self.taken);
        if more == 0 {
            return true;
        }
        let mut taken = self.room.0.lock();
        let own = taken.by_tenant.get(&self.tenant).copied().unwrap_or_default();
        let others = taken.all - own;
        if own + more > (ALL - others) / 2 {
            return false;
        }
        taken.all += more;
        *taken.by_tenant.entry(self.tenant.clone()).or_default() += more;
        self.taken = wanted;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.taken == 0 {
            return;
        }
        let mut taken = self.room.0.lock();
        taken.all -= self.taken;
        if let Some(own) = taken.by_tenant.get_mut(&self.tenant) {
            *own -= self.taken;
            if *own == 0 {
                taken.by_tenant.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_namespace_leaves_room_for_others_and_gives_back() {
        let room = AnswerRoom::default();
        let [one, other] = ["one", "other"].map(Arc::<str>::from);
        let mut small = room.share(&one);
        assert!(small.grow(FREE) && room.0.lock().all == 0, "a short answer needs none");
        let mut shares: Vec<_> = std::iter::from_fn(|| {
            let mut share = room.share(&one);
            share.grow((1 << 20) + FREE).then_some(share)
        })
        .collect();
        assert_eq!(shares.len(), (ALL >> 20) / 2);
        let mut of_other = room.share(&other);
        assert!(of_other.grow(4 << 20));
        assert!(!shares[0].grow(1 << 20));
        shares.clear();
        assert!(room.share(&one).grow(8 << 20));
        drop(of_other);
        let taken = room.0.lock();
        assert_eq!((taken.all, taken.by_tenant.len()), (0, 0));
    }
}
