//! Makes a place at a vendor say a status (rule R6): a look first when what it says is not known or was
//! not confirmed for an hour, a write only when it says something else, and no fight about it.
//! `delivery` calls it for each try of a job with a status.
//!
//! Observe (memory, listing, writes that may still land), decide ([`decide`]), write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::budget::{About, Pass};
use super::listings::{self, Wanted};
use super::places::Held;
use super::report::Why;
use super::{Inner, Try, strays};
use crate::compose::{CommitStatus, State};
use crate::ops::metrics::Outcome;
use crate::outbound::SendError;
use crate::outbox::{Disputes, Job, Known, Said, Source, Subject};
use crate::vendors::{Listed, Statuses};

/// What is not known of a place is read from a listing no older than this: somebody else may have
/// written meanwhile.
const FRESH: Duration = Duration::from_secs(60);

/// What is known of a place is believed this long after the vendor confirmed it. A listing is good as long:
/// it is one for all statuses of a commit, whenever each was written.
const CONFIRMED: Duration = listings::KEPT;

/// Of a place that is looked at once more a listing tells that was begun this long ago at most: it is one for
/// all that is looked at then.
const LOOK: Duration = Duration::from_secs(1);

/// How far apart the vendor's seconds and ours may be rounded: what was written within this of a moment may have
/// been written before it.
const ROUNDED: Duration = Duration::from_secs(2);

/// Tries, or the time of a job that was tried, after which the job counts as the older of two statements that wait at
/// two replicas.
const TRIED_LONG: u32 = 3;
const WAITED_LONG: Duration = Duration::from_secs(3);

/// A write through another source may be under way this much longer, and take effect [`strays::LEAST`] after that.
const LONGEST_WRITE: Duration = Duration::from_secs(60);

/// A try to make a place say a status.
struct Setting<'a> {
    job: &'a Job,
    pass: &'a Pass,
    vendor: &'a dyn Statuses,
    status: &'a CommitStatus,
    source: Source,
    /// The status' name as the vendor compares it.
    name: &'a str,
    commit: String,
    place: String,
    wanted: Said,
    /// The vendor answered a request of this try.
    answered: AtomicBool,
}

impl<'a> Setting<'a> {
    fn new(job: &'a Job, pass: &'a Pass, vendor: &'a dyn Statuses, status: &'a CommitStatus) -> Self {
        let name = match &job.new.subject {
            Subject::Slot(slot) => &*slot.name,
            Subject::Stream { .. } => "",
        };
        let mut commit = [vendor.repository(), &status.commit].concat();
        // Nobody has two repositories whose names differ in case only: GitHub, GitLab, Gitea and Azure DevOps
        // find one in any case and refuse the second, Bitbucket's slugs and project keys have one case. What
        // is not ASCII stands here percent-encoded, and counts as it is written.
        commit.make_ascii_lowercase();
        let place = [&commit, "/", name].concat();
        let wanted = Said::status(Some(status.state), &status.description);
        let (source, answered) = (pass.source(), AtomicBool::new(false));
        Self { job, pass, vendor, status, source, name, commit, place, wanted, answered }
    }

    /// What a listing tells of: all statuses of the commit, or this one.
    fn listed(&self) -> &str {
        if self.vendor.reads_whole_commits() { &self.commit } else { &self.place }
    }

    fn known(&self, said: Said, at: u32, disputes: Disputes) -> Known {
        Known { said, at, by: self.job.new.subject.provider().clone(), disputes }
    }
}

/// What the vendor has at a place, as far as is known.
struct Seen {
    says: Said,
    /// When that was confirmed, as [`Known::at`] has it.
    at: u32,
    /// When it was written, where the vendor was asked and says.
    written: Option<Instant>,
    /// The vendor was asked, just now or for another status of the commit.
    looked: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// The place says it.
    Unchanged,
    /// Somebody else wrote over it again after it was restored.
    Contested,
    /// Another replica, or somebody else, said something newer.
    Superseded,
    /// The place is to say it.
    Write,
}

/// What decides.
#[derive(Clone, Copy, Debug)]
struct Facts<'a> {
    says: &'a Said,
    wanted: &'a Said,
    /// What it says was written by others after the job came.
    newer: bool,
    /// What others did before this look, and by now.
    before: Disputes,
    disputes: Disputes,
}

fn decide(facts: Facts<'_>) -> Decision {
    let Facts { says, wanted, newer, before, disputes } = facts;
    let same_state = match wanted {
        Said::Status { state: Some(state), .. } => says.has_state(*state),
        _ => false,
    };
    if disputes.states > 1 {
        Decision::Contested
    } else if says == wanted || (before.words && same_state) {
        // Words that somebody else keeps putting there, or that the vendor has in another form, hurt nobody.
        Decision::Unchanged
    } else if newer {
        Decision::Superseded
    } else {
        Decision::Write
    }
}

