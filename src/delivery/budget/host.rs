//! Whether a host bears another request: how many at once, and what becomes of one that fails. The budget
//! asks and tells it; time comes in with each call.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::shares::Shares;
use super::{Freed, NO_ROOM};
use crate::outbound::SendError;

/// Jobs under way at a host at most: a quarter of all there may be, so that one host that hangs
/// leaves room for the others.
const MOST_PER_HOST: usize = 128;

/// Jobs under way at a host that did not answer yet, or failed lately; each answer makes room for one
/// more. Half of what one Provider may have, so that forty that hang at once leave room for others too.
const FIRST_PER_HOST: usize = 8;

/// A host fails when this much speaks against it in a row: three requests that brought no answer or
/// one of a gateway, or twelve times 500. A 500 may be about one commit (Gitea answers so for one
/// that it does not have).
const FAILS: u32 = 12;
const NO_ANSWER: u32 = 4;
const FAULT: u32 = 1;

/// While a host fails, one canary goes out this often (rule R9).
const CANARY: Duration = Duration::from_secs(10);

/// Whose turn it is not is asked again after this: all others in the line are within [`NO_ROOM`].
const NOT_ITS_TURN: Duration = Duration::from_secs(2);

/// Whose job it is.
#[derive(Clone, Copy)]
pub(super) struct Owner<'a> {
    pub provider: &'a Arc<str>,
    pub namespace: &'a Arc<str>,
}

/// A service at a host, by one route.
#[derive(Debug)]
pub(super) struct Host {
    against: u32,
    room: usize,
    under_way: Shares,
    /// It fails; the next canary goes out then.
    canary_at: Option<Instant>,
    canary: bool,
    /// What it failed with last.
    fails_with: Option<SendError>,
    /// Providers that found no room; while it fails they send the canaries in this order.
    waiting: Line,
    /// Of these, whoever asked since the next canary may go.
    asked: HashSet<Arc<str>>,
    /// Providers that failed here.
    failed: HashSet<Arc<str>>,
    /// Namespaces that failed here since it worked last. What others say of it holds for no other namespace:
    /// their requests may be such that no host answers them.
    namespaces: HashSet<Arc<str>>,
    /// It failed until just now: those who wait for it are to be told.
    recovered: bool,
    /// How often it worked again, and when it did so last.
    recoveries: u64,
    recovered_at: Option<Instant>,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            against: 0,
            room: FIRST_PER_HOST,
            under_way: Shares::default(),
            canary_at: None,
            canary: false,
            fails_with: None,
            waiting: Line::default(),
            asked: HashSet::new(),
            failed: HashSet::new(),
            namespaces: HashSet::new(),
            recovered: false,
            recoveries: 0,
            recovered_at: None,
        }
    }
}

impl Host {
    /// Whether a job may go there now.
    ///
    /// # Errors
    /// Not before then.
    pub fn has_room(&mut self, owner: Owner<'_>, now: Instant) -> Result<(), Instant> {
        let Owner { provider, namespace } = owner;
        if self.is_free(namespace) {
            return Ok(());
        }
        if let Some(at) = self.canary_at {
            self.waiting.join(owner);
            if self.canary || at > now {
                return Err(at.max(now + NO_ROOM));
            }
            // A Provider that fails always, and is asked first because it has failures to tell, would let no other
            // show that the host works. Who did not come while others were asked twice has nothing to send.
            if !self.asked.insert(provider.clone()) {
                self.waiting.close_up(provider, &self.asked);
            }
            if !self.waiting.is_first(provider) {
                return Err(now + NOT_ITS_TURN);
            }
        } else if self.under_way.total() >= self.room {
            self.waiting.join(owner);
            return Err(now + NO_ROOM);
        }
        Ok(())
    }

    /// Whether a namespace needs neither room nor a turn: it has nearly nothing under way, and the host did not
    /// fail for it.
    fn is_free(&self, namespace: &Arc<str>) -> bool {
        let fails = self.canary_at.is_some() && self.namespaces.contains(namespace);
        !fails && self.under_way.is_guaranteed(namespace)
    }

    /// A Provider has no use for its turn.
    pub fn pass_over(&mut self, provider: &Arc<str>) {
        self.waiting.leave(provider);
    }

