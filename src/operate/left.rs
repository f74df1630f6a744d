//! What a region's stream holds that has not been replicated, while none of its agents runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::PhysicalReplica;
use crate::config::{TableConfig, Tuning};
use crate::contained::joined;
use crate::control::{Lease, LeaseTable, lease_space, stream_label};
use crate::destination::Destination;
use crate::fault::Fault;
use crate::protocol::{Action, KeyMemory, Origin};
use crate::schema::StreamState;
use crate::source::dynamodb_streams::{Pacer, Stream, list_once};
use crate::source::{Change, Lineage, Position, ShardId, Source, StreamEvent};

/// This many empty pages in a row count as the end of what an open shard holds.
const TIP_PAGES: u32 = 8;

/// What is left of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Left {
    pub table: String,
    /// Applications' writes in the stream that some peer lacks.
    pub writes: u64,
    /// Records were trimmed before they were replicated, there is no stream, or it is not the same stream as
    /// before: what is missing is unknown.
    pub unknown: bool,
}

/// Reads the stream of one replica, from its checkpoints on.
pub(super) async fn left(replica: &PhysicalReplica, tuning: &Tuning) -> Result<Left, Fault> {
    let (region, table) = (&replica.region, &replica.table);
    let mut left = Left { table: table.name.clone(), ..Left::default() };
    let StreamState::On { arn } = replica.describe().await?.stream else {
        left.unknown = true;
        return Ok(left);
    };
    let control = replica.control();
    let known = control.table_streams(&table.name).await?;
    let LeaseTable { leases, .. } = control.leases(&lease_space(&table.name, &arn)).await?;
    let lineage = list_once(&region.streams, &arn).await?;
    let peers: Vec<Destination> = replica.peers().into_iter().map(Destination::Peer).collect();
    let kept = u64::try_from(tuning.stream_retention.as_millis()).unwrap_or(u64::MAX);
    let trimmed_to = lineage.listed_millis.unwrap_or_default().saturating_sub(kept);
    // A shard that is gone, and was not finished.
    let gone = leases.values().filter(|lease| !lineage.contains(&lease.shard));
    left.unknown = gone.flat_map(|lease| peers.iter().map(move |peer| (lease, peer))).any(|(lease, peer)| {
        !lease.is_done_for(peer) && lease.checkpoints.get(peer).is_none_or(|at| at.millis < trimmed_to)
    });
    let begins_late = |lease: &Lease| peers.iter().any(|peer| begins_late(lease, &leases, peer, trimmed_to));
    left.unknown |= leases.values().any(begins_late);
    // The stream is not the one that agents have read, or they have not read the previous one to its end.
    let (now, before): (Vec<_>, Vec<_>) =
        known.into_iter().partition(|stream| stream.label() == stream_label(&arn));
    left.unknown |= before.iter().any(|stream| now.is_empty() || !stream.is_done);
    let (client, pacer) =
        (region.streams.clone(), Arc::new(Pacer::new(tuning.poll_interval, tuning.idle_poll_interval)));
    let stream = Stream::listed(client, arn, pacer, lineage.clone());
    let mut reads = JoinSet::new();
    for shard in unfinished(&lineage, &leases, &peers) {
        let reading = ShardReading {
            stream: stream.clone(),
            origin: region.name.clone(),
            peers: peers.clone(),
            table: Arc::clone(table),
            lease: leases.get(&shard).cloned(),
            shard,
            trimmed_to,
        };
        reads.spawn(reading.run());
    }
    while let Some(read) = reads.join_next().await {
        let (writes, unknown) = joined(read);
        left.writes += writes;
        left.unknown |= unknown;
    }
    Ok(left)
}

/// The shards of which some peer may lack something.
fn unfinished(lineage: &Lineage, leases: &BTreeMap<ShardId, Lease>, peers: &[Destination]) -> Vec<ShardId> {
    let done = |shard: &&ShardId| {
        leases.get(*shard).is_some_and(|lease| peers.iter().all(|peer| lease.is_done_for(peer)))
    };
    lineage.shards().filter(|shard| !done(shard)).cloned().collect()
}

