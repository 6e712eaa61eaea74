//! Whether a request may go out now (rules R8 and R9): waits that vendors named, refusals, GitHub's
//! limits, and hosts that fail. `delivery` asks before it claims a job, `outbound` before each request
//! and tells what came of it; `resolve` gives each Provider its [`Pass`].
//!
//! | what | shared by Providers with the same | ends |
//! |---|---|---|
//! | a wait that the vendor named | credential and host | by time, 65 minutes at most; then one goes first, and the rest when it was answered |
//! | a refused credential (401, a sign-in page) | credential and host | by one canary that works: after 2 s, then after 10 minutes, doubling to an hour; or when the Provider or a Secret of it changes |
//! | a proxy that refuses (407) | credential, host and proxy | as the last, but another process asks again |
//! | a refused repository (403, 404, …) | credential, host and repository | by one canary that works: after 10 minutes, doubling to an hour; what comes due while it is under way stays where it is |
//! | a commit that is not there, or may not be written (`commits`) | route, credential and repository | by one job of it that works: after 1, 2, 4, 8 and 15 s while its event is young, then after 10 minutes, doubling to an hour |
//! | a status that can never be written (`commits`) | the same, and the name | when the Provider or a Secret of it changes |
//! | limits of our own, at github.com and ghe.com | credential and host | never |
//! | a host that fails | host, what it is asked for (an API's statuses, or one hook), and the route to it: TLS, proxy | by one request that is answered: one canary every 10 s, in turns among Providers; and each namespace finds out for itself |
//!
//! Waits and refused credentials hold for other processes too, through the outbox. A credential is known by a
//! fingerprint under the outbox's key, or one of this process, and is kept nowhere: who can read the file, which
//! only Herald's user may, can at most try guesses of a password. What is kept is bounded by the Providers there
//! are, by the waits that run, and by what an earlier process kept.

mod account;
mod commits;
mod host;
mod pace;
mod shares;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::{hmac, rand};
use parking_lot::Mutex;

use self::account::{Account, Leave, Whose};
pub use self::commits::About;
use self::commits::{Commits, Place};
use self::host::{Host, Owner};
pub use self::shares::{Share, Shares};
use super::verdict::{self, Scope, Verdict};
use crate::clock::Clock;
use crate::outbound::{Gate, Left, SendError};
use crate::outbox::{Source, Standing};

/// How long a Provider that finds no room is left aside; it is asked again sooner when there is some.
pub const NO_ROOM: Duration = Duration::from_secs(1);

/// How far apart the jobs of a Provider are tried that failed for long, and how far ahead that is said: beyond,
/// chance decides.
const BETWEEN_TURNS: Duration = Duration::from_secs(10);
const LAST_TURN: Duration = Duration::from_secs(600);

/// The budgets of all.
pub struct Budget {
    clock: Arc<dyn Clock>,
    kept: Mutex<Kept>,
    accounts: Mutex<HashMap<[u8; 32], Arc<Mutex<Account>>>>,
    hosts: Mutex<HashMap<[u8; 32], Arc<Mutex<Host>>>>,
    commits: Arc<Mutex<Commits>>,
}

/// What credentials are known by, and what an earlier process was told of those that no Provider has yet.
struct Kept {
    key: hmac::Key,
    restored: HashMap<[u8; 32], Standing>,
}

/// What of a Provider tells its budget from others'.
#[derive(Clone, Debug)]
pub struct Caller<'a> {
    /// UID of the Provider.
    pub provider: Arc<str>,
    /// Namespace of the Provider.
    pub namespace: Arc<str>,
    /// Of the Provider with its Secrets; rises with each change.
    pub version: u64,
    /// Host and port; in lower case.
    pub host: &'a str,
    /// Whether everybody may read the host's name: not when it stands in a Secret.
    pub is_public: bool,
    /// Everything that the vendor knows a caller by: tokens, users, passwords, secret addresses.
    pub credential: &'a [&'a [u8]],
    /// The route to the host: what makes it fail for one Provider and work for another.
    pub route: &'a [&'a [u8]],
    /// What is asked for there: the API base of statuses, or the address of a hook.
    pub service: &'a [u8],
    /// The repository there.
    pub repository: Arc<str>,
    /// One request may take this long.
    pub timeout: Duration,
}

