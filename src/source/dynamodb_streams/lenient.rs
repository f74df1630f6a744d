//! Reads a page that the SDK can't read, record by record.
//!
//! The SDK rejects a whole page for one value that it does not know, and would do so again at each retry.
//! Later releases of DynamoDB Local send such a value: an empty map within an image arrives as `{}`.

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::record::{Parts, ReadPage, Unreadable};
use crate::protocol::Item;
use crate::source::{Change, EventName, Sequence, UnreadableRecord, UserIdentity};

/// The last second of the year 9999.
const LAST_SECOND: f64 = 253_402_300_799.0;

/// Reads the body of a GetRecords answer; `None` if it was cut short.
pub(super) fn read(body: &[u8]) -> Option<ReadPage> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let records = answer.get("Records")?.as_array()?;
    let sizes = records.iter().filter_map(|record| record.get("dynamodb")?.get("SizeBytes")?.as_u64());
    Some(ReadPage {
        bytes: sizes.sum(),
        records: records.iter().map(change).collect(),
        next: answer.get("NextShardIterator").and_then(Value::as_str).map(str::to_owned),
    })
}

/// The records of an answer, for the fuzzers.
#[cfg(any(test, fuzzing))]
pub(crate) fn records(body: &[u8]) -> Option<Vec<Result<Change, UnreadableRecord>>> {
    Some(read(body)?.records)
}

fn change(record: &Value) -> Result<Change, UnreadableRecord> {
    let Some(body) = record.get("dynamodb") else { return Parts::default().change() };
    let created = body.get("ApproximateCreationDateTime").and_then(Value::as_f64);
    let image = |name: &str| body.get(name).filter(|image| !image.is_null()).map(item);
    let parts = Parts {
        name: record.get("eventName").and_then(Value::as_str).and_then(EventName::of),
        sequence: body.get("SequenceNumber").and_then(Value::as_str).map(Sequence::new),
        created_millis: created.and_then(millis),
        key: image("Keys"),
        old: image("OldImage"),
        new: image("NewImage"),
        bytes: body.get("SizeBytes").and_then(Value::as_u64),
        user: record.get("userIdentity").and_then(user),
    };
    parts.change()
}

/// Who made the change; DynamoDB Streams and its emulators differ in the names' first letters.
fn user(value: &Value) -> Option<UserIdentity> {
    let field = |names: [&str; 2]| names.iter().find_map(|name| Some(value.get(name)?.as_str()?.to_owned()));
    Some(UserIdentity { kind: field(["Type", "type"])?, principal: field(["PrincipalId", "principalId"])? })
}

/// A plausible time in seconds, as milliseconds.
fn millis(seconds: f64) -> Option<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is in these bounds")]
    (0.0..=LAST_SECOND).contains(&seconds).then(|| (seconds * 1000.0).round() as u64)
}

fn item(value: &Value) -> Result<Item, Unreadable> {
    let attributes = value.as_object().ok_or_else(|| Unreadable::value("an image", value))?;
    attributes.iter().map(|(name, value)| Ok((name.clone(), attribute(value)?))).collect()
}

