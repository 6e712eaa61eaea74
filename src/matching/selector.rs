//! `matchLabels` of an event source. Made with its Alert, asked by `match_event`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::view::ObjectLabels;

/// Labels an object must carry; an empty one is content with an object that is known. Cheap to
/// clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector(Arc<[(Box<str>, Box<str>)]>);

impl Selector {
    /// A selector of these labels, or which of them no object can carry.
    pub fn new(labels: &BTreeMap<String, String>) -> Result<Self, String> {
        for (key, value) in labels {
            let (prefix, name) =
                key.rsplit_once('/').map_or((None, key.as_str()), |(prefix, name)| (Some(prefix), name));
            if name.is_empty() || !is_label(name) || prefix.is_some_and(|prefix| !is_subdomain(prefix)) {
                return Err(format!("the key {key:?}, which is not one a label can have"));
            }
            if !is_label(value) {
                return Err(format!("the value {value:?}, which is not one a label can have"));
            }
        }
        Ok(Self(labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect()))
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &ObjectLabels) -> bool {
        self.0.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// Kubernetes' syntax of a label's value, and of its key after the slash: up to 63 letters, digits,
/// `-`, `_` and `.`, a letter or digit at both ends; a value may be empty.
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.len() <= 63 && text.bytes().all(inner) && has_clean_ends(text)
}

/// Kubernetes' syntax of a namespace: one part of a DNS name.
pub(super) fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && !text.contains('.') && is_subdomain(text)
}

/// Kubernetes' syntax of an object's name, and of a key before the slash: a DNS subdomain.
pub(super) fn is_subdomain(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.len() <= 253 && text.split('.').all(|part| !part.is_empty() && part.bytes().all(inner) && has_clean_ends(part))
}

fn has_clean_ends(text: &str) -> bool {
    let ends = [text.bytes().next(), text.bytes().next_back()];
    ends.into_iter().flatten().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn every_label_has_to_be_there_with_its_value() {
        let object = ObjectLabels::new(map(&[("team", "a"), ("tier", ""), ("example.org/zone", "x_1.y")]));
        for (selector, selected) in [
            (map(&[]), true),
            (map(&[("team", "a")]), true),
            (map(&[("team", "a"), ("example.org/zone", "x_1.y")]), true),
            (map(&[("tier", "")]), true),
            (map(&[("team", "b")]), false),
            (map(&[("team", "a"), ("tier", "web")]), false),
            (map(&[("absent", "")]), false),
            (map(&[("Team", "a")]), false),
        ] {
            assert_eq!(Selector::new(&selector).expect("valid").matches(&object), selected, "{selector:?}");
        }
    }

    #[test]
    fn what_no_object_can_carry_is_refused() {
        let long = "x".repeat(64);
        for (key, value) in [
            ("", "a"),
            ("a b", "a"),
            ("/a", "a"),
            ("Example.org/a", "a"),
            ("example..org/a", "a"),
            ("a/b/c", "a"),
            ("-a", "a"),
            (long.as_str(), "a"),
            ("a", "b c"),
            ("a", ".b"),
            ("a", "b-"),
            ("a", long.as_str()),
            ("a", "\u{e4}"),
        ] {
            assert!(Selector::new(&map(&[(key, value)])).is_err(), "{key:?}={value:?}");
        }
    }
}
