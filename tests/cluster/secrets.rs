//! Changes of Secrets, Providers and Alerts are in use within two seconds; a thousand named Secrets
//! need few connections, and an event costs the API server nothing.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use herald::api::Key;
use herald::api::conditions::Condition;
use herald::cluster::{Connection, ObjectKind, ObjectRef};
use herald::ops::metrics::Metrics;
use herald::view::View;

use super::support::apiserver::ApiServer;
use super::support::app::Herald;
use super::support::flux::{Manifest, alert, kustomization_event, provider, secret, sha};
use super::support::forge::{Access, Forge, Received};
use super::support::wait;
use super::{Space, condition, forge, in_namespace, named, repository, status_of, value_of};

/// How soon a change has to be in use, from before it is written until a request shows it.
const IN_USE: Duration = Duration::from_secs(2);

/// The most connections Herald may have open to the API server.
const CONNECTIONS: usize = 16;

/// Waits for the first request of a forge that fits, which has to come within [`IN_USE`] of `changed`.
async fn in_use(forge: &Forge, changed: Instant, what: &str, fits: impl Fn(&Received) -> bool) {
    let left = IN_USE.saturating_sub(changed.elapsed());
    let first = wait::until(left, what, || async { forge.requests().into_iter().find(|request| fits(request)) }).await;
    let took = first.at.duration_since(changed);
    assert!(took < IN_USE, "{what} took {took:?}");
    println!("{what}: {took:?}");
}

/// Waits until the first try of whatever was accepted failed.
async fn refused(forge: &Forge, herald: &Herald) {
    wait::until(super::DEADLINE, "the forge to refuse", || async {
        let counts = herald.app.outbox.counts();
        (!forge.requests().is_empty() && counts.claimed == 0 && counts.held == 1).then_some(())
    })
    .await;
}

async fn space_with(manifests: &[Manifest]) -> Space<'static> {
    let space = Space::new("secrets").await;
    for manifest in manifests {
        space.apply(manifest).await;
    }
    space
}

#[tokio::test]
async fn a_missing_secret_is_named_and_what_was_accepted_waits_for_it() {
    let forge = forge().await;
    let git = provider("github", "git", &repository(&forge)).secret("token");
    let space = space_with(&[git, alert("all", "git")]).await;
    let herald = space.herald().await;
    space.condition("Provider", "git", "Healthy", "False", "SecretNotFound").await;
    let row = space.table(&["providers"])[1].clone();
    assert_eq!(row[..4], ["git", "True", "SecretNotFound", "Initialized"]);

    assert_eq!(herald.post(&in_namespace(kustomization_event("web", &sha(1)), &space)).await, 202);
    assert_eq!(herald.app.outbox.counts().held, 1);
    assert!(forge.requests().is_empty());

    space.apply(&secret("token", "token", "t0k")).await;
    let status = status_of(&forge, &sha(1)).await;
    assert_eq!(status.state, "success");
    space.in_order("Provider", "git").await;
    space.in_order("Alert", "all").await;
    herald.idle().await;
    herald.stop().await;
}

#[tokio::test]
async fn a_new_token_is_in_use_at_once_also_for_what_was_refused() {
    let forge = forge().await;
    forge.token("new", Access::Write);
    let git = provider("github", "git", &repository(&forge)).secret("token");
    let space = space_with(&[secret("token", "token", "old"), git, alert("all", "git")]).await;
    let herald = space.herald().await;
    assert_eq!(herald.post(&in_namespace(kustomization_event("web", &sha(1)), &space)).await, 202);
    refused(&forge, &herald).await;

    let changed = Instant::now();
    space.merge("Secret", "token", json!({"stringData": {"token": "new"}})).await;
    in_use(&forge, changed, "a new token", |request| request.header("authorization") == "Bearer new").await;
    status_of(&forge, &sha(1)).await;

    // Deleted and made again, as some tools renew Secrets.
    space.delete("Secret", "token").await;
    space.condition("Provider", "git", "Healthy", "False", "SecretNotFound").await;
    forge.token("newer", Access::Write);
    assert_eq!(herald.post(&in_namespace(kustomization_event("web", &sha(2)), &space)).await, 202);
    let changed = Instant::now();
    space.apply(&secret("token", "token", "newer")).await;
    in_use(&forge, changed, "a token made again", |request| request.header("authorization") == "Bearer newer").await;
    herald.idle().await;
    herald.stop().await;
}

