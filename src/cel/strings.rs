//! Functions of text, as cel-go's strings extension has them: positions count characters, not
//! bytes, and `format` has clauses of its own.

use super::functions::Outcome;
use super::run::Budget;
use super::value::{Map, Value};
use super::{EvalError, no_such_overload};

/// Decimals a clause of `format` may ask for.
const MAX_PRECISION: usize = 1000;

fn out_of_range(position: i64) -> EvalError {
    EvalError::new(format!("index out of range: {position}"))
}

/// The byte at which the character at `position` starts; the end counts as one more character.
fn byte_at(text: &str, position: i64) -> Result<usize, EvalError> {
    let wanted = usize::try_from(position).map_err(|_| out_of_range(position))?;
    let mut starts = text.char_indices().map(|(byte, _)| byte).chain([text.len()]);
    starts.nth(wanted).ok_or_else(|| out_of_range(position))
}

/// The character that starts at the byte.
fn position_of(text: &str, byte: usize) -> i64 {
    text[..byte].chars().count() as i64
}

pub(super) fn char_at<'a>(budget: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    let [Value::String(text), Value::Int(position)] = values else { return Err(no_such_overload(name, values)) };
    budget.text(text.len())?;
    let rest = &text[byte_at(text, *position)?..];
    Ok(Value::from(rest.chars().take(1).collect::<String>()))
}

pub(super) fn substring<'a>(budget: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    let (text, start, end) = match values {
        [Value::String(text), Value::Int(start)] => (text, *start, None),
        [Value::String(text), Value::Int(start), Value::Int(end)] => (text, *start, Some(*end)),
        _ => return Err(no_such_overload(name, values)),
    };
    budget.text(text.len())?;
    if let Some(end) = end.filter(|end| start > *end) {
        return Err(EvalError::new(format!("invalid substring range. start: {start}, end: {end}")));
    }
    let start = byte_at(text, start)?;
    let end = end.map_or(Ok(text.len()), |end| byte_at(text, end))?;
    Ok(Value::from(&text[start..end]))
}

pub(super) fn index_of<'a>(budget: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    let (text, wanted, from) = match values {
        [Value::String(text), Value::String(wanted)] => (text, wanted, 0),
        [Value::String(text), Value::String(wanted), Value::Int(from)] => (text, wanted, *from),
        _ => return Err(no_such_overload(name, values)),
    };
    budget.text(text.len())?;
    if wanted.is_empty() {
        return Ok(Value::Int(from));
    }
    if from < 0 {
        return Err(out_of_range(from));
    }
    let Ok(start) = byte_at(text, from) else { return Ok(Value::Int(-1)) };
    let found = text[start..].find(&**wanted);
    Ok(Value::Int(found.map_or(-1, |byte| position_of(text, start + byte))))
}

pub(super) fn last_index_of<'a>(budget: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    let (text, wanted, from) = match values {
        [Value::String(text), Value::String(wanted)] => (text, wanted, None),
        [Value::String(text), Value::String(wanted), Value::Int(from)] => (text, wanted, Some(*from)),
        _ => return Err(no_such_overload(name, values)),
    };
    budget.text(text.len())?;
    let length = text.chars().count() as i64;
    let from = match from {
        Some(from) if wanted.is_empty() => return Ok(Value::Int(from)),
        Some(from) if from < 0 => return Err(out_of_range(from)),
        // Too far to the right finds nothing, which is cel-go's rule.
        Some(from) if from >= length => return Ok(Value::Int(-1)),
        Some(from) => from,
        None if wanted.is_empty() => return Ok(Value::Int(length)),
        None => length,
    };
    // What starts at `from` at the latest ends a number of characters later.
    let end = (from + wanted.chars().count() as i64).min(length);
    let found = text[..byte_at(text, end)?].rfind(&**wanted);
    Ok(Value::Int(found.map_or(-1, |byte| position_of(text, byte))))
}