    /// A job that there is room for goes there; whether it is a canary.
    pub fn begin(&mut self, owner: Owner<'_>, now: Instant) -> bool {
        let canary = self.canary_at.is_some() && !self.is_free(owner.namespace);
        self.under_way.begin(owner.namespace);
        if canary {
            // It joins the line anew, at its end, when it is asked again.
            self.waiting.leave(owner.provider);
            self.asked.clear();
            self.canary = true;
            self.canary_at = Some(now);
        }
        canary
    }

    /// Whether a job may go there by then, as far as is known.
    pub fn may_go_by(&self, namespace: &Arc<str>, by: Instant) -> bool {
        self.canary_at.is_none_or(|at| at <= by) || self.is_free(namespace)
    }

    /// Rises whenever it works again: what was put off because it failed may go.
    pub fn recoveries(&self) -> u64 {
        self.recoveries
    }

    /// See [`super::Pass::host_fails`].
    pub fn fails(&self) -> (bool, bool) {
        (self.canary_at.is_some(), self.canary)
    }

    /// See [`super::Pass::host_well_for`].
    pub fn well_for(&self, now: Instant) -> Option<Duration> {
        let since = |at| now.saturating_duration_since(at);
        self.canary_at.is_none().then(|| self.recovered_at.map_or(Duration::MAX, since))
    }

    /// What it fails with, while it does.
    pub fn fails_with(&self) -> Option<&SendError> {
        self.fails_with.as_ref()
    }

    /// A request was answered or not; `told`: the answer named a wait.
    pub fn answered(&mut self, error: Option<&SendError>, told: bool, owner: Owner<'_>, now: Instant) {
        let against = match error {
            None => 0,
            // It had enough of somebody, which says nothing of how it fares.
            Some(SendError::Status { status, .. }) if told && matches!(status.as_u16(), 403 | 429) => return,
            Some(SendError::Connect | SendError::Timeout) => NO_ANSWER,
            // One connection that closes breaks all the requests on it, and the next connection may work.
            Some(SendError::Broken) => FAULT,
            Some(error) if error.is_sign_in() => return,
            // What answers there is not the vendor: a gateway, or a page.
            Some(SendError::Foreign { .. } | SendError::NotTheVendor { .. }) => NO_ANSWER,
            Some(SendError::Status { status, .. }) => match (status.as_u16(), told) {
                (502..=504, false) => NO_ANSWER,
                (500, false) => FAULT,
                _ => 0,
            },
            // Neither well nor ill.
            Some(_) => return,
        };
        if against == 0 {
            self.against = 0;
            self.fails_with = None;
            self.namespaces.clear();
            if self.canary_at.take().is_some() {
                self.recovered = true;
                self.recoveries += 1;
                self.recovered_at = Some(now);
            }
            if !self.recovered {
                self.failed.clear();
            }
            self.room = (self.room + 1).min(MOST_PER_HOST);
            return;
        }
        self.failed.insert(owner.provider.clone());
        self.namespaces.insert(owner.namespace.clone());
        self.against = (self.against + against).min(FAILS);
        if self.against >= FAILS {
            self.room = FIRST_PER_HOST;
            self.fails_with = error.cloned();
            // Since the canary went out, or since it began to fail.
            let began = self.canary_at.filter(|at| *at <= now).unwrap_or(now);
            self.canary_at = Some(self.canary_at.filter(|at| *at > now).unwrap_or(began + CANARY));
        }
    }

    /// A job ended, which [`Host::begin`] said was a `canary` or not.
    pub fn end(&mut self, canary: bool, namespace: &Arc<str>, freed: &mut Freed) {
        self.under_way.end(namespace);
        if canary {
            self.canary = false;
        }
        if std::mem::take(&mut self.recovered) {
            freed.release.extend(self.waiting.take(usize::MAX));
            self.asked.clear();
            freed.wake.extend(self.failed.drain());
        } else if self.canary_at.is_none() {
            freed.release.extend(self.waiting.take(self.room.saturating_sub(self.under_way.total())));
        }
        if self.is_free(namespace) {
            freed.release.extend(self.waiting.take_of(namespace));
        }
    }
}

