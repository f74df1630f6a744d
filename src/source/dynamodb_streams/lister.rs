//! Lists a stream's shards.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodbstreams::Client;
use aws_sdk_dynamodbstreams::types::{Shard, StreamStatus};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::warn;

use super::service_clock::ServiceClock;
use crate::answer::Summed;
use crate::fault::{Fault, persist};
use crate::source::{Lineage, ShardId};

/// How often to look for new shards; also done when a reader reaches a shard's end.
const DISCOVERY: Duration = Duration::from_secs(15);
/// The least time between two requested lists.
const AGAIN: Duration = Duration::from_secs(1);
/// The least time between two calls: DescribeStream allows 10 a second, over all its users, and every attempt
/// counts.
const PAUSE: Duration = Duration::from_millis(250);

/// Keeps the list of a stream's shards fresh until nobody looks at it any more; `look` requests a refresh
/// ahead of time.
pub(super) async fn list(
    client: Client,
    stream_arn: String,
    look: Arc<Notify>,
    lineage: watch::Sender<Option<Lineage>>,
) {
    loop {
        let began = Instant::now();
        let next = began + DISCOVERY;
        match list_once(&client, &stream_arn).await {
            Ok(found) => _ = lineage.send_replace(Some(found)),
            Err(fault) => warn!(%fault, "can't list the shards of the local stream"),
        }
        let again = async {
            look.notified().await;
            tokio::time::sleep_until(began + AGAIN).await;
        };
        tokio::select! {
            biased;
            () = lineage.closed() => return,
            () = again => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// Lists a stream's shards; fails only if retrying is useless.
pub async fn list_once(client: &Client, stream_arn: &str) -> Result<Lineage, Fault> {
    let asked = Instant::now();
    let (mut shards, mut ended) = (Vec::new(), BTreeSet::new());
    let mut last = None;
    let (clock, summed) = (ServiceClock::default(), Summed::default());
    loop {
        let call = || async {
            tokio::time::sleep(PAUSE).await;
            let request = client.describe_stream().stream_arn(stream_arn);
            let request = request.set_exclusive_start_shard_id(last.clone());
            let request = request.customize().interceptor(clock.clone()).interceptor(summed.clone());
            let answer = request.send().await?;
            Ok::<_, Fault>(answer.stream_description)
        };
        let described =
            persist(call, |fault| warn!(%fault, "can't list the shards of the local stream; retrying"));
        let Some(description) = described.await? else { continue };
        last = description.last_evaluated_shard_id;
        let is_off = description.stream_status == Some(StreamStatus::Disabled);
        for Shard { shard_id, parent_shard_id, sequence_number_range, .. } in
            description.shards.unwrap_or_default()
        {
            let Some(id) = shard_id.map(|id| ShardId(id.into())) else { continue };
            if is_off || sequence_number_range.is_some_and(|range| range.ending_sequence_number.is_some()) {
                ended.insert(id.clone());
            }
            shards.push((id, parent_shard_id.map(|parent| ShardId(parent.into()))));
        }
        if last.is_none() {
            let mut lineage: Lineage = shards.into_iter().collect();
            lineage.ended = ended;
            lineage.asked = asked;
            lineage.listed_millis = clock.millis();
            lineage.is_summed = summed.is_summed();
            return Ok(lineage);
        }
    }
}
