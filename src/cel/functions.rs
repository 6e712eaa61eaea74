//! The functions and operators an expression may use: the signatures by which `check` resolves a
//! call, and what each does. They are cel-go's of the libraries that Flux turns on: standard,
//! optional types, strings, sets, encoders. Functions of text are in `strings`, parts of times in
//! `time`.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::run::Budget;
use super::time::{self, Time};
use super::types::Type;
use super::value::{List, Map, Value, same_key};
use super::{EvalError, no_such_overload, pattern, strings};

pub(super) type Outcome<'a> = Result<Value<'a>, EvalError>;

/// What a function does: with its name, as some share one, and the values, the target first.
type Run = for<'a> fn(&mut Budget, &'static str, &[Value<'a>]) -> Outcome<'a>;

pub(super) struct Function {
    pub name: &'static str,
    pub signatures: Vec<Signature>,
    pub run: Run,
}

/// One way to call a function.
pub(super) struct Signature {
    /// Whether it is called on its first argument.
    pub method: bool,
    pub arguments: Vec<Type>,
    pub result: Type,
    /// How many type parameters it has.
    pub parameters: usize,
}

/// What `<`, `<=`, `>` and `>=` can compare.
const ORDER: &str = "bool, bool -> bool; int, int -> bool; int, double -> bool; int, uint -> bool; \
    uint, uint -> bool; uint, double -> bool; uint, int -> bool; double, double -> bool; double, int -> bool; \
    double, uint -> bool; string, string -> bool; bytes, bytes -> bool; timestamp, timestamp -> bool; \
    duration, duration -> bool";
/// Parts of a timestamp, in UTC or a named zone.
const PART: &str = ".timestamp -> int; .timestamp, string -> int";
/// Parts a duration has as well.
const PART_OF_BOTH: &str = ".timestamp -> int; .timestamp, string -> int; .duration -> int";
/// Of two lists.
const SETS: &str = "list(A), list(A) -> bool";

/// Names, what they do, and their signatures in cel-go's order. A dot begins those of methods.
const TABLE: &[(&str, Run, &str)] = &[
    // Those that `run` has nodes for, as not every argument is evaluated.
    ("_?_:_", never, "bool, A, A -> A"),
    ("or", never, ".optional_type(A), optional_type(A) -> optional_type(A)"),
    ("orValue", never, ".optional_type(A), A -> A"),
    (
        "_[_]",
        never,
        "list(A), int -> A; map(A,B), A -> B; optional_type(list(A)), int -> optional_type(A); \
         optional_type(map(A,B)), A -> optional_type(B)",
    ),
    (
        "_[?_]",
        never,
        "list(A), int -> optional_type(A); optional_type(list(A)), int -> optional_type(A); \
         map(A,B), A -> optional_type(B); optional_type(map(A,B)), A -> optional_type(B)",
    ),
    // Operators.
    ("!_", not, "bool -> bool"),
    ("-_", negate, "double -> double; int -> int"),
    ("@in", is_in, "A, list(A) -> bool; A, map(A,B) -> bool"),
    ("_==_", equality, "A, A -> bool"),
    ("_!=_", equality, "A, A -> bool"),
    ("_<_", order, ORDER),
    ("_<=_", order, ORDER),
    ("_>_", order, ORDER),
    ("_>=_", order, ORDER),
    (
        "_+_",
        add,
        "bytes, bytes -> bytes; double, double -> double; duration, duration -> duration; \
         duration, timestamp -> timestamp; timestamp, duration -> timestamp; int, int -> int; \
         list(A), list(A) -> list(A); string, string -> string; uint, uint -> uint",
    ),
    (
        "_-_",
        arithmetic,
        "double, double -> double; duration, duration -> duration; int, int -> int; \
         timestamp, duration -> timestamp; timestamp, timestamp -> duration; uint, uint -> uint",
    ),
    ("_*_", arithmetic, "double, double -> double; int, int -> int; uint, uint -> uint"),
    ("_/_", arithmetic, "double, double -> double; int, int -> int; uint, uint -> uint"),
    ("_%_", arithmetic, "int, int -> int; uint, uint -> uint"),
    // Conversions.
    ("bool", to_bool, "bool -> bool; string -> bool"),
    ("bytes", to_bytes, "bytes -> bytes; string -> bytes"),
    ("double", to_double, "double -> double; int -> double; string -> double; uint -> double"),
    ("duration", to_duration, "duration -> duration; int -> duration; string -> duration"),
    ("dyn", identity, "A -> dyn"),
    ("int", to_int, "int -> int; double -> int; duration -> int; string -> int; timestamp -> int; uint -> int"),
    (
        "string",
        to_string,
        "string -> string; bool -> string; bytes -> string; double -> string; duration -> string; int -> string; \
         timestamp -> string; uint -> string",
    ),
    ("timestamp", to_timestamp, "timestamp -> timestamp; int -> timestamp; string -> timestamp"),
    ("type", type_of, "A -> type(A)"),
    ("uint", to_uint, "uint -> uint; double -> uint; int -> uint; string -> uint"),
    // Lists, maps, bytes.
    (
        "size",
        size,
        "bytes -> int; .bytes -> int; list(A) -> int; .list(A) -> int; map(A,B) -> int; .map(A,B) -> int; \
         string -> int; .string -> int",
    ),
    ("first", end_of_list, ".list(A) -> optional_type(A)"),
    ("last", end_of_list, ".list(A) -> optional_type(A)"),
    ("sets.contains", sets, SETS),
    ("sets.equivalent", sets, SETS),
    ("sets.intersects", sets, SETS),
    ("base64.decode", base64_decode, "string -> bytes"),
    ("base64.encode", base64_encode, "bytes -> string"),
    // Optional values.
    ("optional.none", optional, " -> optional_type(A)"),
    ("optional.of", optional, "A -> optional_type(A)"),
    ("optional.ofNonZeroValue", optional, "A -> optional_type(A)"),
    ("optional.unwrap", unwrap, "list(optional_type(A)) -> list(A)"),
    ("unwrapOpt", unwrap, ".list(optional_type(A)) -> list(A)"),
    ("hasValue", has_value, ".optional_type(A) -> bool"),
    ("value", value, ".optional_type(A) -> A"),
    // Text.
    ("charAt", strings::char_at, ".string, int -> string"),
    ("contains", strings::is_part, ".string, string -> bool"),
    ("endsWith", strings::is_part, ".string, string -> bool"),
    ("startsWith", strings::is_part, ".string, string -> bool"),
    ("format", strings::format, ".string, list(dyn) -> string"),
    ("indexOf", strings::index_of, ".string, string -> int; .string, string, int -> int"),
    ("join", strings::join, ".list(string) -> string; .list(string), string -> string"),
    ("lastIndexOf", strings::last_index_of, ".string, string -> int; .string, string, int -> int"),
    ("lowerAscii", strings::rewrite, ".string -> string"),
    ("matches", matches, "string, string -> bool; .string, string -> bool"),
    ("replace", strings::replace, ".string, string, string -> string; .string, string, string, int -> string"),
    ("reverse", strings::rewrite, ".string -> string"),
    ("split", strings::split, ".string, string -> list(string); .string, string, int -> list(string)"),
    ("strings.quote", strings::rewrite, "string -> string"),
    ("substring", strings::substring, ".string, int -> string; .string, int, int -> string"),
    ("trim", strings::rewrite, ".string -> string"),
    ("upperAscii", strings::rewrite, ".string -> string"),
    // Times.
    ("getDate", part, PART),
    ("getDayOfMonth", part, PART),
    ("getDayOfWeek", part, PART),
    ("getDayOfYear", part, PART),
    ("getFullYear", part, PART),
    ("getHours", part, PART_OF_BOTH),
    ("getMilliseconds", part, PART_OF_BOTH),
    ("getMinutes", part, PART_OF_BOTH),
    ("getMonth", part, PART),
    ("getSeconds", part, PART_OF_BOTH),
];

/// The function of that name.
pub(super) fn find(name: &str) -> Option<&'static Function> {
    static FUNCTIONS: LazyLock<HashMap<&'static str, Function>> = LazyLock::new(|| {
        let read = |&(name, run, signatures): &(&'static str, Run, &str)| {
            (name, Function { name, run, signatures: signatures.split("; ").map(signature).collect() })
        };
        TABLE.iter().map(read).collect()
    });
    FUNCTIONS.get(name)
}

