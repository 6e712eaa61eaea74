//! Key `headers` of a Provider's Secret: a YAML or JSON map of header names and values. Called by
//! `resolve`.
//!
//! The peer reads it as YAML 1.1 and writes what is not text as text again, so that `X-Custom: yes`
//! is sent as `X-Custom: true`. No library here reads YAML 1.1; the syntax is the parser's, which
//! tells plain words from quoted ones, and what a plain word means is decided here. The table of it
//! is in the tests (spec: part 7.2 of the peer's pipeline, run against its parser).

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Tag};
use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The headers that `text` lists; of two equal names the last counts. An error says what is wrong,
/// never with a name or value.
pub fn parse(text: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs(text)? {
        let (Ok(name), Ok(mut value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) else {
            return Err("holds a name or value no HTTP header can have".to_owned());
        };
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// Where in the one map there may be the next node stands.
enum Place {
    Top,
    Key,
    Value(String),
    /// The map has ended.
    After,
}

/// Keys and values of the first document, in their order.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let no_map = || "is not a YAML map of header names and values".to_owned();
    let mut pairs = Vec::new();
    let mut anchors: HashMap<usize, Scalar> = HashMap::new();
    let mut place = Place::Top;
    for event in Parser::new_from_str(text) {
        let (event, _) = event.map_err(|error| format!("is no YAML (line {})", error.marker().line()))?;
        let scalar = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = Scalar::read(&text, style, tag.as_deref())?;
                if anchor != 0 {
                    anchors.insert(anchor, scalar.clone());
                }
                scalar
            }
            // What is not among them is the map itself, or a list or map that was refused.
            Event::Alias(anchor) => anchors.get(&anchor).cloned().ok_or_else(collection)?,
            Event::MappingStart(..) if matches!(place, Place::Top) => {
                place = Place::Key;
                continue;
            }
            Event::MappingStart(..) | Event::SequenceStart(..) => {
                return Err(if matches!(place, Place::Top) { no_map() } else { collection() });
            }
            Event::MappingEnd => {
                place = Place::After;
                continue;
            }
            // Of several documents the peer reads the first.
            Event::DocumentEnd => break,
            _ => continue,
        };
        place = match place {
            Place::Top if matches!(scalar, Scalar::Null) => Place::After,
            Place::Top | Place::After => return Err(no_map()),
            Place::Key if matches!(scalar, Scalar::Null) => return Err("holds a null as a name".to_owned()),
            Place::Key => Place::Value(scalar.into_text()),
            Place::Value(name) => {
                pairs.push((name, scalar.into_text()));
                Place::Key
            }
        };
    }
    Ok(pairs)
}

fn collection() -> String {
    "holds a list or a map as a name or value; give text".to_owned()
}

/// What a scalar means in YAML 1.1, as the peer's parser reads it.
#[derive(Clone, Debug, PartialEq)]
enum Scalar {
    Null,
    Bool(bool),
    /// In decimal.
    Int(String),
    Float(f64),
    Text(String),
}

impl Scalar {
    fn read(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Self, String> {
        let Some(tag) = tag else {
            return Ok(if style == ScalarStyle::Plain { Self::plain(text) } else { Self::Text(text.to_owned()) });
        };
        let is = |name| tag.is_yaml_core_schema_tag(name);
        let scalar = Self::plain(text);
        match scalar {
            Self::Null if is("null") => Ok(scalar),
            Self::Bool(_) if is("bool") => Ok(scalar),
            Self::Int(_) if is("int") => Ok(scalar),
            Self::Float(_) if is("float") => Ok(scalar),
            Self::Int(digits) if is("float") => Ok(Self::Float(digits.parse().unwrap_or_default())),
            _ if ["null", "bool", "int", "float"].into_iter().any(is) || tag.parts().1 == "binary" => {
                Err("holds a value that is not what its tag says; give text".to_owned())
            }
            // `!!str`, and tags that say nothing of what is meant.
            _ => Ok(Self::Text(text.to_owned())),
        }
    }

    /// The meaning of a word that is neither quoted nor tagged.
    fn plain(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Self::Null,
            "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
                return Self::Bool(true);
            }
            "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
                return Self::Bool(false);
            }
            ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Self::Float(f64::INFINITY),
            "-.inf" | "-.Inf" | "-.INF" => return Self::Float(f64::NEG_INFINITY),
            ".nan" | ".NaN" | ".NAN" => return Self::Float(f64::NAN),
            _ => {}
        }
        let number = match text.as_bytes()[0] {
            b'+' | b'-' | b'.' | b'0'..=b'9' => {
                let digits = text.replace('_', "");
                int(&digits).or_else(|| float(&digits))
            }
            _ => None,
        };
        number.unwrap_or_else(|| Self::Text(text.to_owned()))
    }

    /// As the peer sends it.
    fn into_text(self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Bool(value) => value.to_string(),
            Self::Int(digits) => digits,
            Self::Float(value) => single_precision(value),
            Self::Text(text) => text,
        }
    }
}

