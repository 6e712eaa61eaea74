//! The simulated Git host against what it promises: a wrong host would make every other test worthless.
//!
//! One test a rule, asked over HTTP as a controller would.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::disallowed_methods, reason = "the bodies that the forge answers are small")]

#[path = "support/forge/mod.rs"]
mod forge;

use std::time::Duration;

use forge::{Access, App, AppKey, Application, Fault, Forge, Host, Limits};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

const SHA: &str = "1f8acd3265e5ba098dec495eece41c11ba093463";
/// Longer than any wait here should take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy)]
enum Api {
    GitHub,
    GitHubDotCom,
    Gitea,
}

/// A forge and a client for it.
struct Desk {
    forge: Forge,
    client: Client,
}

impl Desk {
    async fn new() -> Self {
        let client = Client::builder().no_proxy().build().unwrap();
        Self { forge: Forge::start("127.0.0.1:0").await.unwrap(), client }
    }

    fn url(&self, api: Api, rest: &str) -> String {
        let prefix = match api {
            Api::GitHub => "/api/v3",
            Api::GitHubDotCom => "",
            Api::Gitea => "/api/v1",
        };
        format!("{}{prefix}/repos/acme/fleet/{rest}", self.forge.url())
    }

    fn post(&self, api: Api, sha: &str, body: &Value) -> impl Future<Output = reqwest::Result<Response>> + use<> {
        self.client.post(self.url(api, &format!("statuses/{sha}"))).bearer_auth("t0k").json(body).send()
    }

    async fn write(&self, api: Api, context: &str, state: &str) {
        let answer = self.post(api, SHA, &json!({"state": state, "context": context})).await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
    }

    async fn get(&self, api: Api, rest: &str) -> Response {
        self.client.get(self.url(api, rest)).bearer_auth("t0k").send().await.unwrap()
    }

    async fn list(&self, api: Api, query: &str) -> Vec<Value> {
        self.get(api, &format!("commits/{SHA}/statuses{query}")).await.json().await.unwrap()
    }
}

fn column<'a>(rows: &'a [Value], name: &str) -> Vec<&'a Value> {
    rows.iter().map(|row| &row[name]).collect()
}

async fn refusal(answer: reqwest::Result<Response>) -> (u16, Value) {
    let answer = answer.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
}

// === GitHub ===

#[tokio::test]
async fn github_lists_newest_first_under_both_prefixes() {
    let desk = Desk::new().await;
    desk.write(Api::GitHub, "a", "pending").await;
    desk.write(Api::GitHubDotCom, "a", "success").await;
    for api in [Api::GitHub, Api::GitHubDotCom] {
        let rows = desk.list(api, "").await;
        assert_eq!(column(&rows, "state"), ["success", "pending"]);
        assert_eq!(column(&rows, "id"), [2, 1]);
        assert_eq!(rows[0]["url"], desk.url(api, &format!("statuses/{SHA}")));
    }
}

#[tokio::test]
async fn github_pages_by_link() {
    let desk = Desk::new().await;
    for number in 0..101 {
        desk.write(Api::GitHub, &format!("c{number}"), "success").await;
    }
    assert_eq!(desk.list(Api::GitHub, "").await.len(), 30);
    assert_eq!(desk.list(Api::GitHub, "?per_page=500").await.len(), 100);

    let first = desk.get(Api::GitHub, &format!("commits/{SHA}/statuses?per_page=50")).await;
    let link = header(&first, "link");
    assert!(link.contains("rel=\"last\"") && link.contains("page=3"), "{link}");
    let next = link.split_once('<').unwrap().1.split_once(">; rel=\"next\"").unwrap().0.to_owned();
    assert!(next.starts_with(desk.forge.url()), "{next}");
    let second = desk.client.get(next).bearer_auth("t0k").send().await.unwrap();
    assert!(header(&second, "link").contains("rel=\"prev\""));
    let rows: Vec<Value> = second.json().await.unwrap();
    assert_eq!((rows.len(), rows[0]["context"].as_str()), (50, Some("c50")));

    let last = desk.get(Api::GitHub, &format!("commits/{SHA}/statuses?per_page=50&page=3")).await;
    assert!(!header(&last, "link").contains("rel=\"next\""));
    assert_eq!(last.json::<Vec<Value>>().await.unwrap().len(), 1);
}

#[tokio::test]
async fn github_refuses_what_github_refuses() {
    let desk = Desk::new().await;
    let fits = "é".repeat(140);
    let answer = desk.post(Api::GitHub, SHA, &json!({"state": "success", "description": fits})).await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    assert_eq!(answer.json::<Value>().await.unwrap()["context"], "default");

    let long = json!({"state": "success", "description": format!("{fits}e")});
    let (status, body) = refusal(desk.post(Api::GitHub, SHA, &long).await).await;
    assert_eq!(status, 422);
    assert_eq!(body["errors"][0]["message"], "description is too long (maximum is 140 characters)");
    assert_eq!((&body["errors"][0]["field"], &body["errors"][0]["code"]), (&json!("description"), &json!("custom")));

    for bad in [json!({"state": "done"}), json!({"context": "x"}), json!({"state": "success", "description": 5})] {
        assert_eq!(refusal(desk.post(Api::GitHub, SHA, &bad).await).await.0, 422, "{bad}");
    }
    let (status, body) = refusal(desk.post(Api::GitHub, "main", &json!({"state": "success"})).await).await;
    assert_eq!((status, &body["errors"][0]["field"]), (422, &json!("sha")));
    assert_eq!(desk.forge.statuses(SHA).len(), 1);
}

#[tokio::test]
async fn github_takes_a_thousand_per_context_whatever_its_case() {
    let desk = Desk::new().await;
    for number in 0..1000 {
        let context = if number % 2 == 0 { "Build" } else { "build" };
        desk.write(Api::GitHub, context, "pending").await;
    }
    let (status, body) =
        refusal(desk.post(Api::GitHub, SHA, &json!({"state": "success", "context": "BUILD"})).await).await;
    assert_eq!(status, 422);
    assert_eq!(body["errors"][0]["message"], "This SHA and context has reached the maximum number of statuses.");
    desk.write(Api::GitHub, "another", "success").await;

    let combined: Value = desk.get(Api::GitHub, &format!("commits/{SHA}/status")).await.json().await.unwrap();
    assert_eq!((&combined["total_count"], &combined["state"]), (&json!(2), &json!("pending")));
}

