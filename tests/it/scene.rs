//! A simulated Git host, a folder of manifests, and a Herald that reads them: where nearly every
//! test here begins and ends.

use std::borrow::Borrow;
use std::sync::Arc;
use std::time::Duration;

use herald::clock::{Clock, SystemClock};
use herald::ops::metrics::Outcome;
use herald::view::View;
use serde_json::Value;

use crate::support::app::{DEADLINE, Herald};
use crate::support::flux::{FluxEvent, Folder, Manifest, NAMESPACE, alert, provider, secret};
use crate::support::forge::Forge;
use crate::support::wait;

/// The credential of every scene. No test expects to see it anywhere but in a request.
pub const TOKEN: &str = "t0k-planted-credential";

/// The parts of a test.
pub struct Scene {
    pub forge: Forge,
    pub folder: Folder,
    pub herald: Herald,
}

/// A Git host on a free port.
pub async fn forge() -> Forge {
    Forge::start("127.0.0.1:0").await.expect("a free port")
}

/// The Provider `git` of this type, at a repository of the forge.
pub fn git(kind: &str, forge: &Forge) -> Manifest {
    provider(kind, "git", &address(kind, forge)).secret("token")
}

/// The repository `fleet` as people write it for this type.
pub fn address(kind: &str, forge: &Forge) -> String {
    match kind {
        // Of this one only the path counts: the API is where the flag of every scene says.
        "bitbucket" => "https://bitbucket.org/acme/fleet".to_owned(),
        kind => address_at(kind, forge.url()),
    }
}

/// The same, at a host of which this is the beginning of all addresses.
pub fn address_at(kind: &str, url: &str) -> String {
    match kind {
        "bitbucketserver" => format!("{url}/scm/acme/fleet.git"),
        "azuredevops" => format!("{url}/org/project/_git/fleet"),
        "generic" => format!("{url}/hook"),
        _ => format!("{url}/acme/fleet"),
    }
}

/// The Provider `hook`: whatever it is told arrives at the forge's `/hook`.
pub fn hook(forge: &Forge) -> Manifest {
    provider("generic", "hook", &format!("{}/hook", forge.url()))
}

/// The Secret that [`git`] names.
pub fn token() -> Manifest {
    secret("token", "token", TOKEN)
}

/// A Herald that reads the folder and knows Bitbucket Cloud's API to be at the forge.
pub async fn herald(forge: &Forge, folder: &Folder, flags: &[&str]) -> Herald {
    herald_by(Arc::new(SystemClock), forge, folder, flags).await
}

async fn herald_by(clock: Arc<dyn Clock>, forge: &Forge, folder: &Folder, flags: &[&str]) -> Herald {
    let bitbucket = format!("--bitbucket-api-base-url={}/2.0", forge.url());
    Herald::manifests_by(clock, folder.path(), &[&[bitbucket.as_str()], flags].concat()).await
}

impl Scene {
    /// One Provider of this type, told of every Kustomization.
    pub async fn of(kind: &str) -> Self {
        Self::shaped(kind, |provider| provider).await
    }

    /// As [`Scene::of`], with a Provider that waits no longer than a second for an answer.
    pub async fn impatient(kind: &str) -> Self {
        Self::shaped(kind, |provider| provider.spec("timeout", "1s")).await
    }

    async fn shaped(kind: &str, shape: impl FnOnce(Manifest) -> Manifest) -> Self {
        let forge = forge().await;
        let (provider, name) = if kind == "generic" { (hook(&forge), "hook") } else { (git(kind, &forge), "git") };
        Self::with(forge, [shape(provider), token(), alert("all", name)], &[]).await
    }

    /// These manifests and flags.
    pub async fn with(forge: Forge, manifests: impl IntoIterator<Item = Manifest>, flags: &[&str]) -> Self {
        let folder = Folder::with(manifests);
        let herald = herald(&forge, &folder, flags).await;
        Self { forge, folder, herald }
    }