/// A whole number of 64 bits: decimal, `0x`, `0b`, `0o`, or octal by a leading 0.
fn int(text: &str) -> Option<Scalar> {
    let (negative, digits) = match text.as_bytes()[0] {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let prefix = digits.get(..2).map(str::to_ascii_lowercase);
    let (radix, digits) = match prefix.as_deref() {
        Some("0x") => (16, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some(_) if digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    // The library would take a second sign.
    let digits = digits.bytes().next().filter(u8::is_ascii_alphanumeric).map(|_| digits)?;
    let value = i128::from(u64::from_str_radix(digits, radix).ok()?);
    let value = if negative { -value } else { value };
    (value >= i128::from(i64::MIN)).then(|| Scalar::Int(value.to_string()))
}

/// A decimal fraction, with or without an exponent; one too large for 64 bits is none.
fn float(text: &str) -> Option<Scalar> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E'));
    text.parse().ok().filter(|value: &f64| digits && value.is_finite()).map(Scalar::Float)
}

/// The shortest text that a 32-bit reader reads back, with an exponent from `1e+06` and below
/// `1e-04`: how Go prints a float that it was told has single precision.
fn single_precision(value: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "single precision is what is wanted")]
    let value = value as f32;
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return value.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value that is sent for this YAML of a value.
    fn sent(yaml: &str) -> Result<String, String> {
        let pairs = pairs(&format!("X-A: {yaml}\n"))?;
        assert_eq!(pairs.len(), 1, "{yaml}");
        assert_eq!(pairs[0].0, "X-A");
        Ok(pairs[0].1.clone())
    }

    #[test]
    fn plain_words_for_true_and_false_are_sent_as_such() {
        for word in ["true", "yes", "on", "y"] {
            let capital = word[..1].to_uppercase() + &word[1..];
            for word in [word.to_owned(), capital, word.to_uppercase()] {
                assert_eq!(sent(&word).as_deref(), Ok("true"), "{word}");
            }
        }
        for word in ["false", "no", "off", "n"] {
            let capital = word[..1].to_uppercase() + &word[1..];
            for word in [word.to_owned(), capital, word.to_uppercase()] {
                assert_eq!(sent(&word).as_deref(), Ok("false"), "{word}");
            }
        }
        assert_eq!(sent("yEs").as_deref(), Ok("yEs"));
        assert_eq!(sent("yes please").as_deref(), Ok("yes please"));
    }

    #[test]
    fn values_are_converted_as_the_peer_does() {
        for (yaml, expected) in [
            // Whole numbers in decimal.
            ("1", "1"),
            ("+5", "5"),
            ("-5", "-5"),
            ("1_000", "1000"),
            ("0755", "493"),
            ("0o17", "15"),
            ("0x1F", "31"),
            ("-0x1F", "-31"),
            ("0b11", "3"),
            ("-0B11", "-3"),
            ("0", "0"),
            ("00", "0"),
            ("-0", "0"),
            ("18446744073709551615", "18446744073709551615"),
            ("-9223372036854775808", "-9223372036854775808"),
            // Floats in single precision.
            ("1.0", "1"),
            ("1.50", "1.5"),
            ("1e3", "1000"),
            ("123456.789", "123456.79"),
            ("1000000.0", "1e+06"),
            ("999999.0", "999999"),
            ("1234567.5", "1.2345675e+06"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("-1.5e-10", "-1.5e-10"),
            (".5", "0.5"),
            (".5_0", "0.5"),
            ("12_3.4_5", "123.45"),
            ("1.e5", "100000"),
            ("-.5", "-0.5"),
            ("1.", "1"),
            ("-0.0", "-0"),
            ("08", "8"),
            ("1e100", "+Inf"),
            ("18446744073709551616", "1.8446744e+19"),
            (".inf", "+Inf"),
            ("+.INF", "+Inf"),
            ("-.Inf", "-Inf"),
            (".nan", "NaN"),
            // Nothing.
            ("null", ""),
            ("Null", ""),
            ("~", ""),
            ("", ""),
            ("# a comment", ""),
            // Text as it is.
            ("plain", "plain"),
            ("2001-12-14", "2001-12-14"),
            ("2001-12-14T21:59:43.10-05:00", "2001-12-14T21:59:43.10-05:00"),
            ("1:30", "1:30"),
            ("1e400", "1e400"),
            ("0x", "0x"),
            ("0xg", "0xg"),
            ("0b2", "0b2"),
            ("1e", "1e"),
            ("0x1FFFFFFFFFFFFFFFFF", "0x1FFFFFFFFFFFFFFFFF"),
            ("<<", "<<"),
            ("+", "+"),
            ("++1", "++1"),
            ("0x-1", "0x-1"),
            ("1.2.3", "1.2.3"),
            (".", "."),
            (".infinity", ".infinity"),
            ("+inf", "+inf"),
            ("-nan", "-nan"),
            ("_1", "_1"),
            ("'yes'", "yes"),
            ("\"1.0\"", "1.0"),
            ("\"\"", ""),
            ("|-\n  yes", "yes"),
            (">-\n  a\n  b", "a b"),
            ("!!str yes", "yes"),
            ("! yes", "yes"),
            ("!mine yes", "yes"),
            ("!!int '5'", "5"),
            ("!!float 1", "1"),
            ("!!bool yes", "true"),
            ("!!null ~", ""),
        ] {
            assert_eq!(sent(yaml).as_deref(), Ok(expected), "{yaml}");
        }
    }

    #[test]
    fn keys_are_converted_the_same_way_and_the_last_of_two_counts() {
        let sent = parse("1: a\nyes: b\n1.50: c\nX-A: first\nx-a: second\nX-B: &b no\nX-C: *b\n").expect("a map");
        for (name, value) in
            [("1", "a"), ("true", "b"), ("1.5", "c"), ("x-a", "second"), ("x-b", "false"), ("x-c", "false")]
        {
            assert_eq!(sent.get(name).map(HeaderValue::as_bytes), Some(value.as_bytes()), "{name}");
        }
        assert_eq!(sent.len(), 6);
        assert!(sent.values().all(HeaderValue::is_sensitive));
    }

    #[test]
    fn documents_without_headers_and_json() {
        for nothing in ["", "\n", "# a comment\n", "null", "~", "{}", "---\n", "---\n...\n"] {
            assert_eq!(pairs(nothing), Ok(Vec::new()), "{nothing:?}");
        }
        let json = pairs(r#"{"X-A": "yes", "X-B": true, "X-C": 1.50, "X-D": null}"#).expect("a map");
        let values: Vec<_> = json.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(values, ["yes", "true", "1.5", ""]);
        assert_eq!(pairs("X-A: a\n---\nX-B: b\n"), Ok(vec![("X-A".into(), "a".into())]), "the first document");
    }

    #[test]
    fn what_is_wrong_is_said_without_what_is_written() {
        for (yaml, words) in [
            ("planted", "is not a YAML map"),
            ("'planted'", "is not a YAML map"),
            ("''", "is not a YAML map"),
            ("1", "is not a YAML map"),
            ("- planted", "is not a YAML map"),
            ("[planted]", "is not a YAML map"),
            ("X-A: [planted]", "a list or a map"),
            ("X-A: {planted: x}", "a list or a map"),
            ("X-A:\n  planted: x", "a list or a map"),
            ("? [planted]\n: x", "a list or a map"),
            ("&a X-A: *a\nX-B: &planted {}", "a list or a map"),
            ("&planted {X-A: *planted}", "a list or a map"),
            ("null: planted", "null as a name"),
            ("~: planted", "null as a name"),
            ("X-A: !!int planted", "what its tag says"),
            ("X-A: !!binary cGxhbnRlZA==", "what its tag says"),
            ("X-A: planted\n X-B: planted", "is no YAML (line 2)"),
            ("X-A: 'planted", "is no YAML (line"),
            ("X-A: *planted", "is no YAML (line 1)"),
            ("X-A: a: planted", "is no YAML (line 1)"),
            ("X-A: @planted", "is no YAML (line 1)"),
            ("X A: planted", "no HTTP header"),
            ("X-A: |\n  planted\n", "no HTTP header"),
            ("\"\": planted", "no HTTP header"),
        ] {
            let wrong = parse(yaml).expect_err(yaml);
            assert!(wrong.contains(words), "{yaml:?}: {wrong}");
            assert!(!wrong.contains("planted"), "{yaml:?}: {wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_headers_or_an_error(text in "[-a-z0-9:.'\"|>\\[\\]{}&*!~ \n]{0,60}") {
            let _ = parse(&text);
        }

        #[test]
        fn a_float_is_read_back_as_it_was(value: f32) {
            proptest::prop_assume!(value.is_finite());
            let text = single_precision(f64::from(value));
            proptest::prop_assert_eq!(text.parse::<f32>().expect("a number").to_bits(), value.to_bits());
        }
    }
}
