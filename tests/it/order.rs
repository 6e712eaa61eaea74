//! The newest statement about a status wins (rules R1 and R2), and what is said already costs
//! nothing (rule R6).

use std::collections::HashSet;
use std::time::Duration;

use herald::ops::metrics::Outcome;
use reqwest::Method;
use serde_json::json;

use crate::scene::{Scene, forge, git, token};
use crate::support::app::DEADLINE;
use crate::support::flux::{FluxEvent, alert, kustomization_event, sha};
use crate::support::forge::{Fault, Forge};

/// The types that carry a commit status.
const GIT: [&str; 6] = ["azuredevops", "bitbucket", "bitbucketserver", "gitea", "github", "gitlab"];

fn ok(commit: &str) -> FluxEvent {
    kustomization_event("web", commit)
}

fn fail(commit: &str) -> FluxEvent {
    ok(commit).failed("HealthCheckFailed")
}

/// Somebody else writes statuses at the host.
pub async fn foreign(forge: &Forge, kind: &str, commit: &str, bodies: impl IntoIterator<Item = serde_json::Value>) {
    let api = if kind == "gitea" { "api/v1" } else { "api/v3" };
    let url = format!("{}/{api}/repos/acme/fleet/statuses/{commit}", forge.url());
    let client = reqwest::Client::new();
    for body in bodies {
        let answer = client.post(&url).bearer_auth("another").json(&body).send().await;
        assert_eq!(answer.expect("the host answers").status().as_u16(), 201);
    }
}

#[tokio::test]
async fn an_older_event_that_arrives_later_is_not_told() {
    let scene = Scene::of("github").await;
    let commit = sha(1);
    scene.tell([ok(&commit).version(1010), fail(&commit).version(1009)]).await;
    assert_eq!(scene.forge.statuses(&commit).len(), 1);
    assert_eq!(scene.ended(Outcome::Superseded), 1);

    // Nor while the newer one is under way.
    scene.forge.fail(Fault::delay(Duration::from_millis(300)).writes());
    scene.post(&fail(&commit).version(1020)).await;
    scene.requests(3).await;
    scene.post(&ok(&commit).version(1019)).await;
    scene.herald.idle().await;
    let states: Vec<_> = scene.forge.statuses(&commit).into_iter().map(|status| status.state).collect();
    assert_eq!(states, ["success", "failure"]);

    // Another object, or a version that is no number, is in no order but that of arrival.
    scene.tell([ok(&commit).version(1020)]).await;
    assert_eq!(scene.forge.statuses(&commit).last().expect("there are some").state, "success");
    scene.end(1, 3).await;
}

#[tokio::test]
async fn at_a_slow_host_the_newest_is_last_and_writes_never_overlap() {
    for kind in GIT {
        let scene = Scene::of(kind).await;
        let commit = sha(1);
        scene.forge.fail(Fault::delay(Duration::from_millis(200)).writes().every(1));
        for (number, event) in [fail(&commit), ok(&commit), fail(&commit), ok(&commit)].into_iter().enumerate() {
            scene.post(&event.version(1000 + number as u64)).await;
        }
        scene.herald.idle().await;
        let statuses = scene.forge.statuses(&commit);
        let last = statuses.last().expect("the newest is told");
        assert!(last.state.to_lowercase().starts_with("succe"), "{kind}: {}", last.state);
        assert_eq!(scene.forge.max_in_flight(&commit, &last.context), 1);
        let delivered = scene.ended(Outcome::Delivered);
        assert_eq!(delivered as usize, statuses.len(), "each write is counted");
        assert_eq!(
            delivered + scene.ended(Outcome::Superseded) + scene.ended(Outcome::Unchanged),
            4,
            "nothing is lost without a trace"
        );
        scene.end(1, delivered as usize).await;
    }
}

