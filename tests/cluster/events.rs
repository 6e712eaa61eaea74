//! What people see of deliveries that fail: Kubernetes Events on the Alert, conditions on Alert and
//! Provider. And that only the leader tells, in few requests.

use std::sync::Arc;

use herald::cluster::Connection;
use serde_json::{Value, json};

use super::support::app::{DEADLINE, Herald};
use super::support::clock::Ahead;
use super::support::flux::{FluxEvent, alert, kustomization_event, provider, secret, sha};
use super::support::forge::{Fault, Forge};
use super::support::wait;
use super::{Space, forge, in_namespace, message, repository};

/// A remote's text, which may be in the log and nowhere else.
const REMOTE: &str = "words-of-the-remote";

/// The same as the vendors say it.
fn remote() -> String {
    json!({"message": REMOTE}).to_string()
}

impl Space<'_> {
    /// The Events on an object with this reason, in no order.
    async fn events(&self, kind: &str, name: &str, reason: &str) -> Vec<Value> {
        let all = self.objects("Event").list(&Default::default()).await.expect("the API server answers");
        let all = all.items.iter().map(super::value_of);
        let about = |event: &Value| {
            let object = &event["involvedObject"];
            object["kind"] == kind && object["name"] == name && event["reason"] == reason
        };
        all.filter(about).collect()
    }

    /// Waits for the only such Event to be counted so often.
    pub(super) async fn event(&self, kind: &str, name: &str, reason: &str, count: u64) -> Value {
        let what = format!("the Event {reason} on {kind} {name}, {count} times");
        wait::until_ok(DEADLINE, &what, || async {
            match &self.events(kind, name, reason).await[..] {
                [event] if event["count"] == count => Ok(event.clone()),
                other => Err(format!("{other:#?}")),
            }
        })
        .await
    }

    /// A Provider of this name at a repository of the forge, with a credential of its own, and an Alert
    /// that tells it.
    async fn told_at(&self, name: &str, repository: &str) {
        self.apply(&secret(name, "token", &format!("t0k-{name}"))).await;
        self.apply(&provider("github", name, repository).secret(name).spec("timeout", "2s")).await;
        self.apply(&alert(name, name)).await;
    }

    /// Tells of a commit.
    async fn post(&self, herald: &Herald, event: FluxEvent) {
        assert_eq!(herald.post(&in_namespace(event, self)).await, 202);
    }

    async fn unhealthy(&self, name: &str, reason: &str, part: &str) {
        for kind in ["Provider", "Alert"] {
            let is = self.condition(kind, name, "Healthy", "False", reason).await;
            assert!(message(&is).contains(part), "{kind} {name}: {is}");
            assert!(!is.to_string().contains(REMOTE), "{is}");
            let ready = self.condition(kind, name, "Ready", "True", "Succeeded").await;
            assert_eq!(message(&ready), "Initialized", "the spec is not at fault");
        }
    }
}

fn web(number: u64) -> FluxEvent {
    kustomization_event("web", &sha(number))
}

/// The forge refuses every write with this status, and says so in words of its own.
fn refuse(forge: &Forge, status: u16) {
    forge.fail(Fault::answer(status).body(&remote()).writes().every(1));
}

