//! A simulated Git host: the commit-status APIs of GitHub, Gitea, GitLab, Bitbucket Cloud, Bitbucket Data Center and
//! Azure DevOps, with their limits and their oddities.
//!
//! Used by the integration tests, by `examples/forge.rs` (try things by hand) and by `examples/demo.rs`
//! (see the whole program work). It keeps state and breaks on demand:
//!
//! ```text
//! let forge = Forge::start("127.0.0.1:0").await?;
//! forge.fail(Fault::answer(503).writes().times(2));     // then all is well again
//! …                                                     // point a Provider at forge.url() + "/acme/fleet"
//! assert!(forge.until(deadline, |forge| forge.latest(sha, context).is_some()).await);
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `mod.rs` | [`Forge`], the handle that a test holds, and the server under it |
//! | `world.rs` | what the host remembers: statuses, requests, tokens, script of faults |
//! | `fault.rs` | [`Fault`], one line of that script |
//! | `limits.rs` | GitHub's secondary rate limits, for who wants them |
//! | `door.rs` | the way of every request: write it down, count it, break it if the script says so |
//! | `github.rs`, `gitea.rs`, `gitlab.rs`, `bitbucket.rs`, `bitbucketserver.rs`, `azuredevops.rs` | one API each; every rule names where we know it from |
//! | `apps.rs`, `entra.rs` | whoever gives out tokens for them: GitHub to Apps, Entra to workload identities |
//! | `page.rs`, `page.html` | the page for people, and its JSON |
//!
//! Not a security boundary and not meant for a network: listen on loopback.

mod apps;
mod azuredevops;
mod bitbucket;
mod bitbucketserver;
mod door;
mod entra;
mod fault;
mod gitea;
mod github;
mod gitlab;
mod limits;
mod page;
mod world;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

pub use apps::{App, AppKey};
pub use entra::Application;
pub use fault::Fault;
pub use limits::{Caller, Limits};
use world::World;
pub use world::{Access, Host, Received, Status};

/// How many statuses a slow subscriber may fall behind before it misses some. Subscribers look at
/// the forge again after each message, so a missed one costs them nothing.
const NEWS: usize = 1024;

/// What every connection shares.
struct Shared {
    /// Our own base URL: real hosts put theirs into `url` fields and `Link` headers, and clients follow them.
    url: String,
    news: broadcast::Sender<Status>,
    world: Mutex<World>,
}

