//! The services' own clocks, as their streams show them.

use aws_sdk_dynamodbstreams::types::{Record, ShardIteratorType};
use tradewind::protocol::Item;

use crate::items::{item, key, n, s};
use crate::world::{World, eventually};

impl World {
    /// When, by a region's own service, the changes of a key were made, in milliseconds.
    pub(crate) async fn creation_times(&self, region: usize, key: &Item) -> Vec<i64> {
        let key = format!("{key:?}");
        let records = self.records(region).await.into_iter();
        let body = records.filter_map(|record| record.dynamodb);
        // The two services' SDKs have an attribute type each, which print alike.
        let of_key = body.filter(|body| format!("{:?}", body.keys.as_ref().expect("keys")) == key);
        let times = of_key.map(|body| body.approximate_creation_date_time.expect("a time"));
        times.map(|time| time.to_millis().expect("a time of our era")).collect()
    }

    /// Writes to a key of its own until a region's clock shows a later time.
    pub(crate) async fn await_time_after(&self, region: usize, millis: i64) {
        let probe = || async move {
            let count = fastrand::Rng::new().u64(..);
            self.put(region, item([("pk", s("probe")), ("count", n(count))])).await;
            self.creation_times(region, &key("probe")).await.last().copied()
        };
        eventually("a later creation time", probe, |time| time.is_some_and(|time| time > millis)).await;
    }

    /// All records of a region's stream.
    pub(crate) async fn records(&self, region: usize) -> Vec<Record> {
        let table = self.app(region).describe_table().table_name(&self.table).send().await;
        let arn = table.expect("a description").table.and_then(|table| table.latest_stream_arn);
        let arn = arn.expect("a stream");
        let streams = self.streams(region);
        let described = streams.describe_stream().stream_arn(&arn).send().await.expect("a stream");
        let mut records = Vec::new();
        for shard in described.stream_description.and_then(|stream| stream.shards).unwrap_or_default() {
            let first = streams
                .get_shard_iterator()
                .stream_arn(&arn)
                .shard_id(shard.shard_id.expect("a shard's name"))
                .shard_iterator_type(ShardIteratorType::TrimHorizon);
            let mut next = first.send().await.expect("an iterator").shard_iterator;
            while let Some(iterator) = next {
                let page = streams.get_records().shard_iterator(iterator).send().await.expect("records");
                let found = page.records.unwrap_or_default();
                next = page.next_shard_iterator.filter(|_| !found.is_empty());
                records.extend(found);
            }
        }
        records
    }
}