#[tokio::test]
async fn a_delivery_that_fails_for_good_is_told_until_one_works() {
    let space = Space::new("events").await;
    let forge = forge().await;
    space.told_at("git", &repository(&forge)).await;
    let herald = space.herald().await;
    space.in_order("Alert", "git").await;

    refuse(&forge, 422);
    space.post(&herald, web(1)).await;
    space.unhealthy("git", "Rejected", "answered 422").await;
    let event = space.event("Alert", "git", "NotificationDispatchFailed", 1).await;
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["source"]["component"], "notification-controller");
    assert_eq!(event["reportingComponent"], "notification-controller");
    let text = event["message"].as_str().expect("a message");
    assert_eq!(text, format!("deliveries to Provider {}/git fail: answered 422 Unprocessable Entity", space.name));
    let alert = space.get("Alert", "git").await;
    assert_eq!(event["involvedObject"]["uid"], alert["metadata"]["uid"]);
    assert_eq!(event["involvedObject"]["apiVersion"], alert["apiVersion"]);
    assert!(!event.to_string().contains(REMOTE), "{event}");
    // As people read them.
    let seen = space.kubectl(&["events", "--for", "alert/git"]);
    assert!(seen.contains("NotificationDispatchFailed"), "{seen}");

    forge.recover();
    space.post(&herald, web(2)).await;
    space.in_order("Alert", "git").await;
    space.in_order("Provider", "git").await;

    // The same again is the same Event.
    refuse(&forge, 422);
    space.post(&herald, web(3)).await;
    space.unhealthy("git", "Rejected", "answered 422").await;
    let again = space.event("Alert", "git", "NotificationDispatchFailed", 2).await;
    assert_eq!(again["metadata"]["name"], event["metadata"]["name"]);
    assert_eq!(again["firstTimestamp"], event["firstTimestamp"]);
    herald.stop().await;
}

#[tokio::test]
async fn a_status_that_somebody_else_keeps_writing_is_told_of_as_contested() {
    let space = Space::new("events").await;
    let forge = forge().await;
    space.told_at("git", &repository(&forge)).await;
    let clock = Arc::new(Ahead::default());
    let herald = space.herald_by(clock.clone()).await;
    for kind in ["Provider", "Alert"] {
        space.in_order(kind, "git").await;
    }
    let tell = async || {
        space.post(&herald, web(1)).await;
        herald.idle().await;
    };
    tell().await;
    let context = forge.statuses(&sha(1)).remove(0).context;
    let theirs = json!({"state": "error", "context": context, "description": REMOTE});
    for _ in 0..2 {
        let url = format!("{}/api/v3/repos/acme/fleet/statuses/{}", forge.url(), sha(1));
        let answer = reqwest::Client::new()
            .post(url)
            .bearer_auth("another")
            .json(&theirs)
            .send()
            .await
            .expect("the host answers");
        assert_eq!(answer.status(), 201);
        clock.turn(61);
        tell().await;
    }
    space.unhealthy("git", "Contested", "somebody else wrote over a commit status").await;
    space.event("Alert", "git", "NotificationDispatchFailed", 1).await;
    // The same again counts it up, once a minute.
    clock.turn(2);
    tell().await;
    space.event("Alert", "git", "NotificationDispatchFailed", 2).await;

    space.post(&herald, web(2)).await;
    for kind in ["Provider", "Alert"] {
        space.in_order(kind, "git").await;
    }
    assert_eq!(forge.statuses(&sha(1)).len(), 4, "written, restored once, and twice by others");
    herald.stop().await;
}