/// A Provider's part in the budgets. Tells `outbound` whether a request may go out.
pub struct Pass {
    clock: Arc<dyn Clock>,
    provider: Arc<str>,
    namespace: Arc<str>,
    source: Source,
    timeout: Duration,
    version: u64,
    repository: Arc<str>,
    /// The last turn that was given: see [`Pass::turn`].
    turn: Mutex<Option<Instant>>,
    account: Arc<Mutex<Account>>,
    host: Arc<Mutex<Host>>,
    commits: Arc<Mutex<Commits>>,
    writes: Mutex<RefusedWrites>,
    /// Requests that were answered well.
    well: AtomicU64,
}

/// Commits of a repository that may not be written, since one could be.
#[derive(Default)]
struct RefusedWrites {
    /// One could be, at some time.
    worked: bool,
    commits: Vec<Arc<str>>,
}

/// When so many commits in a row may not be written, the repository may not; more, where one of it could be.
const MANY_COMMITS: usize = 3;
const MANY_MORE_COMMITS: usize = 10;

/// Hosts that [`Budget::left`] tells apart.
const MAX_HOSTS: usize = 64;

/// The rest of them, and those whose names are nobody's business.
const OTHER: &str = "other";

/// Leave for one job.
#[must_use]
pub struct Ticket {
    pass: Arc<Pass>,
    leave: Leave,
    /// It is to see whether the host still fails.
    canary: bool,
    /// What was lifted before it was given: [`Account::lifted`], [`Host::recoveries`] and [`Commits::lifted`].
    lifted: [u64; 3],
}

/// Who may be asked for again when a job ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Providers that found no room.
    pub release: Vec<Arc<str>>,
    /// Providers whose jobs wait for another try, of which there is hope now.
    pub wake: Vec<Arc<str>>,
}

impl Budget {
    /// Nothing is known yet.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let mut key = [0; 32];
        rand::fill(&mut key).expect("the system has random numbers");
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let kept = Mutex::new(Kept { key, restored: HashMap::new() });
        Arc::new(Self { clock, kept, accounts: Mutex::default(), hosts: Mutex::default(), commits: Arc::default() })
    }

    /// Takes up what an earlier process was told, with the key by which it knew credentials. Before the first
    /// Provider has its part.
    pub fn restore(&self, key: [u8; 32], kept: Vec<Standing>) {
        let restored = kept.into_iter().map(|standing| (standing.credential, standing)).collect();
        *self.kept.lock() = Kept { key: hmac::Key::new(hmac::HMAC_SHA256, &key), restored };
    }

    /// A Provider's part.
    pub fn pass(&self, identity: &Caller<'_>) -> Arc<Pass> {
        let now = self.clock.now();
        let host = identity.host.as_bytes();
        let account = {
            let mut accounts = self.accounts.lock();
            // What nobody uses is forgotten, but not that it must be left alone.
            accounts.retain(|_, account| Arc::strong_count(account) > 1 || account.lock().waits(now).is_some());
            let id = self.fingerprint(host, identity.credential);
            let new = || {
                let mut account = Account::at(identity.host, id, now);
                self.kept.lock().restored.remove(&id).inspect(|standing| account.restore(standing));
                Arc::new(Mutex::new(account))
            };
            let account = accounts.entry(id).or_insert_with(new).clone();
            let mut its = account.lock();
            its.meet(&identity.provider, identity.version);
            if identity.is_public {
                its.host.get_or_insert_with(|| identity.host.into());
            }
            drop(its);
            account
        };
        let host = {
            let mut hosts = self.hosts.lock();
            hosts.retain(|_, host| Arc::strong_count(host) > 1);
            let parts = [&[identity.service], identity.route].concat();
            hosts.entry(self.fingerprint(host, &parts)).or_default().clone()
        };
        let parts = [&[identity.service], identity.route, identity.credential].concat();
        let source = self.fingerprint(identity.host.as_bytes(), &parts);
        let source = Source(source.first_chunk().copied().expect("a fingerprint has 32 bytes"));
        let namespace = identity.namespace.clone();
        let (provider, repository) = (identity.provider.clone(), identity.repository.clone());
        let well = AtomicU64::new(0);
        let (clock, version) = (self.clock.clone(), identity.version);
        let (turn, writes, commits) = (Mutex::default(), Mutex::default(), self.commits.clone());
        let timeout = identity.timeout;
        Arc::new(Pass {
            clock,
            provider,
            namespace,
            source,
            timeout,
            version,
            repository,
            turn,
            account,
            host,
            commits,
            writes,
            well,
        })
    }

    /// What vendors say is left of their limits, by host: of several credentials there, the least. Hosts
    /// that no Provider names are left out, and so is what was said of a period that is over.
    pub fn left(&self) -> BTreeMap<Arc<str>, u64> {
        let now = self.clock.now();
        let (mut hosts, mut others) = (BTreeMap::new(), Vec::new());
        for account in self.accounts.lock().values().filter(|account| Arc::strong_count(account) > 1) {
            let account = account.lock();
            let Some(left) = account.left(now) else { continue };
            match &account.host {
                Some(host) => {
                    let least = hosts.entry(host.clone()).or_insert(left);
                    *least = left.min(*least);
                }
                None => others.push(left),
            }
        }
        while hosts.len() > MAX_HOSTS {
            others.extend(hosts.pop_last().map(|(_, left)| left));
        }
        hosts.extend(others.into_iter().min().map(|left| (OTHER.into(), left)));
        hosts
    }

    fn fingerprint(&self, host: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.kept.lock().key);
        for part in [host].iter().chain(parts) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.sign().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    /// The Provider or a Secret of it changed, to this version: what was refused in an earlier one may be
    /// granted now. Waits stand. Gives all the Providers that held something back for the same reason, and has
    /// kept what other processes are to know.
    pub fn forget_refusals(&self, provider: &str, version: u64, mut keep: impl FnMut(Standing)) -> Vec<Arc<str>> {
        let accounts: Vec<_> = self.accounts.lock().values().cloned().collect();
        let mut held = self.commits.lock().forget(provider, version);
        for account in accounts {
            let mut account = account.lock();
            let of_it = account.forget_refusals(provider, version);
            if !of_it.is_empty() {
                held.extend(of_it);
                account.unsaved(self.clock.now()).into_iter().for_each(|(standing, _)| keep(standing));
            }
        }
        held
    }
}

