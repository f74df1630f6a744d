//! Requests to a region's table and its stream that bypass all faults: nothing is retried.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use aws_sdk_dynamodb::error::{DisplayErrorContext, SdkError};
use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ReturnValue,
    ScalarAttributeType, StreamSpecification, StreamViewType,
};
use aws_sdk_dynamodbstreams::types::{AttributeValue as StreamValue, ShardIteratorType};
use serde_json::{Map, Value, json};
use tradewind::region::Region;
use tradewind::source::Lineage;
use tradewind::source::dynamodb_streams::list_once;
use url::Url;

use crate::Result;
use crate::history::{COUNT, HOLDER, Image, KEY, WRITE};

/// The credentials of everyone. No engine here checks a signature.
pub const ACCESS_KEY: &str = "tradewind";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

pub type Item = HashMap<String, AttributeValue>;

/// One region's table.
#[derive(Clone, Debug)]
pub struct Wire {
    tables: aws_sdk_dynamodb::Client,
    streams: aws_sdk_dynamodbstreams::Client,
    pub table: String,
    key: KeyShape,
}

/// The shape of the items' keys: a text, and perhaps a second attribute that is always the same.
#[derive(Clone, Debug)]
pub struct KeyShape {
    pub partition: String,
    pub sort: Option<(String, AttributeValue)>,
}

/// What the service refused, in its own words.
#[derive(Debug)]
pub struct Refusal(pub String);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// Where to read a shard from.
#[derive(Clone, Debug)]
pub enum From {
    Beginning,
    Now,
    After(String),
}

/// A change in the stream.
#[derive(Debug)]
pub struct Change {
    pub sequence: String,
    /// `None` if the key is not one of ours.
    pub key: Option<String>,
    pub created_millis: u64,
    pub old: Option<Image>,
    pub new: Option<Image>,
}