pub(super) fn is_part<'a>(budget: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    let [Value::String(text), Value::String(part)] = values else { return Err(no_such_overload(name, values)) };
    budget.text(text.len())?;
    Ok(Value::Bool(match name {
        "contains" => text.contains(&**part),
        "startsWith" => text.starts_with(&**part),
        _ => text.ends_with(&**part),
    }))
}

pub(super) fn rewrite<'a>(budget: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    let [Value::String(text)] = values else { return Err(no_such_overload(name, values)) };
    budget.text(text.len() * 2)?;
    Ok(Value::from(match name {
        "lowerAscii" => text.to_ascii_lowercase(),
        "upperAscii" => text.to_ascii_uppercase(),
        "reverse" => text.chars().rev().collect(),
        "trim" => text.trim().to_owned(),
        _ => quote(text),
    }))
}

fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        let letter = match c {
            '\u{7}' => 'a',
            '\u{8}' => 'b',
            '\u{c}' => 'f',
            '\n' => 'n',
            '\r' => 'r',
            '\t' => 't',
            '\u{b}' => 'v',
            '\\' | '"' => c,
            c => {
                quoted.push(c);
                continue;
            }
        };
        quoted.extend(['\\', letter]);
    }
    quoted + "\""
}

pub(super) fn replace<'a>(budget: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    let (text, from, to, times) = match values {
        [Value::String(text), Value::String(from), Value::String(to)] => (text, from, to, -1),
        [Value::String(text), Value::String(from), Value::String(to), Value::Int(times)] => (text, from, to, *times),
        _ => return Err(no_such_overload(name, values)),
    };
    budget.text(text.len())?;
    let found = text.matches(&**from).count();
    let times = usize::try_from(times).map_or(found, |times| times.min(found));
    // The result can be far longer than anything that went in.
    budget.text(times.saturating_mul(to.len()))?;
    Ok(Value::from(text.replacen(&**from, to, times)))
}

pub(super) fn split<'a>(budget: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    let (text, separator, most) = match values {
        [Value::String(text), Value::String(separator)] => (text, separator, usize::MAX),
        [Value::String(text), Value::String(separator), Value::Int(most)] => {
            (text, separator, usize::try_from(*most).unwrap_or(usize::MAX))
        }
        _ => return Err(no_such_overload(name, values)),
    };
    budget.text(text.len())?;
    let mut parts = Vec::new();
    let mut rest = &**text;
    while parts.len() + 1 < most {
        let (part, after) = if separator.is_empty() {
            // Between the characters; the last of them is left for the end.
            match rest.chars().next() {
                Some(first) if first.len_utf8() < rest.len() => rest.split_at(first.len_utf8()),
                _ => break,
            }
        } else {
            match rest.split_once(&**separator) {
                Some(split) => split,
                None => break,
            }
        };
        budget.spend(1)?;
        parts.push(Value::from(part));
        rest = after;
    }
    if most > 0 && !(separator.is_empty() && rest.is_empty()) {
        parts.push(Value::from(rest));
    }
    Ok(parts.into())
}

pub(super) fn join<'a>(budget: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    let (list, between) = match values {
        [Value::List(list)] => (list, ""),
        [Value::List(list), Value::String(between)] => (list, &**between),
        _ => return Err(no_such_overload(name, values)),
    };
    let mut joined = String::new();
    for (position, element) in list.iter().enumerate() {
        let Value::String(text) = element else { return Err(no_such_overload(name, values)) };
        budget.text(text.len() + between.len())?;
        joined += if position == 0 { "" } else { between };
        joined += &text;
    }
    Ok(Value::from(joined))
}

/// A double as Go's `%g` has it: `1.5`, `1e+06`, `+Inf`.
pub(super) fn print_double(double: f64) -> String {
    if !double.is_finite() {
        return if double.is_nan() {
            "NaN"
        } else if double > 0.0 {
            "+Inf"
        } else {
            "-Inf"
        }
        .to_owned();
    }
    let scientific = format!("{double:e}");
    let exponent = scientific.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
    if (-4..6).contains(&exponent) { double.to_string() } else { padded_exponent(&scientific) }
}

