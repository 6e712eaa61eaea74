//! The tables of the specification row by row, through the whole of Herald: an event in, and what
//! each host was asked. Each test names its table. Where the peer's behaviour is a weakness
//! (spec/pipeline.md part 10), the row asserts what Herald does instead and says so.
//!
//! Tables about one function are beside it in `src`: 3.4 in `matching/filter.rs`, 4.2 in
//! `compose/revision.rs`, 4.5 in `compose/text.rs`, git-providers 1.8 in `vendors/forge.rs` and
//! `vendors/azuredevops.rs`.

use std::collections::BTreeMap;

use herald::matching::gate::Carries;
use herald::ops::metrics::Outcome;
use herald::vendors::{Row, TABLE};
use serde_json::json;

use crate::logs::Logs;
use crate::network::at;
use crate::scene::{Scene, TOKEN, forge, git, hook, token};
use crate::support::flux::{FluxEvent, Manifest, alert, kustomization_event, provider, secret, sha};
use crate::support::forge::Forge;
use crate::vendors::base64;

const REVISION: &str = "kustomize.toolkit.fluxcd.io/revision";
const MARK: &str = "kustomize.toolkit.fluxcd.io/commit_status";

fn statuses() -> impl Iterator<Item = &'static Row> {
    TABLE.iter().filter(|row| row.carries == Carries::CommitStatus)
}

/// What each host was told about a commit, by the type of its Provider: state and description.
fn told(forge: &Forge, commit: &str) -> BTreeMap<String, (String, String)> {
    let told = forge.statuses(commit).into_iter();
    told.map(|status| {
        let words = status.description.unwrap_or_default();
        (format!("{:?}", status.host).to_lowercase(), (status.state, words))
    })
    .collect()
}

// === pipeline 4.1 ===

/// spec/pipeline.md 4.1. Each event would be stopped by the gates of the rows below its own as well;
/// the first that is closed is the one that is told.
#[tokio::test]
async fn pipeline_4_1_the_first_gate_that_is_closed_decides() {
    let elsewhere = json!([{"kind": "Kustomization", "name": "*", "namespace": "elsewhere"}]);
    let success = kustomization_event("web", &sha(1));
    let nothing = success.clone().without_metadata(MARK).without_metadata(REVISION);
    type Shape = fn(Manifest) -> Manifest;
    let plain: Shape = |provider| provider;
    let suspended: Shape = |provider| provider.spec("suspend", true).spec("commitStatusExpr", "''");
    let nameless: Shape = |provider| provider.spec("commitStatusExpr", "''").spec("address", "ftp://no/address");
    // The gate, the type of the Provider if there is one, its shape, the event, the reason that is told.
    for (gate, kind, shape, event, reason, outcome) in [
        (1, None, plain, nothing.clone().namespace("elsewhere"), "cross_namespace", Outcome::Refused),
        (2, None, plain, nothing.clone(), "no_provider", Outcome::Refused),
        (3, Some("github"), suspended, nothing.clone(), "provider_suspended", Outcome::Filtered),
        // As long as a type is not built, nothing is sent through it, the final success or not.
        (4, Some("slack"), nameless, success.clone(), "unsupported_type", Outcome::Refused),
        (5, Some("github"), nameless, nothing.clone(), "not_final", Outcome::Filtered),
        (6, Some("githubpullrequestcomment"), plain, nothing.clone(), "unsupported_type", Outcome::Refused),
        // The state, then the commit, then the name; the peer asks in another order and says more often that
        // something is wrong (part 10, 22).
        (9, Some("github"), nameless, nothing.clone().failed("BuildFailed"), "no_commit", Outcome::Filtered),
        (9, Some("github"), nameless, success.clone(), "it gives an empty name", Outcome::Refused),
    ] {
        let logs = Logs::collect();
        let forge = forge().await;
        let alert = alert("all", "git");
        let alert = if gate == 1 { alert.sources(elsewhere.clone()) } else { alert };
        let provider = kind.map(|kind| shape(git(kind, &forge)));
        let manifests = [alert, token()].into_iter().chain(provider);
        let scene = Scene::with(forge, manifests, &["--no-cross-namespace-refs"]).await;
        scene.tell([event]).await;
        let lines = logs.text();
        let said = |line: &str| line.contains("object=Kustomization/") && line.contains(reason);
        assert!(lines.lines().any(said), "{gate}: no line with {reason} in\n{lines}");
        assert_eq!(scene.ended(outcome), 1, "{gate}");
        scene.end(0, 0).await;
    }

    // Gate 7: closed it is a condition, for every type (`credentials` shows it); open, a token is what counts.
    let at_azure = forge().await;
    let named = git("azuredevops", &at_azure).spec("serviceAccountName", "team");
    let gate = "--feature-gates=ObjectLevelWorkloadIdentity=true";
    let scene = Scene::with(at_azure, [named, token(), alert("all", "git")], &[gate]).await;
    scene.tell([&success]).await;
    scene.end(1, 1).await;

    // Behind the last gate: the condition says what is wrong with the Provider, and nothing is lost.
    let logs = Logs::collect();
    let forge = forge().await;
    let well = git("github", &forge);
    let scene = Scene::with(forge, [well.clone().spec("address", "ftp://a/b/c"), token(), alert("all", "git")], &[]);
    let scene = scene.await;
    scene.post(&success).await;
    logs.until(&["ERROR", "InvalidAddress", "name=git"]).await;
    scene.folder.write(&well);
    scene.end(1, 1).await;
}

