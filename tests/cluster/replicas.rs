//! Two replicas side by side, as in every rollout: neither trusts what it remembers of the vendor
//! while the other lives (rule R7), nor afterwards, so that neither leaves an old colour standing.

use std::sync::Arc;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ListParams};
use serde_json::json;

use super::secrets::{Door, Gate};
use super::support::app::{DEADLINE, Herald};
use super::support::clock::Ahead;
use super::support::flux::{FluxEvent, alert, kustomization_event, provider, secret, sha};
use super::support::forge::Forge;
use super::support::wait;
use super::{Log, Space, forge, in_namespace};

impl Space<'_> {
    fn told(&self, state: &str, version: u64) -> FluxEvent {
        let event = in_namespace(kustomization_event("web", &sha(7)), self).version(version);
        if state == "failure" { event.failed("BuildFailed") } else { event }
    }

    /// Applies a Provider at the simulator, and an Alert.
    async fn git(&self, forge: &Forge) {
        self.apply(&secret("token", "token", "secret-token")).await;
        self.apply(&provider("github", "git", &format!("{}/org/repo", forge.url())).secret("token")).await;
        self.apply(&alert("git", "git")).await;
    }

    pub async fn signs(&self) -> Vec<Lease> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.name);
        let replicas = leases.list(&ListParams::default().labels("herald.sh/replica")).await;
        replicas.expect("the API server answers").items
    }

    async fn replicas(&self) -> usize {
        self.signs().await.len()
    }

    /// The last sign of life of the only replica.
    async fn sign(&self) -> MicroTime {
        let spec = self.signs().await.pop().and_then(|lease| lease.spec);
        spec.and_then(|spec| spec.renew_time).expect("it gives signs of life")
    }
}

async fn trusts(herald: &Herald, wanted: bool) {
    trusts_within(DEADLINE, herald, wanted).await;
}

async fn trusts_within(time: Duration, herald: &Herald, wanted: bool) {
    let what = format!("the memory to be trusted: {wanted}");
    wait::until(time, &what, || async { (herald.app.outbox.is_trusted() == wanted).then_some(()) }).await;
}

#[tokio::test]
async fn while_there_are_two_neither_trusts_its_memory() {
    let space = Space::new("replicas").await;
    let forge = forge().await;
    space.git(&forge).await;
    let clock = Arc::new(Ahead::default());
    let first = space.herald_by(clock.clone()).await;
    trusts(&first, true).await;
    assert_eq!(space.replicas().await, 1);
    let tell = async |herald: &Herald, state: &str, version| {
        assert_eq!(herald.post(&space.told(state, version)).await, 202);
        herald.idle().await;
        forge.statuses(&sha(7)).last().map(|status| status.state.clone()).expect("a status")
    };
    assert_eq!(tell(&first, "success", 1).await, "success");
    let reads = forge.reads();
    assert_eq!(tell(&first, "success", 2).await, "success");
    assert_eq!(forge.reads(), reads, "alone it knows what it said");

    let second = space.herald().await;
    trusts(&first, false).await;
    assert!(!second.app.outbox.is_trusted());
    assert_eq!(space.replicas().await, 2);
    assert_eq!(tell(&second, "failure", 3).await, "failure");
    // The first remembers a success, and would leave the failure standing.
    assert_eq!(tell(&first, "success", 4).await, "success");
    let (reads, writes) = (forge.reads(), forge.writes());
    assert_eq!(tell(&second, "success", 5).await, "success");
    assert_eq!((forge.reads(), forge.writes()), (reads + 1, writes), "it looked, and there was nothing to write");

    second.stop().await;
    wait::until(DEADLINE, "its Lease to be gone", || async { (space.replicas().await == 1).then_some(()) }).await;
    // A quarter of a minute passes, and not more, so that its own Lease does not run out.
    let pass = async || {
        let before = space.sign().await;
        clock.turn_seconds(15);
        wait::until(DEADLINE, "a sign of life", || async { (space.sign().await != before).then_some(()) }).await;
    };
    pass().await;
    assert!(!first.app.outbox.is_trusted(), "what the other had under way may still go out");
    // It lists a success, and writes a failure.
    let reads = forge.reads();
    assert_eq!(tell(&first, "failure", 6).await, "failure");
    while !first.app.outbox.is_trusted() {
        pass().await;
    }
    assert_eq!(tell(&first, "success", 7).await, "success", "what was listed before is not believed");
    assert_eq!(forge.reads(), reads + 2);
    first.stop().await;
    assert_eq!(space.replicas().await, 0);
}

/// The others take it for dead after 30 s, whatever it does.
#[tokio::test]
async fn who_cannot_give_signs_of_life_does_not_trust_its_memory() {
    let space = Space::new("replicas").await;
    let forge = forge().await;
    space.git(&forge).await;
    let gate = Gate::before(&space.api.url).await;
    let herald = space.herald_as(gate.client(space.api).await).await;
    trusts(&herald, true).await;
    assert_eq!(herald.post(&space.told("success", 1)).await, 202);
    herald.idle().await;
    gate.door.send_replace(Door::Silent);
    trusts_within(Duration::from_secs(45), &herald, false).await;
    let (reads, writes) = (forge.reads(), forge.writes());
    assert_eq!(herald.post(&space.told("success", 2)).await, 202);
    herald.idle().await;
    assert_eq!((forge.reads(), forge.writes()), (reads + 1, writes), "it looked, and there was nothing to write");
    gate.door.send_replace(Door::Open);
    herald.stop().await;
}

/// The watch goes on where it was, with nothing listed anew; our own signs of life come by it again.
#[tokio::test]
async fn a_watch_that_breaks_is_not_trusted_until_it_shows_something_again() {
    let (log, _guard) = Log::start();
    let space = Space::new("replicas").await;
    let gate = Gate::before(&space.api.url).await;
    let herald = space.herald_as(gate.client(space.api).await).await;
    trusts(&herald, true).await;
    for outage in 1..=2 {
        gate.door.send_replace(Door::Shut);
        trusts(&herald, false).await;
        gate.door.send_replace(Door::Open);
        // The first try comes after a second or so, the sign of life within ten.
        trusts_within(Duration::from_secs(40), &herald, true).await;
        assert_eq!(log.lines(&["WARN", "other replicas cannot be seen"]).len(), outage);
    }
    herald.stop().await;
}

#[tokio::test]
async fn without_permission_every_status_is_read_first() {
    let space = Space::new("replicas").await;
    let forge = forge().await;
    space.git(&forge).await;
    let rules = json!([
        {"apiGroups": ["notification.toolkit.fluxcd.io"], "resources": ["*"], "verbs": ["*"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch"]},
    ]);
    let herald = space.herald_as(space.client_with(&rules).await).await;
    for version in 1..4 {
        assert_eq!(herald.post(&space.told("success", version)).await, 202);
        herald.idle().await;
        assert_eq!(forge.reads(), usize::try_from(version).expect("small"));
    }
    assert_eq!(forge.writes(), 1);
    herald.stop().await;
}
