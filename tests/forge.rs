//! The simulated Git host against what it promises: a wrong host would make every other test worthless.
//!
//! One test a rule, asked over HTTP as a controller would.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::disallowed_methods, reason = "the bodies that the forge answers are small")]

#[path = "support/forge/mod.rs"]
mod forge;

use std::time::Duration;

use forge::{Access, Fault, Forge, Host};
use reqwest::{Client, Response, StatusCode};
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