    /// These manifests, and a clock that the test may be ahead of.
    pub async fn by(clock: Arc<dyn Clock>, forge: Forge, manifests: impl IntoIterator<Item = Manifest>) -> Self {
        Self::with_by(clock, forge, manifests, &[]).await
    }

    /// The same, and these flags.
    pub async fn with_by(
        clock: Arc<dyn Clock>,
        forge: Forge,
        manifests: impl IntoIterator<Item = Manifest>,
        flags: &[&str],
    ) -> Self {
        let folder = Folder::with(manifests);
        let herald = herald_by(clock, &forge, &folder, flags).await;
        Self { forge, folder, herald }
    }

    /// Another Herald that reads the same folder and remembers nothing.
    pub async fn another(&self) -> Herald {
        herald(&self.forge, &self.folder, &[]).await
    }

    /// Posts an event that Herald takes.
    #[track_caller]
    pub fn post(&self, event: &Value) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let answer = self.herald.post(event).await;
            assert_eq!(answer, 202, "{caller}: the answer to an event");
        }
    }

    /// Posts events one after the other, each once the one before is told.
    pub async fn tell<E: Borrow<FluxEvent>>(&self, events: impl IntoIterator<Item = E>) {
        for event in events {
            self.post(event.borrow()).await;
            self.herald.idle().await;
        }
    }

    /// Waits until nothing is under way, and nothing will be within a minute.
    pub async fn quiet(&self) {
        let outbox = &self.herald.app.outbox;
        wait::until(DEADLINE, "quiet", || async {
            let counts = outbox.counts();
            let soon = outbox.next_due().is_some_and(|due| due < SystemClock.now() + Duration::from_secs(60));
            (counts.claimed == 0 && counts.ready == 0 && !soon).then_some(())
        })
        .await;
    }

    /// The states a status had, in order.
    pub fn states(&self, commit: &str, context: &str) -> Vec<String> {
        let statuses = self.forge.statuses(commit).into_iter();
        statuses.filter(|status| status.context == context).map(|status| status.state).collect()
    }

    /// How many notifications ended so.
    pub fn ended(&self, outcome: Outcome) -> u64 {
        self.herald.app.metrics.notifications(outcome)
    }

    /// Waits until the host has seen this many requests.
    #[track_caller]
    pub fn requests(&self, count: usize) -> impl Future<Output = ()> {
        wait::until_ok(DEADLINE, "requests at the Git host", move || async move {
            let seen = self.forge.requests().len();
            if seen >= count { Ok(()) } else { Err(format!("{seen} of {count} requests")) }
        })
    }

    /// Does something to the folder and waits until Herald knows the Provider of that name anew.
    pub async fn change(&self, provider: &str, change: impl FnOnce(&Folder)) {
        let version = || {
            let key = herald::api::Key::new(NAMESPACE, provider);
            self.herald.app.stores.provider(&key).map(|view| view.version)
        };
        let before = version();
        change(&self.folder);
        wait::until(CHANGED, "the changed folder to be in use", || async { (version() != before).then_some(()) }).await;
    }

    /// Ends the test: everything accepted is told or given up, in exactly this many requests.
    #[track_caller]
    pub fn end(self, reads: usize, writes: usize) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            // Whole: a folder that is dropped now would be a change of its own.
            let Self { forge, folder, herald } = self;
            herald.idle().await;
            let seen = || {
                let lines = forge.requests().into_iter().map(|request| format!("{} {}", request.method, request.uri));
                lines.collect::<Vec<_>>().join("\n  ")
            };
            let counts = (forge.reads(), forge.writes());
            assert_eq!(counts, (reads, writes), "{caller}: reads and writes, of\n  {}", seen());
            herald.stop().await;
            assert_eq!(forge.requests().len(), reads + writes, "{caller}: requests while stopping, of\n  {}", seen());
            drop(folder);
        }
    }
}

/// A changed file is in use within this time.
pub const CHANGED: Duration = Duration::from_secs(2);
