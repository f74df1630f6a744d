//! What an event's images show in place of the item's own attributes: some of them, under other names, and constants.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::AttributeValue;

use crate::protocol::Item;

/// The fields of an image, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Projection(BTreeMap<String, Field>);

/// Where a field comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    /// An attribute, or what is under these names within it. Left out where there is no such thing.
    At(Vec<String>),
    /// The same in each image.
    Is(AttributeValue),
}

impl Projection {
    pub fn new(fields: BTreeMap<String, Field>) -> Self {
        Self(fields)
    }

    pub fn of(&self, item: &Item) -> Item {
        let shown = |(name, field): (&String, &Field)| Some((name.clone(), field.of(item)?));
        self.0.iter().filter_map(shown).collect()
    }
}

impl Field {
    fn of(&self, item: &Item) -> Option<AttributeValue> {
        let path = match self {
            Self::Is(value) => return Some(value.clone()),
            Self::At(path) => path,
        };
        let (first, rest) = path.split_first()?;
        let within = |value: &'_ AttributeValue, name: &String| value.as_m().ok()?.get(name).cloned();
        rest.iter().try_fold(item.get(first)?.clone(), |value, name| within(&value, name))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn fields_are_renamed_reached_into_and_set() {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let at = |path: &[&str]| Field::At(path.iter().map(ToString::to_string).collect());
        let city = HashMap::from([("city".to_owned(), text("Tokyo"))]);
        let item = Item::from([
            ("orderId".to_owned(), text("17")),
            ("address".to_owned(), AttributeValue::M(city)),
            ("card".to_owned(), text("secret")),
        ]);
        let projection = Projection::new(BTreeMap::from([
            ("id".to_owned(), at(&["orderId"])),
            ("city".to_owned(), at(&["address", "city"])),
            ("source".to_owned(), Field::Is(text("shop"))),
            ("nothing".to_owned(), at(&["missing"])),
            ("no map".to_owned(), at(&["orderId", "x"])),
            ("no name".to_owned(), at(&["address", "street"])),
        ]));
        let expected = [("id", "17"), ("city", "Tokyo"), ("source", "shop")];
        let expected: Item = expected.iter().map(|(name, value)| ((*name).to_owned(), text(value))).collect();
        assert_eq!(projection.of(&item), expected);
    }
}
