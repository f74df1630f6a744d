//! The tip of a stream, watched for a moment.

use aws_sdk_dynamodbstreams::Client;
use aws_sdk_dynamodbstreams::types::ShardIteratorType;

use super::record::convert;
use crate::fault::Fault;
use crate::protocol::Record;
use crate::source::ShardId;

/// A position at the tip of some shards: whatever is written to them afterwards is seen.
#[derive(Debug)]
pub struct Tip {
    client: Client,
    iterators: Vec<(ShardId, String)>,
}

impl Tip {
    pub async fn stand(client: &Client, stream_arn: &str, shards: &[ShardId]) -> Result<Self, Fault> {
        let mut iterators = Vec::new();
        for shard in shards {
            let get = client.get_shard_iterator().stream_arn(stream_arn).shard_id(&*shard.0);
            let answer = get.shard_iterator_type(ShardIteratorType::Latest).send().await?;
            iterators.extend(answer.shard_iterator.map(|iterator| (shard.clone(), iterator)));
        }
        Ok(Self { client: client.clone(), iterators })
    }

    /// The records that have arrived since the last call, each with its shard. Unreadable records are
    /// skipped.
    pub async fn look(&mut self) -> Result<Vec<(ShardId, Record)>, Fault> {
        let mut seen = Vec::new();
        for (shard, iterator) in std::mem::take(&mut self.iterators) {
            let page = self.client.get_records().shard_iterator(iterator).send().await?;
            let records =
                page.records.unwrap_or_default().into_iter().filter_map(|record| convert(record).ok());
            seen.extend(records.map(|change| (shard.clone(), change.record)));
            self.iterators.extend(page.next_shard_iterator.map(|next| (shard, next)));
        }
        Ok(seen)
    }

    /// Whether all of the shards have ended.
    pub fn is_over(&self) -> bool {
        self.iterators.is_empty()
    }
}
