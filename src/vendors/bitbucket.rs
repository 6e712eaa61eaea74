//! Type `bitbucket`: build statuses at Bitbucket Cloud.
//!
//! API: "Commit statuses" of Bitbucket Cloud's REST API. A key has 40 characters at most, so it is
//! the SHA-1 of the status' name; a name has fewer than 255.

use futures::FutureExt;
use futures::future::BoxFuture;
use http::HeaderValue;
use serde::Serialize;
use serde::de::IgnoredAny;
use url::Url;

use super::forge::{self, Repository, Words};
use super::{BuildError, Listing, Service, Statuses};
use crate::compose::text::cut;
use crate::compose::{CommitStatus, Wording};
use crate::outbound::{Request, SendError, Target, basic, sensitive};
use crate::secret::Secret;

pub(super) const WORDING: Wording = Wording::PLAIN;

const WORDS: Words = Words { pending: "INPROGRESS", success: "SUCCESSFUL", failure: "FAILED" };

/// Where the API is, unless `BITBUCKET_API_BASE_URL` or an annotation says otherwise.
const API: &str = "https://api.bitbucket.org/2.0/";

/// Bitbucket wants a link and Herald has none; what the peer sends.
const LINK: &str = "https://bitbucket.org";

struct Bitbucket {
    target: Target,
    repository: Url,
    authorization: HeaderValue,
}

pub(super) fn build(target: Target) -> Result<Service, BuildError> {
    let at = Repository::parse(target.address.expose())?;
    // The credential of another server must not go to Bitbucket Cloud.
    let known = [Some("bitbucket.org"), target.api_url.as_ref().and_then(Url::host_str)];
    if !known.contains(&Some(at.host())) {
        return Err(BuildError::address(
            "spec.address names another host than bitbucket.org, and type bitbucket is Bitbucket Cloud; for Bitbucket \
             Data Center or Server write spec.type bitbucketserver",
        ));
    }
    let base = target.api_url.clone().unwrap_or_else(|| Url::parse(API).expect("a constant"));
    let (workspace, name) = at.owner_and_name()?;
    let repository = forge::under(&base, &["repositories", workspace, name]);
    let authorization = authorization(target.token.as_ref(), target.username.as_ref(), target.password.as_ref())?;
    Ok(Service::Statuses(Box::new(Bitbucket { target, repository, authorization })))
}

/// `user:password` in key `token`, or keys `username` and `password`, are Basic; any other token is
/// an access token.
fn authorization(
    token: Option<&Secret>,
    username: Option<&Secret>,
    password: Option<&Secret>,
) -> Result<HeaderValue, BuildError> {
    let header = match (token, username, password) {
        (Some(token), ..) => match token.expose().split_once(':') {
            Some((user, password)) => basic(user.as_bytes(), password.as_bytes()),
            None => sensitive(&format!("Bearer {}", token.expose())),
        },
        (None, Some(user), Some(password)) => basic(user.expose().as_bytes(), password.expose().as_bytes()),
        _ => {
            return Err(BuildError::credentials(
                "the Secret of spec.secretRef has neither key token (an access token, or user:password) nor keys \
                 username and password",
            ));
        }
    };
    header.ok_or_else(forge::unusable_token)
}

/// The request body; the peer's fields in the peer's order.
#[derive(Serialize)]
struct Body<'a> {
    key: &'a str,
    url: &'static str,
    state: &'static str,
    name: String,
    description: &'a str,
}

impl Bitbucket {
    fn url(&self, status: &CommitStatus, key: &str) -> Url {
        let path = format!("commit/{}/statuses/build{key}", status.commit);
        self.repository.join(&path).expect("a commit and a key always join")
    }
}

impl Statuses for Bitbucket {
    fn repository(&self) -> &str {
        self.repository.as_str()
    }

    fn reads_whole_commits(&self) -> bool {
        false
    }

    fn read<'a>(&'a self, status: &'a CommitStatus) -> BoxFuture<'a, Result<Listing, SendError>> {
        let url = self.url(status, &format!("/{}", forge::key(&status.name)));
        async move {
            let answer = self.target.send(Request::get(url).authorization(&self.authorization)).await;
            forge::keyed(&self.target, forge::found(answer)?, &WORDS, &status.name)
        }
        .boxed()
    }

    fn write<'a>(&'a self, status: &'a CommitStatus) -> BoxFuture<'a, Result<(), SendError>> {
        let key = forge::key(&status.name);
        let body = Body {
            key: &key,
            url: LINK,
            state: WORDS.of(status.state),
            name: cut(&status.label, 254),
            description: &status.description,
        };
        let body = serde_json::to_vec(&body).expect("text always encodes");
        let request = Request::post_json(self.url(status, ""), body).authorization(&self.authorization);
        async move { self.target.send(request).await?.json::<IgnoredAny>().map(drop) }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(token: Option<&str>, username: Option<&str>, password: Option<&str>) -> Result<String, BuildError> {
        let [token, username, password] = [token, username, password].map(|text| text.map(Secret::new));
        let header = authorization(token.as_ref(), username.as_ref(), password.as_ref())?;
        assert!(header.is_sensitive());
        Ok(header.to_str().expect("text").to_owned())
    }

    #[test]
    fn credentials_in_every_form() {
        for (token, username, password, expected) in [
            // The base64 of user:app-pass.
            (Some("user:app-pass"), None, None, "Basic dXNlcjphcHAtcGFzcw=="),
            (None, Some("user"), Some("app-pass"), "Basic dXNlcjphcHAtcGFzcw=="),
            // Of user:a:b, which the peer refuses.
            (Some("user:a:b"), None, None, "Basic dXNlcjphOmI="),
            (Some("access-token"), None, None, "Bearer access-token"),
            // Each stands for itself: a lone other one spoils nothing.
            (Some("access-token"), Some("user"), None, "Bearer access-token"),
            (Some("access-token"), None, Some("pass"), "Bearer access-token"),
        ] {
            assert_eq!(sent(token, username, password).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn half_a_credential_is_none() {
        for (username, password) in [(None, None), (Some("user"), None), (None, Some("s3cret"))] {
            let error = sent(None, username, password).expect_err("there is no credential");
            assert_eq!(error.reason, "InvalidCredentials");
            assert!(!error.message.contains("s3cret"), "{}", error.message);
        }
        assert_eq!(sent(Some("s3cret\n"), None, None), Err(forge::unusable_token()));
    }

    #[test]
    fn a_key_is_the_sha_1_of_the_name() {
        assert_eq!(forge::key("abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
    }
}
