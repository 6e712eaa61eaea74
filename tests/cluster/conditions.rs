//! What the conditions of Alerts and Providers say, when they are written, and what they never hold.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use herald::api::GROUP;

use super::support::app::DEADLINE;
use super::support::flux::{alert, kustomization_event, provider, secret, sha};
use super::support::wait;
use super::{GROUP_VERSION, Space, condition, forge, in_namespace, message, named, repository, value_of};

impl Space<'_> {
    /// Applies a Provider that works, with its Secret, and an Alert that tells it.
    async fn pair(&self, address: &str) {
        self.apply(&secret("token", "token", "t0k")).await;
        self.apply(&provider("github", "git", address).secret("token")).await;
        self.apply(&alert("all", "git")).await;
    }

    /// Waits until Herald has looked at everything that was changed before this call: each of its
    /// rounds takes all that changed, so after two more the first is over.
    pub(super) async fn looked_at(&self) {
        for round in 0..2 {
            for kind in ["Alert", "Provider"] {
                let name = format!("sentinel-{}-{round}", uuid::Uuid::new_v4().simple());
                let reason = if kind == "Alert" {
                    self.apply(&alert(&name, "nobody")).await;
                    "ProviderNotFound"
                } else {
                    self.apply(&provider("github", &name, "https://github.com/acme/fleet").secret("nothing")).await;
                    "SecretNotFound"
                };
                self.condition(kind, &name, "Healthy", "False", reason).await;
            }
        }
    }
}

/// When a condition's status last changed.
fn since(condition: &Value) -> jiff::Timestamp {
    condition["lastTransitionTime"].as_str().and_then(|text| text.parse().ok()).expect("a condition has a time")
}

