//! Event metadata: cleaned on arrival, combined for each Alert.
//!
//! On the wire keys carry a group prefix: `event.toolkit.fluxcd.io/` for what users annotate, the
//! object's own group for what its controller says. What is sent has the prefixes stripped.

use std::collections::BTreeMap;

use crate::api::{EVENT_GROUP, Event};
use crate::matching::CompiledAlert;

/// Keeps the keys of the two groups and drops the controller's `checksum` and `digest`.
/// Called once per event, before anything else reads it.
pub fn clean(event: &mut Event) {
    let group = event.involved_object.group().to_owned();
    event.metadata.retain(|key, _| {
        let controller = in_group(key, &group);
        (controller.is_some() || in_group(key, EVENT_GROUP).is_some())
            && !controller.is_some_and(|key| ["checksum", "digest"].iter().any(|drop| key.eq_ignore_ascii_case(drop)))
    });
}

/// The metadata an Alert sends with an event, lowest to highest precedence: what users annotated,
/// the Alert's `eventMetadata`, its `summary`, what the controller says. The controller's `token`
/// is internal and dropped. When nothing is left the prefixed metadata stays as it is.
pub fn combine(event: &Event, alert: &CompiledAlert) -> BTreeMap<String, String> {
    combine_with(event, &added(alert))
}

/// What an Alert adds: its `eventMetadata`, and over it its `summary`.
pub(super) fn added(alert: &CompiledAlert) -> BTreeMap<String, String> {
    let mut added = alert.event_metadata.clone();
    added.extend(alert.summary.clone().map(|summary| ("summary".to_owned(), summary)));
    added
}

/// [`combine`] with what an Alert adds.
pub(super) fn combine_with(event: &Event, added: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let group = event.involved_object.group();
    let stripped = |group| {
        event.metadata.iter().filter_map(move |(key, value)| Some((in_group(key, group)?.to_owned(), value.clone())))
    };
    let mut combined: BTreeMap<String, String> = stripped(EVENT_GROUP).collect();
    combined.extend(added.clone());
    combined.extend(stripped(group).filter(|(key, _)| key != "token"));
    if combined.is_empty() { event.metadata.clone() } else { combined }
}

/// What Flux's controller says of them, in the log and in an Event; people search for it.
pub const METADATA_CONFLICTS: &str =
    "metadata key conflicts detected (please refer to the Alert API docs and Flux RFC 0008 for more information)";

/// Keys that are told of as conflicts, at most.
const MAX_CONFLICTS: usize = 32;

/// The keys that more than one layer of [`combine`] gives, each with the layers that do, in the
/// words of Flux's Events. Empty, and nothing allocated for it, when there are none.
pub fn conflicts(event: &Event, alert: &CompiledAlert) -> BTreeMap<String, Vec<&'static str>> {
    let group = event.involved_object.group();
    let mut wire = String::new();
    let mut on_wire = |group: &str, key: &str| {
        wire.clear();
        wire.extend([group, "/", key]);
        event.metadata.contains_key(wire.as_str())
    };
    let annotated = event.metadata.keys().filter_map(|key| in_group(key, EVENT_GROUP));
    let of_alert = alert.event_metadata.keys().map(String::as_str);
    let summary = alert.summary.as_ref().map(|_| "summary");
    let mut conflicts = BTreeMap::new();
    // Whatever two layers give is in one of these three.
    for key in annotated.chain(of_alert).chain(summary) {
        let layers = [
            (on_wire(EVENT_GROUP, key), "involved object annotations"),
            (alert.event_metadata.contains_key(key), "Alert object .spec.eventMetadata"),
            (key == "summary" && alert.summary.is_some(), "Alert object .spec.summary"),
            (key != "token" && on_wire(group, key), "involved object controller metadata"),
        ];
        if layers.iter().filter(|(has, _)| *has).count() > 1 && conflicts.len() < MAX_CONFLICTS {
            let sources = layers.iter().filter(|(has, _)| *has).map(|(_, source)| *source).collect();
            conflicts.insert(key.to_owned(), sources);
        }
    }
    conflicts
}

/// The value [`combine`] would give `key`, without building the map.
pub(super) fn lookup<'a>(event: &'a Event, alert: &'a CompiledAlert, key: &str) -> Option<&'a str> {
    let controller = if key == "token" { None } else { of_group(event, event.involved_object.group(), key) };
    controller
        .or_else(|| alert.summary.as_deref().filter(|_| key == "summary"))
        .or_else(|| alert.event_metadata.get(key).map(String::as_str))
        .or_else(|| of_group(event, EVENT_GROUP, key))
}

/// The value of `key` in the event itself, whatever an Alert adds.
pub(super) fn own<'a>(event: &'a Event, key: &str) -> Option<&'a str> {
    of_group(event, event.involved_object.group(), key).or_else(|| of_group(event, EVENT_GROUP, key))
}

fn of_group<'a>(event: &'a Event, group: &str, key: &str) -> Option<&'a str> {
    event.metadata.iter().find(|(name, _)| in_group(name, group) == Some(key)).map(|(_, value)| value.as_str())
}

