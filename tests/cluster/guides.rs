//! The manifests of the public guides, applied by `kubectl apply` as they are written, old API
//! versions included. What the guides promise of them is checked.
//!
//! The files in `tests/fixtures/guides/` name the namespace `flux-system`; whoever works there holds
//! its lock, and begins with an empty one.

use base64::Engine;
use serde_json::json;
use tokio::sync::{Mutex, MutexGuard};

use herald::vendors;

use super::support::apiserver::ApiServer;
use super::support::app::{DEADLINE, Herald};
use super::support::flux::{kustomization_event, sha};
use super::support::forge::Forge;
use super::support::wait;
use super::{Space, cluster, forge, in_repository, message, status_of, stderr};

const NAMESPACE: &str = "flux-system";

/// What a header says to these words.
fn basic(words: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(words))
}

/// The key of a status at Bitbucket, where it has at most 40 characters.
fn sha1(name: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, name.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Waits until events of this Alert go to that Provider.
async fn told_by(herald: &Herald, alert: &str, provider: &str) {
    let key = herald::api::Key::new(NAMESPACE, alert);
    wait::until(DEADLINE, "the Alert's new Provider", || async {
        let alert = herald.app.stores.index.get(&key)?;
        (&*alert.provider.name == provider).then_some(())
    })
    .await;
}

/// `flux-system` to oneself, empty.
pub async fn flux_system() -> (Space<'static>, MutexGuard<'static, ()>) {
    static LOCK: Mutex<()> = Mutex::const_new(());
    let guard = LOCK.lock().await;
    let api: &ApiServer = cluster().await;
    api.kubectl_apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}).to_string());
    let space = Space::named(api, NAMESPACE.to_owned()).await;
    space.kubectl(&["delete", "alerts,providers,secrets", "--all"]);
    (space, guard)
}

impl Space<'_> {
    /// Applies a guide's file as its reader does; gives the warnings.
    fn follow(&self, guide: &str) -> String {
        let file = in_repository(&format!("tests/fixtures/guides/{guide}.yaml"));
        let output = self.api.kubectl(&["apply", "-f", file.to_str().expect("UTF-8")]);
        assert!(output.status.success(), "{guide}: {}", stderr(&output));
        stderr(&output)
    }

    /// The one thing a reader writes differently here: where the Git host is.
    async fn point(&self, provider: &str, forge: &Forge, repository: &str) {
        let patch = json!({"spec": {"address": format!("{}/{repository}", forge.url())}}).to_string();
        self.kubectl(&["patch", "provider", provider, "--type=merge", "-p", &patch]);
    }

    /// What `kubectl get providers` has to show of one whose Secret is there, if Herald can tell
    /// its type, and what it says if not.
    async fn shows(&self, provider: &str, kind: &str) {
        if vendors::row(kind).is_some() {
            self.in_order("Provider", provider).await;
            return;
        }
        let ready = self.condition("Provider", provider, "Ready", "False", "UnsupportedType").await;
        assert!(message(&ready).contains(&format!("spec.type \"{kind}\" is not built yet")), "{ready}");
        let row = self.table(&["provider", provider])[1].clone();
        assert_eq!(row[..3], [provider, "False", "UnsupportedType"]);
        assert_eq!(row[3], message(&ready));
    }

    /// The name of the status for a Kustomization, as the guides tell it.
    async fn context(&self, kustomization: &str, provider: &str) -> String {
        let uid = self.get("Provider", provider).await["metadata"]["uid"].take();
        let first = uid.as_str().and_then(|uid| uid.split('-').next()).expect("a UID");
        format!("kustomization/{kustomization}/{first}")
    }
}

