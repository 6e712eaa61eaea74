//! Providers that write the same statuses (rule R2): each event is told through each of them, and the
//! last one stands. Found by `delivery` when it comes to a place that another Provider spoke at, told
//! once in the log, and read by `reconcile` for the condition of both.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Inner;
use super::report::about_provider;
use super::troubles::About;
use crate::api::Key;
use crate::outbox::Job;

/// Pairs that are known at once. They come of an expression that gives too few names, so whoever has
/// more of them has read of these.
const MAX_PAIRS: usize = 256;

/// UID and name of two Providers, the lower UID first.
type Pair = [(Arc<str>, Key); 2];

/// See the module.
#[derive(Debug, Default)]
pub struct Sharing(Mutex<HashMap<[Arc<str>; 2], Pair>>);

impl Sharing {
    /// Whether it is news that these two write the same status.
    fn note(&self, mut pair: Pair) -> bool {
        pair.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut pairs = self.0.lock();
        let key = pair.each_ref().map(|(uid, _)| uid.clone());
        pairs.len() < MAX_PAIRS && !pairs.contains_key(&key) && pairs.insert(key, pair).is_none()
    }

    /// Whether another Provider is known to write the same statuses as this one.
    pub fn shares(&self, uid: &str) -> bool {
        self.0.lock().keys().flatten().any(|of| **of == *uid)
    }

    /// The Provider changed or is gone: both may write statuses of their own now. Gives the names of
    /// all of whom that is news.
    fn forget(&self, uid: &str) -> Vec<Key> {
        let mut news = Vec::new();
        self.0.lock().retain(|_, pair| {
            let kept = !pair.iter().any(|(of, _)| **of == *uid);
            if !kept {
                news.extend(pair.iter().map(|(_, key)| key.clone()));
            }
            kept
        });
        news
    }
}

impl Inner {
    /// Tells once of two Providers that write the same status, given who spoke there before.
    pub(super) fn tell_of_sharing(&self, job: &Job, before: &Arc<str>) {
        let new = &job.new;
        let uid = new.subject.provider();
        if uid == before {
            return;
        }
        // Its successor, if it is gone.
        let Some(other) = self.view.provider_by_uid(before) else { return };
        let other = other.provider.meta.key.clone();
        if !self.telling.troubles.sharing.note([(uid.clone(), new.provider.clone()), (before.clone(), other.clone())]) {
            return;
        }
        // Asked afterwards: who went since the view was taken was forgotten before it was noted.
        if let Some(gone) = [uid, before].into_iter().find(|uid| self.view.provider_by_uid(uid).is_none()) {
            self.forget_sharing(gone);
            return;
        }
        about_provider!(
            warn,
            new.provider,
            other = %other,
            object = %new.object,
            "two Providers write the same commit statuses; give them names of their own with commitStatusExpr"
        );
        self.look_at_sharers([new.provider.clone(), other]);
    }

    /// A Provider changed or is gone.
    pub(super) fn forget_sharing(&self, uid: &str) {
        self.look_at_sharers(self.telling.troubles.sharing.forget(uid));
    }

    fn look_at_sharers(&self, sharers: impl IntoIterator<Item = Key>) {
        sharers.into_iter().for_each(|key| self.telling.troubles.look_at(About::Provider(key)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(one: &str, other: &str) -> Pair {
        [one, other].map(|uid| (uid.into(), Key::new("apps", uid)))
    }

    #[test]
    fn a_pair_is_news_once_until_one_of_it_changes() {
        let sharing = Sharing::default();
        assert!(sharing.note(pair("a", "b")));
        assert!(!sharing.note(pair("a", "b")) && !sharing.note(pair("b", "a")));
        assert!(sharing.note(pair("c", "b")));
        assert!(["a", "b", "c"].iter().all(|uid| sharing.shares(uid)) && !sharing.shares("d"));

        assert_eq!(sharing.forget("a"), ["a", "b"].map(|name| Key::new("apps", name)));
        assert!(!sharing.shares("a") && sharing.shares("b"));
        assert!(sharing.note(pair("b", "a")), "after a change it is news again");
    }

    #[test]
    fn pairs_are_bounded() {
        let sharing = Sharing::default();
        let told = (0..2 * MAX_PAIRS).filter(|number| sharing.note(pair("one", &number.to_string()))).count();
        assert_eq!(told, MAX_PAIRS);
    }
}
