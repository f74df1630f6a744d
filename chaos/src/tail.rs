//! Reads a region's stream, past all faults, from its beginning to its end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::Result;
use crate::faults::TABLE;
use crate::history::{Image, KEY, Seen};
use crate::wire::Wire;

const POLL: Duration = Duration::from_millis(60);
/// How many reads in a row find nothing at the end.
const EMPTY_READS: u32 = 3;
/// How long a stream may stay unreadable, or go on, at the end.
const PATIENCE: Duration = Duration::from_secs(20);

/// One region's reader.
#[derive(Debug)]
pub struct Tail {
    pub region: usize,
    pub wire: Wire,
    pub skew_seconds: u32,
    pub began: Instant,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    /// No more is being written: the end is the end.
    pub over: Arc<AtomicBool>,
}

impl Tail {
    /// Reads until it is over and nothing more comes: true, or false where it goes on and on. Says why
    /// where the stream can't be read.
    pub async fn run(self) -> Result<bool> {
        let body = json!({ "TableName": TABLE });
        let table = self.wire.call("DescribeTable", &body).await?;
        let stream = table["Table"]["LatestStreamArn"].clone();
        // Where each shard was read to, and how it goes on.
        let mut shards: BTreeMap<String, (Option<String>, Option<Value>)> = BTreeMap::new();
        let (mut empty, mut bad_since, mut over_since) = (0, None, None);
        while !self.over.load(Ordering::Relaxed) || empty < EMPTY_READS {
            if self.over.load(Ordering::Relaxed)
                && over_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE
                && bad_since.is_none()
            {
                return Ok(false);
            }
            match self.round(&stream, &mut shards).await {
                Ok(found) => {
                    bad_since = None;
                    empty = if found { 0 } else { empty + 1 };
                }
                Err(error) => {
                    empty = 0;
                    // Iterators end with the server that gave them.
                    for (_, iterator) in shards.values_mut() {
                        *iterator = None;
                    }
                    let since: Instant = *bad_since.get_or_insert_with(Instant::now);
                    if self.over.load(Ordering::Relaxed) && since.elapsed() > PATIENCE {
                        return Err(error);
                    }
                }
            }
            sleep(POLL).await;
        }
        Ok(true)
    }

    async fn round(
        &self,
        stream: &Value,
        shards: &mut BTreeMap<String, (Option<String>, Option<Value>)>,
    ) -> Result<bool> {
        if shards.is_empty() {
            let answer = self.wire.streams("DescribeStream", &json!({ "StreamArn": stream })).await?;
            for shard in answer["StreamDescription"]["Shards"].as_array().into_iter().flatten() {
                shards.insert(shard["ShardId"].as_str().unwrap_or_default().to_owned(), (None, None));
            }
        }
        let mut found = false;
        for (shard, (position, iterator)) in shards {
            if iterator.is_none() {
                let mut body =
                    json!({ "StreamArn": stream, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON" });
                if let Some(position) = position {
                    body["ShardIteratorType"] = "AFTER_SEQUENCE_NUMBER".into();
                    body["SequenceNumber"] = position.as_str().into();
                }
                *iterator = Some(self.wire.streams("GetShardIterator", &body).await?["ShardIterator"].take());
            }
            let mut page = self.wire.streams("GetRecords", &json!({ "ShardIterator": iterator })).await?;
            let records = page["Records"].take();
            let at = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            for record in records.as_array().into_iter().flatten().map(|record| &record["dynamodb"]) {
                found = true;
                *position = record["SequenceNumber"].as_str().map(str::to_owned);
                let image = |name: &str| record[name].as_object().map(Image::of);
                let seen = Seen {
                    region: self.region,
                    key: record["Keys"][KEY]["S"].as_str().unwrap_or_default().to_owned(),
                    at,
                    created: millis(&record["ApproximateCreationDateTime"])
                        + u64::from(self.skew_seconds) * 1000,
                    old: image("OldImage"),
                    new: image("NewImage"),
                };
                self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
            }
            *iterator = Some(page["NextShardIterator"].take()).filter(|next| !next.is_null());
        }
        Ok(found)
    }
}

/// Seconds since 1970, as a number in JSON, in milliseconds.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "times are far below 2^53")]
fn millis(seconds: &Value) -> u64 {
    seconds
        .as_u64()
        .map_or_else(|| (seconds.as_f64().unwrap_or_default() * 1000.0).round() as u64, |s| s * 1000)
}
