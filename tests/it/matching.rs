//! Which Alerts want an event, and what opens or closes the way from an Alert to its Provider.

use serde_json::json;

use herald::clock::{Clock, SystemClock};
use herald::ops::metrics::Outcome;

use crate::logs::Logs;
use crate::scene::{Scene, TOKEN, address, forge, git, hook, token};
use crate::support::app::DEADLINE;
use crate::support::flux::{FluxEvent, Manifest, NAMESPACE, alert, kustomization_event, provider, secret, sha};
use crate::support::forge::Forge;
use crate::support::wait;

/// An Alert with a Provider of its own, so that the host sees which Alert told.
fn told_at(forge: &Forge, name: &str, shape: impl Fn(Manifest) -> Manifest) -> [Manifest; 2] {
    let address = format!("{}/hook?{name}", forge.url());
    [provider("generic", name, &address), shape(alert(name, name))]
}

/// The Alerts that told, by the mark in their Provider's address.
fn told(forge: &Forge) -> Vec<String> {
    let mut told: Vec<_> =
        forge.requests().iter().filter_map(|request| Some(request.uri.split_once('?')?.1.to_owned())).collect();
    told.sort();
    told
}

#[tokio::test]
async fn each_alert_tells_what_it_selects_and_nothing_else() {
    let forge = forge().await;
    let sources = |kind: &str, name: &str| json!([{"kind": kind, "name": name}]);
    let alerts = [
        told_at(&forge, "all", |alert| alert),
        told_at(&forge, "api-version-plays-no-part", |alert| {
            alert.sources(json!([{"apiVersion": "x/v9", "kind": "Kustomization", "name": "*"}]))
        }),
        told_at(&forge, "errors", |alert| alert.spec("eventSeverity", "error")),
        told_at(&forge, "web", |alert| alert.sources(sources("Kustomization", "web"))),
        told_at(&forge, "no-globs", |alert| alert.sources(sources("Kustomization", "w*"))),
        told_at(&forge, "helm", |alert| alert.sources(sources("HelmRelease", "*"))),
        told_at(&forge, "prod", |alert| {
            alert.sources(json!([{"kind": "Kustomization", "name": "*", "namespace": "prod"}]))
        }),
        told_at(&forge, "labels", |alert| {
            alert.sources(json!([{"kind": "Kustomization", "name": "*", "matchLabels": {"team": "a"}}]))
        }),
        told_at(&forge, "included", |alert| alert.spec("inclusionList", json!(["nothing", "finished in \\d"]))),
        told_at(&forge, "excluded", |alert| alert.spec("exclusionList", json!(["^Reconciliation"]))),
        told_at(&forge, "excluded-after-all", |alert| {
            alert.spec("inclusionList", json!(["finished"])).spec("exclusionList", json!(["finished"]))
        }),
        told_at(&forge, "bad-inclusion", |alert| alert.spec("inclusionList", json!(["(unclosed"]))),
        told_at(&forge, "half-bad-inclusion", |alert| alert.spec("inclusionList", json!(["(unclosed", "finished"]))),
        told_at(&forge, "bad-exclusion", |alert| alert.spec("exclusionList", json!(["(unclosed"]))),
        told_at(&forge, "suspended", |alert| alert.spec("suspend", true)),
    ];
    let suspended_provider = [hook(&forge).spec("suspend", true), alert("to-suspended", "hook")];
    let no_provider = [alert("to-nobody", "nobody")];
    let manifests: Vec<_> = alerts.into_iter().flatten().chain(suspended_provider).chain(no_provider).collect();
    let scene = Scene::with(forge, manifests, &[]).await;

    let helm = |event: FluxEvent| event.kind("HelmRelease", "helm.toolkit.fluxcd.io/v2");
    let everything = ["all", "api-version-plays-no-part"];
    let mut seen = 0;
    for (what, event, expected) in [
        (
            "a success of web",
            kustomization_event("web", &sha(1)),
            [&everything[..], &["bad-exclusion", "half-bad-inclusion", "included", "web"]].concat(),
        ),
        (
            "a failure of web",
            kustomization_event("web", &sha(1)).failed("BuildFailed"),
            [&everything[..], &["bad-exclusion", "errors", "excluded", "web"]].concat(),
        ),
        (
            "a success of another",
            kustomization_event("wax", &sha(1)),
            [&everything[..], &["bad-exclusion", "half-bad-inclusion", "included"]].concat(),
        ),
        ("another namespace", kustomization_event("web", &sha(1)).namespace("prod"), vec!["prod"]),
        ("a namespace nobody listens to", kustomization_event("web", &sha(1)).namespace("Prod"), vec![]),
        ("another kind", helm(kustomization_event("web", &sha(1))), vec!["helm"]),
        (
            "a severity Flux does not know",
            kustomization_event("web", &sha(2)).severity("trace"),
            [&everything[..], &["bad-exclusion", "half-bad-inclusion", "included", "web"]].concat(),
        ),
    ] {
        scene.forge.reset_counts();
        scene.tell([event]).await;
        assert_eq!(told(&scene.forge), expected, "{what}");
        seen = expected.len();
    }
    scene.end(0, seen).await;
}