#[tokio::test]
async fn commit_statuses_by_the_guide_of_v1beta1() {
    let (space, _guard) = flux_system().await;
    let forge = forge().await;
    let warnings = space.follow("commit-status-v1beta1");
    assert!(warnings.contains("notification.toolkit.fluxcd.io/v1beta1 is deprecated"), "{warnings}");
    space.point("flux-system", &forge, "acme/fleet-infra").await;
    space.point("gitlab", &forge, "acme/fleet-infra").await;
    space.point("azuredevops", &forge, "acme/project/_git/fleet-infra").await;
    // Bitbucket's API is at one host, whatever the address.
    let bitbucket = format!("--bitbucket-api-base-url={}/2.0", forge.url());
    let herald = space.herald_with(space.client.clone(), &[&bitbucket]).await;

    for provider in ["flux-system", "gitlab", "bitbucket", "azuredevops"] {
        space.in_order("Provider", provider).await;
    }
    space.in_order("Alert", "podinfo").await;
    let alerts = space.table(&["alerts"]);
    assert_eq!(alerts[0], ["NAME", "READY", "HEALTHY", "STATUS", "AGE"]);
    assert_eq!(alerts[1][..4], ["podinfo", "True", "Succeeded", "Initialized"]);

    // The guide's Alert names GitHub; readers of the others name theirs.
    let [token, app_password] = ["<token>", "<user>:<app-password>"];
    for (number, (provider, repository, credential, [success, failure])) in (1..).zip([
        ("flux-system", "acme/fleet-infra", ("authorization", format!("Bearer {token}")), ["success", "failure"]),
        ("gitlab", "acme/fleet-infra", ("private-token", token.to_owned()), ["success", "failed"]),
        ("bitbucket", "acme/fleet-infra", ("authorization", basic(app_password)), ["SUCCESSFUL", "FAILED"]),
        (
            "azuredevops",
            "acme/project/fleet-infra",
            ("authorization", basic(&format!(":{token}"))),
            ["succeeded", "error"],
        ),
    ]) {
        space.merge("Alert", "podinfo", json!({"spec": {"providerRef": {"name": provider}}})).await;
        told_by(&herald, "podinfo", provider).await;
        forge.reset_counts();
        let commit = sha(number);
        assert_eq!(herald.post(&kustomization_event("podinfo", &commit)).await, 202);
        let status = status_of(&forge, &commit).await;
        assert_eq!(status.repository, repository, "{provider}");
        let description = Some("reconciliation succeeded");
        assert_eq!((&*status.state, status.description.as_deref()), (success, description), "{provider}");
        let name = space.context("podinfo", provider).await;
        let shown = if provider == "bitbucket" { sha1(&name) } else { name };
        assert_eq!(status.context, shown, "{provider}");
        let request = forge.requests().pop().expect("it was asked");
        assert_eq!(request.header(credential.0), credential.1, "{provider}");

        // "The status is written only when it changes": not by another event of the same commit.
        let again = kustomization_event("podinfo", &commit).message("Reconciliation finished in 3s, next run in 10m0s");
        assert_eq!(herald.post(&again).await, 202);
        herald.idle().await;
        assert_eq!(forge.writes(), 1, "{provider}");
        // "A failed health check becomes a failed status", and the newest truth stands.
        for (event, state, description) in [
            (kustomization_event("podinfo", &commit).failed("HealthCheckFailed"), failure, "health check failed"),
            (kustomization_event("podinfo", &commit), success, "reconciliation succeeded"),
        ] {
            assert_eq!(herald.post(&event).await, 202);
            herald.idle().await;
            let newest = forge.latest(&commit, &status.context).expect("a status");
            assert_eq!((&*newest.state, newest.description.as_deref()), (state, Some(description)), "{provider}");
        }
        assert_eq!(forge.statuses(&commit).len(), 3, "at this vendor and no other");
    }
    // Only the Kustomization the Alert names, and only with a commit.
    for event in [
        kustomization_event("other", &sha(9)),
        kustomization_event("podinfo", &sha(9)).metadata("kustomize.toolkit.fluxcd.io/revision", "6.5.0"),
    ] {
        assert_eq!(herald.post(&event).await, 202);
    }
    herald.idle().await;
    assert!(forge.statuses(&sha(9)).is_empty());
    herald.stop().await;
}