/// Some vendors lock accounts, and tools touch Secrets that they keep.
#[tokio::test]
async fn a_refused_token_is_not_sent_again_because_its_secret_was_touched() {
    let forge = forge().await;
    forge.token("good", Access::Write);
    let git = |name: &str| provider("github", name, &repository(&forge)).secret(name);
    let named = |name: &str| alert(name, name).sources(json!([{"kind": "Kustomization", "name": name}]));
    let space = space_with(&[secret("bad", "token", "refused"), git("bad"), named("bad")]).await;
    for manifest in [secret("other", "token", "refused too"), git("other"), named("other")] {
        space.apply(&manifest).await;
    }
    let herald = space.herald().await;
    assert_eq!(herald.post(&in_namespace(kustomization_event("bad", &sha(1)), &space)).await, 202);
    refused(&forge, &herald).await;
    let version = || herald.app.stores.provider(&Key::new(space.name.as_str(), "bad")).map(|view| view.version);
    let before = version();

    for number in 0..3 {
        space.merge("Secret", "bad", json!({"metadata": {"annotations": {"touched": number.to_string()}}})).await;
    }
    // What came later is in use, so what came before was looked at.
    space.merge("Secret", "other", json!({"stringData": {"token": "good"}})).await;
    assert_eq!(herald.post(&in_namespace(kustomization_event("other", &sha(2)), &space)).await, 202);
    status_of(&forge, &sha(2)).await;
    let sent = forge.requests().iter().filter(|request| request.header("authorization") == "Bearer refused").count();
    assert_eq!((sent, version()), (1, before));

    space.merge("Secret", "bad", json!({"stringData": {"token": "good"}})).await;
    status_of(&forge, &sha(1)).await;
    herald.idle().await;
    herald.stop().await;
}

#[tokio::test]
async fn a_new_address_is_in_use_at_once_also_for_what_was_refused() {
    let (old, new) = (forge().await, forge().await);
    old.strict();
    let git = |forge: &Forge| provider("github", "git", &repository(forge)).secret("token");
    let space = space_with(&[secret("token", "token", "t0k"), git(&old), alert("all", "git")]).await;
    let herald = space.herald().await;
    assert_eq!(herald.post(&in_namespace(kustomization_event("web", &sha(1)), &space)).await, 202);
    refused(&old, &herald).await;

    let changed = Instant::now();
    space.apply(&git(&new)).await;
    in_use(&new, changed, "a new address", |_| true).await;
    status_of(&new, &sha(1)).await;

    // The Provider names another Secret, which nobody named before.
    space.apply(&secret("other", "token", "0ther")).await;
    let changed = Instant::now();
    space.apply(&git(&new).secret("other")).await;
    post_until(&herald, &space, "another Secret", || {
        new.requests().iter().any(|request| request.header("authorization") == "Bearer 0ther")
    })
    .await;
    in_use(&new, changed, "another Secret", |request| request.header("authorization") == "Bearer 0ther").await;
    herald.stop().await;
}

/// Posts an event about a commit that nobody was told of before.
async fn post_new(herald: &Herald, space: &Space<'_>, name: &str) {
    static NUMBER: AtomicU64 = AtomicU64::new(10_000);
    let commit = sha(NUMBER.fetch_add(1, Ordering::Relaxed));
    assert_eq!(herald.post(&in_namespace(kustomization_event(name, &commit), space)).await, 202);
}

/// Posts one event after the other until `done`.
async fn post_until(herald: &Herald, space: &Space<'_>, what: &str, done: impl Fn() -> bool) {
    wait::until(super::DEADLINE, what, || async {
        post_new(herald, space, "web").await;
        herald.idle().await;
        done().then_some(())
    })
    .await;
}

/// Whether the forge is asked anything about a new event.
async fn is_told(herald: &Herald, space: &Space<'_>, forge: &Forge) -> bool {
    forge.reset_counts();
    post_new(herald, space, "web").await;
    herald.idle().await;
    !forge.requests().is_empty()
}