#[tokio::test]
async fn an_alert_may_listen_to_another_namespace_unless_that_is_forbidden() {
    let event = kustomization_event("web", &sha(1));
    let team = |forge: &Forge| {
        let address = format!("{}/hook?team", forge.url());
        [
            provider("generic", "hook", &address).namespace("team").secret("headers"),
            secret("headers", "headers", "X-Whose: the team's").namespace("team"),
            // Of the same names, and none of the team's business.
            provider("generic", "hook", &format!("{}/hook?ours", forge.url())).secret("headers"),
            secret("headers", "headers", "X-Whose: ours"),
            alert("curious", "hook")
                .namespace("team")
                .sources(json!([{"kind": "Kustomization", "name": "*", "namespace": NAMESPACE}])),
            alert("at-home", "hook"),
        ]
    };
    for (flag, expected) in
        [("--no-cross-namespace-refs=false", vec!["ours", "team"]), ("--no-cross-namespace-refs", vec!["ours"])]
    {
        let forge = forge().await;
        let manifests = team(&forge);
        let scene = Scene::with(forge, manifests, &[flag]).await;
        scene.tell([&event]).await;
        assert_eq!(told(&scene.forge), expected, "{flag}");
        for request in scene.forge.requests() {
            let whose = if request.uri.ends_with("team") { "the team's" } else { "ours" };
            assert_eq!(request.header("x-whose"), whose, "Provider and Secret are those of the Alert's namespace");
        }
        assert_eq!(scene.ended(Outcome::Refused), u64::from(expected.len() == 1), "{flag}");
        scene.end(0, expected.len()).await;
    }
}

#[tokio::test]
async fn two_alerts_on_one_provider_make_one_status_and_two_messages() {
    let forge = forge().await;
    let git = git("github", &forge);
    let manifests = [
        git.clone(),
        token(),
        hook(&forge),
        alert("one", "git"),
        alert("two", "git"),
        alert("three", "hook"),
        alert("four", "hook"),
    ];
    let scene = Scene::with(forge, manifests, &[]).await;
    scene.tell([kustomization_event("web", &sha(1))]).await;
    assert_eq!(scene.states(&sha(1), &git.context("web")), ["success"]);
    assert_eq!((scene.ended(Outcome::Delivered), scene.ended(Outcome::Superseded)), (3, 1));
    scene.end(1, 3).await;
}