fn signature(text: &str) -> Signature {
    let parameters = text.bytes().filter(u8::is_ascii_uppercase).map(|letter| usize::from(letter - b'A') + 1).max();
    let (arguments, result) = text.split_once(" -> ").unwrap_or((text, ""));
    let method = arguments.starts_with('.');
    let arguments = arguments.trim_start_matches('.').split(", ").filter(|text| !text.is_empty());
    Signature {
        method,
        arguments: arguments.map(Type::parse).collect(),
        result: Type::parse(result),
        parameters: parameters.unwrap_or(0),
    }
}

fn never<'a>(_: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    Err(no_such_overload(name, values))
}

fn identity<'a>(_: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    match values {
        [value] => Ok(value.clone()),
        _ => Err(no_such_overload(name, values)),
    }
}

fn part<'a>(_: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    time::part(name, values)
}

fn not<'a>(_: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    match values {
        [Value::Bool(bool)] => Ok(Value::Bool(!bool)),
        _ => Err(no_such_overload(name, values)),
    }
}

fn overflow() -> EvalError {
    EvalError::new("integer overflow")
}

fn unsigned_overflow() -> EvalError {
    EvalError::new("unsigned integer overflow")
}

fn negate<'a>(_: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    match values {
        [Value::Int(int)] => int.checked_neg().map(Value::Int).ok_or_else(overflow),
        [Value::Double(double)] => Ok(Value::Double(-double)),
        [Value::Duration(nanos)] => nanos.checked_neg().map(Value::Duration).ok_or_else(overflow),
        _ => Err(no_such_overload(name, values)),
    }
}

