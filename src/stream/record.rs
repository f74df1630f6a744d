//! A stream record of the SDK, turned into one of the protocol. Nothing is copied.

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_dynamodbstreams::types::{AttributeValue as StreamValue, Record as StreamRecord};

use super::Sequence;
use crate::protocol::{Item, Record};

/// What a record lacks that every record has.
#[derive(Debug, thiserror::Error)]
#[error("a stream record without its {0}")]
pub(crate) struct Unreadable(&'static str);

/// The event's name is not looked at: the images say what happened, and newer releases of
/// DynamoDB Local send names that the SDK does not know.
pub(crate) fn convert(record: StreamRecord) -> Result<(Sequence, Record), Unreadable> {
    let body = record.dynamodb.ok_or(Unreadable("body"))?;
    let sequence = body.sequence_number.ok_or(Unreadable("sequence number"))?;
    let created = body.approximate_creation_date_time.ok_or(Unreadable("creation time"))?;
    let item = |image: std::collections::HashMap<String, StreamValue>| -> Result<Item, Unreadable> {
        image.into_iter().map(|(name, value)| Ok((name, convert_value(value)?))).collect()
    };
    let record = Record {
        created_millis: created.to_millis().ok().and_then(|ms| u64::try_from(ms).ok()).unwrap_or_default(),
        key: item(body.keys.ok_or(Unreadable("keys"))?)?,
        old: body.old_image.map(item).transpose()?,
        new: body.new_image.map(item).transpose()?,
    };
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
        _ => return Err(Unreadable("attribute types: one is newer than this build")),
    })
}
