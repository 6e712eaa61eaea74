//! Type `bitbucketserver`: build statuses at Bitbucket Data Center.
//!
//! API: `/rest/api/latest/projects/{project}/repos/{repo}/commits/{commit}/builds` of its REST
//! description. Key and name have 255 characters at most; the peer's key is the SHA-1 of the name.

use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::HeaderName;
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use url::Url;

use super::forge::{self, Words};
use super::{BuildError, Listing, Service, Statuses};
use crate::compose::text::cut;
use crate::compose::{CommitStatus, Wording};
use crate::outbound::{Request, SendError, Target, basic, sensitive};

pub(super) const WORDING: Wording = Wording::PLAIN;

const WORDS: Words = Words { pending: "INPROGRESS", success: "SUCCESSFUL", failure: "FAILED" };

struct BitbucketServer {
    target: Target,
    repository: Url,
    /// The address as it was written, without a password: the server wants a link.
    link: String,
    authorization: HeaderValue,
}

pub(super) fn build(target: Target) -> Result<Service, BuildError> {
    let (repository, link) = parts(target.address.expose()).ok_or_else(|| {
        BuildError::address(
            "spec.address is not the clone address of a repository by HTTP; write it like \
             https://host/context/scm/project/repository.git",
        )
    })?;
    let authorization = match (&target.token, &target.username, &target.password) {
        (Some(token), ..) => sensitive(&format!("Bearer {}", token.expose())),
        (None, Some(user), Some(password)) => basic(user.expose().as_bytes(), password.expose().as_bytes()),
        _ => {
            return Err(BuildError::credentials(
                "the Secret of spec.secretRef has neither key token nor keys username and password",
            ));
        }
    }
    .ok_or_else(forge::unusable_token)?;
    Ok(Service::Statuses(Box::new(BitbucketServer { target, repository, link, authorization })))
}

/// Out of a clone address: where the repository is in the API, and the link.
fn parts(written: &str) -> Option<(Url, String)> {
    let mut address = Url::parse(written).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    address.set_password(None).ok()?;
    address.set_username("").ok()?;
    let link = if written.contains('@') { address.to_string() } else { written.to_owned() };
    let (context, project, name) = in_path(address.path())?;
    let path = format!("{context}/rest/api/latest/projects/{project}/repos/{name}/");
    let mut repository = address;
    repository.set_query(None);
    repository.set_fragment(None);
    repository.set_path(&path);
    Some((repository, link))
}

/// Context path, project and repository of a clone address, or of a page of the repository: a person's repositories
/// are in the project `~name`.
fn in_path(path: &str) -> Option<(&str, String, &str)> {
    let named = |text: &str| !text.is_empty() && !text.contains('/');
    // The last one: a context path may hold `scm` itself.
    if let Some((context, rest)) = path.rsplit_once("/scm/") {
        let (project, name) = rest.trim_matches('/').split_once('/')?;
        let name = name.strip_suffix(".git").unwrap_or(name);
        return Some((context, project.to_owned(), name)).filter(|_| named(project) && named(name));
    }
    let (front, rest) = path.rsplit_once("/repos/")?;
    let name = rest.split('/').next().filter(|name| named(name))?;
    let whose = [("/projects/", ""), ("/users/", "~")];
    let (context, project, mark) = whose.into_iter().find_map(|(kind, mark)| {
        let (context, project) = front.rsplit_once(kind)?;
        named(project).then_some((context, project, mark))
    })?;
    Some((context, format!("{mark}{project}"), name))
}

/// The request body; the peer's fields in the peer's order.
#[derive(Serialize)]
struct Body<'a> {
    description: &'a str,
    key: &'a str,
    name: String,
    state: &'static str,
    url: &'a str,
}

impl BitbucketServer {
    fn dressed(&self, request: Request) -> Request {
        request
            .header(HeaderName::from_static("x-atlassian-token"), "no-check")
            .header(HeaderName::from_static("x-requested-with"), "XMLHttpRequest")
            .authorization(&self.authorization)
    }

    fn url(&self, status: &CommitStatus) -> Url {
        self.repository.join(&format!("commits/{}/builds", status.commit)).expect("a commit always joins")
    }
}

