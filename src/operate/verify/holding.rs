//! What regions hold for a key, and how they differ in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use aws_sdk_dynamodb::types::AttributeValue;
use serde::Serialize;
use serde_json::Value;

use crate::item_json::item_json;
use crate::protocol::{Fingerprint, Item, Origin, STAMP, Selections, Stamp, Version, Visible};

/// One key on which replicas disagree.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// The key, as DynamoDB JSON.
    pub key: Value,
    pub why: String,
    /// The regions with the newest version; empty if that is unknown. A missing item and one without a
    /// version show nothing.
    pub newest: Vec<Origin>,
    /// Whether the items are the same, and only the versions in their stamps differ.
    pub only_versions: bool,
    /// What each region holds.
    pub regions: BTreeMap<Origin, Holding>,
}

/// What one region holds for a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "holds", rename_all = "snake_case")]
pub enum Holding {
    Nothing,
    /// An item to be deleted as soon as the region's agent gets to it.
    Marked {
        version: String,
    },
    /// An item. Without a version, it was last written here by an application.
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
pub(super) fn difference(
    key: &Item,
    mut items: Vec<(Origin, Option<Item>)>,
    selections: &Selections,
) -> Option<Difference> {
    // A region keeps what it wrote under a key that is not replicated to it.
    items.retain(|(region, _)| selections.shows(region, key, key) != Visible::Never);
    let reasons = reasons(key, &items, selections);
    let versions = versions(&items);
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
        let is_own = stamp.is_mark() || stamp.matches(item) && stamp.version.is_agents();
        is_own.then_some(stamp.version)
    };
    items.iter().map(|(_, item)| item.as_ref().and_then(version)).collect()
}

/// Why replicas do not hold what they should, apart from the stamps.
fn reasons(key: &Item, items: &[(Origin, Option<Item>)], selections: &Selections) -> Vec<String> {
    let is_marked = |item: &Item| Stamp::read(item).is_some_and(|stamp| stamp.is_mark());
    // The item as all should hold it; a region that takes only part of its attributes can't show it.
    let whole = items.iter().find(|(region, item)| item.is_some() && !selections.keeps(region));
    let whole = whole.and_then(|(_, item)| item.as_ref());
    let mut told: [BTreeSet<String>; 4] = Default::default();
    let [missing, extra, marked, differing] = &mut told;
    for (region, item) in items {
        if item.as_ref().is_some_and(is_marked) {
            marked.insert(region.to_string());
        }
        let shown = whole.map_or(Visible::Nothing, |whole| selections.shows(region, key, whole));
        match (&shown, item) {
            (Visible::Item(_), None) => {
                missing.insert(region.to_string());
            }
            (Visible::Item(expected), Some(item)) => {
                differing.extend(names_that_differ(expected, item).into_iter().map(str::to_owned));
            }
            // A region keeps what it wrote itself.
            (Visible::Nothing, Some(item)) => {
                let own = whole.filter(|_| !selections.keeps(region));
                if own.is_none_or(|own| !names_that_differ(own, item).is_empty()) {
                    extra.insert(region.to_string());
                }
            }
            (Visible::Nothing, None) | (Visible::Never, _) => {}
        }
    }
    let words = [
        ("missing in", ""),
        ("not for", ", but there"),
        ("marked for deletion in", " (is its agent running?)"),
        ("different in", ""),
    ];
    let told = words.into_iter().zip(told).filter(|(_, names)| !names.is_empty());
    told.map(|((before, after), names)| {
        format!("{before} {}{after}", names.into_iter().collect::<Vec<_>>().join(", "))
    })
    .collect()
}

/// The attributes in which two items differ, apart from the stamp.
fn names_that_differ<'a>(a: &'a Item, b: &'a Item) -> Vec<&'a str> {
    let names = a.keys().chain(b.keys()).map(String::as_str);
    names.filter(|name| *name != STAMP && !same(a.get(*name), b.get(*name))).collect()
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
