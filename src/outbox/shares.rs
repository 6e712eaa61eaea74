//! Who holds how much of the outbox, and who may put more into it. The order keeps one of these, asks it for each new
//! job and tells it of each that is over.
//!
//! A share grows while others need no room: what is held of a namespace or a Provider may be so many times what is
//! left free. One namespace alone gets most of the outbox, and one that holds nothing always finds room. A batch of
//! jobs about one event holds the event once.

use std::sync::Arc;

use hashbrown::HashMap;

use super::{NewJob, Subject};

/// How many times what is left free may be held of one namespace, and of one Provider. Alone, that is 90 % and 80 %
/// of the outbox in commit statuses, and 67 % and 50 % in messages: a hook that is down leaves room for statuses.
const STATUSES: (usize, usize) = (9, 4);
const MESSAGES: (usize, usize) = (2, 1);

/// What a job takes up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cost {
    /// Bytes of its own.
    pub bytes: usize,
    /// The event that it shares with others, where that is stored once.
    pub body: Option<Body>,
}

/// An event that several jobs hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Body {
    /// Its address in memory, where the jobs keep it.
    pub at: usize,
    /// Its size on disk.
    pub bytes: usize,
}

/// What is held of one namespace, of one Provider, or in all.
#[derive(Debug, Default)]
struct Account {
    jobs: usize,
    bytes: usize,
    /// By address: how many jobs hold it.
    bodies: HashMap<usize, usize>,
}

impl Account {
    /// Bytes that a job would add.
    fn need(&self, cost: &Cost) -> usize {
        let body = cost.body.filter(|body| !self.bodies.contains_key(&body.at));
        cost.bytes + body.map_or(0, |body| body.bytes)
    }

    fn add(&mut self, cost: &Cost) {
        self.bytes += self.need(cost);
        self.jobs += 1;
        if let Some(body) = cost.body {
            *self.bodies.entry(body.at).or_default() += 1;
        }
    }

    fn remove(&mut self, cost: &Cost) {
        self.jobs -= 1;
        self.bytes -= cost.bytes;
        let Some(body) = cost.body else { return };
        let holders = self.bodies.get_mut(&body.at).expect("each holder was added");
        *holders -= 1;
        if *holders == 0 {
            self.bodies.remove(&body.at);
            self.bytes -= body.bytes;
        }
    }

    /// Whether one more job leaves this within `times` what is left. Who holds nothing may have any room there is.
    fn may_hold(&self, cost: &Cost, times: usize, left: (usize, usize)) -> bool {
        let within =
            self.jobs < times.saturating_mul(left.0) && self.bytes + self.need(cost) <= times.saturating_mul(left.1);
        self.jobs == 0 || within
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shares {
    /// Jobs and bytes at most.
    limits: (usize, usize),
    total: Account,
    namespaces: HashMap<Arc<str>, Account>,
    /// By UID.
    providers: HashMap<Arc<str>, Account>,
}

impl Shares {
    /// Of an outbox with these bounds.
    pub fn new(jobs: usize, bytes: usize) -> Self {
        Self { limits: (jobs, bytes), total: Account::default(), namespaces: HashMap::new(), providers: HashMap::new() }
    }

    /// Bytes of all that is held.
    pub fn bytes(&self) -> usize {
        self.total.bytes
    }

    /// Whether a job has room: in the outbox, in the share of its namespace, and in that of its Provider.
    pub fn has_room(&self, job: &NewJob, cost: &Cost) -> bool {
        let jobs = self.limits.0.checked_sub(self.total.jobs + 1);
        let bytes = self.limits.1.checked_sub(self.total.bytes + self.total.need(cost));
        let (Some(jobs), Some(bytes)) = (jobs, bytes) else { return false };
        let (of_namespace, of_provider) = match job.subject {
            Subject::Slot(_) => STATUSES,
            Subject::Stream { .. } => MESSAGES,
        };
        let empty = Account::default();
        let namespace = self.namespaces.get(&job.provider.namespace).unwrap_or(&empty);
        let provider = self.providers.get(job.subject.provider()).unwrap_or(&empty);
        namespace.may_hold(cost, of_namespace, (jobs, bytes)) && provider.may_hold(cost, of_provider, (jobs, bytes))
    }

    /// A job is held, or is about to be.
    pub fn add(&mut self, job: &NewJob, cost: &Cost) {
        self.total.add(cost);
        of(&mut self.namespaces, &job.provider.namespace).add(cost);
        of(&mut self.providers, job.subject.provider()).add(cost);
    }

    /// It is not held any more.
    pub fn remove(&mut self, job: &NewJob, cost: &Cost) {
        self.total.remove(cost);
        forget(&mut self.namespaces, &job.provider.namespace, cost);
        forget(&mut self.providers, job.subject.provider(), cost);
    }
}

fn of<'a>(accounts: &'a mut HashMap<Arc<str>, Account>, name: &Arc<str>) -> &'a mut Account {
    accounts.entry(name.clone()).or_default()
}

