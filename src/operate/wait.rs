//! Waits until peers have everything written at an origin: read-your-writes across regions.
//!
//! Whoever waits raises the table's barrier in the origin's control table. The agents that read the shards
//! see it, read their shards past the moment at which they saw it, and record in their checkpoints when all
//! of that is done. A barrier costs one write to raise, and one more per shard and peer.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::warn;

use super::{OperateError, PhysicalReplica, TableReplicas};
use crate::clock::{moment, wall_millis};
use crate::contained::joined;
use crate::control::{Gap, Lease, LeaseTable, lease_space};
use crate::destination::Destination;
use crate::protocol::Origin;
use crate::source::dynamodb_streams::list_once;
use crate::source::{Lineage, ShardId};

/// How often the leases are checked.
const LOOK: Duration = Duration::from_millis(500);

/// The arrival of a table's writes at a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Arrival {
    pub table: String,
    pub origin: Origin,
    pub peer: Origin,
    /// The shards that the origin's stream had.
    pub shards: usize,
    /// Those of which the peer has everything written before.
    pub arrived: usize,
    /// Nothing is written to the peer until then, in milliseconds since the Unix epoch, because an operator
    /// has paused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_until: Option<u64>,
    /// The table's marks: writes that may be missing at the peer though all that was read has arrived.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<Gap>,
}

impl Arrival {
    /// Whether the peer has everything that the stream has shown.
    pub fn is_complete(&self) -> bool {
        self.arrived == self.shards
    }
}

/// Waits until `peers` have everything written to each of the origins' replicas before the call, or until the
/// deadline; `are_over` receives the number of finished waits. The result is sorted, and complete only where
/// it says so.
///
/// Peers without a replica of a table are left out of it. The first fault ends the wait.
pub async fn wait(
    origins: impl IntoIterator<Item = &PhysicalReplica>,
    peers: &[Origin],
    deadline: Instant,
    mut are_over: impl FnMut(u64),
) -> Result<Vec<Arrival>, OperateError> {
    let mut waits = JoinSet::new();
    for origin in origins {
        let (origin, peers) = (origin.clone(), peers.to_vec());
        waits.spawn(async move { wait_for(&origin, &peers, deadline).await });
    }
    let (mut all, mut over) = (Vec::new(), 0);
    while let Some(arrivals) = waits.join_next().await {
        // A wait that panics is a defect; nothing may count as arrived because of it.
        all.extend(joined(arrivals)?);
        over += 1;
        are_over(over);
    }
    all.sort_by(|a: &Arrival, b| (&a.table, &a.origin, &a.peer).cmp(&(&b.table, &b.origin, &b.peer)));
    Ok(all)
}

/// Waits until everything written to a table in any of its regions before the call is in all of them, or
/// until the deadline. That includes a region's own part: a delete mark is applied there.
pub(super) async fn everywhere(
    table: &TableReplicas,
    deadline: Instant,
) -> Result<Vec<Arrival>, OperateError> {
    wait(&table.replicas, &table.regions(), deadline, |_| {}).await
}

/// One look at an origin's shards, and the progress of each.
struct ShardProgress<'a> {
    lineage: &'a Lineage,
    leases: &'a BTreeMap<ShardId, Lease>,
    barrier: u64,
}

impl ShardProgress<'_> {
    /// Whether a shard has ended that has no child yet: what was written before the barrier may be in a
    /// child that was not listed.
    fn lacks_children(&self, peers: &[Destination]) -> bool {
        let has_ended = |shard: &ShardId| {
            self.leases.get(shard).is_some_and(|lease| peers.iter().all(|peer| lease.is_done_for(peer)))
        };
        self.lineage.shards().any(|shard| has_ended(shard) && !self.lineage.has_children(shard))
    }

    fn arrival(&self, origin: &PhysicalReplica, peer: &Destination) -> Arrival {
        let has_passed = |lease: &&Lease| {
            let has_heirs = self.lineage.has_children(&lease.shard);
            lease.has_passed(self.barrier, peer) && (has_heirs || !lease.is_done_for(peer))
        };
        let leases = self.lineage.shards().filter_map(|shard| self.leases.get(shard));
        Arrival {
            table: origin.table.name.clone(),
            origin: origin.region.name.clone(),
            peer: peer.region(&origin.region.name).unwrap_or(&origin.region.name).clone(),
            shards: self.lineage.shards().count(),
            arrived: leases.filter(has_passed).count(),
            paused_until: None,
            marks: Vec::new(),
        }
    }
}