/// `1.5e3` as Go writes it: `1.5e+03`.
fn padded_exponent(scientific: &str) -> String {
    let (digits, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{digits}e{sign}{exponent:0>2}")
}

/// A piece of a format.
pub(super) enum Piece<'t> {
    Text(&'t str),
    /// A clause such as `%.2f`.
    Clause {
        verb: char,
        precision: usize,
    },
    /// A clause that is none; what is wrong with it.
    Broken(String),
}

/// The pieces of a format, in order.
pub(super) fn pieces(format: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        pieces.push(Piece::Text(&rest[..at]));
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            pieces.push(Piece::Text("%"));
            rest = after;
            continue;
        }
        if rest.is_empty() {
            pieces.push(Piece::Broken("unexpected end of string".to_owned()));
            return pieces;
        }
        let mut precision = 6;
        let broken = |what: &str| Piece::Broken(format!("could not parse formatting clause: {what}"));
        if let Some(after) = rest.strip_prefix('.') {
            let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            if digits == after.len() {
                pieces.push(broken("error while parsing precision: could not find end of precision specifier"));
                return pieces;
            }
            match after[..digits].parse() {
                Ok(number) if number <= MAX_PRECISION => precision = number,
                _ => {
                    let what = format!(
                        "error while parsing precision: error while converting precision to integer: {:?} is not a \
                         number up to {MAX_PRECISION}",
                        &after[..digits]
                    );
                    pieces.push(broken(&what));
                    return pieces;
                }
            }
            rest = &after[digits..];
        }
        let verb = rest.chars().next().unwrap_or(' ');
        if !"sdfebxXo".contains(verb) {
            pieces.push(broken(&format!("unrecognized formatting clause {:?}", verb.to_string())));
            return pieces;
        }
        pieces.push(Piece::Clause { verb, precision });
        rest = &rest[1..];
    }
    pieces.push(Piece::Text(rest));
    pieces
}

/// What is wrong with giving a value of the type, by the name it has when running, to a clause.
pub(super) fn refusal(verb: char, type_name: &str) -> Option<String> {
    let (types, words): (&[&str], _) = match verb {
        's' => (
            &[
                "list",
                "map",
                "int",
                "uint",
                "double",
                "bool",
                "string",
                "google.protobuf.Timestamp",
                "bytes",
                "google.protobuf.Duration",
                "type",
                "null_type",
            ],
            "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, \
             and timestamps",
        ),
        'd' => (&["int", "uint", "double"], "decimal clause can only be used on ints, uints, and doubles"),
        'f' => (&["int", "uint", "double"], "fixed-point clause can only be used on ints, uints, and doubles"),
        'e' => (&["int", "uint", "double"], "scientific clause can only be used on ints, uints, and doubles"),
        'b' => (&["bool", "int", "uint"], "only ints, uints, and bools can be formatted as binary"),
        'o' => (&["int", "uint"], "octal clause can only be used on ints and uints"),
        _ => (&["int", "uint", "string", "bytes"], "only ints, uints, bytes, and strings can be formatted as hex"),
    };
    (!types.contains(&type_name)).then(|| format!("error during formatting: {words}, was given {type_name}"))
}

pub(super) fn format<'a>(budget: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    let [Value::String(format), Value::List(list)] = values else { return Err(no_such_overload(name, values)) };
    budget.text(format.len())?;
    let mut text = String::new();
    let mut next = 0;
    for piece in pieces(format) {
        if let Piece::Text(piece) = piece {
            text += piece;
            continue;
        }
        let value = list.get(next).ok_or_else(|| EvalError::new(format!("index {next} out of range")))?;
        next += 1;
        match piece {
            Piece::Clause { verb, precision } => clause(budget, verb, precision, &value, &mut text)?,
            Piece::Broken(what) => return Err(EvalError::new(what)),
            Piece::Text(_) => {}
        }
    }
    Ok(Value::from(text))
}

