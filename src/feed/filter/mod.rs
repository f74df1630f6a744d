//! Event filters in the syntax of AWS Lambda's event source mappings: one `Pattern` of a `FilterCriteria`.
//!
//! Where AWS's documentation is silent, this follows aws/event-ruler, the library behind EventBridge.

use std::cmp::Ordering;
use std::fmt;
use std::iter;
use std::str::FromStr;

use serde_json::{Map, Value};

use self::decimal::Decimal;

mod decimal;
mod parse;
#[cfg(test)]
mod tests;

/// One filter pattern, ready to match events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    text: String,
    root: Fields,
    numeric_strings: bool,
}

impl Filter {
    /// Lets `numeric` rules also compare a string that spells a number, which Lambda never does.
    /// DynamoDB's JSON has every number as such a string: `{"N": "5"}`.
    #[must_use]
    pub fn numeric_strings(self) -> Self {
        Self { numeric_strings: true, ..self }
    }

    /// Whether it has rules for an image of the record.
    pub fn looks_at(&self, image: &str) -> bool {
        self.root.has(&["dynamodb", image])
    }

    /// Whether the event, one record of a stream, satisfies the pattern.
    pub fn matches(&self, event: &Value) -> bool {
        self.root.matches(Some(event), self.numeric_strings)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let root = parse::pattern(text)?;
        Ok(Self { text: text.to_owned(), root, numeric_strings: false })
    }
}

/// Why a text is no filter pattern: where in it, what is wrong there, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterError(String);

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FilterError {}

/// The conditions on one object of the event: every field and every `$or` has to match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Fields {
    fields: Vec<(String, Node)>,
    ors: Vec<Vec<Fields>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Object(Fields),
    /// One of the rules has to match.
    Leaf(Vec<Rule>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Null,
    Bool(bool),
    Number(Decimal),
    Text(Text),
    Numeric(Vec<Bound>),
    /// Any value that none of these rules match.
    AnythingBut(Vec<Rule>),
    Exists(bool),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Text {
    part: Part,
    ignore_case: bool,
    wanted: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    Prefix,
    Suffix,
}

/// A number, and how a value may compare to it.
type Bound = (&'static [Ordering], Decimal);

impl Fields {
    /// Whether there is a rule at a path, or below it.
    fn has(&self, path: &[&str]) -> bool {
        let Some((first, rest)) = path.split_first() else { return true };
        let below = |(name, node): &(String, Node)| {
            name == first && if let Node::Object(fields) = node { fields.has(rest) } else { rest.is_empty() }
        };
        self.fields.iter().any(below) || self.ors.iter().flatten().any(|fields| fields.has(path))
    }

    /// An array of objects stands for its elements, one of which has to match as a whole. Where a missing
    /// field would match (`exists` is false), no element may have it: the array as a whole lacks the field.
    fn matches(&self, value: Option<&Value>, numeric_strings: bool) -> bool {
        let mut objects = flatten(value).filter_map(Value::as_object);
        let matches = |map| self.match_object(map, numeric_strings);
        if self.match_absence() { objects.all(matches) } else { objects.any(matches) }
    }

    fn match_object(&self, map: &Map<String, Value>, numeric_strings: bool) -> bool {
        self.fields.iter().all(|(name, node)| node.matches(map.get(name), numeric_strings))
            && self.ors.iter().all(|or| or.iter().any(|fields| fields.match_object(map, numeric_strings)))
    }

    fn match_absence(&self) -> bool {
        self.fields.iter().all(|(_, node)| node.match_absence())
            && self.ors.iter().all(|or| or.iter().any(Self::match_absence))
    }
}

impl Node {
    fn matches(&self, value: Option<&Value>, numeric_strings: bool) -> bool {
        let rules = match self {
            Self::Object(fields) => return fields.matches(value, numeric_strings),
            Self::Leaf(rules) => rules,
        };
        // Only scalars are values: an object, or an array without scalars, is as good as missing.
        let mut scalars = flatten(value).filter(|value| !value.is_object()).peekable();
        if scalars.peek().is_none() {
            return self.match_absence();
        }
        scalars.any(|value| rules.iter().any(|rule| rule.matches(value, numeric_strings)))
    }

    fn match_absence(&self) -> bool {
        match self {
            Self::Object(fields) => fields.match_absence(),
            Self::Leaf(rules) => rules.contains(&Rule::Exists(false)),
        }
    }
}

impl Rule {
    fn matches(&self, value: &Value, numeric_strings: bool) -> bool {
        match (self, value) {
            (Self::Null, Value::Null) | (Self::Exists(true), _) => true,
            (Self::Bool(wanted), Value::Bool(found)) => wanted == found,
            (Self::Number(wanted), Value::Number(found)) => Decimal::of(found).as_ref() == Some(wanted),
            (Self::Text(wanted), Value::String(found)) => wanted.matches(found),
            (Self::Numeric(bounds), Value::Number(found)) => within(bounds, Decimal::of(found)),
            (Self::Numeric(bounds), Value::String(found)) if numeric_strings => {
                within(bounds, Decimal::parse(found))
            }
            (Self::AnythingBut(rules), _) => !rules.iter().any(|rule| rule.matches(value, numeric_strings)),
            _ => false,
        }
    }
}

impl Text {
    fn matches(&self, value: &str) -> bool {
        match (self.part, self.ignore_case) {
            (Part::Whole, false) => value == self.wanted,
            (Part::Prefix, false) => value.starts_with(&self.wanted),
            (Part::Suffix, false) => value.ends_with(&self.wanted),
            (Part::Whole, true) => skip_prefix(value, &self.wanted) == Some(""),
            (Part::Prefix, true) => skip_prefix(value, &self.wanted).is_some(),
            (Part::Suffix, true) => skip_suffix(value, &self.wanted).is_some(),
        }
    }
}

/// Like event-ruler, takes each character of the pattern as written, in lower or in upper case.
fn skip_prefix<'a>(value: &'a str, pattern: &str) -> Option<&'a str> {
    pattern.chars().try_fold(value, |rest, c| {
        rest.strip_prefix(c)
            .or_else(|| c.to_lowercase().try_fold(rest, |rest, c| rest.strip_prefix(c)))
            .or_else(|| c.to_uppercase().try_fold(rest, |rest, c| rest.strip_prefix(c)))
    })
}

fn skip_suffix<'a>(value: &'a str, pattern: &str) -> Option<&'a str> {
    pattern.chars().rev().try_fold(value, |rest, c| {
        rest.strip_suffix(c)
            .or_else(|| c.to_lowercase().rev().try_fold(rest, |rest, c| rest.strip_suffix(c)))
            .or_else(|| c.to_uppercase().rev().try_fold(rest, |rest, c| rest.strip_suffix(c)))
    })
}

fn within(bounds: &[Bound], value: Option<Decimal>) -> bool {
    value.is_some_and(|value| bounds.iter().all(|(orders, bound)| orders.contains(&value.compare(bound))))
}

/// The value, or in place of an array all it holds at any depth. A loop, as events may nest deeper than
/// the stack.
fn flatten(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    let mut stack: Vec<&Value> = value.into_iter().collect();
    iter::from_fn(move || {
        while let Some(value) = stack.pop() {
            match value {
                Value::Array(items) => stack.extend(items.iter().rev()),
                _ => return Some(value),
            }
        }
        None
    })
}