/// Providers in the order in which they came, each once.
#[derive(Debug, Default)]
struct Line {
    places: HashMap<Arc<str>, u64>,
    /// Each with its namespace.
    order: BTreeMap<u64, (Arc<str>, Arc<str>)>,
    last: u64,
}

impl Line {
    /// Who is there already keeps its place.
    fn join(&mut self, Owner { provider, namespace }: Owner<'_>) {
        if !self.places.contains_key(provider) {
            self.last += 1;
            self.places.insert(provider.clone(), self.last);
            self.order.insert(self.last, (provider.clone(), namespace.clone()));
        }
    }

    fn leave(&mut self, provider: &Arc<str>) {
        self.places.remove(provider).inspect(|place| drop(self.order.remove(place)));
    }

    fn is_first(&self, provider: &Arc<str>) -> bool {
        self.order.first_key_value().is_some_and(|(_, (first, _))| first == provider)
    }

    /// Takes the first out as long as they stand before this one and are not among these.
    fn close_up(&mut self, before: &Arc<str>, but: &HashSet<Arc<str>>) {
        while let Some((_, (first, _))) = self.order.first_key_value()
            && first != before
            && !but.contains(first)
        {
            let first = first.clone();
            self.leave(&first);
        }
    }

    /// Takes so many out, from the first.
    fn take(&mut self, count: usize) -> Vec<Arc<str>> {
        let mut taken = Vec::new();
        while taken.len() < count
            && let Some((_, (provider, _))) = self.order.pop_first()
        {
            self.places.remove(&provider);
            taken.push(provider);
        }
        taken
    }

    /// Takes the first of this namespace out.
    fn take_of(&mut self, namespace: &Arc<str>) -> Option<Arc<str>> {
        let (provider, _) = self.order.values().find(|(_, of)| of == namespace)?;
        let provider = provider.clone();
        self.leave(&provider);
        Some(provider)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Scene, status};
    use super::*;
    use crate::clock::Clock;
    use crate::outbound::Gate;

    #[test]
    fn a_host_that_fails_gets_one_canary_every_ten_seconds_whose_answer_wakes_all() {
        for (failure, in_a_row) in
            [(SendError::Timeout, 3), (SendError::Broken, 12), (status(502, None, ""), 3), (status(500, None, ""), 12)]
        {
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
            let (mut first, mut then) = (&one, &other);
            for _ in 0..10 {
                assert_eq!(scene.left(&one), CANARY);
                assert_eq!((scene.left(&other), scene.left(&elsewhere)), (CANARY, Duration::ZERO));
                scene.clock.turn(CANARY);
                assert_eq!(scene.left(then), NOT_ITS_TURN);
                let canary = first.admit().expect("a canary");
                assert_eq!(scene.left(then), NO_ROOM, "one at a time");
                assert_eq!(one.host_well_for(), None);
                first.answered(Some(&failure), None);
                assert_eq!(canary.end(true), Freed::default());
                (first, then) = (then, first);
            }
            // One that sends nothing makes way for the next at once.
            assert_eq!(scene.left(&other), CANARY);
            scene.clock.turn(CANARY);
            one.admit().expect("a canary").end(false);
            assert_eq!(scene.left(&one), NOT_ITS_TURN);
            let canary = other.admit().expect("a canary");
            assert_eq!(scene.left(&one), NO_ROOM);
            other.answered(Some(&status(404, None, "")), None);
            let freed = canary.end(true);
            let release: HashSet<_> = freed.release.into_iter().collect();
            assert_eq!(release, HashSet::from(["one".into()]));
            let woken: HashSet<_> = freed.wake.into_iter().collect();
            assert_eq!(woken, HashSet::from(["one".into(), "other".into()]));
            assert_eq!((scene.left(&one), scene.left(&other)), (Duration::ZERO, Duration::ZERO));
            scene.clock.turn(CANARY);
            assert_eq!([&one, &elsewhere].map(|pass| pass.host_well_for()), [Some(CANARY), Some(Duration::MAX)]);
        }
    }

