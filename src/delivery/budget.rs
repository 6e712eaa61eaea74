//! Whether a request may go out now (rules R8 and R9): waits that vendors named, refusals, GitHub's
//! limits, and hosts that fail. `delivery` asks before it claims a job, `outbound` before each request
//! and tells what came of it; `resolve` gives each Provider its [`Pass`].
//!
//! | what | shared by Providers with the same | ends |
//! |---|---|---|
//! | a wait that the vendor named | credential and host | by time, 65 minutes at most |
//! | a refused credential (401, 407, a sign-in page) | credential and host | when the Provider or a Secret of it changes |
//! | a refused repository (403, 404, …) | credential, host and repository | by one canary that works: after 10 minutes, doubling to an hour |
//! | limits of our own, at github.com and ghe.com | credential and host | never |
//! | a host that fails | host, and the way to it: TLS, proxy, timeout | by one canary that is answered: one every 10 s |
//!
//! A credential is known by a fingerprint with a key of this process, and is kept nowhere. What is
//! kept is bounded by the Providers there are, and by the waits that run.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::{hmac, rand};
use parking_lot::Mutex;

use super::verdict::{self, Scope, Verdict};
use crate::clock::Clock;
use crate::outbound::{Gate, SendError};

/// Jobs under way at a host at most: a quarter of all there may be, so that one host that hangs
/// leaves room for the others.
const MOST_PER_HOST: usize = 128;

/// Jobs under way at a host that did not answer yet, or failed lately; each answer makes room for one
/// more. As many as one Provider may have, so that forty that hang at once leave room for others too.
const FIRST_PER_HOST: usize = 8;

/// A host fails when this much speaks against it in a row: three requests that brought no answer or
/// one of a gateway, or twelve times 500. A 500 may be about one commit (Gitea answers so for one
/// that it does not have).
const FAILS: u32 = 12;
const NO_ANSWER: u32 = 4;
const FAULT: u32 = 1;

/// While a host fails, one canary goes out this often (rule R9).
const CANARY: Duration = Duration::from_secs(10);

/// How long a Provider that finds no room is left aside; it is asked again sooner when there is some.
const NO_ROOM: Duration = Duration::from_secs(1);

/// Requests at once at github.com and ghe.com (rule R9). GitHub bears 100, of all clients together
/// (docs.github.com/rest, "Rate limits for the REST API", secondary rate limits).
const GITHUB_AT_ONCE: usize = 10;

/// Writes a minute at github.com and ghe.com (rule R9): at first what GitHub says it bears of
/// requests that create content, at most what 900 points a minute allow at 5 for each.
const GITHUB_WRITES: f64 = 80.0;
const GITHUB_MOST_WRITES: f64 = 180.0;
const GITHUB_LEAST_WRITES: f64 = 20.0;

/// Of these, writes that may go out without a pause between; the rest are spread over the minute, so
/// that a failure never waits long for its turn.
const BURST: f64 = 10.0;

const MINUTE: Duration = Duration::from_secs(60);

/// A job that waits for a change is looked at this often, for its deadline.
const LOOK: Duration = Duration::from_secs(3600);

/// The budgets of all.
pub struct Budget {
    clock: Arc<dyn Clock>,
    key: hmac::Key,
    accounts: Mutex<HashMap<[u8; 32], Arc<Mutex<Account>>>>,
    hosts: Mutex<HashMap<[u8; 32], Arc<Mutex<Host>>>>,
}

/// What of a Provider tells its budget from others'.
#[derive(Clone, Debug)]
pub struct Caller<'a> {
    /// UID of the Provider.
    pub provider: Arc<str>,
    /// Host and port; in lower case.
    pub host: &'a str,
    /// Everything that the vendor knows a caller by: tokens, users, passwords, secret addresses.
    pub credential: &'a [&'a [u8]],
    /// The way to the host: what makes it fail for one Provider and work for another.
    pub route: &'a [&'a [u8]],
    /// The repository there.
    pub repository: Arc<str>,
}

/// A credential at a host.
#[derive(Debug, Default)]
struct Account {
    wait: Option<Wait>,
    /// Waits in a row whose length the vendor did not name.
    unnamed: u32,
    refusals: HashMap<Scope, Refusal>,
    pace: Option<Pace>,
    under_way: usize,
    /// Providers that found no room.
    waiting: HashSet<Arc<str>>,
}