#[tokio::test]
async fn random_outcomes_end_with_the_newest_whatever_the_host_does() {
    let scene = Scene::of("github").await;
    let mut random = fastrand::Rng::with_seed(11);
    scene.forge.fail(Fault::answer(502).writes().every(5));
    scene.forge.fail(Fault::reset().writes().every(7));
    scene.forge.fail(Fault::delay(Duration::from_millis(20)).writes().every(3));
    let mut newest = [""; 6];
    for version in 0..200 {
        let commit = random.usize(..newest.len());
        let (event, state) =
            if random.bool() { (ok(&sha(commit as u64)), "success") } else { (fail(&sha(commit as u64)), "failure") };
        newest[commit] = state;
        scene.post(&event.version(version)).await;
    }
    scene.forge.recover();
    scene.herald.idle().await;
    for (commit, state) in newest.iter().enumerate() {
        let statuses = scene.forge.statuses(&sha(commit as u64));
        let last = statuses.last().expect("something was told");
        assert_eq!(last.state, *state, "commit {commit}");
        assert_eq!(scene.forge.max_in_flight(&last.commit, &last.context), 1);
        let repeated = statuses.windows(2).filter(|pair| pair[0].state == pair[1].state).count();
        assert_eq!(repeated, 0, "no state was written twice in a row on commit {commit}");
    }
    let (reads, writes) = (scene.forge.reads(), scene.forge.writes());
    scene.end(reads, writes).await;
}

#[tokio::test]
async fn what_is_said_already_costs_no_request() {
    for kind in GIT {
        let scene = Scene::of(kind).await;
        scene.tell([ok(&sha(1)), ok(&sha(1)), ok(&sha(1)).message("Reconciliation finished in 9s")]).await;
        assert_eq!(scene.ended(Outcome::Unchanged), 2);

        // Another that remembers nothing looks once and writes nothing.
        let again = scene.another().await;
        assert_eq!(again.post(&ok(&sha(1))).await, 202);
        again.idle().await;
        assert_eq!(again.post(&ok(&sha(1))).await, 202);
        again.idle().await;
        again.stop().await;
        scene.end(2, 1).await;
    }
}

#[tokio::test]
async fn five_hundred_objects_of_one_commit_cost_five_hundred_writes_and_a_few_pages() {
    // GitLab is asked for each name, because its list has a row for each job of a pipeline.
    for (kind, reads, pages) in [("github", 1, 5), ("gitea", 1, 10), ("azuredevops", 1, 1), ("gitlab", 500, 500)] {
        let scene = Scene::of(kind).await;
        let commit = sha(1);
        let events: Vec<_> = (0..500).map(|object| kustomization_event(&format!("app-{object}"), &commit)).collect();
        for _round in 0..10 {
            for event in &events {
                scene.post(event).await;
            }
        }
        scene.herald.idle().await;
        assert_eq!((scene.forge.reads(), scene.forge.writes()), (reads, 500), "{kind}");
        let contexts: HashSet<_> = scene.forge.statuses(&commit).into_iter().map(|status| status.context).collect();
        assert_eq!(contexts.len(), 500);

        // Also for a Herald that remembers nothing: one question, page by page.
        let again = scene.another().await;
        for event in &events {
            assert_eq!(again.post(event).await, 202);
        }
        again.idle().await;
        assert_eq!(again.app.metrics.notifications(Outcome::Unchanged), 500);
        again.stop().await;
        scene.end(reads + pages, 500).await;
    }
}

