//! What is remembered of places is checked by the hour; a status that somebody else writes over is
//! restored once and then left to them (rule R6); Providers that write one status are told of (rule R2).

use std::sync::Arc;

use herald::ops::metrics::Outcome;
use herald::outbox::{Disputes, Known, Outbox, Said, Source};
use serde_json::{Value, json};

use crate::logs::Logs;
use crate::order::foreign;
use crate::scene::{Scene, address, forge, git, token};
use crate::support::app::DEADLINE;
use crate::support::clock::Ahead;
use crate::support::flux::{FluxEvent, Manifest, alert, kustomization_event, provider, sha};
use crate::support::forge::{Fault, Forge};
use crate::support::wait;

async fn scene(kind: &str) -> (Scene, Arc<Ahead>) {
    let forge = forge().await;
    let manifests = [git(kind, &forge), token(), alert("all", "git")];
    with(forge, manifests).await
}

async fn with(forge: Forge, manifests: impl IntoIterator<Item = Manifest>) -> (Scene, Arc<Ahead>) {
    let clock = Arc::new(Ahead::default());
    (Scene::by(clock.clone(), forge, manifests).await, clock)
}

fn ok() -> FluxEvent {
    kustomization_event("web", &sha(1))
}

fn fail() -> FluxEvent {
    ok().failed("HealthCheckFailed")
}

/// A status that somebody else writes, under our name.
fn said(scene: &Scene, state: &str, description: &str) -> [Value; 1] {
    let context = git("github", &scene.forge).context("web");
    [json!({"state": state, "context": context, "description": description})]
}

#[tokio::test]
async fn what_is_remembered_is_read_again_after_an_hour_and_not_before() {
    for kind in ["azuredevops", "bitbucket", "bitbucketserver", "gitea", "github", "gitlab"] {
        let (scene, clock) = scene(kind).await;
        scene.tell([ok()]).await;
        clock.turn(59);
        scene.tell([ok()]).await;
        assert_eq!(scene.forge.reads(), 1, "{kind}: within the hour");
        clock.turn(2);
        scene.tell([ok(), ok()]).await;
        assert_eq!(scene.forge.reads(), 2, "{kind}: after it, once");
        clock.turn(59);
        scene.tell([ok()]).await;
        assert_eq!(scene.forge.reads(), 2, "{kind}: what was read is confirmed for an hour");
        assert_eq!(scene.ended(Outcome::Unchanged), 4);

        // A new outcome is no blind write either.
        clock.turn(2);
        scene.tell([fail()]).await;
        assert_eq!(scene.ended(Outcome::Delivered), 2);
        scene.end(3, 2).await;
    }
}

#[tokio::test]
async fn all_statuses_of_a_commit_are_checked_by_one_listing_an_hour() {
    // Its list has a row for each job of a pipeline, so GitLab is asked for each name.
    for (kind, whole) in [("github", true), ("gitlab", false)] {
        let (scene, clock) = scene(kind).await;
        let events: Vec<_> = (0..40).map(|object| kustomization_event(&format!("app-{object}"), &sha(1))).collect();
        let (early, late) = events.split_at(20);
        let round = async |events: &[FluxEvent]| {
            let before = scene.forge.reads();
            for event in events {
                scene.post(event).await;
            }
            scene.herald.idle().await;
            scene.forge.reads() - before
        };
        let pick = |of_whole, of_each| if whole { of_whole } else { of_each };
        assert_eq!(round(early).await, pick(1, 20), "{kind}: a first look");
        clock.turn(30);
        assert_eq!(round(late).await, pick(1, 20), "{kind}: a first look at the others");
        assert_eq!(round(&events).await, 0);
        clock.turn(31);
        assert_eq!(
            round(&events).await,
            pick(0, 20),
            "{kind}: an hour after the early ones, whom the second listing saw"
        );
        clock.turn(30);
        assert_eq!(round(&events).await, pick(1, 20), "{kind}: an hour after that listing and the late ones");
        clock.turn(31);
        assert_eq!(round(&events).await, pick(0, 20), "{kind}: it told of all of them");
        clock.turn(31);
        assert_eq!(round(&events).await, pick(1, 20), "{kind}: another hour, another listing");
        assert_eq!(scene.ended(Outcome::Unchanged), 200);
        let reads = scene.forge.reads();
        scene.end(reads, 40).await;
    }
}