#[derive(Debug)]
struct Wait {
    until: Instant,
    because: SendError,
    saved: bool,
}

#[derive(Debug)]
struct Refusal {
    because: SendError,
    /// When a canary goes out; never before a change when there is none.
    until: Option<Instant>,
    /// How often it was refused.
    times: u32,
    canary: bool,
    /// Providers with jobs that it holds.
    holds: HashSet<Arc<str>>,
}

/// Writes a minute, spread over it.
#[derive(Debug)]
struct Pace {
    rate: f64,
    left: f64,
    at: Instant,
    /// The minute that is judged.
    began: Instant,
    writes: usize,
    limited: bool,
}

/// A host, by one way.
#[derive(Debug)]
struct Host {
    against: u32,
    room: usize,
    under_way: usize,
    /// It fails; the next canary goes out then.
    canary_at: Option<Instant>,
    canary: bool,
    /// Providers that found no room, or that failed here.
    waiting: HashSet<Arc<str>>,
    failed: HashSet<Arc<str>>,
    /// It failed until just now: those who wait for it are to be told.
    recovered: bool,
}

/// A Provider's part in the budgets. Tells `outbound` whether a request may go out.
pub struct Pass {
    clock: Arc<dyn Clock>,
    provider: Arc<str>,
    repository: Arc<str>,
    account: Arc<Mutex<Account>>,
    host: Arc<Mutex<Host>>,
}

/// Leave for one job.
#[must_use]
pub struct Ticket {
    pass: Arc<Pass>,
    canary: bool,
}

/// Who may be asked for again when a job ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Providers that found no room.
    pub release: Vec<Arc<str>>,
    /// Providers whose jobs wait for another try, of which there is hope now.
    pub wake: Vec<Arc<str>>,
}

/// A job that goes out though its like was refused before, to see whether it still is.
pub struct Canary<'a> {
    pass: &'a Pass,
    scopes: Vec<Scope>,
}

impl Budget {
    /// Nothing is known yet.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let mut key = [0; 32];
        rand::fill(&mut key).expect("the system has random numbers");
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        Arc::new(Self { clock, key, accounts: Mutex::default(), hosts: Mutex::default() })
    }

    /// A Provider's part.
    pub fn pass(&self, identity: &Caller<'_>) -> Arc<Pass> {
        let now = self.clock.now();
        let host = identity.host.as_bytes();
        let account = {
            let mut accounts = self.accounts.lock();
            // What nobody uses is forgotten, but not that it must be left alone.
            accounts.retain(|_, account| Arc::strong_count(account) > 1 || account.lock().waits(now).is_some());
            let own = is_github(identity.host);
            let new = || Account { pace: own.then(|| Pace::new(now)), ..Account::default() };
            let id = self.fingerprint(host, identity.credential);
            accounts.entry(id).or_insert_with(|| Arc::new(Mutex::new(new()))).clone()
        };
        let host = {
            let mut hosts = self.hosts.lock();
            hosts.retain(|_, host| Arc::strong_count(host) > 1);
            hosts.entry(self.fingerprint(host, identity.route)).or_default().clone()
        };
        let (provider, repository) = (identity.provider.clone(), identity.repository.clone());
        Arc::new(Pass { clock: self.clock.clone(), provider, repository, account, host })
    }

    fn fingerprint(&self, host: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [host].iter().chain(parts) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.sign().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    /// The Provider or a Secret of it changed: what was refused may be granted now. Waits stand.
    pub fn forget_refusals(&self, provider: &str) {
        for account in self.accounts.lock().values() {
            account.lock().refusals.retain(|_, refusal| !refusal.holds.contains(provider));
        }
    }
}

/// Whether limits of our own hold there.
fn is_github(host: &str) -> bool {
    let name = host.split(':').next().unwrap_or_default();
    name == "github.com" || name.ends_with(".github.com") || name.ends_with(".ghe.com")
}

