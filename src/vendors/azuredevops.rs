//! Type `azuredevops`: commit statuses at Azure DevOps Services and Server.
//!
//! API: "Statuses" of the Git REST API, version 6.0, or an older one that an older server names. A status is identified by genre and name; the
//! genre holds the Alert's summary.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName};
use http::{HeaderValue, StatusCode};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use url::Url;

use super::forge::{self, Repository, Words};
use super::rows::{Moment, Rows, Text};
use super::{BuildError, Listed, Listing, Service, Statuses};
use crate::compose::{CommitStatus, Wording};
use crate::outbound::auth::Identity;
use crate::outbound::{Request, SendError, Sent, Target, basic};

pub(super) const WORDING: Wording = Wording { summary_is_identity: true, ..Wording::PLAIN };

/// What a workload identity's token is asked for: Azure DevOps' own number in Entra.
const SCOPE: &str = "499b84ac-1321-427f-aa17-267ca6975798/.default";

const WORDS: Words = Words { pending: "pending", success: "succeeded", failure: "error" };

/// `Accept` with the version of the API, newest first. Azure DevOps Server 2019 ends at 5.1, Team Foundation Server
/// 2015 at 2.0, which is the first that has statuses of commits.
const VERSIONS: [(f32, &str); 5] = [
    (6.0, "application/json;api-version=6.0"),
    (5.0, "application/json;api-version=5.0"),
    (4.0, "application/json;api-version=4.0"),
    (3.0, "application/json;api-version=3.0"),
    (2.0, "application/json;api-version=2.0"),
];

struct AzureDevOps {
    target: Target,
    repository: Url,
    /// Which of [`VERSIONS`] this server understands, as far as it was asked.
    version: AtomicUsize,
    /// From a personal access token; a workload identity's comes with each request.
    authorization: Option<HeaderValue>,
}

pub(super) fn build(mut target: Target) -> Result<Service, BuildError> {
    let repository = Repository::parse(target.address.expose())?;
    let (organisation, project, name) = parts(&repository).ok_or_else(|| {
        BuildError::address(
            "spec.address does not name organisation, project and repository; write it like \
             https://dev.azure.com/organisation/project/_git/repository",
        )
    })?;
    let base = target.api_url.clone().unwrap_or(organisation);
    let repository = forge::under(&base, &[&project, "_apis", "git", "repositories", &name]);
    let authorization = match (&target.token, &target.identity) {
        (Some(token), _) => Some(basic(b"", token.expose().as_bytes()).ok_or_else(forge::unusable_token)?),
        (None, Some(Identity::Azure(azure))) => {
            if target.api_url.is_some() || !(is_azure(&base) || azure.simulates(&base)) {
                return Err(BuildError::credentials(
                    "the token of a workload identity is sent to https://dev.azure.com and nowhere else, whatever \
                     spec.address and annotation herald.sh/api-url say; for another server put a personal access token \
                     into key token of the Secret of spec.secretRef",
                ));
            }
            target.credentials = Some(azure.credentials(SCOPE));
            None
        }
        (None, _) => {
            return Err(BuildError::credentials(
                "the Secret of spec.secretRef has no key token; put a personal access token there with the scope \
                 Code (status), or give the Provider a workload identity",
            ));
        }
    };
    let version = AtomicUsize::new(0);
    Ok(Service::Statuses(Box::new(AzureDevOps { target, repository, version, authorization })))
}

/// Whether this is Azure's own service: any tenant chooses the address of a Provider, and the token is not the
/// tenant's.
fn is_azure(base: &Url) -> bool {
    base.origin().ascii_serialization() == "https://dev.azure.com"
}

