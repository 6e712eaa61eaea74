//! Leader election: every replica takes events, one writes conditions; the Lease is the one that
//! client-go would write, so that Herald and Flux's controller never lead at once.

use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, Patch, PostParams};
use serde_json::json;

use super::support::app::{DEADLINE, Herald};
use super::support::flux::{alert, kustomization_event, provider, sha};
use super::support::forge::Forge;
use super::support::process::{Scratch, Server};
use super::support::wait;
use super::{Log, Space, condition, forge, in_namespace};

/// The Lease of Flux's notification-controller.
const LEASE: &str = "notification-controller-leader-election";

/// Flags of a candidate that is quick to act, and holds the Lease for so long.
fn flags(lease_duration: &str, renew_deadline: &str) -> [String; 4] {
    [
        "--enable-leader-election".to_owned(),
        format!("--leader-election-lease-duration={lease_duration}"),
        format!("--leader-election-renew-deadline={renew_deadline}"),
        "--leader-election-retry-period=200ms".to_owned(),
    ]
}

impl Space<'_> {
    /// A Herald of this namespace that is a candidate.
    async fn candidate(&self, client: kube::Client, flags: &[String]) -> Herald {
        let namespace = format!("--runtime-namespace={}", self.name);
        let flags = flags.iter().map(String::as_str);
        let flags: Vec<_> = flags.chain(["--watch-all-namespaces=false", namespace.as_str()]).collect();
        Herald::cluster(client, &flags).await
    }

    /// The same as a process of its own; dropped, it is killed as by SIGKILL.
    fn candidate_process(&self, scratch: &Scratch, flags: &[String]) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_herald"));
        command
            .args(flags)
            .args(["--watch-all-namespaces=false", "--events-addr=127.0.0.1:0"])
            .args(["--health-addr=127.0.0.1:0", "--metrics-addr=127.0.0.1:0", "--allow-address=127.0.0.0/8"])
            .arg(format!("--outbox-path={}", scratch.path().join("outbox.db").display()))
            .env("RUNTIME_NAMESPACE", &self.name)
            .env("HOSTNAME", "first-pod")
            .env("KUBECONFIG", self.api.kubeconfig());
        Server::start("herald", scratch.path(), &command)
    }

    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    async fn lease(&self) -> LeaseSpec {
        self.leases().get(LEASE).await.expect("the Lease is there").spec.expect("it has a spec")
    }

    /// Waits until the Lease is as wanted, and gives it.
    async fn lease_until(&self, what: &str, wanted: impl Fn(&LeaseSpec) -> bool) -> LeaseSpec {
        wait::until_ok(DEADLINE, what, || async {
            let lease = self.leases().get_opt(LEASE).await.expect("the API server answers");
            let spec = lease.and_then(|lease| lease.spec).unwrap_or_default();
            if wanted(&spec) { Ok(spec) } else { Err(format!("{spec:?}")) }
        })
        .await
    }

    /// Applies the Provider that all Alerts here tell.
    async fn hook(&self, forge: &Forge) {
        self.apply(&provider("generic", "hook", &format!("{}/hook", forge.url()))).await;
    }

    /// Applies an Alert and waits until somebody wrote its conditions.
    async fn is_written(&self, name: &str) {
        self.apply(&alert(name, "hook")).await;
        self.in_order("Alert", name).await;
    }
}

fn holder(lease: &LeaseSpec) -> &str {
    lease.holder_identity.as_deref().unwrap_or_default()
}

fn times(lease: &LeaseSpec) -> (jiff::Timestamp, jiff::Timestamp) {
    let (MicroTime(acquired), MicroTime(renewed)) =
        (lease.acquire_time.clone().expect("a time"), lease.renew_time.clone().expect("a time"));
    (acquired, renewed)
}

