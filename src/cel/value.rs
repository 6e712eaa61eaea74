//! What an expression computes with. Maps and lists of the event and the objects are borrowed as
//! they are; only what an expression takes out of them or builds is made new.

use std::cmp::Ordering;
use std::sync::Arc;

use serde_json::Value as Json;

use super::time::Time;

#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
    List(List<'a>),
    Map(Map<'a>),
    Optional(Option<Arc<Value<'a>>>),
    Timestamp(Time),
    /// In nanoseconds.
    Duration(i64),
    /// A type, by its name.
    Type(&'static str),
}

#[derive(Clone, Debug)]
pub(super) enum List<'a> {
    Json(&'a [Json]),
    Built(Arc<Vec<Value<'a>>>),
}

#[derive(Clone, Debug)]
pub(super) enum Map<'a> {
    Json(&'a serde_json::Map<String, Json>),
    /// As written; literals are small, so a look-up goes through them.
    Built(Arc<Vec<(Value<'a>, Value<'a>)>>),
}

impl From<&str> for Value<'_> {
    fn from(text: &str) -> Self {
        Value::String(text.into())
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Value::String(text.into())
    }
}

impl<'a> From<Vec<Value<'a>>> for Value<'a> {
    fn from(list: Vec<Value<'a>>) -> Self {
        Value::List(List::Built(Arc::new(list)))
    }
}

impl<'a> From<&'a Json> for Value<'a> {
    fn from(json: &'a Json) -> Self {
        match json {
            Json::Null => Value::Null,
            Json::Bool(bool) => Value::Bool(*bool),
            // Integers stay integers, as far as they go.
            Json::Number(number) => match number.as_i64() {
                Some(int) => Value::Int(int),
                None => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::from(text.as_str()),
            Json::Array(list) => Value::List(List::Json(list)),
            Json::Object(map) => Value::Map(Map::Json(map)),
        }
    }
}

impl<'a> Value<'a> {
    pub(super) fn some(value: Value<'a>) -> Self {
        Value::Optional(Some(Arc::new(value)))
    }

    /// The name of its type when an expression runs.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::List(_) => "list",
            Value::Map(_) => "map",
            Value::Optional(_) => "optional_type",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::Type(_) => "type",
        }
    }

    /// Whether it is what its type starts from: zero, empty, false, null.
    pub(super) fn is_zero(&self) -> bool {
        match self {
            Value::Null | Value::Bool(false) | Value::Int(0) | Value::Uint(0) | Value::Duration(0) => true,
            Value::Double(double) => *double == 0.0,
            Value::String(text) => text.is_empty(),
            Value::Bytes(bytes) => bytes.is_empty(),
            Value::List(list) => list.len() == 0,
            Value::Map(map) => map.len() == 0,
            Value::Optional(optional) => optional.as_ref().is_none_or(|value| value.is_zero()),
            Value::Timestamp(time) => time.is_zero(),
            _ => false,
        }
    }

    /// The number as a position in a list.
    pub(super) fn as_index(&self) -> Option<i64> {
        match self {
            Value::Int(int) => Some(*int),
            Value::Uint(uint) => i64::try_from(*uint).ok(),
            Value::Double(double) if *double == (*double as i64) as f64 => Some(*double as i64),
            _ => None,
        }
    }

    /// How two numbers stand; `None` where one of them is none.
    pub(super) fn compare_numbers(&self, other: &Value<'_>) -> Option<Ordering> {
        use Value::{Double, Int, Uint};
        match (self, other) {
            (Int(a), Int(b)) => Some(a.cmp(b)),
            (Uint(a), Uint(b)) => Some(a.cmp(b)),
            (Int(a), Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Uint(a), Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Double(a), Double(b)) => a.partial_cmp(b),
            (Double(a), Int(b)) => a.partial_cmp(&(*b as f64)),
            (Double(a), Uint(b)) => a.partial_cmp(&(*b as f64)),
            (Int(a), Double(b)) => (*a as f64).partial_cmp(b),
            (Uint(a), Double(b)) => (*a as f64).partial_cmp(b),
            _ => None,
        }
    }
}

impl<'a> List<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            List::Json(list) => list.len(),
            List::Built(list) => list.len(),
        }
    }

    pub(super) fn get(&self, position: usize) -> Option<Value<'a>> {
        match self {
            List::Json(list) => list.get(position).map(Value::from),
            List::Built(list) => list.get(position).cloned(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Value<'a>> {
        (0..self.len()).filter_map(|position| self.get(position))
    }
}

impl<'a> Map<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Map::Json(map) => map.len(),
            Map::Built(entries) => entries.len(),
        }
    }

    pub(super) fn get(&self, key: &Value<'_>) -> Option<Value<'a>> {
        match (self, key) {
            (Map::Json(map), Value::String(key)) => map.get(&**key).map(Value::from),
            (Map::Json(_), _) => None,
            (Map::Built(entries), key) => {
                entries.iter().find(|(known, _)| same_key(known, key)).map(|(_, value)| value.clone())
            }
        }
    }

    pub(super) fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Map::Json(map) => map.keys().map(|key| Value::from(key.as_str())).collect(),
            Map::Built(entries) => entries.iter().map(|(key, _)| key.clone()).collect(),
        }
    }
}

/// Keys are strings, booleans and numbers; numbers of any type that are equal are one key. A
/// literal can hold others, as cel-go lets it, but nothing finds them.
pub(super) fn same_key(a: &Value<'_>, b: &Value<'_>) -> bool {
    match (a, b) {
        (Value::String(a), Value::String(b)) => a == b,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (a, b) => a.compare_numbers(b) == Some(Ordering::Equal),
    }
}
