//! More events than can be told: every vendor hangs, and senders come faster than anything goes out. Memory is bounded,
//! a sender is asked to come again once as much waits as may, and when the vendors come back every status is right.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use futures::stream::{self, StreamExt};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::child::Child;
use super::long;
use super::sender::Sender;
use super::support::flux::{Folder, alert, kustomization_event, provider, secret, sha};
use super::support::forge::{Fault, Forge};
use super::support::wait;

/// Objects that tell of one commit.
const PER_COMMIT: usize = 50;

struct Form {
    /// Events a second.
    rate: usize,
    seconds: usize,
    max_jobs: usize,
}

const SHORT: Form = Form { rate: 1000, seconds: 4, max_jobs: 2500 };
const LONG: Form = Form { rate: 2000, seconds: 20, max_jobs: 30_000 };

/// What the process may grow by: a job is about a kilobyte, and a debug build's pages come on top.
const GROWTH: f64 = (96 << 20) as f64;

const DEADLINE: Duration = Duration::from_secs(180);

/// Whose event it was, the status (0 for none), the seconds it asks to wait, and how long it took.
type Answer = (usize, u16, Option<u64>, Duration);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_every_vendor_hung_memory_is_bounded_and_nothing_is_wrong_afterwards() {
    let Form { rate, seconds, max_jobs } = if long() { LONG } else { SHORT };
    let kinds = ["github", "gitea"];
    let forge = Forge::start("127.0.0.1:0").await.expect("a free port");
    forge.fail(Fault::hang().every(1));
    let address = format!("{}/acme/fleet", forge.url());
    let manifests = kinds.map(|kind| {
        let parts = [
            provider(kind, "git", &address).secret("token").spec("timeout", "2s"),
            alert("all", "git"),
            secret("token", "token", "only-for-tests"),
        ];
        parts.map(|manifest| manifest.namespace(kind))
    });
    let folder = Folder::with(manifests.into_iter().flatten());
    let herald = Child::start(folder.path(), &[&format!("--outbox-max-jobs={max_jobs}")]).await;
    let before = herald.metric("process_resident_memory_bytes").await;

    // Offered at its rate, whatever the answers: each tick a hundredth of a second's events, each about an object of its
    // own.
    let sender = Arc::new(Sender::to(&herald.events_url));
    let event = |number: usize| {
        kustomization_event(&format!("app-{number}"), &sha((number / PER_COMMIT + 1) as u64))
            .namespace(kinds[number % 2])
    };
    let mut tick = interval(Duration::from_millis(10));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut offers = Vec::new();
    for number in 0..rate * seconds {
        if number % (rate / 100) == 0 {
            tick.tick().await;
        }
        let (sender, event) = (sender.clone(), event(number));
        offers.push(tokio::spawn(async move {
            let begin = Instant::now();
            let (status, after) = sender.once(&event).await;
            (number, status.map_or(0, |status| status.as_u16()), after, begin.elapsed())
        }));
    }
    let mut answers: Vec<_> = join_all(offers).await.into_iter().map(|offer| offer.expect("no panic")).collect();
    let grown = herald.metric("process_resident_memory_bytes").await - before;
    answers.sort_by_key(|(.., took)| *took);
    let (taken, refused) = answers.iter().partition::<Vec<&Answer>, _>(|(_, status, ..)| *status == 202);
    println!(
        "{rate} events a second for {seconds} s: {} taken, {} refused, p99 {:?}, memory grew by {:.1} MiB from {:.1}",
        taken.len(),
        refused.len(),
        answers[answers.len() * 99 / 100].3,
        grown / f64::from(1 << 20),
        before / f64::from(1 << 20),
    );
    // A busy machine may drop a connection or two at such a rate; a sender comes again then as well.
    let unanswered = refused.iter().filter(|(_, status, ..)| *status == 0).count();
    let asked = refused.iter().filter(|(_, status, after, _)| (*status, *after) == (503, Some(8))).count();
    assert!(asked > 0 && unanswered + asked == refused.len(), "{asked} of {} were asked to come again", refused.len());
    assert!(unanswered <= answers.len() / 100, "{unanswered} got no answer");
    // Each of the two Providers may hold four times what is free: eight ninths of the room in all.
    let may = max_jobs * 8 / 9;
    let held = herald.held();
    assert!((may - 2..=may + 2).contains(&held), "{held} wait, where {may} may");
    assert!(grown < GROWTH, "grew by {grown} bytes");

    // The vendors come back, and so do the senders.
    forge.recover();
    let refused: Vec<usize> = refused.iter().map(|(number, ..)| *number).collect();
    stream::iter(refused).for_each_concurrent(64, |number| sender.insist(event(number))).await;
    wait::until_ok(DEADLINE, "the outbox to be empty", || async {
        match herald.held() {
            0 => Ok(()),
            held => Err(format!("{held} wait")),
        }
    })
    .await;
    for commit in 0..rate * seconds / PER_COMMIT {
        let statuses = forge.statuses(&sha(commit as u64 + 1));
        assert_eq!(statuses.len(), PER_COMMIT, "one for each object: {statuses:#?}");
        assert!(statuses.iter().all(|status| status.state == "success"));
    }
}