#[tokio::test]
async fn one_replica_writes_conditions_and_the_next_takes_over_when_it_stops() {
    let space = Space::new("lease").await;
    let forge = forge().await;
    space.hook(&forge).await;
    // Long, so that the second replica cannot have waited for its end.
    let flags = flags("120s", "60s");
    let first = space.candidate(space.client.clone(), &flags).await;
    space.is_written("one").await;

    // As client-go writes it.
    let held = space.lease().await;
    let lease = serde_json::to_value(&held).expect("it encodes");
    let fields: Vec<_> = lease.as_object().expect("a map").keys().map(String::as_str).collect();
    assert_eq!(fields, ["acquireTime", "holderIdentity", "leaseDurationSeconds", "leaseTransitions", "renewTime"]);
    assert_eq!((held.lease_duration_seconds, held.lease_transitions), (Some(120), Some(0)));
    let (_, id) = holder(&held).rsplit_once('_').expect("host and a random part");
    assert!(uuid::Uuid::parse_str(id).is_ok(), "{held:?}");
    let renewed = space.lease_until("a renewal", |lease| lease.renew_time != held.renew_time).await;
    assert_eq!((&renewed.acquire_time, renewed.lease_transitions), (&held.acquire_time, Some(0)));
    assert_eq!(holder(&renewed), holder(&held));

    // The second may not write conditions, so that it shows when it tries.
    let rules = json!([
        {"apiGroups": ["notification.toolkit.fluxcd.io"], "resources": ["*"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "update"]},
    ]);
    let (log, _guard) = Log::start();
    let second = space.candidate(space.client_with(&rules).await, &flags).await;
    space.is_written("two").await;
    wait::until(DEADLINE, "the second replica to know the Alert", || async {
        let key = herald::api::Key::new(space.name.as_str(), "two");
        second.app.stores.index.get(&key).map(drop)
    })
    .await;
    assert_eq!(second.post(&in_namespace(kustomization_event("web", &sha(1)), &space)).await, 202);
    second.idle().await;
    assert_eq!(forge.requests().len(), 2, "a replica that does not lead tells for both Alerts");
    assert_eq!(log.lines(&["cannot write the object's conditions"]), [""; 0]);
    assert_eq!(holder(&space.lease().await), holder(&held));

    first.stop().await;
    let taken = space.lease_until("the second to lead", |lease| !["", holder(&held)].contains(&holder(lease))).await;
    assert_eq!(taken.lease_transitions, Some(1));
    assert!(times(&taken).0 > times(&renewed).0);
    space.apply(&alert("three", "hook")).await;
    wait::until(DEADLINE, "the second to write", || async {
        (!log.lines(&["cannot write the object's conditions"]).is_empty()).then_some(())
    })
    .await;

    second.stop().await;
    let released = space.lease().await;
    assert_eq!(released.holder_identity.as_deref(), Some(""));
    assert_eq!((released.lease_duration_seconds, released.lease_transitions), (Some(1), Some(1)));
    let (acquired, renewed) = times(&released);
    assert!(acquired == renewed && acquired > times(&taken).0, "{released:?}");
    assert!(condition(&space.get("Alert", "three").await, "Ready").is_none());
}

#[tokio::test]
async fn a_leader_that_does_not_release_keeps_the_lease_until_it_runs_out() {
    let space = Space::new("lease").await;
    let forge = forge().await;
    space.hook(&forge).await;
    let mut keeping = flags("120s", "60s").to_vec();
    keeping.push("--leader-election-release-on-cancel=false".to_owned());
    let herald = space.candidate(space.client.clone(), &keeping).await;
    space.is_written("one").await;
    let held = space.lease().await;
    herald.stop().await;
    assert_eq!(holder(&space.lease().await), holder(&held));
}

