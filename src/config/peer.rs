//! `[[table.peer]]`: what is replicated to one region, from all others.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::AttributeValue;
use serde::Deserialize;
use toml::{Spanned, Value};

use super::problem::Problem;
use crate::protocol::{Origin, STAMP, Selection, Selections, Test};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PeerEntry {
    region: Spanned<String>,
    #[serde(default)]
    only: Vec<Spanned<OnlyEntry>>,
    #[serde(default)]
    without: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OnlyEntry {
    attribute: Spanned<String>,
    is: Option<Spanned<Value>>,
    is_not: Option<Spanned<Value>>,
    begins_with: Option<Spanned<Value>>,
    exists: Option<bool>,
}

/// What is replicated to which of a table's regions.
pub(super) fn selections(entries: &[PeerEntry], members: &[Origin]) -> Result<Selections, Problem> {
    let mut selections = Selections::default();
    for entry in entries {
        let name = entry.region.get_ref();
        let Some(region) = members.iter().find(|member| member.as_str() == name) else {
            let message = format!("the region {name:?} is not in this table's `regions`");
            return Err(Problem::at(&entry.region, message));
        };
        if selections.of(region).is_some() {
            return Err(Problem::at(&entry.region, format!("duplicate peer {name:?}")));
        }
        selections.add(region.clone(), entry.check()?);
    }
    if let Some(entry) = entries.last().filter(|_| members.iter().all(|member| selections.keeps(member))) {
        let message = "every region is `without` something, and keeps its writes to itself: nothing would be \
                       replicated. Leave one region that takes all attributes";
        return Err(Problem::at(&entry.region, message));
    }
    Ok(selections)
}

impl PeerEntry {
    fn check(&self) -> Result<Selection, Problem> {
        if self.only.is_empty() && self.without.is_empty() {
            let message = "expected `only`, which items go there, or `without`, which attributes do not";
            return Err(Problem::at(&self.region, message));
        }
        selection(&self.only, &self.without)
    }
}

/// Which items, and which of their attributes.
pub(super) fn selection(
    only: &[Spanned<OnlyEntry>],
    without: &[Spanned<String>],
) -> Result<Selection, Problem> {
    let test = |entry: &Spanned<OnlyEntry>| {
        Ok::<_, Problem>((attribute(&entry.get_ref().attribute)?, OnlyEntry::check(entry)?))
    };
    let only = only.iter().map(test).collect::<Result<_, _>>()?;
    let without = without.iter().map(attribute).collect::<Result<BTreeSet<_>, _>>()?;
    Ok(Selection { only, without })
}

fn attribute(name: &Spanned<String>) -> Result<String, Problem> {
    named(name.get_ref()).map_err(|expected| Problem::at(name, expected))
}

/// The name of an attribute that is not Tradewind's own.
pub(super) fn named(name: &str) -> Result<String, &'static str> {
    match name {
        "" => Err("expected the name of an attribute"),
        STAMP => Err("this attribute is Tradewind's own"),
        text => Ok(text.to_owned()),
    }
}

impl OnlyEntry {
    fn check(entry: &Spanned<Self>) -> Result<Test, Problem> {
        let Self { is, is_not, begins_with, exists, .. } = entry.get_ref();
        match (is, is_not, begins_with, exists) {
            (Some(these), None, None, None) => Ok(Test::Is(each(these, scalar)?)),
            (None, Some(these), None, None) => Ok(Test::IsNot(each(these, scalar)?)),
            (None, None, Some(these), None) => Ok(Test::BeginsWith(each(these, text)?)),
            (None, None, None, Some(exists)) => Ok(Test::Exists(*exists)),
            _ => Err(Problem::at(entry, "expected one of `is`, `is_not`, `begins_with` and `exists`")),
        }
    }
}