impl Wire {
    /// An endpoint of our own.
    pub fn to(endpoint: &Url, aws_region: &str, table: &str) -> Self {
        use aws_sdk_dynamodb::config::retry::RetryConfig;
        use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
        use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region as AwsRegion};
        let credentials = Credentials::new(ACCESS_KEY, ACCESS_KEY, None, None, "chaos");
        let timeouts = TimeoutConfig::builder().operation_timeout(PATIENCE).build();
        let region = AwsRegion::new(aws_region.to_owned());
        let tables = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(region.clone())
            .credentials_provider(credentials.clone())
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts.clone())
            .endpoint_url(endpoint.as_str())
            .build();
        let streams = aws_sdk_dynamodbstreams::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(region)
            .credentials_provider(credentials)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .endpoint_url(endpoint.as_str())
            .build();
        Self {
            tables: aws_sdk_dynamodb::Client::from_conf(tables),
            streams: aws_sdk_dynamodbstreams::Client::from_conf(streams),
            table: table.to_owned(),
            key: KeyShape { partition: KEY.to_owned(), sort: None },
        }
    }

    /// A region of the user's own.
    pub fn of(region: &Region, table: String, key: KeyShape) -> Self {
        Self { tables: region.writes.clone(), streams: region.streams.clone(), table, key }
    }

    fn key(&self, key: &str) -> Item {
        let mut item = Item::from([(self.key.partition.clone(), AttributeValue::S(key.to_owned()))]);
        item.extend(self.key.sort.clone());
        item
    }

    /// Creates the table, with the stream that replication needs.
    pub async fn make_table(&self) -> Result<()> {
        let key = KeySchemaElement::builder().attribute_name(KEY).key_type(KeyType::Hash).build()?;
        let attribute = AttributeDefinition::builder()
            .attribute_name(KEY)
            .attribute_type(ScalarAttributeType::S)
            .build()?;
        let stream = StreamSpecification::builder()
            .stream_enabled(true)
            .stream_view_type(StreamViewType::NewAndOldImages)
            .build()?;
        let call =
            self.tables.create_table().table_name(&self.table).billing_mode(BillingMode::PayPerRequest);
        let call = call.attribute_definitions(attribute).key_schema(key).stream_specification(stream);
        match call.send().await {
            Ok(_) => Ok(()),
            // The answer to an attempt was lost, and the SDK has made another.
            Err(error)
                if error.as_service_error().is_some_and(CreateTableError::is_resource_in_use_exception) =>
            {
                Ok(())
            }
            Err(error) => Err(failed(error)),
        }
    }

    pub async fn delete_table(&self) -> Result<()> {
        self.tables.delete_table().table_name(&self.table).send().await.map(drop).map_err(failed)
    }

    /// Turns the table's stream off or on.
    pub async fn turn_stream(&self, on: bool) -> Result<()> {
        let stream = StreamSpecification::builder()
            .stream_enabled(on)
            .set_stream_view_type(on.then_some(StreamViewType::NewAndOldImages))
            .build()?;
        let call = self.tables.update_table().table_name(&self.table).stream_specification(stream);
        call.send().await.map(drop).map_err(failed)
    }

    /// The item to put, without a stamp.
    pub fn item(&self, key: &str, write: &str, payload: String) -> Item {
        let mut item = self.key(key);
        item.insert(WRITE.to_owned(), AttributeValue::S(write.to_owned()));
        item.insert("payload".to_owned(), AttributeValue::S(payload));
        item
    }

    /// Puts an item, with a stamp or without.
    pub async fn put(
        &self,
        key: &str,
        write: &str,
        payload: String,
        stamp: Option<(&str, AttributeValue)>,
    ) -> Result<()> {
        let mut item = self.item(key, write, payload);
        item.extend(stamp.map(|(name, stamp)| (name.to_owned(), stamp)));
        self.tables
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .send()
            .await
            .map(drop)
            .map_err(failed)
    }

    /// Updates an item, which keeps whatever else it has.
    pub async fn update(&self, key: &str, write: &str, payload: String) -> Result<()> {
        let call = self.tables.update_item().table_name(&self.table).set_key(Some(self.key(key)));
        let call = call
            .update_expression("SET #w = :w, payload = :p")
            .expression_attribute_names("#w", WRITE)
            .expression_attribute_values(":w", AttributeValue::S(write.to_owned()))
            .expression_attribute_values(":p", AttributeValue::S(payload));
        call.send().await.map(drop).map_err(failed)
    }

    /// Adds one to an item's count. Returns the new count.
    pub async fn add(&self, key: &str, write: &str) -> Result<Option<u64>> {
        let call = self.tables.update_item().table_name(&self.table).set_key(Some(self.key(key)));
        let call = call
            .update_expression("SET #w = :w ADD #n :one")
            .expression_attribute_names("#w", WRITE)
            .expression_attribute_names("#n", COUNT)
            .expression_attribute_values(":w", AttributeValue::S(write.to_owned()))
            .expression_attribute_values(":one", AttributeValue::N("1".to_owned()))
            .return_values(ReturnValue::UpdatedNew);
        Ok(call.send().await.map_err(failed)?.attributes.as_ref().and_then(count_of))
    }

    /// Sets an item's count to one more than this, if it still is this.
    pub async fn swap(&self, key: &str, write: &str, count: Option<u64>) -> Result<u64> {
        let next = count.unwrap_or_default() + 1;
        let call = self.tables.update_item().table_name(&self.table).set_key(Some(self.key(key)));
        let mut call = call
            .update_expression("SET #w = :w, #n = :next")
            .condition_expression(if count.is_some() { "#n = :n" } else { "attribute_not_exists(#n)" })
            .expression_attribute_names("#w", WRITE)
            .expression_attribute_names("#n", COUNT)
            .expression_attribute_values(":w", AttributeValue::S(write.to_owned()))
            .expression_attribute_values(":next", AttributeValue::N(next.to_string()));
        if let Some(count) = count {
            call = call.expression_attribute_values(":n", AttributeValue::N(count.to_string()));
        }
        call.send().await.map(|_| next).map_err(failed)
    }

    /// Takes a lock, if nobody has it.
    pub async fn lock(&self, key: &str, write: &str, holder: &str) -> Result<()> {
        self.hand(key, write, holder, "SET #w = :w, #h = :h", "attribute_not_exists(#h)").await
    }

    /// Releases a lock, if this one holds it.
    pub async fn unlock(&self, key: &str, write: &str, holder: &str) -> Result<()> {
        self.hand(key, write, holder, "SET #w = :w REMOVE #h", "#h = :h").await
    }

    /// Changes who holds a lock.
    async fn hand(&self, key: &str, write: &str, holder: &str, update: &str, condition: &str) -> Result<()> {
        let call = self.tables.update_item().table_name(&self.table).set_key(Some(self.key(key)));
        let call = call
            .update_expression(update)
            .condition_expression(condition)
            .expression_attribute_names("#w", WRITE)
            .expression_attribute_names("#h", HOLDER)
            .expression_attribute_values(":w", AttributeValue::S(write.to_owned()))
            .expression_attribute_values(":h", AttributeValue::S(holder.to_owned()));
        call.send().await.map(drop).map_err(failed)
    }

    pub async fn delete(&self, key: &str) -> Result<()> {
        let call = self.tables.delete_item().table_name(&self.table).set_key(Some(self.key(key)));
        call.send().await.map(drop).map_err(failed)
    }

    pub async fn get(&self, key: &str) -> Result<Option<Item>> {
        let call = self.tables.get_item().table_name(&self.table).set_key(Some(self.key(key)));
        Ok(call.consistent_read(true).send().await.map_err(failed)?.item)
    }

    /// What the table holds of these keys; of all, without any.
    pub async fn items(&self, keys: Option<&[String]>) -> Result<BTreeMap<String, Image>> {
        let mut items = BTreeMap::new();
        if let Some(keys) = keys {
            for key in keys {
                items.extend(self.get(key).await?.map(|item| (key.clone(), Image::of(&values(&item)))));
            }
            return Ok(items);
        }
        let scan = self.tables.scan().table_name(&self.table).consistent_read(true);
        let mut pages = scan.into_paginator().send();
        while let Some(page) = pages.next().await {
            for item in page.map_err(failed)?.items.unwrap_or_default() {
                let key = item.get(&self.key.partition).and_then(|key| key.as_s().ok()).cloned();
                items.insert(key.unwrap_or_default(), Image::of(&values(&item)));
            }
        }
        Ok(items)
    }

    /// The rows of the region's control table, as JSON.
    pub async fn control_rows(&self) -> Result<Vec<Map<String, Value>>> {
        let scan = self.tables.scan().table_name("tradewind-control").consistent_read(true);
        let mut pages = scan.into_paginator().send();
        let mut rows = Vec::new();
        while let Some(page) = pages.next().await {
            rows.extend(page.map_err(failed)?.items.unwrap_or_default().iter().map(values));
        }
        Ok(rows)
    }

    /// The name of the table's stream.
    pub async fn stream(&self) -> Result<String> {
        let answer = self.tables.describe_table().table_name(&self.table).send().await.map_err(failed)?;
        let arn = answer.table.and_then(|table| table.latest_stream_arn);
        arn.ok_or_else(|| format!("table {} has no stream", self.table).into())
    }

    /// The stream's shards.
    pub async fn shards(&self, stream: &str) -> Result<Lineage> {
        // It retries by itself, for as long as it takes.
        let listed = tokio::time::timeout(PATIENCE, list_once(&self.streams, stream)).await;
        Ok(listed.map_err(|_| format!("{stream}: listing its shards takes longer than {PATIENCE:?}"))??)
    }

    pub async fn iterator(&self, stream: &str, shard: &str, from: &From) -> Result<Option<String>> {
        let call = self.streams.get_shard_iterator().stream_arn(stream).shard_id(shard);
        let call = match from {
            From::Beginning => call.shard_iterator_type(ShardIteratorType::TrimHorizon),
            From::Now => call.shard_iterator_type(ShardIteratorType::Latest),
            From::After(sequence) => {
                call.shard_iterator_type(ShardIteratorType::AfterSequenceNumber).sequence_number(sequence)
            }
        };
        Ok(call.send().await.map_err(failed)?.shard_iterator)
    }

    /// A page of changes, and the iterator for the next.
    pub async fn changes(&self, iterator: &str) -> Result<(Vec<Change>, Option<String>)> {
        let page = self.streams.get_records().shard_iterator(iterator).send().await.map_err(failed)?;
        let changes = page.records.unwrap_or_default().into_iter().filter_map(|record| {
            let record = record.dynamodb?;
            let keys = record.keys.unwrap_or_default();
            let is_ours = |(name, value): &(String, AttributeValue)| {
                keys.get(name).map(stream_value) == Some(plain_value(value))
            };
            let key = keys.get(&self.key.partition).and_then(|key| key.as_s().ok()).cloned();
            let image = |image: Option<HashMap<String, StreamValue>>| {
                let image = image?.iter().map(|(name, value)| (name.clone(), stream_value(value))).collect();
                Some(Image::of(&image))
            };
            let created = record.approximate_creation_date_time?.to_millis().ok()?;
            Some(Change {
                sequence: record.sequence_number?,
                key: key.filter(|_| self.key.sort.as_ref().is_none_or(is_ours)),
                created_millis: u64::try_from(created).unwrap_or_default(),
                old: image(record.old_image),
                new: image(record.new_image),
            })
        });
        Ok((changes.collect(), page.next_shard_iterator))
    }
}

