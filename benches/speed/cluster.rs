//! Memory and start of the real program on a real kube-apiserver, with few and with many Alerts. Not part of
//! the whole table: it builds the test servers when they are not there. Called by `main` for the part `cluster`.

use std::path::Path;
use std::time::{Duration, Instant};

use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};

use super::programs::Program;
use super::support::apiserver::{ApiServer, Objects};
use super::table::Table;
use super::{MANY_ALERTS, Options, SETTLE};

/// The namespace of all objects of this part.
const NAMESPACE: &str = "alerts";

/// Requests to the API server under way at once while objects are made or deleted.
const AT_ONCE: usize = 16;

/// What the exclusions of the Alerts look like.
#[derive(Clone, Copy)]
enum Exclusions {
    /// `.*no change.*` in each.
    Shared,
    /// The same with a number, another in each.
    Own,
}

/// Adds the rows: memory at rest and time from start to ready, of each program in turn.
pub async fn measure(options: &Options, table: &mut Table) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    eprintln!("starting a kube-apiserver");
    let api = ApiServer::start().await;
    for kind in ["alerts", "providers"] {
        let file = format!("{}/crds/notification.toolkit.fluxcd.io_{kind}.yaml", env!("CARGO_MANIFEST_DIR"));
        api.apply_crds(Path::new(&file));
    }
    api.kubectl_ok(&["create", "namespace", NAMESPACE]);
    let version = "notification.toolkit.fluxcd.io/v1beta3";
    let alerts = api.objects(NAMESPACE, version, "Alert").await;
    let providers = api.objects(NAMESPACE, version, "Provider").await;
    providers.create(&PostParams::default(), &serde_json::from_value(provider())?).await?;

    let mut programs = vec![("this build", None)];
    programs.extend(options.beside.as_deref().map(|other| ("the other build", Some(other))));
    let mut idle = Vec::new();
    for (name, build) in &programs {
        let (seconds, resident) = one(&api, *build, scratch.path()).await?;
        idle.push(resident);
        table.told(format!("no Alerts: {name}"), format!("{resident:.1} MiB, ready after {seconds:.2} s"));
    }
    for (exclusions, what, most, soonest) in
        [(Exclusions::Shared, "of one text", 40.0, 1.0), (Exclusions::Own, "of a text each", 64.0, 2.0)]
    {
        eprintln!("making {MANY_ALERTS} Alerts with exclusions {what}");
        fill(&alerts, exclusions).await?;
        for (number, (name, build)) in programs.iter().enumerate() {
            let (seconds, resident) = one(&api, *build, scratch.path()).await?;
            let grown = resident - idle[number];
            let row = format!("{MANY_ALERTS} Alerts with exclusions {what}: {name}");
            if build.is_none() {
                table.judged(&row, format!("{grown:.1} MiB over none"), grown, most, format!("{most} MiB"));
                table.judged("  start to ready", format!("{seconds:.2} s"), seconds, soonest, format!("{soonest} s"));
            } else {
                table.told(row, format!("{grown:.1} MiB over none, ready after {seconds:.2} s"));
            }
        }
        alerts.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
        while !alerts.list(&ListParams::default().limit(1)).await?.items.is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

/// Seconds from start to ready, and MiB at rest, of one program.
async fn one(api: &ApiServer, build: Option<&Path>, scratch: &Path) -> anyhow::Result<(f64, f64)> {
    let began = Instant::now();
    let program = Program::herald_in(api.kubeconfig(), build, scratch).await?;
    program.until_ready().await?;
    let seconds = began.elapsed().as_secs_f64();
    tokio::time::sleep(SETTLE).await;
    Ok((seconds, program.resident()?))
}

/// Makes the Alerts, several at once.
async fn fill(alerts: &Objects, exclusions: Exclusions) -> anyhow::Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for lane in 0..AT_ONCE {
        let alerts = alerts.clone();
        tasks.spawn(async move {
            for number in (lane..MANY_ALERTS).step_by(AT_ONCE) {
                let object = serde_json::from_value(alert(number, exclusions))?;
                alerts.create(&PostParams::default(), &object).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

fn provider() -> Value {
    json!({
        "apiVersion": "notification.toolkit.fluxcd.io/v1beta3", "kind": "Provider",
        "metadata": {"name": "hook", "namespace": NAMESPACE},
        "spec": {"type": "generic", "address": "http://hook.example.com/"},
    })
}

fn alert(number: usize, exclusions: Exclusions) -> Value {
    let exclusion = match exclusions {
        Exclusions::Shared => ".*no change.*".to_owned(),
        Exclusions::Own => format!(".*no change {number}.*"),
    };
    json!({
        "apiVersion": "notification.toolkit.fluxcd.io/v1beta3", "kind": "Alert",
        "metadata": {"name": format!("alert-{number}"), "namespace": NAMESPACE},
        "spec": {
            "providerRef": {"name": "hook"},
            "eventSources": [
                {"kind": "Kustomization", "name": format!("app-{number}")},
                {"kind": "HelmRelease", "name": format!("app-{number}")},
            ],
            "exclusionList": [exclusion],
        },
    })
}
