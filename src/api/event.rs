//! The Flux event as it comes over HTTP, decoded as leniently as Go's `encoding/json` does,
//! and encoded again byte for byte as Flux's notification-controller does.
//!
//! Decoded by `ingest`, read by `matching` and `compose`, encoded by `vendors::generic`.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// What a Flux controller says happened to an object (event API v1beta1; it has no
/// `apiVersion` and no `kind` in the body).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The object the event is about.
    pub involved_object: InvolvedObject,
    /// `info` or `error`; other words are kept and match no Alert of severity `error`.
    pub severity: String,
    /// Whole seconds; `None` when the sender gave none.
    pub timestamp: Option<jiff::Timestamp>,
    /// Text for people.
    pub message: String,
    /// CamelCase token.
    pub reason: String,
    /// Revision and friends, with their group prefix while they arrive.
    pub metadata: BTreeMap<String, String>,
    /// For example `kustomize-controller`.
    pub reporting_controller: String,
    /// The sender's pod.
    pub reporting_instance: String,
}

/// A core ObjectReference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InvolvedObject {
    /// Kind, case-sensitive.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Group and version, for example `kustomize.toolkit.fluxcd.io/v1`.
    pub api_version: String,
    /// The version at the start of the reconcile that sent the event.
    pub resource_version: String,
    /// Never set by Flux.
    pub field_path: String,
}

impl InvolvedObject {
    /// The group part of `apiVersion`; empty for core kinds.
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }
}

impl fmt::Display for InvolvedObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
    }
}

impl Event {
    /// Decodes a request body.
    ///
    /// As the peer: keys in any case, unknown keys ignored, `null` anywhere is "absent", bytes
    /// that are not UTF-8 and lone surrogates become U+FFFD. Anything else is an error: an empty
    /// body, trailing bytes, a metadata value that is not text, a time that is not RFC 3339.
    pub fn decode(body: &[u8]) -> Result<Self, serde_json::Error> {
        let first = match std::str::from_utf8(body) {
            Ok(text) => serde_json::from_str::<Option<Event>>(text),
            Err(_) => serde_json::from_str(&replace_invalid_utf8(body)),
        };
        first
            .or_else(|error| match replace_lone_surrogates(body) {
                Some(mended) => serde_json::from_str(&mended),
                None => Err(error),
            })
            .map(Option::unwrap_or_default)
    }

    /// Encodes as Go's `encoding/json` would: fields in the API's order, metadata sorted, and
    /// `<`, `>`, `&`, U+2028 and U+2029 escaped.
    pub fn encode(&self) -> Vec<u8> {
        encode_like_go(self)
    }
}

/// JSON bytes with the escapes of Go's `encoding/json`.
pub fn encode_like_go<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, GoEscapes);
    value.serialize(&mut serializer).expect("maps with text keys always encode");
    out
}

struct GoEscapes;

impl serde_json::ser::Formatter for GoEscapes {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let special = rest[at..].chars().next().expect("find stands on a character");
            writer.write_all(&rest.as_bytes()[..at])?;
            write!(writer, "\\u{:04x}", u32::from(special))?;
            rest = &rest[at + special.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

/// One U+FFFD for each byte that is not UTF-8, as Go does (`from_utf8_lossy` folds runs).
fn replace_invalid_utf8(body: &[u8]) -> String {
    let mut text = String::with_capacity(body.len() + 8);
    for chunk in body.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '\u{FFFD}'));
    }
    text
}

/// Rewrites `\ud800`-style escapes that have no partner to `\ufffd`; `None` when there are none.
fn replace_lone_surrogates(body: &[u8]) -> Option<String> {
    let mut text = replace_invalid_utf8(body).into_bytes();
    let unit = |text: &[u8], at: usize| -> Option<u16> {
        let digits = text.get(at..at + 6).filter(|escape| escape.starts_with(b"\\u"))?;
        u16::from_str_radix(std::str::from_utf8(&digits[2..]).ok()?, 16).ok()
    };
    let (mut at, mut changed) = (0, false);
    while at < text.len() {
        if text[at] != b'\\' {
            at += 1;
            continue;
        }
        match unit(&text, at) {
            Some(0xD800..=0xDBFF) if matches!(unit(&text, at + 6), Some(0xDC00..=0xDFFF)) => at += 12,
            Some(0xD800..=0xDFFF) => {
                text[at + 2..at + 6].copy_from_slice(b"fffd");
                changed = true;
                at += 6;
            }
            Some(_) => at += 6,
            None => at += 2,
        }
    }
    changed.then(|| String::from_utf8(text).expect("only ASCII was replaced by ASCII"))
}

