//! What goes to one region: some of the items, or all but some attributes of each.
//!
//! A region that takes part of the items sees every write as either the item or a delete, with the same
//! version. So to its agent, and to everything proven about the protocol, an item that is not for it is one
//! that was deleted; one that leaves its selection is deleted there like any other.
//!
//! Only if the item's key alone decides is nothing sent: no version of that key is ever for the region, so
//! there is nothing that a delete could overtake.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aws_sdk_dynamodb::types::AttributeValue;

use super::fingerprint::same_number;
use super::{Body, Fingerprint, Item, Origin, Write};

/// A test of one attribute, at the top level of the item.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// It is there, and equals one of these.
    Is(Vec<AttributeValue>),
    /// It equals none of these, or is absent: as DynamoDB's `<>`.
    IsNot(Vec<AttributeValue>),
    /// It is a string that begins with one of these.
    BeginsWith(Vec<String>),
    /// Whether it is there.
    Exists(bool),
}

/// What one region takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// Only items for which all of this holds.
    pub only: Vec<(String, Test)>,
    /// Without these attributes. The region's own writes stay there: an item written without them would
    /// remove them everywhere else.
    pub without: BTreeSet<String>,
}

/// What a region is to hold of an item.
#[derive(Debug, PartialEq)]
pub enum Visible<'a> {
    Item(Cow<'a, Item>),
    /// It is not for the region: a delete of what that may hold.
    Nothing,
    /// No version of its key is ever for the region, which keeps what it wrote itself.
    Never,
}

/// What goes to which region; everything, for those that are not named.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selections(BTreeMap<Origin, Selection>);

impl Test {
    fn holds(&self, value: Option<&AttributeValue>) -> bool {
        let among = |these: &[AttributeValue]| value.is_some_and(|v| these.iter().any(|this| equal(v, this)));
        match self {
            Self::Is(these) => among(these),
            Self::IsNot(these) => !among(these),
            Self::BeginsWith(these) => match value {
                Some(AttributeValue::S(text)) => these.iter().any(|prefix| text.starts_with(prefix)),
                _ => false,
            },
            Self::Exists(expected) => value.is_some() == *expected,
        }
    }
}

/// Whether DynamoDB considers two strings, numbers or booleans equal.
fn equal(a: &AttributeValue, b: &AttributeValue) -> bool {
    match (a, b) {
        (AttributeValue::N(a), AttributeValue::N(b)) => same_number(a, b),
        _ => a == b,
    }
}

impl Selection {
    /// What the region is to hold of an item with this key.
    pub fn shows<'a>(&self, key: &Item, item: &'a Item) -> Visible<'a> {
        if self.is_never(key) {
            return Visible::Never;
        }
        if !self.takes(item) {
            return Visible::Nothing;
        }
        if self.withholds_from(item) {
            let mut part = item.clone();
            part.retain(|attribute, _| !self.without.contains(attribute));
            return Visible::Item(Cow::Owned(part));
        }
        Visible::Item(Cow::Borrowed(item))
    }

    fn takes(&self, item: &Item) -> bool {
        self.only.iter().all(|(attribute, test)| test.holds(item.get(attribute)))
    }

    fn withholds_from(&self, item: &Item) -> bool {
        self.without.iter().any(|attribute| item.contains_key(attribute))
    }

    /// Whether a test of the key alone rules out every version of the item.
    fn is_never(&self, key: &Item) -> bool {
        self.only.iter().any(|(attribute, test)| {
            let value = key.get(attribute);
            value.is_some() && !test.holds(value)
        })
    }

    /// What to do in the region for a write, wherever it was made, if anything; and what the region holds of
    /// the image that it replaced.
    pub fn view<'a>(&self, write: &'a Write) -> Option<Cow<'a, Write>> {
        let body = match &write.body {
            Body::Delete if self.is_never(&write.key) => return None,
            Body::Delete => None,
            Body::Put(item, _) => match self.shows(&write.key, item) {
                Visible::Never => return None,
                Visible::Nothing => Some(Body::Delete),
                Visible::Item(Cow::Borrowed(_)) => None,
                Visible::Item(Cow::Owned(part)) => {
                    let fingerprint = Fingerprint::of(&part);
                    Some(Body::Put(Arc::new(part), fingerprint))
                }
            },
        };
        let replaced = write.replaced.as_deref().map(|image| self.shows(&write.key, image));
        let replaced = match replaced {
            None | Some(Visible::Item(Cow::Borrowed(_))) if body.is_none() => {
                return Some(Cow::Borrowed(write));
            }
            None | Some(Visible::Item(Cow::Borrowed(_))) => write.replaced.clone(),
            Some(Visible::Item(Cow::Owned(part))) => Some(Arc::new(part)),
            Some(Visible::Nothing | Visible::Never) => None,
        };
        let body = body.unwrap_or_else(|| write.body.clone());
        Some(Cow::Owned(Write { body, replaced, ..write.clone() }))
    }
}