    #[test]
    fn canaries_are_sent_in_turns_and_who_has_none_to_send_holds_nobody_up() {
        let scene = Scene::new();
        let [one, two, gone, told] =
            ["one", "two", "gone", "told"].map(|name| scene.pass(name, "git.example.org", name));
        (0..3).for_each(|_| one.answered(Some(&SendError::Timeout), None));
        for pass in [&gone, &told, &one, &two] {
            assert_eq!(scene.left(pass), CANARY);
        }
        let canary = |pass: &Arc<super::super::Pass>| {
            let ticket = pass.admit().expect("a canary");
            assert!(ticket.is_canary());
            pass.answered(Some(&SendError::Timeout), None);
            ticket.end(true);
            assert_eq!(scene.left(pass), CANARY);
        };
        // Whose credential may not be used has no turn, and whoever does not come loses it.
        told.answered(Some(&status(429, Some(600), "")), None);
        scene.clock.turn(CANARY);
        assert_eq!(scene.left(&told), 59 * CANARY);
        assert_eq!([scene.left(&one), scene.left(&two)], [NOT_ITS_TURN; 2]);
        scene.clock.turn(NOT_ITS_TURN);
        assert_eq!(scene.left(&two), NOT_ITS_TURN, "one asked as well");
        canary(&one);
        for turn in [&two, &one, &two] {
            scene.clock.turn(CANARY);
            let other = if std::ptr::eq(turn, &raw const one) { &two } else { &one };
            assert_eq!(scene.left(other), NOT_ITS_TURN);
            canary(turn);
        }
        assert_eq!(scene.left(&gone), CANARY, "it is back, at the end of the line");
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
    fn each_namespace_has_room_and_finds_out_for_itself_whether_the_host_fails() {
        let scene = Scene::new();
        let [hog, more] = ["hog", "more"].map(|name| scene.pass_in("team", name, "git.example.org", name));
        let platform = scene.pass_in("platform", "git", "git.example.org", "token");
        let mut hanging: Vec<_> = std::iter::from_fn(|| hog.admit().ok()).collect();
        assert_eq!((hanging.len(), scene.left(&more)), (FIRST_PER_HOST, NO_ROOM));
        let own: Vec<_> = std::iter::from_fn(|| platform.admit().ok()).collect();
        assert_eq!(own.len(), 2, "beyond the room there is");
        own.into_iter().for_each(|ticket| drop(ticket.end(true)));

        for _ in 0..3 {
            hog.answered(Some(&SendError::Timeout), None);
            hanging.pop().expect("some").end(true);
        }
        assert_eq!([scene.left(&hog), scene.left(&more)], [CANARY; 2]);
        assert!(platform.may_go_by(scene.clock.now()) && !hog.may_go_by(scene.clock.now()));
        let first = platform.admit().expect("it did not fail for this namespace");
        assert!(!first.is_canary());
        platform.answered(Some(&SendError::Timeout), None);
        first.end(true);
        assert_eq!(scene.left(&platform), CANARY, "now it did");

        scene.clock.turn(CANARY);
        let canary = hog.admit().expect("a canary");
        hog.answered(None, None);
        canary.end(true);
        assert_eq!(scene.left(&platform), Duration::ZERO);
    }

    #[test]
    fn statuses_and_each_hook_are_services_of_their_own() {
        let scene = Scene::new();
        let of = |name: &str, service| {
            scene.budget.pass(&super::super::Caller {
                provider: name.into(),
                namespace: "apps".into(),
                version: 1,
                host: "example.org",
                is_public: true,
                credential: &[],
                route: &[],
                service,
                repository: "".into(),
                timeout: Duration::from_secs(15),
            })
        };
        let [git, hook, other] = [of("git", b"statuses"), of("hook", b"hook /one"), of("other", b"hook /two")];
        (0..3).for_each(|_| hook.answered(Some(&status(502, None, "")), None));
        assert_eq!([&hook, &git, &other].map(|pass| pass.host_fails().0), [true, false, false]);
    }

    #[test]
    fn a_limit_makes_no_room() {
        let scene = Scene::new();
        let one = scene.pass("one", "git.example.org", "token");
        let other = scene.pass("other", "git.example.org", "another");
        for limit in [status(429, None, ""), status(429, Some(1), ""), status(403, Some(1), "")] {
            one.answered(Some(&limit), None);
        }
        let tickets: Vec<_> = std::iter::from_fn(|| other.admit().ok()).collect();
        assert_eq!(tickets.len(), FIRST_PER_HOST);
    }
}