#[tokio::test]
async fn github_limits_how_fast_a_caller_goes_and_bans_who_goes_on() {
    let desk = Desk::new().await;
    desk.forge.limits(Limits::default());
    for number in 0..80 {
        desk.write(Api::GitHubDotCom, &format!("build-{number}"), "success").await;
    }
    // Reading is cheaper.
    assert_eq!(desk.get(Api::GitHubDotCom, &format!("commits/{SHA}/statuses")).await.status(), StatusCode::OK);
    let write = || desk.post(Api::GitHubDotCom, SHA, &json!({"state": "success", "context": "one more"}));
    let answer = write().await;
    assert_eq!(header(answer.as_ref().unwrap(), "retry-after"), "60");
    let (status, body) = refusal(answer).await;
    assert_eq!(status, 403);
    assert!(body["message"].as_str().unwrap().contains("secondary rate limit"), "{body}");
    let caller = || desk.forge.callers().remove(0);
    assert_eq!((caller().limited, caller().banned, caller().most_at_once), (1, false, 1));

    // Another caller is another matter.
    let other = desk.client.post(desk.url(Api::GitHubDotCom, &format!("statuses/{SHA}"))).bearer_auth("another");
    assert_eq!(other.json(&json!({"state": "success"})).send().await.unwrap().status(), StatusCode::CREATED);

    // What was on its way is forgiven; who asks on is banned.
    let banned = async {
        while !desk.forge.callers().iter().any(|caller| caller.banned) {
            assert_eq!(refusal(write().await).await.0, 403);
        }
    };
    tokio::time::timeout(PATIENCE, banned).await.unwrap();
}

// === Gitea ===

#[tokio::test]
async fn gitea_lists_ties_in_ascending_order_and_the_combined_status_is_right() {
    let desk = Desk::new().await;
    let second = "2026-11-20T22:37:35Z".parse().unwrap();
    desk.forge.freeze_clock(second);
    desk.write(Api::Gitea, "a", "pending").await;
    desk.write(Api::Gitea, "a", "success").await;
    let rows = desk.list(Api::Gitea, "").await;
    assert_eq!(column(&rows, "status"), ["pending", "success"]);
    assert_eq!(column(&rows, "id"), [1, 2]);
    assert_eq!(rows[0]["created_at"], "2026-11-20T22:37:35Z");
    let combined: Value = desk.get(Api::Gitea, &format!("commits/{SHA}/status")).await.json().await.unwrap();
    assert_eq!((&combined["state"], &combined["statuses"][0]["id"]), (&json!("success"), &json!(2)));

    desk.forge.freeze_clock(second + Duration::from_secs(1));
    desk.write(Api::Gitea, "a", "failure").await;
    assert_eq!(column(&desk.list(Api::Gitea, "").await, "id"), [3, 1, 2]);
}

#[tokio::test]
async fn gitea_pages_and_counts() {
    let desk = Desk::new().await;
    for number in 0..66 {
        desk.write(Api::Gitea, &format!("c{number}"), "success").await;
    }
    assert_eq!(desk.list(Api::Gitea, "").await.len(), 30);
    let first = desk.get(Api::Gitea, &format!("commits/{SHA}/statuses?limit=100&page=1")).await;
    assert_eq!(header(&first, "x-total-count"), "66");
    assert!(header(&first, "link").contains("limit=100&page=2>; rel=\"next\""), "{}", header(&first, "link"));
    assert_eq!(first.json::<Vec<Value>>().await.unwrap().len(), 50);
    assert_eq!(desk.list(Api::Gitea, "?limit=50&page=2").await.len(), 16);

    let combined: Value = desk.get(Api::Gitea, &format!("commits/{SHA}/status?limit=50")).await.json().await.unwrap();
    assert_eq!(combined["total_count"], 50);
}

#[tokio::test]
async fn gitea_takes_anything_and_numbers_each_commit() {
    let desk = Desk::new().await;
    let body = json!({"state": "done", "context": "c".repeat(1000), "description": "d".repeat(3000)});
    let other = "2".repeat(40);
    for (sha, id) in [(SHA, 1), (SHA, 2), (other.as_str(), 1)] {
        let answer = desk.post(Api::Gitea, sha, &body).await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
        let row: Value = answer.json().await.unwrap();
        assert_eq!((&row["status"], &row["id"]), (&json!("done"), &json!(id)));
    }
    let broken = desk.client.post(desk.url(Api::Gitea, &format!("statuses/{SHA}"))).bearer_auth("t0k").body("{");
    assert_eq!(broken.send().await.unwrap().status(), StatusCode::UNPROCESSABLE_ENTITY);
    let version = desk.client.get(format!("{}/api/v1/version", desk.forge.url())).send().await.unwrap();
    assert!(version.json::<Value>().await.unwrap()["version"].is_string());
}

// === GitLab ===

const GITLAB: &str = "/api/v4/projects/g%2Fsub%2Ex%2Fproj";

impl Desk {
    fn request(&self, method: &str, path: &str) -> RequestBuilder {
        self.client.request(method.parse().unwrap(), format!("{}{path}", self.forge.url()))
    }

    async fn gitlab(&self, token: &str, body: Value) -> (u16, Value) {
        let request = self.request("POST", &format!("{GITLAB}/statuses/{SHA}")).header("private-token", token);
        refusal(request.json(&body).send().await).await
    }

    async fn gitlab_list(&self, query: &str) -> Vec<Value> {
        let request = self.request("GET", &format!("{GITLAB}/repository/commits/{SHA}/statuses{query}"));
        request.header("private-token", "t0k").send().await.unwrap().json().await.unwrap()
    }
}

