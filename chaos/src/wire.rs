//! Requests to an endpoint, as JSON, without the SDK: nothing is retried, and nothing translated.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Map, Value, json};
use url::Url;

use crate::Result;
use crate::history::{Image, KEY};

/// The credentials of everyone. No engine here checks a signature.
pub const ACCESS_KEY: &str = "tradewind";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// One region, past all faults.
#[derive(Clone, Debug)]
pub struct Wire {
    endpoint: String,
    authorization: String,
    client: Client<HttpConnector, Body>,
}

/// What the service would not do, in its own words.
#[derive(Debug)]
pub struct Refusal(pub String);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

impl Wire {
    pub fn to(endpoint: &Url, aws_region: &str) -> Self {
        Self {
            endpoint: endpoint.to_string(),
            authorization: format!(
                "AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20260101/{aws_region}/dynamodb/aws4_request, SignedHeaders=host, Signature=0"
            ),
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// Calls an operation of DynamoDB.
    pub async fn call(&self, operation: &str, body: &Value) -> Result<Value> {
        self.send(&format!("DynamoDB_20120810.{operation}"), body).await
    }

    /// Calls an operation of its streams.
    pub async fn streams(&self, operation: &str, body: &Value) -> Result<Value> {
        self.send(&format!("DynamoDBStreams_20120810.{operation}"), body).await
    }

    async fn send(&self, target: &str, body: &Value) -> Result<Value> {
        let request = Request::post(&self.endpoint)
            .header("content-type", "application/x-amz-json-1.0")
            .header("x-amz-target", target)
            .header("x-amz-date", "20260101T000000Z")
            .header("authorization", &self.authorization)
            .body(Body::from(body.to_string()))?;
        let exchange = async {
            let answer = self.client.request(request).await?;
            let status = answer.status();
            let body = to_bytes(Body::new(answer.into_body()), usize::MAX).await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((status, body))
        };
        let (status, body) = tokio::time::timeout(PATIENCE, exchange).await??;
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() {
            return Ok(value);
        }
        let kind = value["__type"].as_str().and_then(|kind| kind.rsplit('#').next()).unwrap_or("?");
        let message = value["message"].as_str().or(value["Message"].as_str()).unwrap_or_default();
        Err(Refusal(format!("{target}: {status} {kind} {message}")).into())
    }

    /// Makes a table with the stream that replication needs.
    pub async fn make_table(&self, table: &str) -> Result<()> {
        let body = json!({
            "TableName": table,
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [{ "AttributeName": KEY, "AttributeType": "S" }],
            "KeySchema": [{ "AttributeName": KEY, "KeyType": "HASH" }],
            "StreamSpecification": { "StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES" },
        });
        self.call("CreateTable", &body).await.map(|_| ())
    }

    pub async fn get(&self, table: &str, key: &str) -> Result<Option<Map<String, Value>>> {
        let body = json!({ "TableName": table, "Key": { KEY: { "S": key } }, "ConsistentRead": true });
        let mut answer = self.call("GetItem", &body).await?;
        Ok(match answer["Item"].take() {
            Value::Object(item) => Some(item),
            _ => None,
        })
    }

    /// All that a table holds.
    pub async fn scan(&self, table: &str) -> Result<std::collections::BTreeMap<String, Image>> {
        let mut items = std::collections::BTreeMap::new();
        let mut body = json!({ "TableName": table, "ConsistentRead": true });
        loop {
            let answer = self.call("Scan", &body).await?;
            for item in answer["Items"].as_array().into_iter().flatten().filter_map(Value::as_object) {
                let key = item.get(KEY).and_then(|key| key["S"].as_str()).unwrap_or_default();
                items.insert(key.to_owned(), Image::of(item));
            }
            match &answer["LastEvaluatedKey"] {
                Value::Null => return Ok(items),
                last => body["ExclusiveStartKey"] = last.clone(),
            }
        }
    }
}