#[tokio::test]
async fn a_commit_status_wants_an_outcome_and_a_commit() {
    let scene = Scene::of("github").await;
    let commit = |number| kustomization_event("web", &sha(number));
    let mark = "kustomize.toolkit.fluxcd.io/commit_status";
    for (what, event) in [
        ("progress", commit(1).progressing()),
        ("an artifact", commit(1).without_metadata(mark).reason("NewArtifact")),
        (
            "an empty commit by annotation",
            commit(1)
                .without_metadata(mark)
                .annotated("commit", "")
                .without_metadata("kustomize.toolkit.fluxcd.io/revision"),
        ),
        ("no revision", commit(1).without_metadata("kustomize.toolkit.fluxcd.io/revision")),
        ("a chart's version", commit(1).metadata("kustomize.toolkit.fluxcd.io/revision", "6.5.0")),
        ("a severity nobody knows", commit(1).severity("trace")),
        ("waiting for another", commit(1).reason("DependencyNotReady").annotated("commit", &sha(1))),
    ] {
        scene.tell([event]).await;
        assert!(scene.forge.requests().is_empty(), "{what}");
    }
    assert_eq!(scene.ended(Outcome::Filtered), 7);
    // It may be the recovery of a failure that an earlier process told: the host is asked once.
    for event in [commit(1).without_metadata(mark), commit(1).metadata(mark, "other")] {
        scene.tell([event]).await;
        assert_eq!((scene.forge.reads(), scene.forge.writes()), (1, 0));
    }
    for (number, event) in [
        (2, commit(2)),
        (3, commit(3).failed("BuildFailed")),
        // The annotation opens the gate, and names the commit.
        (4, commit(9).without_metadata(mark).annotated("commit", &sha(4))),
    ] {
        scene.tell([event]).await;
        assert_eq!(scene.forge.statuses(&sha(number)).len(), 1, "{number}");
    }
    scene.end(4, 3).await;
}

#[tokio::test]
async fn commit_status_from_any_makes_a_status_of_every_event_that_names_a_commit() {
    let forge = forge().await;
    let sources = ["GitRepository", "HelmRelease", "Kustomization", "OCIRepository"];
    let sources = sources.map(|kind| json!({"kind": kind, "name": "*"})).to_vec();
    let with = |name: &str, value: &str| {
        let provider = provider("github", name, &address("github", &forge)).secret("token");
        let alert = alert(name, name).sources(sources.clone().into());
        [provider.annotation("herald.sh/commit-status-from", value), alert]
    };
    let manifests = [with("git", "any"), with("all", "all")].into_iter().flatten().chain([token()]);
    let manifests: Vec<_> = manifests.collect();
    let context = |kind: &str| manifests[0].context("web").replace("kustomization", kind);
    let contexts = ["gitrepository", "helmrelease", "kustomization", "ocirepository"].map(context);
    let scene = Scene::with(forge, manifests.clone(), &[]).await;

    let unmarked = kustomization_event("web", &sha(1))
        .without_metadata("kustomize.toolkit.fluxcd.io/commit_status")
        .without_metadata("kustomize.toolkit.fluxcd.io/revision");
    let of = |kind: &str, group: &str| unmarked.clone().kind(kind, &format!("{group}/v1")).reason("Succeeded");
    let (source, helm) = ("source.toolkit.fluxcd.io", "helm.toolkit.fluxcd.io");
    let revision =
        |event: FluxEvent, group: &str, key: &str, value: &str| event.metadata(&format!("{group}/{key}"), value);
    let artifact = of("GitRepository", source).reason("NewArtifact");
    let digest = format!("latest@sha256:{}", "5".repeat(64));
    let [gitrepository, helmrelease, kustomization, ocirepository] = &contexts;
    for (number, what, event, context) in [
        (
            1,
            "a new commit",
            revision(artifact.clone(), source, "revision", &format!("main@sha1:{}", sha(1))),
            Some(gitrepository),
        ),
        (
            2,
            "an artifact made of a commit",
            {
                let event = revision(of("OCIRepository", source), source, "revision", &digest);
                revision(event, source, "originRevision", &format!("main@sha1:{}", sha(2)))
            },
            Some(ocirepository),
        ),
        (3, "a commit by annotation", of("HelmRelease", helm).annotated("commit", &sha(3)), Some(helmrelease)),
        (
            4,
            "an unmarked success",
            revision(unmarked.clone(), "kustomize.toolkit.fluxcd.io", "revision", &sha(4)),
            Some(kustomization),
        ),
        (5, "a digest", revision(of("OCIRepository", source), source, "revision", &digest), None),
        (6, "a chart's version", revision(of("HelmRelease", helm), helm, "revision", "6.5.0"), None),
        (7, "no revision", artifact.clone(), None),
        (8, "a revision of another group", revision(artifact.clone(), helm, "revision", &sha(8)), None),
        (
            9,
            "progress",
            revision(unmarked.clone(), "kustomize.toolkit.fluxcd.io", "revision", &sha(9)).reason("Progressing"),
            None,
        ),
    ] {
        scene.tell([event]).await;
        let statuses = scene.forge.statuses(&sha(number));
        let said: Vec<_> = statuses.iter().map(|status| (&status.context, status.state.as_str())).collect();
        // The Provider with a value nobody knows says of them what it always says.
        let expected: Vec<_> = context.map(|context| (context, "success")).into_iter().collect();
        let at_git: Vec<_> = said.iter().filter(|(context, _)| contexts.contains(context)).copied().collect();
        assert_eq!(at_git, expected, "{what}");
        assert_eq!(said.len() - at_git.len(), usize::from(number == 3), "{what}");
    }
    scene.end(4, 5).await;
}