/// Takes so many out.
fn take(from: &mut HashSet<Arc<str>>, count: usize) -> Vec<Arc<str>> {
    if count >= from.len() {
        return from.drain().collect();
    }
    let some: Vec<_> = from.iter().take(count).cloned().collect();
    some.iter().for_each(|provider| {
        from.remove(provider);
    });
    some
}

impl Pass {
    /// Tells the credential at its host from all others; of this process alone.
    pub fn credential(&self) -> u64 {
        self.account.lock().fingerprint()
    }

    /// Asks leave for a job.
    ///
    /// # Errors
    /// Not now; ask again then, or when the Provider is [`Freed`].
    pub fn admit(self: &Arc<Self>) -> Result<Ticket, Instant> {
        let now = self.clock.now();
        let mut account = self.account.lock();
        let mut host = self.host.lock();
        if let Some(wait) = account.waits(now) {
            host.pass_over(&self.provider);
            return Err(wait.until);
        }
        host.has_room(self.owner(), now)?;
        let leave = account.admit(&self.provider, &self.repository, now);
        // Who cannot go lets others have its turn there.
        let leave = leave.inspect_err(|_| host.pass_over(&self.provider))?;
        let canary = host.begin(self.owner(), now);
        let lifted = [account.lifted(), host.recoveries(), self.commits.lock().lifted()];
        Ok(Ticket { pass: self.clone(), leave, canary, lifted })
    }

    /// Whether a request may go out by then at all, as far as is known: not during a wait that ends
    /// later, and neither while its like are refused, nor while the host fails, and the next canary goes
    /// out later.
    pub fn may_go_by(&self, by: Instant) -> bool {
        let account = self.account.lock();
        account.waits(by).is_none()
            && !account.refuses(&self.repository, by)
            && self.host.lock().may_go_by(&self.namespace, by)
    }

    /// Asks whether the like of a job was refused, unless its ticket says that it is the canary.
    ///
    /// # Errors
    /// It was: [`SendError::Held`].
    pub fn check(&self, ticket: Option<&Ticket>) -> Result<(), SendError> {
        let its = ticket.filter(|ticket| Arc::ptr_eq(&ticket.pass.account, &self.account));
        let leave = its.map(|ticket| &ticket.leave);
        self.account.lock().check(leave, self.whose(), self.clock.now())
    }

    /// Asks whether the like of a status was refused: its commit, or its name there.
    ///
    /// # Errors
    /// It was: [`SendError::Held`], or [`SendError::Hopeless`].
    pub fn check_status(&self, about: About<'_>) -> Result<(), SendError> {
        self.commits.lock().check(self.place(), about, self.clock.now())
    }

