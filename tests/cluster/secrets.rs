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

/// Posts one event after the other, each about another commit, until `done`.
async fn post_until(herald: &Herald, space: &Space<'_>, what: &str, done: impl Fn() -> bool) {
    let number = AtomicU64::new(1000);
    wait::until(super::DEADLINE, what, || async {
        let commit = sha(number.fetch_add(1, Ordering::Relaxed));
        assert_eq!(herald.post(&in_namespace(kustomization_event("web", &commit), space)).await, 202);
        herald.idle().await;
        done().then_some(())
    })
    .await;
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
    first.reset_counts();
    post_until(&herald, &space, "another one", || true).await;
    assert!(first.requests().is_empty(), "the old Provider is told nothing any more");

    // A new exclusion: an event that is not told shows it.
    let excluding = alert("all", "other").spec("exclusionList", json!(["^Reconciliation finished"]));
    let changed = Instant::now();
    space.apply(&excluding).await;
    wait::until(IN_USE, "the exclusion", || async {
        second.reset_counts();
        post_until(&herald, &space, "an event", || true).await;
        second.requests().is_empty().then_some(())
    })
    .await;
    assert!(changed.elapsed() < IN_USE, "an exclusion took {:?}", changed.elapsed());

    // And back, which the first request shows.
    let changed = Instant::now();
    space.apply(&alert("all", "other")).await;
    post_until(&herald, &space, "no exclusion", || !second.requests().is_empty()).await;
    in_use(&second, changed, "no exclusion", |_| true).await;

    // A removed Alert matches nothing any more.
    let changed = Instant::now();
    space.delete("Alert", "all").await;
    wait::until(IN_USE, "the removal", || async {
        second.reset_counts();
        post_until(&herald, &space, "an event", || true).await;
        second.requests().is_empty().then_some(())
    })
    .await;
    assert!(changed.elapsed() < IN_USE, "a removal took {:?}", changed.elapsed());
    herald.stop().await;
}

/// A door before the API server that counts who goes through. TLS is not opened: what a client
/// sends over HTTP/1.1 is its requests and nothing else, so no byte means no request.
struct Gate {
    url: String,
    count: Arc<Count>,
}

#[derive(Default)]
struct Count {
    open: AtomicUsize,
    most: AtomicUsize,
    opened: AtomicUsize,
    asked: AtomicU64,
}

impl Gate {
    async fn before(url: &str) -> Self {
        let target = url.strip_prefix("https://").expect("an https URL").to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has free ports");
        let url = format!("https://{}", listener.local_addr().expect("it is bound"));
        let count = Arc::new(Count::default());
        let counted = count.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&target).await.expect("the API server is there");
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                tokio::spawn(counted.clone().pass(client, server));
            }
        });
        Self { url, count }
    }

    /// Bytes that clients sent.
    fn asked(&self) -> u64 {
        self.count.asked.load(Ordering::SeqCst)
    }
}

impl Count {
    async fn pass(self: Arc<Self>, client: TcpStream, server: TcpStream) {
        let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(open, Ordering::SeqCst);
        self.opened.fetch_add(1, Ordering::SeqCst);
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        // Over when either side is: HTTP knows no half-closed connection.
        tokio::select! {
            () = copy(from_client, to_server, |bytes| { self.asked.fetch_add(bytes, Ordering::SeqCst); }) => {}
            () = copy(from_server, to_client, |_| {}) => {}
        }
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, count: impl Fn(u64)) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
        count(bytes as u64);
        if to.write_all(&buffer[..bytes]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_secrets_need_few_connections_and_an_event_asks_nothing() {
    const MANY: u64 = 1000;
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
        async move { space.apply(&manifest).await }
    };
    let started = Instant::now();
    futures::stream::iter(manifests).map(create).buffer_unordered(32).map(drop).collect::<()>().await;
    println!("{} objects made in {:?}", 3 * MANY, started.elapsed());

    let gate = Gate::before(&space.api.url).await;
    let mut config = space.api.config().await;
    config.cluster_url = gate.url.parse().expect("a URL");
    let started = Instant::now();
    let herald = space.herald_as(kube::Client::try_from(config).expect("a client")).await;
    println!("ready after {:?}", started.elapsed());
    let deadline = Duration::from_secs(60);
    for kind in ["Provider", "Alert"] {
        wait::until_ok(deadline, "every object to be healthy", || async {
            let list = space.objects(kind).list(&Default::default()).await.expect("the API server answers");
            let healthy = |object| condition(&value_of(object), "Healthy").is_some_and(|is| is["status"] == "True");
            let count = list.items.iter().filter(|object| healthy(object)).count();
            if count as u64 == MANY { Ok(()) } else { Err(format!("{count} {kind}s")) }
        })
        .await;
    }
    println!(
        "all healthy after {:?}, {} connections at most",
        started.elapsed(),
        gate.count.most.load(Ordering::SeqCst)
    );

    // The last writes may still be on their way to an answer.
    let mut looks = Vec::new();
    wait::until(deadline, "Herald to have nothing to ask", || {
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
    let most = gate.count.most.load(Ordering::SeqCst);
    assert!(most <= CONNECTIONS, "{most} connections at once");

    // The gate does see a request.
    space.merge("Secret", "n1", json!({"stringData": {"token": "other"}})).await;
    wait::until(super::DEADLINE, "the changed Secret to be read", || async { (gate.asked() > before).then_some(()) })
        .await;
    herald.stop().await;
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
    post_until_seen(&herald, &space, &forge).await;
    in_use(&forge, changed, "a shared token", |request| request.header("authorization") == "Bearer new").await;
    herald.stop().await;
}

/// Posts until a request carries the new token; what waits for another Provider may wait on.
async fn post_until_seen(herald: &Herald, space: &Space<'_>, forge: &Forge) {
    let number = AtomicU64::new(1000);
    wait::until(super::DEADLINE, "the new token", || async {
        let commit = sha(number.fetch_add(1, Ordering::Relaxed));
        assert_eq!(herald.post(&in_namespace(kustomization_event("web", &commit), space)).await, 202);
        forge.requests().iter().any(|request| request.header("authorization") == "Bearer new").then_some(())
    })
    .await;
}
