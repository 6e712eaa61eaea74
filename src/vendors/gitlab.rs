//! Type `gitlab`: commit statuses at gitlab.com and GitLab servers.
//!
//! API: "Commits API", *List the statuses of a commit* and *Set the pipeline status of a commit*, of
//! GitLab's documentation. A description has 255 characters at most (`lib/api/commit_statuses.rb`).
//! So does the name of a job ("CI/CD jobs"), and a status is shown as one.

use futures::FutureExt;
use futures::future::BoxFuture;
use http::HeaderValue;
use http::header::{ACCEPT, HeaderName};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use url::Url;

use super::forge::{self, Repository, Words};
use super::rows::{Moment, Name, Rows, Text};
use super::{BuildError, Listed, Listing, Service, Statuses};
use crate::compose::{CommitStatus, Wording};
use crate::outbound::{Request, SendError, Target, sensitive};

pub(super) const WORDING: Wording = Wording { name: 255, description: Some(255), ..Wording::PLAIN };

const WORDS: Words = Words { pending: "pending", success: "success", failure: "failed" };

const PRIVATE_TOKEN: HeaderName = HeaderName::from_static("private-token");

struct GitLab {
    target: Target,
    project: Url,
    token: HeaderValue,
}

pub(super) fn build(target: Target) -> Result<Service, BuildError> {
    let (base, repository) = Repository::parse(target.address.expose())?.api(&target, "api/v4/");
    let project = project(&base, &repository.path).ok_or_else(|| {
        BuildError::address(
            "spec.address names no project; write it like https://gitlab.com/group/project or https://gitlab.com/1234",
        )
    })?;
    let token = sensitive(forge::token(&target)?.expose()).ok_or_else(forge::unusable_token)?;
    Ok(Service::Statuses(Box::new(GitLab { target, project, token })))
}

/// The project in the API. Its path is one segment with its slashes encoded, or a number. What follows `/-/` is a
/// page of it; any other part may be a group, and `projects/1234` leads to a project's page by its number.
fn project(base: &Url, path: &str) -> Option<Url> {
    let path = path.split_once("/-/").map_or(path, |(project, _)| project);
    let path = path.strip_suffix("/-").unwrap_or(path);
    let path = path.strip_suffix(".git").unwrap_or(path);
    let number = path.strip_prefix("projects/").filter(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
    let path = number.filter(|number| !number.is_empty()).unwrap_or(path);
    if !path.split('/').all(forge::is_segment) {
        return None;
    }
    base.join(&format!("projects/{}/", forge::one_segment(path))).ok()
}

#[derive(Deserialize)]
struct Row {
    id: Option<i64>,
    name: Option<Name>,
    status: Option<String>,
    description: Option<Text>,
    #[serde(default)]
    created_at: Moment,
    /// A row that is written over keeps when it was made, and has this.
    #[serde(default)]
    finished_at: Moment,
}

/// The request body; the peer's fields in the peer's order.
#[derive(Serialize)]
struct Body<'a> {
    state: &'static str,
    name: &'a str,
    description: &'a str,
}

impl GitLab {
    fn dressed(&self, mut request: Request) -> Request {
        request.headers.insert(PRIVATE_TOKEN, self.token.clone());
        request.header(ACCEPT, "application/json")
    }

    fn url(&self, path: &str) -> Url {
        self.project.join(path).expect("a commit always joins")
    }
}

impl Statuses for GitLab {
    fn repository(&self) -> &str {
        self.project.as_str()
    }

    fn reads_whole_commits(&self) -> bool {
        false
    }

    /// Asks for the one name: the list of a large pipeline has a row for each of its jobs.
    fn read<'a>(&'a self, status: &'a CommitStatus) -> BoxFuture<'a, Result<Listing, SendError>> {
        let mut url = self.url(&format!("repository/commits/{}/statuses", status.commit));
        url.query_pairs_mut().append_pair("name", &status.name).append_pair("per_page", "100");
        async move {
            let answer = self.target.send(self.dressed(Request::get(url))).await?;
            let Rows(rows): Rows<Row> = answer.json()?;
            let ours =
                rows.into_iter().filter(|row| row.name.as_ref().is_some_and(|Name(name)| **name == *status.name));
            let newest = ours.max_by_key(|row| row.id).map(|row| {
                let said = WORDS.said(row.status.as_deref(), row.description);
                let moment = Moment(row.created_at.0.max(row.finished_at.0));
                Listed { said, written: forge::written(&self.target, &answer, moment) }
            });
            Ok(Listing::of_one(&status.name, newest))
        }
        .boxed()
    }

