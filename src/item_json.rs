//! DynamoDB's own JSON form of an item, as the console and the AWS CLI show it.

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::protocol::Item;

/// An item as JSON; the names are sorted.
pub fn item_json(item: &Item) -> Value {
    let mut names: Vec<_> = item.iter().collect();
    names.sort_unstable_by_key(|(name, _)| *name);
    Value::Object(
        names.into_iter().map(|(name, value)| (name.clone(), value_json(value))).collect::<Map<_, _>>(),
    )
}

fn value_json(value: &AttributeValue) -> Value {
    match value {
        AttributeValue::S(text) => json!({ "S": text }),
        AttributeValue::N(number) => json!({ "N": number }),
        AttributeValue::B(bytes) => json!({ "B": STANDARD.encode(bytes) }),
        AttributeValue::Bool(flag) => json!({ "BOOL": flag }),
        AttributeValue::Null(flag) => json!({ "NULL": flag }),
        AttributeValue::Ss(set) => json!({ "SS": set }),
        AttributeValue::Ns(set) => json!({ "NS": set }),
        AttributeValue::Bs(set) => {
            json!({ "BS": set.iter().map(|bytes| STANDARD.encode(bytes)).collect::<Vec<_>>() })
        }
        AttributeValue::L(list) => json!({ "L": list.iter().map(value_json).collect::<Vec<_>>() }),
        AttributeValue::M(map) => json!({ "M": item_json(map) }),
        other => json!({ "unknown": format!("{other:?}") }),
    }
}

/// The item that [`item_json`] turned into this; `None` if it is not an item's JSON.
pub fn json_item(json: &Value) -> Option<Item> {
    let attributes = json.as_object()?.iter();
    attributes.map(|(name, value)| Some((name.clone(), json_value(value)?))).collect()
}

fn json_value(json: &Value) -> Option<AttributeValue> {
    let (kind, value) = json.as_object().filter(|tagged| tagged.len() == 1)?.iter().next()?;
    let text = || value.as_str().map(str::to_owned);
    let texts = || -> Option<Vec<String>> {
        value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let blob = |json: &Value| Some(Blob::new(STANDARD.decode(json.as_str()?).ok()?));
    Some(match kind.as_str() {
        "S" => AttributeValue::S(text()?),
        "N" => AttributeValue::N(text()?),
        "B" => AttributeValue::B(blob(value)?),
        "BOOL" => AttributeValue::Bool(value.as_bool()?),
        "NULL" => AttributeValue::Null(value.as_bool()?),
        "SS" => AttributeValue::Ss(texts()?),
        "NS" => AttributeValue::Ns(texts()?),
        "BS" => AttributeValue::Bs(value.as_array()?.iter().map(blob).collect::<Option<_>>()?),
        "L" => AttributeValue::L(value.as_array()?.iter().map(json_value).collect::<Option<_>>()?),
        "M" => AttributeValue::M(json_item(value)?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_comes_back_as_it_was() {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let values = [
            text("tea \"quoted\" \u{1F375}"),
            AttributeValue::N("1.50".to_owned()),
            AttributeValue::B(Blob::new([0, 255, 7])),
            AttributeValue::Bool(false),
            AttributeValue::Null(true),
            AttributeValue::Ss(vec!["b".to_owned(), "a".to_owned()]),
            AttributeValue::Ns(vec!["2".to_owned(), "10".to_owned()]),
            AttributeValue::Bs(vec![Blob::new([1]), Blob::new([])]),
            AttributeValue::L(vec![text("x"), AttributeValue::M(Item::from([("S".to_owned(), text("y"))]))]),
            AttributeValue::M(Item::new()),
        ];
        let item: Item = values.into_iter().enumerate().map(|(i, value)| (format!("a{i}"), value)).collect();
        assert_eq!(json_item(&item_json(&item)), Some(item));
    }

    #[test]
    fn what_is_no_item_is_none() {
        for json in [
            json!("x"),
            json!({"a": "x"}),
            json!({"a": {"S": 1}}),
            json!({"a": {"X": "x"}}),
            json!({"a": {}}),
        ] {
            assert_eq!(json_item(&json), None, "{json}");
        }
    }
}
