//! Which commit an event is about, whatever stands in its metadata: none, or the hash at the end of
//! the first revision that is there. `make fuzz` runs it.
//!
//! The input is lines: the object's kind, then `commit`, `originRevision` and `revision`; an empty
//! line is a key that is not there.

#![no_main]

use std::sync::LazyLock;

use herald::api::{Alert, AlertSpec, EVENT_GROUP, Event, Key, ObjectMeta};
use herald::compose::{clean, commit_of};
use herald::matching::CompiledAlert;
use libfuzzer_sys::fuzz_target;

const GROUP: &str = "source.toolkit.fluxcd.io";

static ALERT: LazyLock<CompiledAlert> = LazyLock::new(|| {
    let key = Key::new("apps", "all");
    let meta = ObjectMeta { key, uid: "uid".into(), generation: 1, annotations: Default::default() };
    CompiledAlert::new(&Alert { meta, spec: AlertSpec::default(), object: "{}".into() })
});

fuzz_target!(|lines: &str| {
    let mut lines = lines.split('\n');
    let mut event = Event::default();
    event.involved_object.kind = lines.next().unwrap_or_default().to_owned();
    event.involved_object.api_version = format!("{GROUP}/v1");
    let keys = [(EVENT_GROUP, "commit"), (GROUP, "originRevision"), (GROUP, "revision")];
    let given: Vec<_> = keys.into_iter().zip(lines).filter(|(_, value)| !value.is_empty()).collect();
    for ((group, key), value) in &given {
        event.metadata.insert(format!("{group}/{key}"), (*value).to_owned());
    }
    clean(&mut event);

    let Some(commit) = commit_of(&event, &ALERT) else { return };
    let ((_, key), revision) = given.first().expect("no commit without a revision");
    assert!(revision.ends_with(commit), "{commit} of {given:?}");
    assert!(commit.bytes().all(|byte| byte.is_ascii_hexdigit()), "{commit} of {given:?}");
    match commit.len() {
        40 => {}
        // The digest of an OCI artifact is as long as a hash of SHA-256.
        64 => assert!(*key != "revision" || event.involved_object.kind == "GitRepository", "{given:?}"),
        other => panic!("{other} digits of {given:?}"),
    }
});
