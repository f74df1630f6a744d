//! What counts as an answer from DynamoDB. A success status alone does not: something between an agent and a
//! region (a proxy, a gateway, a captive portal) may answer in its place, with nothing, with `{}`, or with a
//! page of HTML. Mistaken for the service's answer, that would end a shard, empty a table, or count a write
//! as made.
//!
//! A success is an answer if
//!
//! - it is one JSON object, as long as its checksum (`x-amz-crc32`) says, where one is sent;
//! - it has what every answer to the operation has: `Records`, `Items`, and so on;
//! - where the operation reads or writes items, it carries a proof that it comes from a DynamoDB: the checksum, or
//!   the capacity that the call took, which [`AskForProof`] asks for. `{}` alone is all that a store may say to a
//!   `PutItem`, and all that a gateway says.
//!
//! An error is an answer if it names its kind, as DynamoDB's do. Anything else is a network fault, to be
//! retried whatever its status.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_dynamodb::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeSerializationInterceptorContextMut,
};
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::BoxError;
use aws_sdk_dynamodb::operation::batch_get_item::BatchGetItemInput;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemInput;
use aws_sdk_dynamodb::operation::get_item::GetItemInput;
use aws_sdk_dynamodb::operation::put_item::PutItemInput;
use aws_sdk_dynamodb::operation::query::QueryInput;
use aws_sdk_dynamodb::operation::scan::ScanInput;
use aws_sdk_dynamodb::operation::update_item::UpdateItemInput;
use aws_sdk_dynamodb::types::ReturnConsumedCapacity;
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponentsBuilder;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

const CHECKSUM: &str = "x-amz-crc32";
/// How much of an HTML page to quote, in characters.
const EXCERPT: usize = 80;

/// Something has answered that is not a whole answer of DynamoDB's.
#[derive(Debug, thiserror::Error)]
#[error(
    "HTTP {status} to {operation}, but not from DynamoDB: {what}. Something in between answers in its place \
     (a proxy, a gateway), or the endpoint belongs to another service"
)]
pub(crate) struct NotAnAnswer {
    status: u16,
    operation: String,
    what: String,
}

/// What has been answered in a region's place since its clients were made.
#[derive(Clone, Debug, Default)]
pub struct Interceptions(Arc<Mutex<Option<Last>>>);

#[derive(Debug)]
struct Last {
    count: u64,
    at: Instant,
    error: String,
}

/// Answers that did not come from the service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Intercepted {
    pub count: u64,
    /// When the last one came.
    pub seconds_ago: f64,
    /// What the last one was.
    pub last: String,
}

impl Interceptions {
    fn note(&self, error: &NotAnAnswer) {
        let mut last = self.lock();
        let count = last.as_ref().map_or(0, |last| last.count) + 1;
        *last = Some(Last { count, at: Instant::now(), error: error.to_string() });
    }

    /// How many there have been.
    pub(crate) fn count(&self) -> u64 {
        self.lock().as_ref().map_or(0, |last| last.count)
    }

    /// All of them, if the last one came within this time.
    pub(crate) fn within(&self, time: Duration) -> Option<Intercepted> {
        let last = self.lock();
        let Last { count, at, error } = last.as_ref().filter(|last| last.at.elapsed() <= time)?;
        Some(Intercepted {
            count: *count,
            seconds_ago: at.elapsed().as_secs_f64().round(),
            last: error.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Last>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An HTTP client that passes on only genuine answers, and records the rest.
#[derive(Debug)]
pub(crate) struct AnswersOnly(pub(crate) SharedHttpClient, pub(crate) Interceptions);

impl HttpClient for AnswersOnly {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Connector(self.0.http_connector(settings, components), self.1.clone()))
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.validate_base_client_config(components, config)
    }

    fn validate_final_config(
        &self,
        components: &RuntimeComponents,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.validate_final_config(components, config)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.0.connector_metadata()
    }
}

#[derive(Debug)]
struct Connector(SharedHttpConnector, Interceptions);

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        let (answered, noted) = (self.0.call(request), self.1.clone());
        HttpConnectorFuture::new(async move { whole(answered.await?, operation, &noted).await })
    }
}