impl Pass {
    /// Asks leave for a job.
    ///
    /// # Errors
    /// Not now; ask again then, or when the Provider is [`Freed`].
    pub fn admit(self: &Arc<Self>) -> Result<Ticket, Instant> {
        let now = self.clock.now();
        let mut account = self.account.lock();
        let mut host = self.host.lock();
        if let Some(wait) = account.waits(now) {
            return Err(wait.until);
        }
        let canary = host.canary_at.is_some();
        if let Some(at) = host.canary_at {
            if host.canary || at > now {
                host.waiting.insert(self.provider.clone());
                return Err(at.max(now + NO_ROOM));
            }
        } else if host.under_way >= host.room {
            host.waiting.insert(self.provider.clone());
            return Err(now + NO_ROOM);
        }
        if account.pace.is_some() && account.under_way >= GITHUB_AT_ONCE {
            account.waiting.insert(self.provider.clone());
            return Err(now + NO_ROOM);
        }
        if let Some(pace) = &mut account.pace {
            pace.take(now)?;
        }
        account.under_way += 1;
        host.under_way += 1;
        if canary {
            host.canary = true;
            host.canary_at = Some(now);
        }
        Ok(Ticket { pass: self.clone(), canary })
    }

    /// Asks whether the like of a job was refused.
    ///
    /// # Errors
    /// It was: [`SendError::Held`].
    pub fn check(&self) -> Result<Canary<'_>, SendError> {
        let now = self.clock.now();
        let mut account = self.account.lock();
        let mut canary = Canary { pass: self, scopes: Vec::new() };
        let mut held = None;
        for scope in [Scope::Credential, Scope::Repository(self.repository.clone())] {
            let Some(refusal) = account.refusals.get_mut(&scope) else { continue };
            let pause = match refusal.until {
                None => LOOK,
                Some(until) if until > now => until - now,
                Some(_) if refusal.canary => verdict::parked(refusal.times),
                Some(_) => {
                    refusal.canary = true;
                    canary.scopes.push(scope);
                    continue;
                }
            };
            refusal.holds.insert(self.provider.clone());
            held = Some(SendError::Held { pause, told: false, because: Box::new(refusal.because.clone()) });
            break;
        }
        // Dropped first: what it gives back is in the account.
        drop(account);
        match held {
            None => Ok(canary),
            Some(held) => Err(held),
        }
    }

    /// Why its like is left alone, for a job that was let through a moment ago.
    pub fn held(&self) -> Option<SendError> {
        let now = self.clock.now();
        let account = self.account.lock();
        let scopes = [Scope::Credential, Scope::Repository(self.repository.clone())];
        let refusal = scopes.iter().filter_map(|scope| account.refusals.get(scope));
        let mut pauses = refusal.map(|refusal| {
            let left = |until: Instant| until.saturating_duration_since(now);
            (refusal, refusal.until.map_or(LOOK, left))
        });
        let (refusal, pause) = pauses.find(|(_, pause)| !pause.is_zero())?;
        Some(SendError::Held { pause, told: false, because: Box::new(refusal.because.clone()) })
    }

    /// Notes what came of a job when that concerns its like; how long these are left alone.
    pub fn note(&self, error: &SendError) -> Option<Duration> {
        match verdict::verdict(error) {
            Verdict::Park(scope) if scope != Scope::Job => Some(self.refused(scope, error)),
            _ => None,
        }
    }

    /// How long nothing may be sent, because the vendor said so.
    pub fn waits(&self) -> Option<Duration> {
        let now = self.clock.now();
        Some(self.account.lock().waits(now)?.until - now)
    }

    /// A job was refused; how long its like are left alone. Those that were under way together count
    /// as one.
    fn refused(&self, scope: Scope, because: &SendError) -> Duration {
        let now = self.clock.now();
        let mut account = self.account.lock();
        let forever = matches!(scope, Scope::Credential);
        let scope = match scope {
            Scope::Repository(_) => Scope::Repository(self.repository.clone()),
            other => other,
        };
        let refusal = account.refusals.entry(scope).or_insert_with(|| Refusal {
            because: because.clone(),
            until: None,
            times: 0,
            canary: false,
            holds: HashSet::new(),
        });
        refusal.holds.insert(self.provider.clone());
        if refusal.times == 0 || refusal.until.is_some_and(|until| until <= now) {
            let pause = verdict::parked(refusal.times);
            refusal.until = (!forever).then_some(now + pause);
            refusal.times += 1;
            refusal.because = because.clone();
        }
        refusal.until.map_or(LOOK, |until| until - now)
    }

    /// Whether the host is left alone but for canaries, and whether one is under way.
    pub fn host_fails(&self) -> (bool, bool) {
        let host = self.host.lock();
        (host.canary_at.is_some(), host.canary)
    }

    /// A job was delivered: nothing of its like is refused any more. Gives the Providers that held
    /// some back.
    pub fn worked(&self) -> Vec<Arc<str>> {
        let mut account = self.account.lock();
        if account.refusals.is_empty() {
            return Vec::new();
        }
        let scopes = [Scope::Credential, Scope::Repository(self.repository.clone())];
        scopes.iter().filter_map(|scope| account.refusals.remove(scope)).flat_map(|refusal| refusal.holds).collect()
    }

    /// The vendor wants nothing until then, as an earlier process was told.
    pub fn wait(&self, until: Instant) {
        let mut account = self.account.lock();
        account.wait(until, SendError::AskedToWait);
        account.wait.iter_mut().for_each(|wait| wait.saved = true);
    }

    /// A wait that was told and is not kept for another process yet; given once.
    pub fn unsaved_wait(&self) -> Option<(Instant, SendError)> {
        let now = self.clock.now();
        let mut account = self.account.lock();
        let wait = account.wait.as_mut().filter(|wait| !wait.saved && wait.until > now)?;
        wait.saved = true;
        Some((wait.until, wait.because.clone()))
    }
}