#[tokio::test]
async fn what_was_written_after_a_listing_is_not_checked_by_it() {
    let (scene, clock) = scene("github").await;
    scene.tell([ok()]).await;
    clock.turn(61);
    // Read, and then written.
    scene.tell([fail()]).await;
    clock.turn(61);
    scene.tell([fail()]).await;
    assert_eq!((scene.ended(Outcome::Delivered), scene.ended(Outcome::Unchanged)), (2, 1));
    scene.end(3, 2).await;
}

#[tokio::test]
async fn a_check_that_fails_is_tried_again() {
    let (scene, clock) = scene("github").await;
    scene.tell([ok()]).await;
    foreign(&scene.forge, "github", &sha(1), said(&scene, "failure", "theirs")).await;
    clock.turn(61);
    scene.forge.fail(Fault::answer(502).reads());
    scene.tell([ok()]).await;
    assert_eq!(scene.forge.statuses(&sha(1)).last().expect("there are some").state, "success");
    scene.end(3, 3).await;
}

#[tokio::test]
async fn what_somebody_else_writes_is_restored_once_and_then_contested() {
    for (kind, state, description) in [("github", "failure", "theirs"), ("gitea", "pending", "theirs")] {
        let logs = Logs::collect();
        let (scene, clock) = scene(kind).await;
        let commit = sha(1);
        scene.tell([ok()]).await;

        foreign(&scene.forge, kind, &commit, said(&scene, state, description)).await;
        clock.turn(61);
        scene.tell([ok()]).await;
        assert_eq!(scene.ended(Outcome::Delivered), 2, "{kind}: restored");
        logs.until(&["it was restored, once", "name=all"]).await;

        foreign(&scene.forge, kind, &commit, said(&scene, state, description)).await;
        clock.turn(61);
        scene.tell([ok()]).await;
        let counts = || (scene.ended(Outcome::Refused), scene.forge.reads(), scene.forge.writes());
        assert_eq!(counts(), (1, 3, 4), "{kind}: left to them");
        for name in ["name=git", "name=all"] {
            logs.until(&["condition=Healthy", "status=False", "reason=Contested", name]).await;
        }
        assert!(!logs.text().contains(description), "nobody reads their words");
        // It stays so, and costs nothing within the hour.
        scene.tell([ok()]).await;
        assert_eq!(counts(), (2, 3, 4), "{kind}");
        clock.turn(61);
        scene.tell([ok()]).await;
        assert_eq!(counts(), (3, 4, 4), "{kind}");

        // Until it says what we would say.
        foreign(&scene.forge, kind, &commit, said(&scene, "success", "reconciliation succeeded")).await;
        clock.turn(61);
        let healthy = || logs.count(&["condition=Healthy", "status=True", "name=git"]);
        let before = healthy();
        scene.tell([ok()]).await;
        assert_eq!((counts(), scene.ended(Outcome::Unchanged)), ((3, 5, 5), 1), "{kind}");
        wait::until(DEADLINE, "to be healthy again", || async { (healthy() > before).then_some(()) }).await;
        scene.end(5, 5).await;
    }
}

#[tokio::test]
async fn other_words_for_the_same_state_are_restored_once_and_alarm_nobody() {
    let logs = Logs::collect();
    let (scene, clock) = scene("github").await;
    scene.tell([ok()]).await;
    for _ in 0..3 {
        foreign(&scene.forge, "github", &sha(1), said(&scene, "success", "their words")).await;
        clock.turn(61);
        scene.tell([ok(), ok()]).await;
    }
    let ended = [Outcome::Delivered, Outcome::Unchanged, Outcome::Refused].map(|outcome| scene.ended(outcome));
    assert_eq!(ended, [2, 5, 0]);
    assert_eq!(logs.count(&["wrote over"]), 0);

    // Another state is another matter.
    for ended in [(3, 0), (3, 1)] {
        foreign(&scene.forge, "github", &sha(1), said(&scene, "failure", "their words")).await;
        clock.turn(61);
        scene.tell([ok()]).await;
        assert_eq!((scene.ended(Outcome::Delivered), scene.ended(Outcome::Refused)), ended);
    }
    foreign(&scene.forge, "github", &sha(1), said(&scene, "success", "their words")).await;
    clock.turn(61);
    scene.tell([ok()]).await;
    assert_eq!((scene.ended(Outcome::Unchanged), scene.ended(Outcome::Refused)), (6, 1));
    logs.until(&["deliveries work again", "Contested"]).await;
    scene.end(7, 9).await;
}

