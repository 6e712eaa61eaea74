//! Type `github`: commit statuses at github.com, GHE.com and GitHub Enterprise Server.
//!
//! API: "REST API endpoints for commit statuses" of GitHub's documentation. Limits: a description
//! has 140 characters at most, a context 255 (runatlantis/atlantis#2506); a context is compared without regard to case.

use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method};
use serde::Serialize;
use serde::de::IgnoredAny;
use url::Url;

use super::forge::{self, Repository, Words};
use super::{BuildError, Listing, Service, Statuses};
use crate::compose::{CommitStatus, Wording};
use crate::outbound::auth::Identity;
use crate::outbound::{Request, SendError, Target, sensitive};

pub(super) const WORDING: Wording = Wording { ignores_case: true, name: 255, description: Some(140), ..Wording::PLAIN };

/// What follows the commit where its statuses are read: as many per page as GitHub gives.
const STATUSES: &str = "/statuses?per_page=100";

struct GitHub {
    target: Target,
    repository: Url,
    /// What every request has, with the `Authorization` of a token; an App's comes with each request.
    headers: HeaderMap,
}

pub(super) fn build(mut target: Target) -> Result<Service, BuildError> {
    let (base, repository) = Repository::parse(target.address.expose())?.api(&target, "api/v3/");
    let (owner, name) = repository.owner_and_name()?;
    let origin = repository.origin.clone();
    let base = match target.api_url {
        Some(_) => base,
        None => api_base(&repository)
            .ok_or_else(|| BuildError::address("spec.address names no host that GitHub can have"))?,
    };
    let repository = forge::under(&base, &["repos", owner, name]);
    let authorization = match (forge::token(&target), &target.identity) {
        (Err(_), Some(Identity::GitHubApp(app))) => {
            let credentials = app.credentials(&target, &origin, &base);
            let wrong = |why| BuildError::credentials(format!("the Secret of spec.secretRef cannot be used: {why}"));
            target.credentials = Some(credentials.map_err(wrong)?);
            None
        }
        (token, _) => {
            let bearer = format!("Bearer {}", token?.expose());
            Some(sensitive(&bearer).ok_or_else(forge::unusable_token)?)
        }
    };
    let headers: HeaderMap = [
        (ACCEPT, HeaderValue::from_static("application/vnd.github.v3+json")),
        (HeaderName::from_static("x-github-api-version"), HeaderValue::from_static("2022-11-28")),
    ]
    .into_iter()
    .chain(authorization.map(|authorization| (AUTHORIZATION, authorization)))
    .collect();
    Ok(Service::Statuses(Box::new(GitHub { target, repository, headers })))
}

/// Where the API is. github.com and GHE.com have a host of their own for it; a server serves it
/// under a path, unless the address names an API host already.
fn api_base(repository: &Repository) -> Option<Url> {
    let host = repository.host();
    if host == "github.com" {
        Url::parse("https://api.github.com/").ok()
    } else if host.ends_with(".ghe.com") && !host.starts_with("api.") {
        Url::parse(&format!("https://api.{host}/")).ok()
    } else if host.starts_with("api.") || host.contains(".api.") {
        Some(repository.origin.clone())
    } else {
        repository.origin.join("api/v3/").ok()
    }
}

impl GitHub {
    /// A place under the repository.
    fn url(&self, parts: &[&str]) -> Url {
        self.repository.join(&parts.concat()).expect("a commit and a number always join")
    }
}

/// The request body; the peer's fields in the peer's order.
#[derive(Serialize)]
struct Body<'a> {
    state: &'static str,
    description: &'a str,
    context: &'a str,
}

impl Statuses for GitHub {
    fn repository(&self) -> &str {
        self.repository.as_str()
    }

    fn reads_whole_commits(&self) -> bool {
        true
    }

    fn read<'a>(&'a self, status: &'a CommitStatus) -> BoxFuture<'a, Result<Listing, SendError>> {
        forge::read_pages(&self.target, WORDING, move |page| {
            let page = if page == 1 { String::new() } else { format!("&page={page}") };
            let url = self.url(&["commits/", &status.commit, STATUSES, &page]);
            Request { headers: self.headers.clone(), ..Request::get(url) }
        })
        .boxed()
    }

    fn write<'a>(&'a self, status: &'a CommitStatus) -> BoxFuture<'a, Result<(), SendError>> {
        let body =
            Body { state: Words::GITHUB.of(status.state), description: &status.description, context: &status.name };
        let body = serde_json::to_vec(&body).expect("text always encodes");
        let url = self.url(&["statuses/", &status.commit]);
        let mut headers = self.headers.clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let request = Request { method: Method::POST, url, headers, body: body.into(), status_only: false };
        async move { self.target.send(request).await?.json::<IgnoredAny>().map(drop) }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// spec/git-providers.md 2.3, and the consequences in 1.8: however github.com is written, it is no
    /// Enterprise server.
    #[test]
    fn where_the_api_is() {
        for (address, base) in [
            ("https://github.com/foo/bar", "https://api.github.com/"),
            ("https://GitHub.com/foo/bar", "https://api.github.com/"),
            ("https://github.com:443/foo/bar", "https://api.github.com/"),
            ("https://www.github.com/foo/bar", "https://api.github.com/"),
            ("ssh://git@github.com:22/foo/bar", "https://api.github.com/"),
            ("ssh://git@ssh.github.com:443/foo/bar", "https://api.github.com/"),
            ("git@github.com:foo/bar.git", "https://api.github.com/"),
            ("git://github.com/foo/bar", "https://api.github.com/"),
            ("github.com/foo/bar", "https://api.github.com/"),
            ("http://github.com/foo/bar", "https://api.github.com/"),
            ("https://acme.ghe.com/foo/bar", "https://api.acme.ghe.com/"),
            ("https://api.acme.ghe.com/foo/bar", "https://api.acme.ghe.com/"),
            ("https://github.example.org/foo/bar", "https://github.example.org/api/v3/"),
            ("http://127.0.0.1:9999/foo/bar", "http://127.0.0.1:9999/api/v3/"),
            ("https://api.example.org/foo/bar", "https://api.example.org/"),
        ] {
            let repository = Repository::parse(address).expect("valid");
            assert_eq!(api_base(&repository).expect("valid").as_str(), base, "{address}");
        }
    }
}