/// Address of the organisation, project and repository, out of each way they are written.
fn parts(repository: &Repository) -> Option<(Url, String, String)> {
    let path: Vec<&str> = repository.path.split('/').filter(|part| !part.is_empty()).collect();
    if !path.iter().all(|part| forge::is_segment(part)) {
        return None;
    }
    // Azure compares organisations without regard to case, and the peer writes them so.
    let services = |organisation: &str| {
        let url = Url::parse("https://dev.azure.com/").expect("a constant");
        forge::under(&url, &[&organisation.to_lowercase()])
    };
    let host = repository.host();
    if host == "ssh.dev.azure.com" || host == "vs-ssh.visualstudio.com" {
        // git@ssh.dev.azure.com:v3/organisation/project/repository
        let [_, organisation, project, name] = path[..] else { return None };
        return Some((services(organisation), project.into(), name.into()));
    }
    let is_services = host == "dev.azure.com" || host.ends_with(".visualstudio.com");
    let (organisation, project, name) = match path.iter().rposition(|part| matches!(*part, "_git" | "_ssh")) {
        Some(at) => {
            let name = repository_after(&path[at + 1..])?;
            // A repository that has the name of its project is shown without it.
            let collection_only = match &path[..at] {
                [] => true,
                [.., last] if last.eq_ignore_ascii_case("DefaultCollection") => true,
                [_] => host == "dev.azure.com" || !is_services,
                _ => false,
            };
            if collection_only { (&path[..at], name, name) } else { (&path[..at - 1], path[at - 1], name) }
        }
        None if path.len() == 4 => (&path[..1], path[1], path[3]),
        None => return None,
    };
    if let Some(organisation_name) = host.strip_suffix(".visualstudio.com") {
        return Some((services(organisation_name), project.into(), name.into()));
    }
    if organisation.is_empty() {
        return None;
    }
    let lower: Vec<String> = organisation.iter().map(|part| part.to_lowercase()).collect();
    let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
    Some((forge::under(&repository.origin, &lower), project.into(), name.into()))
}

/// What follows a repository in the addresses of its pages.
const PAGES: [&str; 9] = [
    "branchcompare",
    "branches",
    "commit",
    "commits",
    "pullrequest",
    "pullrequestcreate",
    "pullrequests",
    "pushes",
    "tags",
];

/// The repository in what follows `_git`: alone, marked as whole or not (`_full`), or with a page of it.
fn repository_after<'a>(path: &[&'a str]) -> Option<&'a str> {
    let path = path.strip_prefix(&["_full"]).or(path.strip_prefix(&["_optimized"])).unwrap_or(path);
    match path {
        [name] => Some(name),
        [name, page, ..] if PAGES.contains(&page.to_ascii_lowercase().as_str()) => {
            Some(name.strip_suffix(".git").unwrap_or(name))
        }
        _ => None,
    }
}

#[derive(Deserialize)]
struct Answer {
    value: Rows<Row>,
}

#[derive(Deserialize)]
struct Row {
    id: Option<i64>,
    state: Option<String>,
    description: Option<Text>,
    context: Option<Context<String>>,
    #[serde(default, rename = "creationDate")]
    creation_date: Moment,
}

#[derive(Deserialize, Serialize)]
struct Context<T> {
    genre: Option<T>,
    name: Option<T>,
}

/// The request body; the peer's fields in the peer's order.
#[derive(Serialize)]
struct Body<'a> {
    context: Context<&'a str>,
    description: &'a str,
    state: &'static str,
}

fn genre(summary: Option<&str>) -> String {
    summary.map_or_else(|| "fluxcd".to_owned(), |summary| format!("fluxcd:{summary}"))
}

impl AzureDevOps {
    fn dressed(&self, request: Request) -> Request {
        // Without it a bad token is answered with a redirect to a page.
        let request = request.header(HeaderName::from_static("x-tfs-fedauthredirect"), "Suppress");
        match &self.authorization {
            Some(authorization) => request.authorization(authorization),
            None => request,
        }
    }

    /// Carries out a request in the newest version of the API that the server is known to understand, and in an older
    /// one when it answers that it does not. Such a refusal comes before anything is done.
    async fn send(&self, request: Request) -> Result<Sent, SendError> {
        let mut version = self.version.load(Ordering::Relaxed);
        loop {
            let sent = self.target.send(self.dressed(request.clone()).header(ACCEPT, VERSIONS[version].1)).await;
            let Some(older) = sent.as_ref().err().and_then(|error| older(version, error)) else { return sent };
            version = older;
            self.version.fetch_max(version, Ordering::Relaxed);
        }
    }

    fn url(&self, status: &CommitStatus, query: &str) -> Url {
        let path = format!("commits/{}/statuses{query}", status.commit);
        self.repository.join(&path).expect("a commit always joins")
    }
}

