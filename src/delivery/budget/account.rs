//! What a credential is told at a host: waits that the vendor named, refusals, and, at GitHub, limits of
//! our own. The budget asks and tells it; time comes in with each call.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pace::{GITHUB_AT_ONCE, Pace};
use super::{Freed, NO_ROOM, take};
use crate::delivery::verdict::{self, Scope};
use crate::outbound::{Left, SendError};
use crate::outbox::{self, Standing};

/// What is left of a limit counts this long where the vendor does not say when the limit begins anew:
/// the longest period of those we know (GitHub, Bitbucket Cloud).
const LEFT_COUNTS: Duration = Duration::from_secs(3600);

/// And no longer than this, whatever it says.
const LEFT_COUNTS_LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A credential at a host.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// What it is known by.
    id: [u8; 32],
    /// What other processes were told of it: see [`Account::unsaved`].
    saved: (Option<Instant>, Option<outbox::Refusal>),
    /// The host's name, where everybody may read it.
    pub host: Option<Arc<str>>,
    wait: Option<Wait>,
    /// Waits whose length the vendor did not name, since something was delivered last: where only writes
    /// are limited, a read that works says nothing.
    unnamed: u32,
    refusals: HashMap<Scope, Refusal>,
    pace: Option<Pace>,
    /// What the vendor last said is left of its limit, and until when that counts.
    left: Option<(u64, Instant)>,
    under_way: usize,
    /// Providers that found no room.
    waiting: HashSet<Arc<str>>,
    /// How often something was lifted that had been refused.
    lifted: u64,
}

/// What became of a try.
pub(super) struct Told<'a> {
    pub error: &'a SendError,
    /// What it is about.
    pub scope: Scope,
    /// It was a read.
    pub read: bool,
}

/// What a job may do at a host with a credential.
#[derive(Debug)]
pub(super) struct Leave {
    /// It is the first after a wait.
    first: bool,
    /// Refusals that it is to try: it is their canary.
    tries: Vec<Scope>,
}

#[derive(Debug)]
pub(super) struct Wait {
    pub until: Instant,
    pub because: SendError,
    /// It is over, and one job is under way to see whether that is so.
    tried: bool,
}

#[derive(Debug)]
struct Refusal {
    because: SendError,
    /// When a canary goes out.
    until: Instant,
    /// How often it was refused in a row.
    times: u32,
    /// How often its newest token was, while that was new.
    new: u32,
    /// One is under way.
    canary: bool,
    /// It was a read that was refused, so one that works is proof enough.
    read: bool,
    /// Providers with jobs that it holds, in the version that the first of these came in: a later one may
    /// have mended it.
    holds: HashMap<Arc<str>, u64>,
}

/// Whose job it is.
#[derive(Clone, Copy)]
pub(super) struct Whose<'a> {
    pub provider: &'a Arc<str>,
    /// Of the Provider with its Secrets.
    pub version: u64,
    pub repository: &'a Arc<str>,
}

impl Account {
    /// Of a credential that was told nothing at this host yet.
    pub fn at(host: &str, id: [u8; 32], now: Instant) -> Self {
        Self { id, pace: Pace::at(host, now), ..Self::default() }
    }

