//! Distributes a table's shards among the agents of the region: takes, steals and releases leases, and
//! reports to the peers what all leases together promise.
//!
//! | file | subject |
//! | --- | --- |
//! | `leases` | the rows: reads, creates, takes and removes them |
//! | `missing` | shards that are listed or have a row, but not both |
//! | `ownership` | which agent reads which shard, and which ones this agent takes |
//! | `end` | what all leases together promise, and when the stream is over |
//! | `shards` | the state of the shards, for those that wait for it |

mod end;
mod leases;
mod missing;
mod ownership;
mod shards;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use self::missing::{LISTED_WITHIN, Missing};
use self::ownership::Ownership;
use super::asked::{Asked, Holds};
use super::crew::Member;
use super::family::Family;
use super::holding::Holding;
use super::retention::Retention;
use super::shared::Shared;
use super::succession::Before;
use super::track::TrackState;
use crate::config::Start;
use crate::contained::unless_aborted;
use crate::control::{Lease, Leases};
use crate::deliver::Tenure;
use crate::destination::Destination;
use crate::fault::Fault;
use crate::protocol::Hlc;
use crate::source::{Lineage, ShardId, Source};

pub(super) use shards::Shards;

/// With at most this many leases, they are checked as often as there is a reason.
const FEW: usize = 16;
/// How long releasing a lease may take.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Distributes the shards of one table.
pub(super) struct Coordinator {
    shared: Arc<Shared>,
    member: Member,
    start: Start,
    /// For a stream with a successor: the destinations that lack some of it. Once all have it, it is over.
    behind: Option<Arc<Before>>,
    /// When the list was requested that first showed a destination at the end of all shards.
    at_end: BTreeMap<Destination, Instant>,
    lineage: watch::Receiver<Option<Lineage>>,
    /// What may be reported to each peer, and to ourselves: what is durably done there.
    promises: Arc<BTreeMap<Destination, watch::Sender<Hlc>>>,
    /// Passes on to the tracks what is requested of the table's agents.
    asked: watch::Sender<Asked>,
    holds: Holds,
    shards: Arc<Shards>,
    missing: Missing,
    /// The leases that had no owner at the last check.
    free: BTreeSet<ShardId>,
    retention: Retention,
    rng: fastrand::Rng,
}

/// When the leases are checked next, and the earliest time for that.
struct Due {
    next: Instant,
    soonest: Instant,
}

/// Why the coordinator has woken up.
enum Woken {
    /// It is time to check the leases.
    Timer,
    /// There is a reason to.
    Reason,
    Stopped,
    /// What it depends on has ended.
    Broken,
}

/// The result of checking the leases.
struct Found {
    lineage: Lineage,
    rows: Leases,
    /// The leases that this agent has taken.
    taken: Vec<Lease>,
    /// When they were requested: what is known is as old as that.
    verified: Instant,
}

/// A shard that this agent reads.
struct Running {
    lease: Lease,
    tenure: Arc<Tenure>,
}

impl Coordinator {
    /// Distributes one stream's shards; `behind` are those who wait for its end, if it has a successor.
    pub(super) fn new(
        shared: Arc<Shared>,
        member: Member,
        start: Start,
        behind: Option<Arc<Before>>,
        shards: Arc<Shards>,
        asked: watch::Sender<Asked>,
        promises: Arc<BTreeMap<Destination, watch::Sender<Hlc>>>,
    ) -> Self {
        Self {
            lineage: shared.stream.lineage(),
            shared,
            member,
            start,
            behind,
            at_end: BTreeMap::new(),
            promises,
            asked,
            holds: Holds::default(),
            shards,
            missing: Missing::default(),
            free: BTreeSet::new(),
            retention: Retention::default(),
            rng: fastrand::Rng::new(),
        }
    }

    /// The destinations that lack some of the stream, if it has a successor.
    pub(super) fn behind(&self) -> Option<&Arc<Before>> {
        self.behind.as_ref()
    }