#[tokio::test]
async fn what_waits_for_people_is_told_by_class() {
    let space = Space::new("events").await;
    let forge = forge().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    // A host of its own: one that breaks connections fails for all who tell it.
    let silent = super::forge().await;
    let host = |name: &str| if name == "silent" { &silent } else { &forge };
    let at = |name: &str| format!("{}/acme/{name}", host(name).url());
    let cases = [
        ("refused", "Unauthorized", "401", Some(Fault::answer(401))),
        ("forbidden", "Forbidden", "403", Some(Fault::answer(403))),
        ("missing", "NotFound", "404", Some(Fault::answer(404))),
        ("busy", "RateLimited", "429", Some(Fault::answer(429).header("retry-after", "120"))),
        ("broken", "ServerError", "500", Some(Fault::answer(500))),
        ("page", "UnexpectedAnswer", "page", Some(Fault::answer(200).body("<html>words-of-the-remote"))),
        ("moved", "UnexpectedAnswer", "redirected", Some(Fault::answer(301).header("location", "http://a.invalid/"))),
        ("silent", "Unreachable", "no HTTP answer", Some(Fault::reset())),
        ("closed", "Unreachable", "no HTTP answer", None),
    ];
    for (name, .., fault) in &cases {
        let address = if fault.is_some() { at(name) } else { format!("http://{closed}/acme/closed") };
        space.told_at(name, &address).await;
        if let Some(fault) = fault {
            let fault = fault.clone();
            let fault = if *name == "page" { fault } else { fault.body(&remote()) };
            host(name).fail(fault.path(&format!("/{name}/")).every(1));
        }
    }
    let herald = space.herald().await;
    for (name, ..) in &cases {
        space.in_order("Alert", name).await;
    }
    // Every Alert listens to everything.
    space.post(&herald, web(1)).await;
    for (name, reason, part, _) in &cases {
        space.unhealthy(name, reason, part).await;
        let event = space.event("Alert", name, "NotificationDispatchFailed", 1).await;
        assert!(event["message"].as_str().is_some_and(|text| text.contains(part)), "{event}");
        assert!(!event.to_string().contains(REMOTE), "{event}");
    }

    // Mended: the credential is a new one, and what waited is told at once.
    forge.recover();
    for name in ["refused", "forbidden", "missing"] {
        space.apply(&secret(name, "token", &format!("better-{name}"))).await;
        space.in_order("Provider", name).await;
        space.in_order("Alert", name).await;
    }
    herald.stop().await;
}

#[tokio::test]
async fn a_spec_that_cannot_work_is_told_of_once_and_not_again_by_the_next_process() {
    let space = Space::new("events").await;
    let forge = forge().await;
    space.told_at("git", &repository(&forge)).await;
    space.apply(&alert("regex", "git").spec("exclusionList", json!(["(unclosed"]))).await;
    let labels = json!([{"kind": "Kustomization", "name": "*", "matchLabels": {"a": "b"}}]);
    let labelled = alert("labels", "git").spec("eventSources", labels);
    space.apply(&labelled).await;
    let cel = provider("github", "cel", &repository(&forge)).secret("git");
    space.apply(&cel.spec("commitStatusExpr", "'x' +")).await;
    space.apply(&alert("orphan", "nobody")).await;
    let herald = space.herald().await;

    let event = space.event("Alert", "regex", "InvalidConfig", 1).await;
    assert!(event["message"].as_str().is_some_and(|text| text.contains("spec.exclusionList[0]")), "{event}");
    let event = space.event("Provider", "cel", "InvalidConfig", 1).await;
    assert!(event["message"].as_str().is_some_and(|text| text.contains("spec.commitStatusExpr")), "{event}");
    // A Provider that is not there yet is no failure until there is something to tell.
    space.condition("Alert", "orphan", "Healthy", "False", "ProviderNotFound").await;
    space.looked_at().await;
    assert_eq!(space.events("Alert", "orphan", "NotificationDispatchFailed").await, [Value::Null; 0]);
    space.post(&herald, web(1)).await;
    let event = space.event("Alert", "orphan", "NotificationDispatchFailed", 1).await;
    assert!(event["message"].as_str().is_some_and(|text| text.contains("does not exist")), "{event}");

    herald.stop().await;
    let herald = space.herald().await;
    space.looked_at().await;
    space.event("Alert", "regex", "InvalidConfig", 1).await;
    space.event("Provider", "cel", "InvalidConfig", 1).await;
    herald.stop().await;
}