#[tokio::test]
async fn gitlab_goes_over_the_open_row_of_a_name() {
    let desk = Desk::new().await;
    let stuck = |event, from| {
        json!({"message": format!(
            "Cannot transition status via :{event} from :{from} (Reason(s): Status cannot transition via \"{event}\")"
        )})
    };
    let (status, row) = desk.gitlab("t0k", json!({"state": "pending", "description": "waiting"})).await;
    assert_eq!(
        (status, &row["id"], &row["name"], &row["target_url"]),
        (201, &json!(1), &json!("default"), &Value::Null)
    );
    assert_eq!(desk.gitlab("t0k", json!({"state": "pending"})).await, (400, stuck("enqueue", "pending")));
    let (status, row) = desk.gitlab("t0k", json!({"state": "running", "name": "default"})).await;
    assert_eq!((status, &row["id"], &row["description"]), (201, &json!(1), &json!("waiting")));
    assert_eq!(desk.gitlab("t0k", json!({"state": "running"})).await, (400, stuck("run", "running")));
    assert_eq!(desk.gitlab("t0k", json!({"state": "pending"})).await, (400, stuck("enqueue", "running")));
    assert_eq!(desk.gitlab("t0k", json!({"state": "skipped"})).await, (400, stuck("skip", "running")));
    for (state, id) in [("success", 1), ("success", 4), ("failed", 5)] {
        let (status, row) = desk.gitlab("t0k", json!({"state": state})).await;
        assert_eq!((status, &row["id"], &row["status"]), (201, &json!(id), &json!(state)));
    }
    // Another user's row is another row.
    assert_eq!(desk.gitlab("t0k", json!({"state": "running", "context": "other"})).await.0, 201);
    assert_eq!(desk.gitlab("another", json!({"state": "running", "context": "other"})).await.0, 201);

    assert_eq!(column(&desk.gitlab_list("").await, "id"), [5, 7]);
    assert_eq!(column(&desk.gitlab_list("?name=default").await, "status"), ["failed"]);
    assert_eq!(column(&desk.gitlab_list("?all=true&sort=desc").await, "id"), [7, 6, 5, 4, 1]);
    let latest = desk.forge.latest(SHA, "default").unwrap();
    assert_eq!(
        (latest.host, latest.repository.as_str(), latest.state.as_str()),
        (Host::GitLab, "g/sub.x/proj", "failed")
    );
    assert_eq!(desk.forge.statuses(SHA).iter().filter(|status| status.id == 1).count(), 3);
}

#[tokio::test]
async fn gitlab_refuses_what_gitlab_refuses() {
    let desk = Desk::new().await;
    let long = "é".repeat(255);
    assert_eq!(desk.gitlab("t0k", json!({"state": "success", "description": long})).await.0, 201);
    for (body, message) in [
        (
            json!({"description": format!("{long}e")}),
            json!({"description": ["is too long (maximum is 255 characters)"]}),
        ),
        (
            json!({"target_url": "invalid url"}),
            json!({"target_url": ["is blocked: Only allowed schemes are http, https"]}),
        ),
    ] {
        let mut body = body;
        body["state"] = "success".into();
        assert_eq!(desk.gitlab("t0k", body).await, (400, json!({"message": message})));
    }
    let (status, body) = desk.gitlab("t0k", json!({"state": "error"})).await;
    assert_eq!((status, &body["error"]), (400, &json!("state does not have a valid value")));
    assert_eq!(desk.gitlab("", json!({"state": "success"})).await, (401, json!({"message": "401 Unauthorized"})));

    // The path of a project is one segment; a number is one too.
    let body = json!({"state": "success"});
    for (path, status) in [("g/sub.x/proj", 404), ("1234", 201)] {
        let request = desk.request("POST", &format!("/api/v4/projects/{path}/statuses/{SHA}"));
        let answer = request.header("private-token", "t0k").json(&body).send().await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
    }
}

#[tokio::test]
async fn gitlab_lets_one_write_at_a_time_to_a_commit() {
    let desk = Desk::new().await;
    desk.forge.gitlab_lock(Duration::from_millis(300), Duration::from_millis(50));
    let write = |name: &str| desk.gitlab("t0k", json!({"state": "success", "name": name}));
    let (one, other) = tokio::join!(write("a"), write("b"));
    let mut answers = [one, other];
    answers.sort_by_key(|(status, _)| *status);
    assert_eq!(answers[0].0, 201);
    assert_eq!(answers[1], (409, json!({"message": "Another update to this commit status is in progress"})));

    desk.forge.gitlab_lock(Duration::from_millis(50), PATIENCE);
    let (one, other) = tokio::join!(write("a"), write("b"));
    assert_eq!((one.0, other.0), (201, 201));

    // A client that goes away does not stop the write.
    let before = desk.forge.statuses(SHA).len();
    let request = desk.request("POST", &format!("{GITLAB}/statuses/{SHA}")).header("private-token", "t0k");
    desk.forge.gitlab_lock(Duration::from_millis(300), PATIENCE);
    let request = request.timeout(Duration::from_millis(150)).json(&json!({"state": "failed"}));
    assert!(request.send().await.unwrap_err().is_timeout());
    assert!(desk.forge.until(PATIENCE, |forge| forge.statuses(SHA).len() > before).await);
}

#[tokio::test]
async fn gitlab_pages_by_twenty() {
    let desk = Desk::new().await;
    for number in 0..21 {
        desk.gitlab("t0k", json!({"state": "success", "name": format!("c{number}")})).await;
    }
    let path = format!("{GITLAB}/repository/commits/{SHA}/statuses");
    let first = desk.request("GET", &path).bearer_auth("t0k").send().await.unwrap();
    assert_eq!(
        (header(&first, "x-total"), header(&first, "x-next-page"), header(&first, "x-prev-page")),
        ("21", "2", "")
    );
    let link = header(&first, "link").to_owned();
    assert!(link.contains("%2Ex%2Fproj") && link.contains("?page=2>; rel=\"next\""), "{link}");
    assert_eq!(first.json::<Vec<Value>>().await.unwrap().len(), 20);
    assert_eq!(column(&desk.gitlab_list("?page=2").await, "name"), ["c20"]);
}

// === Bitbucket Cloud ===

const BITBUCKET: &str = "/2.0/repositories/acme/fleet";

impl Desk {
    async fn bitbucket(&self, method: &str, rest: &str, body: Value) -> (u16, Value) {
        let request = self.request(method, &format!("{BITBUCKET}/commit/{SHA}/statuses{rest}"));
        refusal(request.basic_auth("user", Some("app-pass")).json(&body).send().await).await
    }
}

#[tokio::test]
async fn bitbucket_has_one_status_for_a_key() {
    let desk = Desk::new().await;
    let second = "2026-11-20T22:37:35Z".parse().unwrap();
    desk.forge.freeze_clock(second);
    let build = |state: &str| json!({"key": "k1", "state": state, "url": "https://bitbucket.org", "name": "web"});
    assert_eq!(desk.bitbucket("GET", "/build/k1", Value::Null).await.0, 404);
    assert_eq!(desk.bitbucket("PUT", "/build/k1", build("FAILED")).await.0, 404);
    assert_eq!(desk.bitbucket("POST", "/build", build("INPROGRESS")).await.0, 201);
    desk.forge.freeze_clock(second + Duration::from_secs(1));
    assert_eq!(desk.bitbucket("POST", "/build/", build("SUCCESSFUL")).await.0, 201);

    let (status, row) = desk.bitbucket("GET", "/build/k1", Value::Null).await;
    assert_eq!((status, &row["state"], &row["type"]), (200, &json!("SUCCESSFUL"), &json!("build")));
    assert_eq!(row["created_on"], "2026-11-20T22:37:35.000000Z");
    assert_eq!(row["updated_on"], "2026-11-20T22:37:36.000000Z");
    let (status, row) = desk.bitbucket("PUT", "/build/k1", json!({"state": "STOPPED"})).await;
    assert_eq!((status, &row["state"], &row["name"]), (200, &json!("STOPPED"), &json!("web")));
    let (_, list) = desk.bitbucket("GET", "?pagelen=1", Value::Null).await;
    assert_eq!((&list["size"], &list["values"][0]["key"], list.get("next")), (&json!(1), &json!("k1"), None));

    let states: Vec<_> = desk.forge.statuses(SHA).into_iter().map(|status| status.state).collect();
    assert_eq!(states, ["INPROGRESS", "SUCCESSFUL", "STOPPED"]);
}

