//! Shared by the Git hosts: repository addresses, and reading pages of statuses.

use std::time::Instant;

use http::{HeaderMap, StatusCode};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use url::{Host, Url};

use super::rows::{Moment, Name, Rows, Text};
use super::{BuildError, Listed, Listing};
use crate::compose::{State, Wording};
use crate::outbound::{self, Request, SendError, Sent, Target};
use crate::outbox::Said;
use crate::secret::Secret;

/// Pages of statuses read at most (rule R6): 2,000 at GitHub, 1,000 at Gitea.
pub const MAX_PAGES: usize = 20;

/// Statuses read of one commit at most, on however many pages.
const MAX_LISTED: usize = 2000;

/// A repository's address, whichever way it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// Scheme, host and port: where the web server is. Nothing but `http` and `https`.
    pub origin: Url,
    /// The path without slashes around it and without `.git`, percent-decoded.
    pub path: String,
}

impl Repository {
    /// Reads an address as people copy it: `https`, `http`, `ssh`, `git`, the scp form
    /// (`git@host:owner/repo.git`), or without a scheme. Host names are lower-cased; user, query,
    /// fragment, default ports, ports of SSH, trailing slashes and `.git` are dropped.
    pub fn parse(address: &str) -> Result<Self, BuildError> {
        let address = address.trim();
        if address.is_empty() {
            return Err(BuildError::address("spec.address is empty; write the repository's address"));
        }
        // The address may come from a Secret, so errors never repeat it.
        let wrong = || {
            BuildError::address(
                "spec.address is not the address of a repository, such as https://github.com/owner/repository",
            )
        };
        let url = match address.split_once("://") {
            Some(_) => Url::parse(address),
            None => Url::parse(&with_scheme(address)),
        }
        .map_err(|_| wrong())?;
        let web = match url.scheme() {
            "http" | "https" => url.scheme(),
            "ssh" | "git" | "git+ssh" | "ssh+git" => "https",
            _ => return Err(wrong()),
        };
        let host = match url.host() {
            Some(Host::Domain(name)) => web_host(&name.to_ascii_lowercase()),
            Some(other) => other.to_string(),
            None => return Err(wrong()),
        };
        // A port of another protocol says nothing about the web server's.
        let port = url.port().filter(|_| web == url.scheme()).map(|port| format!(":{port}")).unwrap_or_default();
        let origin = Url::parse(&format!("{web}://{host}{port}")).map_err(|_| wrong())?;

        let path = percent_decode_str(url.path()).decode_utf8().map_err(|_| wrong())?;
        let path = path.trim_matches('/');
        let path = path.strip_suffix(".git").unwrap_or(path).trim_end_matches('/');
        Ok(Self { origin, path: path.to_owned() })
    }

    /// The path as owner and repository, for the hosts that nest no deeper. What a browser shows of a page of the
    /// repository, such as `/tree/main`, is left out.
    pub fn owner_and_name(&self) -> Result<(&str, &str), BuildError> {
        let mut parts = self.path.split('/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(owner), Some(name), page) if is_page(page) => {
                let name = name.strip_suffix(".git").unwrap_or(name);
                Some((owner, name)).filter(|_| is_segment(owner) && is_segment(name))
            }
            _ => None,
        }
        .ok_or_else(|| {
            BuildError::address(
                "spec.address does not name one owner and one repository; write it like \
                 https://host/owner/repository",
            )
        })
    }

    /// Where the API is, and the repository as it is called there: under `suffix` of the web server,
    /// or where the Provider's annotation says. A server under a sub-path has that sub-path in both
    /// addresses, and it is no part of the repository's name.
    pub fn api(mut self, target: &Target, suffix: &str) -> (Url, Self) {
        let Some(api) = target.api_url.clone() else {
            return (self.origin.join(suffix).expect("a constant path always joins"), self);
        };
        let sub_path = api.path().trim_end_matches('/');
        let sub_path = sub_path.strip_suffix(suffix.trim_end_matches('/')).unwrap_or_default().trim_matches('/');
        let inner = self.path.strip_prefix(sub_path).and_then(|rest| rest.strip_prefix('/'));
        if let Some(inner) = inner.filter(|_| !sub_path.is_empty()) {
            self.path = inner.to_owned();
        }
        (api, self)
    }

    /// The host without port, lower-cased.
    pub fn host(&self) -> &str {
        self.origin.host_str().unwrap_or_default()
    }
}