impl Inner {
    /// Makes a place say `status`: nothing when it does already.
    pub(super) async fn set(
        &self,
        job: &Job,
        pass: &Pass,
        vendor: &dyn Statuses,
        status: &CommitStatus,
        wrote: &AtomicBool,
    ) -> Result<Try, SendError> {
        let setting = Setting::new(job, pass, vendor, status);
        loop {
            let held = self.places.hold(&setting.place, setting.source, pass.timeout()).await;
            if let Some(ended) = self.set_held(&setting, held, wrote).await? {
                return Ok(ended);
            }
        }
    }

    /// The same, while the place is held; `None` when another went ahead: then all may be otherwise.
    async fn set_held(
        &self,
        setting: &Setting<'_>,
        held: Held<'_>,
        wrote: &AtomicBool,
    ) -> Result<Option<Try>, SendError> {
        let Setting { job, place, source, wanted, .. } = setting;
        if let Some(writer) = self.outbox.writer(place) {
            self.tell_of_sharing(job, &writer);
        }
        let known = self.outbox.known(place, *source);
        if let (true, Some(pause), Some(known)) = (job.said, self.stray(setting, self.clock.now()), &known)
            && known.said == *wanted
        {
            // It was woken before its time.
            return Ok(Some(Try::Look { pause, outcome: Outcome::Unchanged }));
        }
        let seen = self.observe(setting, known.as_ref()).await?;
        if setting.status.over_failure && !seen.says.has_state(State::Failure) {
            // Nothing of this name failed there: its success is not told.
            if setting.answered.load(Ordering::Relaxed) {
                self.worked(&job.new);
            }
            return Ok(Some(Try::Unchanged));
        }
        let (before, disputes) = self.disputes(setting, known.as_ref(), &seen);
        let newer = self.is_newer(setting, known.as_ref(), &seen);
        let facts = Facts { says: &seen.says, wanted, newer, before, disputes };
        let stands = setting.known(wanted.clone(), seen.at, disputes);
        match decide(facts) {
            Decision::Contested => {
                self.outbox.note(place, *source, stands);
                let text = "somebody else wrote over a commit status again after it was restored; it is left to them";
                Ok(Some(Try::GivenUp(Outcome::Refused, Why::new("Contested", text))))
            }
            Decision::Unchanged => {
                self.outbox.note(place, *source, stands);
                if known.is_some_and(|known| known.is_contested()) || setting.answered.load(Ordering::Relaxed) {
                    self.worked(&job.new);
                }
                Ok(Some(match self.stray(setting, self.clock.now()) {
                    Some(pause) => Try::Look { pause, outcome: Outcome::Unchanged },
                    None => Try::Unchanged,
                }))
            }
            Decision::Superseded => {
                self.outbox.note(place, *source, setting.known(seen.says, seen.at, Disputes::default()));
                Ok(Some(Try::Superseded))
            }
            Decision::Write if self.outbox.is_superseded(job) => Ok(Some(Try::Superseded)),
            Decision::Write if !held.is_current() => Ok(None),
            Decision::Write => {
                let written = self.write(setting, held, seen, disputes, wrote).await?;
                if disputes.states > before.states {
                    self.restored(job);
                }
                if job.said {
                    self.put_right(job);
                }
                Ok(Some(written))
            }
        }
    }

    /// Finds out what the vendor has: from memory, from a listing, or by asking.
    async fn observe(&self, setting: &Setting<'_>, known: Option<&Known>) -> Result<Seen, SendError> {
        let Setting { job, pass, name, .. } = setting;
        let now = self.clock.now();
        let read = async {
            let listing = setting.vendor.read(setting.status).await?;
            setting.answered.store(true, Ordering::Relaxed);
            Ok(listing)
        };
        let (at, Listed { said, written }) = match known {
            Some(known) if known.said.is_uncertain() => (now, read.await?.listed(name)),
            Some(known) if !job.said && now < self.instant(known.at) + CONFIRMED => {
                return Ok(Seen { says: known.said.clone(), at: known.at, written: None, looked: false });
            }
            known => {
                // A task that waited here for a read that was refused does not ask again.
                let read = async {
                    let about = About { status: setting.status, arrived: job.new.stamp.arrived };
                    match pass.held(about) {
                        Some(held) => Err(held),
                        None => read.await.inspect_err(|error| {
                            pass.note(error, true, Some(about));
                        }),
                    }
                };
                let within = match known {
                    _ if job.said => LOOK,
                    Some(_) => CONFIRMED,
                    None => FRESH,
                };
                let wanted = Wanted {
                    commit: setting.listed(),
                    source: setting.source,
                    namespace: pass.namespace(),
                    name,
                    // Asked after what is known: of a memory that began meanwhile there is no listing.
                    memory: self.outbox.memory(),
                    within,
                    patience: pass.timeout(),
                };
                let (at, listing) = self.listings.get(wanted, now, read).await?;
                (at, listing.listed(name))
            }
        };
        Ok(Seen { says: said, at: self.seconds(at), written, looked: true })
    }