    /// Holds leases until it is stopped; then finishes what is in progress, and releases them. Returns
    /// whether the stream came to its end before that, for all destinations.
    pub(super) async fn run(mut self, stop: CancellationToken) -> bool {
        let (leases, read_leases) = watch::channel(Leases::new());
        let mut holdings: JoinSet<ShardId> = JoinSet::new();
        let mut running: BTreeMap<ShardId, Running> = BTreeMap::new();
        let now = Instant::now();
        let mut due = Due { next: now, soonest: now };
        loop {
            match self.wake(&mut holdings, &mut running, &due, &stop).await {
                Woken::Timer => {}
                Woken::Reason => due.next = due.next.min(due.soonest),
                Woken::Stopped => break,
                Woken::Broken => return false,
            }
            if Instant::now() < due.next {
                continue;
            }
            let found = tokio::select! {
                biased;
                // A lease that it has just taken becomes free once this agent is gone.
                () = stop.cancelled() => break,
                found = self.share_out(&mut running) => found,
            };
            due.next = Instant::now() + self.shared.tuning.lease_interval(0);
            let found = match found {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(fault) => {
                    let Shared { origin, table, .. } = &*self.shared;
                    warn!(region = %origin, table, %fault, "can't read the leases in the control table; retrying");
                    continue;
                }
            };
            let Found { lineage, rows, .. } = &found;
            let interval = self.shared.tuning.lease_interval(rows.len());
            let now = Instant::now();
            due = Due { next: now + interval, soonest: now + interval * u32::from(rows.len() > FEW) / 5 };
            self.promise(lineage, rows);
            if self.is_over(lineage, rows) && running.is_empty() {
                return true;
            }
            for (holding, state) in self.hold(found, &leases, &mut running) {
                let (sharing, leases, stop) = (Arc::clone(&self.shared), read_leases.clone(), stop.clone());
                holdings.spawn(async move {
                    let shard = holding.lease.shard.clone();
                    holding.run(sharing, leases, state, stop).await;
                    shard
                });
            }
        }
        self.wind_down(holdings, running, due.next).await;
        false
    }

    /// Waits until there is a reason to check the leases, or it is time to.
    async fn wake(
        &mut self,
        holdings: &mut JoinSet<ShardId>,
        running: &mut BTreeMap<ShardId, Running>,
        due: &Due,
        stop: &CancellationToken,
    ) -> Woken {
        let sharing = Arc::clone(&self.shared);
        let is_there = tokio::select! {
            biased;
            () = stop.cancelled() => return Woken::Stopped,
            Some(ended) = holdings.join_next() => {
                // With a panic the table's task ends too, and is restarted.
                let Some(shard) = unless_aborted(ended) else { return Woken::Broken };
                self.ended(&shard, running).await;
                self.shared.stream.look();
                true
            }
            () = sharing.wake.notified() => {
                self.shards.change(|state| state.settled = false);
                self.shared.stream.look();
                true
            }
            changed = self.lineage.changed() => changed.is_ok(),
            changed = self.member.crew.changed() => changed.is_ok(),
            () = tokio::time::sleep_until(due.next) => return Woken::Timer,
        };
        if is_there { Woken::Reason } else { Woken::Broken }
    }

    /// Begins to hold the leases that have been taken. Returns what reads their shards.
    fn hold(
        &self,
        found: Found,
        leases: &watch::Sender<Leases>,
        running: &mut BTreeMap<ShardId, Running>,
    ) -> Vec<(Holding, watch::Sender<TrackState>)> {
        let Found { lineage, rows, taken, verified } = found;
        let family = Family { lineage: &lineage, leases: &rows };
        let older = self.shared.before.as_ref().map(|before| before.shards()).unwrap_or_default();
        let holdings = taken.into_iter().map(|lease| {
            let shard = lease.shard.clone();
            debug!(region = %self.shared.origin, table = self.shared.table, %shard, "holding the lease of a shard");
            let ancestors = [older.clone(), family.ancestors(&shard)].concat();
            let tenure = Arc::new(Tenure::until(verified + self.shared.tuning.tenure()));
            let (state, states) = watch::channel(TrackState::default());
            self.shards.change(|all| _ = all.tracks.insert(shard.clone(), states));
            self.shared.notes.backlogs.begin(&lease);
            running.insert(shard, Running { lease: lease.clone(), tenure: Arc::clone(&tenure) });
            (Holding::new(lease, ancestors, tenure), state)
        });
        let holdings = holdings.collect();
        leases.send_replace(rows);
        holdings
    }