/// What follows owner and repository in the addresses of GitHub's, Gitea's and Bitbucket Cloud's pages.
const PAGES: [&str; 40] = [
    "actions",
    "activity",
    "admin",
    "archive",
    "blame",
    "blob",
    "branch",
    "branches",
    "commit",
    "commits",
    "compare",
    "deployments",
    "discussions",
    "downloads",
    "edit",
    "graph",
    "graphs",
    "issues",
    "labels",
    "media",
    "milestones",
    "network",
    "overview",
    "packages",
    "pipelines",
    "projects",
    "pull",
    "pull-requests",
    "pulls",
    "pulse",
    "raw",
    "releases",
    "security",
    "settings",
    "src",
    "tag",
    "tags",
    "tree",
    "wiki",
    "workflow",
];

/// Whether nothing follows a repository, or one of its pages.
fn is_page(part: Option<&str>) -> bool {
    part.is_none_or(|part| PAGES.contains(&part))
}

/// Whether this is one part of a path, and not a way out of it.
pub(super) fn is_segment(part: &str) -> bool {
    !matches!(part, "" | "." | "..") && !part.contains('/')
}

/// `base` with these parts added to its path, each percent-encoded, and a slash at the end.
pub fn under(base: &Url, parts: &[&str]) -> Url {
    let mut url = base.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(parts).push("");
    }
    url
}

/// Gives an address without a scheme one: the scp form means SSH, the rest the web.
fn with_scheme(address: &str) -> String {
    let (before, after) = address.split_once(':').unwrap_or((address, ""));
    if after.is_empty() || before.contains('/') {
        return format!("https://{address}");
    }
    // `localhost:3000/owner/repo`: three parts and the first a number is a port, not an owner.
    let parts: Vec<&str> = after.trim_matches('/').split('/').collect();
    if parts.len() >= 3 && parts[0].parse::<u16>().is_ok() && !before.contains('@') {
        return format!("https://{address}");
    }
    format!("ssh://{before}/{}", after.trim_start_matches('/'))
}

/// Hosts that serve only SSH, or only forward, by the name of their web server.
fn web_host(host: &str) -> String {
    match host {
        "www.github.com" | "ssh.github.com" => "github.com".to_owned(),
        "altssh.gitlab.com" | "www.gitlab.com" => "gitlab.com".to_owned(),
        "altssh.bitbucket.org" | "www.bitbucket.org" => "bitbucket.org".to_owned(),
        other => other.to_owned(),
    }
}

/// A vendor's words for the three states.
pub struct Words {
    /// For [`State::Pending`].
    pub pending: &'static str,
    /// For [`State::Success`].
    pub success: &'static str,
    /// For [`State::Failure`].
    pub failure: &'static str,
}

impl Words {
    /// GitHub's and Gitea's.
    pub const GITHUB: Words = Words { pending: "pending", success: "success", failure: "failure" };

    /// The word for a state.
    pub fn of(&self, state: State) -> &'static str {
        match state {
            State::Pending => self.pending,
            State::Success => self.success,
            State::Failure => self.failure,
        }
    }

    /// A status as the vendor has it, made comparable: an absent description is an empty one, a
    /// word Herald never says is no state.
    pub(super) fn said(&self, word: Option<&str>, description: Option<Text>) -> Said {
        let states = [State::Pending, State::Success, State::Failure];
        let state = states.into_iter().find(|state| Some(self.of(*state)) == word);
        Said::Status { state, description: description.map_or_else(|| "".into(), |Text(text)| text) }
    }
}

/// The token of the Secret: key `token`, else `password`.
pub fn token(target: &Target) -> Result<&Secret, BuildError> {
    target.token.as_ref().or(target.password.as_ref()).ok_or_else(|| {
        BuildError::credentials(
            "the Secret of spec.secretRef has no key token; put a token there that may write commit statuses",
        )
    })
}

/// A token that no HTTP header can carry.
pub fn unusable_token() -> BuildError {
    BuildError::credentials("the token in the Secret of spec.secretRef holds characters no token has")
}

