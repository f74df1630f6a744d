//! Tries actions without effect: writes with a condition that can't hold, reads of a key that does not exist.
//! A failed conditional write costs one write unit.

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, KeySchemaElement, KeyType, ScalarAttributeType, TableDescription,
};
use aws_sdk_dynamodbstreams::types::ShardIteratorType;

use crate::control::{PK, SK};
use crate::fault::{Fault, FaultKind};
use crate::protocol::{Item, STAMP};
use crate::region::Region;

/// What an agent of a region needs: on its own table, on a peer's, and so on.
pub(super) const OWN_TABLE: &[Action] = &[Action::Put, Action::Update, Action::Delete];
pub(super) const PEERS_TABLE: &[Action] = &[Action::Put, Action::Update];
pub(super) const OWN_CONTROL: &[Action] = &[Action::Query, Action::Put, Action::Update, Action::Delete];
pub(super) const PEERS_CONTROL: &[Action] = &[Action::Put];
pub(super) const OWN_CONFLICTS: &[Action] = &[Action::Put, Action::Query, Action::Get];

/// An action on a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Put,
    Update,
    Delete,
    Get,
    Query,
}

impl Action {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Put => "PutItem",
            Self::Update => "UpdateItem",
            Self::Delete => "DeleteItem",
            Self::Get => "GetItem",
            Self::Query => "Query",
        }
    }
}

/// The result of trying an action.
#[derive(Debug)]
pub(super) enum Outcome {
    Allowed,
    Refused(Fault),
    /// It failed for another reason.
    Unknown(Fault),
}

/// A condition that no item meets, nor does a missing one.
const NEVER: &str = "attribute_exists(#key) AND attribute_not_exists(#key)";

/// One of Tradewind's own tables, with only its keys.
pub(super) fn like_own_table(name: &str) -> Result<TableDescription, Fault> {
    let mut table = TableDescription::builder().table_name(name);
    for (key, kind) in [(PK, KeyType::Hash), (SK, KeyType::Range)] {
        let definition = AttributeDefinition::builder().attribute_name(key);
        let element = KeySchemaElement::builder().attribute_name(key).key_type(kind);
        table = table
            .attribute_definitions(definition.attribute_type(ScalarAttributeType::S).build()?)
            .key_schema(element.build()?);
    }
    Ok(table.build())
}

/// A key of the table that no application has chosen.
fn key(table: &TableDescription) -> Option<(String, Item)> {
    let mut hash = None;
    let mut key = Item::new();
    for element in table.key_schema() {
        let name = element.attribute_name();
        let definition = table.attribute_definitions().iter().find(|d| d.attribute_name() == name)?;
        let value = match definition.attribute_type() {
            ScalarAttributeType::N => AttributeValue::N("-9.875E-99".to_owned()),
            ScalarAttributeType::B => AttributeValue::B(Blob::new("tradewind doctor")),
            _ => AttributeValue::S("tradewind doctor".to_owned()),
        };
        key.insert(name.to_owned(), value);
        if *element.key_type() == KeyType::Hash {
            hash = Some(name.to_owned());
        }
    }
    Some((hash?, key))
}

/// Tries one action on a table that has been described.
pub(super) async fn attempt(region: &Region, table: &TableDescription, action: Action) -> Outcome {
    let name = table.table_name().unwrap_or_default();
    let Some((hash, key)) = key(table) else {
        return Outcome::Unknown(Fault::new(FaultKind::Invalid, "the table's keys are not known"));
    };
    let client = &region.tables;
    match action {
        Action::Put => {
            let put = client.put_item().table_name(name).set_item(Some(key));
            judge(put.condition_expression(NEVER).expression_attribute_names("#key", hash).send().await)
        }
        Action::Update => {
            let update = client.update_item().table_name(name).set_key(Some(key));
            let update = update
                .update_expression("SET #stamp = :none")
                .condition_expression(NEVER)
                .expression_attribute_names("#key", hash)
                .expression_attribute_names("#stamp", STAMP)
                .expression_attribute_values(":none", AttributeValue::S(String::new()));
            judge(update.send().await)
        }
        Action::Delete => {
            let delete = client.delete_item().table_name(name).set_key(Some(key));
            judge(delete.condition_expression(NEVER).expression_attribute_names("#key", hash).send().await)
        }
        Action::Get => judge(client.get_item().table_name(name).set_key(Some(key)).send().await),
        Action::Query => {
            let value = key.get(PK).or_else(|| key.get(&hash)).cloned();
            let query = client.query().table_name(name).key_condition_expression("#key = :key").limit(1);
            let query = query.expression_attribute_names("#key", hash);
            let value = value.unwrap_or_else(|| AttributeValue::S(String::new()));
            judge(query.expression_attribute_values(":key", value).send().await)
        }
    }
}

/// Tries what reading a stream needs: each action, with its result.
pub(super) async fn attempt_stream(region: &Region, arn: &str) -> Vec<(&'static str, Outcome)> {
    let mut tried = Vec::new();
    let described = region.streams.describe_stream().stream_arn(arn).send().await;
    let shard =
        described.as_ref().ok().and_then(|answer| answer.stream_description.as_ref()).and_then(|stream| {
            let mut open = stream.shards().iter().rev();
            open.find_map(|shard| shard.shard_id.clone())
        });
    tried.push(("DescribeStream", judge(described)));
    let Some(shard) = shard else { return tried };
    let get = region.streams.get_shard_iterator().stream_arn(arn).shard_id(shard);
    let iterator = get.shard_iterator_type(ShardIteratorType::Latest).send().await;
    let at = iterator.as_ref().ok().and_then(|answer| answer.shard_iterator.clone());
    tried.push(("GetShardIterator", judge(iterator)));
    let Some(at) = at else { return tried };
    let records = region.streams.get_records().shard_iterator(at).limit(1).send().await;
    tried.push(("GetRecords", judge(records)));
    tried
}

fn judge<T, E, R>(result: Result<T, SdkError<E, R>>) -> Outcome
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    R: std::fmt::Debug + Send + Sync + 'static,
{
    let Err(error) = result else { return Outcome::Allowed };
    if error.code() == Some("ConditionalCheckFailedException") {
        return Outcome::Allowed;
    }
    let fault = Fault::from(error);
    if fault.kind == FaultKind::Refused { Outcome::Refused(fault) } else { Outcome::Unknown(fault) }
}