#[tokio::test]
async fn bitbucket_refuses_what_bitbucket_refuses() {
    let desk = Desk::new().await;
    let url = |length: usize| format!("https://a.example/{}", "u".repeat(length - 18));
    for (field, good, bad, problem) in [
        (
            "key",
            json!("k".repeat(40)),
            json!("k".repeat(48)),
            "Ensure this value has at most 40 characters (it has 48).",
        ),
        (
            "name",
            json!("n".repeat(254)),
            json!("n".repeat(255)),
            "Ensure this value has at most 254 characters (it has 255).",
        ),
        ("url", json!(url(449)), json!(url(450)), "Ensure this value has at most 449 characters (it has 450)."),
        ("url", json!("http://127.0.0.1:8080/"), json!("http://jenkins1:8080/"), "Enter a valid URL."),
        ("url", json!("https://bitbucket.org"), Value::Null, "This field is required."),
        (
            "state",
            json!("FAILED"),
            json!("CANCELLED"),
            "Select a valid choice. CANCELLED is not one of the available choices.",
        ),
    ] {
        let mut body = json!({"key": "k", "state": "SUCCESSFUL", "url": "https://a.example"});
        body[field] = good;
        assert_eq!(desk.bitbucket("POST", "/build", body.clone()).await.0, 201, "{body}");
        body[field] = bad;
        let (status, answer) = desk.bitbucket("POST", "/build", body).await;
        let error = json!({"message": format!("{field}: {problem}"), "fields": {field: [problem]}});
        assert_eq!((status, answer), (400, json!({"type": "error", "error": error})));
    }
}

// === Bitbucket Data Center ===

#[tokio::test]
async fn bitbucket_server_has_one_status_for_a_key() {
    let desk = Desk::new().await;
    // With a context path too, and a personal project.
    for prefix in ["", "/bitbucket"] {
        let path = format!("{prefix}/rest/api/latest/projects/~me/repos/fleet/commits/{SHA}/builds");
        let ask = |method: &str, query: &str, body: Value| {
            desk.request(method, &format!("{path}{query}")).bearer_auth("t0k").json(&body).send()
        };
        let build = |state: &str| json!({"key": "k1", "state": state, "url": "https://a.example", "name": "web"});
        assert_eq!(ask("GET", "?key=k1", Value::Null).await.unwrap().status(), 404);
        for state in ["INPROGRESS", "FAILED"] {
            let answer = ask("POST", "", build(state)).await.unwrap();
            assert_eq!(answer.status(), 204);
            assert_eq!(answer.text().await.unwrap(), "");
        }
        let row: Value = ask("GET", "?key=k1", Value::Null).await.unwrap().json().await.unwrap();
        assert_eq!((&row["state"], &row["name"], row.get("description")), (&json!("FAILED"), &json!("web"), None));
        assert!(row["createdDate"].is_i64() && row["updatedDate"].is_i64());
        assert_eq!(desk.forge.latest(SHA, "k1").unwrap().repository, "~me/fleet");

        for (field, bad) in [
            ("key", json!("k".repeat(256))),
            ("name", json!("n".repeat(256))),
            ("url", json!("u".repeat(451))),
            ("url", Value::Null),
            ("state", json!("STOPPED")),
            ("ref", json!("main")),
        ] {
            let mut body = build("SUCCESSFUL");
            body[field] = bad;
            let (status, answer) = refusal(ask("POST", "", body).await).await;
            assert_eq!((status, &answer["errors"][0]["context"]), (400, &json!(field)), "{answer}");
        }
        assert_eq!(ask("GET", "", Value::Null).await.unwrap().status(), 400);
        assert_eq!(ask("DELETE", "?key=k1", Value::Null).await.unwrap().status(), 204);
        assert_eq!(ask("DELETE", "?key=k1", Value::Null).await.unwrap().status(), 404);
        assert!(desk.forge.statuses(SHA).is_empty());
    }
}

// === Azure DevOps ===

const AZURE: &str = "/org/My%20Proj/_apis/git/repositories/My.Repo/commits";
const ACCEPT: &str = "application/json;api-version=6.0";

impl Desk {
    async fn azure(&self, method: &str, query: &str, body: Value) -> (u16, Value) {
        let request = self.request(method, &format!("{AZURE}/{SHA}/statuses{query}")).header("accept", ACCEPT);
        refusal(request.basic_auth("", Some("t0k")).json(&body).send().await).await
    }
}