/// A status' name as Bitbucket's key, which has 40 characters at most: SHA-1 in hex, as the peer
/// writes it. It protects nothing.
pub fn key(name: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, name.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A path as one segment of another: slashes and everything else that means something encoded.
pub fn one_segment(path: &str) -> String {
    percent_encoding::utf8_percent_encode(path, SEGMENT).to_string()
}

/// All but letters, digits, `-`, `_` and `~`; dots too, as the peer encodes them.
const SEGMENT: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');

/// A status as GitHub (`state`) and Gitea (`status`) list it.
#[derive(Deserialize)]
struct Row {
    id: Option<i64>,
    #[serde(alias = "status")]
    state: Option<String>,
    description: Option<Text>,
    context: Option<Name>,
    #[serde(default)]
    created_at: Moment,
}

/// When a status was written, where the answer says so: as long before now as the answer's own `Date` is after it.
pub(super) fn written(target: &Target, answer: &Sent, Moment(written): Moment) -> Option<Instant> {
    target.clock.now().checked_sub(outbound::age(&answer.headers, written?, target.clock.wall()))
}

/// Reads all statuses of a commit, page by page.
///
/// `page` makes the request for a page, counted from 1. The next page is asked for at our own
/// address, whatever host the vendor's `Link` names: behind a proxy that is another one.
pub async fn read_pages(
    target: &Target,
    wording: Wording,
    page: impl Fn(usize) -> Request,
) -> Result<Listing, SendError> {
    let mut rows = Vec::new();
    for number in 1..=MAX_PAGES {
        let answer = target.send(page(number)).await?;
        let Rows(listed): Rows<Row> = answer.json()?;
        rows.extend(listed.into_iter().filter_map(|row| {
            let said = Words::GITHUB.said(row.state.as_deref(), row.description);
            let written = written(target, &answer, row.created_at);
            Some((row.id, wording.identity(&row.context?.0, None), Listed { said, written }))
        }));
        if rows.len() >= MAX_LISTED {
            break;
        }
        if !has_next(&answer.headers) {
            break;
        }
    }
    Ok(Listing::newest(rows))
}

/// A status as both Bitbuckets answer for one key.
#[derive(Deserialize)]
struct Keyed {
    state: Option<String>,
    description: Option<Text>,
    /// Bitbucket Cloud.
    #[serde(default)]
    updated_on: Moment,
    /// Data Center; milliseconds.
    #[serde(default, rename = "updatedDate")]
    updated_date: Moment,
}

/// What a vendor answered for one key: 404 means that it has none, which is the usual case and no
/// fault.
pub fn found(answer: Result<Sent, SendError>) -> Result<Option<Sent>, SendError> {
    match answer {
        Err(SendError::Status { status, .. }) if status == StatusCode::NOT_FOUND => Ok(None),
        answer => answer.map(Some),
    }
}

/// The one status of a key, as both Bitbuckets answer it.
pub fn keyed(target: &Target, found: Option<Sent>, words: &Words, name: &str) -> Result<Listing, SendError> {
    let Some(answer) = found else { return Ok(Listing::of_one(name, None)) };
    let row: Keyed = answer.json()?;
    let moment = Moment(row.updated_on.0.or(row.updated_date.0));
    let said = words.said(row.state.as_deref(), row.description);
    Ok(Listing::of_one(name, Some(Listed { said, written: written(target, &answer, moment) })))
}

/// Whether a `Link` header (RFC 8288) names a next page.
fn has_next(headers: &HeaderMap) -> bool {
    headers.get_all(http::header::LINK).iter().filter_map(|link| link.to_str().ok()).any(|link| {
        link.split([',', ';']).any(|part| part.trim().trim_start_matches("rel=").trim_matches('"') == "next")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// spec/git-providers.md 1.8. The peer reads some of these as another host or takes a part of them
    /// for the owner; those rows lead to the repository that was meant.
    #[test]
    fn addresses_as_people_write_them() {
        for (address, origin, path) in [
            ("https://github.com/foo/bar", "https://github.com/", "foo/bar"),
            ("https://github.com/foo/bar.git", "https://github.com/", "foo/bar"),
            ("https://u:p@github.com/foo/bar", "https://github.com/", "foo/bar"),
            ("git@github.com:foo/bar.git", "https://github.com/", "foo/bar"),
            ("github.com:foo/bar", "https://github.com/", "foo/bar"),
            ("ssh://git@github.com/foo/bar", "https://github.com/", "foo/bar"),
            ("http://github.com/foo/bar", "http://github.com/", "foo/bar"),
            ("git://github.com/foo/bar", "https://github.com/", "foo/bar"),
            ("git+ssh://git@github.com/foo/bar", "https://github.com/", "foo/bar"),
            ("https://github.com/foo/bar/", "https://github.com/", "foo/bar"),
            ("https://github.com/foo/bar.git/", "https://github.com/", "foo/bar"),
            ("https://GitHub.com/Foo/Bar", "https://github.com/", "Foo/Bar"),
            ("https://github.com:443/foo/bar", "https://github.com/", "foo/bar"),
            ("https://www.github.com/foo/bar", "https://github.com/", "foo/bar"),
            ("ssh://git@github.com:22/foo/bar", "https://github.com/", "foo/bar"),
            ("ssh://git@ssh.github.com:443/foo/bar", "https://github.com/", "foo/bar"),
            ("github.com/foo/bar", "https://github.com/", "foo/bar"),
            (" https://github.com/foo/bar\n", "https://github.com/", "foo/bar"),
            ("localhost:3000/foo/bar", "https://localhost:3000/", "foo/bar"),
            ("https://host/gitlab/a/b", "https://host/", "gitlab/a/b"),
            ("https://gitlab.example.com:8443/a/b/c/d.git", "https://gitlab.example.com:8443/", "a/b/c/d"),
            ("https://gitlab.com/1234", "https://gitlab.com/", "1234"),
            ("http://127.0.0.1:3080/acme/fleet?x=1#y", "http://127.0.0.1:3080/", "acme/fleet"),
            ("http://[::1]:3080/acme/fleet", "http://[::1]:3080/", "acme/fleet"),
            ("https://host/my%20org/repo", "https://host/", "my org/repo"),
            ("https://host/a%3Fb/repo", "https://host/", "a?b/repo"),
        ] {
            let repository = Repository::parse(address).unwrap_or_else(|error| panic!("{address}: {error:?}"));
            assert_eq!((repository.origin.as_str(), repository.path.as_str()), (origin, path), "{address}");
        }
    }

    #[test]
    fn addresses_as_browsers_show_them() {
        for address in [
            "https://github.com/acme/fleet/tree/main",
            "https://github.com/acme/fleet/tree/feature/x/clusters",
            "https://github.com/acme/fleet/blob/main/README.md#usage",
            "https://github.com/acme/fleet.git/commits/main/",
            "https://github.com/acme/fleet/commit/0123456789abcdef0123456789abcdef01234567",
            "https://github.com/acme/fleet/pull/7/files?w=1",
            "https://github.com/acme/fleet/actions",
            "https://GITHUB.com/acme/fleet/?tab=readme-ov-file#flux",
            "https://codeberg.org/acme/fleet/src/branch/main/clusters",
            "https://gitea.example.org/acme/fleet/commits/branch/main",
            "https://gitea.example.org/acme/fleet/pulls/1",
            "https://bitbucket.org/acme/fleet/src/main/",
            "https://bitbucket.org/acme/fleet/commits/branch/main",
            "https://bitbucket.org/acme/fleet/pull-requests/3",
        ] {
            let repository = Repository::parse(address).expect(address);
            assert_eq!(repository.owner_and_name(), Ok(("acme", "fleet")), "{address}");
        }
    }

    #[test]
    fn what_is_no_repository_is_refused_without_repeating_it() {
        for address in [
            "",
            "  ",
            "file:///srv/git/s3cret",
            "ftp://host/s3cret",
            "ftps://host/a/s3cret",
            "rsync://host/a/s3cret",
            "https://",
            "://s3cret",
        ] {
            let error = Repository::parse(address).expect_err(address);
            assert!(!error.message.contains("s3cret") && error.message.contains("spec.address"), "{}", error.message);
        }
        for address in [
            "https://github.com/only-owner",
            "https://github.com/",
            "https://github.com/a/b/c",
            "https://github.com//b",
            "https://github.com/%2e%2e%2fa/b",
        ] {
            let repository = Repository::parse(address).expect("parses");
            assert!(repository.owner_and_name().is_err(), "{address}");
        }
    }

    #[test]
    fn parts_of_a_path_stay_parts() {
        let base = Url::parse("https://host/api/v3/").expect("valid");
        assert_eq!(under(&base, &["repos", "a?b", "c d#"]).as_str(), "https://host/api/v3/repos/a%3Fb/c%20d%23/");
    }

    #[test]
    fn next_pages() {
        let with = |link: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(http::header::LINK, link.parse().expect("valid"));
            has_next(&headers)
        };
        assert!(with(r#"<https://h/x?page=2>; rel="next", <https://h/x?page=9>; rel="last""#));
        assert!(with("<https://h/x?page=2>; rel=next"));
        assert!(!with(r#"<https://h/x?page=1>; rel="prev""#));
        assert!(!has_next(&HeaderMap::new()));
    }
}