    /// Why its like is left alone, for a job that was let through a moment ago.
    pub fn held(&self, about: About<'_>) -> Option<SendError> {
        let now = self.clock.now();
        let held = self.account.lock().held(&self.repository, now);
        held.or_else(|| self.commits.lock().held(self.place(), about, now))
    }

    /// What keeps requests from going out now: what a wait, a refusal or the host's failing began with.
    pub fn held_by(&self) -> Option<SendError> {
        let now = self.clock.now();
        let account = self.account.lock();
        let wait = account.waits(now).map(|wait| wait.because.clone());
        wait.or_else(|| account.held(&self.repository, now)).or_else(|| self.host.lock().fails_with().cloned())
    }

    /// Notes what came of a try when that concerns a job's like; how long these are left alone. `read`: the try
    /// ended with a read.
    pub fn note(&self, error: &SendError, read: bool, about: Option<About<'_>>) -> Option<Duration> {
        let now = self.clock.now();
        let Verdict::Park(mut scope) = verdict::verdict(error) else { return None };
        if let (Scope::Commit, Some(about)) = (&scope, about) {
            let absent = !error.is_forbidden();
            if absent || (!read && !self.may_write_none(&about.status.commit)) {
                return Some(self.commits.lock().note(self.place(), about, (error, absent, read), now));
            }
            scope = Scope::Repository(self.repository.clone());
        }
        self.account.lock().note(&account::Told { error, scope, read }, self.whose(), now)
    }

    /// Notes that a status can never be written.
    pub fn give_up(&self, error: &SendError, about: About<'_>) {
        if matches!(error, SendError::Status { .. }) {
            self.commits.lock().give_up(self.place(), about, error, self.clock.now());
        }
    }

    /// Whether a commit that may not be written is one too many, so that it is the repository's fault.
    fn may_write_none(&self, commit: &Arc<str>) -> bool {
        let RefusedWrites { worked, commits } = &mut *self.writes.lock();
        let most = if *worked { MANY_MORE_COMMITS } else { MANY_COMMITS };
        if commits.len() < most && !commits.contains(commit) {
            commits.push(commit.clone());
        }
        commits.len() >= most
    }

    /// How long nothing may be sent, because the vendor said so.
    pub fn waits(&self) -> Option<Duration> {
        let now = self.clock.now();
        Some(self.account.lock().waits(now)?.until - now)
    }

    /// Whether the host is left alone but for canaries, and whether one is under way.
    pub fn host_fails(&self) -> (bool, bool) {
        self.host.lock().fails()
    }

    /// When it is the turn of a job that failed for long: however many they are, one is tried every 10 s.
    pub fn turn(&self) -> Duration {
        let now = self.clock.now();
        let mut last = self.turn.lock();
        let next = last.map_or(now, |last| last.max(now)) + BETWEEN_TURNS;
        let pause = next - now;
        if pause > LAST_TURN {
            return BETWEEN_TURNS + (LAST_TURN - BETWEEN_TURNS).mul_f64(fastrand::f64());
        }
        *last = Some(next);
        pause
    }

    /// How long the host has worked since it failed last: nothing while it fails, and for ever where it never did.
    pub fn host_well_for(&self) -> Option<Duration> {
        self.host.lock().well_for(self.clock.now())
    }

    /// A job was delivered or, when `read`, a read of it worked, which says nothing of whether one may write:
    /// what that proves wrong is refused no more. Gives the Providers that held some back.
    pub fn worked(&self, read: bool, about: Option<About<'_>>) -> Vec<Arc<str>> {
        if !read && about.is_some() {
            *self.writes.lock() = RefusedWrites { worked: true, commits: Vec::new() };
        }
        let mut held = self.account.lock().worked(read, &self.repository);
        held.extend(about.into_iter().flat_map(|about| self.commits.lock().worked(self.place(), about, read)));
        held
    }

    /// Somebody wants its like tried now, whatever was refused: the next job is a canary. Waits stand.
    pub fn try_refused(&self) {
        self.account.lock().try_refused(&self.repository, self.clock.now());
    }

    /// How many requests were answered well.
    pub fn answered_well(&self) -> u64 {
        self.well.load(Ordering::Relaxed)
    }

