//! Tokens by identity: made once for all who share it, renewed before they end, one renewal at a
//! time. Used by the credentials beside it; `app` shows its counts as metrics.
//!
//! A [`Slot`] lives as long as some Provider's credentials hold it, so a token is dropped when the
//! Secret changes that it was made from, or when the last Provider with that identity is gone.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use http::HeaderValue;
use parking_lot::Mutex;

use super::Refused;
use crate::clock::Clock;
use crate::outbound::SendError;
use crate::secret::Secret;

/// A token is kept no longer than this, however long it is good (spec/auth.md 8).
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// A longer life than this is taken for this: nobody's token is good for longer, and the last moment of a calendar
/// cannot be added to a clock.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// When a renewal fails while the old token is still good, the next try comes this much later.
const PAUSE: Duration = Duration::from_secs(30);

/// A token that is refused is new for so long: a vendor's replicas learn of it one after the other
/// (octokit/auth-app.js#65 tries again for 5 s).
const NEW: Duration = Duration::from_secs(10);

/// A token that was issued in place of a refused one, and is refused within this time, was never good.
const NEVER_GOOD: Duration = Duration::from_secs(60);

/// Providers that are counted apart; the rest are counted together.
const MAX_USERS: usize = 1000;

/// Tokens by identity.
pub struct Tokens {
    clock: Arc<dyn Clock>,
    max_size: usize,
    max_duration: Duration,
    slots: Mutex<HashMap<Identifier, Weak<Slot>>>,
    users: Mutex<BTreeMap<UserName, Weak<User>>>,
    given: AtomicU64,
    denied: AtomicU64,
    evicted: AtomicU64,
}

/// Namespace and name of a Provider; both empty for those past [`MAX_USERS`].
type UserName = (Arc<str>, Arc<str>);

/// A Provider that asks for tokens. It is counted as long as something of it holds this.
#[derive(Debug, Default)]
pub struct User {
    hits: AtomicU64,
    misses: AtomicU64,
}

/// How often a Provider asked for a token since it has an identity. A try that a wait at the vendor
/// kept from the issuer counts as neither.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uses {
    /// The Provider's; empty for those that are counted together.
    pub namespace: Arc<str>,
    /// See `namespace`.
    pub name: Arc<str>,
    /// A token was there, or another was just getting it.
    pub hits: u64,
    /// The issuer had to be asked, whatever it said.
    pub misses: u64,
}

/// What tells identities apart: a digest, as keys are part of it.
pub(super) type Identifier = [u8; 32];

/// What an issuer gave.
pub(super) struct Issued {
    /// The token.
    pub token: Secret,
    /// How long it is good, from now.
    pub lifetime: Duration,
}

/// The token of one identity.
#[derive(Default)]
pub struct Slot {
    kept: Mutex<Kept>,
    renewing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Kept {
    token: Option<Token>,
    /// Rises with every renewal that ended, and what came of the last one if it failed: who waited
    /// for it does not ask again.
    ended: u64,
    failure: Option<SendError>,
    /// The last token was refused.
    refused: bool,
}

struct Token {
    authorization: HeaderValue,
    issued: Instant,
    /// In place of a refused one.
    replaces: bool,
    /// Renewed from then on.
    renew: Instant,
    /// Good until then.
    end: Instant,
    /// By the other clock, which goes on while the machine sleeps.
    end_wall: jiff::Timestamp,
    used: Instant,
}

impl Tokens {
    /// None yet. At most `max_size` are kept, the ones not used for longest going first; with 0
    /// every request asks for one. `max_duration` is cut to an hour.
    pub fn new(clock: Arc<dyn Clock>, max_size: usize, max_duration: Duration) -> Self {
        let [given, denied, evicted] = [const { AtomicU64::new(0) }; 3];
        let (slots, users) = (Mutex::default(), Mutex::default());
        Self { clock, max_size, max_duration: max_duration.min(LONGEST), slots, users, given, denied, evicted }
    }

