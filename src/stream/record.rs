//! A stream record of the SDK, turned into one of the protocol. Nothing is copied.

use std::collections::HashMap;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_dynamodbstreams::operation::get_records::GetRecordsOutput;
use aws_sdk_dynamodbstreams::types::{AttributeValue as StreamValue, Record as StreamRecord};

use super::Sequence;
use crate::log_key::log_key;
use crate::protocol::{Item, Record};

/// What GetRecords answered.
pub(super) struct ReadPage {
    pub(super) records: Vec<Result<(Sequence, Record), Unreadable>>,
    /// The records' sizes, in bytes, by the service's own count.
    pub(super) bytes: u64,
    /// The iterator for the next page; none at the end of a shard.
    pub(super) next: Option<String>,
}

impl From<GetRecordsOutput> for ReadPage {
    fn from(output: GetRecordsOutput) -> Self {
        let records = output.records.unwrap_or_default();
        let sizes = records.iter().filter_map(|record| record.dynamodb.as_ref()?.size_bytes);
        Self {
            bytes: sizes.map(i64::unsigned_abs).sum(),
            records: records.into_iter().map(convert).collect(),
            next: output.next_shard_iterator,
        }
    }
}

/// Why a record can't be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unreadable(String);

impl Unreadable {
    pub(super) fn without(part: &str) -> Self {
        Self(format!("a stream record without its {part}"))
    }

    /// Something that this build does not know; its type is told, but never its content.
    pub(super) fn value(expected: &str, found: &serde_json::Value) -> Self {
        let found = match found.as_object() {
            Some(variants) => format!("{:?}", variants.keys().collect::<Vec<_>>()),
            None => "something else".to_owned(),
        };
        Self(format!("expected {expected}, found {found}"))
    }

    /// The same, with which record it is.
    pub(super) fn of(self, sequence: &str, key: &Item) -> Self {
        Self(format!("record {sequence} of key {}: {}", log_key(key), self.0))
    }
}

/// The event's name is not looked at: the images say what happened, and newer releases of
/// DynamoDB Local send names that the SDK does not know.
pub(crate) fn convert(record: StreamRecord) -> Result<(Sequence, Record), Unreadable> {
    let body = record.dynamodb.ok_or_else(|| Unreadable::without("body"))?;
    let sequence = body.sequence_number.ok_or_else(|| Unreadable::without("sequence number"))?;
    let created = body.approximate_creation_date_time.ok_or_else(|| Unreadable::without("creation time"))?;
    let item = |image: HashMap<String, StreamValue>| -> Result<Item, Unreadable> {
        image.into_iter().map(|(name, value)| Ok((name, convert_value(value)?))).collect()
    };
    let key = item(body.keys.ok_or_else(|| Unreadable::without("keys"))?)?;
    let image = |image: Option<HashMap<String, StreamValue>>| {
        image.map(item).transpose().map_err(|error| error.of(&sequence, &key))
    };
    let (old, new) = (image(body.old_image)?, image(body.new_image)?);
    let created_millis = created.to_millis().ok().and_then(|ms| u64::try_from(ms).ok()).unwrap_or_default();
    let record = Record { created_millis, key, old, new };
    Ok((Sequence::new(&sequence), record))
}

fn convert_value(value: StreamValue) -> Result<AttributeValue, Unreadable> {
    let blob = |bytes: aws_sdk_dynamodbstreams::primitives::Blob| Blob::new(bytes.into_inner());
    Ok(match value {
        StreamValue::S(text) => AttributeValue::S(text),
        StreamValue::N(number) => AttributeValue::N(number),
        StreamValue::B(bytes) => AttributeValue::B(blob(bytes)),
        StreamValue::Bool(flag) => AttributeValue::Bool(flag),
        StreamValue::Null(null) => AttributeValue::Null(null),
        StreamValue::Ss(set) => AttributeValue::Ss(set),
        StreamValue::Ns(set) => AttributeValue::Ns(set),
        StreamValue::Bs(set) => AttributeValue::Bs(set.into_iter().map(blob).collect()),
        StreamValue::L(list) => {
            AttributeValue::L(list.into_iter().map(convert_value).collect::<Result<_, _>>()?)
        }
        StreamValue::M(map) => AttributeValue::M(
            map.into_iter()
                .map(|(name, value)| Ok((name, convert_value(value)?)))
                .collect::<Result<_, _>>()?,
        ),
        _ => return Err(Unreadable("an attribute type that is newer than this build".to_owned())),
    })
}