#[tokio::test]
async fn metadata_of_an_alert_opens_no_gate() {
    let forge = forge().await;
    let manifests = [
        git("github", &forge).annotation("herald.sh/commit-status-from", "any"),
        token(),
        alert("all", "git").spec("eventMetadata", json!({"commit": sha(7), "commit_status": "update"})),
    ];
    let scene = Scene::with(forge, manifests, &[]).await;
    let unmarked = kustomization_event("web", &sha(1)).without_metadata("kustomize.toolkit.fluxcd.io/commit_status");
    scene.tell([unmarked.without_metadata("kustomize.toolkit.fluxcd.io/revision")]).await;
    assert_eq!(scene.ended(Outcome::Filtered), 1);

    // It may say which commit an event is about that got through.
    scene.tell([kustomization_event("web", &sha(1))]).await;
    assert_eq!(scene.forge.statuses(&sha(7)).len(), 1);
    scene.end(1, 1).await;
}

#[tokio::test]
async fn a_forwarder_is_told_the_event_byte_for_byte_as_the_peer_would() {
    let forge = forge().await;
    let manifests = [
        hook(&forge).secret("headers"),
        secret("headers", "headers", "X-Team: a\nContent-Type: application/vnd.flux+json\n"),
        alert("all", "hook").spec("eventMetadata", json!({"env": "prod", "revision": "x"})).spec("summary", "sum"),
    ];
    let scene = Scene::with(forge, manifests, &[]).await;
    let event = kustomization_event("web", "5394cb7f48332b2de7c17dd8b8384bbc84b7e738")
        .message("a <b> & \"c\" \u{2028} é")
        .metadata("kustomize.toolkit.fluxcd.io/CheckSum", "d")
        .metadata("kustomize.toolkit.fluxcd.io/digest", "d")
        .metadata("kustomize.toolkit.fluxcd.io/token", "t")
        .metadata("other/x", "y")
        .annotated("foo", "bar")
        .annotated("token", "kept");
    scene.tell([event]).await;

    let request = scene.forge.requests().remove(0);
    assert_eq!((request.method.as_str(), request.uri.as_str()), ("POST", "/hook"));
    assert_eq!(
        std::str::from_utf8(&request.body).expect("JSON is text"),
        "{\"involvedObject\":{\"kind\":\"Kustomization\",\"namespace\":\"flux-system\",\"name\":\"web\",\
         \"uid\":\"uid-of-web\",\"apiVersion\":\"kustomize.toolkit.fluxcd.io/v1\",\"resourceVersion\":\"1000\"},\
         \"severity\":\"info\",\"timestamp\":\"2026-01-02T15:04:05Z\",\
         \"message\":\"a \\u003cb\\u003e \\u0026 \\\"c\\\" \\u2028 é\",\"reason\":\"ReconciliationSucceeded\",\
         \"metadata\":{\"commit_status\":\"update\",\"env\":\"prod\",\"foo\":\"bar\",\
         \"revision\":\"main@sha1:5394cb7f48332b2de7c17dd8b8384bbc84b7e738\",\"summary\":\"sum\",\"token\":\"kept\"},\
         \"reportingController\":\"kustomize-controller\",\"reportingInstance\":\"kustomize-controller-7d8f9\"}"
    );
    assert_eq!(request.header("gotk-component"), "kustomize-controller");
    assert_eq!(request.header("x-team"), "a");
    assert_eq!(request.header("content-type"), "application/vnd.flux+json", "the user's own headers win");
    scene.end(0, 1).await;
}