fn add<'a>(budget: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    match values {
        [Value::String(a), Value::String(b)] => {
            budget.text(a.len() + b.len())?;
            Ok(Value::from([&**a, &**b].concat()))
        }
        [Value::Bytes(a), Value::Bytes(b)] => {
            budget.text(a.len() + b.len())?;
            Ok(Value::Bytes([&**a, &**b].concat().into()))
        }
        [Value::List(a), Value::List(b)] => {
            budget.spend(a.len() + b.len())?;
            Ok(a.iter().chain(b.iter()).collect::<Vec<_>>().into())
        }
        [Value::Duration(span), Value::Timestamp(time)] | [Value::Timestamp(time), Value::Duration(span)] => {
            moved(time, i128::from(*span))
        }
        _ => arithmetic(budget, name, values),
    }
}

fn moved<'a>(time: &Time, nanos: i128) -> Outcome<'a> {
    time.plus(nanos).map(Value::Timestamp).ok_or_else(|| EvalError::new("timestamp overflow"))
}

fn arithmetic<'a>(_: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    match values {
        [Value::Int(a), Value::Int(b)] => {
            let (a, b) = (*a, *b);
            let result = match name {
                "_+_" => a.checked_add(b),
                "_-_" => a.checked_sub(b),
                "_*_" => a.checked_mul(b),
                "_/_" if b == 0 => return Err(EvalError::new("division by zero")),
                "_/_" => a.checked_div(b),
                _ if b == 0 => return Err(EvalError::new("modulus by zero")),
                _ => a.checked_rem(b),
            };
            result.map(Value::Int).ok_or_else(overflow)
        }
        [Value::Uint(a), Value::Uint(b)] => {
            let (a, b) = (*a, *b);
            let result = match name {
                "_+_" => a.checked_add(b),
                "_-_" => a.checked_sub(b),
                "_*_" => a.checked_mul(b),
                "_/_" => return a.checked_div(b).map(Value::Uint).ok_or_else(|| EvalError::new("division by zero")),
                _ => return a.checked_rem(b).map(Value::Uint).ok_or_else(|| EvalError::new("modulus by zero")),
            };
            result.map(Value::Uint).ok_or_else(unsigned_overflow)
        }
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(match name {
            "_+_" => a + b,
            "_-_" => a - b,
            "_*_" => a * b,
            "_/_" => a / b,
            _ => return Err(no_such_overload(name, values)),
        })),
        [Value::Duration(a), Value::Duration(b)] => {
            let result = match name {
                "_+_" => a.checked_add(*b),
                "_-_" => a.checked_sub(*b),
                _ => return Err(no_such_overload(name, values)),
            };
            result.map(Value::Duration).ok_or_else(overflow)
        }
        [Value::Timestamp(time), Value::Duration(span)] if name == "_-_" => moved(time, -i128::from(*span)),
        [Value::Timestamp(a), Value::Timestamp(b)] if name == "_-_" => {
            a.since(b).map(Value::Duration).ok_or_else(overflow)
        }
        _ => Err(no_such_overload(name, values)),
    }
}

