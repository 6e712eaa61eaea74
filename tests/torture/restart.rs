//! What waits when the process is killed is told by the next one: 5,000 statuses and 5,000 messages, while the vendor is
//! down, and killed again in the middle of telling them.

use std::collections::HashMap;
use std::time::Duration;

use futures::stream::{self, StreamExt};

use super::child::Child;
use super::sender::Sender;
use super::support::flux::{Folder, alert, kustomization_event, provider, secret, sha};
use super::support::forge::Forge;
use super::support::process::free_port;
use super::support::wait;

const EVENTS: usize = 5000;

/// Objects that tell of one commit.
const PER_COMMIT: usize = 50;

/// What may be under way for one Provider when the process is killed: requests, and answers that are not noted yet.
const UNDER_WAY: usize = 2 * 16;

/// How long a restarted Herald may take for all of it: an optimised one takes seconds.
const DEADLINE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_at_a_kill_is_told_by_the_next_process() {
    let vendor = format!("127.0.0.1:{}", free_port());
    let folder = Folder::with([
        provider("github", "git", &format!("http://{vendor}/acme/fleet")).secret("token"),
        provider("generic", "hook", &format!("http://{vendor}/hook")),
        secret("token", "token", "only-for-tests"),
        alert("statuses", "git"),
        alert("messages", "hook"),
    ]);
    let mut herald = Child::start(folder.path(), &[]).await;

    // Nobody listens at the vendor's.
    let sender = Sender::to(&herald.events_url);
    let events =
        (0..EVENTS).map(|number| kustomization_event(&format!("app-{number}"), &sha((number / PER_COMMIT + 1) as u64)));
    stream::iter(events).for_each_concurrent(32, |event| sender.insist(event)).await;
    assert_eq!(herald.held(), 2 * EVENTS);
    herald.kill();
    assert_eq!(herald.held(), 2 * EVENTS, "all of it is in the file");

    let forge = Forge::start(&vendor).await.expect("the port is still free");
    herald.resume().await;
    let told = forge.until(DEADLINE, |forge| forge.writes() > EVENTS / 2).await;
    assert!(told, "{} were told within {DEADLINE:?}", forge.writes());
    herald.kill();
    let at_kill = (forge.writes(), herald.held());
    herald.resume().await;
    wait::until_ok(DEADLINE, "the outbox to be empty", || async {
        match herald.held() {
            0 => Ok(()),
            held => Err(format!("{held} wait, {} writes", forge.writes())),
        }
    })
    .await;

    let (mut statuses, mut messages) = (HashMap::new(), HashMap::new());
    for commit in 0..EVENTS / PER_COMMIT {
        for status in forge.statuses(&sha(commit as u64 + 1)) {
            *statuses.entry(status.context).or_insert(0) += 1;
        }
    }
    for request in forge.requests().into_iter().filter(|request| request.uri == "/hook") {
        *messages.entry(request.body).or_insert(0) += 1;
    }
    for (what, told) in [
        ("statuses", statuses.values().copied().collect::<Vec<usize>>()),
        ("messages", messages.values().copied().collect()),
    ] {
        let twice: usize = told.iter().map(|times| times - 1).sum();
        println!("{what}: {} told, {twice} of them twice; writes and jobs at the second kill: {at_kill:?}", told.len());
        assert_eq!(told.len(), EVENTS, "{what}: each is told");
        // A status whose write may have been under way is read before it is written again; of a message nobody can ask.
        let allowed = if what == "messages" { UNDER_WAY } else { 0 };
        assert!(twice <= allowed, "{what}: {twice} were told twice");
    }
}