/// The last two lists of a stream's shards: one alone may lack a shard.
struct Lists {
    both: Lineage,
    last: Lineage,
    /// Whether both name the same shards.
    agree: bool,
}

impl Lists {
    fn first(list: Lineage) -> Self {
        Self { both: list.clone(), last: list, agree: false }
    }

    fn next(&mut self, list: Lineage) {
        self.agree = list.shards().eq(self.last.shards());
        self.both = self.last.with(&list);
        self.last = list;
    }
}

/// Waits until `peers` have what was written to one origin's replica, or until the deadline.
async fn wait_for(
    origin: &PhysicalReplica,
    peers: &[Origin],
    deadline: Instant,
) -> Result<Vec<Arrival>, OperateError> {
    let control = origin.control();
    let arn = origin.stream().await?;
    let space = lease_space(&origin.table.name, &arn);
    let barrier = control.raise_barrier(&space).await.map_err(|fault| origin.at_control(fault))?;
    let list = || async { list_once(&origin.region.streams, &arn).await.map_err(|fault| origin.at(fault)) };
    let mut lists = Lists::first(list().await?);
    let peers = peers.iter().filter(|peer| origin.table.is_in(peer));
    let peers: Vec<Destination> = peers.map(|peer| Destination::replica(peer, &origin.region.name)).collect();
    let mut is_told = false;
    let mut ticks = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let LeaseTable { leases, .. } =
            control.leases(&space).await.map_err(|fault| origin.at_control(fault))?;
        let progress = ShardProgress { lineage: &lists.both, leases: &leases, barrier };
        if !lists.agree || progress.lacks_children(&peers) {
            lists.next(list().await?);
        }
        let look = ShardProgress { lineage: &lists.both, leases: &leases, barrier };
        let mut arrivals: Vec<Arrival> = peers.iter().map(|peer| look.arrival(origin, peer)).collect();
        let is_complete = lists.agree && arrivals.iter().all(Arrival::is_complete);
        let is_over = Instant::now() >= deadline;
        if is_complete || is_over {
            note_marks(origin, &mut arrivals).await?;
        }
        if !is_complete && (is_over || !is_told) {
            note_pauses(origin, &mut arrivals, !is_told).await?;
            is_told = true;
        }
        if is_complete || is_over {
            return Ok(arrivals);
        }
    }
}

/// Records the marks that concern each peer. A mark is made before a checkpoint passes the records that it
/// covers, so the marks are read after the checkpoints.
async fn note_marks(origin: &PhysicalReplica, arrivals: &mut [Arrival]) -> Result<(), OperateError> {
    let agreement = origin.control().agreement(&origin.table.name).await;
    let marks = agreement.map_err(|fault| origin.at_control(fault))?.gaps;
    for arrival in arrivals {
        let concerns = |gap: &&Gap| gap.origin == arrival.origin && gap.peers.contains(&arrival.peer);
        arrival.marks = marks.iter().filter(concerns).cloned().collect();
    }
    Ok(())
}

/// Records which of the peers that lack something are paused, and logs them.
async fn note_pauses(
    origin: &PhysicalReplica,
    arrivals: &mut [Arrival],
    tell: bool,
) -> Result<(), OperateError> {
    let paused = origin.control().crew().await.map_err(|fault| origin.at_control(fault))?.pauses;
    for arrival in arrivals.iter_mut().filter(|arrival| !arrival.is_complete()) {
        let until = paused.get(&Destination::Peer(arrival.peer.clone())).copied();
        arrival.paused_until = until.filter(|until| *until > wall_millis());
        if tell && let Some(until) = arrival.paused_until {
            let (Arrival { table, origin, peer, .. }, until) = (&*arrival, moment(until));
            warn!(%origin, %peer, table, %until, "the peer is paused: `tradewind resume` resumes the writes");
        }
    }
    Ok(())
}

/// The watermark of one origin at one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Watermark {
    pub table: String,
    pub origin: Origin,
    pub peer: Origin,
    /// Every write made at the origin before this is at the peer: milliseconds since the Unix epoch, by the
    /// origin's own clock. None if the origin's agents have reported nothing yet.
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