#[tokio::test]
async fn a_leader_that_is_killed_is_followed_when_its_lease_has_run_out() {
    let space = Space::new("lease").await;
    let forge = forge().await;
    space.hook(&forge).await;
    let flags = flags("3s", "2s");
    let scratch = Scratch::new();
    let first = space.candidate_process(&scratch, &flags);
    space.is_written("one").await;
    let held = space.lease().await;
    assert!(holder(&held).starts_with("first-pod_"), "{held:?}");
    let second = space.candidate(space.client.clone(), &flags).await;
    drop(first);
    let last = space.lease().await;
    assert_eq!(holder(&last), holder(&held));

    let taken = space.lease_until("the second to lead", |lease| holder(lease) != holder(&held)).await;
    let waited = times(&taken).0.duration_since(times(&last).1);
    assert!(waited >= jiff::SignedDuration::from_secs(3), "{waited:?} after the last sign of life");
    assert_eq!(taken.lease_transitions, Some(1));
    space.is_written("two").await;
    second.stop().await;
}

#[tokio::test]
async fn a_leader_that_lost_its_lease_ends_with_exit_code_1() {
    let space = Space::new("lease").await;
    let forge = forge().await;
    space.hook(&forge).await;
    let scratch = Scratch::new();
    let leader = space.candidate_process(&scratch, &flags("3s", "2s"));
    space.is_written("one").await;

    // Somebody takes the Lease, as a leader that could not reach the API server finds it.
    let steal = json!({"spec": {
        "holderIdentity": "somebody-else", "leaseDurationSeconds": 3600,
        "renewTime": MicroTime(jiff::Timestamp::now()),
    }});
    space.leases().patch(LEASE, &Default::default(), &Patch::Merge(steal)).await.expect("stolen");
    wait::until_ok(DEADLINE, "the leader to end", || async {
        let log = leader.log_tail();
        if log.contains("ended with status 1\n") { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(leader.log_tail().contains("another replica leads now"), "{}", leader.log_tail());
    assert_eq!(holder(&space.lease().await), "somebody-else");
    assert!(!leader.log_tail().contains("panicked"), "{}", leader.log_tail());
}

#[tokio::test]
async fn a_replica_waits_for_a_leader_of_another_kind_and_serves_meanwhile() {
    let space = Space::new("lease").await;
    let forge = forge().await;
    space.hook(&forge).await;
    let now = MicroTime(jiff::Timestamp::now());
    // Flux's own controller, before an image is swapped.
    let spec = LeaseSpec {
        holder_identity: Some("notification-controller-5d8f_0b1c".to_owned()),
        lease_duration_seconds: Some(35),
        acquire_time: Some(now.clone()),
        renew_time: Some(now),
        lease_transitions: Some(7),
        ..Default::default()
    };
    let lease = Lease { spec: Some(spec), ..Default::default() };
    let lease =
        Lease { metadata: kube::api::ObjectMeta { name: Some(LEASE.to_owned()), ..Default::default() }, ..lease };
    space.leases().create(&PostParams::default(), &lease).await.expect("created");
    let herald = space.candidate(space.client.clone(), &flags("120s", "60s")).await;
    space.apply(&alert("one", "hook")).await;
    wait::until(DEADLINE, "the event to be told", || async {
        let event = kustomization_event("web", &sha(1)).message(&uuid::Uuid::new_v4().to_string());
        assert_eq!(herald.post(&in_namespace(event, &space)).await, 202);
        herald.idle().await;
        (!forge.requests().is_empty()).then_some(())
    })
    .await;
    assert!(condition(&space.get("Alert", "one").await, "Ready").is_none());

    // It stops and gives the Lease back.
    let release = json!({"spec": {"holderIdentity": "", "leaseDurationSeconds": 1}});
    space.leases().patch(LEASE, &Default::default(), &Patch::Merge(release)).await.expect("released");
    let taken = space.lease_until("Herald to lead", |lease| !holder(lease).is_empty()).await;
    assert_eq!(taken.lease_transitions, Some(8));
    space.in_order("Alert", "one").await;
    tokio::time::timeout(Duration::from_secs(10), herald.stop()).await.expect("it stops");
}