    /// What others did to a status that was said last, before this look and by now. What else was said there last,
    /// through whichever Provider, is another statement and begins anew; so does what was uncertain or not known. What
    /// a job finds that looks once more may be our own.
    fn disputes(&self, setting: &Setting<'_>, known: Option<&Known>, seen: &Seen) -> (Disputes, Disputes) {
        let Setting { job, wanted, status, .. } = setting;
        match known {
            Some(known) if known.said == *wanted && !job.said => {
                let found = seen.looked.then_some(&seen.says);
                (known.disputes, disputes(known.disputes, status.state, wanted, found))
            }
            _ => Default::default(),
        }
    }

    /// Whether others wrote what the place says after the job came: another replica that took a later event.
    fn is_newer(&self, setting: &Setting<'_>, known: Option<&Known>, seen: &Seen) -> bool {
        let Setting { job, place, source, .. } = setting;
        if !seen.looked || !matches!(seen.says, Said::Status { .. }) {
            return false;
        }
        let arrived = job.new.stamp.arrived;
        let newer = match seen.written {
            Some(written) if written > arrived + ROUNDED => true,
            Some(written) if written + ROUNDED < arrived => false,
            // The vendor's times do not tell. A job that was tried before knows what was there then; what came since
            // may be an older statement that waited through the same outage, which had more tries by now.
            _ => {
                let before = match known.map(|known| &known.said) {
                    Some(Said::Uncertain(before)) => before.as_deref(),
                    said => said.filter(|_| job.said),
                };
                let waited = self.clock.now() >= arrived + WAITED_LONG;
                let tried = job.attempts >= TRIED_LONG || (job.attempts > 0 && waited);
                (tried || job.said) && before.is_some_and(|before| *before != seen.says)
            }
        };
        newer && !self.is_ours(setting, seen) && !self.strays.says(place, *source, &seen.says)
    }

    /// Whether this process wrote what a place says, or may have: of what an earlier one may have sent nothing is
    /// known.
    fn is_ours(&self, setting: &Setting<'_>, seen: &Seen) -> bool {
        let ours = |(said, at): &(Said, u32)| {
            *said == seen.says && seen.written.is_none_or(|written| written <= self.instant(*at) + ROUNDED)
        };
        let at = seen.written.unwrap_or_else(|| self.clock.now());
        let earlier = setting.job.taken_up && at <= self.started + 2 * strays::LEAST;
        earlier || self.outbox.written(&setting.place, setting.source).iter().any(ours)
    }

    /// Writes it, and notes what is known then.
    async fn write(
        &self,
        setting: &Setting<'_>,
        mut held: Held<'_>,
        seen: Seen,
        disputes: Disputes,
        wrote: &AtomicBool,
    ) -> Result<Try, SendError> {
        let Setting { place, source, wanted, .. } = setting;
        let uncertain = Said::Uncertain(Some(Arc::new(seen.says)));
        // Whatever comes of it: while it is not sure what a place says, nobody can tell who wrote it.
        self.outbox.note(place, *source, setting.known(uncertain, seen.at, Disputes::default()));
        let began = self.clock.now();
        self.outbox.note_write(place, *source, wanted, self.seconds(began));
        wrote.store(true, Ordering::Relaxed);
        held.begin(wanted);
        let written = setting.vendor.write(setting.status).await;
        let met = held.end();
        self.listings.told(setting.listed(), setting.name);
        let now = self.clock.now();
        self.outbox.note_write(place, *source, wanted, self.seconds(now));
        for other in met.iter().filter(|other| *other != wanted) {
            self.strays.add(place, *source, other, now + LONGEST_WRITE + strays::LEAST, now);
        }
        if let Err(error) = written {
            self.strays.note(place, *source, wanted, &error, now.saturating_duration_since(began), now);
            return Err(error);
        }
        if held.is_current() {
            self.outbox.note(place, *source, setting.known(wanted.clone(), self.seconds(now), disputes));
        }
        Ok(match self.stray(setting, now) {
            Some(pause) => Try::Look { pause, outcome: Outcome::Delivered },
            None => Try::Delivered,
        })
    }

