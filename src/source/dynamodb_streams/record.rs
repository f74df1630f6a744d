//! Converts a stream record of the SDK to one of the protocol. Nothing is copied.

use std::collections::HashMap;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_dynamodbstreams::operation::get_records::GetRecordsOutput;
use aws_sdk_dynamodbstreams::types::{AttributeValue as StreamValue, Record as StreamRecord};

use crate::log_key::log_key;
use crate::protocol::{Item, Record};
use crate::source::{Change, EventName, Sequence, UnreadableRecord, UserIdentity};

/// The answer to GetRecords.
pub(super) struct ReadPage {
    pub(super) records: Vec<Result<Change, UnreadableRecord>>,
    /// The records' sizes in bytes, as the service counts them.
    pub(super) bytes: u64,
    /// The iterator for the next page; `None` at the end of a shard.
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

/// The parts of a record, as far as each could be read.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) name: Option<EventName>,
    pub(super) sequence: Option<Sequence>,
    pub(super) created_millis: Option<u64>,
    pub(super) key: Option<Result<Item, Unreadable>>,
    pub(super) old: Option<Result<Item, Unreadable>>,
    pub(super) new: Option<Result<Item, Unreadable>>,
    pub(super) bytes: Option<u64>,
    pub(super) user: Option<UserIdentity>,
}

impl Parts {
    /// The record, if nothing is missing.
    pub(super) fn change(self) -> Result<Change, UnreadableRecord> {
        let Self { name, sequence, created_millis, key, old, new, bytes, user } = self;
        let sequence_text = sequence.as_ref().map_or("without sequence number", Sequence::as_str).to_owned();
        let named = |key: &str, error: Unreadable| UnreadableRecord {
            sequence: sequence.clone(),
            created_millis,
            text: format!("record {sequence_text}{key}: {error}"),
        };
        let key =
            key.unwrap_or_else(|| Err(Unreadable::without("keys"))).map_err(|error| named("", error))?;
        let of_key = |error| named(&format!(" of key {}", log_key(&key)), error);
        let (old, new) = (old.transpose().map_err(of_key)?, new.transpose().map_err(of_key)?);
        // Without it, the write has no place in the total order.
        let Some(created_millis) = created_millis.filter(|millis| *millis > 0) else {
            return Err(of_key(Unreadable::without("creation time")));
        };
        let Some(sequence) = sequence.clone() else {
            return Err(of_key(Unreadable::without("sequence number")));
        };
        let record = Record { created_millis, key, old, new };
        Ok(Change { name, sequence, record, bytes: bytes.unwrap_or_default(), user })
    }
}

/// Why a part of a record can't be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unreadable(String);

impl Unreadable {
    fn without(part: &str) -> Self {
        Self(format!("no readable {part}"))
    }

    /// For something that this build does not know; names its type, but never its content.
    pub(super) fn value(expected: &str, found: &serde_json::Value) -> Self {
        let found = match found.as_object() {
            Some(variants) => format!("{:?}", variants.keys().collect::<Vec<_>>()),
            None => "another type".to_owned(),
        };
        Self(format!("expected {expected}, found {found}"))
    }
}

/// Newer releases of DynamoDB Local send names of events that nobody knows: where both images are there, they say what
/// happened.
pub(crate) fn convert(record: StreamRecord) -> Result<Change, UnreadableRecord> {
    let Some(body) = record.dynamodb else { return Parts::default().change() };
    let item = |image: HashMap<String, StreamValue>| -> Result<Item, Unreadable> {
        image.into_iter().map(|(name, value)| Ok((name, convert_value(value)?))).collect()
    };
    let created = body.approximate_creation_date_time.and_then(|created| created.to_millis().ok());
    let parts = Parts {
        name: record.event_name.and_then(|name| EventName::of(name.as_str())),
        sequence: body.sequence_number.as_deref().map(Sequence::new),
        created_millis: created.and_then(|millis| u64::try_from(millis).ok()),
        key: body.keys.map(item),
        old: body.old_image.map(item),
        new: body.new_image.map(item),
        bytes: body.size_bytes.map(i64::unsigned_abs),
        user: record.user_identity.map(|user| UserIdentity {
            // Some emulators spell the fields' names otherwise; DynamoDB names nobody else.
            kind: user.r#type.unwrap_or_else(|| "Service".to_owned()),
            principal: user.principal_id.unwrap_or_else(|| "dynamodb.amazonaws.com".to_owned()),
        }),
    };
    parts.change()
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
        _ => return Err(Unreadable("an attribute type newer than this build".to_owned())),
    })
}