impl Gate for Pass {
    fn enter(&self) -> Result<(), SendError> {
        let now = self.clock.now();
        match self.account.lock().waits(now) {
            None => Ok(()),
            Some(wait) => {
                Err(SendError::Held { pause: wait.until - now, told: true, because: Box::new(wait.because.clone()) })
            }
        }
    }

    fn answered(&self, error: Option<&SendError>, pause: Option<Duration>) {
        let now = self.clock.now();
        let told = match error.map(verdict::verdict) {
            None => pause,
            Some(Verdict::Wait(pause)) => Some(pause),
            Some(_) => None,
        };
        let mut account = self.account.lock();
        if let Some(error) = error.filter(|error| error.is_secondary_limit()) {
            // Many were under way together: they count as one.
            let news = account.waits(now).is_none();
            if let Some(pace) = account.pace.as_mut().filter(|_| news) {
                pace.limited(now);
            }
            if news && !matches!(error, SendError::Status { retry_after: Some(_), .. }) {
                account.unnamed += 1;
            }
        } else if error.is_none() && account.waits(now).is_none() {
            account.unnamed = 0;
        }
        if let Some(pause) = told.filter(|pause| !pause.is_zero()) {
            let unnamed = matches!(error, Some(SendError::Status { retry_after: None, .. }));
            let doubled = if unnamed { 2u32.pow(account.unnamed.saturating_sub(1).min(6)) } else { 1 };
            let pause = (pause * doubled).min(verdict::LONGEST_WAIT);
            account.wait(now + pause, error.cloned().unwrap_or(SendError::AskedToWait));
        }
        drop(account);

        let mut host = self.host.lock();
        let against = match error {
            None => 0,
            Some(SendError::Connect | SendError::Timeout | SendError::Broken) => NO_ANSWER,
            Some(SendError::Status { status, .. }) => match (status.as_u16(), told) {
                (502..=504, None) => NO_ANSWER,
                (500, None) => FAULT,
                _ => 0,
            },
            // Neither well nor ill: what answers there is not the vendor.
            Some(_) => return,
        };
        if against == 0 {
            host.against = 0;
            host.recovered |= host.canary_at.take().is_some();
            if !host.recovered {
                host.failed.clear();
            }
            host.room = (host.room + 1).min(MOST_PER_HOST);
            return;
        }
        host.failed.insert(self.provider.clone());
        host.against = (host.against + against).min(FAILS);
        if host.against >= FAILS {
            host.room = FIRST_PER_HOST;
            // Since the canary went out, or since it began to fail.
            let began = host.canary_at.filter(|at| *at <= now).unwrap_or(now);
            host.canary_at = Some(host.canary_at.filter(|at| *at > now).unwrap_or(began + CANARY));
        }
    }
}