#[tokio::test]
async fn azure_lists_every_status_or_the_newest_of_each_name_and_genre() {
    let desk = Desk::new().await;
    for (state, genre) in [("pending", "flux"), ("succeeded", "flux"), ("failed", "flux:prod")] {
        let body = json!({"state": state, "context": {"name": "a", "genre": genre}});
        let (status, row) = desk.azure("POST", "", body).await;
        assert_eq!((status, &row["context"]["genre"]), (201, &json!(genre)));
    }
    assert_eq!(desk.azure("POST", "", json!({"context": {"name": "b"}})).await.1["state"], "notSet");
    let list = async |query: &str| {
        let (_, body) = desk.azure("GET", query, Value::Null).await;
        assert_eq!(body["count"], body["value"].as_array().unwrap().len());
        body["value"].as_array().unwrap().iter().map(|row| row["id"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(list("").await, [1, 2, 3, 4]);
    assert_eq!(list("?latestOnly=true").await, [2, 3, 4]);
    assert_eq!(list("?top=2&skip=1").await, [2, 3]);
    let latest = desk.forge.latest(SHA, "a").unwrap();
    assert_eq!((latest.repository.as_str(), latest.genre.as_deref()), ("org/My Proj/My.Repo", Some("flux:prod")));

    for body in
        [json!({"context": {"name": ""}}), json!({"state": "error"}), json!({"state": "x", "context": {"name": "a"}})]
    {
        let (status, answer) = desk.azure("POST", "", body).await;
        assert!(status == 400 && answer["message"].is_string() && answer["typeKey"] == "ArgumentException", "{answer}");
    }
    let bare = desk.request("POST", &format!("{AZURE}/{SHA}/statuses")).basic_auth("", Some("t0k"));
    let (status, answer) = refusal(bare.json(&json!({"context": {"name": "a"}})).send().await).await;
    assert_eq!((status, &answer["typeKey"]), (400, &json!("VssVersionNotSpecifiedException")));
}

#[tokio::test]
async fn an_old_azure_refuses_a_newer_version_and_names_its_own() {
    let desk = Desk::new().await;
    let body = json!({"context": {"name": "a"}, "state": "succeeded"});
    assert_eq!(desk.azure("POST", "", body.clone()).await.0, 201);
    desk.forge.azure_latest(5.1);
    let (status, answer) = desk.azure("POST", "", body).await;
    assert_eq!(status, 400);
    assert_eq!(answer["typeKey"], "VssVersionOutOfRangeException");
    assert!(answer["message"].as_str().is_some_and(|message| message.ends_with("supports is 5.1.")), "{answer}");
}

#[tokio::test]
async fn azure_shows_strangers_a_page_that_looks_like_success() {
    let desk = Desk::new().await;
    desk.forge.token("t0k", Access::Write);
    let path = format!("{AZURE}/{SHA}/statuses?api-version=6.0");
    let body = json!({"state": "succeeded", "context": {"name": "a"}});
    for password in [None, Some("bad")] {
        let request = |header: &str| {
            let request = desk.request("POST", &path).header("x-tfs-fedauthredirect", header).json(&body);
            if password.is_some() { request.basic_auth("", password).send() } else { request.send() }
        };
        let answer = request("").await.unwrap();
        assert!(answer.status() == 203 && answer.status().is_success());
        assert!(header(&answer, "content-type").starts_with("text/html"));
        assert!(answer.text().await.unwrap().contains("Sign In"));
        let (status, answer) = refusal(request("Suppress").await).await;
        assert_eq!((status, &answer["typeKey"]), (401, &json!("UnauthorizedRequestException")));
    }
    assert!(desk.forge.statuses(SHA).is_empty());
    for user in ["", "anyone"] {
        let answer = desk.request("POST", &path).basic_auth(user, Some("t0k")).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 201);
    }
}

#[tokio::test]
async fn azure_says_where_things_are_and_slows_down() {
    let desk = Desk::new().await;
    let answer = desk.request("OPTIONS", "/org/_apis").send().await.unwrap();
    let locations: Value = answer.json().await.unwrap();
    assert_eq!(locations["value"][0]["id"], "428dd4fb-fda5-4722-af02-9313b80305da");
    assert_eq!((desk.forge.reads(), desk.forge.writes()), (1, 0));

    desk.forge.fail(Fault::delay(Duration::from_millis(50)).header("retry-after", "30").writes());
    let body = json!({"state": "succeeded", "context": {"name": "a"}});
    let request = desk.request("POST", &format!("{AZURE}/{SHA}/statuses?api-version=7.1")).bearer_auth("t0k");
    let answer = request.json(&body).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), header(&answer, "retry-after")), (201, "30"));
}

// === who may do what, and where ===

