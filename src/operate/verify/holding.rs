//! What regions hold for a key, and how they differ in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use aws_sdk_dynamodb::types::AttributeValue;
use serde::Serialize;
use serde_json::Value;

use crate::item_json::item_json;
use crate::protocol::{Fingerprint, Item, Origin, STAMP, Stamp, Version};

/// One key on which replicas disagree.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// The key, as DynamoDB JSON.
    pub key: Value,
    pub why: String,
    /// Where the newest version is; nowhere, if that can't be told. A missing item and one without
    /// a version tell nothing.
    pub newest: Vec<Origin>,
    /// Whether the items are the same, and only the versions in their stamps are not.
    pub only_versions: bool,
    /// What each region holds.
    pub regions: BTreeMap<Origin, Holding>,
}

/// What one region holds for a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "holds", rename_all = "snake_case")]
pub enum Holding {
    Nothing,
    /// An item that is to be deleted as soon as the region's agent comes to it.
    Marked {
        version: String,
    },
    /// An item. Without a version, an application wrote it here last.
    Item {
        fingerprint: String,
        version: Option<String>,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.why)?;
        if self.newest.is_empty() {
            return Ok(());
        }
        let newest = self.newest.iter().map(Origin::as_str).collect::<Vec<_>>().join(", ");
        write!(f, "; newest in {newest}")
    }
}

/// How regions differ in a key, if they do.
pub(super) fn difference(key: &Item, items: &[(Origin, Option<Item>)]) -> Option<Difference> {
    let reasons = reasons(items);
    let versions = versions(items);
    let only_versions = reasons.is_empty();
    let why = if only_versions {
        let told: BTreeSet<_> = versions.iter().flatten().collect();
        if told.len() < 2 {
            return None;
        }
        "the same in all regions, but stamped with different versions".to_owned()
    } else {
        reasons.join("; ")
    };
    let newest = match versions.iter().map(Option::as_ref).collect::<Option<Vec<_>>>() {
        Some(all) => {
            let newest = all.iter().max();
            let holders = items.iter().zip(&all).filter(|(_, version)| Some(version) == newest.as_ref());
            holders.map(|((region, _), _)| region.clone()).collect()
        }
        None => Vec::new(),
    };
    let regions = items.iter().map(|(region, item)| (region.clone(), Holding::of(item.as_ref()))).collect();
    Some(Difference { key: item_json(key), why, newest, only_versions, regions })
}

/// The version of each item that has one of its own.
fn versions(items: &[(Origin, Option<Item>)]) -> Vec<Option<Version>> {
    let version = |item: &Item| {
        let stamp = Stamp::read(item)?;
        (stamp.is_mark() || stamp.matches(item)).then_some(stamp.version)
    };
    items.iter().map(|(_, item)| item.as_ref().and_then(version)).collect()
}

/// Why replicas do not hold the same, the stamps aside.
fn reasons(items: &[(Origin, Option<Item>)]) -> Vec<String> {
    let regions_with = |holds: &dyn Fn(Option<&Item>) -> bool| -> Vec<&str> {
        let with = items.iter().filter(|(_, item)| holds(item.as_ref()));
        let mut names: Vec<_> = with.map(|(region, _)| region.as_str()).collect();
        names.sort_unstable();
        names
    };
    let missing = regions_with(&|item| item.is_none());
    let is_marked = |item: &Item| Stamp::read(item).is_some_and(|stamp| stamp.is_mark());
    let marked = regions_with(&|item| item.is_some_and(is_marked));
    let present: Vec<&Item> = items.iter().filter_map(|(_, item)| item.as_ref()).collect();
    let differing: Vec<&str> = match present.split_first() {
        Some((first, rest)) => {
            let mut names: Vec<&str> =
                present.iter().flat_map(|item| item.keys()).map(String::as_str).collect();
            names.sort_unstable();
            names.dedup();
            names.retain(|name| {
                *name != STAMP && rest.iter().any(|item| !same(first.get(*name), item.get(*name)))
            });
            names
        }
        None => Vec::new(),
    };
    let mut reasons = Vec::new();
    if !missing.is_empty() && !present.is_empty() {
        reasons.push(format!("missing in {}", missing.join(", ")));
    }
    if !marked.is_empty() {
        reasons.push(format!("marked for deletion in {} (is its agent running?)", marked.join(", ")));
    }
    if !differing.is_empty() {
        reasons.push(format!("different in {}", differing.join(", ")));
    }
    reasons
}

/// Whether DynamoDB would treat two values as equal.
fn same(a: Option<&AttributeValue>, b: Option<&AttributeValue>) -> bool {
    let print = |value: Option<&AttributeValue>| {
        value.map(|value| Fingerprint::of(&Item::from([(String::new(), value.clone())])))
    };
    print(a) == print(b)
}

impl Holding {
    fn of(item: Option<&Item>) -> Self {
        let Some(item) = item else { return Self::Nothing };
        let stamp = Stamp::read(item);
        let version = |stamp: &Stamp| stamp.version.to_string().trim_end().to_owned();
        match stamp {
            Some(stamp) if stamp.is_mark() => Self::Marked { version: version(&stamp) },
            stamp => Self::Item {
                fingerprint: Fingerprint::of(item).to_string(),
                version: stamp.filter(|stamp| stamp.matches(item)).as_ref().map(version),
            },
        }
    }
}