impl Ticket {
    /// The job ended; `wrote`: it may have changed something at the vendor.
    pub fn end(self, wrote: bool) -> Freed {
        let mut freed = Freed::default();
        let mut take = |from: &mut HashSet<Arc<str>>, room: usize| {
            if room >= from.len() {
                return freed.release.extend(from.drain());
            }
            let some: Vec<_> = from.iter().take(room).cloned().collect();
            some.iter().for_each(|provider| {
                from.remove(provider);
            });
            freed.release.extend(some);
        };
        let mut account = self.pass.account.lock();
        account.under_way -= 1;
        if account.pace.is_some() {
            let room = GITHUB_AT_ONCE.saturating_sub(account.under_way);
            take(&mut account.waiting, room);
        }
        if let Some(pace) = &mut account.pace {
            if wrote {
                pace.writes += 1;
            } else {
                pace.left = (pace.left + 1.0).min(BURST);
            }
        }
        drop(account);
        let mut host = self.pass.host.lock();
        host.under_way -= 1;
        if self.canary {
            host.canary = false;
        }
        if std::mem::take(&mut host.recovered) {
            take(&mut host.waiting, usize::MAX);
            freed.wake.extend(host.failed.drain());
        } else if host.canary_at.is_none() {
            let room = host.room.saturating_sub(host.under_way);
            take(&mut host.waiting, room);
        }
        freed
    }
}

impl Drop for Canary<'_> {
    fn drop(&mut self) {
        if self.scopes.is_empty() {
            return;
        }
        let mut account = self.pass.account.lock();
        for scope in &self.scopes {
            if let Some(refusal) = account.refusals.get_mut(scope) {
                refusal.canary = false;
            }
        }
    }
}

impl Account {
    fn waits(&self, now: Instant) -> Option<&Wait> {
        self.wait.as_ref().filter(|wait| wait.until > now)
    }

    fn wait(&mut self, until: Instant, because: SendError) {
        if self.wait.as_ref().is_none_or(|wait| wait.until < until) {
            self.wait = Some(Wait { until, because, saved: false });
        }
    }
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { rate: GITHUB_WRITES, left: BURST, at: now, began: now, writes: 0, limited: false }
    }

    /// What comes back in a second: in no minute there are more than `rate`, the burst included.
    fn refill(&self) -> f64 {
        (self.rate - BURST) / MINUTE.as_secs_f64()
    }

    /// Takes leave for a write, or says when there is some.
    fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let spent = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + spent * self.refill()).min(BURST);
        self.at = now;
        if now.saturating_duration_since(self.began) >= MINUTE {
            if self.writes > 0 && !self.limited {
                self.rate = (self.rate * 1.1).min(GITHUB_MOST_WRITES);
            }
            (self.began, self.writes, self.limited) = (now, 0, false);
        }
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Ok(());
        }
        Err(now + Duration::from_secs_f64((1.0 - self.left) / self.refill() + 0.001))
    }

    fn limited(&mut self, now: Instant) {
        self.rate = (self.rate / 2.0).max(GITHUB_LEAST_WRITES);
        (self.left, self.at, self.limited) = (0.0, now, true);
    }
}