#[tokio::test]
async fn tokens_are_checked() {
    let desk = Desk::new().await;
    let state = json!({"state": "success"});
    for api in [Api::GitHub, Api::Gitea] {
        let anonymous = desk.client.post(desk.url(api, &format!("statuses/{SHA}"))).json(&state);
        assert_eq!(anonymous.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
        let by_scheme = desk.client.post(desk.url(api, &format!("statuses/{SHA}"))).json(&state);
        let answer = by_scheme.header("authorization", "token t0k").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
    }
    for (access, read, write) in [(Access::Write, 200, 201), (Access::Read, 200, 403), (Access::Nothing, 404, 404)] {
        desk.forge.token("t0k", access);
        for api in [Api::GitHub, Api::Gitea] {
            assert_eq!(desk.get(api, &format!("commits/{SHA}/statuses")).await.status(), read, "{access:?}");
            assert_eq!(desk.post(api, SHA, &state).await.unwrap().status(), write, "{access:?}");
        }
    }
    desk.forge.token("other", Access::Write);
    let unknown = desk.client.get(desk.url(Api::GitHub, &format!("commits/{SHA}/statuses"))).bearer_auth("bad");
    let (status, body) = refusal(unknown.send().await).await;
    assert_eq!((status, &body["message"]), (401, &json!("Bad credentials")));
}

#[tokio::test]
async fn a_strict_host_knows_only_what_was_added() {
    let desk = Desk::new().await;
    let state = json!({"state": "success"});
    desk.forge.strict();
    for api in [Api::GitHub, Api::Gitea] {
        assert_eq!(desk.post(api, SHA, &state).await.unwrap().status(), 404);
    }
    desk.forge.add_commit("acme/fleet", SHA);
    desk.write(Api::GitHub, "a", "success").await;
    desk.write(Api::Gitea, "a", "success").await;

    let gone = "9".repeat(40);
    let (status, body) = refusal(desk.post(Api::GitHub, &gone, &state).await).await;
    assert_eq!((status, body["message"].as_str()), (422, Some(format!("No commit found for SHA: {gone}").as_str())));
    let (status, body) = refusal(desk.post(Api::Gitea, &gone, &state).await).await;
    assert_eq!(status, 500);
    assert!(body["message"].as_str().unwrap().contains("object does not exist"));
}

/// One write and one read for each of the four that `Api` does not have.
fn others(context: &str) -> [(&'static str, String, String, Value); 4] {
    let gitlab = json!({"state": "success", "name": context});
    let build = json!({"state": "SUCCESSFUL", "key": context, "url": "https://a.example"});
    let azure = json!({"state": "succeeded", "context": {"name": context}});
    let builds = format!("/rest/api/latest/projects/acme/repos/fleet/commits/{SHA}/builds");
    let azure_path = format!("/org/acme/_apis/git/repositories/fleet/commits/{SHA}/statuses?api-version=6.0");
    let cloud = format!("{BITBUCKET}/commit/{SHA}/statuses/build");
    [
        (
            "acme/fleet",
            format!("/api/v4/projects/acme%2Ffleet/statuses/{SHA}"),
            format!("/api/v4/projects/acme%2Ffleet/repository/commits/{SHA}/statuses"),
            gitlab,
        ),
        ("acme/fleet", cloud.clone(), format!("{cloud}/{context}"), build.clone()),
        ("acme/fleet", builds.clone(), format!("{builds}?key={context}"), build),
        ("org/acme/fleet", azure_path.clone(), azure_path, azure),
    ]
}

#[tokio::test]
async fn the_others_check_tokens_and_know_what_was_added() {
    let gone = "9".repeat(40);
    for (number, (repository, write, read, body)) in others("a").into_iter().enumerate() {
        let desk = Desk::new().await;
        let post = |path: &str| desk.request("POST", path).bearer_auth("t0k").json(&body).send();
        for (access, read_status, write_status) in [
            (Access::Write, 200, [201, 201, 204, 201][number]),
            (Access::Read, 200, [403, 403, 401, 403][number]),
            (Access::Nothing, 404, 404),
        ] {
            desk.forge.token("t0k", access);
            assert_eq!(post(&write).await.unwrap().status(), write_status, "{write} {access:?}");
            let answer = desk.request("GET", &read).bearer_auth("t0k").send().await.unwrap();
            assert_eq!(answer.status(), read_status, "{read} {access:?}");
        }
        let answer = desk.request("POST", &write).bearer_auth("bad").json(&body).send().await.unwrap();
        assert_eq!(answer.status(), [401, 401, 401, 203][number], "{write}");

        desk.forge.token("t0k", Access::Write);
        desk.forge.add_commit(repository, SHA);
        desk.forge.strict();
        assert!(post(&write).await.unwrap().status().is_success(), "{write}");
        assert_eq!(post(&write.replace(SHA, &gone)).await.unwrap().status(), 404, "{write}");
        assert_eq!(post(&write.replace("fleet", "gone")).await.unwrap().status(), 404, "{write}");
    }
}

#[tokio::test]
async fn faults_and_flights_are_the_same_for_the_others() {
    for (_, write, _, body) in others("a") {
        let desk = Desk::new().await;
        let post = || desk.request("POST", &write).bearer_auth("t0k").json(&body).send();
        desk.forge.fail(Fault::answer(429).header("retry-after", "2").body("Retry later").writes());
        let answer = post().await.unwrap();
        assert_eq!((answer.status().as_u16(), header(&answer, "retry-after")), (429, "2"));
        assert!(desk.forge.statuses(SHA).is_empty());
        desk.forge.fail(Fault::reset().afterwards());
        assert!(post().await.is_err());
        assert_eq!(desk.forge.statuses(SHA).len(), 1);

        desk.forge.reset_counts();
        desk.forge.fail(Fault::delay(Duration::from_millis(200)).writes().times(2));
        let (one, other) = tokio::join!(post(), post());
        assert!(one.unwrap().status().is_success() && other.unwrap().status().is_success());
        assert_eq!(desk.forge.max_in_flight(SHA, "a"), 2, "{write}");
        assert_eq!(desk.forge.latest(SHA, "a").unwrap().seq, 3);
    }
}

// === faults ===

#[tokio::test]
async fn faults_strike_when_the_script_says() {
    let desk = Desk::new().await;
    let state = json!({"state": "success"});
    desk.forge.fail(Fault::answer(429).header("retry-after", "2").body("slow down").writes().times(2));
    assert!(desk.list(Api::GitHub, "").await.is_empty());
    for _ in 0..2 {
        let answer = desk.post(Api::GitHub, SHA, &state).await.unwrap();
        assert_eq!((answer.status().as_u16(), header(&answer, "retry-after")), (429, "2"));
        assert_eq!(answer.text().await.unwrap(), "slow down");
    }
    assert!(desk.forge.statuses(SHA).is_empty());
    desk.write(Api::GitHub, "a", "success").await;

    desk.forge.fail(Fault::answer(503).every(3).path("acme/fleet").reads());
    let mut answers = Vec::new();
    for _ in 0..6 {
        answers.push(desk.get(Api::GitHub, &format!("commits/{SHA}/statuses")).await.status().as_u16());
    }
    assert_eq!(answers, [200, 200, 503, 200, 200, 503]);
    desk.forge.recover();
    assert_eq!(desk.list(Api::GitHub, "").await.len(), 1);
}

#[tokio::test]
async fn a_fault_by_chance_strikes_a_share_and_is_counted() {
    let desk = Desk::new().await;
    desk.forge.fail(Fault::answer(503).chance(0.5));
    for _ in 0..200 {
        desk.get(Api::GitHub, &format!("commits/{SHA}/statuses")).await;
    }
    let struck = desk.forge.struck();
    assert!((50..150).contains(&struck["503"]) && struck.len() == 1, "{struck:?}");
    desk.forge.recover();
    desk.forge.fail(Fault::answer(502).afterwards());
    let _ = desk.post(Api::GitHub, SHA, &json!({"state": "success"})).await;
    assert_eq!(desk.forge.struck()["502 after"], 1);
}

#[tokio::test]
async fn a_broken_connection_hides_what_happened() {
    let desk = Desk::new().await;
    let state = json!({"state": "success"});
    desk.forge.fail(Fault::reset());
    let error = desk.post(Api::GitHub, SHA, &state).await.unwrap_err();
    assert!(format!("{error:?}").contains("ConnectionReset"), "{error:?}");
    assert!(desk.forge.statuses(SHA).is_empty());

    desk.forge.fail(Fault::reset().afterwards());
    assert!(desk.post(Api::GitHub, SHA, &state).await.is_err());
    assert_eq!(desk.forge.statuses(SHA).len(), 1);

    desk.forge.fail(Fault::half_body());
    let mut answer = desk.post(Api::GitHub, SHA, &state).await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    let promised = answer.content_length().unwrap();
    assert_eq!(answer.chunk().await.unwrap().unwrap().len() as u64, promised / 2);
    assert!(answer.chunk().await.is_err());
    assert_eq!(desk.forge.statuses(SHA).len(), 2);
}

#[tokio::test]
async fn a_hang_ends_with_the_client_or_the_forge() {
    let desk = Desk::new().await;
    desk.forge.fail(Fault::hang().times(2));
    let request = desk.client.get(desk.url(Api::GitHub, "commits/x/statuses")).timeout(Duration::from_millis(50));
    assert!(request.send().await.unwrap_err().is_timeout());

    let hanging = tokio::spawn(desk.post(Api::GitHub, SHA, &json!({"state": "success"})));
    while desk.forge.writes() == 0 {
        tokio::task::yield_now().await;
    }
    drop(desk.forge);
    let answer = tokio::time::timeout(PATIENCE, hanging).await.unwrap().unwrap();
    assert!(answer.is_err());
}

#[tokio::test]
async fn a_hang_can_land_after_its_client_has_left() {
    let desk = Desk::new().await;
    desk.forge.fail(Fault::hang().writes().lands_after(Duration::from_millis(300)));
    // Dropped with the request under way.
    let gone = desk.post(Api::GitHub, SHA, &json!({"state": "success"}));
    assert!(tokio::time::timeout(Duration::from_millis(100), gone).await.is_err());
    assert_eq!(desk.forge.statuses(SHA).len(), 0);
    assert!(desk.forge.until(PATIENCE, |forge| forge.statuses(SHA).len() == 1).await);
    assert_eq!(desk.forge.struck().into_iter().collect::<Vec<_>>(), [("late".to_owned(), 1)]);
}

// === what a test asks the forge ===

#[tokio::test]
async fn overlapping_writes_of_one_status_show() {
    let desk = Desk::new().await;
    desk.forge.fail(Fault::delay(Duration::from_millis(300)).writes().times(3));
    let write = |context: &str| desk.post(Api::GitHub, SHA, &json!({"state": "success", "context": context}));
    let (one, two, other) = tokio::join!(write("A"), write("a"), write("b"));
    assert!(one.is_ok() && two.is_ok() && other.is_ok());
    assert_eq!(desk.forge.max_in_flight(SHA, "a"), 2);
    assert_eq!(desk.forge.max_in_flight(SHA, "b"), 1);
    desk.forge.reset_counts();
    desk.write(Api::GitHub, "a", "success").await;
    assert_eq!(desk.forge.max_in_flight(SHA, "a"), 1);
}

#[tokio::test]
async fn both_protocols_are_spoken() {
    let desk = Desk::new().await;
    let newer = Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    for client in [&desk.client, &newer] {
        let answer = client.post(format!("{}/hook", desk.forge.url())).body("anything").send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "taken\n");
    }
    let versions: Vec<_> = desk.forge.requests().iter().map(|request| request.version).collect();
    assert_eq!(versions, [reqwest::Version::HTTP_11, reqwest::Version::HTTP_2]);
}

#[tokio::test]
async fn everything_is_remembered() {
    let desk = Desk::new().await;
    let mut news = desk.forge.subscribe();
    desk.list(Api::Gitea, "?limit=50&page=1").await;
    desk.write(Api::Gitea, "a", "pending").await;
    let hook = desk.client.post(format!("{}/hook", desk.forge.url())).body("anything").send().await.unwrap();
    assert_eq!(hook.status(), StatusCode::OK);
    desk.client.get(desk.forge.url()).send().await.unwrap();

    assert_eq!((desk.forge.reads(), desk.forge.writes()), (1, 2));
    let requests = desk.forge.requests();
    assert!(requests.is_sorted_by_key(|request| (request.seq, request.at)));
    assert_eq!(requests[0].uri, format!("/api/v1/repos/acme/fleet/commits/{SHA}/statuses?limit=50&page=1"));
    assert_eq!(requests[1].header("authorization"), "Bearer t0k");
    assert_eq!((requests[2].method.as_str(), requests[2].body.as_ref()), ("POST", &b"anything"[..]));

    let status = news.recv().await.unwrap();
    assert_eq!(
        (status.host, status.repository.as_str(), status.state.as_str()),
        (Host::Gitea, "acme/fleet", "pending")
    );
    assert!(desk.forge.until(PATIENCE, |forge| forge.latest(SHA, "a").is_some()).await);
    assert!(!desk.forge.until(Duration::from_millis(20), |forge| forge.latest(SHA, "A").is_some()).await);

    desk.forge.reset_counts();
    assert_eq!((desk.forge.reads(), desk.forge.writes(), desk.forge.requests().len()), (0, 0, 0));
    assert_eq!(desk.forge.statuses(SHA).len(), 1);
}

#[tokio::test]
async fn the_page_shows_the_last_state_of_each_context() {
    let desk = Desk::new().await;
    desk.write(Api::GitHub, "a", "failure").await;
    desk.write(Api::GitHub, "A", "success").await;
    let page = desk.client.get(desk.forge.url()).send().await.unwrap().text().await.unwrap();
    assert!(!page.contains("src=\"http") && !page.contains("href="), "the page must work without a network");
    let overview = desk.client.get(format!("{}/sim/statuses", desk.forge.url())).send().await.unwrap();
    let overview: Value = overview.json().await.unwrap();
    let context = &overview["commits"][0]["contexts"][0];
    assert_eq!((&context["state"], &context["writes"]), (&json!("success"), &json!(2)));
    assert_eq!(context["history"], json!(["failure", "success"]));
}

#[tokio::test]
async fn the_page_knows_the_words_of_all() {
    let desk = Desk::new().await;
    for (_, write, _, mut body) in others("a") {
        body["name"] = "web".into();
        desk.request("POST", &write).bearer_auth("t0k").json(&body).send().await.unwrap();
    }
    for state in ["INPROGRESS", "STOPPED"] {
        let build = json!({"key": "a", "state": state, "url": "https://a.example", "name": "web"});
        assert_eq!(desk.bitbucket("POST", "/build", build).await.0, 201);
    }
    let overview = desk.client.get(format!("{}/sim/statuses", desk.forge.url())).send().await.unwrap();
    let overview: Value = overview.json().await.unwrap();
    let commits = overview["commits"].as_array().unwrap();
    assert_eq!(column(commits, "host"), ["bitbucket", "azuredevops", "bitbucketserver", "gitlab"]);
    let first = |name: &str| commits.iter().map(|commit| commit["contexts"][0][name].clone()).collect::<Vec<_>>();
    assert_eq!(first("label"), ["web", "a", "web", "web"]);
    let good = json!(["success"]);
    assert_eq!(first("kinds"), [json!(["success", "pending", "other"]), good.clone(), good.clone(), good]);
}

// === tokens given out ===

#[tokio::test]
async fn an_app_gets_a_token_for_a_jwt_that_is_signed_and_in_time() {
    let desk = Desk::new().await;
    let (key, other) = (AppKey::new(), AppKey::new());
    assert!(key.pkcs1().starts_with("-----BEGIN RSA PRIVATE KEY-----\nMII"));
    assert!(key.pkcs8().starts_with("-----BEGIN PRIVATE KEY-----\nMII"));
    let app = App { id: 42, key, installation: 77, owner: "acme".into(), organization: false, suspended: false };
    desk.forge.app(app.clone());
    desk.forge.app(App { installation: 78, suspended: true, ..app.clone() });
    let now: jiff::Timestamp = "2026-01-02T15:04:05Z".parse().unwrap();
    desk.forge.freeze_clock(now);
    let now = now.as_second();
    let claims = |iss: &str, exp: i64, iat: i64| json!({"iss": iss, "exp": now + exp, "iat": now + iat});
    let mint = async |installation: u64, jwt: &str| {
        let url = format!("{}/app/installations/{installation}/access_tokens", desk.forge.url());
        desk.client.post(url).bearer_auth(jwt).body("null").send().await
    };
    let good = app.key.jwt(&claims("42", 60, -30));
    for (installation, jwt, status, words) in [
        (77, "no.jwt.atall".to_owned(), 401, "could not be decoded"),
        (77, other.jwt(&claims("42", 60, -30)), 401, "could not be decoded"),
        (77, app.key.jwt(&claims("42", 601, -30)), 401, "too far in the future"),
        (77, app.key.jwt(&claims("42", 0, -30)), 401, "must be a numeric value"),
        (77, app.key.jwt(&claims("42", 60, 1)), 401, "('iat') must be an Integer"),
        (77, app.key.jwt(&claims("43", 60, -30)), 404, "Integration not found"),
        (79, good.clone(), 404, "Not Found"),
        (78, good.clone(), 403, "suspended"),
    ] {
        let (code, body) = refusal(mint(installation, &jwt).await).await;
        assert_eq!(code, status, "{words}");
        assert!(body["message"].as_str().unwrap().contains(words), "{body}");
    }
    let find = async |kind: &str| {
        let url = format!("{}/api/v3/{kind}/ACME/installation", desk.forge.url());
        desk.client.get(url).bearer_auth(&good).send().await.unwrap()
    };
    assert_eq!(find("orgs").await.status(), 404);
    assert_eq!(find("users").await.json::<Value>().await.unwrap()["id"], 77);

    desk.forge.token_life(Duration::from_secs(60));
    let answer = mint(77, &good).await.unwrap();
    assert_eq!(answer.status(), 201);
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["expires_at"], "2026-01-02T15:05:05Z");
    let token = answer["token"].as_str().unwrap();
    assert_eq!(desk.forge.minted(), [token]);
    let read = async |token: &str| {
        let url = desk.url(Api::GitHub, &format!("commits/{SHA}/statuses"));
        desk.client.get(url).bearer_auth(token).send().await.unwrap().status().as_u16()
    };
    assert_eq!((read(token).await, read("another").await, read(&good).await), (200, 401, 401));
    desk.forge.freeze_clock(jiff::Timestamp::from_second(now + 60).unwrap());
    assert_eq!(read(token).await, 401, "its time is over");
    let later = app.key.jwt(&claims("42", 120, 30));
    let token = mint(77, &later).await.unwrap().json::<Value>().await.unwrap()["token"].as_str().unwrap().to_owned();
    assert_eq!(read(&token).await, 200);
    desk.forge.withdraw();
    assert_eq!(read(&token).await, 401);
}