    /// The counts of a Provider, made when nobody holds them yet.
    pub fn user(&self, namespace: &str, name: &str) -> Arc<User> {
        let mut users = self.users.lock();
        let mut key: UserName = (namespace.into(), name.into());
        if !users.contains_key(&key) {
            users.retain(|_, user| user.strong_count() > 0);
            if users.len() >= MAX_USERS {
                key = UserName::default();
            }
        }
        if let Some(user) = users.get(&key).and_then(Weak::upgrade) {
            return user;
        }
        let user = Arc::new(User::default());
        users.insert(key, Arc::downgrade(&user));
        user
    }

    /// How often each Provider asked that can still ask; at most 1,001 rows.
    pub fn uses(&self) -> Vec<Uses> {
        let users = self.users.lock();
        let of = |((namespace, name), user): (&UserName, &Weak<User>)| {
            let user = user.upgrade()?;
            let [hits, misses] = [&user.hits, &user.misses].map(|count| count.load(Ordering::Relaxed));
            Some(Uses { namespace: namespace.clone(), name: name.clone(), hits, misses })
        };
        users.iter().filter_map(of).collect()
    }

    /// How often whoever asked got a token that is kept or was just made, and how often not: the
    /// issuer gave none, even where one of before could still be used. A try that a wait at the vendor
    /// kept from the issuer counts as neither.
    pub fn requests(&self) -> (u64, u64) {
        (self.given.load(Ordering::Relaxed), self.denied.load(Ordering::Relaxed))
    }