#[tokio::test]
async fn metadata_that_two_sources_give_is_told_of_once_a_generation() {
    let space = Space::new("events").await;
    let forge = forge().await;
    space.told_at("git", &repository(&forge)).await;
    let own = |value: &str| alert("git", "git").spec("eventMetadata", json!({"env": value, "revision": value}));
    space.apply(&own("one")).await;
    let herald = space.herald().await;
    space.in_order("Alert", "git").await;

    // With a key that no annotation can have.
    let told = |number| web(number).annotated("env", "e").annotated("revision", "r").annotated("a/b/c", "x");
    for number in 0..5 {
        space.post(&herald, told(number)).await;
    }
    let event = space.event("Alert", "git", "MetadataAppendFailed", 1).await;
    assert_eq!(event["type"], "Warning");
    assert!(event["message"].as_str().is_some_and(|text| text.starts_with("metadata key conflicts")), "{event}");
    let annotations = &event["metadata"]["annotations"];
    assert_eq!(annotations["env"], "involved object annotations, Alert object .spec.eventMetadata");
    let layers = "involved object annotations, Alert object .spec.eventMetadata, involved object controller metadata";
    assert_eq!(annotations["revision"], layers);

    let changed = super::value_of(&space.apply(&own("two")).await);
    let generation = changed["metadata"]["generation"].as_i64();
    wait::until(DEADLINE, "the Alert to be known anew", || async {
        let known = herald.app.stores.index.get(&herald::api::Key::new(space.name.as_str(), "git"));
        known.filter(|alert| Some(alert.generation) == generation).map(drop)
    })
    .await;
    for number in 5..10 {
        space.post(&herald, told(number)).await;
    }
    space.event("Alert", "git", "MetadataAppendFailed", 2).await;
    herald.idle().await;
    space.looked_at().await;
    space.event("Alert", "git", "MetadataAppendFailed", 2).await;
    herald.stop().await;
}

#[tokio::test]
async fn an_old_finalizer_that_is_taken_off_is_told_of() {
    let space = Space::new("events").await;
    let forge = forge().await;
    space.told_at("git", &repository(&forge)).await;
    space.merge("Alert", "git", json!({"metadata": {"finalizers": ["finalizers.fluxcd.io"]}})).await;
    let herald = space.herald().await;
    space.delete("Alert", "git").await;
    let event = space.event("Alert", "git", "Migration", 1).await;
    assert_eq!(event["type"], "Normal");
    assert_eq!(event["message"], "removed finalizer from Alert to migrate to static Alert");
    herald.stop().await;
}

#[tokio::test]
async fn the_leader_tells_and_no_other() {
    let space = Space::new("events").await;
    let forge = forge().await;
    space.told_at("git", &repository(&forge)).await;
    let flags = ["--enable-leader-election", "--leader-election-retry-period=100ms"];
    let connection = || Connection { host: "api.invalid:6443".into(), ..space.client.clone().into() };
    let leader = space.herald_with(connection(), &flags).await;
    space.in_order("Alert", "git").await;
    let other = space.herald_with(connection(), &flags).await;

    let status = |metrics: &str| {
        let name = "leader_election_master_status{name=\"notification-controller-leader-election\"} ";
        metrics.lines().find_map(|line| line.strip_prefix(name)).expect("it is there").to_owned()
    };
    let metrics = leader.metrics().await;
    assert_eq!((status(&metrics).as_str(), status(&other.metrics().await).as_str()), ("1", "0"));
    let requests = |method: &str, code: &str| {
        let name =
            format!("rest_client_requests_total{{code=\"{code}\",host=\"api.invalid:6443\",method=\"{method}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok())
    };
    // The first two conditions, at least, and a look for the Lease before there was one.
    assert!(requests("PATCH", "200").is_some_and(|count| count >= 2), "{metrics}");
    assert!(requests("GET", "200").is_some_and(|count| count >= 2), "{metrics}");
    assert!(requests("GET", "404").is_some_and(|count| count >= 1), "{metrics}");

    refuse(&forge, 422);
    space.post(&other, web(1)).await;
    other.idle().await;
    assert_eq!(space.events("Alert", "git", "NotificationDispatchFailed").await, [Value::Null; 0]);
    space.post(&leader, web(2)).await;
    space.event("Alert", "git", "NotificationDispatchFailed", 1).await;
    space.unhealthy("git", "Rejected", "answered 422").await;
    other.stop().await;
    leader.stop().await;
}
