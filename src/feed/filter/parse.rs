//! From the text of a pattern to its conditions, or to what is wrong with it.

use std::cmp::Ordering;
use std::fmt;
use std::slice;

use serde_json::{Map, Number, Value};

use super::decimal::{self, Decimal};
use super::{Bound, Fields, FilterError, Node, Part, Rule, Text};

/// The longest pattern Lambda takes.
const MAX_CHARACTERS: usize = 4096;
/// An attribute 32 levels deep, the deepest DynamoDB stores, has a path of 67 steps.
const MAX_DEPTH: usize = 72;
const OR: &str = "$or";
const IGNORE_CASE: &str = "equals-ignore-case";
const EXAMPLE: &str = r#"{"eventName": ["INSERT"]}"#;
const OPERATORS: [&str; 6] = ["prefix", "suffix", IGNORE_CASE, "anything-but", "numeric", "exists"];
/// What event-ruler does not take as the name of a field inside `$or`.
const RESERVED_IN_OR: &str = "exactly equals-ignore-case prefix suffix anything-but exists wildcard numeric \
    cidr = < <= > >= regex not-wildcard not-equals-ignore-case date-after date-on-or-after date-before \
    date-on-or-before in-date-range ip-address-in-range ip-address-not-in-range";

pub(super) fn pattern(text: &str) -> Result<Fields, FilterError> {
    let path = Path::default();
    let characters = text.chars().count();
    if characters > MAX_CHARACTERS {
        return path.fail(format!("has {characters} characters; write at most {MAX_CHARACTERS}"));
    }
    if text.trim().is_empty() {
        return path.fail("is empty; write {} to match every event");
    }
    let value: Value = serde_json::from_str(text)
        .map_err(|e| path.error(format!("is not JSON: {e}; write an object such as {EXAMPLE}")))?;
    // It would match what it does not say. event-ruler refuses it in `numeric`, too.
    if let Some(number) = decimal::first_rounded(text) {
        let message = "which is more precise than a double; write fewer digits, or a string";
        return path.fail(format!("has the number {number}, {message}"));
    }
    match &value {
        Value::Object(map) => parse_fields(map, &path, false),
        Value::String(_) => path.fail("is a quoted string; take away the outer quotes and the backslashes"),
        _ => path.fail(format!("is not an object; write one such as {EXAMPLE}")),
    }
}

/// Where in the pattern the parser is, for its messages.
#[derive(Default)]
struct Path {
    text: String,
    depth: usize,
}

impl Path {
    fn field(&self, name: &str) -> Self {
        let dot = if self.depth == 0 { "" } else { "." };
        Self { text: format!("{}{dot}{}", self.text, name.escape_debug()), depth: self.depth + 1 }
    }

    fn index(&self, index: usize) -> Self {
        Self { text: format!("{}[{index}]", self.text), depth: self.depth }
    }

    fn error(&self, message: impl fmt::Display) -> FilterError {
        match self.depth {
            0 => FilterError(format!("the pattern {message}")),
            _ => FilterError(format!("`{}` {message}", self.text)),
        }
    }

    fn fail<T>(&self, message: impl fmt::Display) -> Result<T, FilterError> {
        Err(self.error(message))
    }
}

fn parse_fields(map: &Map<String, Value>, path: &Path, in_or: bool) -> Result<Fields, FilterError> {
    if path.depth > MAX_DEPTH {
        return path.fail(format!("is too deep; write at most {MAX_DEPTH} levels"));
    }
    // Only as a whole pattern is an empty object taken: it matches every event.
    if map.is_empty() && path.depth > 0 {
        return path.fail("is an empty object; name a field in it, or leave it out");
    }
    let mut parsed = Fields::default();
    for (name, value) in map {
        let path = path.field(name);
        if name == OR {
            parsed.ors.push(parse_or(value, &path)?);
        } else if in_or && RESERVED_IN_OR.split_whitespace().any(|reserved| reserved == name) {
            return path.fail(format!(
                "is an operator, which {OR} does not take as a field; put it into the array of a field: \
                 \"field\": [{{\"{name}\": …}}]"
            ));
        } else {
            parsed.fields.push((name.clone(), parse_node(name, value, &path, in_or)?));
        }
    }
    Ok(parsed)
}