    fn write<'a>(&'a self, status: &'a CommitStatus) -> BoxFuture<'a, Result<(), SendError>> {
        let body = Body { state: WORDS.of(status.state), name: &status.name, description: &status.description };
        let body = serde_json::to_vec(&body).expect("text always encodes");
        let request = self.dressed(Request::post_json(self.url(&format!("statuses/{}", status.commit)), body));
        async move {
            match self.target.send(request).await {
                // GitLab refuses a transition to the state the job is in: then it says so already.
                Err(SendError::Status { status, body, .. })
                    if status.as_u16() == 400 && body.contains("Cannot transition status") =>
                {
                    Ok(())
                }
                answer => answer?.json::<IgnoredAny>().map(drop),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project_of(address: &str) -> Option<String> {
        let repository = Repository::parse(address).expect(address);
        let base = repository.origin.join("api/v4/").expect("it joins");
        project(&base, &repository.path).map(String::from)
    }

    #[test]
    fn a_project_is_one_segment_as_the_peer_encodes_it() {
        for (address, project) in [
            ("https://gitlab.com/foo/bar.git", "https://gitlab.com/api/v4/projects/foo%2Fbar/"),
            ("https://gitlab.com/foo/bar/", "https://gitlab.com/api/v4/projects/foo%2Fbar/"),
            ("git@gitlab.com:group/sub.x/proj.git", "https://gitlab.com/api/v4/projects/group%2Fsub%2Ex%2Fproj/"),
            ("https://g.example.org:8443/a/b/c/d.git", "https://g.example.org:8443/api/v4/projects/a%2Fb%2Fc%2Fd/"),
            ("https://gitlab.com/a/b/-/tree/main/x", "https://gitlab.com/api/v4/projects/a%2Fb/"),
            ("https://gitlab.com/a/b/c/-/merge_requests/3?tab=x", "https://gitlab.com/api/v4/projects/a%2Fb%2Fc/"),
            ("https://gitlab.com/a/b.git/-/commits/main", "https://gitlab.com/api/v4/projects/a%2Fb/"),
            ("https://gitlab.com/a/b/-", "https://gitlab.com/api/v4/projects/a%2Fb/"),
            ("https://gitlab.com/a/-b/-c", "https://gitlab.com/api/v4/projects/a%2F-b%2F-c/"),
            ("https://GITLAB.com/a/b/-/-/c", "https://gitlab.com/api/v4/projects/a%2Fb/"),
            // A group may be called that.
            ("https://gitlab.com/a/tree/main", "https://gitlab.com/api/v4/projects/a%2Ftree%2Fmain/"),
            ("https://gitlab.com/projects/1234", "https://gitlab.com/api/v4/projects/1234/"),
            ("https://gitlab.com/projects/a1", "https://gitlab.com/api/v4/projects/projects%2Fa1/"),
            ("https://gitlab.com/1234", "https://gitlab.com/api/v4/projects/1234/"),
            ("http://gitlab.com/a_b/c-d", "http://gitlab.com/api/v4/projects/a_b%2Fc-d/"),
            ("https://gitlab.com/a%20b/c?x#y", "https://gitlab.com/api/v4/projects/a%20b%2Fc/"),
            ("https://gitlab.com/.../x", "https://gitlab.com/api/v4/projects/%2E%2E%2E%2Fx/"),
        ] {
            assert_eq!(project_of(address).as_deref(), Some(project), "{address}");
        }
    }

    #[test]
    fn what_names_no_project_is_refused() {
        for address in
            ["https://gitlab.com", "https://gitlab.com/.git", "https://gitlab.com/%2F..", "https://gitlab.com/a//b"]
        {
            assert_eq!(project_of(address), None, "{address}");
        }
    }
}