#[tokio::test]
async fn a_changed_alert_is_in_use_at_once() {
    let (first, second) = (forge().await, forge().await);
    let git = |name: &str, forge: &Forge| provider("github", name, &repository(forge)).secret("token");
    let space = space_with(&[secret("token", "token", "t0k"), git("git", &first), git("other", &second)]).await;
    space.apply(&alert("all", "git")).await;
    let herald = space.herald().await;
    post_until(&herald, &space, "the first", || !first.requests().is_empty()).await;

    // Another Provider.
    let changed = Instant::now();
    space.apply(&alert("all", "other")).await;
    post_until(&herald, &space, "the other Provider", || !second.requests().is_empty()).await;
    in_use(&second, changed, "another Provider", |_| true).await;
    assert!(is_told(&herald, &space, &second).await);
    assert!(!is_told(&herald, &space, &first).await, "the old Provider is told nothing any more");

    // A new exclusion: an event that is not told shows it.
    let excluding = alert("all", "other").spec("exclusionList", json!(["^Reconciliation finished"]));
    let changed = Instant::now();
    space.apply(&excluding).await;
    wait::until(IN_USE, "the exclusion", || async { (!is_told(&herald, &space, &second).await).then_some(()) }).await;
    assert!(changed.elapsed() < IN_USE, "an exclusion took {:?}", changed.elapsed());

    // And back, which the first request shows.
    let changed = Instant::now();
    space.apply(&alert("all", "other")).await;
    post_until(&herald, &space, "no exclusion", || !second.requests().is_empty()).await;
    in_use(&second, changed, "no exclusion", |_| true).await;

    // A removed Alert matches nothing any more.
    let changed = Instant::now();
    space.delete("Alert", "all").await;
    wait::until(IN_USE, "the removal", || async { (!is_told(&herald, &space, &second).await).then_some(()) }).await;
    assert!(changed.elapsed() < IN_USE, "a removal took {:?}", changed.elapsed());
    herald.stop().await;
}

/// A door before the API server that counts who goes through, and can be shut. TLS is not opened:
/// what a client sends over HTTP/1.1 is its requests and nothing else, so no byte means no request.
pub struct Gate {
    url: String,
    count: Arc<Count>,
    pub door: watch::Sender<Door>,
}

/// What a [`Gate`] does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Open,
    /// Connections break.
    Shut,
    /// Connections stay and open, and nothing comes through, as when packets are dropped.
    Silent,
}

#[derive(Default)]
struct Count {
    open: AtomicUsize,
    most: AtomicUsize,
    opened: AtomicUsize,
    asked: AtomicU64,
}

impl Gate {
    pub async fn before(url: &str) -> Self {
        let target = url.strip_prefix("https://").expect("an https URL").to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has free ports");
        let url = format!("https://{}", listener.local_addr().expect("it is bound"));
        let count = Arc::new(Count::default());
        let counted = count.clone();
        let (door, state) = watch::channel(Door::Open);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *state.borrow() == Door::Shut {
                    continue;
                }
                let server = TcpStream::connect(&target).await.expect("the API server is there");
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                tokio::spawn(counted.clone().pass(client, server, state.clone()));
            }
        });
        Self { url, count, door }
    }

    /// A client that goes through it.
    pub async fn client(&self, api: &ApiServer) -> kube::Client {
        let mut config = api.config().await;
        config.cluster_url = self.url.parse().expect("a URL");
        kube::Client::try_from(config).expect("a client")
    }

    /// Bytes that clients sent.
    fn asked(&self) -> u64 {
        self.count.asked.load(Ordering::SeqCst)
    }
}

