//! Waits until peers have all that was written at an origin: read-your-writes across regions.
//!
//! Whoever waits raises the table's barrier in the origin's control table. The agents that read the
//! shards see it, read their shards past the moment at which they saw it, and say in their
//! checkpoints when all of that has been done. It costs one write to raise a barrier, and one a
//! shard and peer.

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::warn;

use super::{OperateError, PhysicalReplica, TableReplicas};
use crate::control::{Gap, LeaseTable, lease_space};
use crate::lag::{moment, wall_millis};
use crate::protocol::Origin;
use crate::stream::{ShardId, list_once};

/// How often the leases are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// How far a table's writes have got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Arrival {
    pub table: String,
    pub origin: Origin,
    pub peer: Origin,
    /// The shards that the origin's stream had.
    pub shards: usize,
    /// Those of which the peer has all that was written before.
    pub arrived: usize,
    /// Nothing is written to the peer until then, in milliseconds since the Unix epoch, since an
    /// operator has paused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_until: Option<u64>,
    /// The table's marks: writes that may be missing at the peer though all that was read has arrived.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<Gap>,
}

impl Arrival {
    /// Whether the peer has all that the stream has shown of it.
    pub fn is_complete(&self) -> bool {
        self.arrived == self.shards
    }
}

/// Waits until `peers` have all that was written to an origin's replica before the call, or until the
/// deadline.
///
/// Peers that have no replica of the table are left out.
pub async fn wait(
    origin: &PhysicalReplica,
    peers: &[Origin],
    deadline: Instant,
) -> Result<Vec<Arrival>, OperateError> {
    let (table, control) = (&origin.table, origin.control());
    let arn = origin.stream().await?;
    let space = lease_space(&table.name, &arn);
    let barrier = control.raise_barrier(&space).await.map_err(|fault| origin.at_control(fault))?;
    let list = || async { list_once(&origin.region.streams, &arn).await.map_err(|fault| origin.at(fault)) };
    let mut lineage = list().await?;
    let peers: Vec<&Origin> = peers.iter().filter(|peer| table.is_in(peer)).collect();
    let mut told = false;
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let LeaseTable { leases, .. } =
            control.leases(&space).await.map_err(|fault| origin.at_control(fault))?;
        // What was written before the barrier may be in a child that was not listed yet.
        let has_ended = |shard: &ShardId| {
            leases.get(shard).is_some_and(|lease| peers.iter().all(|peer| lease.is_done_for(peer)))
        };
        if lineage.shards().any(|shard| has_ended(shard) && !lineage.has_children(shard)) {
            lineage = list().await?;
        }
        let mut arrivals: Vec<Arrival> = peers
            .iter()
            .map(|peer| Arrival {
                table: table.name.clone(),
                origin: origin.region.name.clone(),
                peer: (*peer).clone(),
                shards: lineage.shards().count(),
                arrived: lineage
                    .shards()
                    .filter_map(|shard| leases.get(shard))
                    .filter(|lease| {
                        let has_heirs = lineage.has_children(&lease.shard);
                        lease.has_passed(barrier, peer) && (has_heirs || !lease.is_done_for(peer))
                    })
                    .count(),
                paused_until: None,
                marks: Vec::new(),
            })
            .collect();
        let is_complete = arrivals.iter().all(Arrival::is_complete);
        let is_over = Instant::now() >= deadline;
        if is_complete || is_over {
            // A mark is made before a checkpoint passes what it tells of.
            let agreement = control.agreement(&table.name).await;
            let marks = agreement.map_err(|fault| origin.at_control(fault))?.gaps;
            for arrival in &mut arrivals {
                let concerns = |gap: &&Gap| gap.origin == arrival.origin && gap.peers.contains(&arrival.peer);
                arrival.marks = marks.iter().filter(concerns).cloned().collect();
            }
        }
        if is_complete {
            return Ok(arrivals);
        }
        if is_over || !told {
            let paused = control.crew().await.map_err(|fault| origin.at_control(fault))?.pauses;
            for arrival in arrivals.iter_mut().filter(|arrival| !arrival.is_complete()) {
                arrival.paused_until =
                    paused.get(&arrival.peer).copied().filter(|until| *until > wall_millis());
                if !told && let Some(until) = arrival.paused_until {
                    let (Arrival { table, origin, peer, .. }, until) = (&*arrival, moment(until));
                    warn!(%origin, %peer, table, %until, "the peer is paused: `tradewind resume` lets the writes go on");
                }
            }
            told = true;
        }
        if is_over {
            return Ok(arrivals);
        }
    }
}

/// The watermark of one origin at one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Watermark {
    pub table: String,
    pub origin: Origin,
    pub peer: Origin,
    /// Every write made at the origin before this is at the peer: milliseconds since the Unix
    /// epoch, by the origin's own clock. None, if the origin's agents have told nothing yet.
    pub millis: Option<u64>,
}

/// The watermarks of each origin at each peer.
pub async fn watermarks(tables: &[TableReplicas]) -> Result<Vec<Watermark>, OperateError> {
    watermarks_at(tables.iter().flat_map(|table| &table.replicas)).await
}

/// The watermarks of each origin at some peers.
pub(super) async fn watermarks_at<'a>(
    peers: impl Iterator<Item = &'a PhysicalReplica>,
) -> Result<Vec<Watermark>, OperateError> {
    let mut found = Vec::new();
    for peer in peers {
        let table = &peer.table.name;
        let seen = peer.control().watermarks(table).await.map_err(|fault| peer.at_control(fault))?;
        for origin in peer.peers() {
            let millis = Some(seen.arrived.get(&origin).millis()).filter(|millis| *millis > 0);
            let (table, peer) = (table.clone(), peer.region.name.clone());
            found.push(Watermark { table, origin, peer, millis });
        }
    }
    Ok(found)
}
