//! The expressions that agents send: conditions, `SET` updates, and the key condition of a query. Anything
//! else panics: the service must not guess.

use serde_json::{Map, Value};

use crate::item::{Item, as_number, number};

/// An expression with its names and values.
pub(super) struct Expression<'a> {
    words: Vec<&'a str>,
    names: Option<&'a Map<String, Value>>,
    values: Option<&'a Map<String, Value>>,
}

impl<'a> Expression<'a> {
    pub(super) fn new(text: &'a str, request: &'a Value) -> Self {
        Self {
            words: split(text),
            names: request["ExpressionAttributeNames"].as_object(),
            values: request["ExpressionAttributeValues"].as_object(),
        }
    }

    /// Whether a condition holds for an item, or for no item.
    pub(super) fn holds(&self, item: Option<&Item>) -> bool {
        let mut at = 0;
        let holds = self.any(&mut at, item);
        assert!(at == self.words.len(), "not understood from word {at} on: {:?}", self.words);
        holds
    }

    /// Applies `SET #name = :value, #name = #name + :value, ...`, and `REMOVE #name`.
    #[expect(clippy::panic, reason = "an expression that the simulation does not know")]
    pub(super) fn update(&self, item: &mut Item) {
        let [first, rest @ ..] = self.words.as_slice() else { panic!("an empty update") };
        assert!(*first == "SET", "not a SET: {:?}", self.words);
        let (sets, removed) = match rest {
            [sets @ .., "REMOVE", name] => (sets, Some(name)),
            sets => (sets, None),
        };
        let before = item.clone();
        for clause in sets.split(|word| *word == ",") {
            let (name, value) = match clause {
                [name, "=", value] => (name, self.value(value).clone()),
                [name, "=", base, "+", value] => {
                    let base = self.stored(base, Some(&before)).and_then(as_number).unwrap_or_default();
                    (name, number(base + as_number(self.value(value)).unwrap_or_default()))
                }
                _ => panic!("not understood: {clause:?}"),
            };
            item.insert(self.name(name).to_owned(), value);
        }
        if let Some(name) = removed {
            item.remove(self.name(name));
        }
    }

    /// The value in `#name = :value`.
    #[expect(clippy::panic, reason = "an expression that the simulation does not know")]
    pub(super) fn equals(&self) -> (&str, &Value) {
        let [name, "=", value] = self.words.as_slice() else { panic!("not understood: {:?}", self.words) };
        (self.name(name), self.value(value))
    }

    fn any(&self, at: &mut usize, item: Option<&Item>) -> bool {
        let mut holds = self.all(at, item);
        while self.words.get(*at) == Some(&"OR") {
            *at += 1;
            holds |= self.all(at, item);
        }
        holds
    }

    fn all(&self, at: &mut usize, item: Option<&Item>) -> bool {
        let mut holds = self.one(at, item);
        while self.words.get(*at) == Some(&"AND") {
            *at += 1;
            holds &= self.one(at, item);
        }
        holds
    }

    #[expect(clippy::panic, reason = "an expression that the simulation does not know")]
    fn one(&self, at: &mut usize, item: Option<&Item>) -> bool {
        let rest = &self.words[*at..];
        match rest {
            ["NOT", ..] => {
                *at += 1;
                !self.one(at, item)
            }
            ["(", ..] => {
                *at += 1;
                let holds = self.any(at, item);
                assert!(self.words.get(*at) == Some(&")"), "not closed: {:?}", self.words);
                *at += 1;
                holds
            }
            ["attribute_exists", "(", name, ")", ..] => {
                *at += 4;
                self.stored(name, item).is_some()
            }
            ["attribute_not_exists", "(", name, ")", ..] => {
                *at += 4;
                self.stored(name, item).is_none()
            }
            ["begins_with", "(", name, ",", value, ")", ..] => {
                *at += 6;
                let prefix = self.value(value)["S"].as_str().unwrap_or_default();
                self.stored(name, item)
                    .and_then(|stored| stored["S"].as_str())
                    .is_some_and(|stored| stored.starts_with(prefix))
            }
            [name, "=", value, ..] => {
                *at += 3;
                self.stored(name, item) == Some(self.value(value))
            }
            [name, "BETWEEN", from, "AND", to, ..] => {
                *at += 5;
                let text = |value: &str| self.value(value)["S"].as_str();
                let stored = self.stored(name, item).and_then(|stored| stored["S"].as_str());
                matches!((text(from), stored, text(to)), (Some(from), Some(stored), Some(to))
                    if (from..=to).contains(&stored))
            }
            [name, operator @ ("<" | "<=" | ">"), value, ..] => {
                *at += 3;
                let bound = as_number(self.value(value));
                let stored = self.stored(name, item).and_then(as_number);
                stored.zip(bound).is_some_and(|(stored, bound)| match *operator {
                    "<" => stored < bound,
                    "<=" => stored <= bound,
                    _ => stored > bound,
                })
            }
            other => panic!("not understood: {other:?}"),
        }
    }

    fn stored<'b>(&self, name: &str, item: Option<&'b Item>) -> Option<&'b Value> {
        item?.get(self.name(name))
    }

    #[expect(clippy::panic, reason = "a request that the simulation does not know")]
    fn name<'b>(&'b self, word: &'b str) -> &'b str {
        if !word.starts_with('#') {
            return word;
        }
        let found = self.names.and_then(|names| names.get(word)).and_then(Value::as_str);
        found.unwrap_or_else(|| panic!("the name {word} is not given"))
    }

    #[expect(clippy::panic, reason = "a request that the simulation does not know")]
    fn value(&self, word: &str) -> &Value {
        let found = self.values.and_then(|values| values.get(word));
        found.unwrap_or_else(|| panic!("the value {word} is not given"))
    }
}

fn split(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = match rest.find([' ', '(', ')', ',']) {
            Some(0) => 1,
            Some(end) => end,
            None => rest.len(),
        };
        let (word, after) = rest.split_at(end);
        words.push(word);
        rest = after.trim_start();
    }
    words
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::item::text;

    #[test]
    fn the_agents_conditions_are_understood() {
        let request = json!({
            "ExpressionAttributeNames": { "#tw": "_tw" },
            "ExpressionAttributeValues": {
                ":tw": { "S": "tw1 4" }, ":bound": { "S": "tw1 5" }, ":end": { "S": "tw1 g" },
            },
        });
        let item = |stamp: Option<&str>| {
            stamp.map_or_else(Item::new, |stamp| Item::from([("_tw".to_owned(), text(stamp))]))
        };
        let push = Expression::new("NOT #tw BETWEEN :bound AND :end", &request);
        let heal = Expression::new("#tw = :tw AND attribute_exists(#tw)", &request);
        let none = Expression::new("attribute_not_exists(#tw)", &request);
        let either = Expression::new(
            "attribute_not_exists(#tw) OR (NOT #tw BETWEEN :bound AND :end AND #tw = :tw)",
            &request,
        );
        for (stamp, pushes, heals, is_bare) in [
            (Some(None), true, false, true),
            (None, true, false, true),
            (Some(Some("tw1 4")), true, true, false),
            (Some(Some("tw1 51")), false, false, false),
            (Some(Some("zzz")), true, false, false),
        ] {
            let stored = stamp.map(item);
            assert_eq!(push.holds(stored.as_ref()), pushes, "{stamp:?}");
            assert_eq!(heal.holds(stored.as_ref()), heals, "{stamp:?}");
            assert_eq!(none.holds(stored.as_ref()), is_bare, "{stamp:?}");
            assert_eq!(either.holds(stored.as_ref()), is_bare || heals, "{stamp:?}");
        }
    }
}