/// spec/pipeline.md 4.1, gates 4 and 5: generic types have the final success, and everything else.
#[tokio::test]
async fn pipeline_4_1_a_forwarder_is_told_what_a_status_is_not() {
    let forge = forge().await;
    let manifests = [hook(&forge), alert("hook", "hook"), git("github", &forge), token(), alert("git", "git")];
    let scene = Scene::with(forge, manifests, &[]).await;
    let success = kustomization_event("web", &sha(1));
    scene.tell([success.clone(), success.progressing()]).await;
    let hooked = scene.forge.requests().into_iter().filter(|request| request.uri == "/hook").count();
    assert_eq!((hooked, scene.forge.statuses(&sha(1)).len()), (2, 1));
    scene.end(1, 3).await;
}

// === pipeline 4.3 ===

/// spec/pipeline.md 4.3, the first table: an event's state at each of the six types.
#[tokio::test]
async fn pipeline_4_3_states_at_each_vendor() {
    let forge = forge().await;
    let at_each = statuses().flat_map(|row| {
        let (provider, alert) = at(row, row.name, forge.url());
        [provider, alert]
    });
    let manifests: Vec<_> = at_each.chain([token()]).collect();
    let scene = Scene::with(forge, manifests, &[]).await;
    let order = ["github", "gitlab", "gitea", "bitbucket", "bitbucketserver", "azuredevops"];
    let success = ["success", "success", "success", "SUCCESSFUL", "SUCCESSFUL", "succeeded"];
    let failure = ["failure", "failed", "failure", "FAILED", "FAILED", "error"];
    let silence = [""; 6];
    let only_gitea = ["", "", "pending", "", "", ""];
    let (mut reads, mut writes) = (0, 0);
    for (number, (severity, reason, expected)) in (1..).zip([
        ("info", "Progressing", only_gitea),
        // The peer says nothing of this failure, and at Gitea that it is pending (part 10, 23).
        ("error", "Progressing", failure),
        ("trace", "Progressing", only_gitea),
        ("info", "ReconciliationSucceeded", success),
        ("info", "NewArtifact", success),
        ("error", "HealthCheckFailed", failure),
        ("error", "DependencyNotReady", failure),
        // The peer says success (part 10, 13).
        ("info", "DependencyNotReady", silence),
        ("info", "HealthCheckCanceled", silence),
        ("info", "UpgradeFailed", silence),
        // The peer makes an error of it.
        ("trace", "ReconciliationSucceeded", silence),
        ("warning", "ReconciliationSucceeded", silence),
        ("", "", silence),
    ]) {
        let commit = sha(number);
        let event = kustomization_event("web", &commit).annotated("commit", &commit).severity(severity).reason(reason);
        scene.tell([event]).await;
        let told = told(&scene.forge, &commit);
        let states = order.map(|kind| told.get(kind).map_or("", |(state, _)| state));
        assert_eq!(states, expected, "{severity} {reason}");
        let count = expected.iter().filter(|state| !state.is_empty()).count();
        (reads, writes) = (reads + count, writes + count);
    }
    scene.end(reads, writes).await;
}