    /// How many tokens went because there was no room for them.
    pub fn evictions(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// How many tokens are kept. Looks at every identity.
    pub fn cached(&self) -> usize {
        let live: Vec<Arc<Slot>> = self.slots.lock().values().filter_map(Weak::upgrade).collect();
        live.iter().filter(|slot| slot.kept.lock().token.is_some()).count()
    }

    /// The slot of an identity, made when nobody holds it yet.
    pub(super) fn slot(&self, identity: Identifier) -> Arc<Slot> {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(&identity).and_then(Weak::upgrade) {
            return slot;
        }
        let slot = Arc::new(Slot::default());
        slots.retain(|_, slot| slot.strong_count() > 0);
        slots.insert(identity, Arc::downgrade(&slot));
        slot
    }

    /// The slot's token as a header; renewed by `issue` when it must be, by one caller while the
    /// others wait.
    pub(super) async fn get<F>(&self, slot: &Arc<Slot>, user: &User, issue: F) -> Result<HeaderValue, SendError>
    where
        F: Future<Output = Result<Issued, SendError>>,
    {
        let before = {
            let mut kept = slot.kept.lock();
            if let Some(authorization) = self.fresh(&mut kept) {
                self.count(&user.hits, true);
                return Ok(authorization);
            }
            kept.ended
        };
        let _renewing = slot.renewing.lock().await;
        {
            let mut kept = slot.kept.lock();
            if let Some(authorization) = self.fresh(&mut kept) {
                self.count(&user.hits, true);
                return Ok(authorization);
            }
            if let Some(failure) = kept.failure.as_ref().filter(|_| kept.ended != before) {
                self.count(&user.misses, false);
                return Err(failure.clone());
            }
        }
        let issued = issue.await;
        if let Err(held @ SendError::Held { .. }) = issued {
            // A wait of this caller's account, which says nothing of the token: the next one asks itself.
            return Err(held);
        }
        let made = issued.is_ok();
        let authorization = self.keep(slot, issued);
        self.count(&user.misses, made && authorization.is_ok());
        authorization
    }

    fn count(&self, how: &AtomicU64, given: bool) {
        how.fetch_add(1, Ordering::Relaxed);
        if given { &self.given } else { &self.denied }.fetch_add(1, Ordering::Relaxed);
    }

    /// This one was refused: unless it is new, the next caller gets another.
    pub(super) fn refused(&self, slot: &Slot, authorization: &HeaderValue) -> Refused {
        let mut kept = slot.kept.lock();
        let Some(token) = kept.token.as_ref().filter(|token| token.authorization == authorization) else {
            // Another caller was refused before, or tokens are not kept.
            return Refused::First;
        };
        let age = self.clock.now().saturating_duration_since(token.issued);
        if age < NEW {
            return Refused::New;
        }
        let never_good = token.replaces && age < NEVER_GOOD;
        (kept.token, kept.refused) = (None, true);
        if never_good { Refused::Again } else { Refused::First }
    }

    fn fresh(&self, kept: &mut Kept) -> Option<HeaderValue> {
        let now = self.clock.now();
        let token = kept.token.as_mut().filter(|token| now < token.renew && self.clock.wall() < token.end_wall)?;
        token.used = now;
        Some(token.authorization.clone())
    }

    fn keep(&self, slot: &Arc<Slot>, issued: Result<Issued, SendError>) -> Result<HeaderValue, SendError> {
        let (now, wall) = (self.clock.now(), self.clock.wall());
        let mut kept = slot.kept.lock();
        kept.ended += 1;
        let issued = match issued {
            Ok(issued) => issued,
            Err(error) => {
                // Its last fifth is for such times.
                if let Some(token) = kept.token.as_mut().filter(|token| now < token.end && wall < token.end_wall) {
                    token.renew = (now + PAUSE).min(token.end);
                    token.used = now;
                    return Ok(token.authorization.clone());
                }
                kept.token = None;
                kept.failure = Some(error.clone());
                return Err(error);
            }
        };
        kept.failure = None;
        let authorization = crate::outbound::sensitive(&format!("Bearer {}", issued.token.expose()))
            .ok_or(SendError::NotTheVendor { what: "gave a token that no header can carry" })?;
        let lifetime = issued.lifetime.min(LONGEST_LIFE);
        let replaces = std::mem::take(&mut kept.refused);
        if self.max_size > 0 {
            kept.token = Some(Token {
                authorization: authorization.clone(),
                issued: now,
                replaces,
                renew: now + (lifetime * 4 / 5).min(self.max_duration),
                end: now + lifetime,
                end_wall: wall + lifetime,
                used: now,
            });
            drop(kept);
            self.evict();
        }
        Ok(authorization)
    }

    /// Drops the tokens that were not used for longest, past the bound.
    fn evict(&self) {
        let mut held: Vec<(Instant, Arc<Slot>)> = {
            let slots = self.slots.lock();
            let live = slots.values().filter_map(Weak::upgrade);
            live.filter_map(|slot| {
                let used = slot.kept.lock().token.as_ref()?.used;
                Some((used, slot))
            })
            .collect()
        };
        let Some(past) = held.len().checked_sub(self.max_size).filter(|past| *past > 0) else { return };
        held.sort_unstable_by_key(|(used, _)| *used);
        for (_, slot) in &held[..past] {
            if slot.kept.lock().token.take().is_some() {
                self.evicted.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::clock::TurnedClock;

    const HOUR: u64 = 3600;

    struct Issuer {
        tokens: Tokens,
        user: Arc<User>,
        clock: Arc<TurnedClock>,
        asked: AtomicUsize,
    }

    impl Issuer {
        fn new(max_size: usize, max_duration: u64) -> Self {
            let clock = TurnedClock::new();
            let tokens = Tokens::new(clock.clone(), max_size, Duration::from_secs(max_duration));
            let user = tokens.user("apps", "git");
            Self { tokens, user, clock, asked: AtomicUsize::new(0) }
        }

        /// Asks for the token; a new one has its number, and is good for so many seconds.
        async fn get(&self, slot: &Arc<Slot>, lifetime: u64) -> Result<String, SendError> {
            let issue = async {
                let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::task::yield_now().await;
                Ok(Issued { token: Secret::new(number.to_string()), lifetime: Duration::from_secs(lifetime) })
            };
            let authorization = self.tokens.get(slot, &self.user, issue).await?;
            Ok(authorization.to_str().expect("text").to_owned())
        }

        async fn fail(&self, slot: &Arc<Slot>) -> Result<HeaderValue, SendError> {
            let issue = async {
                self.asked.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                Err(SendError::Timeout)
            };
            self.tokens.get(slot, &self.user, issue).await
        }

        fn turn(&self, seconds: f64) {
            self.clock.turn(Duration::from_secs_f64(seconds));
        }
    }

    /// spec/auth.md 8: how long a token is kept.
    #[tokio::test]
    async fn a_token_is_renewed_at_four_fifths_of_its_life_or_at_the_longest() {
        for (lifetime, max_duration, kept) in
            [(HOUR, HOUR, 2880.0), (3599, HOUR, 2879.2), (u64::MAX, 24 * HOUR, 3600.0), (600, 300, 300.0)]
        {
            let issuer = Issuer::new(100, max_duration);
            let slot = issuer.tokens.slot([1; 32]);
            assert_eq!(issuer.get(&slot, lifetime).await.expect("issued"), "Bearer 1");
            issuer.turn(kept - 0.1);
            assert_eq!(issuer.get(&slot, lifetime).await.expect("kept"), "Bearer 1", "{lifetime}");
            issuer.turn(0.2);
            assert_eq!(issuer.get(&slot, lifetime).await.expect("issued"), "Bearer 2", "{lifetime}");
        }
    }

    #[tokio::test]
    async fn one_renews_while_the_others_wait() {
        let issuer = Issuer::new(100, HOUR);
        let slot = issuer.tokens.slot([1; 32]);
        let all = futures::future::join_all((0..50).map(|_| issuer.get(&slot, HOUR))).await;
        assert!(all.iter().all(|token| token.as_deref() == Ok("Bearer 1")), "{all:?}");

        let other = issuer.tokens.slot([2; 32]);
        let all = futures::future::join_all((0..50).map(|_| issuer.fail(&other))).await;
        assert!(all.iter().all(|failed| *failed == Err(SendError::Timeout)));
        assert_eq!(issuer.asked.load(Ordering::SeqCst), 2, "one for each identity");
        assert_eq!(issuer.get(&other, HOUR).await.expect("who comes later asks again"), "Bearer 3");
    }

    /// Two Providers may have one App and accounts of their own, of which one waits.
    #[tokio::test]
    async fn a_wait_of_one_is_not_that_of_the_others() {
        let issuer = Issuer::new(100, HOUR);
        let slot = issuer.tokens.slot([1; 32]);
        let waits = issuer.tokens.user("apps", "waits");
        let held = || SendError::Held {
            pause: Duration::from_secs(60),
            told: true,
            because: Box::new(SendError::AskedToWait),
        };
        let issue = async {
            tokio::task::yield_now().await;
            Err(held())
        };
        let (first, second) = tokio::join!(issuer.tokens.get(&slot, &waits, issue), issuer.get(&slot, HOUR));
        assert_eq!(first, Err(held()));
        assert_eq!(second.expect("it waits for nothing"), "Bearer 1");
        let counts = |user: &User| (user.hits.load(Ordering::SeqCst), user.misses.load(Ordering::SeqCst));
        assert_eq!((counts(&waits), counts(&issuer.user)), ((0, 0), (0, 1)));
        assert_eq!(issuer.tokens.requests(), (1, 0));
    }

    #[tokio::test]
    async fn a_failed_renewal_leaves_the_old_one_until_its_end() {
        let issuer = Issuer::new(100, HOUR);
        let slot = issuer.tokens.slot([1; 32]);
        issuer.get(&slot, HOUR).await.expect("issued");
        issuer.turn(3000.0);
        assert_eq!(issuer.fail(&slot).await.expect("the old one"), "Bearer 1");
        issuer.fail(&slot).await.expect("the old one");
        assert_eq!(issuer.asked.load(Ordering::SeqCst), 2, "a moment later nobody is asked");
        issuer.turn(700.0);
        assert_eq!(issuer.fail(&slot).await, Err(SendError::Timeout));
    }

    #[tokio::test]
    async fn a_refused_token_is_not_given_out_again_and_a_newer_one_stays() {
        let issuer = Issuer::new(100, HOUR);
        let slot = issuer.tokens.slot([1; 32]);
        issuer.get(&slot, HOUR).await.expect("issued");
        let [first, second] = ["Bearer 1", "Bearer 2"].map(HeaderValue::from_static);
        let refused = |token| issuer.tokens.refused(&slot, token);
        assert_eq!(refused(&first), Refused::New);
        assert_eq!(issuer.get(&slot, HOUR).await.expect("kept"), "Bearer 1", "it may be good in a moment");
        issuer.turn(10.0);
        assert_eq!(refused(&first), Refused::First);
        assert_eq!(issuer.get(&slot, HOUR).await.expect("issued"), "Bearer 2");
        assert_eq!(refused(&first), Refused::First, "of another caller");
        assert_eq!(issuer.get(&slot, HOUR).await.expect("kept"), "Bearer 2");
        assert_eq!(refused(&second), Refused::New);
        issuer.turn(15.0);
        assert_eq!(refused(&second), Refused::Again, "it was never good");
        assert_eq!(issuer.get(&slot, HOUR).await.expect("issued"), "Bearer 3");
        issuer.turn(600.0);
        assert_eq!(refused(&HeaderValue::from_static("Bearer 3")), Refused::First, "it was good for long");
    }

    #[tokio::test]
    async fn no_more_are_kept_than_may_and_none_that_nobody_holds() {
        let issuer = Issuer::new(2, HOUR);
        let slots = [1, 2, 3].map(|number| issuer.tokens.slot([number; 32]));
        for slot in &slots {
            issuer.turn(1.0);
            issuer.get(slot, HOUR).await.expect("issued");
        }
        assert_eq!(issuer.get(&slots[2], HOUR).await.expect("kept"), "Bearer 3");
        assert_eq!(issuer.get(&slots[1], HOUR).await.expect("kept"), "Bearer 2");
        assert_eq!(issuer.get(&slots[0], HOUR).await.expect("went first"), "Bearer 4");
        drop(slots);
        let again = issuer.tokens.slot([2; 32]);
        assert_eq!(issuer.get(&again, HOUR).await.expect("issued"), "Bearer 5");
        assert_eq!(issuer.tokens.slots.lock().len(), 1);

        let none = Issuer::new(0, HOUR);
        let slot = none.tokens.slot([1; 32]);
        assert_eq!(none.get(&slot, HOUR).await.expect("issued"), "Bearer 1");
        assert_eq!(none.get(&slot, HOUR).await.expect("issued"), "Bearer 2");
    }

    #[test]
    fn providers_past_the_bound_are_counted_together() {
        let tokens = Tokens::new(TurnedClock::new(), 100, Duration::from_secs(HOUR));
        let mut users: Vec<Arc<User>> = (0..MAX_USERS).map(|number| tokens.user("apps", &number.to_string())).collect();
        let [one, two] = ["one", "two"].map(|name| tokens.user("more", name));
        assert!(Arc::ptr_eq(&one, &two));
        assert_eq!(tokens.uses().len(), MAX_USERS + 1);
        assert_eq!(&*tokens.uses()[0].name, "");
        assert!(Arc::ptr_eq(&users[7], &tokens.user("apps", "7")), "who is counted apart stays so");
        drop((one, two));
        users.pop();
        assert!(tokens.uses().iter().all(|uses| !uses.name.is_empty()), "nobody asks any more");
        let _apart = tokens.user("more", "one");
        assert!(tokens.uses().iter().any(|uses| &*uses.namespace == "more"), "there is room again");
    }
}
