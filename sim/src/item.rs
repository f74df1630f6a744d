//! Items as the simulated service stores them: DynamoDB's JSON form, with sorted names.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Value, json};

/// An item, or one image of it.
pub type Item = BTreeMap<String, Value>;

/// How many copies of a key are kept for putting back.
pub const KEY_HISTORY: usize = 16;

/// The name of the stamp attribute.
pub const STAMP: &str = "_tw";

/// A string attribute.
pub fn text(value: &str) -> Value {
    json!({ "S": value })
}

/// A number attribute.
pub fn number(value: u64) -> Value {
    json!({ "N": value.to_string() })
}

/// The text in a string attribute.
pub fn as_text(value: &Value) -> Option<&str> {
    value.get("S")?.as_str()
}

/// The number in a number attribute.
pub fn as_number(value: &Value) -> Option<u64> {
    value.get("N")?.as_str()?.parse().ok()
}

/// The item in a request.
pub fn item_of(value: &Value) -> Option<Item> {
    Some(value.as_object()?.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// An item for an answer.
pub fn value_of(item: &Item) -> Value {
    Value::Object(item.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// A hash of a JSON value: the same for the same value in every run.
pub fn digest(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    hash(value, &mut hasher);
    hasher.finish()
}

/// A hash of what an application sees of an item: everything but the stamp.
pub fn data_digest(item: &Item) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (name, value) in item.iter().filter(|(name, _)| *name != STAMP) {
        name.hash(&mut hasher);
        hash(value, &mut hasher);
    }
    hasher.finish()
}

fn hash(value: &Value, hasher: &mut DefaultHasher) {
    match value {
        Value::Null => 0_u8.hash(hasher),
        Value::Bool(flag) => flag.hash(hasher),
        Value::Number(number) => number.to_string().hash(hasher),
        Value::String(text) => text.hash(hasher),
        Value::Array(list) => {
            list.len().hash(hasher);
            for element in list {
                hash(element, hasher);
            }
        }
        Value::Object(map) => {
            map.len().hash(hasher);
            for (name, value) in map {
                name.hash(hasher);
                hash(value, hasher);
            }
        }
    }
}

/// The approximate size of an item in a stream page, in bytes.
pub fn weight(item: &Item) -> usize {
    fn bytes(value: &Value) -> usize {
        match value {
            Value::String(text) => text.len(),
            Value::Array(list) => list.iter().map(bytes).sum(),
            Value::Object(map) => map.iter().map(|(name, value)| name.len() + bytes(value)).sum(),
            _ => 1,
        }
    }
    item.iter().map(|(name, value)| name.len() + bytes(value)).sum()
}