/// spec/pipeline.md 4.3, the worked examples: with and without the annotation that names a commit.
#[tokio::test]
async fn pipeline_4_3_worked_examples() {
    let forge = forge().await;
    let kinds = ["Kustomization", "HelmRelease", "GitRepository"];
    let sources = json!(kinds.map(|kind| json!({"kind": kind, "name": "*"})));
    let manifests = [git("github", &forge), token(), alert("all", "git").sources(sources)];
    let scene = Scene::with(forge, manifests, &[]).await;

    let of = |number: u64| kustomization_event("web", &sha(number)).without_metadata(MARK);
    let no_revision = |number| of(number).without_metadata(REVISION);
    let helm = |number, version: &str| {
        let event = no_revision(number).kind("HelmRelease", "helm.toolkit.fluxcd.io/v2");
        event.metadata("helm.toolkit.fluxcd.io/revision", version)
    };
    let source = |number| no_revision(number).kind("GitRepository", "source.toolkit.fluxcd.io/v1");
    let revision = |number| format!("main@sha1:{}", sha(number));
    type Make<'a> = &'a dyn Fn(u64) -> FluxEvent;
    type Said = Option<(&'static str, &'static str)>;
    let rows: [(&str, Make, Said, Said); 11] = [
        ("apply", &|n| of(n).progressing(), None, None),
        (
            "reconciliation finished",
            &|n| of(n).metadata(MARK, "update"),
            Some(("success", "reconciliation succeeded")),
            Some(("success", "reconciliation succeeded")),
        ),
        (
            "build failed",
            &|n| of(n).failed("BuildFailed"),
            Some(("failure", "build failed")),
            Some(("failure", "build failed")),
        ),
        (
            "health check failed",
            &|n| of(n).failed("HealthCheckFailed"),
            Some(("failure", "health check failed")),
            Some(("failure", "health check failed")),
        ),
        // The peer says success where there is an annotation (part 10, 13).
        ("dependency not ready", &|n| of(n).reason("DependencyNotReady"), None, None),
        ("health check cancelled", &|n| of(n).reason("HealthCheckCanceled"), None, None),
        // The peer warns each time where there is no commit (part 10, 22).
        ("access denied", &|n| no_revision(n).failed("AccessDenied"), None, Some(("failure", "access denied"))),
        (
            "git operation failed",
            &|n| source(n).failed("GitOperationFailed"),
            None,
            Some(("failure", "git operation failed")),
        ),
        (
            "upgrade succeeded",
            &|n| helm(n, "6.5.0").reason("UpgradeSucceeded"),
            None,
            Some(("success", "upgrade succeeded")),
        ),
        ("upgrade failed", &|n| helm(n, "6.5.0").failed("UpgradeFailed"), None, Some(("failure", "upgrade failed"))),
        (
            "new artifact",
            &|n| source(n).metadata("source.toolkit.fluxcd.io/revision", &revision(n)).reason("NewArtifact"),
            None,
            Some(("success", "new artifact")),
        ),
    ];
    let mut commits = 0;
    for (number, (what, event, plain, annotated)) in (0..).zip(rows) {
        for (commit, annotate, expected) in [(2 * number, false, plain), (2 * number + 1, true, annotated)] {
            let event = event(commit);
            let hash = sha(commit);
            scene.tell([if annotate { event.annotated("commit", &hash) } else { event }]).await;
            let told = told(&scene.forge, &hash);
            let told = told.get("github").map(|(state, words)| (state.as_str(), words.as_str()));
            assert_eq!(told, expected, "{what}, annotated: {annotate}");
            commits += usize::from(expected.is_some());
        }
    }
    assert_eq!(scene.ended(Outcome::Refused), 0, "nothing of this is anybody's fault");
    scene.end(commits, commits).await;
}

// === pipeline 4.4 ===