/// `key` without the prefix of `group`, if it has it.
fn in_group<'a>(key: &'a str, group: &str) -> Option<&'a str> {
    key.strip_prefix(group)?.strip_prefix('/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Alert, AlertSpec, Key, ObjectMeta};

    fn alert(summary: Option<&str>, metadata: &[(&str, &str)]) -> CompiledAlert {
        let meta =
            ObjectMeta { key: Key::new("apps", "a"), uid: "u".into(), generation: 1, annotations: BTreeMap::new() };
        let spec =
            AlertSpec { summary: summary.map(str::to_owned), event_metadata: map(metadata), ..Default::default() };
        CompiledAlert::new(&Alert { meta, spec, object: "{}".into() })
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    fn event(pairs: &[(&str, &str)]) -> Event {
        let mut event = Event { metadata: map(pairs), ..Default::default() };
        event.involved_object.api_version = "kustomize.toolkit.fluxcd.io/v1".into();
        clean(&mut event);
        event
    }

    #[test]
    fn the_worked_example_of_the_peer() {
        let event = event(&[
            ("kustomize.toolkit.fluxcd.io/revision", "main@sha1:5394"),
            ("kustomize.toolkit.fluxcd.io/digest", "d"),
            ("kustomize.toolkit.fluxcd.io/CheckSum", "d"),
            ("kustomize.toolkit.fluxcd.io/token", "t"),
            ("event.toolkit.fluxcd.io/foo", "bar"),
            ("event.toolkit.fluxcd.io/token", "kept"),
            ("other/x", "y"),
            ("plain", "z"),
        ]);
        let alert = alert(Some("sum"), &[("env", "prod"), ("revision", "x")]);
        let expected = map(&[
            ("env", "prod"),
            ("foo", "bar"),
            ("revision", "main@sha1:5394"),
            ("summary", "sum"),
            ("token", "kept"),
        ]);
        assert_eq!(combine(&event, &alert), expected);
        for key in ["env", "foo", "revision", "summary", "token", "absent"] {
            assert_eq!(lookup(&event, &alert, key), expected.get(key).map(String::as_str), "{key}");
        }
    }

    #[test]
    fn a_key_that_two_layers_give_is_a_conflict() {
        let event = event(&[
            ("kustomize.toolkit.fluxcd.io/revision", "r"),
            ("kustomize.toolkit.fluxcd.io/token", "t"),
            ("event.toolkit.fluxcd.io/env", "e"),
            ("event.toolkit.fluxcd.io/token", "kept"),
            ("event.toolkit.fluxcd.io/summary", "s"),
            ("event.toolkit.fluxcd.io/alone", "a"),
        ]);
        let (annotations, spec, summary, controller) = (
            "involved object annotations",
            "Alert object .spec.eventMetadata",
            "Alert object .spec.summary",
            "involved object controller metadata",
        );
        let expected = [
            ("env", vec![annotations, spec]),
            ("revision", vec![spec, controller]),
            ("summary", vec![annotations, summary]),
        ];
        let own = alert(Some("sum"), &[("env", "prod"), ("revision", "x"), ("mine", "m")]);
        assert_eq!(conflicts(&event, &own), expected.map(|(key, sources)| (key.to_owned(), sources)).into());
        assert!(conflicts(&event, &alert(None, &[("mine", "m")])).is_empty());
        let many: Vec<String> = (0..2 * MAX_CONFLICTS).map(|number| format!("key{number}")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|key| (key.as_str(), "v")).collect();
        let wire: Vec<String> = many.iter().map(|(key, _)| format!("event.toolkit.fluxcd.io/{key}")).collect();
        let wire: Vec<(&str, &str)> = wire.iter().map(|key| (key.as_str(), "v")).collect();
        assert_eq!(conflicts(&self::event(&wire), &alert(None, &many)).len(), MAX_CONFLICTS);
    }

    #[test]
    fn an_empty_result_leaves_the_prefixed_metadata() {
        let event = event(&[("kustomize.toolkit.fluxcd.io/token", "t")]);
        assert_eq!(combine(&event, &alert(None, &[])), event.metadata);
    }

    #[test]
    fn an_object_of_the_core_group_has_the_prefix_slash() {
        let mut event = Event { metadata: map(&[("/revision", "r"), ("revision", "dropped")]), ..Default::default() };
        clean(&mut event);
        assert_eq!(combine(&event, &alert(None, &[])), map(&[("revision", "r")]));
    }

    proptest::proptest! {
        #[test]
        fn a_lookup_says_what_the_map_would(
            pairs in proptest::collection::btree_map("(event|kustomize)\\.toolkit\\.fluxcd\\.io/[abc]|[abc]", "[xy]", 0..8),
            own in proptest::collection::btree_map("[abc]", "[xy]", 0..3),
            key in "[abcd]",
        ) {
            let mut event = Event { metadata: pairs, ..Default::default() };
            event.involved_object.api_version = "kustomize.toolkit.fluxcd.io/v1".into();
            clean(&mut event);
            let mut alert = alert(None, &[]);
            alert.event_metadata = own;
            let combined = combine(&event, &alert);
            assert_eq!(lookup(&event, &alert, &key), combined.get(&key).map(String::as_str));
        }
    }
}