impl Statuses for BitbucketServer {
    fn repository(&self) -> &str {
        self.repository.as_str()
    }

    fn reads_whole_commits(&self) -> bool {
        false
    }

    fn read<'a>(&'a self, status: &'a CommitStatus) -> BoxFuture<'a, Result<Listing, SendError>> {
        let mut url = self.url(status);
        url.query_pairs_mut().append_pair("key", &forge::key(&status.name));
        async move {
            let answer = self.target.send(self.dressed(Request::get(url))).await;
            // It has an answer without a body, too, for "none".
            let found = forge::found(answer)?.filter(|answer| answer.status != StatusCode::NO_CONTENT);
            forge::keyed(&self.target, found, &WORDS, &status.name)
        }
        .boxed()
    }

    fn write<'a>(&'a self, status: &'a CommitStatus) -> BoxFuture<'a, Result<(), SendError>> {
        let key = forge::key(&status.name);
        let body = Body {
            description: &status.description,
            key: &key,
            name: cut(&format!("{} [{}]", status.label, status.description), 255),
            state: WORDS.of(status.state),
            url: &self.link,
        };
        let body = serde_json::to_vec(&body).expect("text always encodes");
        let request = self.dressed(Request::post_json(self.url(status), body));
        // Its description names 204 without a body; a proxy may make a 200 of it.
        async move { self.target.send(request).await?.empty_or_json() }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clone_addresses() {
        const API: &str = "rest/api/latest/projects";
        for (address, repository, link) in [
            ("https://host/scm/proj/repo.git", format!("https://host/{API}/proj/repos/repo/"), None),
            ("https://host/scm/proj/repo", format!("https://host/{API}/proj/repos/repo/"), None),
            ("https://host/scm/proj/repo.git/", format!("https://host/{API}/proj/repos/repo/"), None),
            ("http://host:7990/ctx/scm/proj/repo.git", format!("http://host:7990/ctx/{API}/proj/repos/repo/"), None),
            ("https://host/scm/scm/proj/repo.git", format!("https://host/scm/{API}/proj/repos/repo/"), None),
            ("https://host/scm/~user/repo.git", format!("https://host/{API}/~user/repos/repo/"), None),
            ("https://HOST:443/scm/PROJ/repo.git", format!("https://host/{API}/PROJ/repos/repo/"), None),
            ("https://host/scm/proj/repo.git?x=1#y", format!("https://host/{API}/proj/repos/repo/"), None),
            ("https://host/scm/proj/a%2Fb.git", format!("https://host/{API}/proj/repos/a%2Fb/"), None),
            ("https://host/projects/PROJ/repos/repo", format!("https://host/{API}/PROJ/repos/repo/"), None),
            ("https://host/projects/P/repos/repo/browse?at=x", format!("https://host/{API}/P/repos/repo/"), None),
            ("https://host/ctx/projects/P/repos/r/commits/1", format!("https://host/ctx/{API}/P/repos/r/"), None),
            ("https://host/users/me/repos/repo/browse/a/b", format!("https://host/{API}/~me/repos/repo/"), None),
            (
                "https://user:s3cret@host/scm/proj/repo.git",
                format!("https://host/{API}/proj/repos/repo/"),
                Some("https://host/scm/proj/repo.git"),
            ),
        ] {
            let parts = parts(address).unwrap_or_else(|| panic!("{address}"));
            assert_eq!((parts.0.as_str(), parts.1.as_str()), (repository.as_str(), link.unwrap_or(address)));
        }
    }

    #[test]
    fn what_is_no_clone_address_is_refused() {
        for address in [
            "",
            "host/scm/proj/repo.git",
            "https://host/projects/proj/repos",
            "https://host/projects/proj/repos/",
            "https://host/projects/a/b/repos/repo",
            "https://host/repos/repo/browse",
            "https://host/scm/proj",
            "https://host/scm/proj/.git",
            "https://host/scm//repo.git",
            "https://host/scm/proj/a/b.git",
            "ssh://git@host:7999/proj/repo.git",
            "ssh://git@host:7999/scm/proj/repo.git",
        ] {
            assert_eq!(parts(address), None, "{address}");
        }
    }
}
