//! Shares a table's shards out among the agents of the region: takes, steals and gives up leases,
//! and tells the peers what all leases together promise.
//!
//! | file | subject |
//! | --- | --- |
//! | `leases` | the rows: reads, makes, takes and removes them |
//! | `missing` | what is in a list or has a row, and not both |
//! | `ownership` | which agent reads what, and what this one takes |
//! | `end` | what all leases together promise, and when the stream is over |
//! | `shards` | where the shards stand, for those that wait for it |

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
use super::holding::{Holding, Leases};
use super::retention::Retention;
use super::shared::Shared;
use super::succession::Before;
use super::track::TrackState;
use crate::config::Start;
use crate::control::Lease;
use crate::deliver::Tenure;
use crate::fault::Fault;
use crate::protocol::{Hlc, Origin};
use crate::source::{Lineage, ShardId};

pub(super) use shards::Shards;

/// So few leases may be looked at as often as there is a reason.
const FEW: usize = 16;
/// How long giving up a lease may take.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Shares out the shards of one table.
pub(super) struct Coordinator {
    shared: Arc<Shared>,
    member: Member,
    start: Start,
    /// Of a stream that has a successor: who has not all of it yet. Once all have, it is over.
    behind: Option<Arc<Before>>,
    /// When the list was asked for that first showed a destination at the end of all shards.
    at_end: BTreeMap<Origin, Instant>,
    lineage: watch::Receiver<Option<Lineage>>,
    /// What may be told to each peer, and to ourselves: what is durably done there.
    promises: Arc<BTreeMap<Origin, watch::Sender<Hlc>>>,
    /// Tells the tracks what the table's agents are asked.
    asked: watch::Sender<Asked>,
    holds: Holds,
    shards: Arc<Shards>,
    missing: Missing,
    /// The leases that nobody had at the last look.
    free: BTreeSet<ShardId>,
    retention: Retention,
    rng: fastrand::Rng,
}

/// What a look at the leases came to.
struct Found {
    lineage: Lineage,
    rows: Leases,
    /// The leases that this agent has taken.
    taken: Vec<Lease>,
    /// When they were asked for: as old is what is known.
    verified: Instant,
}

/// A shard that this agent reads.
struct Running {
    lease: Lease,
    tenure: Arc<Tenure>,
}