/// The version to ask in after this answer: at most what the server says it has, or the next older one. A minor
/// version may be a preview there, which has to be asked for in another way. `None` when the version is not the fault.
fn older(version: usize, error: &SendError) -> Option<usize> {
    let SendError::Status { status: StatusCode::BAD_REQUEST, body, .. } = error else { return None };
    if !["VssVersionOutOfRangeException", "VssInvalidPreviewVersionException"].iter().any(|kind| body.contains(kind)) {
        return None;
    }
    let named = body.split("this server supports is ").nth(1).and_then(|rest| {
        let end = rest.find(|sign: char| !sign.is_ascii_digit() && sign != '.').unwrap_or(rest.len());
        rest[..end].trim_end_matches('.').parse::<f32>().ok()
    });
    let known = |other: &usize| named.is_none_or(|named| VERSIONS[*other].0 <= named);
    (version + 1..VERSIONS.len()).find(known)
}

impl Statuses for AzureDevOps {
    fn repository(&self) -> &str {
        self.repository.as_str()
    }

    fn reads_whole_commits(&self) -> bool {
        true
    }

    fn read<'a>(&'a self, status: &'a CommitStatus) -> BoxFuture<'a, Result<Listing, SendError>> {
        let request = Request::get(self.url(status, "?latestOnly=true&top=1000"));
        async move {
            let sent = self.send(request).await?;
            let answer: Answer = sent.json()?;
            let rows = answer.value.0.into_iter().filter_map(|row| {
                let context = row.context?;
                let genre = context.genre.unwrap_or_default();
                // Other genres are other people's; of ours, what follows the prefix is the summary.
                let summary = match genre.strip_prefix("fluxcd")? {
                    "" => None,
                    rest => Some(rest.strip_prefix(':')?),
                };
                let name = WORDING.identity(&context.name?, summary);
                let said = WORDS.said(row.state.as_deref(), row.description);
                let written = forge::written(&self.target, &sent, row.creation_date);
                Some((row.id, name, Listed { said, written }))
            });
            Ok(Listing::newest(rows))
        }
        .boxed()
    }