#[tokio::test]
async fn entra_gives_a_token_for_an_assertion_it_trusts() {
    let desk = Desk::new().await;
    let application = Application { tenant: "t".into(), client: "c".into(), subject: "s".into() };
    desk.forge.application(application.clone());
    const SCOPE: &str = "499b84ac-1321-427f-aa17-267ca6975798/.default";
    const KIND: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    let ask = async |tenant: &str, client: &str, kind: &str, assertion: &str, scope: &str| {
        let form = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("client_assertion", assertion), ("client_assertion_type", kind), ("client_id", client)])
            .extend_pairs([("grant_type", "client_credentials"), ("scope", scope)])
            .finish();
        let request = desk.client.post(format!("{}/{tenant}/oauth2/v2.0/token", desk.forge.url()));
        request.header("content-type", "application/x-www-form-urlencoded").body(form).send().await
    };
    let good = application.assertion();
    let stranger = Application { subject: "x".into(), ..application.clone() }.assertion();
    for (tenant, client, kind, assertion, scope, number) in [
        ("t", "c", KIND, "", SCOPE, 900_144),
        ("t", "c", "", good.as_str(), SCOPE, 900_144),
        ("t", "c", "password", &good, SCOPE, 70_003),
        ("t", "c", KIND, &good, "https://graph.test/.default", 70_011),
        ("t", "d", KIND, &good, SCOPE, 700_016),
        ("u", "c", KIND, &good, SCOPE, 700_016),
        ("t", "c", KIND, &stranger, SCOPE, 70_021),
        ("t", "c", KIND, "no.jwt", SCOPE, 70_021),
    ] {
        let (code, body) = refusal(ask(tenant, client, kind, assertion, scope).await).await;
        assert_eq!((code, &body["error_codes"][0]), (400, &json!(number)), "{body}");
    }
    let answer: Value = ask("t", "c", KIND, &good, SCOPE).await.unwrap().json().await.unwrap();
    assert_eq!(answer["token_type"], "Bearer");
    assert!((3598..=3600).contains(&answer["expires_in"].as_i64().unwrap()), "{answer}");
    let url = format!("{}/org/project/_apis/git/repositories/fleet/commits/{SHA}/statuses", desk.forge.url());
    let read = async |token: &str| {
        let request = desk.client.get(&url).header("x-tfs-fedauthredirect", "Suppress").bearer_auth(token);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!((read(answer["access_token"].as_str().unwrap()).await, read(&good).await), (200, 401));
}

#[tokio::test]
async fn a_fault_can_answer_with_the_request() {
    let desk = Desk::new().await;
    desk.forge.fail(Fault::answer(400).echo());
    let answer = desk.post(Api::GitHub, SHA, &json!({"state": "success"})).await.unwrap();
    assert_eq!(answer.status(), 400);
    let body = answer.text().await.unwrap();
    assert!(body.contains("authorization: Bearer t0k") && body.ends_with(r#"{"state":"success"}"#), "{body}");

    desk.forge.fail(Fault::answer(400).echo().quoted(|text| format!("<{text}>")));
    let answer = desk.post(Api::GitHub, SHA, &json!({"state": "success"})).await.unwrap();
    let body = answer.text().await.unwrap();
    assert!(body.contains("authorization: <Bearer t0k") && body.ends_with(r#"<{"state":"success"}>"#), "{body}");
}
