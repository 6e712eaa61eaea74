//! Reads lists of statuses without keeping more of them than is compared: a vendor chooses how many rows an
//! answer has and how long its texts are. Used by the Git hosts.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use jiff::Timestamp;
use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};

use crate::outbox::comparable;

/// Rows of one page that are read; the rest is skipped. No vendor gives more.
const MAX_ROWS: usize = 1000;

/// Bytes a name may have; a row with a longer one is nobody's.
const LONGEST_NAME: usize = 4096;

/// A JSON array, or null for an empty one. No more than the first [`MAX_ROWS`] are kept.
#[derive(Debug)]
pub struct Rows<T>(pub Vec<T>);

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Rows<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Array<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Array<T> {
            type Value = Rows<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Rows::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut rows = Vec::new();
                while rows.len() < MAX_ROWS {
                    let Some(row) = list.next_element()? else { return Ok(Rows(rows)) };
                    rows.push(row);
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Rows(rows))
            }
        }
        deserializer.deserialize_any(Array(PhantomData))
    }
}

/// A description, as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(pub Arc<str>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Compared;
        impl Visitor<'_> for Compared {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(comparable(text)))
            }
        }
        deserializer.deserialize_str(Compared)
    }
}

/// A name; empty when it is longer than any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(pub String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Short;
        impl Visitor<'_> for Short {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_str<E>(self, text: &str) -> Result<Name, E> {
                Ok(Name(if text.len() > LONGEST_NAME { String::new() } else { text.to_owned() }))
            }
        }
        deserializer.deserialize_str(Short)
    }
}

/// A moment as text of ISO 8601 or in milliseconds; none when it cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment(pub Option<Timestamp>);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Moment;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a moment")
            }

            fn visit_str<E>(self, text: &str) -> Result<Moment, E> {
                Ok(Moment(text.parse().ok()))
            }

            fn visit_u64<E>(self, milliseconds: u64) -> Result<Moment, E> {
                Ok(Moment(i64::try_from(milliseconds).ok().and_then(|at| Timestamp::from_millisecond(at).ok())))
            }

            fn visit_i64<E>(self, milliseconds: i64) -> Result<Moment, E> {
                Ok(Moment(Timestamp::from_millisecond(milliseconds).ok()))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Moment, E> {
                Ok(Moment(None))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Moment, E> {
                Ok(Moment(None))
            }

            fn visit_unit<E>(self) -> Result<Moment, E> {
                Ok(Moment(None))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_rows_are_kept_than_a_page_has() {
        let many = format!("[{}]", vec!["1"; 3 * MAX_ROWS].join(","));
        let rows: Rows<u8> = serde_json::from_str(&many).expect("a list");
        assert_eq!(rows.0.len(), MAX_ROWS);
        let none: Rows<u8> = serde_json::from_str("null").expect("none");
        assert!(none.0.is_empty());
        assert!(serde_json::from_str::<Rows<u8>>("{}").is_err());
    }

    #[test]
    fn texts_are_kept_as_they_are_compared() {
        let long = "x".repeat(8 << 20);
        let text: Text = serde_json::from_value(long.clone().into()).expect("text");
        assert_eq!(text, Text(comparable(&long)));
        let [short, long] = ["a\nb", &long].map(|name| serde_json::from_value::<Name>(name.into()).expect("a name"));
        assert_eq!((short.0.as_str(), long.0.as_str()), ("a\nb", ""));
    }

    #[test]
    fn moments_as_vendors_write_them() {
        let at = |text: &str| serde_json::from_str::<Moment>(text).expect("a moment").0;
        let second: Timestamp = "2026-11-20T22:37:35Z".parse().expect("valid");
        for text in [
            r#""2026-11-20T22:37:35Z""#,
            r#""2026-11-20T22:37:35.000000+00:00""#,
            r#""2026-11-20T23:37:35+01:00""#,
            "1795214255000",
        ] {
            assert_eq!(at(text), Some(second), "{text}");
        }
        for text in [r#""soon""#, "null", "true", "1.5"] {
            assert_eq!(at(text), None, "{text}");
        }
    }
}