fn equality<'a>(budget: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    match values {
        [a, b] => Ok(Value::Bool(equal(budget, a, b)? == (name == "_==_"))),
        _ => Err(no_such_overload(name, values)),
    }
}

/// Values of different types are unequal, but for numbers.
fn equal(budget: &mut Budget, a: &Value<'_>, b: &Value<'_>) -> Result<bool, EvalError> {
    budget.spend(1)?;
    Ok(match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::String(a), Value::String(b)) => {
            budget.text(a.len())?;
            a == b
        }
        (Value::Bytes(a), Value::Bytes(b)) => {
            budget.text(a.len())?;
            a == b
        }
        (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
        (Value::Duration(a), Value::Duration(b)) => a == b,
        (Value::Type(a), Value::Type(b)) => a == b,
        (Value::Optional(None), Value::Optional(None)) => true,
        (Value::Optional(Some(a)), Value::Optional(Some(b))) => equal(budget, a, b)?,
        (Value::List(a), Value::List(b)) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            for (a, b) in a.iter().zip(b.iter()) {
                if !equal(budget, &a, &b)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Map(a), Value::Map(b)) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            for key in a.keys() {
                match (look_up(budget, a, &key)?, look_up(budget, b, &key)?) {
                    (Some(a), Some(b)) if equal(budget, &a, &b)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (a, b) => a.compare_numbers(b) == Some(Ordering::Equal),
    })
}

fn look_up<'a>(budget: &mut Budget, map: &Map<'a>, key: &Value<'_>) -> Result<Option<Value<'a>>, EvalError> {
    if let Map::Built(entries) = map {
        budget.spend(entries.len())?;
    }
    let found = map.get(key);
    if let (Map::Json(_), Some(Value::String(text))) = (map, &found) {
        budget.text(text.len())?;
    }
    Ok(found)
}

fn order<'a>(budget: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    let ordering = match values {
        [Value::String(a), Value::String(b)] => {
            budget.text(a.len())?;
            Some(a.cmp(b))
        }
        [Value::Bytes(a), Value::Bytes(b)] => Some(a.cmp(b)),
        [Value::Bool(a), Value::Bool(b)] => Some(a.cmp(b)),
        [Value::Timestamp(a), Value::Timestamp(b)] => a.partial_cmp(b),
        [Value::Duration(a), Value::Duration(b)] => Some(a.cmp(b)),
        [a, b] => match a.compare_numbers(b) {
            None if [a, b].iter().all(|v| matches!(v, Value::Int(_) | Value::Uint(_) | Value::Double(_))) => {
                return Err(EvalError::new("NaN values cannot be ordered"));
            }
            ordering => ordering,
        },
        _ => None,
    };
    let ordering = ordering.ok_or_else(|| no_such_overload(name, values))?;
    Ok(Value::Bool(match name {
        "_<_" => ordering.is_lt(),
        "_<=_" => ordering.is_le(),
        "_>_" => ordering.is_gt(),
        _ => ordering.is_ge(),
    }))
}