/// Go fills a field whose JSON is `null` with its zero value.
fn text<'de, A: MapAccess<'de>>(map: &mut A) -> Result<String, A::Error> {
    Ok(map.next_value::<Option<String>>()?.unwrap_or_default())
}

/// A struct's key, matched as Go matches it: without regard to ASCII case.
struct FieldName<'a>(std::borrow::Cow<'a, str>);

impl FieldName<'_> {
    fn is(&self, name: &str) -> bool {
        self.0.eq_ignore_ascii_case(name)
    }
}

impl<'de> Deserialize<'de> for FieldName<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = FieldName<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(FieldName(text.into()))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(FieldName(text.to_owned().into()))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Event;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Event, A::Error> {
                let mut event = Event::default();
                while let Some(name) = map.next_key::<FieldName<'de>>()? {
                    if name.is("involvedObject") {
                        event.involved_object = map.next_value::<Option<_>>()?.unwrap_or_default();
                    } else if name.is("severity") {
                        event.severity = text(&mut map)?;
                    } else if name.is("timestamp") {
                        event.timestamp = map.next_value::<Option<String>>()?.map(|t| rfc3339(&t)).transpose()?;
                    } else if name.is("message") {
                        event.message = text(&mut map)?;
                    } else if name.is("reason") {
                        event.reason = text(&mut map)?;
                    } else if name.is("metadata") {
                        let values: Option<BTreeMap<String, Option<String>>> = map.next_value()?;
                        event.metadata =
                            values.into_iter().flatten().map(|(k, v)| (k, v.unwrap_or_default())).collect();
                    } else if name.is("reportingController") {
                        event.reporting_controller = text(&mut map)?;
                    } else if name.is("reportingInstance") {
                        event.reporting_instance = text(&mut map)?;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(event)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

impl<'de> Deserialize<'de> for InvolvedObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = InvolvedObject;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object reference")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<InvolvedObject, A::Error> {
                let mut object = InvolvedObject::default();
                while let Some(name) = map.next_key::<FieldName<'de>>()? {
                    let field = [
                        ("kind", &mut object.kind),
                        ("namespace", &mut object.namespace),
                        ("name", &mut object.name),
                        ("uid", &mut object.uid),
                        ("apiVersion", &mut object.api_version),
                        ("resourceVersion", &mut object.resource_version),
                        ("fieldPath", &mut object.field_path),
                    ]
                    .into_iter()
                    .find(|(key, _)| name.is(key));
                    match field {
                        Some((_, field)) => *field = text(&mut map)?,
                        None => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(object)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// The first second of the year 0 in UTC.
const YEAR_0: i64 = -62_167_219_200;

/// Go's `time.RFC3339`: stricter than ISO 8601 in its separators, fractions allowed.
fn rfc3339<E: de::Error>(text: &str) -> Result<jiff::Timestamp, E> {
    let wrong = || E::custom(format_args!("timestamp {text:?} is not RFC 3339, such as 2026-01-02T15:04:05Z"));
    let bytes = text.as_bytes();
    let separators = bytes.len() >= 20
        && [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')].iter().all(|&(at, byte)| bytes[at] == byte);
    if !separators {
        return Err(wrong());
    }
    let time: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
    // Flux's events carry whole seconds, and what is sent on does too.
    let whole = jiff::Timestamp::from_second(time.as_second()).map_err(|_| wrong())?;
    let second = if whole > time { whole.as_second() - 1 } else { whole.as_second() };
    // An offset can lead before the year 0, which RFC 3339 cannot write.
    if second < YEAR_0 { Err(wrong()) } else { jiff::Timestamp::from_second(second).map_err(|_| wrong()) }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("involvedObject", &self.involved_object)?;
        map.serialize_entry("severity", &self.severity)?;
        map.serialize_entry("timestamp", &self.timestamp.map(|t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()))?;
        map.serialize_entry("message", &self.message)?;
        map.serialize_entry("reason", &self.reason)?;
        if !self.metadata.is_empty() {
            map.serialize_entry("metadata", &self.metadata)?;
        }
        map.serialize_entry("reportingController", &self.reporting_controller)?;
        if !self.reporting_instance.is_empty() {
            map.serialize_entry("reportingInstance", &self.reporting_instance)?;
        }
        map.end()
    }
}

impl Serialize for InvolvedObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = [
            ("kind", &self.kind),
            ("namespace", &self.namespace),
            ("name", &self.name),
            ("uid", &self.uid),
            ("apiVersion", &self.api_version),
            ("resourceVersion", &self.resource_version),
            ("fieldPath", &self.field_path),
        ];
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in fields.into_iter().filter(|(_, value)| !value.is_empty()) {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> Result<Event, serde_json::Error> {
        Event::decode(text.as_bytes())
    }

    #[test]
    fn accepts_what_go_accepts() {
        for text in [
            "{}",
            "null",
            " {} \n",
            r#"{"unknown":{"deep":[1,2,{"a":null}]},"message":"m"}"#,
            r#"{"metadata":null,"involvedObject":null,"timestamp":null}"#,
            r#"{"timestamp":"2022-09-30T06:40:29.123456789+02:00"}"#,
        ] {
            assert!(decode(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        for text in [
            "",
            "{",
            "{} x",
            "{}{}",
            "[]",
            "7",
            r#""text""#,
            r#"{"metadata":{"a":1}}"#,
            r#"{"metadata":["a"]}"#,
            r#"{"timestamp":""}"#,
            r#"{"timestamp":"2022-09-30 06:40:29Z"}"#,
            r#"{"timestamp":12}"#,
            // Go reads this one and cannot write it again.
            r#"{"timestamp":"0000-01-01T00:00:00+23:59"}"#,
            r#"{"message":5}"#,
            r#"{"involvedObject":[]}"#,
        ] {
            assert!(decode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn keys_match_without_regard_to_case_and_the_last_one_wins() {
        let event = decode(r#"{"MESSAGE":"a","Message":"b","INVOLVEDOBJECT":{"Kind":"K","APIversion":"g/v1"}}"#)
            .expect("accepted");
        assert_eq!(event.message, "b");
        assert_eq!(event.involved_object.kind, "K");
        assert_eq!(event.involved_object.group(), "g");
    }

    #[test]
    fn what_is_not_utf8_becomes_the_replacement_character() {
        let event = Event::decode(b"{\"message\":\"a\xe2\x82z\"}").expect("accepted");
        assert_eq!(event.message, "a\u{FFFD}\u{FFFD}z");
        let event = decode(r#"{"message":"\ud800x \ud83d\ude00 \\ud800"}"#).expect("accepted");
        assert_eq!(event.message, "\u{FFFD}x \u{1F600} \\ud800");
    }

    #[test]
    fn encodes_in_the_api_order_with_gos_escapes() {
        let event = decode(
            r#"{"reportingInstance":"","metadata":{"b":"2","a":"<&>"},"message":"line \u2028","severity":"info",
                "timestamp":"2022-09-30T08:40:29.9+02:00","involvedObject":{"name":"n","kind":"K"}}"#,
        )
        .expect("accepted");
        let text = String::from_utf8(event.encode()).expect("UTF-8");
        assert_eq!(
            text,
            "{\"involvedObject\":{\"kind\":\"K\",\"name\":\"n\"},\"severity\":\"info\",\
             \"timestamp\":\"2022-09-30T06:40:29Z\",\"message\":\"line \\u2028\",\"reason\":\"\",\
             \"metadata\":{\"a\":\"\\u003c\\u0026\\u003e\",\"b\":\"2\"},\"reportingController\":\"\"}"
        );
    }

    #[test]
    fn a_fraction_of_a_second_is_cut_off_not_rounded() {
        for (given, sent) in [
            ("2022-09-30T06:40:29.999999999Z", "2022-09-30T06:40:29Z"),
            ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59Z"),
            ("0000-01-01T00:00:00Z", "0000-01-01T00:00:00Z"),
        ] {
            let event = decode(&format!(r#"{{"timestamp":{given:?}}}"#)).expect("accepted");
            let text = String::from_utf8(event.encode()).expect("UTF-8");
            assert!(text.contains(&format!("\"timestamp\":{sent:?}")), "{text}");
        }
    }

    #[test]
    fn an_absent_time_is_null_again() {
        let text = String::from_utf8(Event::default().encode()).expect("UTF-8");
        assert!(text.contains("\"timestamp\":null"), "{text}");
    }
}