impl Default for Host {
    fn default() -> Self {
        Self {
            against: 0,
            room: FIRST_PER_HOST,
            under_way: 0,
            canary_at: None,
            canary: false,
            waiting: HashSet::new(),
            failed: HashSet::new(),
            recovered: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TurnedClock;

    const SECOND: Duration = Duration::from_secs(1);

    struct Scene {
        clock: Arc<TurnedClock>,
        budget: Arc<Budget>,
    }

    impl Scene {
        fn new() -> Self {
            let clock = TurnedClock::new();
            Self { budget: Budget::new(clock.clone()), clock }
        }

        fn pass(&self, provider: &str, host: &str, token: &str) -> Arc<Pass> {
            self.budget.pass(&Caller {
                provider: provider.into(),
                host,
                credential: &[token.as_bytes()],
                route: &[],
                repository: "acme/fleet".into(),
            })
        }

        /// How long until this Provider may be asked for again; nothing when it may go now.
        fn left(&self, pass: &Arc<Pass>) -> Duration {
            match pass.admit() {
                Ok(ticket) => {
                    ticket.end(false);
                    Duration::ZERO
                }
                Err(until) => until - self.clock.now(),
            }
        }
    }

    fn status(code: u16, seconds: Option<u64>, body: &str) -> SendError {
        SendError::Status {
            status: http::StatusCode::from_u16(code).expect("valid"),
            retry_after: seconds.map(Duration::from_secs),
            body: body.to_owned(),
        }
    }

    #[test]
    fn a_wait_is_that_of_a_credential_at_a_host() {
        let scene = Scene::new();
        let one = scene.pass("one", "git.example.org", "token");
        let twin = scene.pass("twin", "git.example.org", "token");
        let other = scene.pass("other", "git.example.org", "another");
        let elsewhere = scene.pass("elsewhere", "example.org", "token");
        one.answered(Some(&status(429, Some(30), "")), None);
        for held in [&one, &twin] {
            assert_eq!(scene.left(held), 30 * SECOND);
            assert!(matches!(held.enter(), Err(SendError::Held { told: true, .. })));
        }
        for free in [&other, &elsewhere] {
            assert_eq!(scene.left(free), Duration::ZERO);
            assert_eq!(free.enter(), Ok(()));
        }
        // A shorter one does not end it; a good answer that was under way does not either.
        twin.answered(Some(&status(503, Some(1), "")), None);
        twin.answered(None, None);
        assert_eq!(scene.left(&one), 30 * SECOND);
        // It outlives the Provider, and is kept for another process once.
        let until = scene.clock.now() + 30 * SECOND;
        assert_eq!(twin.unsaved_wait().map(|(until, _)| until), Some(until));
        assert_eq!(one.unsaved_wait(), None);
        drop((one, twin));
        let again = scene.pass("again", "git.example.org", "token");
        assert_eq!(scene.left(&again), 30 * SECOND);
        scene.clock.turn(30 * SECOND);
        assert_eq!(again.enter(), Ok(()));
        assert_eq!(scene.left(&again), Duration::ZERO);

        // As an earlier process was told; and as a good answer asks.
        other.wait(scene.clock.now() + SECOND);
        assert_eq!((scene.left(&other), other.unsaved_wait()), (SECOND, None));
        again.answered(None, Some(5 * SECOND));
        assert_eq!(scene.left(&again), 5 * SECOND);
    }

    #[test]
    fn a_limit_without_a_time_waits_twice_as_long_each_time() {
        let scene = Scene::new();
        let pass = scene.pass("one", "github.example.org", "token");
        let limit = status(403, None, "You have exceeded a secondary rate limit");
        for minutes in [1, 2, 4, 8, 16, 32, 64, 64] {
            pass.answered(Some(&limit), None);
            // Others that were under way make it no longer.
            pass.answered(Some(&limit), None);
            assert_eq!(scene.left(&pass), minutes * MINUTE);
            scene.clock.turn(minutes * MINUTE);
        }
        pass.answered(None, None);
        pass.answered(Some(&limit), None);
        assert_eq!(scene.left(&pass), MINUTE);
    }

    #[test]
    fn a_refused_credential_waits_for_a_change_and_for_nothing_else() {
        let scene = Scene::new();
        let one = scene.pass("one", "git.example.org", "token");
        let twin = scene.pass("twin", "git.example.org", "token");
        drop(one.check().expect("nothing is known"));
        assert_eq!(one.note(&status(401, None, "")), Some(LOOK));
        scene.clock.turn(24 * LOOK);
        assert!(matches!(twin.check(), Err(SendError::Held { told: false, pause: LOOK, .. })));
        scene.budget.forget_refusals("a third");
        assert!(one.check().is_err());
        assert!(scene.pass("one", "git.example.org", "a better token").check().is_ok());
        scene.budget.forget_refusals("twin");
        assert!(one.check().is_ok());
    }

    #[test]
    fn a_refused_repository_sends_one_canary_after_ten_minutes_doubling_to_an_hour() {
        let scene = Scene::new();
        let one = scene.pass("one", "git.example.org", "token");
        let twin = scene.pass("twin", "git.example.org", "token");
        let refused = status(403, None, "");
        for minutes in [10, 20, 40, 60, 60] {
            let canary = one.check().expect("a canary");
            let others = twin.check().map(drop);
            assert!(minutes == 10 || matches!(others, Err(SendError::Held { .. })), "one canary at a time");
            assert_eq!(one.note(&refused), Some(minutes * MINUTE));
            assert_eq!(twin.note(&refused), Some(minutes * MINUTE), "those under way together count as one");
            drop(canary);
            scene.clock.turn(minutes * MINUTE - SECOND);
            assert!(matches!(one.check(), Err(SendError::Held { pause: SECOND, .. })));
            scene.clock.turn(SECOND);
        }
        // One that brings nothing to light makes way for the next.
        drop(one.check().expect("a canary"));
        let _canary = twin.check().expect("a canary");
        assert!(one.check().is_err());
        let mut woken = twin.worked();
        woken.sort();
        assert_eq!(woken, ["one".into(), "twin".into()]);
        assert!(one.check().is_ok());
        // A commit that is not there says nothing of the repository.
        assert_eq!(one.note(&status(404, None, "404 Commit Not Found")), None);
        assert!(one.check().is_ok());
    }

    #[test]
    fn a_host_that_fails_gets_one_canary_every_ten_seconds_whose_answer_wakes_all() {
        for (failure, in_a_row) in [(SendError::Timeout, 3), (status(502, None, ""), 3), (status(500, None, ""), 12)] {
            let scene = Scene::new();
            let one = scene.pass("one", "git.example.org", "token");
            let other = scene.pass("other", "git.example.org", "another");
            let elsewhere = scene.pass("elsewhere", "example.org", "token");
            for number in 1..=in_a_row {
                assert_eq!(scene.left(&other), Duration::ZERO, "{failure:?}, {number}");
                let ticket = one.admit().expect("leave");
                one.answered(Some(&failure), None);
                ticket.end(true);
            }
            for _ in 0..10 {
                assert_eq!(scene.left(&one), CANARY);
                assert_eq!((scene.left(&other), scene.left(&elsewhere)), (CANARY, Duration::ZERO));
                scene.clock.turn(CANARY);
                let canary = one.admit().expect("a canary");
                assert_eq!(scene.left(&other), NO_ROOM, "one at a time");
                one.answered(Some(&failure), None);
                assert_eq!(canary.end(true), Freed::default());
            }
            // One that sends nothing makes way for the next at once.
            scene.clock.turn(CANARY);
            one.admit().expect("a canary").end(false);
            let canary = one.admit().expect("a canary");
            assert_eq!(scene.left(&other), NO_ROOM);
            one.answered(Some(&status(404, None, "")), None);
            let freed = canary.end(true);
            let release: HashSet<_> = freed.release.into_iter().collect();
            assert_eq!(release, HashSet::from(["one".into(), "other".into()]));
            assert_eq!(freed.wake, ["one".into()]);
            assert_eq!((scene.left(&one), scene.left(&other)), (Duration::ZERO, Duration::ZERO));
        }
    }

    #[test]
    fn a_host_has_room_by_how_it_answers() {
        let scene = Scene::new();
        let one = scene.pass("one", "git.example.org", "token");
        let other = scene.pass("other", "git.example.org", "another");
        let mut tickets: Vec<_> = (0..FIRST_PER_HOST).map(|_| one.admit().expect("room")).collect();
        assert_eq!(scene.left(&other), NO_ROOM);
        one.answered(None, None);
        let freed = tickets.pop().expect("some").end(true);
        assert_eq!(freed.release, ["other".into()]);
        tickets.extend([one.admit().expect("room"), other.admit().expect("one more")]);
        assert_eq!(scene.left(&other), NO_ROOM);
        for _ in 0..1000 {
            one.answered(None, None);
        }
        while let Ok(ticket) = one.admit() {
            tickets.push(ticket);
        }
        assert_eq!(tickets.len(), MOST_PER_HOST);
    }

    #[test]
    fn our_own_limits_hold_at_github_only() {
        for (host, own) in [
            ("github.com", true),
            ("api.github.com:443", true),
            ("acme.ghe.com", true),
            ("github.com.example.org", false),
            ("notgithub.com", false),
            ("github.example.org", false),
        ] {
            assert_eq!(is_github(host), own, "{host}");
        }
        let scene = Scene::new();
        let hub = scene.pass("one", "github.com", "token");
        (0..30).for_each(|_| hub.answered(None, None));
        let tickets: Vec<_> = (0..GITHUB_AT_ONCE).map(|_| hub.admit().expect("leave")).collect();
        scene.clock.turn(MINUTE);
        assert_eq!(scene.left(&hub), NO_ROOM, "ten at once");
        let freed: Vec<_> = tickets.into_iter().map(|ticket| ticket.end(false).release).collect();
        assert_eq!(freed.concat(), ["one".into()]);
        assert_eq!(scene.left(&hub), Duration::ZERO);
    }

    /// An hour of more to write than may be written, against what GitHub documents: 80 writes a
    /// minute, then 403 with a time, and a ban for who goes on.
    #[test]
    fn github_is_never_written_to_faster_than_it_bears_for_long() {
        let scene = Scene::new();
        let hub = scene.pass("one", "github.com", "token");
        let limit = status(403, Some(60), "You have exceeded a secondary rate limit");
        let mut writes: std::collections::VecDeque<Instant> = Default::default();
        let (mut limited, mut told, mut most) = (0, 0, 0);
        let start = scene.clock.now();
        let mut free_from = start;
        while scene.clock.now() < start + 60 * MINUTE {
            let now = scene.clock.now();
            match hub.admit() {
                Err(until) => scene.clock.turn((until - now).max(Duration::from_millis(1))),
                Ok(ticket) => {
                    assert!(now >= free_from, "a request during a wait: banned");
                    while writes.front().is_some_and(|at| now - *at >= MINUTE) {
                        writes.pop_front();
                    }
                    if now - start < MINUTE {
                        assert!(writes.len() < 80, "more than 80 in the first minute");
                    }
                    most = most.max(writes.len());
                    if writes.len() >= 80 {
                        (limited, free_from) = (limited + 1, now + MINUTE);
                        hub.answered(Some(&limit), None);
                    } else {
                        writes.push_back(now);
                        told += 1;
                        hub.answered(None, None);
                    }
                    ticket.end(true);
                    scene.clock.turn(Duration::from_millis(10));
                }
            }
        }
        assert!((1..8).contains(&limited), "it learns: {limited} times in an hour");
        assert!(told > 2400, "and makes use of what there is: {told} in an hour");
    }

    #[test]
    fn the_pace_rises_to_its_bound_while_all_is_well() {
        let scene = Scene::new();
        let hub = scene.pass("one", "github.com", "token");
        let mut by_minute = Vec::new();
        let start = scene.clock.now();
        for minute in 1..20 {
            let mut writes = 0;
            while scene.clock.now() < start + minute * MINUTE {
                match hub.admit() {
                    Err(until) => scene.clock.turn(until - scene.clock.now()),
                    Ok(ticket) => {
                        writes += 1;
                        hub.answered(None, None);
                        ticket.end(true);
                    }
                }
            }
            by_minute.push(writes);
        }
        assert!((70..=80).contains(&by_minute[0]), "{by_minute:?}");
        assert!(by_minute.iter().all(|writes| *writes <= 180), "{by_minute:?}");
        assert!(by_minute[18] >= 160, "{by_minute:?}");
    }

    #[test]
    fn a_credential_is_kept_nowhere() {
        let scene = Scene::new();
        let _pass = scene.pass("one", "git.example.org", "planted-credential");
        let kept: Vec<_> = scene.budget.accounts.lock().keys().copied().collect();
        assert_eq!(kept.len(), 1);
        assert!(!kept[0].windows(8).any(|part| b"planted-credential".windows(8).any(|plain| plain == part)));
        let other = Scene::new();
        let _pass = other.pass("one", "git.example.org", "planted-credential");
        assert!(!other.budget.accounts.lock().contains_key(&kept[0]), "the key is the process' own");
    }
}