    /// A part of what the credential is known by.
    pub fn fingerprint(&self) -> u64 {
        self.id.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    // === For other processes ===

    /// Takes up what an earlier process was told.
    pub fn restore(&mut self, standing: &Standing) {
        self.saved = (standing.wait, standing.refusal);
        if let Some(until) = standing.wait {
            self.wait(until, SendError::AskedToWait);
        }
        if let Some(outbox::Refusal { status, until, times }) = standing.refusal {
            let (because, holds) = (SendError::of_refusal(status), HashMap::new());
            let refusal = Refusal { because, until, times, new: 0, canary: false, read: true, holds };
            self.refusals.insert(Scope::Credential, refusal);
        }
    }

    /// A Provider has this credential: of one that was refused, also a Provider that has nothing to say yet may
    /// be changed to mend it.
    pub fn meet(&mut self, provider: &Arc<str>, version: u64) {
        if let Some(refusal) = self.refusals.get_mut(&Scope::Credential) {
            refusal.holds.entry(provider.clone()).or_insert(version);
        }
    }

    /// What other processes are to be told of it, when that is not what they were told last; given once. Also
    /// what it was told to wait for, when that is news.
    pub fn unsaved(&mut self, now: Instant) -> Option<(Standing, Option<SendError>)> {
        let wait = self.wait.as_ref().filter(|wait| wait.until > now);
        let refusal = self.refusals.get(&Scope::Credential).and_then(|refusal| {
            let Refusal { until, times, .. } = *refusal;
            Some(outbox::Refusal { status: refusal.because.refusal()?, until, times })
        });
        let stand = (wait.map(|wait| wait.until), refusal);
        // A wait that is over by time is over for all. A refusal stands until a request proves it wrong.
        let saved = (self.saved.0.filter(|until| *until > now), self.saved.1);
        if stand == saved {
            return None;
        }
        let news = wait.filter(|wait| saved.0 != Some(wait.until)).map(|wait| wait.because.clone());
        self.saved = stand;
        Some((Standing { credential: self.id, wait: stand.0, refusal: stand.1 }, news))
    }

    // === Waits that the vendor named ===

    pub fn waits(&self, now: Instant) -> Option<&Wait> {
        self.wait.as_ref().filter(|wait| wait.until > now)
    }

    fn wait(&mut self, until: Instant, because: SendError) {
        if self.wait.as_ref().is_none_or(|wait| wait.until < until) {
            self.wait = Some(Wait { until, because, tried: false });
        }
    }

    /// A request was answered; `told`: how long the answer asks to be left alone.
    pub fn answered(&mut self, error: Option<&SendError>, told: Option<Duration>, now: Instant) {
        let unnamed = error.is_some_and(SendError::is_unnamed_limit);
        // Many were under way together: they count as one.
        if self.waits(now).is_none() {
            self.unnamed += u32::from(unnamed);
            if unnamed || error.is_some_and(SendError::is_secondary_limit) {
                self.pace.iter_mut().for_each(|pace| pace.limited(now));
            }
        }
        if let Some(pause) = told.filter(|pause| !pause.is_zero()) {
            let doubled = if unnamed { 2u32.pow(self.unnamed.saturating_sub(1).min(6)) } else { 1 };
            let pause = (pause * doubled).min(verdict::LONGEST_WAIT);
            self.wait(now + pause, error.cloned().unwrap_or(SendError::AskedToWait));
        } else if matches!(error, None | Some(SendError::Status { .. })) && self.waits(now).is_none() {
            self.wait = None;
        }
    }

    /// An answer says what is left of the vendor's limit.
    pub fn note_left(&mut self, left: Left, now: Instant) {
        self.left = Some((left.requests, now + left.resets.unwrap_or(LEFT_COUNTS).min(LEFT_COUNTS_LONGEST)));
    }

    /// What is left of the vendor's limit, if it said so and the limit did not begin anew since.
    pub fn left(&self, now: Instant) -> Option<u64> {
        self.left.filter(|(_, until)| *until > now).map(|(left, _)| left)
    }

    // === Room for a job ===

    /// Takes leave for a job while there is no wait. Where there are no limits of our own, one goes first
    /// after a wait, and the others when that was answered: all that waited would be too many at once. The
    /// same holds for a canary: what comes due while it is under way stays where it is until it ended.
    ///
    /// # Errors
    /// Not before then.
    pub fn admit(&mut self, provider: &Arc<str>, repository: &Arc<str>, now: Instant) -> Result<Leave, Instant> {
        let full = self.pace.is_some() && self.under_way >= GITHUB_AT_ONCE;
        let Some(tries) = self.due_refusals(repository, now).filter(|_| !full) else {
            self.waiting.insert(provider.clone());
            return Err(now + NO_ROOM);
        };
        if let Some(pace) = &mut self.pace {
            pace.take(now)?;
        }
        let wait = self.wait.as_mut().filter(|_| self.pace.is_none());
        if wait.as_ref().is_some_and(|wait| wait.tried) {
            self.waiting.insert(provider.clone());
            return Err(now + NO_ROOM);
        }
        let first = wait.map(|wait| wait.tried = true).is_some();
        for scope in &tries {
            self.refusals.get_mut(scope).into_iter().for_each(|refusal| refusal.canary = true);
        }
        self.under_way += 1;
        Ok(Leave { first, tries })
    }

    /// Refusals that a job would try if it went now; `None` while another one tries one of them.
    fn due_refusals(&self, repository: &Arc<str>, now: Instant) -> Option<Vec<Scope>> {
        let mut due = Vec::new();
        if self.refusals.is_empty() {
            return Some(due);
        }
        for scope in scopes(repository) {
            match self.refusals.get(&scope) {
                None => {}
                // It will not get far, and is told so.
                Some(refusal) if refusal.until > now => return Some(Vec::new()),
                Some(refusal) if refusal.canary => return None,
                Some(_) => due.push(scope),
            }
        }
        Some(due)
    }

    /// A job with this leave ended; who found no room before and may find some now. Of a canary that brought
    /// nothing to light, also whoever was put off: an operator may have sent it long before they are due.
    pub fn end(&mut self, leave: &Leave, wrote: bool, now: Instant, freed: &mut Freed) {
        self.under_way -= 1;
        if let Some(wait) = self.wait.as_mut().filter(|_| leave.first) {
            wait.tried = false;
        }
        for scope in &leave.tries {
            let Some(refusal) = self.refusals.get_mut(scope) else { continue };
            refusal.canary = false;
            if refusal.until <= now {
                // Once: whoever is put off again says so again.
                freed.wake.extend(refusal.holds.drain().map(|(provider, _)| provider));
            }
        }
        let Some(pace) = &mut self.pace else { return freed.release.extend(self.waiting.drain()) };
        pace.end(wrote);
        freed.release.extend(take(&mut self.waiting, GITHUB_AT_ONCE.saturating_sub(self.under_way)));
    }

    // === Refusals ===

    /// See [`super::Pass::check`]; `leave`: what the job has, when that is of this account.
    pub fn check(&mut self, leave: Option<&Leave>, whose: Whose<'_>, now: Instant) -> Result<(), SendError> {
        if self.refusals.is_empty() {
            return Ok(());
        }
        for scope in scopes(whose.repository) {
            let Some(refusal) = self.refusals.get_mut(&scope) else { continue };
            let pause = match refusal.until {
                until if until > now => until - now,
                _ if leave.is_some_and(|leave| leave.tries.contains(&scope)) => continue,
                // It came due a moment ago: the next that is let through tries it.
                _ => NO_ROOM,
            };
            refusal.holds.entry(whose.provider.clone()).or_insert(whose.version);
            return Err(SendError::Held { pause, told: false, because: Box::new(refusal.because.clone()) });
        }
        Ok(())
    }

    /// See [`super::Pass::held`].
    pub fn held(&self, repository: &Arc<str>, now: Instant) -> Option<SendError> {
        let refusal = self.refusal_past(repository, now)?;
        let pause = refusal.until - now;
        Some(SendError::Held { pause, told: false, because: Box::new(refusal.because.clone()) })
    }

    /// Whether nothing of the like may be tried by then.
    pub fn refuses(&self, repository: &Arc<str>, by: Instant) -> bool {
        self.refusal_past(repository, by).is_some()
    }

    /// A refusal of the like that stands for longer than until then.
    fn refusal_past(&self, repository: &Arc<str>, by: Instant) -> Option<&Refusal> {
        let mut refusals = scopes(repository).into_iter().filter_map(|scope| self.refusals.get(&scope));
        refusals.find(|refusal| refusal.until > by)
    }

    /// Notes what came of a job when that concerns its like; how long these are left alone. Those that
    /// were under way together count as one.
    pub fn note(&mut self, told: &Told<'_>, whose: Whose<'_>, now: Instant) -> Option<Duration> {
        let Told { error, read, .. } = *told;
        let (scope, pause): (_, fn(u32) -> Duration) = match told.scope {
            Scope::Credential => (Scope::Credential, verdict::refused),
            Scope::Route => (Scope::Route, verdict::refused),
            Scope::Repository(_) => (Scope::Repository(whose.repository.clone()), verdict::parked),
            Scope::Commit => return None,
        };
        let refusal = self.refusals.entry(scope).or_insert_with(|| Refusal {
            because: error.clone(),
            until: now,
            times: 0,
            new: 0,
            canary: false,
            read,
            holds: HashMap::new(),
        });
        refusal.holds.entry(whose.provider.clone()).or_insert(whose.version);
        if refusal.until <= now {
            let (count, pause) = match error {
                SendError::NewToken => (&mut refusal.new, verdict::new_token as fn(u32) -> Duration),
                _ => (&mut refusal.times, pause),
            };
            refusal.until = now + pause(*count);
            *count = count.saturating_add(1);
            if !matches!(error, SendError::NewToken) {
                refusal.new = 0;
            }
            (refusal.because, refusal.read) = (error.clone(), read);
        }
        Some(refusal.until - now)
    }

    /// Something of the like worked: a `read`, or what was to be told. What was refused before and is
    /// proved wrong by that is so no more; gives the Providers that held some back.
    pub fn worked(&mut self, read: bool, repository: &Arc<str>) -> Vec<Arc<str>> {
        if !read {
            self.unnamed = 0;
        }
        if self.refusals.is_empty() {
            return Vec::new();
        }
        let scopes = scopes(repository);
        self.lift(|scope, refusal| scopes.contains(scope) && (refusal.read || !read))
    }

    /// See [`super::Budget::forget_refusals`].
    pub fn forget_refusals(&mut self, provider: &str, version: u64) -> Vec<Arc<str>> {
        self.lift(|_, refusal| refusal.holds.get(provider).is_some_and(|held| *held < version))
    }

    /// See [`super::Pass::try_refused`].
    pub fn try_refused(&mut self, repository: &Arc<str>, now: Instant) {
        for scope in scopes(repository) {
            let Some(refusal) = self.refusals.get_mut(&scope).filter(|refusal| refusal.until > now) else { continue };
            refusal.until = now;
            // Who is asked for it is not left alone for longer than if nobody had.
            refusal.times = refusal.times.saturating_sub(1);
            self.lifted += 1;
        }
    }

    fn lift(&mut self, of: impl Fn(&Scope, &Refusal) -> bool) -> Vec<Arc<str>> {
        let lifted = self.refusals.extract_if(|scope, refusal| of(scope, refusal));
        let holds: Vec<_> = lifted.flat_map(|(_, refusal)| refusal.holds.into_keys()).collect();
        self.lifted += u64::from(!holds.is_empty());
        holds
    }

    /// Rises whenever something is tried again that was refused: what was put off for that reason may go.
    pub fn lifted(&self) -> u64 {
        self.lifted
    }
}

/// What a refusal may be about.
fn scopes(repository: &Arc<str>) -> [Scope; 3] {
    [Scope::Credential, Scope::Route, Scope::Repository(repository.clone())]
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MINUTE, SECOND, Scene, status};
    use super::super::{Pass, Ticket};
    use super::*;
    use crate::clock::Clock;
    use crate::outbound::Gate;

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
        let (standing, because) = unsaved(&twin).expect("it is news");
        assert_eq!((standing.wait, standing.refusal), (Some(until), None));
        assert_eq!(because, Some(status(429, Some(30), "")));
        assert_eq!(unsaved(&one), None);
        drop((one, twin));
        let again = scene.pass("again", "git.example.org", "token");
        assert_eq!(scene.left(&again), 30 * SECOND);
        scene.clock.turn(30 * SECOND);
        assert_eq!(again.enter(), Ok(()));
        assert_eq!(scene.left(&again), Duration::ZERO);