#[tokio::test]
async fn the_same_message_again_is_a_repeat_and_a_new_revision_is_not() {
    let scene = Scene::of("generic").await;
    let event = kustomization_event("web", &sha(1));
    let answers = [
        (202, event.clone()),
        (429, event.clone()),
        // None of these is part of what makes a message the same.
        (429, event.clone().version(2000).annotated("commit", &sha(3)).metadata("other/x", "y")),
        (202, kustomization_event("web", &sha(2))),
        (202, event.clone().namespace("flux-system").message("other words")),
        (202, kustomization_event("api", &sha(1))),
        (202, event.clone().metadata("kustomize.toolkit.fluxcd.io/token", "t")),
        (429, event.clone().metadata("kustomize.toolkit.fluxcd.io/token", "t")),
    ];
    for (number, (expected, event)) in answers.iter().enumerate() {
        assert_eq!(scene.herald.post(event).await, *expected, "event {number}");
    }
    let refused = reqwest::Client::new().post(scene.herald.events_url()).body(event.to_string()).send().await;
    let refused = refused.expect("Herald answers");
    assert_eq!((refused.status().as_u16(), refused.content_length()), (429, Some(0)));
    scene.end(0, 5).await;
}

#[tokio::test]
async fn fail_ok_fail_ok_is_told_four_times() {
    let commit = sha(1);
    let ok = kustomization_event("web", &commit);
    let fail = ok.clone().failed("HealthCheckFailed");

    let messages = Scene::of("generic").await;
    messages.tell([&fail, &ok, &fail, &ok]).await;
    assert_eq!(messages.herald.post(&ok).await, 429);
    messages.end(0, 4).await;

    let statuses = Scene::of("github").await;
    statuses.tell([&fail, &ok, &fail, &ok]).await;
    assert_eq!(statuses.herald.post(&ok).await, 202, "a status is never a repeat");
    let states: Vec<_> = statuses.forge.statuses(&commit).into_iter().map(|status| status.state).collect();
    assert_eq!(states, ["failure", "success", "failure", "success"]);
    statuses.end(1, 4).await;
}

#[tokio::test]
async fn an_event_is_no_repeat_while_one_alert_was_not_told() {
    let forge = forge().await;
    let [first_hook, first] = told_at(&forge, "first", |alert| alert);
    let [second_hook, second] = told_at(&forge, "second", |alert| alert);
    let scene = Scene::with(forge, [first_hook, first, second_hook], &[]).await;
    let event = kustomization_event("web", &sha(1));
    scene.tell([&event]).await;

    scene.folder.write(&second);
    let key = herald::api::Key::new(NAMESPACE, "second");
    wait::until(DEADLINE, "the second Alert", || async { scene.herald.app.stores.index.get(&key).map(drop) }).await;
    scene.tell([&event]).await;
    assert_eq!(told(&scene.forge), ["first", "second"]);
    assert_eq!(scene.herald.post(&event).await, 429);
    scene.end(0, 2).await;
}