    /// Has kept what the credential was told and no other process knows yet: under a lock, so that what was told
    /// last is kept last. Until when the vendor asked to wait just now, and with what.
    pub fn save(&self, keep: impl FnOnce(Standing)) -> Option<(Instant, SendError)> {
        let mut account = self.account.lock();
        let (standing, news) = account.unsaved(self.clock.now())?;
        let news = standing.wait.zip(news);
        keep(standing);
        news
    }

    /// Namespace of the Provider.
    pub fn namespace(&self) -> &Arc<str> {
        &self.namespace
    }

    /// UID of the Provider.
    pub fn provider(&self) -> &Arc<str> {
        &self.provider
    }

    /// The Provider has no use for its turn at the host now.
    pub fn pass_over(&self) {
        self.host.lock().pass_over(&self.provider);
    }

    /// Who vouches for what is answered.
    pub fn source(&self) -> Source {
        self.source
    }

    /// One request of the Provider may take this long.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    fn owner(&self) -> Owner<'_> {
        Owner { provider: &self.provider, namespace: &self.namespace }
    }

    fn place(&self) -> Place<'_> {
        let Self { source, repository, provider, version, .. } = self;
        Place { source: *source, repository, provider, version: *version }
    }

    fn whose(&self) -> Whose<'_> {
        Whose { provider: &self.provider, version: self.version, repository: &self.repository }
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
        if error.is_none() {
            self.well.fetch_add(1, Ordering::Relaxed);
        }
        let told = match error.map(verdict::verdict) {
            None => pause,
            Some(Verdict::Wait(pause)) => Some(pause),
            Some(_) => None,
        };
        self.account.lock().answered(error, told, now);
        self.host.lock().answered(error, told.is_some(), self.owner(), now);
    }

    fn left(&self, left: Left) {
        self.account.lock().note_left(left, self.clock.now());
    }
}

impl Ticket {
    /// Whether it is to see how the host fares, which any job shows.
    pub fn is_canary(&self) -> bool {
        self.canary
    }

    /// Whether something is tried again since it was given that had been refused or had failed: who waits
    /// for that was woken, but not a job that was under way then.
    pub fn is_outdated(&self) -> bool {
        let lifted = self.pass.account.lock().lifted();
        [lifted, self.pass.host.lock().recoveries(), self.pass.commits.lock().lifted()] != self.lifted
    }