fn forget(accounts: &mut HashMap<Arc<str>, Account>, name: &Arc<str>, cost: &Cost) {
    let account = accounts.get_mut(name).expect("what is removed was added");
    account.remove(cost);
    if account.jobs == 0 {
        accounts.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Key;
    use crate::clock::{Clock, TurnedClock};
    use crate::compose::{Notice, Slot};
    use crate::outbox::Stamp;

    const JOBS: usize = 1000;

    fn job(namespace: &str, provider: &str, is_status: bool) -> NewJob {
        let provider_uid: Arc<str> = format!("{namespace}/{provider}").into();
        let subject = if is_status {
            Subject::Slot(Slot { provider: provider_uid, repository: "".into(), commit: "c".into(), name: "n".into() })
        } else {
            Subject::Stream { provider: provider_uid, about: "a".into() }
        };
        NewJob {
            subject,
            stamp: Stamp { object: "uid".into(), version: None, arrived: TurnedClock::new().now() },
            notice: Notice::Event(crate::api::Event::default().into()),
            provider: Key::new(namespace, provider),
            alert: Key::new(namespace, "alert"),
            object: "o".into(),
            repeat: None,
        }
    }

    /// Puts as many as there is room for.
    fn fill(shares: &mut Shares, job: &NewJob, cost: &Cost) -> usize {
        let mut taken = 0;
        while shares.has_room(job, cost) {
            shares.add(job, cost);
            taken += 1;
        }
        taken
    }

    #[test]
    fn one_namespace_gets_most_of_the_outbox_and_leaves_room_for_others() {
        let cost = Cost { bytes: 10, body: None };
        for (is_status, share) in [(true, 900), (false, 666)] {
            let mut shares = Shares::new(JOBS, 1 << 30);
            let providers = ["a", "b", "c", "d"];
            // In turns, so that no Provider is over a share of its own.
            let mut taken = 0;
            while let Some(job) =
                providers.iter().map(|of| job("tenant", of, is_status)).find(|job| shares.has_room(job, &cost))
            {
                shares.add(&job, &cost);
                taken += 1;
            }
            assert!((share - 5..=share + 5).contains(&taken), "{taken} of {JOBS}");
            let others = fill(&mut shares, &job("platform", "git", true), &cost);
            assert!(others >= (JOBS - taken) / 2, "{others} of {} left", JOBS - taken);
        }
    }

    #[test]
    fn a_provider_that_is_down_leaves_room_for_the_statuses_of_its_namespace() {
        let (mut shares, cost) = (Shares::new(JOBS, 1 << 30), Cost { bytes: 10, body: None });
        let hooks = fill(&mut shares, &job("flux-system", "hook", false), &cost);
        assert!((495..=505).contains(&hooks), "{hooks}");
        let statuses = fill(&mut shares, &job("flux-system", "git", true), &cost);
        assert!(statuses >= 380, "{statuses}");
    }

    #[test]
    fn an_event_that_jobs_share_counts_once_for_each_namespace() {
        let mut shares = Shares::new(JOBS, 10_000);
        let cost = Cost { bytes: 1, body: Some(Body { at: 7, bytes: 3000 }) };
        let jobs = [job("a", "p", false), job("b", "p", false)];
        for job in &jobs {
            for _ in 0..100 {
                assert!(shares.has_room(job, &cost));
                shares.add(job, &cost);
            }
        }
        assert_eq!(shares.bytes(), 3200);
        let other = Cost { bytes: 1, body: Some(Body { at: 8, bytes: 3000 }) };
        assert!(!shares.has_room(&jobs[0], &other), "the one of its namespace counts in full");
        assert!(shares.has_room(&job("c", "p", false), &other));
        for job in &jobs {
            (0..100).for_each(|_| shares.remove(job, &cost));
        }
        assert!(shares.bytes() == 0 && shares.namespaces.is_empty() && shares.providers.is_empty());
        assert!(!shares.has_room(&jobs[0], &Cost { bytes: 10_001, body: None }), "not any size goes into an empty one");
    }
}
