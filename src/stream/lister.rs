//! Lists a stream's shards and their lineage.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodbstreams::Client;
use aws_sdk_dynamodbstreams::types::{Shard, StreamStatus};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::warn;

use super::ShardId;
use super::service_clock::ServiceClock;
use crate::fault::{Fault, persist};

/// How often to look for new shards; also done when a reader reaches a shard's end.
const DISCOVERY: Duration = Duration::from_secs(15);
/// The least time between two requested lists.
const AGAIN: Duration = Duration::from_secs(1);
/// The least time between two calls: DescribeStream allows 10 a second, over all its users, and every attempt
/// counts.
const PAUSE: Duration = Duration::from_millis(250);

/// The shards of a stream, each with its parent, if that is still listed.
#[derive(Clone, Debug)]
pub struct Lineage {
    parents: BTreeMap<ShardId, Option<ShardId>>,
    /// The parents that the list names, whether listed themselves or not.
    named: BTreeMap<ShardId, ShardId>,
    /// The shards with children.
    with_children: BTreeSet<ShardId>,
    /// The shards with an ending sequence number; all, if the stream is turned off.
    ended: BTreeSet<ShardId>,
    /// When the list was requested.
    pub asked: Instant,
    /// When the list was answered, by the service's own clock, in milliseconds since the Unix epoch.
    pub listed_millis: Option<u64>,
}

impl Lineage {
    pub fn contains(&self, shard: &ShardId) -> bool {
        self.parents.contains_key(shard)
    }

    pub fn shards(&self) -> impl Iterator<Item = &ShardId> {
        self.parents.keys()
    }

    pub fn parent(&self, shard: &ShardId) -> Option<&ShardId> {
        self.parents.get(shard)?.as_ref()
    }

    /// The shard's parent as the list names it, whether listed or not: it may be trimmed, or the list may
    /// miss it.
    pub fn named_parent(&self, shard: &ShardId) -> Option<&ShardId> {
        self.named.get(shard)
    }

    /// Whether nothing can be added to the shard any more. Some servers say so of every shard.
    pub(super) fn has_ended(&self, shard: &ShardId) -> bool {
        self.ended.contains(shard) || self.has_children(shard)
    }

    /// Whether the shard has children.
    pub fn has_children(&self, shard: &ShardId) -> bool {
        self.with_children.contains(shard)
    }
}

impl FromIterator<(ShardId, Option<ShardId>)> for Lineage {
    fn from_iter<T: IntoIterator<Item = (ShardId, Option<ShardId>)>>(shards: T) -> Self {
        let mut all: BTreeMap<_, _> = shards.into_iter().collect();
        let listed: Vec<ShardId> = all.keys().cloned().collect();
        let named = all.iter().filter_map(|(shard, parent)| Some((shard.clone(), parent.clone()?))).collect();
        for parent in all.values_mut() {
            if parent.as_ref().is_some_and(|parent| listed.binary_search(parent).is_err()) {
                *parent = None;
            }
        }
        let with_children = all.values().flatten().cloned().collect();
        let ended = BTreeSet::new();
        Self { parents: all, named, with_children, ended, asked: Instant::now(), listed_millis: None }
    }
}

/// Keeps the list of a stream's shards fresh until nobody looks at it any more; `look` requests a refresh
/// ahead of time.
pub async fn list(
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
            Err(fault) => warn!(%fault, "the shards of the local stream can't be listed"),
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
    let clock = ServiceClock::default();
    loop {
        let call = || async {
            tokio::time::sleep(PAUSE).await;
            let request = client.describe_stream().stream_arn(stream_arn);
            let request = request.set_exclusive_start_shard_id(last.clone());
            let answer = request.customize().interceptor(clock.clone()).send().await?;
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
            return Ok(lineage);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(name: &str) -> ShardId {
        ShardId(name.into())
    }

    #[test]
    fn a_parent_counts_only_while_it_is_listed() {
        let lineage: Lineage = [("c", Some("b")), ("b", Some("a")), ("a", Some("gone")), ("d", None)]
            .into_iter()
            .map(|(name, parent)| (shard(name), parent.map(shard)))
            .collect();
        assert_eq!(lineage.parent(&shard("c")), Some(&shard("b")));
        assert_eq!(
            (lineage.parent(&shard("a")), lineage.named_parent(&shard("a"))),
            (None, Some(&shard("gone")))
        );
        assert!(lineage.has_children(&shard("b")) && !lineage.has_children(&shard("c")));
    }
}