    /// The job ended; `wrote`: it may have changed something at the vendor.
    pub fn end(self, wrote: bool) -> Freed {
        let mut freed = Freed::default();
        self.pass.account.lock().end(&self.leave, wrote, self.pass.clock.now(), &mut freed);
        self.pass.host.lock().end(self.canary, &self.pass.namespace, &mut freed);
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TurnedClock;

    pub(super) const SECOND: Duration = Duration::from_secs(1);
    pub(super) const MINUTE: Duration = Duration::from_secs(60);

    pub(super) struct Scene {
        pub clock: Arc<TurnedClock>,
        pub budget: Arc<Budget>,
    }

    impl Scene {
        pub fn new() -> Self {
            let clock = TurnedClock::new();
            Self { budget: Budget::new(clock.clone()), clock }
        }

        pub fn pass(&self, provider: &str, host: &str, token: &str) -> Arc<Pass> {
            self.pass_in("apps", provider, host, token)
        }

        pub fn pass_in(&self, namespace: &str, provider: &str, host: &str, token: &str) -> Arc<Pass> {
            self.budget.pass(&Caller {
                provider: provider.into(),
                namespace: namespace.into(),
                version: 1,
                host,
                is_public: !host.starts_with("secret"),
                credential: &[token.as_bytes()],
                route: &[],
                service: b"statuses",
                repository: "acme/fleet".into(),
                timeout: 15 * SECOND,
            })
        }

        /// How long until this Provider may be asked for again; nothing when it may go now.
        pub fn left(&self, pass: &Arc<Pass>) -> Duration {
            match pass.admit() {
                Ok(ticket) => {
                    ticket.end(false);
                    Duration::ZERO
                }
                Err(until) => until - self.clock.now(),
            }
        }
    }

    pub(super) fn status(code: u16, seconds: Option<u64>, body: &str) -> SendError {
        SendError::Status {
            status: http::StatusCode::from_u16(code).expect("valid"),
            retry_after: seconds.map(Duration::from_secs),
            body: body.to_owned(),
        }
    }

    #[test]
    fn what_is_left_of_a_limit_is_told_by_host_for_as_long_as_it_counts() {
        let scene = Scene::new();
        let told = |pass: &Pass, requests, seconds: Option<u64>| {
            pass.left(crate::outbound::Left { requests, resets: seconds.map(Duration::from_secs) });
        };
        let left = || scene.budget.left().into_iter().map(|(host, left)| (host.to_string(), left)).collect::<Vec<_>>();
        let of = |host: &str, left| (host.to_owned(), left);
        let one = scene.pass("one", "git.example.org", "token");
        let other = scene.pass("other", "git.example.org", "another");
        let elsewhere = scene.pass("elsewhere", "example.org", "token");
        let hidden = scene.pass("hidden", "secret.example.org", "token");
        assert_eq!(left(), [], "nobody said anything");
        told(&one, 7, Some(30));
        told(&other, 9, Some(60));
        told(&elsewhere, 1, Some(u64::MAX));
        told(&elsewhere, 4000, None);
        told(&hidden, 3, None);
        assert_eq!(left(), [of("example.org", 4000), of("git.example.org", 7), of("other", 3)]);
        told(&one, 6, Some(30));
        assert_eq!(left()[1].1, 6, "what was said last counts");
        scene.clock.turn(30 * SECOND);
        assert_eq!(left()[1].1, 9, "the limit of the first began anew");
        drop(other);
        assert_eq!(left(), [of("example.org", 4000), of("other", 3)], "no Provider has the credential any more");
        drop(hidden);
        scene.clock.turn(60 * MINUTE);
        assert_eq!(left(), []);

        let all: Vec<_> = (0..MAX_HOSTS as u64 + 6)
            .map(|number| {
                let pass = scene.pass("many", &format!("{number:03}.example.org"), "token");
                told(&pass, 100 + number, None);
                pass
            })
            .collect();
        let seen = left();
        assert_eq!((seen.len(), &seen[MAX_HOSTS]), (MAX_HOSTS + 1, &of("other", 100 + MAX_HOSTS as u64)));
        drop(all);
    }

    #[test]
    fn what_is_held_for_longer_is_known_not_to_go() {
        let scene = Scene::new();
        let at = |seconds: u64| scene.clock.now() + Duration::from_secs(seconds);
        let waits = scene.pass("waits", "git.example.org", "waits");
        assert_eq!(waits.held_by(), None);
        waits.answered(Some(&status(429, Some(30), "")), None);
        assert_eq!(waits.held_by(), Some(status(429, Some(30), "")));
        assert!(!waits.may_go_by(at(29)) && waits.may_go_by(at(30)));

        let refused = scene.pass("refused", "git.example.org", "refused");
        assert!(refused.may_go_by(at(0)));
        refused.note(&status(403, None, ""), true, None);
        assert!(!refused.may_go_by(at(599)) && refused.may_go_by(at(600)));
        assert!(
            matches!(refused.held_by(), Some(SendError::Held { because, .. }) if *because == status(403, None, ""))
        );
        refused.note(&status(401, None, ""), true, None);
        scene.clock.turn(2 * SECOND);
        refused.note(&status(401, None, ""), true, None);
        assert!(!refused.may_go_by(at(599)) && refused.may_go_by(at(600)), "the second in a row");

        let fails = scene.pass("fails", "example.org", "fails");
        (0..3).for_each(|_| fails.answered(Some(&SendError::Timeout), None));
        assert!(!fails.may_go_by(at(9)) && fails.may_go_by(at(10)));
        assert_eq!(fails.held_by(), Some(SendError::Timeout));
        fails.answered(None, None);
        assert_eq!(fails.held_by(), None);
        assert!(fails.may_go_by(at(0)));
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

    #[test]
    fn jobs_that_fail_for_long_take_turns() {
        let scene = Scene::new();
        let pass = scene.pass("one", "git.example.org", "token");
        let turns: Vec<_> = (1..=60).map(|_| pass.turn()).collect();
        assert!(turns.iter().zip(1..).all(|(turn, number)| *turn == number * BETWEEN_TURNS), "{turns:?}");
        assert!((0..100).all(|_| (BETWEEN_TURNS..=LAST_TURN).contains(&pass.turn())), "and no later");
        scene.clock.turn(2 * LAST_TURN);
        assert_eq!([pass.turn(), pass.turn()], [BETWEEN_TURNS, 2 * BETWEEN_TURNS], "what is past is past");
    }
}
