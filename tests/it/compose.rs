//! What an event becomes on a commit: which commit, which state, which name, which words.

use serde_json::json;

use crate::scene::{Scene, forge, git, token};
use crate::support::flux::{FluxEvent, alert, kustomization_event, sha};
use crate::support::forge::Host;

const REVISION: &str = "kustomize.toolkit.fluxcd.io/revision";
const ORIGIN: &str = "kustomize.toolkit.fluxcd.io/originRevision";
const DIGEST: &str = "5394cb7f48332b2de7c17dd8b8384bbc84b7e7385394cb7f48332b2de7c17dd8";

/// spec/pipeline.md 4.2; every form there is stands in `src/compose/revision.rs`.
#[tokio::test]
async fn the_commit_is_found_in_every_form_of_revision() {
    let scene = Scene::of("gitea").await;
    let of = |commit: &str| kustomization_event("web", commit);
    let hash = sha(0xabc);
    let cases: Vec<(FluxEvent, Option<&str>)> = vec![
        (of(&hash).metadata(REVISION, &format!("main@sha1:{hash}")), Some(&hash)),
        (of(&hash).metadata(REVISION, &format!("refs/heads/main@sha1:{hash}")), Some(&hash)),
        (of(&hash).metadata(REVISION, &format!("sha1:{hash}")), Some(&hash)),
        (of(&hash).metadata(REVISION, &format!("feature/x/{hash}")), Some(&hash)),
        (of(&hash).metadata(REVISION, &hash), Some(&hash)),
        // An OCI artifact: the digest is no commit, its origin is.
        (of(&hash).metadata(REVISION, &format!("latest@sha256:{DIGEST}")), None),
        (
            of(&hash)
                .metadata(REVISION, &format!("latest@sha256:{DIGEST}"))
                .metadata(ORIGIN, &format!("main@sha1:{hash}")),
            Some(&hash),
        ),
        // A repository of SHA-256: only where no digest can stand.
        (of(&hash).metadata(ORIGIN, &format!("main@sha256:{DIGEST}")), Some(DIGEST)),
        (of(&hash).annotated("commit", DIGEST), Some(DIGEST)),
        (of(&hash).metadata(REVISION, "main@sha1:5394cb7"), None),
        (of(&hash).metadata(REVISION, &format!("main@sha1:{}", "z".repeat(40))), None),
        (of(&hash).metadata(REVISION, &format!("main@sha1:{hash}\n")), None),
    ];
    let mut written = 0;
    for (number, (event, commit)) in cases.iter().enumerate() {
        // A name of its own, so that each case that has a commit is a write.
        let mut event = event.clone();
        event = event.named(&format!("case-{number}"));
        scene.tell([&event]).await;
        written += usize::from(commit.is_some());
        assert_eq!(scene.forge.writes(), written, "case {number}");
        if let Some(commit) = commit {
            let statuses = scene.forge.statuses(commit);
            assert!(statuses.iter().any(|status| status.context.contains(&format!("/case-{number}/"))), "{number}");
        }
    }
    scene.end(2, written).await;
}