fn is_in<'a>(budget: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    match values {
        [value, Value::List(list)] => Ok(Value::Bool(contains(budget, list, value)?)),
        [key, Value::Map(map)] => Ok(Value::Bool(look_up(budget, map, key)?.is_some())),
        _ => Err(no_such_overload(name, values)),
    }
}

fn contains(budget: &mut Budget, list: &List<'_>, value: &Value<'_>) -> Result<bool, EvalError> {
    for element in list.iter() {
        if equal(budget, &element, value)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn sets<'a>(budget: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    let [Value::List(a), Value::List(b)] = values else { return Err(no_such_overload(name, values)) };
    let mut all_in = |inner: &List<'a>, outer: &List<'a>| {
        for value in inner.iter() {
            if !contains(budget, outer, &value)? {
                return Ok(false);
            }
        }
        Ok::<_, EvalError>(true)
    };
    Ok(Value::Bool(match name {
        "sets.contains" => all_in(b, a)?,
        "sets.equivalent" => all_in(a, b)? && all_in(b, a)?,
        _ => {
            for value in a.iter() {
                if contains(budget, b, &value)? {
                    return Ok(Value::Bool(true));
                }
            }
            false
        }
    }))
}

/// Why the value is no key or position of anything.
pub(super) fn not_a_key(value: &Value<'_>) -> Option<EvalError> {
    match value {
        Value::String(_) | Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Double(_) => None,
        other => Some(EvalError::new(format!("invalid qualifier type: {}", other.type_name()))),
    }
}

/// The value under a key or at a position, if there is one. What has neither keys nor positions
/// has nothing under any key.
pub(super) fn inside<'a>(
    budget: &mut Budget,
    value: &Value<'a>,
    key: &Value<'_>,
) -> Result<Option<Value<'a>>, EvalError> {
    if let Some(error) = not_a_key(key) {
        return Err(error);
    }
    match value {
        Value::Map(map) => look_up(budget, map, key),
        Value::List(list) => {
            let position = key.as_index().ok_or_else(|| match key {
                Value::Double(_) => EvalError::new(format!("unsupported index value {} in list", words(key))),
                key => EvalError::new(format!("unsupported index type '{}' in list", key.type_name())),
            })?;
            let found = usize::try_from(position).ok().and_then(|position| list.get(position));
            if let (List::Json(_), Some(Value::String(text))) = (list, &found) {
                budget.text(text.len())?;
            }
            Ok(found)
        }
        _ => Ok(None),
    }
}

/// What there is to say when [`inside`] found nothing.
pub(super) fn missing(value: &Value<'_>, key: &Value<'_>) -> EvalError {
    match value {
        Value::List(_) => EvalError::new(format!("index out of bounds: {}", words(key))),
        _ => EvalError::new(format!("no such key: {}", words(key))),
    }
}

fn words(key: &Value<'_>) -> String {
    match key {
        Value::String(text) => text.to_string(),
        Value::Bool(bool) => bool.to_string(),
        Value::Int(int) => int.to_string(),
        Value::Uint(uint) => uint.to_string(),
        Value::Double(double) => strings::print_double(*double),
        other => other.type_name().to_owned(),
    }
}

fn size<'a>(budget: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    let size = match values {
        [Value::String(text)] => {
            budget.text(text.len())?;
            text.chars().count()
        }
        [Value::Bytes(bytes)] => bytes.len(),
        [Value::List(list)] => list.len(),
        [Value::Map(map)] => map.len(),
        _ => return Err(no_such_overload(name, values)),
    };
    Ok(Value::Int(size as i64))
}

fn end_of_list<'a>(_: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    let [Value::List(list)] = values else { return Err(no_such_overload(name, values)) };
    let position = if name == "first" { Some(0) } else { list.len().checked_sub(1) };
    Ok(Value::Optional(position.and_then(|position| list.get(position)).map(Arc::new)))
}

