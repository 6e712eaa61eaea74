//! `herald outbox` as an operator types it, beside a controller that runs and after it has ended.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::logs::Logs;
use crate::scene::{Scene, TOKEN, forge, git, hook, token};
use crate::support::app::DEADLINE;
use crate::support::flux::{alert, kustomization_event, sha};
use crate::support::forge::{Fault, Forge};
use crate::support::wait;

/// What `herald outbox …` printed, on standard output when it worked and else on standard error.
async fn outbox(path: &Path, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_herald"));
    command.arg("outbox").args(args).arg("--outbox-path").arg(path);
    let output =
        tokio::task::spawn_blocking(move || command.output().expect("the binary starts")).await.expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// The number of the only job, and its line.
async fn only(path: &Path) -> (String, String) {
    let listed = outbox(path, &["ls"]).await.expect("it works");
    let mut lines = listed.lines();
    assert!(lines.next().is_some_and(|head| head.starts_with("ID ") && head.contains("LAST ERROR")), "{listed}");
    let (line, None) = (lines.next().expect("a job"), lines.next()) else { panic!("more than one: {listed}") };
    (line.split_whitespace().next().expect("a number").to_owned(), line.to_owned())
}

/// The same, once its failure is on disk.
async fn refused(path: &Path) -> (String, String) {
    wait::until_ok(DEADLINE, "the failure to be on disk", || async {
        let listed = outbox(path, &["ls"]).await?;
        if listed.contains("403") { Ok(()) } else { Err(listed) }
    })
    .await;
    only(path).await
}

#[tokio::test]
async fn what_waits_can_be_seen_tried_and_dropped() {
    let logs = Logs::collect();
    let (forge, dir) = (forge().await, tempfile::tempdir().expect("a folder"));
    let path = dir.path().join("outbox.db");
    let flag = format!("--outbox-path={}", path.display());
    let manifests = [git("github", &forge), token(), alert("status", "git")];
    let scene = Scene::with(forge, manifests, &[&flag]).await;
    assert!(outbox(&path, &["ls"]).await.expect("it works").contains("nothing waits"));

    // Nothing that Herald does by itself ends this wait.
    scene.forge.fail(Fault::answer(403).body(r#"{"message": "no"}"#).every(1));
    scene.post(&kustomization_event("web", &sha(1)).failed("BuildFailed")).await;
    let (job, line) = refused(&path).await;
    for part in ["flux-system/git", "Kustomization/flux-system/web", "failure on", " in 9m"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let shown = outbox(&path, &["show", &job]).await.expect("it works");
    for part in [&sha(1), "build failed", "Tries       1", "answered 403"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains(TOKEN) && !line.contains(TOKEN));
    let error = outbox(&path, &["show", "4711"]).await.expect_err("there is none");
    assert!(error.contains("no job 4711") && error.contains("herald outbox ls"), "{error}");

    // Dropped while the controller runs: the controller does it, and says so. What is wrong is still that it is
    // refused, and not that somebody dropped it.
    assert!(outbox(&path, &["drop", &job]).await.expect("it works").contains("given up"));
    logs.until(&["notification given up", "an operator dropped it", "outcome=\"failed\""]).await;
    scene.herald.idle().await;
    assert!(outbox(&path, &["ls"]).await.expect("it works").contains("nothing waits"));

    scene.post(&kustomization_event("api", &sha(2))).await;
    let (job, _) = refused(&path).await;

    // After it has ended.
    scene.herald.stop().await;
    assert_eq!(logs.count(&["reason=Dropped"]) + logs.count(&["reason=\"Dropped\""]), 0, "{}", logs.text());
    assert!(logs.count(&["delivery failed", "Forbidden", "name=git"]) > 0);
    assert!(outbox(&path, &["retry", &job]).await.expect("it works").contains("no controller runs"));
    let (_, line) = only(&path).await;
    assert!(line.contains(" its turn "), "{line}");
    assert!(outbox(&path, &["drop", &job]).await.expect("it works").contains("given up"));
    assert!(outbox(&path, &["ls"]).await.expect("it works").contains("nothing waits"));
}

#[tokio::test]
async fn what_was_mended_at_the_vendor_is_tried_when_an_operator_says_so() {
    for fault in [Fault::answer(401), Fault::answer(403).writes(), Fault::answer(404)] {
        let (scene, path, _dir) = scene(fault.every(1)).await;
        for number in 0..20 {
            scene.post(&kustomization_event("web", &sha(number))).await;
        }
        let job = put_off(&path, 20).await.pop().expect("a job");
        // Not mended yet.
        let (told, retry) = (scene.forge.requests().len(), ["retry", &job]);
        assert!(outbox(&path, &retry).await.expect("it works").contains("tried now"));
        let tried = |forge: &Forge| forge.requests().len() > told && scene.herald.app.outbox.counts().claimed == 0;
        assert!(scene.forge.until(DEADLINE, tried).await, "it goes out");
        put_off(&path, 20).await;

        scene.forge.recover();
        assert!(outbox(&path, &retry).await.expect("it works").contains("tried now"));
        // It, and with it all the others.
        scene.herald.idle().await;
        assert!((0..20).all(|number| scene.forge.statuses(&sha(number)).len() == 1));
    }
}

#[tokio::test]
async fn what_a_vendor_asked_to_wait_for_is_waited_for_and_said() {
    let (scene, path, _dir) = scene(Fault::answer(429).header("retry-after", "600").every(1)).await;
    scene.post(&kustomization_event("web", &sha(1))).await;
    let job = put_off(&path, 1).await.pop().expect("a job");
    let told = scene.forge.requests().len();
    let said = outbox(&path, &["retry", &job]).await.expect("it works");
    assert!(said.contains(&format!("job {job} waits: the vendor asked to wait until 20")), "{said}");
    scene.herald.stop().await;
    let said = outbox(&path, &["retry", &job]).await.expect("it works");
    assert!(said.contains("the vendor asked to wait"), "{said}");
    assert_eq!(scene.forge.requests().len(), told);
}

/// A Herald on a file, whose vendor fails so.
async fn scene(fault: Fault) -> (Scene, PathBuf, TempDir) {
    let (forge, dir) = (forge().await, tempfile::tempdir().expect("a folder"));
    forge.fail(fault);
    let path = dir.path().join("outbox.db");
    let flag = format!("--outbox-path={}", path.display());
    let manifests = [git("github", &forge), token(), alert("status", "git")];
    (Scene::with(forge, manifests, &[&flag]).await, path, dir)
}

/// The numbers of so many jobs, once the file says of all that they wait for a later time.
async fn put_off(path: &Path, count: usize) -> Vec<String> {
    wait::until_ok(DEADLINE, "all to be put off", || async {
        let listed = outbox(path, &["ls"]).await?;
        let waits = |line: &&str| line.contains(" answered 4") && !line.contains(" its turn ");
        let jobs =
            listed.lines().filter(waits).map(|line| line.split_whitespace().next().unwrap_or_default().to_owned());
        let jobs: Vec<_> = jobs.collect();
        if jobs.len() == count { Ok(jobs) } else { Err(listed) }
    })
    .await
}

/// What others wrote must not write on the operator's terminal.
#[tokio::test]
async fn what_others_say_is_printed_and_not_obeyed() {
    let page = "[html]\r\n<h1>403</h1>\u{1b}[2J\u{1b}]0;gone\u{7}\u{202e}\n</html>".to_owned() + &" more".repeat(60);
    let (scene, path, _dir) = scene(Fault::answer(403).body(&page).every(1)).await;
    scene.post(&kustomization_event("web", &sha(1)).failed("BuildFailed")).await;
    let (job, line) = refused(&path).await;
    let harmless = r"answered 403 Forbidden: [html] <h1>403</h1>\u{1b}[2J\u{1b}]0;gone\u{7}\u{202e} </html> more";
    assert!(line.contains(harmless) && line.ends_with('…'), "{line}");
    let shown = outbox(&path, &["show", &job]).await.expect("it works");
    assert!(shown.contains(harmless) && shown.contains(&" more".repeat(60)), "{shown}");
    assert!(!shown.contains(|char: char| char.is_control() && char != '\n'), "{shown}");
}

/// Messages about one object are told in order: what waits behind another is not tried before it.
#[tokio::test]
async fn a_message_behind_another_names_the_one_to_try() {
    let (forge, dir) = (forge().await, tempfile::tempdir().expect("a folder"));
    forge.fail(Fault::answer(403).every(1));
    let path = dir.path().join("outbox.db");
    let flag = format!("--outbox-path={}", path.display());
    let manifests = [hook(&forge), alert("message", "hook")];
    let scene = Scene::with(forge, manifests, &[&flag]).await;
    for number in [1, 2] {
        scene.post(&kustomization_event("web", &sha(number))).await;
    }
    let first = put_off(&path, 1).await.pop().expect("a job");
    let listed = outbox(&path, &["ls"]).await.expect("it works");
    let second = listed.lines().last().and_then(|line| line.split_whitespace().next()).expect("a job").to_owned();
    assert_ne!(first, second);
    let refused = outbox(&path, &["retry", &second]).await.expect_err("it is not its turn");
    assert!(refused.contains(&format!("after job {first}")) && refused.contains("outbox retry"), "{refused}");

    scene.forge.recover();
    assert!(outbox(&path, &["retry", &first]).await.expect("it works").contains("tried now"));
    scene.herald.idle().await;
}

#[tokio::test]
async fn what_is_no_outbox_is_said_to_be_none() {
    let dir = tempfile::tempdir().expect("a folder");
    let missing = outbox(&dir.path().join("none.db"), &["ls"]).await.expect_err("there is none");
    assert!(missing.contains("there is no outbox at") && missing.contains("kubectl"), "{missing}");
    let other = dir.path().join("other.db");
    std::fs::write(&other, "text").expect("it is written");
    let other = outbox(&other, &["ls"]).await.expect_err("it is none");
    assert!(other.contains("cannot read") || other.contains("is not an outbox"), "{other}");
}