#[tokio::test]
async fn a_new_outcome_is_told_over_a_contested_one_and_begins_anew() {
    let (scene, clock) = scene("github").await;
    let theirs = async || {
        foreign(&scene.forge, "github", &sha(1), said(&scene, "pending", "theirs")).await;
        clock.turn(61);
    };
    for event in [ok(), fail()] {
        scene.tell([&event]).await;
        let delivered = scene.ended(Outcome::Delivered);
        theirs().await;
        scene.tell([&event]).await;
        assert_eq!(scene.ended(Outcome::Delivered), delivered + 1, "restored");
        let refused = scene.ended(Outcome::Refused);
        theirs().await;
        scene.tell([&event]).await;
        assert_eq!((scene.ended(Outcome::Delivered), scene.ended(Outcome::Refused)), (delivered + 1, refused + 1));
    }
    // Also when somebody writes between any two outcomes.
    for event in [ok(), fail(), ok(), fail()] {
        theirs().await;
        scene.tell([&event]).await;
    }
    assert_eq!((scene.ended(Outcome::Delivered), scene.ended(Outcome::Refused)), (8, 2));
    let (reads, writes) = (scene.forge.reads(), scene.forge.writes());
    scene.end(reads, writes).await;
}

#[tokio::test]
async fn a_contested_status_is_told_once_more_when_the_provider_changes() {
    let (scene, clock) = scene("github").await;
    scene.tell([ok()]).await;
    for _ in 0..2 {
        foreign(&scene.forge, "github", &sha(1), said(&scene, "pending", "theirs")).await;
        clock.turn(61);
        scene.tell([ok()]).await;
    }
    assert_eq!(scene.ended(Outcome::Refused), 1);
    let touched = git("github", &scene.forge).annotation("herald.sh/touched", "1");
    scene.change("git", |folder| drop(folder.write(&touched))).await;
    // Delivery may hear of the change a moment later.
    wait::until(DEADLINE, "the status to be told", || async {
        scene.tell([ok()]).await;
        (scene.ended(Outcome::Delivered) == 3).then_some(())
    })
    .await;
    // From a listing of the same minute.
    scene.end(3, 5).await;
}

#[tokio::test]
async fn while_others_may_write_nothing_is_contested() {
    let (scene, _clock) = scene("github").await;
    scene.herald.app.outbox.distrust(true);
    for _ in 0..4 {
        scene.tell([ok()]).await;
        foreign(&scene.forge, "github", &sha(1), said(&scene, "pending", "theirs")).await;
    }
    assert_eq!((scene.ended(Outcome::Delivered), scene.ended(Outcome::Refused)), (4, 0));
    scene.end(4, 8).await;
}

#[tokio::test]
async fn what_was_listed_before_a_write_is_not_believed_once_the_write_is_forgotten() {
    let company: fn(&dyn Outbox) = |outbox| {
        outbox.distrust(true);
        outbox.distrust(false);
    };
    let crowd: fn(&dyn Outbox) = |outbox| {
        for number in 0..70_000 {
            let known = Known { said: Said::Nothing, at: 0, by: "".into(), disputes: Disputes::default() };
            outbox.note(&number.to_string(), Source::default(), known);
        }
    };
    for (how, forget) in [("company", company), ("elected", |outbox| outbox.forget_said()), ("crowd", crowd)] {
        for kind in ["azuredevops", "bitbucket", "bitbucketserver", "gitea", "github", "gitlab"] {
            let (scene, clock) = scene(kind).await;
            let outbox = &*scene.herald.app.outbox;
            scene.tell([ok()]).await;
            outbox.forget_said();
            clock.turn(2);
            scene.tell([ok()]).await;
            assert_eq!((scene.forge.reads(), scene.ended(Outcome::Unchanged)), (2, 1), "{kind}: it is listed as green");
            scene.tell([fail()]).await;
            forget(outbox);
            scene.tell([ok()]).await;
            assert_eq!(scene.forge.reads(), 3, "{how}, {kind}: looked anew");
            assert_eq!(scene.ended(Outcome::Delivered), 3, "{how}, {kind}: green again");
            scene.end(3, 3).await;
        }
    }
}