impl Coordinator {
    /// Shares out one stream's shards; `behind` are those who wait for its end, if it has a successor.
    pub(super) fn new(
        shared: Arc<Shared>,
        member: Member,
        start: Start,
        behind: Option<Arc<Before>>,
        shards: Arc<Shards>,
        asked: watch::Sender<Asked>,
        promises: Arc<BTreeMap<Origin, watch::Sender<Hlc>>>,
    ) -> Self {
        Self {
            lineage: shared.stream.lineage.clone(),
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

    pub(super) fn origin(&self) -> &Origin {
        &self.shared.origin
    }

    /// Who has not all of the stream yet, if it has a successor.
    pub(super) fn behind(&self) -> Option<&Arc<Before>> {
        self.behind.as_ref()
    }

    /// Holds leases until it is stopped; then finishes what is under way, and gives them up. Whether the stream
    /// has come to its end before that, for all.
    pub(super) async fn run(mut self, stop: CancellationToken) -> bool {
        let (leases, read_leases) = watch::channel(Leases::new());
        let mut holdings: JoinSet<ShardId> = JoinSet::new();
        let mut running: BTreeMap<ShardId, Running> = BTreeMap::new();
        // When the leases are looked at next, and how soon after the last time that may be.
        let mut next = Instant::now();
        let mut soonest = next;
        loop {
            let sharing = Arc::clone(&self.shared);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = holdings.join_next() => {
                    match ended {
                        Ok(shard) => self.ended(&shard, &mut running).await,
                        // The table's task ends with it, and is begun again.
                        Err(broken) => match broken.try_into_panic() {
                            Ok(panic) => std::panic::resume_unwind(panic),
                            Err(_) => return false,
                        },
                    }
                    self.shared.stream.look.notify_one();
                    next = next.min(soonest);
                }
                () = sharing.wake.notified() => {
                    self.shards.change(|state| state.settled = false);
                    self.shared.stream.look.notify_one();
                    next = next.min(soonest);
                }
                changed = self.lineage.changed() => {
                    if changed.is_err() {
                        return false;
                    }
                    next = next.min(soonest);
                }
                changed = self.member.crew.changed() => {
                    if changed.is_err() {
                        return false;
                    }
                    next = next.min(soonest);
                }
                () = tokio::time::sleep_until(next) => {}
            }
            if Instant::now() < next {
                continue;
            }
            let found = tokio::select! {
                biased;
                // A lease that it has just taken is free when this agent is gone.
                () = stop.cancelled() => break,
                found = self.share_out(&mut running) => found,
            };
            next = Instant::now() + self.shared.tuning.lease_interval(0);
            let Found { lineage, rows, taken, verified } = match found {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(fault) => {
                    let Shared { origin, table, .. } = &*self.shared;
                    warn!(region = %origin, table, %fault, "can't read the leases in the control table; trying again");
                    continue;
                }
            };
            next = Instant::now() + self.shared.tuning.lease_interval(rows.len());
            soonest = Instant::now()
                + self.shared.tuning.lease_interval(rows.len()) * u32::from(rows.len() > FEW) / 5;
            self.promise(&lineage, &rows);
            if self.is_over(&lineage, &rows) && running.is_empty() {
                return true;
            }
            let family = Family { lineage: &lineage, leases: &rows };
            let older = self.shared.before.as_ref().map(|before| before.shards()).unwrap_or_default();
            let ancestors = |lease: &Lease| [older.clone(), family.ancestors(&lease.shard)].concat();
            let ancestors: Vec<_> = taken.iter().map(ancestors).collect();
            leases.send_replace(rows);
            for (lease, ancestors) in taken.into_iter().zip(ancestors) {
                let (state, states) = watch::channel(TrackState::default());
                let tenure = Arc::new(Tenure::until(verified + self.shared.tuning.tenure()));
                let shard = lease.shard.clone();
                debug!(region = %self.shared.origin, table = self.shared.table, %shard, "holding a shard");
                self.shards.change(|all| _ = all.tracks.insert(shard.clone(), states));
                self.shared.backlogs.begin(&lease);
                running.insert(shard.clone(), Running { lease: lease.clone(), tenure: Arc::clone(&tenure) });
                let holding = Holding::new(lease, ancestors, tenure);
                let run = holding.run(Arc::clone(&self.shared), read_leases.clone(), state, stop.clone());
                holdings.spawn(async move {
                    run.await;
                    shard
                });
            }
        }
        self.wind_down(holdings, running, next).await;
        false
    }

    /// Finishes what is under way, and gives all leases up.
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
                    Some(Err(error)) => error!(%error, table = self.shared.table, "a shard's task broke down"),
                    None => return,
                },
                () = tokio::time::sleep_until(next) => {
                    next = Instant::now() + self.shared.tuning.lease_interval(running.len());
                    if let Err(fault) = self.verify(&running).await {
                        debug!(%fault, "can't read the leases; trying again");
                    }
                }
            }
        }
    }

    /// Gives up the lease of a shard that this agent reads no more, unless it has been taken.
    async fn ended(&self, shard: &ShardId, running: &mut BTreeMap<ShardId, Running>) {
        self.shards.change(|state| {
            state.tracks.remove(shard);
            state.settled = false;
        });
        self.shared.backlogs.forget(shard);
        let Some(Running { lease, tenure }) = running.remove(shard) else { return };
        if tenure.has_ended() {
            return;
        }
        tenure.end();
        let Shared { control, space, .. } = &*self.shared;
        match tokio::time::timeout(RELEASE_TIMEOUT, control.release_lease(space, &lease)).await {
            Ok(Ok(_)) => {}
            Ok(Err(fault)) => debug!(%shard, %fault, "can't give up a lease; it runs out by itself"),
            Err(_) => debug!(%shard, "could not give up a lease in time; it runs out by itself"),
        }
    }

    /// Reads all leases, and takes what is this agent's to take.
    async fn share_out(&mut self, running: &mut BTreeMap<ShardId, Running>) -> Result<Option<Found>, Fault> {
        let crew = self.member.crew.borrow_and_update().clone();
        let Some(lineage) = self.lineage.borrow_and_update().clone() else { return Ok(None) };
        let sharing = Arc::clone(&self.shared);
        let (mut rows, mut verified) = self.verify(running).await?;
        // An agent that was asleep must not go by what was listed then.
        if lineage.asked.elapsed() < LISTED_WITHIN {
            if lineage.shards().any(|shard| !rows.contains_key(shard)) {
                self.create(&lineage, &rows).await?;
                (rows, verified) = self.verify(running).await?;
            }
            self.retire(&lineage, &mut rows, running).await;
        }
        let ownership =
            Ownership { shared: &self.shared, lineage: &lineage, rows: &rows, alive: &crew.alive };
        // Who has not looked at the crew lately takes everyone else for dead.
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