fn optional<'a>(_: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    match values {
        [] => Ok(Value::Optional(None)),
        [value] if name == "optional.ofNonZeroValue" && value.is_zero() => Ok(Value::Optional(None)),
        [value] => Ok(Value::some(value.clone())),
        _ => Err(no_such_overload(name, values)),
    }
}

fn unwrap<'a>(budget: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    let [Value::List(list)] = values else { return Err(no_such_overload(name, values)) };
    budget.spend(list.len())?;
    let mut found = Vec::new();
    for element in list.iter() {
        match element {
            Value::Optional(optional) => found.extend(optional.as_deref().cloned()),
            other => return Err(EvalError::new(format!("value {} is not optional", words(&other)))),
        }
    }
    Ok(found.into())
}

fn has_value<'a>(_: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    match values {
        [Value::Optional(optional)] => Ok(Value::Bool(optional.is_some())),
        _ => Err(no_such_overload(name, values)),
    }
}

fn value<'a>(_: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    match values {
        [Value::Optional(Some(value))] => Ok((**value).clone()),
        [Value::Optional(None)] => Err(EvalError::new("optional.none() dereference")),
        _ => Err(no_such_overload(name, values)),
    }
}

fn matches<'a>(budget: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    let [Value::String(text), Value::String(expression)] = values else {
        return Err(no_such_overload(name, values));
    };
    // Compiling takes far longer than the search.
    budget.spend(pattern::COST)?;
    let pattern = pattern::compile(expression).map_err(EvalError::new)?;
    budget.spend(pattern.states() as usize * 4)?;
    pattern::is_match(budget, &pattern, text).map(Value::Bool)
}

fn cannot_convert(value: &Value<'_>, to: &str) -> EvalError {
    EvalError::new(format!("type conversion error from '{}' to '{to}'", value.type_name()))
}

fn type_of<'a>(_: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    match values {
        [value] => Ok(Value::Type(value.type_name())),
        _ => Err(no_such_overload(name, values)),
    }
}

fn to_bool<'a>(_: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    match values {
        [Value::Bool(bool)] => Ok(Value::Bool(*bool)),
        [value @ Value::String(text)] => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => Err(cannot_convert(value, "bool")),
        },
        _ => Err(no_such_overload(name, values)),
    }
}

fn to_bytes<'a>(budget: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    match values {
        [Value::Bytes(bytes)] => Ok(Value::Bytes(bytes.clone())),
        [Value::String(text)] => {
            budget.text(text.len())?;
            Ok(Value::Bytes(text.as_bytes().into()))
        }
        _ => Err(no_such_overload(name, values)),
    }
}

fn to_double<'a>(_: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Double(match values {
        [Value::Double(double)] => *double,
        [Value::Int(int)] => *int as f64,
        [Value::Uint(uint)] => *uint as f64,
        [value @ Value::String(text)] => {
            let double: f64 = text.parse().map_err(|_| cannot_convert(value, "double"))?;
            if double.is_infinite() && text.bytes().any(|byte| byte.is_ascii_digit()) {
                return Err(cannot_convert(value, "double"));
            }
            double
        }
        _ => return Err(no_such_overload(name, values)),
    }))
}

fn to_int<'a>(_: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Int(match values {
        [Value::Int(int)] => *int,
        [Value::Uint(uint)] => i64::try_from(*uint).map_err(|_| overflow())?,
        [Value::Double(double)] if *double > i64::MIN as f64 && *double < i64::MAX as f64 => *double as i64,
        [Value::Double(_)] => return Err(overflow()),
        [Value::Timestamp(time)] => time.seconds(),
        [Value::Duration(nanos)] => *nanos,
        [value @ Value::String(text)] => text.parse().map_err(|_| cannot_convert(value, "int"))?,
        _ => return Err(no_such_overload(name, values)),
    }))
}