        // As a good answer asks.
        again.answered(None, Some(5 * SECOND));
        assert_eq!(scene.left(&again), 5 * SECOND);
    }

    #[test]
    fn after_a_wait_one_goes_first_and_the_rest_when_it_was_answered() {
        let scene = Scene::new();
        let one = scene.pass("one", "git.example.org", "token");
        let twin = scene.pass("twin", "git.example.org", "token");
        let other = scene.pass("other", "git.example.org", "another");
        let limit = status(429, Some(30), "");
        let release = |ticket: Ticket| ticket.end(true).release.into_iter().collect::<HashSet<_>>();
        one.answered(Some(&limit), None);
        scene.clock.turn(30 * SECOND);
        let first = one.admit().expect("it is over");
        for held in [&one, &twin] {
            assert_eq!(scene.left(held), NO_ROOM);
        }
        assert_eq!(scene.left(&other), Duration::ZERO);
        // It is not over yet.
        one.answered(Some(&limit), None);
        assert_eq!(release(first), HashSet::from(["one".into(), "twin".into()]));
        assert_eq!(scene.left(&twin), 30 * SECOND);
        scene.clock.turn(30 * SECOND);

        // One that sends nothing makes way for the next, and so does one that is not answered.
        one.admit().expect("one").end(false);
        let first = twin.admit().expect("the next");
        twin.answered(Some(&SendError::Timeout), None);
        assert_eq!(scene.left(&one), NO_ROOM);
        assert_eq!(release(first), HashSet::from(["one".into()]));
        let _first = one.admit().expect("the next");
        assert_eq!(scene.left(&twin), NO_ROOM);
        // Whatever the answer says, if it is not to wait.
        one.answered(Some(&status(404, None, "")), None);
        let all: Vec<_> = [&one, &twin, &one].map(|pass| pass.admit().expect("all")).into_iter().collect();
        drop(all);

        // At github.com our own limits see to it.
        let hub = scene.pass("hub", "github.com", "token");
        hub.answered(Some(&limit), None);
        scene.clock.turn(30 * SECOND);
        let _two = [hub.admit().expect("one"), hub.admit().expect("another")];
    }

    #[test]
    fn a_limit_without_a_time_waits_twice_as_long_each_time() {
        let scene = Scene::new();
        let pass = scene.pass("one", "github.example.org", "token");
        let limit = status(403, None, "You have exceeded a secondary rate limit");
        for limit in [limit, status(429, None, "Retry later")] {
            for minutes in [1, 2, 4, 8, 16, 32, 64, 64] {
                pass.answered(None, None);
                pass.answered(Some(&limit), None);
                // Others that were under way make it no longer.
                pass.answered(Some(&limit), None);
                assert_eq!(scene.left(&pass), minutes * MINUTE);
                scene.clock.turn(minutes * MINUTE);
            }
            pass.worked(false, None);
        }
    }

    #[test]
    fn a_refused_credential_is_tried_at_once_after_a_change() {
        let scene = Scene::new();
        let one = scene.pass("one", "git.example.org", "token");
        let twin = scene.pass("twin", "git.example.org", "token");
        assert_eq!(tried(&one), Ok(()), "nothing is known");
        assert_eq!(one.note(&status(401, None, ""), true, None), Some(2 * SECOND));
        assert!(matches!(tried(&twin), Err(SendError::Held { told: false, .. })));
        scene.clock.turn(2 * SECOND);
        assert_eq!(one.note(&status(401, None, ""), true, None), Some(10 * MINUTE), "the second in a row");
        assert!(matches!(tried(&twin), Err(SendError::Held { told: false, .. })));
        assert!(lifted(&scene, "a third", 2).is_empty());
        assert!(tried(&one).is_err());
        assert!(tried(&scene.pass("one", "git.example.org", "a better token")).is_ok());
        assert!(lifted(&scene, "twin", 1).is_empty(), "it is known to be refused as it is");
        let mut woken = lifted(&scene, "twin", 2);
        woken.sort();
        assert_eq!(woken, ["one".into(), "twin".into()], "whoever waits for the same");
        assert!(tried(&one).is_ok());
    }

    fn lifted(scene: &Scene, provider: &str, version: u64) -> Vec<Arc<str>> {
        scene.budget.forget_refusals(provider, version, drop)
    }

    /// What other processes are to be told, and whether they were told to wait.
    fn unsaved(pass: &Pass) -> Option<(Standing, Option<SendError>)> {
        let mut kept = None;
        let news = pass.save(|standing| kept = Some(standing));
        kept.map(|standing| (standing, news.map(|(_, because)| because)))
    }

    #[test]
    fn what_a_credential_was_told_holds_for_another_process() {
        let key = [7; 32];
        let earlier = Scene::new();
        earlier.budget.restore(key, Vec::new());
        let once = earlier.pass("once", "git.example.org", "once");
        let twice = earlier.pass("twice", "git.example.org", "twice");
        let proxy = earlier.pass("proxy", "git.example.org", "proxy");
        let refused = status(401, None, "");
        twice.note(&SendError::of_refusal(203), true, None);
        earlier.clock.turn(2 * SECOND);
        twice.note(&SendError::of_refusal(203), true, None);
        once.note(&refused, true, None);
        proxy.note(&status(407, None, ""), true, None);
        let waits = earlier.pass("waits", "git.example.org", "waits");
        waits.answered(Some(&status(429, Some(30), "")), None);
        let kept: Vec<_> = [&waits, &once, &twice].map(|pass| unsaved(pass).expect("it is news").0).into();
        assert!([&waits, &once, &twice].iter().all(|pass| unsaved(pass).is_none()));
        assert_eq!(unsaved(&proxy), None, "another process may have another proxy");

        // By credential and host, whichever Provider has them.
        let later = Scene::new();
        later.budget.restore(key, shifted(&earlier, &later, kept.clone()));
        let waits = later.pass("another", "git.example.org", "waits");
        assert_eq!(
            (later.left(&waits), later.left(&later.pass("waits", "git.example.org", "new"))),
            (30 * SECOND, Duration::ZERO)
        );
        assert_eq!(later.left(&later.pass("waits", "example.org", "waits")), Duration::ZERO);
        let because = |pass: &Pass| match pass.check(None) {
            Err(SendError::Held { because, pause, .. }) => (*because, pause),
            other => panic!("{other:?}"),
        };
        let [once, twice] = ["once", "twice"].map(|name| later.pass(name, "git.example.org", name));
        assert_eq!(because(&once), (refused.clone(), 2 * SECOND));
        assert!(because(&twice).0.is_sign_in());
        assert_eq!(because(&twice).1, 10 * MINUTE);
        assert!([&waits, &once, &twice].iter().all(|pass| unsaved(pass).is_none()), "they know it");

        // A wait that is over by time is over for all; of a refusal the next try tells.
        later.clock.turn(10 * MINUTE);
        assert_eq!((tried(&once), tried(&twice)), (Ok(()), Ok(())));
        assert!([&waits, &once, &twice].iter().all(|pass| unsaved(pass).is_none()));
        assert_eq!(
            (once.note(&refused, true, None), twice.note(&refused, true, None)),
            (Some(10 * MINUTE), Some(20 * MINUTE))
        );
        assert_eq!(unsaved(&twice).and_then(|(standing, _)| Some(standing.refusal?.times)), Some(3));
        let mut told = Vec::new();
        assert_eq!(later.budget.forget_refusals("once", 1, |standing| told.push(standing)), []);
        assert_eq!(told, [], "it is as it was");
        assert_eq!(later.budget.forget_refusals("once", 2, |standing| told.push(standing)), ["once".into()]);
        assert_eq!(told, [Standing { credential: kept[1].credential, wait: None, refusal: None }]);

        // Another key says nothing of any.
        let other = Scene::new();
        other.budget.restore([8; 32], shifted(&earlier, &other, kept));
        assert_eq!(tried(&other.pass("twice", "git.example.org", "twice")), Ok(()));
    }

    /// The same by the clock of another scene.
    fn shifted(from: &Scene, to: &Scene, mut kept: Vec<Standing>) -> Vec<Standing> {
        let shift = |at: Instant| to.clock.now() + (at - from.clock.now());
        for standing in &mut kept {
            standing.wait = standing.wait.map(shift);
            standing.refusal.iter_mut().for_each(|refusal| refusal.until = shift(refusal.until));
        }
        kept
    }

    /// What a job is told that is let through, and sends nothing.
    fn tried(pass: &Arc<Pass>) -> Result<(), SendError> {
        let ticket = pass.admit().expect("leave");
        let told = pass.check(Some(&ticket));
        ticket.end(false);
        told
    }

    #[test]
    fn a_refused_repository_sends_one_canary_after_ten_minutes_doubling_to_an_hour() {
        let scene = Scene::new();
        let one = scene.pass("one", "git.example.org", "token");
        let twin = scene.pass("twin", "git.example.org", "token");
        let refused = status(403, None, "");
        for minutes in [10, 20, 40, 60, 60] {
            let canary = one.admit().expect("leave");
            assert_eq!(one.check(Some(&canary)), Ok(()));
            assert!(minutes == 10 || scene.left(&twin) == NO_ROOM, "what comes due meanwhile stays where it is");
            assert_eq!(one.note(&refused, false, None), Some(minutes * MINUTE));
            assert_eq!(
                twin.note(&refused, false, None),
                Some(minutes * MINUTE),
                "those under way together count as one"
            );
            assert_eq!(canary.end(true).release.len(), usize::from(minutes > 10));
            scene.clock.turn(minutes * MINUTE - SECOND);
            assert!(matches!(tried(&one), Err(SendError::Held { pause: SECOND, .. })));
            scene.clock.turn(SECOND);
        }
        // One that brings nothing to light makes way for the next at once, and so does one that only read.
        let canary = one.admit().expect("leave");
        assert_eq!(scene.left(&twin), NO_ROOM);
        assert_eq!(one.worked(true, None), []);
        let mut freed = canary.end(false);
        freed.wake.sort();
        assert_eq!((freed.release, freed.wake), (vec!["twin".into()], vec!["one".into(), "twin".into()]));
        assert_eq!(one.admit().expect("leave").end(false).wake, [], "nobody was put off since");
        let canary = twin.admit().expect("leave");
        assert_eq!(twin.check(Some(&canary)), Ok(()));
        assert_eq!(scene.left(&one), NO_ROOM);
        assert!(one.check(None).is_err(), "one at a time");
        let mut woken = twin.worked(false, None);
        woken.sort();
        assert_eq!(woken, ["one".into()]);
        assert!(tried(&one).is_ok());
        canary.end(true);
        // A commit that is not there says nothing of the repository.
        assert_eq!(one.note(&status(404, None, "404 Commit Not Found"), true, None), None);
        assert!(tried(&one).is_ok());
    }

    #[test]
    fn a_refused_credential_is_tried_after_two_seconds_then_ten_minutes_doubling_to_an_hour() {
        for refused in [status(401, None, ""), SendError::of_refusal(203), status(407, None, "")] {
            let scene = Scene::new();
            let one = scene.pass("one", "git.example.org", "token");
            let twin = scene.pass("twin", "git.example.org", "token");
            for pause in [2 * SECOND, 10 * MINUTE, 20 * MINUTE, 40 * MINUTE, 60 * MINUTE, 60 * MINUTE] {
                assert_eq!(one.note(&refused, true, None), Some(pause));
                assert_eq!(twin.note(&refused, true, None), Some(pause), "those under way together count as one");
                scene.clock.turn(pause - SECOND);
                assert!(matches!(tried(&twin), Err(SendError::Held { pause: SECOND, .. })));
                scene.clock.turn(SECOND);
                let canary = one.admit().expect("leave");
                assert_eq!((one.check(Some(&canary)), scene.left(&twin)), (Ok(()), NO_ROOM), "one at a time");
                canary.end(false);
            }
            one.worked(false, None);
            assert_eq!(one.note(&refused, true, None), Some(2 * SECOND), "it is no longer in a row");
        }
    }

    #[test]
    fn what_an_operator_wants_tried_is_a_canary_and_makes_no_wait_longer() {
        let scene = Scene::new();
        let one = scene.pass("one", "git.example.org", "token");
        let twin = scene.pass("twin", "git.example.org", "token");
        for refused in [status(403, None, ""), status(401, None, "")] {
            one.note(&refused, true, None);
            scene.clock.turn(10 * MINUTE);
            let pause = one.note(&refused, true, None).expect("it is held");
            for _ in 0..3 {
                assert_eq!(one.note(&refused, true, None), Some(pause));
                let before = one.admit().expect("leave");
                one.try_refused();
                assert!(before.is_outdated());
                let canary = one.admit().expect("leave");
                assert_eq!(one.check(Some(&canary)), Ok(()));
                assert_eq!(scene.left(&twin), NO_ROOM, "one at a time");
                assert_eq!(one.note(&refused, true, None), Some(pause));
                for ticket in [before, canary] {
                    ticket.end(true);
                }
                assert!(tried(&one).is_err());
            }
            one.worked(false, None);
        }
    }

    #[test]
    fn a_read_proves_wrong_what_refused_to_be_read() {
        let scene = Scene::new();
        let one = scene.pass("one", "git.example.org", "token");
        one.note(&status(404, None, ""), true, None);
        scene.clock.turn(10 * MINUTE);
        let canary = one.admit().expect("leave");
        assert_eq!(one.worked(true, None), ["one".into()]);
        canary.end(false);
        assert!(tried(&one).is_ok());
    }

    #[test]
    fn a_job_knows_that_what_held_it_was_lifted_while_it_was_under_way() {
        let scene = Scene::new();
        let one = scene.pass("one", "git.example.org", "token");
        let early = one.admit().expect("leave");
        one.note(&status(403, None, ""), true, None);
        let held = one.admit().expect("leave");
        assert!(one.check(Some(&held)).is_err());
        assert!(!early.is_outdated() && !held.is_outdated());
        one.worked(false, None);
        assert!(early.is_outdated() && held.is_outdated());
        let late = one.admit().expect("leave");
        one.worked(false, None);
        assert!(!late.is_outdated(), "there was nothing to lift");
        // So it is with a host that failed.
        (0..3).for_each(|_| one.answered(Some(&SendError::Timeout), None));
        assert!(!late.is_outdated());
        one.answered(None, None);
        assert!(late.is_outdated());
        for ticket in [early, held, late] {
            ticket.end(true);
        }
    }
}