impl Selections {
    /// Sets what a region takes.
    pub fn add(&mut self, region: Origin, selection: Selection) {
        self.0.insert(region, selection);
    }

    /// What a region takes, if that is not everything.
    pub fn of(&self, region: &Origin) -> Option<&Selection> {
        self.0.get(region)
    }

    /// Whether what is written in a region stays there.
    pub fn keeps(&self, region: &Origin) -> bool {
        self.of(region).is_some_and(|selection| !selection.without.is_empty())
    }

    /// What a region is to hold of an item with this key.
    pub fn shows<'a>(&self, region: &Origin, key: &Item, item: &'a Item) -> Visible<'a> {
        self.of(region).map_or(Visible::Item(Cow::Borrowed(item)), |selection| selection.shows(key, item))
    }

    /// Whether all regions are to hold an item as it is.
    pub fn is_whole(&self, item: &Item) -> bool {
        self.0.values().all(|selection| selection.takes(item) && !selection.withholds_from(item))
    }

    /// What to do in one region for a write made in another, if anything.
    pub fn view<'a>(&self, from: &Origin, to: &Origin, write: &'a Write) -> Option<Cow<'a, Write>> {
        if self.keeps(from) {
            return None;
        }
        self.of(to).map_or(Some(Cow::Borrowed(write)), |selection| selection.view(write))
    }

    /// The attributes withheld from some region, with the region.
    pub fn withheld(&self) -> impl Iterator<Item = (&Origin, &str)> {
        self.0.iter().flat_map(|(region, selection)| {
            selection.without.iter().map(move |attribute| (region, attribute.as_str()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Hlc, Version};

    fn s(text: &str) -> AttributeValue {
        AttributeValue::S(text.to_owned())
    }

    fn n(number: &str) -> AttributeValue {
        AttributeValue::N(number.to_owned())
    }

    fn item(attributes: &[(&str, AttributeValue)]) -> Item {
        attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn only(attribute: &str, test: Test) -> Selection {
        Selection { only: vec![(attribute.to_owned(), test)], without: BTreeSet::new() }
    }

    fn put(item: &Item) -> Write {
        Write {
            key: Item::from([("id".to_owned(), item["id"].clone())]),
            version: Version { hlc: Hlc::at_millis(1), origin: "tokyo".parse().expect("a name") },
            base: None,
            body: Body::Put(Arc::new(item.clone()), Fingerprint::of(item)),
            replaced: None,
            home: None,
        }
    }

    #[test]
    fn a_test_holds_as_dynamodb_would_say() {
        for (test, value, expected) in [
            (Test::Is(vec![s("eu"), s("ch")]), Some(s("ch")), true),
            (Test::Is(vec![s("eu")]), Some(s("us")), false),
            (Test::Is(vec![s("eu")]), None, false),
            (Test::Is(vec![n("1")]), Some(n("1.0")), true),
            (Test::Is(vec![n("1")]), Some(s("1")), false),
            (Test::Is(vec![AttributeValue::Bool(true)]), Some(AttributeValue::Bool(true)), true),
            (Test::IsNot(vec![s("eu")]), None, true),
            (Test::IsNot(vec![s("eu")]), Some(s("eu")), false),
            (Test::BeginsWith(vec!["eu#".to_owned()]), Some(s("eu#1")), true),
            (Test::BeginsWith(vec!["eu#".to_owned()]), Some(n("1")), false),
            (Test::Exists(true), None, false),
            (Test::Exists(false), None, true),
        ] {
            assert_eq!(test.holds(value.as_ref()), expected, "{test:?} of {value:?}");
        }
    }

    #[test]
    fn an_item_that_is_not_for_a_region_is_a_delete_there() {
        let eu = only("residency", Test::Is(vec![s("eu")]));
        let stays = put(&item(&[("id", s("1")), ("residency", s("us"))]));
        assert_eq!(eu.view(&stays).expect("a write").body, Body::Delete);
        let goes = put(&item(&[("id", s("1")), ("residency", s("eu"))]));
        assert_eq!(eu.view(&goes).expect("a write").as_ref(), &goes);
        let delete = Write { body: Body::Delete, ..goes };
        assert_eq!(eu.view(&delete).expect("a write").as_ref(), &delete);
    }

    #[test]
    fn nothing_is_sent_where_the_key_decides() {
        let eu = only("id", Test::BeginsWith(vec!["eu#".to_owned()]));
        let write = put(&item(&[("id", s("us#1"))]));
        assert_eq!(eu.view(&write), None);
        assert_eq!(eu.view(&Write { body: Body::Delete, ..write }), None);
        let write = put(&item(&[("id", s("eu#1"))]));
        assert_eq!(eu.view(&write).as_deref(), Some(&write));
    }

    #[test]
    fn an_item_is_whole_if_every_region_takes_all_of_it() {
        let mut selections = Selections::default();
        selections.add("dublin".parse().expect("a name"), only("residency", Test::Is(vec![s("eu")])));
        let without = BTreeSet::from(["passport".to_owned()]);
        selections.add("zurich".parse().expect("a name"), Selection { only: Vec::new(), without });
        for (attributes, expected) in [
            (&[("residency", s("eu"))][..], true),
            (&[("residency", s("us"))], false),
            (&[("residency", s("eu")), ("passport", s("X"))], false),
        ] {
            assert_eq!(selections.is_whole(&item(attributes)), expected, "{attributes:?}");
        }
    }

    #[test]
    fn what_stays_home_is_not_sent_and_its_region_only_receives() {
        let (tokyo, dublin): (Origin, Origin) =
            ("tokyo".parse().expect("a name"), "dublin".parse().expect("a name"));
        let mut selections = Selections::default();
        let without = BTreeSet::from(["passport".to_owned()]);
        selections.add(dublin.clone(), Selection { only: Vec::new(), without });
        let write = put(&item(&[("id", s("1")), ("passport", s("X"))]));
        let part = item(&[("id", s("1"))]);
        let expected = Body::Put(Arc::new(part.clone()), Fingerprint::of(&part));
        assert_eq!(selections.view(&tokyo, &dublin, &write).expect("a write").body, expected);
        let over = Write {
            replaced: Some(Arc::new(item(&[("id", s("1")), ("passport", s("Y"))]))),
            ..write.clone()
        };
        let replaced = selections.view(&tokyo, &dublin, &over).expect("a write").replaced.clone();
        assert_eq!(replaced.as_deref(), Some(&part), "what the region holds of it");
        assert_eq!(selections.view(&dublin, &tokyo, &write), None);
        assert_eq!(selections.withheld().collect::<Vec<_>>(), [(&dublin, "passport")]);
    }
}
