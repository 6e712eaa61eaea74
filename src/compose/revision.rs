//! From Flux's revision texts to a commit. The table of what is accepted is in the tests.

use super::metadata::{lookup, own};
use crate::api::Event;
use crate::matching::CompiledAlert;

/// The commit an event is about: from the first of the combined metadata's `commit`,
/// `originRevision` and `revision` that is there.
///
/// 40 hex digits are a commit anywhere. 64 are one (a SHA-256 repository) only where an OCI
/// digest cannot stand: in `commit`, in `originRevision`, or for a GitRepository.
pub fn commit_of<'a>(event: &'a Event, alert: &'a CompiledAlert) -> Option<&'a str> {
    commit_in(event, |key| lookup(event, alert, key))
}

/// The same of the event alone: what an Alert adds opens no gate.
pub fn own_commit(event: &Event) -> Option<&str> {
    commit_in(event, |key| own(event, key))
}

fn commit_in<'a>(event: &Event, value: impl Fn(&str) -> Option<&'a str>) -> Option<&'a str> {
    let sha256 = event.involved_object.kind == "GitRepository";
    [("commit", true), ("originRevision", true), ("revision", sha256)]
        .into_iter()
        .find_map(|(key, sha256)| Some((value(key)?, sha256)))
        .and_then(|(revision, sha256)| hash(revision, sha256))
}

/// The hash in a revision: what follows the last `:`, else the last `/`, else everything.
fn hash(revision: &str, sha256: bool) -> Option<&str> {
    let hash = revision.rsplit_once(':').or_else(|| revision.rsplit_once('/')).map_or(revision, |(_, hash)| hash);
    let length = hash.len() == 40 || (sha256 && hash.len() == 64);
    (length && hash.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "5394cb7f48332b2de7c17dd8b8384bbc84b7e738";
    const SHA256: &str = "5394cb7f48332b2de7c17dd8b8384bbc84b7e7385394cb7f48332b2de7c17dd8";

    /// spec/pipeline.md 4.2 and git-providers.md 1.6. Where the peer takes 40 bytes of anything, this
    /// takes hex, and hashes of SHA-256 where they can be told from digests (pipeline.md part 10, 21).
    #[test]
    fn pipeline_4_2_formats_of_revisions() {
        for before in [
            "main@sha1:",
            "feature/x@sha1:",
            "refs/heads/main@sha1:",
            "refs/pull/1/head@sha1:",
            "v1.0.0@sha1:",
            "1.0.0@sha256:",
            "sha1:",
            "main/",
            "feature/x/",
            "HEAD/",
            "",
        ] {
            assert_eq!(hash(&format!("{before}{SHA}"), false), Some(SHA), "{before}");
        }
        for refused in [
            "6.5.0".to_owned(),
            "main@sha1:5394cb7".to_owned(),
            format!("main@{SHA}"),
            format!("{SHA}\n"),
            format!("main@sha1:{}", "z".repeat(40)),
            "z".repeat(40),
            format!("main@sha1:{}é", &SHA[..38]),
            format!("latest@sha256:{SHA256}"),
            format!("sha256:{SHA256}"),
            SHA256.to_owned(),
            format!("main@sha1:{}é", &SHA[..39]),
            format!("https://example.org/{SHA}/x"),
            String::new(),
        ] {
            assert_eq!(hash(&refused, false), None, "{refused}");
        }
        assert_eq!(hash(&format!("main@sha256:{SHA256}"), true), Some(SHA256));
        assert_eq!(hash(SHA256, true), Some(SHA256));
        assert_eq!(hash(&"z".repeat(64), true), None);
    }

    proptest::proptest! {
        #[test]
        fn a_hash_is_always_hex_of_a_git_length(revision in ".*", sha256: bool) {
            if let Some(hash) = hash(&revision, sha256) {
                assert!(hash.len() == 40 || hash.len() == 64);
                assert!(hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
            }
        }
    }
}