#[tokio::test]
async fn a_write_without_an_answer_is_looked_up_before_the_next() {
    for (what, fault, arrived) in [
        ("lost on the way back", Fault::reset().writes().afterwards(), true),
        ("never answered, but taken", Fault::hang().writes().afterwards(), true),
        ("answered by half", Fault::half_body().writes(), true),
        ("reset before it was read", Fault::reset().writes(), false),
        ("never answered and not taken", Fault::hang().writes(), false),
        ("taken, and a proxy says 502", Fault::answer(502).writes().afterwards(), true),
        ("a proxy says 504", Fault::answer(504).writes(), false),
    ] {
        let scene = Scene::impatient("github").await;
        scene.forge.fail(fault);
        scene.tell([ok(&sha(1))]).await;
        let uris: Vec<_> = scene.forge.requests().iter().map(|request| request.method.clone()).collect();
        assert_eq!(uris[..3], [Method::GET, Method::POST, Method::GET], "{what}");
        assert_eq!(scene.forge.statuses(&sha(1)).len(), 1, "{what}: written once");

        // What was uncertain is known again.
        scene.tell([ok(&sha(1))]).await;
        scene.end(2, if arrived { 1 } else { 2 }).await;
    }
}

#[tokio::test]
async fn a_newer_outcome_follows_a_write_without_an_answer() {
    let scene = Scene::impatient("gitea").await;
    scene.forge.fail(Fault::hang().writes().afterwards());
    scene.post(&fail(&sha(1)).version(1)).await;
    scene.requests(2).await;
    scene.post(&ok(&sha(1)).version(2)).await;
    scene.herald.idle().await;
    let states: Vec<_> = scene.forge.statuses(&sha(1)).into_iter().map(|status| status.state).collect();
    assert_eq!(states, ["failure", "success"]);
    scene.end(2, 2).await;
}

#[tokio::test]
async fn two_providers_that_write_one_name_take_turns() {
    let forge = forge().await;
    forge.fail(Fault::delay(Duration::from_millis(100)).every(1));
    let twin = |name: &str, uid: &str| {
        let address = format!("{}/acme/fleet", forge.url());
        let provider = crate::support::flux::provider("github", name, &address).secret("token").uid(uid);
        [provider, alert(name, name)]
    };
    // Their UIDs begin alike, and so their statuses have one name.
    let twins = [twin("one", "aaaaaaaa-1111"), twin("two", "aaaaaaaa-2222")];
    let manifests: Vec<_> = twins.into_iter().flatten().chain([token()]).collect();
    let scene = Scene::with(forge, manifests, &[]).await;
    let commit = sha(1);
    for (version, event) in [fail(&commit), ok(&commit), fail(&commit)].into_iter().enumerate() {
        scene.post(&event.version(version as u64)).await;
    }
    scene.herald.idle().await;
    let context = "kustomization/web/aaaaaaaa";
    assert_eq!(scene.forge.max_in_flight(&commit, context), 1);
    assert_eq!(scene.states(&commit, context).last().map(String::as_str), Some("failure"));
    let writes = scene.forge.writes();
    assert!(writes < 6, "what one wrote the other need not write again: {writes}");
    let reads = scene.forge.reads();
    scene.end(reads, writes).await;
}

#[tokio::test]
async fn of_two_statuses_in_one_second_giteas_higher_id_is_the_newer() {
    for (first, second, outcome) in
        [("failure", "success", Outcome::Unchanged), ("success", "failure", Outcome::Delivered)]
    {
        let scene = Scene::of("gitea").await;
        let commit = sha(1);
        scene.forge.freeze_clock("2026-01-02T15:04:05Z".parse().expect("a time"));
        let context = git("gitea", &scene.forge).context("web");
        let said = |state| json!({"state": state, "context": context, "description": "reconciliation succeeded"});
        foreign(&scene.forge, "gitea", &commit, [first, second].map(said)).await;
        scene.tell([ok(&commit)]).await;
        assert_eq!(scene.ended(outcome), 1, "{first}, {second}");
        scene.end(1, 2 + usize::from(outcome == Outcome::Delivered)).await;
    }
}