#[tokio::test]
async fn states_and_words_per_vendor() {
    let forge = forge().await;
    let at = |kind: &str| {
        let provider = git(kind, &forge);
        let mut address = provider["spec"]["address"].as_str().expect("it has one").to_owned();
        address.push_str(kind);
        let renamed = crate::support::flux::provider(kind, kind, &address).secret("token");
        [renamed, alert(kind, kind)]
    };
    let pending = [
        crate::support::flux::provider("github", "eager", &format!("{}/acme/eager", forge.url()))
            .secret("token")
            .annotation("herald.sh/pending", "true"),
        alert("eager", "eager"),
    ];
    let manifests: Vec<_> = [at("github"), at("gitea"), pending].into_iter().flatten().chain([token()]).collect();
    let scene = Scene::with(forge, manifests, &[]).await;

    let mut number = 0;
    for (event, words, [github, gitea, eager]) in [
        (("info", "ReconciliationSucceeded"), "reconciliation succeeded", ["success"; 3]),
        (("error", "HealthCheckFailed"), "health check failed", ["failure"; 3]),
        (("error", "Progressing"), "progressing", ["failure"; 3]),
        (("info", "Progressing"), "progressing", ["", "pending", "pending"]),
        (("info", "DependencyNotReady"), "", [""; 3]),
        (("info", "HealthCheckCanceled"), "", [""; 3]),
        (("info", "UpgradeFailed"), "", [""; 3]),
        (("error", "OCIArtifactPullFailed"), "oci artifact pull failed", ["failure"; 3]),
    ] {
        number += 1;
        let commit = sha(number);
        // The commit by annotation opens the gate for every reason.
        let told = kustomization_event("web", &commit).annotated("commit", &commit);
        scene.tell([told.severity(event.0).reason(event.1)]).await;
        let statuses = scene.forge.statuses(&commit);
        for (repository, expected) in [("acme/fleetgithub", github), ("acme/fleetgitea", gitea), ("acme/eager", eager)]
        {
            let status = statuses.iter().find(|status| status.repository == repository);
            let state = status.map_or("", |status| status.state.as_str());
            assert_eq!(state, expected, "{event:?} at {repository}");
            if let Some(status) = status {
                assert_eq!(status.description.as_deref(), Some(words), "{event:?} at {repository}");
                let target = (status.host == Host::Gitea).then_some("");
                assert_eq!(status.target_url.as_deref(), target, "GitHub gets none, Gitea an empty one");
            }
        }
    }
    let writes = scene.forge.writes();
    assert_eq!(writes, 4 * 3 + 2);
    scene.end(writes, writes).await;
}

#[tokio::test]
async fn a_status_is_named_after_its_object_and_provider() {
    let forge = forge().await;
    let git = git("github", &forge).uid("0C9C2E41-d2f9-4f9b-9c41-bebc1984d67a");
    let every_kind = json!([
        {"kind": "Kustomization", "name": "*"},
        {"kind": "HelmRelease", "name": "*"},
        {"kind": "GitRepository", "name": "*", "namespace": "sources"},
    ]);
    let manifests = [git, token(), alert("all", "git").sources(every_kind)];
    let scene = Scene::with(forge, manifests, &[]).await;
    let event = || kustomization_event("GitOps", &sha(1));
    let helm = "helm.toolkit.fluxcd.io/revision";
    scene
        .tell([
            event(),
            event()
                .kind("HelmRelease", "helm.toolkit.fluxcd.io/v2")
                .metadata(helm, "6.5.0")
                .annotated("commit", &sha(1)),
            event()
                .kind("GitRepository", "source.toolkit.fluxcd.io/v1")
                .namespace("sources")
                .metadata("source.toolkit.fluxcd.io/revision", &format!("main@sha1:{}", sha(1)))
                .failed("GitOperationFailed"),
        ])
        .await;
    let told = scene.forge.statuses(&sha(1)).into_iter().map(|status| (status.context, status.state));
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            ("kustomization/gitops/0c9c2e41".to_owned(), "success".to_owned()),
            ("helmrelease/gitops/0c9c2e41".to_owned(), "success".to_owned()),
            ("gitrepository/gitops/0c9c2e41".to_owned(), "failure".to_owned()),
        ]
    );
    scene.end(1, 3).await;
}

#[tokio::test]
async fn a_description_fits_github() {
    let scene = Scene::of("github").await;
    let reason = "Failed".repeat(40);
    scene.tell([kustomization_event("web", &sha(1)).failed(&reason)]).await;
    let status = scene.forge.statuses(&sha(1)).remove(0);
    let words = status.description.expect("it has one");
    assert_eq!(words.chars().count(), 140);
    assert!(words.starts_with("failed failed failed") && words.ends_with('…'), "{words}");

    // Cut alike each time, so that the same again costs nothing.
    scene.tell([kustomization_event("web", &sha(1)).failed(&reason)]).await;
    scene.end(1, 1).await;
}