#[tokio::test]
async fn a_suspended_provider_is_not_told_and_later_is() {
    let forge = forge().await;
    let git = git("github", &forge);
    let manifests = [git.clone().spec("suspend", true), token(), alert("all", "git")];
    let scene = Scene::with(forge, manifests, &[]).await;
    scene.tell([kustomization_event("web", &sha(1))]).await;
    assert_eq!(scene.ended(Outcome::Filtered), 1);

    scene.change("git", |folder| drop(folder.write(&git))).await;
    scene.tell([kustomization_event("web", &sha(1))]).await;
    assert_eq!(scene.states(&sha(1), &git.context("web")), ["success"]);
    assert!(scene.forge.requests()[0].header("authorization").ends_with(TOKEN));
    scene.end(1, 1).await;
}

/// An Alert that many have copied: FluxInstance is no kind of Flux's own.
#[tokio::test]
async fn a_kind_that_herald_does_not_know_matches_as_a_word_and_hurts_no_other() {
    let forge = forge().await;
    let kinds = ["FluxInstance", "GitRepository", "Kustomization"].map(|kind| json!({"kind": kind, "name": "*"}));
    let exclusions = json!(["error.*lookup github\\.com", "dial.*tcp.*timeout", "waiting.*socket"]);
    let manifests: Vec<_> =
        told_at(&forge, "all", |alert| alert.sources(json!(kinds)).spec("exclusionList", exclusions.clone())).into();
    let scene = Scene::with(forge, manifests, &[]).await;
    let instance = kustomization_event("flux", &sha(1)).kind("FluxInstance", "fluxcd.controlplane.io/v1");
    for (what, event, count) in [
        ("a FluxInstance", instance.clone(), 1),
        ("another kind", instance.kind("ResourceSet", "fluxcd.controlplane.io/v1"), 0),
        ("a Kustomization", kustomization_event("web", &sha(1)), 1),
        ("an excluded message", kustomization_event("web", &sha(2)).message("dial tcp 1.2.3.4:443: i/o timeout"), 0),
    ] {
        scene.forge.reset_counts();
        scene.tell([event]).await;
        assert_eq!(told(&scene.forge).len(), count, "{what}");
    }
}