#[tokio::test]
async fn what_was_listed_in_company_is_not_believed_when_it_is_over() {
    let (scene, _clock) = scene("github").await;
    let outbox = &scene.herald.app.outbox;
    let api = ok().named("api");
    outbox.distrust(true);
    scene.tell([&api, &ok()]).await;
    // What the other one had under way.
    let context = git("github", &scene.forge).context("api");
    let late = json!({"state": "failure", "context": context, "description": "theirs"});
    foreign(&scene.forge, "github", &sha(1), [late]).await;
    outbox.distrust(false);
    scene.tell([&api, &api]).await;
    assert_eq!(scene.states(&sha(1), &context), ["success", "failure", "success"]);
    scene.end(3, 4).await;
}

#[tokio::test]
async fn two_providers_of_one_name_are_told_of_once_and_contest_nothing() {
    let logs = Logs::collect();
    let forge = forge().await;
    let address = format!("{}/acme/fleet", forge.url());
    let one_name = |name: &str| provider("github", name, &address).secret("token").spec("commitStatusExpr", "'fleet'");
    let of = |name: &str, object| alert(name, name).sources(json!([{"kind": "Kustomization", "name": object}]));
    let manifests = [one_name("one"), one_name("two"), of("one", "web"), of("two", "api"), token()];
    let (scene, clock) = with(forge, manifests).await;
    let shared = &["condition=Healthy", "status=True", "another Provider writes the same commit statuses"];
    let api = fail().named("api");
    // Each says its own: the last to speak is heard, whenever that is.
    for _ in 0..3 {
        scene.tell([&ok(), &api]).await;
        clock.turn(61);
    }
    assert_eq!((scene.ended(Outcome::Delivered), scene.ended(Outcome::Refused)), (6, 0));
    let states = scene.states(&sha(1), "fleet");
    assert_eq!(states, ["success", "failure", "success", "failure", "success", "failure"]);
    assert_eq!(logs.count(&["two Providers write the same commit statuses"]), 1);
    for name in ["name=one", "name=two"] {
        logs.until(&[shared.as_slice(), &[name]].concat()).await;
    }
    let named = |line: &&str| line.contains("condition=Healthy") && line.contains("name=one") && line.contains("two");
    assert_eq!(logs.text().lines().find(named), None, "a condition names no other tenant's object");

    // One takes a name of its own, and neither has anything to say of the other.
    let told = || ["name=one", "name=two"].map(|name| logs.count(&["condition=Healthy", name]));
    let before = told();
    scene.change("two", |folder| drop(folder.write(&one_name("two").spec("commitStatusExpr", "'own'")))).await;
    scene.tell([&ok(), &api]).await;
    wait::until(DEADLINE, "both conditions to be plain again", || async {
        told().iter().zip(before).all(|(now, before)| *now > before).then_some(())
    })
    .await;
    assert_eq!(logs.count(&["condition=Healthy", "another Provider writes"]), 2, "said of each once");
    assert_eq!(logs.count(&["two Providers write the same commit statuses"]), 1, "it is over");
    let (reads, writes) = (scene.forge.reads(), scene.forge.writes());
    scene.end(reads, writes).await;
}

#[tokio::test]
async fn a_repository_is_one_place_however_it_is_written() {
    for kind in ["azuredevops", "bitbucket", "bitbucketserver", "gitea", "github", "gitlab"] {
        let forge = forge().await;
        let written = address(kind, &forge);
        let shouted = ["acme", "fleet", "project"].iter().fold(written.clone(), |address, name| {
            let (first, rest) = name.split_at(1);
            address.replace(name, &format!("{}{rest}", first.to_uppercase()))
        });
        let git = |name: &str, address: &str| {
            provider(kind, name, address).secret("token").spec("commitStatusExpr", "'fleet'")
        };
        let of = |name: &str, object| alert(name, name).sources(json!([{"kind": "Kustomization", "name": object}]));
        let manifests = [git("one", &written), git("two", &shouted), of("one", "web"), of("two", "api"), token()];
        let (scene, _clock) = with(forge, manifests).await;
        scene.tell([&ok(), &fail().named("api"), &ok()]).await;
        assert_eq!(scene.ended(Outcome::Delivered), 3, "{kind}: the last to speak is heard");
        let statuses = scene.forge.statuses(&sha(1));
        assert!(
            statuses.last().is_some_and(|status| status.state.starts_with("succe") || status.state == "SUCCESSFUL")
        );
        let named = scene.forge.requests().iter().filter(|request| request.uri.contains("Fleet")).count();
        assert_eq!(named, 1, "{kind}: a request names it as it is written");
        scene.end(1, 3).await;
    }
}