    /// How long a request of before may still put something else than what is wanted there: one that nothing was
    /// heard of, of this process or of the one before.
    fn stray(&self, setting: &Setting<'_>, now: Instant) -> Option<Duration> {
        let taken_up = setting.job.taken_up.then(|| self.started + strays::LEAST);
        let until = self.strays.until(&setting.place, setting.source, &setting.wanted, now).max(taken_up)?;
        until.checked_duration_since(now).filter(|pause| !pause.is_zero())
    }

    /// An instant as [`Known::at`] has it, rounded up: a listing is compared with it that must have
    /// begun later.
    fn seconds(&self, at: Instant) -> u32 {
        let since = at.saturating_duration_since(self.started);
        u32::try_from(since.as_secs()).unwrap_or(u32::MAX).saturating_add(u32::from(since.subsec_nanos() > 0))
    }

    fn instant(&self, seconds: u32) -> Instant {
        self.started + Duration::from_secs(seconds.into())
    }
}

/// What others did to `wanted`, a status of this state that was said last, given what they did before and
/// what was found at the place, if anybody looked.
fn disputes(before: Disputes, state: State, wanted: &Said, found: Option<&Said>) -> Disputes {
    // It stands, or nobody's does: nothing to fight about, but not forgotten.
    let settled = Disputes { states: before.states.min(1), ..before };
    match found {
        None => before,
        Some(Said::Nothing) => settled,
        Some(says) if says == wanted => settled,
        Some(says) if says.has_state(state) => Disputes { words: true, ..settled },
        Some(_) => Disputes { states: before.states.saturating_add(1), ..before },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wrote_over_what() {
        let status = |state, text: &str| Said::status(Some(state), text);
        let ours = status(State::Success, "ours");
        let (theirs, words) = (status(State::Failure, "ours"), status(State::Success, "theirs"));
        let foreign = Said::status(None, "ours");
        for (case, before, found, after) in [
            ("from memory", (0, false), None, (0, false)),
            ("from memory, contested", (2, true), None, (2, true)),
            ("it stands", (0, false), Some(&ours), (0, false)),
            ("another state", (0, false), Some(&theirs), (1, false)),
            ("a state we never say", (0, true), Some(&foreign), (1, true)),
            ("again", (1, false), Some(&theirs), (2, false)),
            ("and again", (2, false), Some(&theirs), (3, false)),
            ("for ever", (u8::MAX, false), Some(&theirs), (u8::MAX, false)),
            ("other words", (0, false), Some(&words), (0, true)),
            ("other words again", (1, true), Some(&words), (1, true)),
            ("it was restored and stands", (1, false), Some(&ours), (1, false)),
            ("they gave in", (2, true), Some(&ours), (1, true)),
            ("they gave in, but for the words", (3, false), Some(&words), (1, true)),
            ("it is gone", (0, false), Some(&Said::Nothing), (0, false)),
            ("theirs is gone", (3, false), Some(&Said::Nothing), (1, false)),
        ] {
            let of = |(states, words)| Disputes { states, words };
            assert_eq!(disputes(of(before), State::Success, &ours, found), of(after), "{case}");
        }
    }

    #[test]
    fn what_is_done() {
        let status = |state, text: &str| Said::status(Some(state), text);
        let wanted = status(State::Failure, "ours");
        let (other, words) = (status(State::Success, "theirs"), status(State::Failure, "theirs"));
        for (case, says, newer, before, after, decision) in [
            ("it is there", &wanted, false, (0, false), (0, false), Decision::Unchanged),
            ("it is there, and newer", &wanted, true, (0, false), (0, false), Decision::Unchanged),
            ("nothing is there", &Said::Nothing, false, (0, false), (0, false), Decision::Write),
            ("something older is there", &other, false, (0, false), (0, false), Decision::Write),
            ("something newer is there", &other, true, (0, false), (0, false), Decision::Superseded),
            ("newer words are there", &words, true, (0, false), (0, false), Decision::Superseded),
            ("other words", &words, false, (0, false), (0, true), Decision::Write),
            ("other words again", &words, false, (0, true), (0, true), Decision::Unchanged),
            ("another state after other words", &other, false, (0, true), (1, true), Decision::Write),
            ("somebody wrote over it", &other, false, (0, false), (1, false), Decision::Write),
            ("somebody wrote over it again", &other, false, (1, false), (2, false), Decision::Contested),
            ("it was contested, and stands in memory", &wanted, false, (2, false), (2, false), Decision::Contested),
        ] {
            let of = |(states, words)| Disputes { states, words };
            let facts = Facts { says, wanted: &wanted, newer, before: of(before), disputes: of(after) };
            assert_eq!(decide(facts), decision, "{case}");
        }
    }

    #[test]
    fn what_is_known_of_a_place_is_small() {
        assert!(size_of::<Known>() <= 48, "{} bytes", size_of::<Known>());
    }
}
