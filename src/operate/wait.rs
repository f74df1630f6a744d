//! Waits until peers have all that was written at an origin: read-your-writes across regions.
//!
//! Whoever waits raises the table's barrier in the origin's control table. The agents that read the
//! shards see it, read their shards past the moment at which they saw it, and say in their
//! checkpoints when all of that has been done. It costs one write to raise a barrier, and one a
//! shard and peer.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::warn;

use super::OperateError;
use crate::clock::{moment, wall_millis};
use crate::config::TableConfig;
use crate::control::{ControlTable, Gap, LeaseTable, lease_space};
use crate::fault::{Fault, FaultKind};
use crate::protocol::Origin;
use crate::region::Region;
use crate::schema::{StreamState, describe};
use crate::source::ShardId;
use crate::source::dynamodb_streams::list_once;

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

/// Waits until `peers` have all that was written to a table at `origin` before the call, or until
/// the deadline.
///
/// Peers that have no replica of the table are left out.
pub async fn wait(
    table: &TableConfig,
    origin: &Region,
    peers: &[Origin],
    deadline: Instant,
) -> Result<Vec<Arrival>, OperateError> {
    let physical = table.name_in(&origin.name).unwrap_or(&table.name);
    let at = |table: &str, fault: Fault| OperateError::at(origin, table, fault);
    let control = ControlTable::of(origin);
    let described = describe(origin, physical).await.map_err(|fault| at(physical, fault))?;
    let StreamState::On { arn } = described.stream else {
        let message = "the table has no stream with both images; `tradewind init` tells what to do";
        return Err(at(
            physical,
            Fault { kind: FaultKind::Missing, code: String::new(), message: message.to_owned() },
        ));
    };
    let space = lease_space(&table.name, &arn);
    let barrier = control.raise_barrier(&space).await;
    let barrier = barrier.map_err(|fault| at(&origin.control_table, fault))?;
    let list = || async { list_once(&origin.streams, &arn).await.map_err(|fault| at(physical, fault)) };
    let mut lineage = list().await?;
    let peers: Vec<&Origin> = peers.iter().filter(|peer| table.is_in(peer)).collect();
    let mut told = false;
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let LeaseTable { leases, .. } =
            control.leases(&space).await.map_err(|fault| at(&origin.control_table, fault))?;
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
                origin: origin.name.clone(),
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
            let marks = agreement.map_err(|fault| at(&origin.control_table, fault))?.gaps;
            for arrival in &mut arrivals {
                let concerns = |gap: &&Gap| gap.origin == arrival.origin && gap.peers.contains(&arrival.peer);
                arrival.marks = marks.iter().filter(concerns).cloned().collect();
            }
        }
        if is_complete {
            return Ok(arrivals);
        }
        if is_over || !told {
            let paused = control.crew().await.map_err(|fault| at(&origin.control_table, fault))?.pauses;
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
pub async fn watermarks(
    tables: &[TableConfig],
    regions: &BTreeMap<Origin, Region>,
) -> Result<Vec<Watermark>, OperateError> {
    let mut found = Vec::new();
    for table in tables {
        for peer in table.replicas.iter().filter_map(|(name, _)| regions.get(name)) {
            let seen = ControlTable::of(peer).watermarks(&table.name).await;
            let seen = seen.map_err(|fault| OperateError::at(peer, &peer.control_table, fault))?;
            for (origin, _) in table.replicas.iter().filter(|(name, _)| *name != peer.name) {
                let millis = Some(seen.arrived.get(origin).millis()).filter(|millis| *millis > 0);
                let (table, origin, peer) = (table.name.clone(), origin.clone(), peer.name.clone());
                found.push(Watermark { table, origin, peer, millis });
            }
        }
    }
    Ok(found)
}
