//! The approximate size of items.

use aws_sdk_dynamodb::types::AttributeValue;

use crate::protocol::Item;

/// The approximate size of an item, in bytes: the content of its texts and binaries.
pub(crate) fn item_bytes(item: &Item) -> usize {
    item.iter().map(|(name, value)| 32 + name.len() + value_bytes(value)).sum()
}

pub(super) fn value_bytes(value: &AttributeValue) -> usize {
    use AttributeValue as Value;
    match value {
        Value::S(text) | Value::N(text) => text.len(),
        Value::B(bytes) => bytes.as_ref().len(),
        Value::Ss(set) | Value::Ns(set) => set.iter().map(String::len).sum(),
        Value::Bs(set) => set.iter().map(|bytes| bytes.as_ref().len()).sum(),
        Value::L(list) => list.iter().map(|value| 24 + value_bytes(value)).sum(),
        Value::M(map) => item_bytes(map),
        _ => 1,
    }
}