    /// Finishes what is in progress, and releases all leases.
    async fn wind_down(
        &self,
        mut holdings: JoinSet<ShardId>,
        mut running: BTreeMap<ShardId, Running>,
        mut next: Instant,
    ) {
        loop {
            tokio::select! {
                biased;
                ended = holdings.join_next() => match ended {
                    Some(Ok(shard)) => self.ended(&shard, &mut running).await,
                    Some(Err(error)) => error!(%error, table = self.shared.table, "a shard's task panicked"),
                    None => return,
                },
                () = tokio::time::sleep_until(next) => {
                    next = Instant::now() + self.shared.tuning.lease_interval(running.len());
                    if let Err(fault) = self.verify(&running).await {
                        debug!(%fault, "can't read the leases; retrying");
                    }
                }
            }
        }
    }

    /// Releases the lease of a shard that this agent no longer reads, unless it has been taken.
    async fn ended(&self, shard: &ShardId, running: &mut BTreeMap<ShardId, Running>) {
        self.shards.change(|state| {
            state.tracks.remove(shard);
            state.settled = false;
        });
        self.shared.notes.backlogs.forget(shard);
        let Some(Running { lease, tenure }) = running.remove(shard) else { return };
        if tenure.has_ended() {
            return;
        }
        tenure.end();
        let Shared { control, space, .. } = &*self.shared;
        match tokio::time::timeout(RELEASE_TIMEOUT, control.release_lease(space, &lease)).await {
            Ok(Ok(_)) => {}
            Ok(Err(fault)) => debug!(%shard, %fault, "can't release a lease; it expires by itself"),
            Err(_) => debug!(%shard, "could not release a lease in time; it expires by itself"),
        }
    }

    /// Reads all leases, and takes those that this agent should take.
    async fn share_out(&mut self, running: &mut BTreeMap<ShardId, Running>) -> Result<Option<Found>, Fault> {
        let crew = self.member.crew.borrow_and_update().clone();
        let Some(lineage) = self.lineage.borrow_and_update().clone() else { return Ok(None) };
        let sharing = Arc::clone(&self.shared);
        let (mut rows, mut verified) = self.verify(running).await?;
        // An agent that was asleep must not rely on an old list.
        if lineage.asked.elapsed() < LISTED_WITHIN {
            if lineage.shards().any(|shard| !rows.contains_key(shard)) {
                self.create(&lineage, &rows).await?;
                (rows, verified) = self.verify(running).await?;
            }
            self.retire(&lineage, &mut rows, running).await;
        }
        let ownership =
            Ownership { shared: &self.shared, lineage: &lineage, rows: &rows, alive: &crew.alive };
        // An agent that has not checked the crew lately would take everyone else for dead.
        let wanted = if crew.is_stale(sharing.tuning.lease_duration) {
            Vec::new()
        } else {
            ownership.wanted(&self.member.me, running, &self.free, &mut self.rng)
        };
        self.free = ownership.free(&self.member.me, running).map(|lease| lease.shard.clone()).collect();
        let taken = self.take(wanted).await;
        for lease in &taken {
            self.free.remove(&lease.shard);
            rows.insert(lease.shard.clone(), lease.clone());
        }
        let ownership =
            Ownership { shared: &self.shared, lineage: &lineage, rows: &rows, alive: &crew.alive };
        let settled = ownership.settled();
        self.shards.change(|state| {
            state.settled = settled;
            state.rounds = if settled { state.rounds.saturating_add(1) } else { 0 };
        });
        Ok(Some(Found { lineage, rows, taken, verified }))
    }
}