/// A running simulated Git host. Dropping it ends the server and cuts every connection, hung ones too.
pub struct Forge {
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl Drop for Forge {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Forge {
    /// Starts a host on `address`; port 0 takes a free one.
    pub async fn start(address: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let shared = Arc::new(Shared { url, news: broadcast::Sender::new(NEWS), world: Mutex::default() });
        let server = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { shared, server })
    }

    /// The base URL, without a trailing slash. A Provider's address is this plus
    ///
    /// | type | path |
    /// |---|---|
    /// | github, gitea | `/<owner>/<repository>` |
    /// | gitlab | `/<group>/…/<project>` |
    /// | bitbucketserver | `/scm/<project>/<repository>.git`, also after a context path of one segment |
    /// | azuredevops | `/<organization>/<project>/_git/<repository>` |
    /// | bitbucket | the API's own base is this plus `/2.0`; the address is of no account |
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    /// Every status of a commit in the order of writing, whatever repository or API it came through.
    pub fn statuses(&self, commit: &str) -> Vec<Status> {
        self.shared.world.lock().statuses(commit)
    }

    /// The last status written for one context of a commit, whatever its genre.
    pub fn latest(&self, commit: &str, context: &str) -> Option<Status> {
        self.statuses(commit).into_iter().rfind(|status| status.host.same_context(&status.context, context))
    }

    /// Every request so far in order of arrival (the newest 50,000), the page's own reads left out.
    pub fn requests(&self) -> Vec<Received> {
        self.shared.world.lock().requests()
    }

    /// How many requests only asked (GET, HEAD, OPTIONS), refused and broken ones included.
    pub fn reads(&self) -> usize {
        self.shared.world.lock().reads
    }

    /// How many requests wanted to change something (POST and the rest), refused and broken ones included.
    pub fn writes(&self) -> usize {
        self.shared.world.lock().writes
    }

    /// Sets reads, writes and every `max_in_flight` to zero and forgets the requests; statuses stay.
    pub fn reset_counts(&self) {
        self.shared.world.lock().reset_counts();
    }

    /// The largest number of writes that were under way at once for one status.
    ///
    /// A write is under way from its last byte in to its first byte out, delays and hangs included.
    /// A client that gives up is noticed a moment later, so let it wait before it tries again.
    pub fn max_in_flight(&self, commit: &str, context: &str) -> usize {
        self.shared.world.lock().max_in_flight(commit, context)
    }

    /// Each new status, as it is written.
    pub fn subscribe(&self) -> broadcast::Receiver<Status> {
        self.shared.news.subscribe()
    }

    /// Waits until `condition` holds, asking again after each new status; says whether it did in time.
    pub async fn until(&self, within: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        let deadline = Instant::now() + within;
        // Subscribed before the first look, so nothing falls between the two.
        let mut news = self.subscribe();
        loop {
            if condition(self) {
                return true;
            }
            if tokio::time::timeout_at(deadline, news.recv()).await.is_err() {
                return condition(self);
            }
        }
    }

    /// Adds one line to the script of faults; for each request the oldest line that fires decides.
    pub fn fail(&self, fault: Fault) {
        self.shared.world.lock().faults.push(fault);
    }

    /// Forgets the script: from now on nothing fails that a real host would not fail.
    pub fn recover(&self) {
        self.shared.world.lock().faults.clear();
    }

    /// How often each kind of fault struck so far: `503`, `hang`, `half body`; `hang after` is one that struck after
    /// the request took effect.
    pub fn struck(&self) -> BTreeMap<String, usize> {
        self.shared.world.lock().struck.clone()
    }

    /// From now on only repositories and commits that were added exist. Before this call every one does.
    pub fn strict(&self) {
        self.shared.world.lock().strict = true;
    }

    /// Adds a commit, and its repository as [`Status::repository`] has it, for [`strict`](Self::strict).
    pub fn add_commit(&self, repository: &str, commit: &str) {
        self.shared.world.lock().add_commit(repository, commit);
    }

    /// Makes a token known. Before the first call every token may do everything; after it only the known ones
    /// are good, each for what it was given. For Bitbucket's Basic credentials the token is `user:password`.
    pub fn token(&self, token: &str, access: Access) {
        self.shared.world.lock().tokens.insert(token.to_owned(), access);
    }

    /// Makes a GitHub App known. From now on only tokens are good that were made known or given out here.
    pub fn app(&self, app: App) {
        self.shared.world.lock().apps.push(app);
    }

    /// Makes an application in Entra known; tokens as for [`app`](Self::app).
    pub fn application(&self, application: Application) {
        self.shared.world.lock().applications.push(application);
    }

    /// How long tokens are good that are given out from now on; before this call an hour.
    pub fn token_life(&self, life: Duration) {
        self.shared.world.lock().token_life = life;
    }

    /// Every token given out so far, in order.
    pub fn minted(&self) -> Vec<String> {
        self.shared.world.lock().minted.iter().map(|(token, _)| token.clone()).collect()
    }

    /// No token that was given out so far is good any longer.
    pub fn withdraw(&self) {
        self.shared.world.lock().minted.iter_mut().for_each(|(_, end)| *end = Timestamp::MIN);
    }

    /// How long a write to GitLab keeps the lock of its project and commit, and how long another one waits for it
    /// before it is answered 409. Before this call: no time at all, and ten seconds as at gitlab.com.
    pub fn gitlab_lock(&self, work: Duration, wait: Duration) {
        self.shared.world.lock().gitlab = gitlab::Pace { work, wait };
    }

    /// The newest version of the API that Azure DevOps has here: 5.1 for Azure DevOps Server 2019.
    pub fn azure_latest(&self, version: f32) {
        self.shared.world.lock().azure_latest = Some(version);
    }

    /// From now on no caller may go faster than this.
    pub fn limits(&self, limits: Limits) {
        self.shared.world.lock().callers.limits = Some(limits);
    }

    /// Everybody who asked since [`limits`](Self::limits) was called.
    pub fn callers(&self) -> Vec<Caller> {
        self.shared.world.lock().callers.all()
    }

    /// Stops the host's clock at `now`, so that a test can put several statuses into one second.
    pub fn freeze_clock(&self, now: Timestamp) {
        self.shared.world.lock().clock = Some(now);
    }
}

/// Accepts connections until the task is aborted.
///
/// A loop of our own instead of `axum::serve`, because that one leaves open connections behind when it ends, and
/// because it has no way to reset a connection.
async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let router = door::router(Arc::clone(&shared));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(converse(stream, Arc::clone(&shared), router.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves one connection to its end.
async fn converse(stream: TcpStream, shared: Arc<Shared>, router: axum::Router) {
    // Answers are small; waiting to fill a packet would only add its delay to every test.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| door::enter(Arc::clone(&shared), router.clone(), request).boxed());
    // Which protocol it is shows in the first two bytes: HTTP/2 begins with the preface of RFC 9113 3.4.
    let mut begun = [0; 2];
    while let Ok(1) = stream.peek(&mut begun).await {
        tokio::task::yield_now().await;
    }
    if begun == *b"PR" {
        // Ends with its client, who is in the same process.
        let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        return;
    }
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let outcome = (&mut connection).await;
    if let Err(error) = outcome
        && std::error::Error::source(&error).is_some_and(|source| source.is::<door::Reset>())
    {
        // Closing with a linger of zero sends RST: the client sees "connection reset", not a polite end.
        let _ = connection.into_parts().io.into_inner().set_zero_linger();
    }
}