/// Times of conditions have whole seconds, so a wrong one shows only in a later second.
async fn a_later_second_than(time: jiff::Timestamp) {
    wait::until(DEADLINE, "the next second", || async {
        (jiff::Timestamp::now() > time + Duration::from_secs(1)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_works_is_ready_and_healthy() {
    let space = Space::new("conditions").await;
    let forge = forge().await;
    space.pair(&repository(&forge)).await;
    let herald = space.herald().await;
    for kind in ["Alert", "Provider"] {
        let name = if kind == "Alert" { "all" } else { "git" };
        let ready = space.condition(kind, name, "Ready", "True", "Succeeded").await;
        assert_eq!(message(&ready), "Initialized");
        space.condition(kind, name, "Healthy", "True", "Succeeded").await;

        let object = space.get(kind, name).await;
        // More would change what waits for the object (kstatus reads Reconciling, Stalled and
        // observedGeneration).
        let status = object["status"].as_object().expect("a status");
        assert_eq!(status.keys().collect::<Vec<_>>(), ["conditions"]);
        let conditions = status["conditions"].as_array().expect("a list");
        let kinds: Vec<_> = conditions.iter().map(|is| is["type"].as_str().expect("a type")).collect();
        assert_eq!(kinds, ["Ready", "Healthy"]);
        for is in conditions {
            assert_eq!(is["observedGeneration"], object["metadata"]["generation"]);
            assert!(is["lastTransitionTime"].as_str().is_some_and(|time| time.len() == 20), "{is}");
        }
        let managers = object["metadata"]["managedFields"].as_array().expect("managers");
        let ours: Vec<_> = managers.iter().filter(|entry| entry["manager"] == "herald").collect();
        assert_eq!(ours.len(), 1, "{managers:?}");
        assert_eq!(ours[0]["operation"], "Apply");
        assert_eq!(ours[0]["subresource"], "status");
        let owned = ours[0]["fieldsV1"].as_object().expect("fields");
        assert_eq!(owned.keys().collect::<Vec<_>>(), ["f:status"]);
    }
    let alerts = space.table(&["alerts"]);
    assert_eq!(alerts[0], ["NAME", "READY", "HEALTHY", "STATUS", "AGE"]);
    assert_eq!(alerts[1][..4], ["all", "True", "Succeeded", "Initialized"]);
    let providers = space.table(&["providers"]);
    assert_eq!(providers[0], ["NAME", "READY", "HEALTHY", "STATUS", "AGE"]);
    assert_eq!(providers[1][..4], ["git", "True", "Succeeded", "Initialized"]);
    herald.stop().await;
}

#[tokio::test]
async fn a_bad_expression_is_named_and_the_good_ones_work() {
    let space = Space::new("conditions").await;
    let forge = forge().await;
    space.pair(&repository(&forge)).await;
    let picky = alert("all", "git").spec("inclusionList", json!(["^deployed", "(unclosed"]));
    space.apply(&picky.spec("exclusionList", json!(["[z-a]"]))).await;
    let herald = space.herald().await;

    let ready = space.condition("Alert", "all", "Ready", "False", "InvalidExpression").await;
    assert!(message(&ready).contains("spec.inclusionList[1]"), "{ready}");
    assert!(message(&ready).contains("spec.exclusionList[0]"), "{ready}");
    assert!(!message(&ready).contains("inclusionList[0]"), "{ready}");
    let healthy = space.condition("Alert", "all", "Healthy", "False", "InvalidExpression").await;
    assert!(message(&healthy).contains("spec.inclusionList[1]"), "{healthy}");
    let row = space.table(&["alerts"])[1].clone();
    assert_eq!(row[..3], ["all", "False", "InvalidExpression"]);
    assert!(row[3].starts_with("spec.inclusionList[1]"), "{row:?}");

    // A condition says what is wrong; it does not close the gate.
    let event = in_namespace(kustomization_event("web", &sha(1)).message("deployed it"), &space);
    assert_eq!(herald.post(&event).await, 202);
    herald.idle().await;
    assert_eq!(forge.statuses(&sha(1)).len(), 1);

    space.apply(&alert("all", "git")).await;
    space.in_order("Alert", "all").await;
    herald.stop().await;
}

/// The API server refuses a message of more than 32,768 characters, whole.
#[tokio::test]
async fn a_message_has_a_bound() {
    let space = Space::new("conditions").await;
    space.pair("https://example.org/acme/fleet").await;
    let expressions: Vec<String> = (0..400).map(|number| format!("({}{number}", "a".repeat(80))).collect();
    space.apply(&alert("all", "git").spec("inclusionList", json!(expressions))).await;
    let herald = space.herald().await;
    let ready = space.condition("Alert", "all", "Ready", "False", "InvalidExpression").await;
    assert!(message(&ready).starts_with("spec.inclusionList[0]") && message(&ready).ends_with('…'), "{ready}");
    herald.stop().await;
}

#[tokio::test]
async fn a_missing_provider_is_named_until_it_comes() {
    let space = Space::new("conditions").await;
    let forge = forge().await;
    space.apply(&alert("all", "git")).await;
    let herald = space.herald().await;

    let healthy = space.condition("Alert", "all", "Healthy", "False", "ProviderNotFound").await;
    assert!(message(&healthy).contains(&format!("{}/git", space.name)), "{healthy}");
    space.condition("Alert", "all", "Ready", "True", "Succeeded").await;

    space.pair(&repository(&forge)).await;
    space.in_order("Alert", "all").await;
    space.delete("Provider", "git").await;
    space.condition("Alert", "all", "Healthy", "False", "ProviderNotFound").await;
    herald.stop().await;
}

#[tokio::test]
async fn an_alert_without_a_spec_says_so_and_matches_nothing() {
    let space = Space::new("conditions").await;
    space.kubectl(&[
        "apply",
        "-f",
        in_file(&json!({
            "apiVersion": GROUP_VERSION, "kind": "Alert", "metadata": {"name": "empty"},
        }))
        .path()
        .to_str()
        .expect("UTF-8"),
    ]);
    let herald = space.herald().await;
    let ready = space.condition("Alert", "empty", "Ready", "False", "InvalidSpec").await;
    assert!(message(&ready).contains("spec.providerRef.name"), "{ready}");
    let event = in_namespace(kustomization_event("web", &sha(1)), &space);
    assert_eq!(herald.post(&event).await, 202);
    assert_eq!(herald.app.outbox.counts().held, 0);
    herald.stop().await;
}

fn in_file(manifest: &Value) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), manifest.to_string()).expect("it is writable");
    file
}

/// Secrets, Providers, and what the conditions say of each.
#[tokio::test]
async fn what_is_wrong_with_a_provider_is_named_and_no_secret_is_told() {
    // Each of these words is in a Secret, and must be in no condition, log line or column.
    const HIDDEN: &str = "h1dden";
    let space = Space::new("conditions").await;
    let good = "https://github.com/acme/fleet";
    for (name, key, value) in [
        ("token", "token", "h1dden-token"),
        ("address", "address", "ftp://h1dden-user:h1dden-password@example.org/acme"),
        ("long", "address", &format!("https://h1dden.example.org/{}", "x".repeat(2048))),
        ("ca", "ca.crt", "h1dden certificate"),
        ("key", "tls.key", "h1dden key"),
        ("headers", "headers", "h1dden: [1, 2]"),
        ("lines", "token", "h1dden\ntoken"),
        ("proxy", "address", "ftp://h1dden:h1dden@example.org"),
        ("empty", "unknown", "h1dden"),
    ] {
        space.apply(&secret(name, key, value)).await;
    }
    let with_token = |name: &str| provider("github", name, good).secret("token");
    let cases = [
        // name, manifest, Ready, reason of Healthy, what the message names
        ("fine", with_token("fine"), true, "Succeeded", "in order"),
        ("no-url", provider("github", "no-url", "://nowhere").secret("token"), false, "InvalidAddress", "spec.address"),
        (
            "no-repo",
            provider("gitea", "no-repo", "https://example.org/a").secret("token"),
            false,
            "InvalidAddress",
            "spec.address",
        ),
        ("no-hook", provider("generic", "no-hook", "ftp://example.org/a"), false, "InvalidAddress", "spec.address"),
        ("secret-url", provider("github", "secret-url", good).secret("address"), true, "InvalidAddress", "/address"),
        ("long-url", provider("github", "long-url", good).secret("long"), true, "InvalidAddress", "2048"),
        ("no-secret", provider("github", "no-secret", good).secret("none"), true, "SecretNotFound", "spec.secretRef"),
        // Read as it stands, it would be the Secret that the others name.
        (
            "odd-secret",
            provider("github", "odd-secret", good).secret("token?x=1"),
            true,
            "SecretNotFound",
            "spec.secretRef",
        ),
        (
            "no-cert",
            with_token("no-cert").spec("certSecretRef", named("none")),
            true,
            "SecretNotFound",
            "spec.certSecretRef",
        ),
        (
            "no-proxy",
            with_token("no-proxy").spec("proxySecretRef", named("none")),
            true,
            "SecretNotFound",
            "spec.proxySecretRef",
        ),
        ("no-ref", provider("github", "no-ref", good), true, "InvalidCredentials", "spec.secretRef is missing"),
        ("no-token", provider("github", "no-token", good).secret("empty"), true, "InvalidCredentials", "token"),
        ("bad-token", provider("github", "bad-token", good).secret("lines"), true, "InvalidCredentials", "token"),
        (
            "bad-ca",
            with_token("bad-ca").spec("certSecretRef", named("ca")),
            true,
            "InvalidCertificate",
            "key ca.crt of Secret",
        ),
        ("bad-pair", with_token("bad-pair").spec("certSecretRef", named("key")), true, "InvalidCertificate", "tls.crt"),
        (
            "bad-headers",
            provider("generic", "bad-headers", good).secret("headers"),
            true,
            "InvalidHeaders",
            "key headers",
        ),
        (
            "bad-proxy",
            with_token("bad-proxy").spec("proxySecretRef", named("proxy")),
            true,
            "InvalidProxy",
            "key address",
        ),
        ("bad-timeout", with_token("bad-timeout").spec("timeout", "0s"), false, "InvalidSpec", "spec.timeout"),
        (
            "annotated",
            with_token("annotated").annotation("herald.sh/unknown", "x").annotation("herald.sh/pending", "true"),
            true,
            "Succeeded",
            "herald.sh/unknown",
        ),
        (
            "bad-value",
            with_token("bad-value").annotation("herald.sh/commit-status-from", "all"),
            true,
            "Succeeded",
            "herald.sh/commit-status-from",
        ),
        (
            "unused",
            provider("generic", "unused", good).secret("ca"),
            true,
            "Succeeded",
            "/ca is without effect: type generic looks for it in spec.certSecretRef",
        ),
    ];
    for (name, manifest, ..) in &cases {
        space.apply(manifest).await;
        space.apply(&alert(name, name)).await;
    }
    let (log, _guard) = super::Log::start();
    let herald = space.herald().await;
    for (name, _, works, reason, part) in &cases {
        let healthy = if *reason == "Succeeded" { "True" } else { "False" };
        let (ready, ready_reason) = if *works { ("True", "Succeeded") } else { ("False", *reason) };
        let is = space.condition("Provider", name, "Healthy", healthy, reason).await;
        assert!(message(&is).contains(part), "{name}: {is}");
        let is = space.condition("Provider", name, "Ready", ready, ready_reason).await;
        assert!(*works || message(&is).contains(part), "{name}: {is}");
        // The Alert says whose fault it is, and stays Ready: it can work once the Provider does.
        space.condition("Alert", name, "Ready", "True", "Succeeded").await;
        let is = space.condition("Alert", name, "Healthy", healthy, reason).await;
        assert!(message(&is).contains(&format!("Provider {}/{name}", space.name)), "{name}: {is}");
        assert!(*reason == "Succeeded" || message(&is).contains(part), "{name}: {is}");
    }
    for (name, unknown) in [("annotated", true), ("fine", false)] {
        let is = space.condition("Provider", name, "Healthy", "True", "Succeeded").await;
        assert_eq!(message(&is).contains("unknown annotations"), unknown, "{is}");
    }
    let everything = space.kubectl(&["get", "alerts,providers,events", "-o", "json"]);
    assert!(!everything.contains(HIDDEN), "{everything}");
    assert_eq!(log.lines(&[HIDDEN]), [""; 0]);
    herald.stop().await;
}

#[tokio::test]
async fn conditions_are_written_on_change_only() {
    let space = Space::new("conditions").await;
    let forge = forge().await;
    space.pair(&repository(&forge)).await;
    space.apply(&alert("broken", "git").spec("inclusionList", json!(["(unclosed"]))).await;
    space.apply(&provider("github", "waiting", "https://github.com/acme/fleet").secret("none")).await;
    let all = [("Alert", "all"), ("Alert", "broken"), ("Provider", "git"), ("Provider", "waiting")];
    let herald = space.herald().await;
    space.in_order("Alert", "all").await;
    space.in_order("Provider", "git").await;
    space.condition("Alert", "broken", "Ready", "False", "InvalidExpression").await;
    space.condition("Provider", "waiting", "Healthy", "False", "SecretNotFound").await;

    // A change that Herald has no use for.
    let mut versions = Vec::new();
    for (kind, name) in all {
        let touched = space.merge(kind, name, json!({"metadata": {"labels": {"touched": "yes"}}})).await;
        versions.push(value_of(&touched)["metadata"]["resourceVersion"].clone());
    }
    space.looked_at().await;
    for ((kind, name), version) in all.iter().zip(&versions) {
        assert_eq!(
            space.resource_version(kind, name).await,
            *version,
            "{kind} {name}: {}",
            space.get(kind, name).await
        );
    }

    // Another process finds everything as it ought to be, though it has to read the Secret first.
    herald.stop().await;
    let herald = space.herald().await;
    space.looked_at().await;
    for ((kind, name), version) in all.iter().zip(&versions) {
        assert_eq!(
            space.resource_version(kind, name).await,
            *version,
            "{kind} {name}: {}",
            space.get(kind, name).await
        );
    }
    herald.stop().await;
}

#[tokio::test]
async fn the_time_of_a_transition_moves_with_the_status_only() {
    let space = Space::new("conditions").await;
    let forge = forge().await;
    space.apply(&alert("all", "git")).await;
    let herald = space.herald().await;
    let ready = space.condition("Alert", "all", "Ready", "True", "Succeeded").await;
    let missing = space.condition("Alert", "all", "Healthy", "False", "ProviderNotFound").await;

    a_later_second_than(since(&missing)).await;
    space.apply(&provider("github", "git", &repository(&forge)).secret("token")).await;
    let other = space.condition("Alert", "all", "Healthy", "False", "SecretNotFound").await;
    assert_eq!(since(&other), since(&missing), "the status is the same");

    space.apply(&secret("token", "token", "t0k")).await;
    let mended = space.condition("Alert", "all", "Healthy", "True", "Succeeded").await;
    assert!(since(&mended) > since(&missing), "{mended}");
    let still = space.condition("Alert", "all", "Ready", "True", "Succeeded").await;
    assert_eq!(still, ready);
    herald.stop().await;
}

#[tokio::test]
async fn another_managers_condition_stays_and_ours_come_back() {
    let space = Space::new("conditions").await;
    let forge = forge().await;
    space.pair(&repository(&forge)).await;
    let herald = space.herald().await;
    space.in_order("Provider", "git").await;

    let audited = json!({
        "type": "Audited", "status": "True", "reason": "Seen", "message": "by an auditor",
        "lastTransitionTime": "2026-01-02T15:04:05Z",
    });
    let patch = json!({
        "apiVersion": GROUP_VERSION, "kind": "Provider", "metadata": {"name": "git"},
        "status": {"conditions": [audited]},
    });
    let params = PatchParams::apply("auditor");
    space.objects("Provider").patch_status("git", &params, &Patch::Apply(patch)).await.expect("the auditor may");

    space.delete("Secret", "token").await;
    space.condition("Provider", "git", "Healthy", "False", "SecretNotFound").await;
    let object = space.get("Provider", "git").await;
    assert_eq!(condition(&object, "Audited"), Some(&audited));
    assert!(condition(&object, "Ready").is_some());

    // Somebody wipes the status: what Herald says is said again.
    space.apply(&secret("token", "token", "t0k")).await;
    space.in_order("Provider", "git").await;
    let path = format!("/apis/{GROUP}/v1beta3/namespaces/{}/providers/git/status", space.name);
    let wipe = json!({"status": null}).to_string();
    let request = http::Request::patch(path).header("content-type", "application/merge-patch+json");
    let wiped: Value = space.client.request(request.body(wipe.into_bytes()).expect("a request")).await.expect("done");
    assert!(condition(&wiped, "Ready").is_none(), "{wiped}");
    space.in_order("Provider", "git").await;
    herald.stop().await;
}