fn parse_or(value: &Value, path: &Path) -> Result<Vec<Fields>, FilterError> {
    let Some(items) = value.as_array().filter(|items| items.len() > 1) else {
        return path.fail("is not an array of two objects or more; write [{…}, {…}]");
    };
    let parse = |(index, item): (usize, &Value)| {
        let path = path.index(index);
        match item {
            Value::Object(map) => parse_fields(map, &path, true),
            _ => path.fail(r#"is not an object; write one such as {"field": ["value"]}"#),
        }
    };
    items.iter().enumerate().map(parse).collect()
}

fn parse_node(name: &str, value: &Value, path: &Path, in_or: bool) -> Result<Node, FilterError> {
    match value {
        Value::Object(map) => parse_fields(map, path, in_or).map(Node::Object),
        Value::Array(items) if items.is_empty() => {
            path.fail(r#"is an empty array, which nothing matches; list a value, such as [""] or [null]"#)
        }
        Value::Array(items) => {
            let rules = items.iter().enumerate().map(|(index, item)| parse_rule(item, &path.index(index)));
            rules.collect::<Result<_, _>>().map(Node::Leaf)
        }
        _ if OPERATORS.contains(&name) => {
            let rule = format!("[{{\"{name}\": {}}}]", brief(value));
            path.fail(format!("is an operator outside an array; put it into the array of its field: {rule}"))
        }
        _ => path.fail(format!("is not an array; put the value into an array: [{}]", brief(value))),
    }
}

fn parse_rule(value: &Value, path: &Path) -> Result<Rule, FilterError> {
    match value {
        Value::Null => Ok(Rule::Null),
        Value::Bool(wanted) => Ok(Rule::Bool(*wanted)),
        Value::Number(number) => parse_number(number, path).map(Rule::Number),
        Value::String(text) => Ok(text_rule(Part::Whole, false, text)),
        Value::Array(_) => path.fail("is an array in an array; list its values directly"),
        Value::Object(map) => {
            let (name, operand) = only_entry(map, path)?;
            parse_operator(name, operand, path)
        }
    }
}

fn parse_operator(name: &str, operand: &Value, path: &Path) -> Result<Rule, FilterError> {
    match (name, operand) {
        ("prefix", _) => parse_text(name, Part::Prefix, operand, path),
        ("suffix", _) => parse_text(name, Part::Suffix, operand, path),
        (IGNORE_CASE, Value::String(text)) => Ok(text_rule(Part::Whole, true, text)),
        (IGNORE_CASE, _) => path.fail(format!("needs a string; write {{\"{name}\": \"text\"}}")),
        ("anything-but", _) => parse_anything_but(operand, path).map(Rule::AnythingBut),
        ("numeric", _) => parse_numeric(operand, path).map(Rule::Numeric),
        ("exists", Value::Bool(wanted)) => Ok(Rule::Exists(*wanted)),
        ("exists", _) => path.fail(r#"needs true or false; write {"exists": true}"#),
        _ => path.fail(unknown_operator(name)),
    }
}

fn unknown_operator(name: &str) -> String {
    match name {
        "wildcard" | "cidr" => format!("uses `{name}`, which Lambda's filters lack; use prefix or suffix"),
        "Pattern" => "is in a whole FilterCriteria; give the text of one Pattern, without quotes around it \
                      and without backslashes"
            .to_owned(),
        _ => format!("has no known operator: `{}`; use one of {}", name.escape_debug(), OPERATORS.join(", ")),
    }
}

/// The operand of `prefix` and `suffix`: a string, or one that ignores case.
fn parse_text(name: &str, part: Part, operand: &Value, path: &Path) -> Result<Rule, FilterError> {
    if let Value::String(text) = operand {
        return Ok(text_rule(part, false, text));
    }
    match operand.as_object().map(|map| only_entry(map, path)).transpose()? {
        Some((IGNORE_CASE, Value::String(text))) => Ok(text_rule(part, true, text)),
        _ => path.fail(format!(
            "needs a string; write {{\"{name}\": \"text\"}} or {{\"{name}\": {{\"{IGNORE_CASE}\": \"text\"}}}}"
        )),
    }
}

/// What `anything-but` excludes.
fn parse_anything_but(operand: &Value, path: &Path) -> Result<Vec<Rule>, FilterError> {
    if let Value::Object(map) = operand {
        let (name, operand) = only_entry(map, path)?;
        return parse_anything_but_text(name, operand, path);
    }
    let items = list(operand);
    let alike = items.iter().all(Value::is_string) || items.iter().all(Value::is_number);
    if items.is_empty() || !alike {
        return path.fail(
            r#"needs strings only or numbers only; write {"anything-but": "a"} or {"anything-but": [1, 2]}"#,
        );
    }
    items.iter().map(|item| parse_rule(item, path)).collect()
}

fn parse_anything_but_text(name: &str, operand: &Value, path: &Path) -> Result<Vec<Rule>, FilterError> {
    let (part, ignore_case) = match name {
        "prefix" => (Part::Prefix, false),
        "suffix" => (Part::Suffix, false),
        IGNORE_CASE => (Part::Whole, true),
        _ => {
            let name = name.escape_debug();
            return path.fail(format!("has anything-but with `{name}`; use prefix, suffix or {IGNORE_CASE}"));
        }
    };
    let texts: Option<Vec<&str>> = list(operand).iter().map(Value::as_str).collect();
    match texts {
        // Every string begins and ends with the empty one, so nothing would be left.
        Some(texts) if !texts.is_empty() && (part == Part::Whole || !texts.contains(&"")) => {
            Ok(texts.into_iter().map(|text| text_rule(part, ignore_case, text)).collect())
        }
        _ => path.fail(format!(
            "needs a string that is not empty, or a list of such; \
             write {{\"anything-but\": {{\"{name}\": \"text\"}}}}"
        )),
    }
}

/// The values of an operand that is one value or an array of them.
fn list(operand: &Value) -> &[Value] {
    operand.as_array().map_or(slice::from_ref(operand), Vec::as_slice)
}

fn parse_numeric(operand: &Value, path: &Path) -> Result<Vec<Bound>, FilterError> {
    const HELP: &str = r#"write {"numeric": ["=", 5]} or {"numeric": [">", 0, "<=", 5]}"#;
    let mut bounds = Vec::new();
    for pair in list(operand).chunks(2) {
        let [Value::String(symbol), Value::Number(number)] = pair else {
            return path.fail(format!("needs comparisons with numbers; {HELP}"));
        };
        let Some(orders) = parse_comparison(symbol) else {
            return path.fail(format!("has no known comparison: `{}`; {HELP}", symbol.escape_debug()));
        };
        bounds.push((orders, parse_number(number, path)?));
    }
    match bounds.as_slice() {
        [_] => Ok(bounds),
        [(low, bottom), (high, top)]
            if low.contains(&Ordering::Greater) && high.contains(&Ordering::Less) =>
        {
            if bottom.compare(top).is_lt() {
                return Ok(bounds);
            }
            path.fail("has a range whose first number is not less than its second; swap them, or use \"=\"")
        }
        _ => path.fail(format!("needs one comparison, or a lower and then an upper bound; {HELP}")),
    }
}

fn parse_comparison(symbol: &str) -> Option<&'static [Ordering]> {
    Some(match symbol {
        "=" => &[Ordering::Equal],
        "<" => &[Ordering::Less],
        "<=" => &[Ordering::Less, Ordering::Equal],
        ">" => &[Ordering::Greater],
        ">=" => &[Ordering::Greater, Ordering::Equal],
        _ => return None,
    })
}

fn parse_number(number: &Number, path: &Path) -> Result<Decimal, FilterError> {
    Decimal::of(number).ok_or_else(|| path.error("has a number out of range; write a smaller exponent"))
}

fn text_rule(part: Part, ignore_case: bool, text: &str) -> Rule {
    Rule::Text(Text { part, ignore_case, wanted: text.to_owned() })
}

fn only_entry<'a>(map: &'a Map<String, Value>, path: &Path) -> Result<(&'a str, &'a Value), FilterError> {
    let mut entries = map.iter();
    match (entries.next(), entries.next()) {
        (Some((name, operand)), None) => Ok((name, operand)),
        _ => path.fail(format!("needs exactly one operator; use one of {}", OPERATORS.join(", "))),
    }
}

/// A value for a message, cut where it is long.
fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}