/// Whether a peer that has nothing of a shard yet lacks writes to it that are trimmed.
fn begins_late(
    lease: &Lease,
    leases: &BTreeMap<ShardId, Lease>,
    peer: &Destination,
    trimmed_to: u64,
) -> bool {
    let parent = lease.parent.as_ref().and_then(|parent| leases.get(parent)?.checkpoints.get(peer));
    let expected = match lease.checkpoints.get(peer) {
        Some(own) if own.done != Position::TrimHorizon => return false,
        own => own.or(parent).map(|at| at.millis).filter(|millis| *millis > 0),
    };
    (1..trimmed_to).contains(&expected.unwrap_or(lease.made_millis))
}

/// One shard, read as by an agent that continues from its lease.
struct ShardReading {
    stream: Stream,
    origin: Origin,
    peers: Vec<Destination>,
    table: Arc<TableConfig>,
    shard: ShardId,
    lease: Option<Lease>,
    /// What was created before this is trimmed, in milliseconds.
    trimmed_to: u64,
}

impl ShardReading {
    /// Counts the writes that are left; and whether there may be more.
    async fn run(self) -> (u64, bool) {
        let checkpoints =
            |peer: &Destination| self.lease.as_ref().and_then(|lease| lease.checkpoints.get(peer));
        let done: BTreeMap<&Destination, Position> = self
            .peers
            .iter()
            .map(|peer| (peer, checkpoints(peer).map_or(Position::TrimHorizon, |at| at.done.clone())))
            .collect();
        let rewind = self.peers.iter().map(|peer| {
            let rewind = checkpoints(peer).and_then(|at| at.rewind.get(&self.shard));
            rewind.cloned().unwrap_or(Position::TrimHorizon)
        });
        let start = rewind.min().unwrap_or(Position::TrimHorizon);
        let floors =
            self.peers.iter().map(|peer| checkpoints(peer).map(|at| at.floors.clone()).unwrap_or_default());
        let floors = floors.reduce(|a, b| a.meet(&b)).unwrap_or_default();
        let known = self.peers.iter().map(|peer| checkpoints(peer).map_or(0, |at| at.millis)).min();
        let since = self.lease.as_ref().map_or(0, |lease| lease.since_millis);
        let (events, mut incoming) = mpsc::channel(4);
        let reader = tokio::spawn(self.stream.clone().read(vec![(self.shard.clone(), start)], events));
        let mut memory = KeyMemory::new(self.origin.clone());
        let (mut writes, mut unknown, mut ordinal, mut empty) = (0, false, 0, 0);
        while let Some(event) = incoming.recv().await {
            let page = match event {
                StreamEvent::Page(page) => page,
                StreamEvent::Trimmed { .. } => {
                    unknown |= known.unwrap_or_default() < self.trimmed_to;
                    continue;
                }
                StreamEvent::Unreadable { record, .. } => {
                    let is_done =
                        |done: &Position| record.sequence.as_ref().is_some_and(|at| done.covers(at));
                    unknown |= !done.values().all(is_done);
                    continue;
                }
                StreamEvent::Failed => continue,
            };
            empty = if page.records.is_empty() { empty + 1 } else { 0 };
            for Change { sequence, record, .. } in page.records {
                let acts = record.created_millis >= since;
                let lacking = self
                    .peers
                    .iter()
                    .filter(|peer| done.get(peer).is_none_or(|done| !done.covers(&sequence)));
                let lacking: Vec<&Destination> = lacking.collect();
                let judgement = memory.judge(ordinal, record, &floors, false);
                ordinal += 1;
                if acts && judgement.actions.iter().any(|action| self.is_for(action, &lacking)) {
                    writes += 1;
                }
            }
            if page.closed || empty >= TIP_PAGES {
                break;
            }
        }
        reader.abort();
        (writes, unknown)
    }

    /// Whether an action applies to one of these peers.
    fn is_for(&self, action: &Action, peers: &[&Destination]) -> bool {
        let Action::Push(write) = action else { return false };
        let mut peers = peers.iter().filter_map(|peer| peer.peer());
        peers.any(|peer| self.table.selections.view(&self.origin, peer, write).is_some())
    }
}
