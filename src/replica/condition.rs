//! A guard as a DynamoDB condition expression.

use std::collections::HashMap;
use std::fmt::Write as _;

use aws_sdk_dynamodb::types::AttributeValue;

use super::AttributeNames;
use super::size::value_bytes;
use crate::protocol::{Guard, Item, STAMP, Stamp, StampGuard};

/// The most attributes to name. An expression holds 300 operators and 4 KB ("Service, account, and table
/// quotas", Amazon DynamoDB developer guide), and each attribute takes two operators and up to 32 bytes.
const MOST_TERMS: usize = 120;

/// What must hold for a write to take effect.
#[derive(Debug)]
pub(super) struct Condition {
    pub(super) expression: String,
    pub(super) names: HashMap<String, String>,
    pub(super) values: HashMap<String, AttributeValue>,
    /// Whether it names all the data that the guard does.
    pub(super) is_whole: bool,
}

impl Condition {
    /// A condition that never holds.
    pub(super) fn never() -> Self {
        let mut condition = Self::new();
        condition.stamp();
        condition.expression.push_str("attribute_exists(#tw) AND attribute_not_exists(#tw)");
        condition
    }

    /// The condition that a guard sets on the item with this key. `known` are the names of attributes that
    /// items of the table have: of these, only the guard's may be there.
    pub(super) fn of(guard: &Guard<'_>, key: &Item, known: &AttributeNames) -> Self {
        let mut condition = Self::new();
        match guard {
            Guard::Absent => condition.absent(key),
            Guard::Data { image, stamp, or_absent } => {
                if *or_absent {
                    condition.absent(key);
                    condition.expression.push_str(" OR (");
                }
                condition.beside(*stamp);
                condition.data(image, key, known);
                if *or_absent {
                    condition.expression.push(')');
                }
            }
            Guard::Exactly(image) => {
                condition.stamped(image.get(STAMP));
                condition.data(image, key, known);
            }
            Guard::Stamp(stamp) => {
                condition.stamped(*stamp);
                if stamp.is_none() {
                    condition.exists(key);
                }
            }
            Guard::Below(version) => condition.beside(StampGuard::Below(version)),
        }
        condition
    }

    fn new() -> Self {
        Self { expression: String::new(), names: HashMap::new(), values: HashMap::new(), is_whole: true }
    }

    fn absent(&mut self, key: &Item) {
        self.key(key);
        self.expression.push_str("attribute_not_exists(#k)");
    }

    fn exists(&mut self, key: &Item) {
        self.key(key);
        self.expression.push_str(" AND attribute_exists(#k)");
    }

    /// Stamps are given as a range, because no value of another type lies in one.
    fn beside(&mut self, stamp: StampGuard<'_>) {
        self.stamp();
        let (expression, range) = match stamp {
            StampGuard::Of(version) => ("#tw BETWEEN :from AND :to", Stamp::range(version)),
            StampGuard::Below(version) => ("NOT #tw BETWEEN :from AND :to", Stamp::range_from(version)),
        };
        self.expression.push_str(expression);
        let (from, to) = range.into_inner();
        self.value(":from", AttributeValue::S(from));
        self.value(":to", AttributeValue::S(to));
    }

    fn stamped(&mut self, stamp: Option<&AttributeValue>) {
        self.stamp();
        match stamp {
            Some(stamp) => {
                self.expression.push_str("#tw = :tw");
                self.value(":tw", stamp.clone());
            }
            None => self.expression.push_str("attribute_not_exists(#tw)"),
        }
    }

    fn data(&mut self, image: &Item, key: &Item, known: &AttributeNames) {
        let mut attributes: Vec<_> =
            image.iter().filter(|(name, _)| *name != STAMP && !key.contains_key(*name)).collect();
        if attributes.is_empty() {
            self.exists(key);
        }
        // In a fixed order, so that a simulation is reproducible.
        attributes.sort_unstable_by_key(|(name, _)| *name);
        if attributes.len() > MOST_TERMS {
            // Smallest first, to send less.
            attributes.sort_by_key(|(_, value)| value_bytes(value));
            attributes.truncate(MOST_TERMS);
            self.is_whole = false;
        }
        let mut term = 0;
        for (name, value) in attributes {
            let _ = write!(self.expression, " AND #{term} = :{term}");
            self.name(format!("#{term}"), name);
            self.value(format!(":{term}"), value.clone());
            term += 1;
        }
        self.is_whole &= known.for_each(|name| {
            if image.contains_key(name) || key.contains_key(name) {
                return true;
            }
            let has_room = term < MOST_TERMS;
            if has_room {
                let _ = write!(self.expression, " AND attribute_not_exists(#{term})");
                self.name(format!("#{term}"), name);
                term += 1;
            }
            has_room
        });
    }

    fn key(&mut self, key: &Item) {
        if let Some(name) = key.keys().min() {
            self.name("#k", name);
        }
    }

    fn stamp(&mut self) {
        self.name("#tw", STAMP);
    }

    fn name(&mut self, placeholder: impl Into<String>, name: &str) {
        self.names.insert(placeholder.into(), name.to_owned());
    }

    fn value(&mut self, placeholder: impl Into<String>, value: AttributeValue) {
        self.values.insert(placeholder.into(), value);
    }
}