#[tokio::test]
async fn a_status_behind_many_others_is_found() {
    for (kind, others, pages) in [("github", 250, 3), ("gitea", 120, 3)] {
        let scene = Scene::of(kind).await;
        scene.tell([ok(&sha(1))]).await;
        let of_others = (0..others)
            .map(|number| json!({"state": "pending", "context": format!("other/{number}"), "description": "d"}));
        foreign(&scene.forge, kind, &sha(1), of_others).await;
        let again = scene.another().await;
        assert_eq!(again.post(&ok(&sha(1))).await, 202);
        again.idle().await;
        assert_eq!(again.app.metrics.notifications(Outcome::Unchanged), 1, "{kind}");
        again.stop().await;
        scene.end(1 + pages, 1 + others).await;
    }
}

#[tokio::test]
async fn github_takes_names_that_differ_in_case_for_one() {
    let scene = Scene::of("github").await;
    let context = git("github", &scene.forge).context("web");
    let body =
        json!({"state": "success", "context": context.to_uppercase(), "description": "reconciliation succeeded"});
    foreign(&scene.forge, "github", &sha(1), [body]).await;
    scene.tell([ok(&sha(1))]).await;
    assert_eq!(scene.ended(Outcome::Unchanged), 1);
    scene.end(1, 1).await;
}

#[tokio::test]
async fn a_foreign_state_or_description_is_no_reason_to_stay_silent() {
    let scene = Scene::of("github").await;
    let context = git("github", &scene.forge).context("web");
    for (number, body) in [
        json!({"state": "error", "context": context, "description": "reconciliation succeeded"}),
        json!({"state": "success", "context": context, "description": "else"}),
        json!({"state": "success", "context": context}),
    ]
    .into_iter()
    .enumerate()
    {
        let commit = sha(number as u64);
        foreign(&scene.forge, "github", &commit, [body]).await;
        scene.tell([ok(&commit)]).await;
        assert!(scene.forge.until(DEADLINE, |forge| forge.statuses(&commit).len() == 2).await);
    }
    scene.end(3, 6).await;
}

#[tokio::test]
async fn an_older_outcome_that_waited_gives_way_to_what_another_replica_told() {
    for kind in GIT {
        let scene = Scene::of(kind).await;
        let (older, newer) = (&scene.herald, scene.another().await);
        let commit = sha(1);
        // One replica has a failure that the host does not take for a moment.
        scene.forge.fail(Fault::answer(503).header("retry-after", "3").writes());
        scene.post(&fail(&commit).version(100)).await;
        scene.requests(2).await;
        // The other takes the recovery.
        assert_eq!(newer.post(&ok(&commit).version(110)).await, 202);
        newer.idle().await;
        older.idle().await;
        let states: Vec<_> = scene.forge.statuses(&commit).into_iter().map(|status| status.state).collect();
        assert_eq!(states.len(), 1, "{kind}: {states:?}");
        assert!(states[0].to_lowercase().starts_with("succe"), "{kind}: {states:?}");
        assert_eq!(scene.ended(Outcome::Superseded), 1, "{kind}");
        newer.stop().await;
        scene.end(3, 2).await;
    }
}

#[tokio::test]
async fn an_outcome_that_waited_gives_way_to_nothing_that_was_there_before() {
    for kind in ["gitea", "github"] {
        let scene = Scene::of(kind).await;
        let commit = sha(1);
        let context = git(kind, &scene.forge).context("web");
        let theirs = json!({"state": "success", "context": context, "description": "theirs"});
        foreign(&scene.forge, kind, &commit, [theirs]).await;
        // Neither when the first try came to a read, nor when it did not.
        scene.forge.fail(Fault::answer(503).header("retry-after", "1").writes());
        scene.tell([fail(&commit)]).await;
        assert_eq!(scene.states(&commit, &context), ["success", "failure"], "{kind}");
        // What Herald itself wrote last is none of others'.
        scene.forge.fail(Fault::answer(503).header("retry-after", "1").writes());
        scene.tell([ok(&commit)]).await;
        assert_eq!(scene.states(&commit, &context), ["success", "failure", "success"], "{kind}");
        scene.end(3, 5).await;
    }
}