fn attribute(value: &Value) -> Result<AttributeValue, Unreadable> {
    let unknown = || Unreadable::value("an attribute value", value);
    let variants = value.as_object().ok_or_else(unknown)?;
    let Some((kind, content)) = variants.iter().next() else {
        // What remains of an empty map.
        return Ok(AttributeValue::M(Item::new()));
    };
    if variants.len() > 1 {
        return Err(unknown());
    }
    let text = || content.as_str().map(str::to_owned).ok_or_else(unknown);
    let list = || content.as_array().ok_or_else(unknown);
    let blob = |content: &Value| {
        let bytes = content.as_str().and_then(|text| STANDARD.decode(text).ok());
        bytes.map(Blob::new).ok_or_else(unknown)
    };
    let texts = || -> Result<Vec<String>, Unreadable> {
        list()?.iter().map(|text| text.as_str().map(str::to_owned).ok_or_else(unknown)).collect()
    };
    Ok(match kind.as_str() {
        "S" => AttributeValue::S(text()?),
        "N" => AttributeValue::N(text()?),
        "B" => AttributeValue::B(blob(content)?),
        "BOOL" => AttributeValue::Bool(content.as_bool().ok_or_else(unknown)?),
        "NULL" => AttributeValue::Null(content.as_bool().ok_or_else(unknown)?),
        "SS" => AttributeValue::Ss(texts()?),
        "NS" => AttributeValue::Ns(texts()?),
        "BS" => AttributeValue::Bs(list()?.iter().map(blob).collect::<Result<_, _>>()?),
        "L" => AttributeValue::L(list()?.iter().map(attribute).collect::<Result<_, _>>()?),
        "M" => AttributeValue::M(item(content)?),
        _ => return Err(unknown()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::item_json::item_json;

    fn page(images: &[Value]) -> ReadPage {
        let record = |(i, image): (usize, &Value)| {
            json!({
                "eventName": "TTL_EXPIRED",
                "dynamodb": {
                    "SequenceNumber": format!("{i}"),
                    "ApproximateCreationDateTime": 1_700_000_000.5,
                    "Keys": { "pk": { "S": "a" } },
                    "NewImage": image,
                },
            })
        };
        let records: Vec<_> = images.iter().enumerate().map(record).collect();
        let body = json!({ "Records": records, "NextShardIterator": "next" });
        read(body.to_string().as_bytes()).expect("a page")
    }

    #[test]
    fn every_type_is_read_as_it_was_written() {
        let image = json!({
            "pk": { "S": "a" }, "empty": { "S": "" }, "n": { "N": "-1.5e-7" }, "b": { "B": "AAEC/w==" },
            "yes": { "BOOL": true }, "null": { "NULL": true }, "ss": { "SS": ["x", "y"] }, "ns": { "NS": ["1"] },
            "bs": { "BS": ["AA==", ""] }, "l": { "L": [{ "S": "x" }, { "L": [] }] },
            "m": { "M": { "inner": { "M": {} } } },
        });
        let page = page(std::slice::from_ref(&image));
        assert_eq!(page.next.as_deref(), Some("next"));
        let Change { sequence, record, .. } = page.records[0].as_ref().expect("a record");
        assert_eq!((sequence.as_str(), record.created_millis), ("0", 1_700_000_000_500));
        assert_eq!((&record.old, item_json(record.new.as_ref().expect("an image"))), (&None, image));
    }

    #[test]
    fn what_is_left_of_an_empty_map_is_an_empty_map() {
        let page =
            page(&[json!({ "m": {}, "l": { "L": [{}, { "S": "x" }] }, "deep": { "M": { "inner": {} } } })]);
        let Change { record, .. } = page.records[0].as_ref().expect("a record");
        assert_eq!(
            item_json(record.new.as_ref().expect("an image")),
            json!({
                "m": { "M": {} }, "l": { "L": [{ "M": {} }, { "S": "x" }] }, "deep": { "M": { "inner": { "M": {} } } },
            })
        );
    }

    #[test]
    fn one_record_that_can_not_be_read_takes_no_other_with_it() {
        for bad in [
            json!({ "v": { "N": 5 } }),
            json!({ "v": { "NEW": "x" } }),
            json!({ "v": { "S": "x", "N": "1" } }),
            json!({ "v": "x" }),
            json!({ "v": { "B": "?" } }),
            json!({ "v": { "M": { "deep": { "BOOL": "yes" } } } }),
            json!([]),
        ] {
            let page = page(&[json!({ "v": { "N": "1" } }), bad.clone(), json!({ "v": { "N": "2" } })]);
            let readable: Vec<_> = page.records.iter().map(Result::is_ok).collect();
            assert_eq!(readable, [true, false, true], "{bad}");
        }
    }

    #[test]
    fn an_answer_that_was_cut_short_is_none() {
        assert!(read(br#"{"Records":[{"dynamodb":{"#).is_none());
        assert!(read(b"{}").is_none());
    }
}