    fn write<'a>(&'a self, status: &'a CommitStatus) -> BoxFuture<'a, Result<(), SendError>> {
        let genre = genre(status.summary.as_deref());
        let body = Body {
            context: Context { genre: Some(&genre), name: Some(&status.name) },
            description: &status.description,
            state: WORDS.of(status.state),
        };
        let body = serde_json::to_vec(&body).expect("text always encodes");
        let request =
            Request::post_json(self.url(status, ""), body).header(CONTENT_TYPE, "application/json;charset=utf-8");
        async move { self.send(request).await?.json::<IgnoredAny>().map(drop) }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// spec/git-providers.md 1.8, its last rows, and what else Azure DevOps offers for cloning.
    #[test]
    fn addresses_as_people_write_them() {
        for (address, organisation, project, name) in [
            ("https://dev.azure.com/org/proj/_git/repo", "https://dev.azure.com/org/", "proj", "repo"),
            ("https://org@dev.azure.com/Org/Proj/_git/Repo", "https://dev.azure.com/org/", "Proj", "Repo"),
            ("https://dev.azure.com/org/proj/_git/repo.git/", "https://dev.azure.com/org/", "proj", "repo"),
            ("https://DEV.azure.com:443/org/proj/_git/repo", "https://dev.azure.com/org/", "proj", "repo"),
            ("dev.azure.com/org/proj/_git/repo", "https://dev.azure.com/org/", "proj", "repo"),
            ("https://dev.azure.com/org/My%20Proj/_git/My.Repo", "https://dev.azure.com/org/", "My Proj", "My.Repo"),
            // The peer takes whatever stands third.
            ("https://dev.azure.com/org/proj/x/repo", "https://dev.azure.com/org/", "proj", "repo"),
            ("git@ssh.dev.azure.com:v3/org/proj/repo", "https://dev.azure.com/org/", "proj", "repo"),
            ("ssh://git@ssh.dev.azure.com:22/v3/Org/proj/repo", "https://dev.azure.com/org/", "proj", "repo"),
            ("org@vs-ssh.visualstudio.com:v3/org/proj/repo", "https://dev.azure.com/org/", "proj", "repo"),
            ("https://dev.azure.com/org/_git/repo", "https://dev.azure.com/org/", "repo", "repo"),
            ("https://org.visualstudio.com/_git/repo", "https://dev.azure.com/org/", "repo", "repo"),
            ("https://org.visualstudio.com/DefaultCollection/_git/repo", "https://dev.azure.com/org/", "repo", "repo"),
            ("https://tfs.example.org/Coll/_git/repo", "https://tfs.example.org/coll/", "repo", "repo"),
            (
                "http://tfs.example.org/tfs/DefaultCollection/_git/repo",
                "http://tfs.example.org/tfs/defaultcollection/",
                "repo",
                "repo",
            ),
            (
                "https://dev.azure.com/org/proj/_git/repo?path=/a&version=GBmain",
                "https://dev.azure.com/org/",
                "proj",
                "repo",
            ),
            ("https://dev.azure.com/org/proj/_git/repo/pullrequest/7", "https://dev.azure.com/org/", "proj", "repo"),
            (
                "https://dev.azure.com/org/proj/_git/repo/branchCompare?x=1",
                "https://dev.azure.com/org/",
                "proj",
                "repo",
            ),
            ("https://dev.azure.com/org/proj/_git/repo/commits#x", "https://dev.azure.com/org/", "proj", "repo"),
            ("https://dev.azure.com/org/proj/_git/_full/repo", "https://dev.azure.com/org/", "proj", "repo"),
            ("https://dev.azure.com/org/proj/_git/_optimized/repo", "https://dev.azure.com/org/", "proj", "repo"),
            ("ssh://org@org.visualstudio.com:22/proj/_ssh/repo", "https://dev.azure.com/org/", "proj", "repo"),
            ("https://org.visualstudio.com/proj/_git/repo", "https://dev.azure.com/org/", "proj", "repo"),
            (
                "https://org.visualstudio.com/DefaultCollection/proj/_git/repo",
                "https://dev.azure.com/org/",
                "proj",
                "repo",
            ),
            (
                "https://tfs.example.org/Collection/proj/_git/repo",
                "https://tfs.example.org/collection/",
                "proj",
                "repo",
            ),
            (
                "http://tfs.example.org:8080/tfs/Collection/proj/_git/repo",
                "http://tfs.example.org:8080/tfs/collection/",
                "proj",
                "repo",
            ),
        ] {
            let parts = parts(&Repository::parse(address).expect(address)).unwrap_or_else(|| panic!("{address}"));
            assert_eq!(
                (parts.0.as_str(), parts.1.as_str(), parts.2.as_str()),
                (organisation, project, name),
                "{address}"
            );
        }
    }

    #[test]
    fn what_names_no_repository_is_refused() {
        for address in [
            "https://dev.azure.com/org/proj",
            "https://dev.azure.com/org/proj/repo",
            "https://dev.azure.com/org/proj/_git",
            "https://dev.azure.com/org/proj/_git/repo/branch",
            "https://dev.azure.com/_git/repo",
            "https://tfs.example.org/_git/repo",
            "git@ssh.dev.azure.com:org/proj/repo",
            "https://dev.azure.com/org%2F../proj/_git/repo",
        ] {
            assert_eq!(parts(&Repository::parse(address).expect(address)), None, "{address}");
        }
    }

    #[test]
    fn the_next_version_is_one_that_the_server_has() {
        let refusal = |status: u16, body: &str| SendError::Status {
            status: StatusCode::from_u16(status).expect("valid"),
            retry_after: None,
            body: body.to_owned(),
        };
        let latest = |named: &str| {
            let message = format!("6.0 is out of range. The latest REST API version this server supports is {named}.");
            refusal(400, &format!(r#"{{"message":"{message}","typeKey":"VssVersionOutOfRangeException"}}"#))
        };
        for (version, error, expected) in [
            (0, latest("5.1"), Some(1)),
            (0, latest("5.0"), Some(1)),
            (0, latest("4.1"), Some(2)),
            (0, latest("2.3"), Some(4)),
            (0, latest("1.0"), None),
            (1, latest("5.1"), Some(2)),
            (0, refusal(400, "VssInvalidPreviewVersionException"), Some(1)),
            (4, refusal(400, "VssVersionOutOfRangeException"), None),
            (0, refusal(400, "another"), None),
            (0, refusal(404, "VssVersionOutOfRangeException"), None),
        ] {
            assert_eq!(older(version, &error), expected, "{version} {error:?}");
        }
    }

    #[test]
    fn the_summary_is_in_the_genre() {
        assert_eq!(genre(None), "fluxcd");
        assert_eq!(genre(Some("sum: x")), "fluxcd:sum: x");
    }
}