/// What becomes of an expression.
enum Named {
    /// The status is called so.
    So(&'static str),
    /// The Provider's condition says this.
    Refused(&'static str),
    /// The log says this of the event.
    Fails(&'static str),
}

/// spec/pipeline.md 4.4: the table of aspects, then the table of expressions.
#[tokio::test]
async fn pipeline_4_4_names_by_expression() {
    use Named::{Fails, Refused, So};
    let rows = [
        // Variables: maps made from the JSON form; the event as it is sent on, prefixes stripped, Alert's metadata
        // added; empty optional fields absent.
        (
            "event.metadata.revision + ' ' + event.metadata.env",
            So("main@sha1:0000000000000000000000000000000000000001 prod"),
        ),
        ("has(event.involvedObject.fieldPath) ? 'y' : 'n'", So("n")),
        (
            "provider.kind + ' ' + provider.metadata.name + ' ' + alert.kind + ' ' + alert.metadata.name",
            So("Provider named Alert alert"),
        ),
        // Environment.
        ("'a,b'.split(',').join('-') + 'x'.upperAscii() + 'abc'.substring(1) + '%d'.format([7])", So("a-bXbc7")),
        ("sets.contains(['a', 'b'], ['a']) ? base64.encode(b'hi') : ''", So("aGk=")),
        ("1 < 1.5 && dyn(1) == 1.0 ? 'numbers' : 'types'", So("numbers")),
        ("string(timestamp('2026-01-01T23:00:00Z').getHours())", So("23")),
        ("string([1, 'a'].size())", Refused("expected type 'int' but found 'string'")),
        ("string(math.greatest(1, 2))", Refused("undeclared reference")),
        ("regex.replace('a', 'a', 'b')", Refused("undeclared reference")),
        ("string([1, 2].flatten().size())", Refused("undeclared reference")),
        // Result.
        ("' Not Lowered, not trimmed '", So(" Not Lowered, not trimmed ")),
        ("''", Fails("it gives an empty name")),
        // The peer has no limit of cost.
        (
            "[1,2,3,4,5,6,7,8,9,0].map(a, [1,2,3,4,5,6,7,8,9,0].map(b, [1,2,3,4,5,6,7,8,9,0].map(c, \
             [1,2,3,4,5,6,7,8,9,0].map(d, [1,2,3,4,5,6,7,8,9,0].map(e, string(a+b+c+d+e)))))).size() > 0 ? 'a' : 'b'",
            Fails("steps"),
        ),
        // Expressions.
        ("event.metadata.foo", Refused("expected string, got dyn")),
        ("event.metadata.foo + event.metadata.foo", Refused("expected string, got dyn")),
        ("event.metadata.foo + ''", So("bar")),
        ("string(event.metadata.foo)", So("bar")),
        (
            "(event.involvedObject.kind + '/' + event.metadata.foo + '/' + \
             provider.metadata.uid.split('-').first().value()).lowerAscii()",
            So("kustomization/bar/0c9c2e41"),
        ),
        ("event.metadata['a.b/c'] + ''", So("dotted")),
        ("event.metadata.?x.orValue('def') + ''", So("def")),
        ("has(event.metadata.x) ? 'y' : 'n'", So("n")),
        ("event.metadata.missing + ''", Fails("no such key: missing")),
        ("string(provider.metadata.generation)", So("3")),
        ("event.involvedObject.kind == 'x'", Refused("expected string, got bool")),
        ("unknown + ''", Refused("undeclared reference to 'unknown'")),
    ];
    for (expression, named) in rows {
        let logs = Logs::collect();
        let forge = forge().await;
        let provider = provider("github", "named", &format!("{}/acme/fleet", forge.url()))
            .secret("token")
            .uid("0c9c2e41-d2f9-4f9b-9c41-bebc1984d67a")
            .generation(3)
            .spec("commitStatusExpr", expression);
        let alert = alert("alert", "named").spec("eventMetadata", json!({"env": "prod"}));
        let scene = Scene::with(forge, [provider, token(), alert], &[]).await;
        let event = kustomization_event("web", &sha(1)).annotated("foo", "bar").annotated("a.b/c", "dotted");
        scene.tell([event]).await;
        let told = scene.forge.statuses(&sha(1)).pop().map(|status| status.context);
        let writes = usize::from(told.is_some());
        match named {
            So(name) => assert_eq!(told.as_deref(), Some(name), "{expression}"),
            Refused(why) => {
                assert_eq!(told, None, "{expression}");
                logs.until(&["ERROR", "InvalidExpression", why, "name=named"]).await;
            }
            Fails(why) => {
                assert_eq!(told, None, "{expression}");
                logs.until(&["ERROR", "no commit status for the event", why, "name=alert"]).await;
            }
        }
        scene.end(writes, writes).await;
    }
}

/// spec/pipeline.md 4.4: "Bitbucket types hash it", the default and the result of an expression alike.
#[tokio::test]
async fn pipeline_4_4_bitbucket_hashes_the_name() {
    // SHA-1 of `kustomization/podinfo/0c9c2e41` and of `Kustomization/Web`.
    for (expression, key) in [
        (None, "dfbdde19098ffc25b398f33cc01d36690866ac7b"),
        (Some("'Kustomization/Web'"), "0831d66f9866d70a30841988fd125bf8b1964cca"),
    ] {
        for kind in ["bitbucket", "bitbucketserver"] {
            let forge = forge().await;
            let git = git(kind, &forge).uid("0c9c2e41-d2f9-4f9b-9c41-bebc1984d67a");
            let git = expression.iter().fold(git, |git, expression| git.spec("commitStatusExpr", *expression));
            let scene = Scene::with(forge, [git, token(), alert("all", "git")], &[]).await;
            scene.tell([kustomization_event("podinfo", &sha(1))]).await;
            assert_eq!(scene.forge.statuses(&sha(1))[0].context, key, "{kind} {expression:?}");
            scene.end(1, 1).await;
        }
    }
}

// === pipeline 7.3 ===

/// The credential that the last write to a host of this type showed.
fn credential(forge: &Forge, kind: &str) -> Option<String> {
    let path = match kind {
        "github" => "/api/v3/",
        "gitlab" => "/api/v4/",
        "gitea" => "/api/v1/",
        "bitbucket" => "/2.0/",
        "bitbucketserver" => "/rest/",
        "azuredevops" => "/_apis/",
        _ => "/hook",
    };
    let sent = forge.requests().into_iter().rfind(|request| request.method == "POST" && request.uri.contains(path))?;
    let header = if kind == "gitlab" { "private-token" } else { "authorization" };
    Some(sent.header(header).to_owned())
}

/// spec/pipeline.md 7.3: the peer's parser of Secrets decides all or nothing. Here each method stands
/// by itself, and what is wrong is said by key (part 10, 24 and 25).
#[tokio::test]
async fn pipeline_7_3_each_credential_stands_by_itself() {
    let plain = || secret("token", "token", TOKEN);
    let user_password = format!("Basic {}", base64("user:app-pass"));
    let app = |secret: Manifest| secret.key("githubAppID", "1").key("githubAppPrivateKey", "k");
    let both =
        |secret: Manifest| app(secret).key("githubAppInstallationID", "2").key("githubAppInstallationOwner", "o");
    let all = ["github", "gitlab", "gitea", "bitbucket", "bitbucketserver", "azuredevops"];
    let bad_ca = all.map(|kind| (kind, "key ca.crt"));
    let no_credential = all.map(|kind| (kind, "InvalidCredentials"));
    // The Secret, whether its token is what is shown, who is refused and why.
    type Refusals<'a> = &'a [(&'a str, &'a str)];
    let rows: [(&str, Manifest, bool, Refusals); 10] = [
        ("token", plain(), true, &[]),
        ("token and username", plain().key("username", "user"), true, &[]),
        ("token and password", plain().key("password", "app-pass"), true, &[]),
        (
            "password, with spec.username",
            secret("token", "password", "app-pass"),
            false,
            // Its token is the password of no user.
            &[("azuredevops", "InvalidCredentials")],
        ),
        ("token and a bad CA", plain().key("ca.crt", "no certificate"), true, &bad_ca),
        ("token and half an identity", plain().key("tls.crt", "half"), true, &[]),
        ("an App with two installations", both(secret("token", "x", "y")), true, &no_credential),
        ("an App with none", app(secret("token", "x", "y")), true, &no_credential),
        ("token, and an App with two", both(plain()), true, &[]),
        ("a token with a line feed", secret("token", "token", &format!("{TOKEN}\n")), true, &[]),
    ];
    for (what, secret, by_token, refused) in rows {
        let logs = Logs::collect();
        let forge = forge().await;
        let at_each = TABLE.iter().flat_map(|row| {
            let (provider, alert) = at(row, row.name, forge.url());
            [provider.spec("username", "user"), alert]
        });
        let manifests: Vec<_> = at_each.chain([secret]).collect();
        let scene = Scene::with(forge, manifests, &[]).await;
        scene.post(&kustomization_event("web", &sha(1))).await;
        scene.quiet().await;
        assert_eq!(scene.herald.app.outbox.counts().held, refused.len(), "{what}");
        for row in &TABLE {
            let sent = credential(&scene.forge, row.name);
            if let Some((_, why)) = refused.iter().find(|(kind, _)| *kind == row.name) {
                assert_eq!(sent, None, "{what}, {}", row.name);
                logs.until(&["ERROR", why, &format!("name={} ", row.name)]).await;
                continue;
            }
            let expected = match (row.name, by_token) {
                ("generic", _) => String::new(),
                ("bitbucket" | "bitbucketserver", false) => user_password.clone(),
                ("gitlab", true) => TOKEN.to_owned(),
                ("gitlab", false) => "app-pass".to_owned(),
                ("gitea", true) => format!("token {TOKEN}"),
                ("gitea", false) => "token app-pass".to_owned(),
                ("azuredevops", _) => format!("Basic {}", base64(&format!(":{TOKEN}"))),
                (_, true) => format!("Bearer {TOKEN}"),
                (_, false) => "Bearer app-pass".to_owned(),
            };
            assert_eq!(sent.as_deref(), Some(expected.as_str()), "{what}, {}", row.name);
        }
        // Mended, all are told.
        scene.folder.write(&token());
        scene.end(6, 7).await;
    }
}