/// One value, or each of a list.
fn each<T>(values: &Spanned<Value>, read: fn(&Value) -> Result<T, &'static str>) -> Result<Vec<T>, Problem> {
    let read: Result<Vec<T>, _> = match values.get_ref() {
        Value::Array(list) if list.is_empty() => Err("expected at least one value"),
        Value::Array(list) => list.iter().map(read).collect(),
        value => read(value).map(|value| vec![value]),
    };
    read.map_err(|expected| Problem::at(values, expected))
}

pub(super) fn scalar(value: &Value) -> Result<AttributeValue, &'static str> {
    match value {
        Value::String(text) => Ok(AttributeValue::S(text.clone())),
        Value::Integer(number) => Ok(AttributeValue::N(number.to_string())),
        Value::Float(number) if number.is_finite() => Ok(AttributeValue::N(number.to_string())),
        Value::Boolean(boolean) => Ok(AttributeValue::Bool(*boolean)),
        _ => Err("expected a string, a number, true or false, or a list of these"),
    }
}

fn text(value: &Value) -> Result<String, &'static str> {
    value.as_str().map(str::to_owned).ok_or("expected a string, or a list of strings")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn parse(peer: &str) -> Result<Selections, String> {
        let text = format!(
            "region = [{{ name = \"tokyo\", aws_region = \"ap-northeast-1\" }}, {{ name = \"dublin\", aws_region = \
             \"eu-west-1\" }}]\n[[table]]\nname = \"orders\"\n{peer}\n"
        );
        let config = Config::parse(Path::new("regions.toml"), &text).map_err(|error| error.to_string())?;
        Ok(config.tables[0].selections.clone())
    }

    #[test]
    fn a_peer_takes_what_the_file_says() {
        let selections = parse(
            "[[table.peer]]\nregion = \"dublin\"\nwithout = [\"passport\"]\nonly = [{ attribute = \"id\", \
             begins_with = \"eu#\" }, { attribute = \"level\", is = [1, 2.5, true] }]",
        );
        let number = |text: &str| AttributeValue::N(text.to_owned());
        let is = Test::Is(vec![number("1"), number("2.5"), AttributeValue::Bool(true)]);
        let expected = Selection {
            only: vec![("id".to_owned(), Test::BeginsWith(vec!["eu#".to_owned()])), ("level".to_owned(), is)],
            without: BTreeSet::from(["passport".to_owned()]),
        };
        assert_eq!(
            selections.expect("a configuration").of(&"dublin".parse().expect("a name")),
            Some(&expected)
        );
    }

    #[test]
    fn what_is_wrong_is_told_at_its_place() {
        let dublin = "[[table.peer]]\nregion = \"dublin\"\n";
        for (peer, place, told) in [
            (format!("{dublin}only = [{{ attribute = \"a\" }}]"), "6:9", "expected one of `is`"),
            (format!("{dublin}only = [{{ attribute = \"a\", is = [] }}]"), "6:33", "at least one value"),
            (
                format!("{dublin}only = [{{ attribute = \"a\", is = 1979-05-27 }}]"),
                "6:33",
                "expected a string, a number",
            ),
            (format!("{dublin}without = [\"_tw\"]"), "6:12", "Tradewind's own"),
            (dublin.to_owned(), "5:10", "expected `only`"),
            (
                "[[table.peer]]\nregion = \"oregon\"\nwithout = [\"a\"]".to_owned(),
                "5:10",
                "not in this table's",
            ),
            (format!("{dublin}without = [\"a\"]\n{dublin}without = [\"b\"]"), "8:10", "duplicate peer"),
            (
                format!("{dublin}without = [\"a\"]\n[[table.peer]]\nregion = \"tokyo\"\nwithout = [\"a\"]"),
                "8:10",
                "nothing would be replicated",
            ),
        ] {
            let error = parse(&peer).expect_err("a mistake");
            assert!(error.contains(&format!("regions.toml:{place}: ")) && error.contains(told), "{error}");
        }
    }
}