fn clause(
    budget: &mut Budget,
    verb: char,
    precision: usize,
    value: &Value<'_>,
    into: &mut String,
) -> Result<(), EvalError> {
    if let Some(refusal) = refusal(verb, value.type_name()) {
        return Err(EvalError::new(refusal));
    }
    let before = into.len();
    match (verb, value) {
        ('s' | 'd', value) => return plain(budget, value, into),
        ('f' | 'e', value) => {
            let double = match value {
                Value::Int(int) => *int as f64,
                Value::Uint(uint) => *uint as f64,
                Value::Double(double) => *double,
                _ => f64::NAN,
            };
            *into += &match verb {
                _ if !double.is_finite() => spelled_out(double).to_owned(),
                'f' => format!("{double:.precision$}"),
                _ => padded_exponent(&format!("{double:.precision$e}")),
            };
        }
        ('b', Value::Bool(bool)) => into.push(if *bool { '1' } else { '0' }),
        (verb, Value::Int(int)) => {
            into.push_str(if *int < 0 { "-" } else { "" });
            *into += &digits(verb, int.unsigned_abs());
        }
        (verb, Value::Uint(uint)) => *into += &digits(verb, *uint),
        (verb, Value::String(text)) => hex(budget, verb, text.as_bytes(), into)?,
        (verb, Value::Bytes(bytes)) => hex(budget, verb, bytes, into)?,
        _ => {}
    }
    budget.text(into.len() - before)
}

fn digits(verb: char, number: u64) -> String {
    match verb {
        'b' => format!("{number:b}"),
        'o' => format!("{number:o}"),
        'x' => format!("{number:x}"),
        _ => format!("{number:X}"),
    }
}

fn hex(budget: &mut Budget, verb: char, bytes: &[u8], into: &mut String) -> Result<(), EvalError> {
    budget.text(bytes.len() * 2)?;
    for byte in bytes {
        *into += &if verb == 'x' { format!("{byte:02x}") } else { format!("{byte:02X}") };
    }
    Ok(())
}

fn spelled_out(double: f64) -> &'static str {
    if double.is_nan() {
        "NaN"
    } else if double > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

/// A value as `%s` has it.
fn plain(budget: &mut Budget, value: &Value<'_>, into: &mut String) -> Result<(), EvalError> {
    let before = into.len();
    match value {
        Value::Null => into.push_str("null"),
        Value::Bool(bool) => *into += &bool.to_string(),
        Value::Int(int) => *into += &int.to_string(),
        Value::Uint(uint) => *into += &uint.to_string(),
        Value::Double(double) if double.is_finite() => *into += &double.to_string(),
        Value::Double(double) => into.push_str(spelled_out(*double)),
        Value::String(text) => into.push_str(text),
        Value::Bytes(bytes) => into.push_str(&String::from_utf8_lossy(bytes)),
        Value::Timestamp(time) => *into += &time.print(0),
        Value::Duration(nanos) => *into += &super::time::print_duration(*nanos),
        Value::Type(name) => into.push_str(name),
        Value::List(list) => {
            into.push('[');
            for (position, element) in list.iter().enumerate() {
                into.push_str(if position == 0 { "" } else { ", " });
                plain(budget, &element, into)?;
            }
            into.push(']');
        }
        Value::Map(map) => map_entries(budget, map, into)?,
        Value::Optional(_) => return Err(EvalError::new(refusal('s', value.type_name()).unwrap_or_default())),
    }
    budget.text(into.len() - before)
}

/// Entries in the order of their keys as text.
fn map_entries(budget: &mut Budget, map: &Map<'_>, into: &mut String) -> Result<(), EvalError> {
    let mut entries = Vec::new();
    for key in map.keys() {
        let (mut name, mut text) = (String::new(), String::new());
        plain(budget, &key, &mut name)?;
        if let Some(value) = map.get(&key) {
            plain(budget, &value, &mut text)?;
        }
        entries.push((name, text));
    }
    entries.sort();
    into.push('{');
    for (position, (key, value)) in entries.iter().enumerate() {
        into.push_str(if position == 0 { "" } else { ", " });
        into.extend([key, ": ", value]);
    }
    into.push('}');
    Ok(())
}