impl Count {
    async fn pass(self: Arc<Self>, client: TcpStream, server: TcpStream, mut door: watch::Receiver<Door>) {
        let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(open, Ordering::SeqCst);
        self.opened.fetch_add(1, Ordering::SeqCst);
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        // Over when either side is: HTTP knows no half-closed connection.
        tokio::select! {
            () = copy(from_client, to_server, door.clone(), |bytes| { self.asked.fetch_add(bytes, Ordering::SeqCst); }) => {}
            () = copy(from_server, to_client, door.clone(), |_| {}) => {}
            _ = door.wait_for(|door| *door == Door::Shut) => {}
        }
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut door: watch::Receiver<Door>, count: impl Fn(u64)) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
        count(bytes as u64);
        let _ = door.wait_for(|door| *door != Door::Silent).await;
        if to.write_all(&buffer[..bytes]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_secrets_need_few_connections_and_an_event_asks_nothing() {
    const MANY: u64 = 1000;
    const STORM: u64 = 300;
    let space = Space::new("many").await;
    let forge = forge().await;
    let address = repository(&forge);
    let manifests = (1..=MANY).flat_map(|number| {
        let name = format!("n{number}");
        let sources = json!([{"kind": "Kustomization", "name": name}]);
        [
            secret(&name, "token", &format!("token-{number}")),
            provider("github", &name, &address).secret(&name),
            alert(&name, &name).sources(sources),
        ]
    });
    let create = |manifest: Manifest| {
        let space = &space;
        async move { space.create(&manifest).await }
    };
    let started = Instant::now();
    futures::stream::iter(manifests).map(create).buffer_unordered(32).map(drop).collect::<()>().await;
    println!("{} objects made in {:?}", 3 * MANY, started.elapsed());

    let gate = Gate::before(&space.api.url).await;
    let started = Instant::now();
    let herald = space.herald_as(gate.client(space.api).await).await;
    println!("ready after {:?}", started.elapsed());
    // Herald sees what it wrote by its watches, so it is asked, and the API server in the end.
    let healthy = |conditions: &[Condition]| conditions.iter().any(|is| is.kind == "Healthy" && is.status == "True");
    for kind in [ObjectKind::Provider, ObjectKind::Alert] {
        let objects: Vec<_> = (1..=MANY)
            .map(|number| ObjectRef { kind, key: Key::new(space.name.as_str(), format!("n{number}")) })
            .collect();
        wait::until_ok(Duration::from_secs(60), "every object to be healthy", || async {
            let observed = objects.iter().filter_map(|object| herald.app.stores.observed(object));
            let count = observed.filter(|observed| healthy(&observed.conditions)).count();
            if count as u64 == MANY { Ok(()) } else { Err(format!("{count} {kind}s")) }
        })
        .await;
        let list = space.objects(&kind.to_string()).list(&Default::default()).await.expect("the API server answers");
        let healthy = |object| condition(&value_of(object), "Healthy").is_some_and(|is| is["status"] == "True");
        assert_eq!(list.items.iter().filter(|object| healthy(object)).count() as u64, MANY, "{kind}");
    }
    println!("all healthy after {:?}", started.elapsed());

    // Of itself Herald renews its sign of life, every ten seconds: the next is that far away.
    let renewed =
        async || space.signs().await.iter().map(|sign| sign.metadata.resource_version.clone()).collect::<Vec<_>>();
    let before = renewed().await;
    wait::until(super::DEADLINE, "the sign of life", || async { (renewed().await != before).then_some(()) }).await;
    // The last writes may still be on their way to an answer.
    let mut looks = Vec::new();
    wait::until(super::DEADLINE, "Herald to have nothing to ask", || {
        looks.push(gate.asked());
        let quiet = looks.len() > 20 && looks[looks.len() - 20..].iter().all(|look| *look == looks[looks.len() - 1]);
        async move { quiet.then_some(()) }
    })
    .await;

    let before = gate.asked();
    let started = Instant::now();
    let post = |number: u64| {
        let event = in_namespace(kustomization_event(&format!("n{number}"), &sha(number)), &space);
        let herald = &herald;
        async move { herald.post(&event).await }
    };
    let answers: Vec<u16> = futures::stream::iter(1..=MANY).map(post).buffer_unordered(16).collect().await;
    assert!(answers.iter().all(|answer| *answer == 202), "{answers:?}");
    herald.idle().await;
    println!("{MANY} events told in {:?}", started.elapsed());
    assert_eq!(forge.writes() as u64, MANY);
    for number in [1, MANY / 2, MANY] {
        assert_eq!(forge.statuses(&sha(number)).len(), 1, "number {number}");
    }
    let own = |request: &Received| {
        let commit = request.uri.strip_prefix("/api/v3/repos/acme/fleet/statuses/")?;
        let number = u64::from_str_radix(commit, 16).expect("a commit of ours");
        Some(request.header("authorization") == format!("Bearer token-{number}"))
    };
    let own: Vec<bool> = forge.requests().iter().filter_map(own).collect();
    assert!(own.len() as u64 == MANY && own.iter().all(|own| *own), "each Provider uses its own Secret");
    assert_eq!(gate.asked(), before, "bytes Herald sent to the API server while events came");

    // The gate does see requests: a storm of changes brings reads and writes at once.
    let started = Instant::now();
    let change = |number: u64| {
        let (space, name) = (&space, format!("n{number}"));
        async move {
            space.merge("Secret", &name, json!({"stringData": {"token": "other"}})).await;
            space.merge("Alert", &name, json!({"spec": {"providerRef": {"name": "gone"}}})).await;
        }
    };
    futures::stream::iter(1..=STORM).map(change).buffer_unordered(32).collect::<()>().await;
    wait::until(super::DEADLINE, "the Alerts to miss their Providers", || async {
        let observed = (1..=STORM).filter_map(|number| {
            let key = Key::new(space.name.as_str(), format!("n{number}"));
            herald.app.stores.observed(&ObjectRef { kind: ObjectKind::Alert, key })
        });
        let missing = |conditions: &[Condition]| conditions.iter().any(|is| is.reason == "ProviderNotFound");
        (observed.filter(|observed| missing(&observed.conditions)).count() as u64 == STORM).then_some(())
    })
    .await;
    let (most, opened) = (gate.count.most.load(Ordering::SeqCst), gate.count.opened.load(Ordering::SeqCst));
    println!("{STORM} Secrets and Alerts changed in {:?}, {most} connections at most", started.elapsed());
    assert!(most <= CONNECTIONS, "{most} connections at once, {opened} in all");
    assert!(gate.asked() > before);
    herald.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_api_server_loses_no_event_and_no_change() {
    let forge = forge().await;
    let git = provider("github", "git", &repository(&forge)).secret("token");
    let space = space_with(&[secret("token", "token", "old"), git, alert("all", "git")]).await;
    let gate = Gate::before(&space.api.url).await;
    let herald = space.herald_as(gate.client(space.api).await).await;
    space.in_order("Provider", "git").await;
    space.in_order("Alert", "all").await;

    gate.door.send_replace(Door::Shut);
    wait::until(super::DEADLINE, "the connections to break", || async {
        (gate.count.open.load(Ordering::SeqCst) == 0).then_some(())
    })
    .await;
    // What is known is enough to go on.
    assert_eq!(herald.post(&in_namespace(kustomization_event("web", &sha(1)), &space)).await, 202);
    assert_eq!(status_of(&forge, &sha(1)).await.state, "success");
    space.merge("Secret", "token", json!({"stringData": {"token": "new"}})).await;
    space.delete("Alert", "all").await;
    space.apply(&alert("later", "git").sources(json!([{"kind": "Kustomization", "name": "later"}]))).await;

    gate.door.send_replace(Door::Open);
    space.in_order("Alert", "later").await;
    wait::until(super::DEADLINE, "the new token", || async {
        post_new(&herald, &space, "later").await;
        herald.idle().await;
        forge.requests().iter().any(|request| request.header("authorization") == "Bearer new").then_some(())
    })
    .await;
    assert_eq!(herald.post(&in_namespace(kustomization_event("web", &sha(2)), &space)).await, 202);
    herald.idle().await;
    assert!(forge.statuses(&sha(2)).is_empty(), "an Alert removed meanwhile matches nothing");
    herald.stop().await;
}

/// The client itself would wait for ever.
#[tokio::test]
async fn a_request_to_a_silent_api_server_ends() {
    let space = Space::new("silent").await;
    let gate = Gate::before(&space.api.url).await;
    let patience = Duration::from_secs(3);
    let connection = Connection { patience, ..gate.client(space.api).await.into() };
    let client = connection.counted(Arc::new(Metrics::new(false)));
    client.apiserver_version().await.expect("it answers");
    gate.door.send_replace(Door::Silent);
    let asked = tokio::time::timeout(super::DEADLINE, client.apiserver_version()).await;
    asked.expect("an end").expect_err("it did not answer");
}

#[tokio::test]
async fn providers_share_secrets_and_one_alone_harms_nobody() {
    let forge = forge().await;
    let git = |name: &str| provider("github", name, &repository(&forge)).secret("token");
    let bad = git("bad").spec("certSecretRef", named("none"));
    let space = space_with(&[secret("token", "token", "t0k"), git("one"), git("two"), bad]).await;
    for name in ["one", "two", "bad"] {
        space.apply(&alert(name, name)).await;
    }
    let herald = space.herald().await;
    space.condition("Provider", "bad", "Healthy", "False", "SecretNotFound").await;
    // The first of two that name a Secret goes: the other still has it.
    space.delete("Provider", "one").await;
    space.condition("Alert", "one", "Healthy", "False", "ProviderNotFound").await;
    assert_eq!(herald.post(&in_namespace(kustomization_event("web", &sha(1)), &space)).await, 202);
    status_of(&forge, &sha(1)).await;
    forge.reset_counts();
    let changed = Instant::now();
    space.merge("Secret", "token", json!({"stringData": {"token": "new"}})).await;
    // What waits for the bad Provider waits on, so there is no waiting for all to be told.
    wait::until(super::DEADLINE, "the new token", || async {
        post_new(&herald, &space, "web").await;
        forge.requests().iter().any(|request| request.header("authorization") == "Bearer new").then_some(())
    })
    .await;
    in_use(&forge, changed, "a shared token", |request| request.header("authorization") == "Bearer new").await;
    herald.stop().await;
}