#[tokio::test]
async fn a_source_that_can_match_nothing_is_named_when_the_alert_is_applied() {
    let logs = Logs::collect();
    let forge = forge().await;
    let elsewhere = json!([{"kind": "Kustomization", "name": "*", "namespace": "prod"}]);
    let manifests: Vec<_> = [
        told_at(&forge, "star", |alert| {
            alert.sources(json!([
                {"kind": "HelmRelease", "name": "*", "namespace": "*"},
                {"kind": "Kustomization", "name": "web-*"},
            ]))
        }),
        told_at(&forge, "half", |alert| {
            alert.sources(json!([{"kind": "kustomization", "name": "*"}, {"kind": "Kustomization", "name": "*"}]))
        }),
        told_at(&forge, "elsewhere", |alert| alert.sources(elsewhere.clone())),
    ]
    .into_iter()
    .flatten()
    .collect();
    let scene = Scene::with(forge, manifests, &["--no-cross-namespace-refs"]).await;
    let condition = |name: &str, parts: &[&str]| {
        let name = format!("name={name} ");
        [&["controllerKind=Alert", &name][..], parts].concat().iter().map(|&part| part.to_owned()).collect::<Vec<_>>()
    };
    for (name, parts) in [
        ("star", &["Ready", "SourceMatchesNothing", "spec.eventSources[0].namespace", "spec.eventSources[1].name"][..]),
        ("half", &["Healthy", "SourceMatchesNothing", "spec.eventSources[0].kind", "write Kustomization"]),
        ("elsewhere", &["Healthy", "AccessDenied", "Kustomization/prod/*"]),
    ] {
        let parts = condition(name, parts);
        logs.until(&parts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    scene.tell([kustomization_event("web", &sha(1))]).await;
    assert_eq!(told(&scene.forge), ["half"], "its other source works");
}

const MARK: &str = "kustomize.toolkit.fluxcd.io/commit_status";

/// Controllers other than Flux's kustomize-controller do not mark a success as the final one.
#[tokio::test]
async fn a_recovery_without_the_mark_turns_a_failure_of_the_same_object_green() {
    for (kind, red, green) in [
        ("azuredevops", "error", "succeeded"),
        ("bitbucket", "FAILED", "SUCCESSFUL"),
        ("bitbucketserver", "FAILED", "SUCCESSFUL"),
        ("gitea", "failure", "success"),
        ("github", "failure", "success"),
        ("gitlab", "failed", "success"),
    ] {
        let scene = Scene::of(kind).await;
        let failed = kustomization_event("web", &sha(1)).failed("UpgradeFailed");
        let recovered = kustomization_event("web", &sha(1)).without_metadata(MARK).reason("UpgradeSucceeded");
        scene.tell([&failed]).await;
        let states = || scene.forge.statuses(&sha(1)).into_iter().map(|status| status.state).collect::<Vec<_>>();
        // Progress and a wait are no recovery.
        let waiting = recovered.clone().reason("DependencyNotReady");
        scene.tell([recovered.clone().progressing(), waiting, recovered.clone().reason("UpgradeFailed")]).await;
        assert_eq!(states(), [red], "{kind}");
        scene.tell([&failed, &recovered]).await;
        assert_eq!(states().last().map(String::as_str), Some(green), "{kind}");
        // What is green already costs nothing.
        let seen = scene.forge.requests().len();
        scene.tell([&recovered, &recovered]).await;
        assert_eq!(scene.forge.requests().len(), seen, "{kind}");
    }
}

#[tokio::test]
async fn a_recovery_after_a_restart_is_told_where_the_host_shows_a_failure_and_nowhere_else() {
    let scene = Scene::of("github").await;
    let event = |number| kustomization_event("web", &sha(number));
    let unmarked = |number| event(number).without_metadata(MARK).reason("UpgradeSucceeded");
    let context = git("github", &scene.forge).context("web");
    scene.tell([event(1).failed("UpgradeFailed"), kustomization_event("other", &sha(2)).failed("UpgradeFailed")]).await;
    let again = scene.another().await;
    scene.forge.reset_counts();
    for (number, states) in [(1, &["failure", "success"][..]), (2, &[]), (3, &[])] {
        for _ in 0..2 {
            assert_eq!(again.post(&unmarked(number)).await, 202);
            again.idle().await;
        }
        assert_eq!(scene.states(&sha(number), &context), states, "{number}");
    }
    let other = context.replace("/web/", "/other/");
    assert_eq!(scene.states(&sha(2), &other), ["failure"], "a status of another object stays as it is");
    assert_eq!((scene.forge.reads(), scene.forge.writes()), (3, 1), "each commit is asked for once");
    again.stop().await;
}

#[tokio::test]
async fn a_recovery_of_another_object_turns_nothing_green() {
    let forge = forge().await;
    let one_name = git("github", &forge).spec("commitStatusExpr", "'one'");
    let scene = Scene::with(forge, [one_name, token(), alert("all", "git")], &[]).await;
    let failed = kustomization_event("web", &sha(1)).failed("UpgradeFailed");
    let unmarked = |name| kustomization_event(name, &sha(1)).without_metadata(MARK).reason("UpgradeSucceeded");
    scene.tell([failed, unmarked("other")]).await;
    assert_eq!(scene.states(&sha(1), "one"), ["failure"]);
    scene.tell([unmarked("web")]).await;
    assert_eq!(scene.states(&sha(1), "one"), ["failure", "success"]);
    // With an expression nobody can tell whose failure it was.
    scene.tell([kustomization_event("web", &sha(2)).failed("UpgradeFailed")]).await;
    let again = scene.another().await;
    let seen = scene.forge.requests().len();
    assert_eq!(again.post(&kustomization_event("web", &sha(2)).without_metadata(MARK)).await, 202);
    again.idle().await;
    assert_eq!(scene.forge.requests().len(), seen);
    again.stop().await;
}

/// A message of letters that make the states of an automaton multiply.
fn multiplying(length: usize) -> String {
    (0..length).map(|at| if (at * at / 3 + at / 7) % 2 == 0 { 'a' } else { 'b' }).collect()
}

/// What one tenant's expressions cost is not paid by others: neither by their events nor by the probes.
#[tokio::test]
async fn an_expression_that_takes_too_long_says_so_and_counts_as_a_bad_one() {
    let logs = Logs::collect();
    let forge = forge().await;
    let costly = "a[ab]{1000}[ab]{1000}~";
    let manifests: Vec<_> = [
        told_at(&forge, "excluding", |alert| alert.spec("exclusionList", json!([costly]))),
        told_at(&forge, "including", |alert| alert.spec("inclusionList", json!([costly]))),
        told_at(&forge, "too-large", |alert| alert.spec("exclusionList", json!(["[a-z]{0,1000}".repeat(28) + "~"]))),
        told_at(&forge, "plain", |alert| alert.spec("exclusionList", json!([".*no change.*"]))),
    ]
    .into_iter()
    .flatten()
    .collect();
    let scene = Scene::with(forge, manifests, &[]).await;
    logs.until(&["name=too-large ", "Ready", "InvalidExpression", "spec.exclusionList[0]", "states"]).await;
    let message = multiplying(15_000) + "~";
    for number in 1..=2 {
        scene.forge.reset_counts();
        let begun = SystemClock.now();
        scene.tell([kustomization_event("web", &sha(number)).message(&message)]).await;
        assert_eq!(told(&scene.forge), ["excluding", "plain", "too-large"]);
        assert!(number == 1 || SystemClock.now() - begun < DEADLINE, "it is not tried again");
    }
    for (name, field) in [("excluding", "spec.exclusionList[0]"), ("including", "spec.inclusionList[0]")] {
        logs.until(&[&format!("name={name} "), "Healthy", "ExpressionTooCostly", field]).await;
    }
}

#[tokio::test]
async fn expressions_look_at_the_beginning_of_a_message() {
    let forge = forge().await;
    let manifests: Vec<_> = told_at(&forge, "all", |alert| alert.spec("exclusionList", json!(["needle"]))).into();
    let scene = Scene::with(forge, manifests, &[]).await;
    for (before, count) in [(0, 0), ((16 << 10) - 6, 0), ((16 << 10) - 5, 1)] {
        scene.forge.reset_counts();
        let message = "x".repeat(before) + "needle";
        scene.tell([kustomization_event("web", &sha(1)).message(&message)]).await;
        assert_eq!(told(&scene.forge).len(), count, "behind {before}");
    }
}

/// The names of statuses by an expression that takes all the steps it may, for many Alerts.
#[tokio::test]
async fn the_expressions_of_a_namespace_share_their_steps_for_an_event() {
    let logs = Logs::collect();
    let forge = forge().await;
    let list = "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]";
    let loops = format!(
        "{list}.map(a, {list}.filter(b, {list}.all(c, [1,2,3].all(d, a + b + c + d > 0)))).size() > 0 ? 'a' : 'b'"
    );
    let busy = git("github", &forge).spec("commitStatusExpr", loops).namespace("team");
    let other = git("gitea", &forge);
    let everything = json!([{"kind": "Kustomization", "name": "*", "namespace": NAMESPACE}]);
    let busy_alerts =
        (0..40).map(|number| alert(&format!("busy-{number}"), "git").namespace("team").sources(everything.clone()));
    let manifests: Vec<_> = [busy, token().namespace("team"), other.clone(), token(), alert("all", "git")]
        .into_iter()
        .chain(busy_alerts)
        .collect();
    let scene = Scene::with(forge, manifests, &[]).await;
    scene.tell([kustomization_event("web", &sha(1)).failed("BuildFailed")]).await;
    assert_eq!(scene.states(&sha(1), &other.context("web")), ["failure"], "of another namespace");
    assert_eq!(scene.states(&sha(1), "a"), ["failure"], "the first of them had steps");
    assert!(logs.count(&["no commit status for the event", "the expressions of this namespace take too long"]) > 0);
}