/// Reads an answer to its end, and checks it.
async fn whole(
    mut response: HttpResponse,
    operation: String,
    noted: &Interceptions,
) -> Result<HttpResponse, ConnectorError> {
    let body = std::mem::replace(response.body_mut(), SdkBody::taken());
    let body = ByteStream::new(body).collect().await.map_err(|error| ConnectorError::io(error.into()))?;
    let body = body.into_bytes();
    let status = response.status().as_u16();
    let checksum = response.headers().get(CHECKSUM);
    let names_error = response.headers().get("x-amzn-errortype").is_some();
    let checked = if response.status().is_success() {
        check_success(&operation, checksum, &body)
    } else {
        check_error(names_error, checksum, &body)
    };
    checked.map_err(|what| {
        let error = NotAnAnswer { status, operation, what };
        noted.note(&error);
        // Treated as a broken connection: it may be retried.
        ConnectorError::io(error.into())
    })?;
    *response.body_mut() = SdkBody::from(body);
    Ok(response)
}

/// The members of an answer; a null counts as absent.
type Members<'a> = BTreeMap<Cow<'a, str>, Option<IgnoredAny>>;

fn check_success(operation: &str, checksum: Option<&str>, body: &[u8]) -> Result<(), String> {
    let members = members(body)?;
    let has = |name: &str| members.get(name).is_some_and(Option::is_some);
    let is_proven = check_sum(checksum, body)?;
    if let Some(lacking) = required(operation).iter().find(|name| !has(name)) {
        return Err(format!("it lacks {lacking}"));
    }
    if operation == "DescribeStream" && !lists_shards(body) {
        return Err("it lacks Shards".to_owned());
    }
    if touches_items(operation) && !is_proven && !has("ConsumedCapacity") {
        return Err(format!("it has neither {CHECKSUM} nor the requested ConsumedCapacity"));
    }
    Ok(())
}

fn check_error(names_error: bool, checksum: Option<&str>, body: &[u8]) -> Result<(), String> {
    let members = members(body)?;
    check_sum(checksum, body)?;
    if names_error || ["__type", "code"].iter().any(|name| members.contains_key(*name)) {
        return Ok(());
    }
    Err("it names no error".to_owned())
}

/// The content is never quoted: it may be part of an item.
fn members(body: &[u8]) -> Result<Members<'_>, String> {
    if body.is_empty() {
        return Err("it is empty".to_owned());
    }
    serde_json::from_slice(body).map_err(|_| match std::str::from_utf8(body).map(str::trim_start) {
        Ok(text) if text.starts_with('<') => {
            format!("it is a page that begins {:?}", text.chars().take(EXCERPT).collect::<String>())
        }
        _ => "it is not JSON, or was cut short".to_owned(),
    })
}

/// Whether a checksum proves that this is what the service sent.
fn check_sum(checksum: Option<&str>, body: &[u8]) -> Result<bool, String> {
    match checksum {
        None => Ok(false),
        Some(sum) if sum.trim().parse() == Ok(crc32fast::hash(body)) => Ok(true),
        Some(_) => Err(format!("its {CHECKSUM} does not match its body")),
    }
}

/// What every answer to an operation has.
fn required(operation: &str) -> &'static [&'static str] {
    match operation {
        "GetRecords" => &["Records"],
        "GetShardIterator" => &["ShardIterator"],
        "DescribeStream" => &["StreamDescription"],
        "Query" | "Scan" => &["Items", "Count"],
        "BatchGetItem" => &["Responses", "UnprocessedKeys"],
        "ListTables" => &["TableNames"],
        "DescribeTable" => &["Table"],
        "CreateTable" | "UpdateTable" => &["TableDescription"],
        "DescribeTimeToLive" => &["TimeToLiveDescription"],
        "UpdateTimeToLive" => &["TimeToLiveSpecification"],
        _ => &[],
    }
}

fn lists_shards(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        stream_description: Description,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Description {
        shards: Option<Vec<IgnoredAny>>,
    }
    serde_json::from_slice::<Answer>(body).is_ok_and(|answer| answer.stream_description.shards.is_some())
}

fn touches_items(operation: &str) -> bool {
    let reads = matches!(operation, "GetItem" | "BatchGetItem" | "Query" | "Scan");
    reads || matches!(operation, "PutItem" | "UpdateItem" | "DeleteItem")
}

/// Requests, for each call that reads or writes items, the capacity that it took.
#[derive(Debug)]
pub(crate) struct AskForProof;