/// An item's count.
pub fn count_of(item: &Item) -> Option<u64> {
    item.get(COUNT)?.as_n().ok()?.parse().ok()
}

/// An item's attributes in DynamoDB's JSON. Those that are not ours are only distinguished from each other.
fn values(item: &Item) -> Map<String, Value> {
    item.iter().map(|(name, value)| (name.clone(), plain_value(value))).collect()
}

fn plain_value(value: &AttributeValue) -> Value {
    match value {
        AttributeValue::S(text) => json!({ "S": text }),
        AttributeValue::N(number) => json!({ "N": number }),
        other => json!(format!("{other:?}")),
    }
}

fn stream_value(value: &StreamValue) -> Value {
    match value {
        StreamValue::S(text) => json!({ "S": text }),
        StreamValue::N(number) => json!({ "N": number }),
        other => json!(format!("{other:?}")),
    }
}

/// The text in a column of a row, or an empty one.
pub fn text<'a>(row: &'a Map<String, Value>, name: &str) -> &'a str {
    row.get(name).and_then(|value| value["S"].as_str()).unwrap_or_default()
}

/// An error as text. The service did not do what it refused; whether it did is unknown after its own faults
/// (5xx) and lost answers.
fn failed<E>(error: SdkError<E>) -> Box<dyn std::error::Error + Send + Sync>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let is_refused = match &error {
        SdkError::ServiceError(told) => told.raw().status().as_u16() < 500,
        SdkError::ConstructionFailure(_) => true,
        _ => false,
    };
    let text = DisplayErrorContext(&error).to_string();
    if is_refused { Refusal(text).into() } else { text.into() }
}
