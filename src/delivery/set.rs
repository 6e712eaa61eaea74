//! Makes a place at a vendor say a status (rule R6): a look first when what it says is not known or was
//! not confirmed for an hour, a write only when it says something else, and no fight about it.
//! `delivery` calls it for each try of a job with a status.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::budget::Pass;
use super::listings::{self, Wanted};
use super::report::Why;
use super::{Inner, Try, strays};
use crate::compose::{CommitStatus, State};
use crate::ops::metrics::Outcome;
use crate::outbound::SendError;
use crate::outbox::{Disputes, Job, Known, Said, Subject};
use crate::vendors::Statuses;

/// What is not known of a place is read from a listing no older than this: somebody else may have
/// written meanwhile.
const FRESH: Duration = Duration::from_secs(60);

/// What is known of a place is believed this long after the vendor confirmed it. A listing is good as long:
/// it is one for all statuses of a commit, whenever each was written.
const CONFIRMED: Duration = listings::KEPT;

/// Of a place that is looked at once more a listing tells that was begun this long ago at most: it is one for
/// all that is looked at then.
const LOOK: Duration = Duration::from_secs(1);

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
        let name = name_at_vendor(job);
        let mut commit = [vendor.repository(), &status.commit].concat();
        // Nobody has two repositories whose names differ in case only: GitHub, GitLab, Gitea and Azure DevOps
        // find one in any case and refuse the second, Bitbucket's slugs and project keys have one case. What
        // is not ASCII stands here percent-encoded, and counts as it is written.
        commit.make_ascii_lowercase();
        let place = [&commit, "/", name].concat();
        let _held = self.places.hold(&place).await;
        let listed = if vendor.reads_whole_commits() { &commit } else { &place };

        let wanted = Said::Status { state: Some(status.state), description: status.description.as_str().into() };
        let now = self.clock.now();
        let known = self.outbox.known(&place);
        if let Some(known) = &known {
            self.tell_of_sharing(job, &known.by);
        }
        let stray = self.stray(job, &place, &wanted, now);
        if let (true, Some(pause), Some(known)) = (job.said, stray, &known)
            && known.said == wanted
        {
            // It was woken before its time.
            return Ok(Try::Look { pause, outcome: Outcome::Unchanged });
        }
        // Whether the vendor answered a request of this try.
        let answered = AtomicBool::new(false);
        let read = async {
            let listing = vendor.read(status).await?;
            answered.store(true, Ordering::Relaxed);
            Ok(listing)
        };
        let found = match &known {
            Some(known) if known.said == Said::Uncertain => Some((now, read.await?.said(name))),
            Some(known) if !job.said && now < self.instant(known.at) + CONFIRMED => None,
            known => {
                // Whoever waited here for a read that was refused does not ask again.
                let read = async {
                    match pass.held() {
                        Some(held) => Err(held),
                        None => read.await.inspect_err(|error| {
                            pass.note(error);
                        }),
                    }
                };
                let within = match known {
                    _ if job.said => LOOK,
                    Some(_) => CONFIRMED,
                    None => FRESH,
                };
                // Asked after what is known: of a memory that began meanwhile there is no listing.
                let wanted = Wanted { commit: listed, name, memory: self.outbox.memory(), within };
                let (at, listing) = self.listings.get(wanted, now, read).await?;
                Some((at, listing.said(name)))
            }
        };
        // Whatever else was said there last, through whichever Provider, is another statement and begins anew; so
        // does what was uncertain or not known. What a look finds may be our own.
        let (before, disputes) = match &known {
            Some(known) if known.said == wanted && !job.said => {
                let found = found.as_ref().map(|(_, says)| says);
                (known.disputes, disputes(known.disputes, status.state, &wanted, found))
            }
            _ => Default::default(),
        };
        let was_contested = known.as_ref().is_some_and(Known::is_contested);
        let (at, says) = match (found, known) {
            (Some((at, says)), _) => (self.seconds(at), says),
            (None, Some(known)) => (known.at, known.said),
            (None, None) => unreachable!("what is not known is looked up"),
        };
        if status.over_failure && !says.has_state(State::Failure) {
            // Nothing of this name failed there: its success is not told.
            if answered.load(Ordering::Relaxed) {
                self.worked(&job.new);
            }
            return Ok(Try::Unchanged);
        }
        let known = |said, at, disputes| Known { said, at, by: job.new.subject.provider().clone(), disputes };
        let stands = known(wanted.clone(), at, disputes);
        if stands.is_contested() {
            self.outbox.note(&place, stands);
            let text = "somebody else wrote over a commit status again after it was restored; it is left to them";
            return Ok(Try::GivenUp(Outcome::Refused, Why::new("Contested", text)));
        }
        // Words that somebody else keeps putting there, or that the vendor has in another form, hurt nobody.
        let words_only = says != wanted && says.has_state(status.state);
        if says == wanted || (words_only && before.words) {
            self.outbox.note(&place, stands);
            if was_contested || answered.load(Ordering::Relaxed) {
                self.worked(&job.new);
            }
            return Ok(match stray {
                Some(pause) => Try::Look { pause, outcome: Outcome::Unchanged },
                None => Try::Unchanged,
            });
        }
        if self.outbox.is_superseded(job) {
            return Ok(Try::Superseded);
        }
        // Whatever comes of it: who is not sure what a place says cannot tell who wrote it.
        self.outbox.note(&place, known(Said::Uncertain, at, Disputes::default()));
        wrote.store(true, Ordering::Relaxed);
        let began = self.clock.now();
        let written = vendor.write(status).await;
        self.listings.told(listed, name);
        let now = self.clock.now();
        if let Err(error) = written {
            self.strays.note(&place, &wanted, &error, now.saturating_duration_since(began), now);
            return Err(error);
        }
        let stray = self.stray(job, &place, &wanted, now);
        self.outbox.note(&place, known(wanted, self.seconds(now), disputes));
        if disputes.states > before.states {
            self.restored(job);
        }
        if job.said {
            self.put_right(job);
        }
        Ok(match stray {
            Some(pause) => Try::Look { pause, outcome: Outcome::Delivered },
            None => Try::Delivered,
        })
    }

    /// How long a request of before may still put something else than `wanted` there: one that nothing was heard
    /// of, of this process or of the one before.
    fn stray(&self, job: &Job, place: &str, wanted: &Said, now: Instant) -> Option<Duration> {
        let taken_up = job.taken_up.then(|| self.started + strays::LEAST);
        let until = self.strays.until(place, wanted, now).max(taken_up)?;
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

/// The status' name as the vendor compares it.
fn name_at_vendor(job: &Job) -> &str {
    match &job.new.subject {
        Subject::Slot(slot) => &slot.name,
        Subject::Stream { .. } => "",
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
        let status = |state, text: &str| Said::Status { state: Some(state), description: text.into() };
        let ours = status(State::Success, "ours");
        let (theirs, words) = (status(State::Failure, "ours"), status(State::Success, "theirs"));
        let foreign = Said::Status { state: None, description: "ours".into() };
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
    fn what_is_known_of_a_place_is_small() {
        assert!(size_of::<Known>() <= 48, "{} bytes", size_of::<Known>());
    }
}
