//! Items, written briefly and compared exactly.

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue as Value;
use tradewind::item_json::item_json;
use tradewind::protocol::{Fingerprint, Item, Nonce, STAMP};

use crate::world::PLACES;

pub(crate) fn s(text: &str) -> Value {
    Value::S(text.to_owned())
}

pub(crate) fn n(number: impl ToString) -> Value {
    Value::N(number.to_string())
}

pub(crate) fn b(bytes: &[u8]) -> Value {
    Value::B(Blob::new(bytes))
}

pub(crate) fn item<const N: usize>(attributes: [(&str, Value); N]) -> Item {
    attributes.map(|(name, value)| (name.to_owned(), value)).into()
}

/// A key of the suite's plain table.
pub(crate) fn key(id: &str) -> Item {
    item([("pk", s(id))])
}

/// An item of the suite's plain table.
pub(crate) fn row(id: &str, value: &str) -> Item {
    item([("pk", s(id)), ("v", s(value))])
}

/// An item as its user sees it: without the stamp.
pub(crate) fn without_stamp(mut item: Item) -> Item {
    item.remove(STAMP);
    item
}

pub(crate) fn stamp_of(item: &Item) -> Option<&str> {
    item.get(STAMP).and_then(|value| value.as_s().ok()).map(String::as_str)
}

/// One text for equal items, and another for different ones. Only the order within sets, which
/// has no meaning, does not count: a number's spelling does.
pub(crate) fn exact(item: &Item) -> String {
    let sorted = item.iter().map(|(name, value)| (name.clone(), sort_sets(value))).collect();
    item_json(&sorted).to_string()
}

fn sort_sets(value: &Value) -> Value {
    match value {
        Value::Ss(set) => {
            let mut set = set.clone();
            set.sort();
            Value::Ss(set)
        }
        Value::Ns(set) => {
            let mut set = set.clone();
            set.sort();
            Value::Ns(set)
        }
        Value::Bs(set) => {
            let mut set = set.clone();
            set.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
            Value::Bs(set)
        }
        Value::L(list) => Value::L(list.iter().map(sort_sets).collect()),
        Value::M(map) => Value::M(map.iter().map(|(name, value)| (name.clone(), sort_sets(value))).collect()),
        other => other.clone(),
    }
}

/// An item as the agent of a region that is no more would have written it in this region: no agent replicates it.
pub(crate) fn stamped(region: usize, mut item: Item, millis: u64) -> Item {
    let fingerprint = Fingerprint::of(&item);
    let stamp = format!("tw1 {:016x} paris - - {fingerprint} {}", millis << 16, nonce(region, millis));
    item.insert(STAMP.to_owned(), s(&stamp));
    item
}

/// The nonce of an agent's attempt to write in this region.
pub(crate) fn nonce(region: usize, random: u64) -> Nonce {
    Nonce::new(&PLACES[region].0.parse().expect("a region's name"), random)
}