impl Intercept for AskForProof {
    fn name(&self) -> &'static str {
        "AskForProof"
    }

    fn modify_before_serialization(
        &self,
        context: &mut BeforeSerializationInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let input = context.input_mut();
        macro_rules! ask {
            ($($kind:ty),*) => {
                $(if let Some(input) = input.downcast_mut::<$kind>() {
                    input.return_consumed_capacity.get_or_insert(ReturnConsumedCapacity::Total);
                })*
            };
        }
        ask!(GetItemInput, BatchGetItemInput, QueryInput, ScanInput);
        ask!(PutItemInput, UpdateItemInput, DeleteItemInput);
        Ok(())
    }
}

/// Records whether an answer came with its checksum: then it is the service's own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summed(Arc<AtomicBool>);

impl Summed {
    pub(crate) fn is_summed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Intercept for Summed {
    fn name(&self) -> &'static str {
        "Summed"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.store(context.response().headers().contains_key(CHECKSUM), Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: &str = r#"{"ConsumedCapacity":{"TableName":"orders","CapacityUnits":1.0}}"#;

    fn success(operation: &str, body: &str) -> Result<(), String> {
        check_success(operation, None, body.as_bytes())
    }

    #[test]
    fn what_a_gateway_says_is_no_answer() {
        for operation in [
            "GetRecords",
            "GetShardIterator",
            "DescribeStream",
            "Query",
            "Scan",
            "BatchGetItem",
            "GetItem",
            "PutItem",
            "UpdateItem",
            "DeleteItem",
            "ListTables",
            "DescribeTable",
            "CreateTable",
            "UpdateTable",
            "DescribeTimeToLive",
            "UpdateTimeToLive",
        ] {
            for body in ["", "{}", "[]", "null", "OK", "<html></html>", r#"{"message":null}"#] {
                assert!(success(operation, body).is_err(), "{operation}: {body}");
            }
        }
        for (operation, body) in [
            ("GetRecords", r#"{"Records":null}"#),
            ("GetRecords", r#"{"Records":[]"#),
            ("DescribeStream", r#"{"StreamDescription":{}}"#),
            ("Scan", r#"{"Items":[],"Count":0,"ScannedCount":0}"#),
            ("BatchGetItem", r#"{"Responses":{},"ConsumedCapacity":[]}"#),
        ] {
            assert!(success(operation, body).is_err(), "{operation}: {body}");
        }
    }

    #[test]
    fn what_the_service_says_is_an_answer() {
        for (operation, body) in [
            ("GetRecords", r#"{"Records":[]}"#),
            ("GetRecords", r#"{"Records":[{"dynamodb":{}}],"NextShardIterator":"next"}"#),
            ("GetShardIterator", r#"{"ShardIterator":"here"}"#),
            ("DescribeStream", r#"{"StreamDescription":{"Shards":[]}}"#),
            ("Scan", r#"{"Items":[],"Count":0,"ConsumedCapacity":{"CapacityUnits":0.5}}"#),
            ("PutItem", CAPACITY),
            ("UpdateItem", CAPACITY),
            ("GetItem", CAPACITY),
        ] {
            assert_eq!(success(operation, body), Ok(()), "{operation}: {body}");
        }
        // By its checksum.
        assert_eq!(check_success("PutItem", Some("2745614147"), b"{}"), Ok(()));
    }

    #[test]
    fn an_answer_that_its_checksum_does_not_fit_is_none() {
        for body in ["{}", CAPACITY] {
            let checked = check_success("PutItem", Some("1"), body.as_bytes());
            assert_eq!(checked, Err("its x-amz-crc32 does not match its body".to_owned()));
        }
    }

    #[test]
    fn an_error_names_its_kind() {
        let error = |body: &str| check_error(false, None, body.as_bytes());
        assert_eq!(error(r#"{"__type":"com.amazonaws.dynamodb.v20120810#ValidationException"}"#), Ok(()));
        assert_eq!(check_error(true, None, br#"{"message":"no"}"#), Ok(()));
        assert_eq!(error(r#"{"message":"Forbidden"}"#), Err("it names no error".to_owned()));
        let page = error("\n<html><title>502 Bad Gateway</title></html>");
        let begins = "it is a page that begins \"<html><title>502 Bad Gateway</title></html>\"";
        assert_eq!(page, Err(begins.to_owned()));
    }

    #[test]
    fn what_may_be_a_part_of_an_item_is_not_told() {
        let cut = success("GetItem", r#"{"Item":{"secret":{"S":"x"#);
        assert_eq!(cut, Err("it is not JSON, or was cut short".to_owned()));
    }
}
