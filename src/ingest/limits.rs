//! Bounds the fields of an event, so that nothing that is remembered of one is large: a condition, a cached status, the key
//! of an order. Called by the events server after decoding. The message is bounded where filters read it.

use crate::api::Event;
use crate::compose::text;

/// Bytes of a name, a UID, a version or a metadata key. Kubernetes takes at most 317 (`prefix/name` of an annotation).
const MAX_IDENTIFIER: usize = 512;

/// Characters of a reason. Kubernetes takes 128 in its own events.
const MAX_REASON: usize = 1024;

/// Bytes of all metadata of an event. An object has at most 256 KiB of annotations; controllers add a few values.
const MAX_METADATA: usize = 512 << 10;

/// A field of an event that is longer than any object's in Kubernetes can be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event's {field} has {bytes} bytes; {most} are the most, so shorten it")]
pub struct FieldTooLong {
    field: &'static str,
    bytes: usize,
    most: usize,
}

/// Cuts a long reason, which is text. Refuses what cannot be cut without becoming the name of something else.
///
/// # Errors
/// The first field that is too long.
pub fn apply(event: &mut Event) -> Result<(), FieldTooLong> {
    let object = &event.involved_object;
    let metadata = event.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    let fields = [
        ("involvedObject.kind", object.kind.len(), MAX_IDENTIFIER),
        ("involvedObject.namespace", object.namespace.len(), MAX_IDENTIFIER),
        ("involvedObject.name", object.name.len(), MAX_IDENTIFIER),
        ("involvedObject.uid", object.uid.len(), MAX_IDENTIFIER),
        ("involvedObject.apiVersion", object.api_version.len(), MAX_IDENTIFIER),
        ("involvedObject.resourceVersion", object.resource_version.len(), MAX_IDENTIFIER),
        ("involvedObject.fieldPath", object.field_path.len(), MAX_IDENTIFIER),
        ("severity", event.severity.len(), MAX_IDENTIFIER),
        ("reportingController", event.reporting_controller.len(), MAX_IDENTIFIER),
        ("reportingInstance", event.reporting_instance.len(), MAX_IDENTIFIER),
        ("longest metadata key", event.metadata.keys().map(String::len).max().unwrap_or(0), MAX_IDENTIFIER),
        ("metadata", metadata, MAX_METADATA),
    ];
    if let Some((field, bytes, most)) = fields.into_iter().find(|(_, bytes, most)| bytes > most) {
        return Err(FieldTooLong { field, bytes, most });
    }
    if event.reason.len() > MAX_REASON {
        event.reason = text::cut(&event.reason, MAX_REASON);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_reasons_are_cut_and_short_ones_stay() {
        for (given, kept) in [(MAX_REASON, MAX_REASON), (MAX_REASON + 1, MAX_REASON), (2_900_000, MAX_REASON)] {
            let mut event = Event { reason: "é".repeat(given), ..Event::default() };
            apply(&mut event).expect("a reason is never refused");
            assert_eq!(event.reason.chars().count(), kept, "{given}");
            assert!(event.reason.capacity() <= 4 * MAX_REASON, "{given}: the long text is freed");
        }
    }

    #[test]
    fn identifiers_and_metadata_past_their_bound_are_refused_by_name() {
        type Set = fn(&mut Event, String);
        let identifiers: [(&str, Set); 11] = [
            ("involvedObject.kind", |event, text| event.involved_object.kind = text),
            ("involvedObject.namespace", |event, text| event.involved_object.namespace = text),
            ("involvedObject.name", |event, text| event.involved_object.name = text),
            ("involvedObject.uid", |event, text| event.involved_object.uid = text),
            ("involvedObject.apiVersion", |event, text| event.involved_object.api_version = text),
            ("involvedObject.resourceVersion", |event, text| event.involved_object.resource_version = text),
            ("involvedObject.fieldPath", |event, text| event.involved_object.field_path = text),
            ("severity", |event, text| event.severity = text),
            ("reportingController", |event, text| event.reporting_controller = text),
            ("reportingInstance", |event, text| event.reporting_instance = text),
            ("longest metadata key", |event, text| drop(event.metadata.insert(text, String::new()))),
        ];
        for (field, set) in identifiers {
            let mut event = Event::default();
            set(&mut event, "x".repeat(MAX_IDENTIFIER));
            assert_eq!(apply(&mut event), Ok(()), "{field}");
            let mut event = Event::default();
            set(&mut event, "x".repeat(MAX_IDENTIFIER + 1));
            let error = apply(&mut event).expect_err(field);
            assert_eq!((error.field, error.most), (field, MAX_IDENTIFIER));
        }
        let mut event = Event::default();
        event.metadata.insert("a".to_owned(), "x".repeat(MAX_METADATA - 1));
        assert_eq!(apply(&mut event), Ok(()));
        event.metadata.insert("b".to_owned(), String::new());
        assert_eq!(apply(&mut event).expect_err("one byte too many").field, "metadata");
    }
}
