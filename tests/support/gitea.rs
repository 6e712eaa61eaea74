//! A real Git host that takes commit statuses. Called by the tests of what
//! Herald leaves behind on a commit.
//!
//! Known ways of Gitea 1.26: it accepts any state, keeps every POST as a new
//! row, and answers 500 for a commit it does not have.

use std::process::Command;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::assets;
use super::process::{Scratch, Server, free_port};
use super::wait;

const START: Duration = Duration::from_secs(60);

/// The user that owns every repository.
pub const OWNER: &str = "flux";

pub struct Gitea {
    /// `http://127.0.0.1:PORT`, without a slash at the end.
    pub url: String,
    /// A token of [`OWNER`] with all scopes.
    pub token: String,
    client: reqwest::Client,
    server: Option<Server>,
    scratch: Scratch,
}

impl Gitea {
    /// Starts an empty Gitea with a user and a token.
    pub async fn start() -> Self {
        let port = free_port();
        let url = format!("http://127.0.0.1:{port}");
        let scratch = Scratch::new();
        let dir = scratch.path().display();
        let config = format!(
            "WORK_PATH = {dir}
             RUN_USER = {user}
             [server]
             HTTP_ADDR = 127.0.0.1
             HTTP_PORT = {port}
             ROOT_URL = {url}/
             STATIC_ROOT_PATH = {dir}/gitea-static
             DISABLE_SSH = true
             OFFLINE_MODE = true
             [database]
             DB_TYPE = sqlite3
             PATH = {dir}/gitea.db
             [security]
             INSTALL_LOCK = true
             SECRET_KEY = only-for-tests
             INTERNAL_TOKEN = only-for-tests
             [service]
             DISABLE_REGISTRATION = true
             [cron]
             ENABLED = false
             [indexer]
             ISSUE_INDEXER_TYPE = db
             [actions]
             ENABLED = false
             [log]
             LEVEL = Warn
            ",
            user = user(),
        );
        scratch.write("app.ini", &config);
        // The assets may be where another user cannot read, so it gets copies.
        for name in ["gitea", "gitea-static"] {
            run(Command::new("cp").arg("-R").arg(assets::dir().join(name)).arg(scratch.path()));
        }
        if is_root() {
            run(Command::new("chown").args(["-R", "nobody"]).arg(scratch.path()));
        }

        // A connection lives on the runtime of the test that opened it, so none is left for the next test.
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build();
        let client = client.expect("a plain HTTP client");
        let mut gitea = Self { url, token: String::new(), client, server: None, scratch };
        run(&mut gitea.command("migrate"));
        run(&mut gitea.command(&format!(
            "admin user create --admin --must-change-password=false \
             --username {OWNER} --password only-for-tests --email flux@example.com"
        )));
        gitea.token = gitea.new_token("all");
        gitea.resume().await;
        gitea
    }

    /// The one Gitea of this test process. Tests keep apart by repository.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Gitea> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// Kills the server; everything it stored stays for [`resume`](Self::resume).
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Starts the server again, at the same address.
    pub async fn resume(&mut self) {
        let mut server = Server::start("gitea", self.scratch.path(), &self.command("web"));
        let version = format!("{}/api/v1/version", self.url);
        server.ready(START, || wait::answers(&version)).await;
        self.server = Some(server);
    }

    /// Another token, for example with scope `read:repository` only, with which
    /// posting a status is refused.
    pub fn new_token(&self, scopes: &str) -> String {
        let name = uuid::Uuid::new_v4();
        run(&mut self.command(&format!(
            "admin user generate-access-token --raw \
             --username {OWNER} --token-name {name} --scopes {scopes}"
        )))
        .trim()
        .to_owned()
    }

    /// Creates a repository and gives its address, as a GitRepository has it.
    pub async fn create_repo(&self, name: &str) -> String {
        let body = json!({"name": name, "auto_init": true, "default_branch": "main"});
        send(self.request(Method::POST, "user/repos").json(&body)).await;
        format!("{}/{OWNER}/{name}", self.url)
    }

    /// Makes `count` commits on top of `main` and gives their full hashes.
    pub async fn commit(&self, repo: &str, count: usize) -> Vec<String> {
        let mut hashes = Vec::with_capacity(count);
        for _ in 0..count {
            let file = uuid::Uuid::new_v4();
            let path = format!("repos/{OWNER}/{repo}/contents/{file}");
            let content = BASE64_STANDARD.encode("test");
            let body = json!({"content": content, "message": "test", "branch": "main"});
            let answer = send(self.request(Method::POST, &path).json(&body)).await;
            let hash = answer["commit"]["sha"].as_str().expect("a commit has a hash");
            hashes.push(hash.to_owned());
        }
        hashes
    }

    /// All statuses of a commit in the order they were posted.
    pub async fn statuses(&self, repo: &str, commit: &str) -> Vec<Value> {
        let path = format!("repos/{OWNER}/{repo}/commits/{commit}/statuses");
        let mut statuses = Vec::new();
        for page in 1.. {
            // Gitea's names are the wrong way round: this is oldest first.
            let query = format!("{path}?sort=highestindex&limit=50&page={page}");
            match send(self.request(Method::GET, &query)).await {
                Value::Array(more) if !more.is_empty() => statuses.extend(more),
                _ => break,
            }
        }
        statuses
    }

    /// A request to `/api/v1/PATH` as [`OWNER`].
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}/api/v1/{path}", self.url);
        self.client.request(method, url).bearer_auth(&self.token)
    }

    /// `gitea ARGS`, split at spaces. It refuses to run as root, which CI often is.
    fn command(&self, args: &str) -> Command {
        let dir = self.scratch.path();
        let binary = dir.join("gitea");
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(binary);
            command
        } else {
            Command::new(binary)
        };
        command.arg("--config").arg(dir.join("app.ini")).args(args.split(' '));
        command.current_dir(dir).env("HOME", dir).env("USER", user());
        command
    }
}

fn is_root() -> bool {
    run(Command::new("id").arg("-u")).trim() == "0"
}

/// Who Gitea runs as.
fn user() -> String {
    if is_root() {
        return "nobody".to_owned();
    }
    run(Command::new("id").arg("-un")).trim().to_owned()
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().expect("the program is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).expect("it prints text")
}

async fn send(request: RequestBuilder) -> Value {
    let response = request.send().await.expect("Gitea answers");
    let (status, url) = (response.status(), response.url().clone());
    let body = response.text().await.expect("Gitea finishes its answer");
    assert!(status.is_success(), "{url}: {status}: {body}");
    serde_json::from_str(&body).expect("Gitea answers in JSON")
}
