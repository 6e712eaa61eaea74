//! What Prometheus reads: names, labels and values after events whose end is known.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;

use crate::scene::{Scene, forge, git, hook, token};
use crate::support::app::{DEADLINE, Herald};
use crate::support::flux::{alert, kustomization_event, provider, secret, sha};
use crate::support::forge::Fault;
use crate::support::wait;

/// The samples by name with labels, as they stand in the text.
type Samples = BTreeMap<String, f64>;

fn samples(text: &str) -> Samples {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.map(|line| line.rsplit_once(' ').expect("a sample has a value"));
    pairs.map(|(name, value)| (name.to_owned(), value.parse().expect("a value is a number"))).collect()
}

async fn read(herald: &Herald) -> Samples {
    samples(&herald.metrics().await)
}

#[track_caller]
fn assert_samples(samples: &Samples, expected: &[(&str, f64)]) {
    for (name, value) in expected {
        let of_family = || {
            let family = name.split('{').next().expect("there is a first");
            samples.keys().filter(|key| key.starts_with(family)).collect::<Vec<_>>()
        };
        assert_eq!(samples.get(*name), Some(value), "{name}, of {:#?}", of_family());
    }
}

#[tokio::test]
async fn events_and_notifications_are_counted_under_the_names_flux_uses() {
    let forge = forge().await;
    let manifests = [git("github", &forge), hook(&forge), token(), alert("status", "git"), alert("message", "hook")];
    let scene = Scene::with(forge, manifests, &[]).await;
    let web = kustomization_event("web", &sha(1));
    scene.tell([web.clone(), web.clone(), web.clone().progressing()]).await;
    assert_eq!(scene.herald.post(&serde_json::json!("no event")).await, 400);
    scene.forge.fail(Fault::answer(422).writes().path("acme/fleet"));
    scene.tell([web.failed("HealthCheckFailed")]).await;

    let seen = read(&scene.herald).await;
    assert_samples(
        &seen,
        &[
            // One is delivered, one said already, one no outcome for a commit, one refused for good.
            (r#"herald_notifications_total{outcome="delivered",type="github"}"#, 1.0),
            (r#"herald_notifications_total{outcome="unchanged",type="github"}"#, 1.0),
            (r#"herald_notifications_total{outcome="filtered",type="github"}"#, 1.0),
            (r#"herald_notifications_total{outcome="failed",type="github"}"#, 1.0),
            (r#"herald_notifications_total{outcome="delivered",type="generic"}"#, 3.0),
            (r#"herald_notifications_total{outcome="unchanged",type="generic"}"#, 1.0),
            (r#"herald_delivery_seconds_count{type="github"}"#, 1.0),
            (r#"herald_delivery_seconds_count{type="generic"}"#, 3.0),
            (r#"herald_delivery_seconds_bucket{le="+Inf",type="generic"}"#, 3.0),
            (r#"herald_outbox_jobs{state="waiting",type=""}"#, 0.0),
            (r#"herald_outbox_jobs{state="under_way",type=""}"#, 0.0),
            (r#"herald_events_total{code="202"}"#, 4.0),
            (r#"gotk_event_http_request_duration_seconds_count{code="202",handler="/",method="POST",service=""}"#, 4.0),
            (r#"gotk_event_http_request_duration_seconds_count{code="429",handler="/",method="POST",service=""}"#, 0.0),
            (r#"gotk_event_http_request_duration_seconds_count{code="400",handler="/",method="POST",service=""}"#, 1.0),
            (
                r#"gotk_event_http_response_size_bytes_bucket{le="100.0",code="202",handler="/",method="POST",service=""}"#,
                4.0,
            ),
            (r#"gotk_event_http_requests_inflight{handler="/",service=""}"#, 0.0),
            (r#"controller_runtime_reconcile_errors_total{controller="alert"}"#, 0.0),
            (r#"controller_runtime_reconcile_total{controller="alert",result="error"}"#, 0.0),
            (r#"controller_runtime_reconcile_total{controller="provider",result="requeue"}"#, 0.0),
            (r#"controller_runtime_reconcile_total{controller="provider",result="requeue_after"}"#, 0.0),
        ],
    );
    for (name, least) in [
        (r#"controller_runtime_reconcile_total{controller="alert",result="success"}"#, 2.0),
        (r#"controller_runtime_reconcile_time_seconds_count{controller="provider"}"#, 2.0),
        ("process_cpu_seconds_total", 0.0),
        ("process_start_time_seconds", 1.0),
        ("process_resident_memory_bytes", 1.0),
        ("process_virtual_memory_bytes", 1.0),
        ("process_open_fds", 1.0),
        ("process_max_fds", 1.0),
    ] {
        assert!(seen.get(name).is_some_and(|value| *value >= least), "{name}: {:?}", seen.get(name));
    }
    let bounds = |family: &str| seen.keys().filter(|key| key.starts_with(family)).count();
    assert_eq!(bounds(r#"gotk_event_http_request_duration_seconds_bucket{le="#), 12 * 4, "of four codes");
    assert_eq!(bounds(r#"gotk_event_http_response_size_bytes_bucket{le="#), 9 * 4);
    assert_eq!(bounds(r#"controller_runtime_reconcile_time_seconds_bucket{le="#), 41 * 2);
    scene.end(1, 5).await;
}

#[tokio::test]
async fn a_repeat_counts_as_429_and_a_waiting_job_as_waiting() {
    let forge = forge().await;
    let manifests = [git("github", &forge), hook(&forge), token(), alert("message", "hook")];
    let scene = Scene::with(forge, manifests, &[]).await;
    let web = kustomization_event("web", &sha(1));
    scene.forge.fail(Fault::answer(401));
    scene.post(&web).await;
    scene.requests(1).await;
    wait::until_ok(DEADLINE, "the job to wait", || async {
        let seen = read(&scene.herald).await;
        match seen.get(r#"herald_outbox_jobs{state="waiting",type="generic"}"#) {
            Some(1.0) => Ok(()),
            _ => Err(format!("{:#?}", seen.iter().filter(|(name, _)| name.contains("outbox")).collect::<Vec<_>>())),
        }
    })
    .await;
    assert_eq!(scene.herald.post(&web).await, 429);
    let answered = r#"gotk_event_http_request_duration_seconds_count{code="429",handler="/",method="POST",service=""}"#;
    assert_samples(&read(&scene.herald).await, &[(answered, 1.0)]);
    scene.herald.stop().await;
}

#[tokio::test]
async fn what_a_vendor_says_is_left_of_its_limit_is_shown_by_host_while_a_provider_names_it() {
    let forge = forge().await;
    let host = forge.url().trim_start_matches("http://").to_owned();
    let at = |name: &str, token: &str| {
        let git = provider("github", name, &format!("{}/acme/{name}", forge.url())).secret(token);
        [git, alert(name, name)]
    };
    let (one, two) = (at("one", "token"), at("two", "another"));
    // GitHub's way of saying it, and GitLab's.
    let left = |header: &str, left: &str| Fault::delay(Duration::ZERO).header(header, left);
    forge.fail(left("x-ratelimit-remaining", "4711").header("x-ratelimit-reset", "3600").path("acme/one").every(1));
    forge.fail(left("ratelimit-remaining", "70").path("acme/two").reads());
    let good = left("ratelimit-remaining", "69").header("ratelimit-reset", "60");
    forge.fail(good.path("acme/two").writes().afterwards());
    let hidden = secret("hidden", "address", &format!("{}/hook", forge.url()));
    let hook = provider("generic", "hook", "").secret("hidden");
    forge.fail(left("x-ratelimit-remaining", "2").path("/hook").every(1));
    let secrets = [token(), secret("another", "token", "another-credential"), hidden];
    let manifests: Vec<_> =
        one.iter().chain(&two).cloned().chain(secrets).chain([hook, alert("all", "hook")]).collect();
    let scene = Scene::with(forge, manifests, &[]).await;
    let name = format!("herald_vendor_rate_limit_remaining{{host=\"{host}\"}}");
    let other = r#"herald_vendor_rate_limit_remaining{host="other"}"#;
    let seen = || async {
        let seen = read(&scene.herald).await.into_iter();
        seen.filter(|(name, _)| name.starts_with("herald_vendor_rate_limit")).collect::<Samples>()
    };
    assert_eq!(seen().await, Samples::new(), "nobody said anything yet");
    scene.tell([kustomization_event("web", &sha(1))]).await;
    let expect =
        |left: &[(&str, f64)]| left.iter().map(|(name, left)| ((*name).to_owned(), *left)).collect::<Samples>();
    // The least of what two credentials have; the name of a host in a Secret is not shown.
    assert_eq!(seen().await, expect(&[(&name, 69.0), (other, 2.0)]));
    for (gone, left) in [(&two, vec![(&*name, 4711.0), (other, 2.0)]), (&one, vec![(other, 2.0)])] {
        scene.folder.remove(&gone[0]);
        wait::until_ok(DEADLINE, "the Provider to be forgotten", || async {
            let seen = seen().await;
            if seen == expect(&left) { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await;
    }
    scene.end(2, 3).await;
}

#[tokio::test]
async fn paths_and_methods_are_told_apart_within_bounds() {
    let forge = forge().await;
    let manifests = [hook(&forge), alert("message", "hook")];
    let scene = Scene::with(forge, manifests, &["--export-http-path-metrics"]).await;
    let client = reqwest::Client::new();
    for number in 0..80 {
        let url = format!("{}path/{number}", scene.herald.events_url());
        client.get(url).send().await.expect("Herald answers");
    }
    let odd = Method::from_bytes(b"BREW").expect("a method");
    client.request(odd, scene.herald.events_url()).send().await.expect("Herald answers");

    let seen = read(&scene.herald).await;
    let of = |handler: &str, method: &str| {
        format!(
            r#"gotk_event_http_request_duration_seconds_count{{code="405",handler="{handler}",method="{method}",service=""}}"#
        )
    };
    assert_samples(&seen, &[(&of("/path/7", "GET"), 1.0), (&of("other", "GET"), 17.0), (&of("/", "other"), 1.0)]);
    scene.end(0, 0).await;
}

#[tokio::test]
async fn the_text_is_in_the_form_that_is_asked_for() {
    let scene = Scene::of("generic").await;
    let url = format!("http://{}/metrics", scene.herald.app.metrics_at);
    let client = reqwest::Client::new();
    let asked = |accept: &'static str| client.get(&url).header("accept", accept).send();
    // What Prometheus sends.
    let open = asked("application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4,*/*;q=0.1").await;
    let open = open.expect("Herald answers");
    assert_eq!(open.headers()["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let open = open.text().await.expect("text");
    assert!(open.ends_with("# EOF\n"), "{open}");
    assert!(open.contains("# TYPE process_cpu_seconds counter\n"), "{open}");

    let plain = asked("text/plain").await.expect("Herald answers");
    assert_eq!(plain.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let plain = plain.text().await.expect("text");
    assert!(!plain.contains("# EOF"), "{plain}");
    for line in [
        "# TYPE process_cpu_seconds_total counter\n",
        "# TYPE herald_bad_objects_total counter\n",
        "# TYPE process_open_fds gauge\n",
        "# TYPE gotk_event_http_request_duration_seconds histogram\n",
    ] {
        assert!(plain.contains(line), "{line} in {plain}");
    }
    let names = |text: &str| samples(text).into_keys().collect::<Vec<_>>();
    assert_eq!(names(&open), names(&plain));
    scene.end(0, 0).await;
}

/// Every Alert that matched an accepted event ends in exactly one outcome, whatever happens on the way.
#[tokio::test]
async fn outcomes_add_up_to_what_was_accepted() {
    const EVENTS: u64 = 120;
    let forge = forge().await;
    let suspended = provider("generic", "asleep", &format!("{}/hook", forge.url())).spec("suspend", true);
    let manifests = [
        git("github", &forge),
        hook(&forge),
        token(),
        suspended,
        alert("status", "git"),
        alert("message", "hook"),
        alert("nowhere", "nothing"),
        alert("asleep", "asleep"),
    ];
    // So few may wait that senders are sent away now and then.
    let scene = Scene::with(forge, manifests, &["--outbox-max-jobs=4"]).await;
    scene.forge.fail(Fault::delay(Duration::from_millis(20)).writes().every(2));
    scene.forge.fail(Fault::answer(422).writes().every(7));
    scene.forge.fail(Fault::answer(502).writes().every(5));
    let mut refused = 0;
    for number in 0..EVENTS {
        let event = kustomization_event(&format!("app-{}", number % 5), &sha(number % 2)).version(number);
        let event = match number % 4 {
            0 => event.failed("BuildFailed").message(&number.to_string()),
            1 => event.progressing(),
            _ => event,
        };
        loop {
            match scene.herald.post(&event).await {
                202 | 429 => break,
                503 => refused += 1,
                other => panic!("{other}"),
            }
            tokio::task::yield_now().await;
        }
    }
    scene.herald.idle().await;
    let seen = read(&scene.herald).await;
    let outcomes = seen.iter().filter(|(name, _)| name.starts_with("herald_notifications_total"));
    let total: f64 = outcomes.clone().map(|(_, count)| count).sum();
    let of = |outcome: &str| -> f64 {
        outcomes
            .clone()
            .filter(|(name, _)| name.contains(&format!("outcome=\"{outcome}\"")))
            .map(|(_, count)| count)
            .sum()
    };
    assert_eq!(total, 4.0 * EVENTS as f64, "{:#?}", outcomes.clone().collect::<Vec<_>>());
    for outcome in ["delivered", "filtered", "refused", "failed", "superseded"] {
        assert!(of(outcome) > 0.0, "{outcome} happened");
    }
    assert!(refused > 0, "some senders were sent away");
    scene.herald.stop().await;
}