#[tokio::test]
async fn commit_statuses_by_the_guide_of_v1beta2() {
    let (space, _guard) = flux_system().await;
    let forge = forge().await;
    let warnings = space.follow("commit-status-v1beta2");
    assert!(warnings.contains("notification.toolkit.fluxcd.io/v1beta2 is deprecated"), "{warnings}");
    space.point("github-status", &forge, "my-gh-org/my-gh-repo").await;
    let herald = space.herald().await;

    space.in_order("Provider", "github-status").await;
    space.in_order("Alert", "github-status").await;
    assert_eq!(space.table(&["alerts"])[1][..4], ["github-status", "True", "Succeeded", "Initialized"]);

    assert_eq!(herald.post(&kustomization_event("flux-system", &sha(1))).await, 202);
    let status = status_of(&forge, &sha(1)).await;
    assert_eq!(status.repository, "my-gh-org/my-gh-repo");
    assert_eq!(status.state, "success");
    assert_eq!(status.context, space.context("flux-system", "github-status").await);

    // `spec.suspend` of the guide: nothing is said while it is set.
    let suspend = |value: bool| json!({"spec": {"suspend": value}}).to_string();
    space.kubectl(&["patch", "provider", "github-status", "--type=merge", "-p", &suspend(true)]);
    let suspended = |is: bool| {
        let stores = &herald.app.stores;
        super::wait::until(super::DEADLINE, "Herald to know", move || async move {
            use herald::view::View;
            let key = herald::api::Key::new(NAMESPACE, "github-status");
            (stores.provider(&key)?.provider.spec.suspend == is).then_some(())
        })
    };
    suspended(true).await;
    assert_eq!(herald.post(&kustomization_event("flux-system", &sha(2))).await, 202);
    assert_eq!(herald.app.outbox.counts().held, 0);
    space.kubectl(&["patch", "provider", "github-status", "--type=merge", "-p", &suspend(false)]);
    suspended(false).await;
    assert_eq!(herald.post(&kustomization_event("flux-system", &sha(3))).await, 202);
    status_of(&forge, &sha(3)).await;
    assert!(forge.statuses(&sha(2)).is_empty());
    herald.stop().await;
}

#[tokio::test]
async fn chat_messages_by_the_guide_of_v1beta1() {
    let (space, _guard) = flux_system().await;
    space.follow("chat-v1beta1");
    let herald = space.herald().await;
    space.shows("slack", "slack").await;
    // The Alert itself is in order, whatever its Provider is.
    let ready = space.condition("Alert", "on-call-webapp", "Ready", "True", "Succeeded").await;
    assert_eq!(message(&ready), "Initialized");
    let row = space.table(&["alerts"])[1].clone();
    assert_eq!((&*row[0], &*row[1], &*row[3]), ("on-call-webapp", "True", "Initialized"));
    herald.stop().await;
}

#[tokio::test]
async fn the_handbook_of_a_team() {
    let (space, _guard) = flux_system().await;
    let forge = forge().await;
    space.follow("team-v1beta1");
    let herald = space.herald().await;
    // The handbook makes its Secrets elsewhere; until then that is what is wrong.
    space.condition("Provider", "github-provider", "Healthy", "False", "SecretNotFound").await;
    space.condition("Provider", "github-provider", "Ready", "True", "Succeeded").await;
    assert_eq!(
        space.table(&["provider", "github-provider"])[1][..4],
        ["github-provider", "True", "SecretNotFound", "Initialized"]
    );
    space.kubectl(&["create", "secret", "generic", "github-token", "--from-literal=token=t0k"]);
    space.kubectl(&["create", "secret", "generic", "azdo-token", "--from-literal=token=t0k"]);
    space.point("github-provider", &forge, "acme/contoso2").await;
    space.point("azdo-provider", &forge, "acme/project/_git/contoso2").await;
    for (provider, alert) in [("github-provider", "github-alert"), ("azdo-provider", "azdo-alert")] {
        space.in_order("Provider", provider).await;
        space.in_order("Alert", alert).await;
    }

    // What the handbook reads back at both vendors: the Kustomization, and the source when it fails.
    let source = kustomization_event("contoso2", &sha(1))
        .kind("GitRepository", "source.toolkit.fluxcd.io/v1")
        .metadata("source.toolkit.fluxcd.io/revision", &format!("main@sha1:{}", sha(1)))
        .failed("GitOperationFailed");
    assert_eq!(herald.post(&kustomization_event("contoso2", &sha(1))).await, 202);
    assert_eq!(herald.post(&source).await, 202);
    herald.idle().await;
    let mut expected = Vec::new();
    for (provider, success, failure) in
        [("github-provider", "success", "failure"), ("azdo-provider", "succeeded", "error")]
    {
        let context = space.context("contoso2", provider).await;
        let of_source = context.replace("kustomization/", "gitrepository/");
        expected.push((context, success, "reconciliation succeeded"));
        expected.push((of_source, failure, "git operation failed"));
    }
    let statuses = forge.statuses(&sha(1));
    let told = statuses.iter().map(|status| {
        let description = status.description.as_deref().expect("it has a description");
        (status.context.clone(), &*status.state, description)
    });
    let mut told: Vec<_> = told.collect();
    told.sort_unstable();
    expected.sort_unstable();
    assert_eq!(told, expected);
    herald.stop().await;
}
