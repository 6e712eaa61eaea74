//! Type `gitea`: commit statuses at Gitea and Forgejo.
//!
//! API: `/repos/{owner}/{repo}/statuses/{sha}` of Gitea's swagger. Measured at 1.26: a page has 50
//! statuses at most, and the list is ordered by whole seconds, so the highest id is the newest,
//! not the first.

use futures::FutureExt;
use futures::future::BoxFuture;
use http::HeaderValue;
use serde::Serialize;
use serde::de::IgnoredAny;
use url::Url;

use super::forge::{self, Repository, Words};
use super::{BuildError, Listing, Service, Statuses};
use crate::compose::{CommitStatus, Wording};
use crate::outbound::{Request, SendError, Target, sensitive};

pub(super) const WORDING: Wording = Wording { pending: true, ..Wording::PLAIN };

/// Statuses asked for per page: the most Gitea gives.
const PER_PAGE: usize = 50;

struct Gitea {
    target: Target,
    repository: Url,
    authorization: HeaderValue,
}

pub(super) fn build(target: Target) -> Result<Service, BuildError> {
    let (base, repository) = Repository::parse(target.address.expose())?.api(&target, "api/v1/");
    let (owner, name) = repository.owner_and_name()?;
    let repository = forge::under(&base, &["repos", owner, name]);
    let token = forge::token(&target)?;
    let authorization = sensitive(&format!("token {}", token.expose())).ok_or_else(forge::unusable_token)?;
    Ok(Service::Statuses(Box::new(Gitea { target, repository, authorization })))
}

impl Gitea {
    fn url(&self, path: &str) -> Url {
        self.repository.join(path).expect("a commit and a number always join")
    }
}

/// The request body; the peer's fields in the peer's order.
#[derive(Serialize)]
struct Body<'a> {
    state: &'static str,
    target_url: &'static str,
    description: &'a str,
    context: &'a str,
}

impl Statuses for Gitea {
    fn repository(&self) -> &str {
        self.repository.as_str()
    }

    fn reads_whole_commits(&self) -> bool {
        true
    }

    fn read<'a>(&'a self, status: &'a CommitStatus) -> BoxFuture<'a, Result<Listing, SendError>> {
        forge::read_pages(&self.target, WORDING, move |page| {
            Request::get(self.url(&format!("commits/{}/statuses?limit={PER_PAGE}&page={page}", status.commit)))
                .authorization(&self.authorization)
        })
        .boxed()
    }

    fn write<'a>(&'a self, status: &'a CommitStatus) -> BoxFuture<'a, Result<(), SendError>> {
        let body = Body {
            state: Words::GITHUB.of(status.state),
            target_url: "",
            description: &status.description,
            context: &status.name,
        };
        let body = serde_json::to_vec(&body).expect("text always encodes");
        let request = Request::post_json(self.url(&format!("statuses/{}", status.commit)), body)
            .authorization(&self.authorization);
        async move { self.target.send(request).await?.json::<IgnoredAny>().map(drop) }.boxed()
    }
}