fn to_uint<'a>(_: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Uint(match values {
        [Value::Uint(uint)] => *uint,
        [Value::Int(int)] => u64::try_from(*int).map_err(|_| unsigned_overflow())?,
        [Value::Double(double)] if *double >= 0.0 && *double < u64::MAX as f64 => *double as u64,
        [Value::Double(_)] => return Err(unsigned_overflow()),
        [value @ Value::String(text)] => {
            let number = text.parse().ok().filter(|_| !text.starts_with('+'));
            number.ok_or_else(|| cannot_convert(value, "uint"))?
        }
        _ => return Err(no_such_overload(name, values)),
    }))
}

fn to_string<'a>(budget: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    Ok(match values {
        [Value::String(text)] => Value::String(text.clone()),
        [Value::Bool(bool)] => Value::from(bool.to_string()),
        [Value::Int(int)] => Value::from(int.to_string()),
        [Value::Uint(uint)] => Value::from(uint.to_string()),
        [Value::Double(double)] => Value::from(strings::print_double(*double)),
        [Value::Timestamp(time)] => Value::from(time.print(time.offset())),
        [Value::Duration(nanos)] => Value::from(time::print_duration(*nanos)),
        [Value::Bytes(bytes)] => {
            budget.text(bytes.len())?;
            let text = std::str::from_utf8(bytes);
            Value::from(text.map_err(|_| EvalError::new("invalid UTF-8 in bytes, cannot convert to string"))?)
        }
        _ => return Err(no_such_overload(name, values)),
    })
}

fn to_timestamp<'a>(_: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    let time = match values {
        [Value::Timestamp(time)] => Some(*time),
        [Value::Int(seconds)] => Time::from_seconds(*seconds),
        [value @ Value::String(text)] => {
            Time::parse(text).ok_or_else(|| cannot_convert(value, "google.protobuf.Timestamp"))?
        }
        _ => return Err(no_such_overload(name, values)),
    };
    time.map(Value::Timestamp).ok_or_else(|| EvalError::new("timestamp overflow"))
}

fn to_duration<'a>(_: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    match values {
        [Value::Duration(nanos)] => Ok(Value::Duration(*nanos)),
        [value @ Value::String(text)] => time::parse_duration(text)
            .map(Value::Duration)
            .ok_or_else(|| cannot_convert(value, "google.protobuf.Duration")),
        // A signature for it exists in cel-go, and always fails.
        [value @ Value::Int(_)] => Err(cannot_convert(value, "google.protobuf.Duration")),
        _ => Err(no_such_overload(name, values)),
    }
}

fn base64_encode<'a>(budget: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    let [Value::Bytes(bytes)] = values else { return Err(no_such_overload(name, values)) };
    budget.text(bytes.len() * 2)?;
    Ok(Value::from(base64::engine::general_purpose::STANDARD.encode(bytes)))
}

fn base64_decode<'a>(budget: &mut Budget, name: &'static str, values: &[Value<'a>]) -> Outcome<'a> {
    let [Value::String(text)] = values else { return Err(no_such_overload(name, values)) };
    budget.text(text.len())?;
    // As Go: with padding or without any, line breaks are skipped, spare bits are not looked at.
    let text: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    let config = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let engine = GeneralPurpose::new(&base64::alphabet::STANDARD, config);
    let bytes = engine.decode(text).map_err(|error| EvalError::new(format!("illegal base64 data: {error}")))?;
    Ok(Value::Bytes(bytes.into()))
}

/// Adds an entry to a map in the making. Of entries with the same key the last stays.
pub(super) fn insert<'a>(
    budget: &mut Budget,
    entries: &mut Vec<(Value<'a>, Value<'a>)>,
    key: Value<'a>,
    value: Value<'a>,
) -> Result<(), EvalError> {
    budget.spend(entries.len())?;
    match entries.iter_mut().find(|(known, _)| same_key(known, &key)) {
        Some(entry) => entry.1 = value,
        None => entries.push((key, value)),
    }
    Ok(())
}
