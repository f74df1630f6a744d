//! Shares a table's shards out among the agents of the region: takes, steals and gives up leases,
//! and tells the peers what all leases together promise.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::asked::{Asked, Holds};
use super::crew::Crew;
use super::family::Family;
use super::holding::{Holding, Leases};
use super::promises::Promises;
use super::retention::{Backlog, Retention};
use super::shared::Shared;
use super::succession::Before;
use super::track::TrackState;
use crate::config::Start;
use crate::control::{AgentId, Lease, LeaseTable};
use crate::deliver::Tenure;
use crate::fault::Fault;
use crate::protocol::{Hlc, Origin};
use crate::stream::{Lineage, ShardId, own_millis};

/// How many rows are written at once, of a stream with many shards.
const AT_ONCE: usize = 16;
/// So few leases may be looked at as often as there is a reason.
const FEW: usize = 16;
/// How long giving up a lease may take.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
/// A shard is listed, as long as it is there, at the latest this long after it was.
const LISTED_WITHIN: Duration = Duration::from_mins(1);

/// Where the shards of one table stand, for those that wait for it.
#[derive(Debug, Default)]
pub(super) struct Shards(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Every shard that can be read is being read by an agent that is seen to be alive.
    settled: bool,
    /// How often that was found so in a row.
    rounds: u32,
    tracks: BTreeMap<ShardId, watch::Receiver<TrackState>>,
    /// The stream has been read to its end, for all: nobody need wait for it.
    is_over: bool,
}

impl Shards {
    /// The calls in a row that found every shard of this agent drained; for an agent that has
    /// none to read, how often that was found so.
    pub(super) fn idle_calls(&self) -> u32 {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_over {
            return u32::MAX;
        }
        let least = state.tracks.values().map(|track| track.borrow().idle_calls).min();
        if state.settled { least.unwrap_or(state.rounds) } else { 0 }
    }

    pub(super) fn are_over(&self) {
        self.change(|state| state.is_over = true);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Shares out the shards of one table.
pub(super) struct Coordinator {
    pub(super) shared: Arc<Shared>,
    pub(super) me: AgentId,
    pub(super) start: Start,
    /// Of a stream that has a successor: who has not all of it yet. Once all have, it is over.
    pub(super) behind: Option<Arc<Before>>,
    /// When the list was asked for that first showed a destination at the end of all shards.
    pub(super) at_end: BTreeMap<Origin, Instant>,
    pub(super) crew: watch::Receiver<Crew>,
    pub(super) lineage: watch::Receiver<Option<Lineage>>,
    /// Asks for a fresh lineage.
    pub(super) look: Arc<Notify>,
    /// What may be told to each peer, and to ourselves: what is durably done there.
    pub(super) promises: Arc<BTreeMap<Origin, watch::Sender<Hlc>>>,
    /// Tells the tracks what the table's agents are asked.
    pub(super) asked: watch::Sender<Asked>,
    pub(super) holds: Holds,
    pub(super) shards: Arc<Shards>,
    /// The leases whose shards are not listed, and since when that is known.
    pub(super) absent: BTreeMap<ShardId, Instant>,
    /// The parents that shards without a lease name, and nothing else tells of; and when that was listed first.
    pub(super) orphans: BTreeMap<ShardId, Instant>,
    /// The leases that nobody had at the last look.
    pub(super) free: BTreeSet<ShardId>,
    pub(super) retention: Retention,
    pub(super) rng: fastrand::Rng,
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
                    self.look.notify_one();
                    next = next.min(soonest);
                }
                () = sharing.wake.notified() => {
                    self.shards.change(|state| state.settled = false);
                    self.look.notify_one();
                    next = next.min(soonest);
                }
                changed = self.lineage.changed() => {
                    if changed.is_err() {
                        return false;
                    }
                    next = next.min(soonest);
                }
                changed = self.crew.changed() => {
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

    /// Reads all leases; those of `running` that are still held may be written for longer.
    async fn verify(&self, running: &BTreeMap<ShardId, Running>) -> Result<(Leases, Instant), Fault> {
        let Shared { control, table, space, tuning, .. } = &*self.shared;
        let asked = Instant::now();
        let LeaseTable { leases: mut rows, barrier, hold } = control.leases(space).await?;
        let wall = own_millis(&self.shared.stream.client);
        for lease in rows.values_mut() {
            lease.disbelieve(wall);
        }
        let now = self.holds.look(barrier, hold, tuning.hold_lapse());
        self.asked.send_if_modified(|last| std::mem::replace(last, now) != now);
        for (shard, Running { lease, tenure }) in running {
            if rows.get(shard).is_some_and(|row| row.counter == lease.counter) {
                tenure.extend(asked + tuning.tenure());
            } else if !tenure.has_ended() {
                info!(region = %self.shared.origin, table, %shard, "another agent has taken the shard");
                tenure.end();
            }
        }
        Ok((rows, asked))
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
        let crew = self.crew.borrow_and_update().clone();
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
        let standing = Standing { shared: &self.shared, lineage: &lineage, rows: &rows, alive: &crew.alive };
        // Who has not looked at the crew lately takes everyone else for dead.
        let wanted = if crew.is_stale(sharing.tuning.lease_duration) {
            Vec::new()
        } else {
            standing.wanted(&self.me, running, &self.free, &mut self.rng)
        };
        self.free = standing.free(&self.me, running).map(|lease| lease.shard.clone()).collect();
        let taken = self.take(wanted).await;
        for lease in &taken {
            self.free.remove(&lease.shard);
            rows.insert(lease.shard.clone(), lease.clone());
        }
        let standing = Standing { shared: &self.shared, lineage: &lineage, rows: &rows, alive: &crew.alive };
        let settled = standing.settled();
        self.shards.change(|state| {
            state.settled = settled;
            state.rounds = if settled { state.rounds.saturating_add(1) } else { 0 };
        });
        Ok(Some(Found { lineage, rows, taken, verified }))
    }

    /// Takes leases, as far as they are still as they were read; what fails is tried again later.
    async fn take(&self, wanted: Vec<Lease>) -> Vec<Lease> {
        let mut taken = Vec::new();
        let mut wanted = wanted.into_iter();
        let mut requests = JoinSet::new();
        loop {
            while requests.len() < AT_ONCE
                && let Some(lease) = wanted.next()
            {
                let (sharing, me) = (Arc::clone(&self.shared), self.me.clone());
                requests.spawn(async move { sharing.control.take_lease(&sharing.space, &lease, &me).await });
            }
            match requests.join_next().await {
                Some(Ok(Ok(lease))) => taken.extend(lease),
                Some(Ok(Err(fault))) => debug!(%fault, "can't take a lease; trying again"),
                Some(Err(error)) => error!(%error, "taking a lease broke down"),
                None => return taken,
            }
        }
    }

    /// Makes the rows of new shards.
    async fn create(&mut self, lineage: &Lineage, rows: &Leases) -> Result<(), Fault> {
        let missing = self.without_row(lineage, rows);
        let since_millis = match self.start {
            Start::Latest => {
                // Creation times may be as coarse as whole minutes.
                let listed = lineage.listed_millis.unwrap_or_default().saturating_sub(60_000);
                let listed = listed.min(own_millis(&self.shared.stream.client));
                self.shared.control.start_since(&self.shared.space, listed).await?
            }
            Start::TrimHorizon => 0,
        };
        let made_millis = lineage.listed_millis.unwrap_or_default();
        let mut creations = JoinSet::new();
        for shard in missing {
            if creations.len() == AT_ONCE {
                creations.join_next().await;
            }
            let sharing = Arc::clone(&self.shared);
            let parent = lineage.named_parent(&shard).cloned();
            creations.spawn(async move {
                let parent = parent.as_ref();
                let control = &sharing.control;
                control.create_lease(&sharing.space, &shard, parent, since_millis, made_millis).await
            });
        }
        while let Some(created) = creations.join_next().await {
            if let Ok(Err(fault)) = created {
                return Err(fault);
            }
        }
        Ok(())
    }

    /// The shards that need a row. One whose parent is not known gets one when a second list, too, lacks the
    /// parent: then it is trimmed. A row that comes too early would let the shard be read before its parent.
    fn without_row(&mut self, lineage: &Lineage, rows: &Leases) -> Vec<ShardId> {
        let family = Family { lineage, leases: rows };
        let missing: Vec<ShardId> =
            lineage.shards().filter(|shard| !rows.contains_key(*shard)).cloned().collect();
        let unknown: BTreeSet<&ShardId> =
            missing.iter().filter_map(|shard| family.unknown_parent(shard)).collect();
        self.orphans.retain(|parent, _| unknown.contains(parent));
        for parent in unknown {
            self.orphans.entry(parent.clone()).or_insert(lineage.asked);
        }
        let is_in_doubt = |parent: &ShardId| self.orphans.get(parent) == Some(&lineage.asked);
        let (doubtful, sure): (Vec<_>, Vec<_>) =
            missing.into_iter().partition(|shard| family.unknown_parent(shard).is_some_and(is_in_doubt));
        if !doubtful.is_empty() {
            self.look.notify_one();
        }
        sure
    }

    /// Removes the rows of shards that are gone, as they are a day after their end.
    async fn retire(&mut self, lineage: &Lineage, rows: &mut Leases, running: &BTreeMap<ShardId, Running>) {
        self.absent.retain(|shard, _| rows.contains_key(shard) && !lineage.contains(shard));
        for shard in rows.keys().filter(|shard| !lineage.contains(shard)) {
            self.absent.entry(shard.clone()).or_insert_with(Instant::now);
        }
        // A list may be older than a row that another agent has made.
        let is_gone = |since: &Instant| lineage.asked >= *since + LISTED_WITHIN;
        let gone: Vec<ShardId> = self
            .absent
            .iter()
            .filter(|(shard, since)| is_gone(since) && !running.contains_key(*shard))
            .map(|(shard, _)| shard.clone())
            .collect();
        // Others came of these, and went, before anybody saw them.
        let parents = Family { lineage, leases: rows }.parents();
        let childless: BTreeSet<ShardId> =
            gone.iter().filter(|shard| !parents.contains(shard)).cloned().collect();
        let sharing = Arc::clone(&self.shared);
        let Shared { control, space, lanes, .. } = &*sharing;
        for shard in gone {
            let Some(row) = rows.get(&shard) else { continue };
            let missed = lanes.keys().filter(|peer| childless.contains(&shard) || !row.is_done_for(peer));
            let missed: Vec<Origin> = missed.cloned().collect();
            if !missed.is_empty() {
                let promises = Promises { lineage, leases: rows };
                let from = missed.iter().map(|peer| promises.lease_promise(row, peer)).min();
                let gap = sharing.gap(&shard, missed, from.unwrap_or_default());
                // The row is all that tells of the gap until the mark is there.
                if let Some(gap) = gap
                    && !sharing.mark(&gap).await
                {
                    continue;
                }
            }
            rows.remove(&shard);
            if let Err(fault) = control.retire_lease(space, &shard).await {
                debug!(%shard, %fault, "can't remove the lease of a shard that is gone");
            }
        }
    }

    /// Whether the stream has a successor, and all destinations have all of it; tells those who wait for their turn.
    fn is_over(&mut self, lineage: &Lineage, rows: &Leases) -> bool {
        let Some(behind) = &self.behind else { return false };
        let has_row = |shard: &ShardId| rows.contains_key(shard);
        let is_whole = lineage.shards().all(has_row);
        let mut left = BTreeSet::new();
        for destination in self.shared.lanes.keys() {
            if !is_whole || !rows.values().all(|lease| lease.is_done_for(destination)) {
                self.at_end.remove(destination);
                left.insert(destination.clone());
                continue;
            }
            // One list may miss a shard.
            let first = *self.at_end.entry(destination.clone()).or_insert(lineage.asked);
            if lineage.asked == first {
                left.insert(destination.clone());
                self.look.notify_one();
            }
        }
        let is_over = left.is_empty();
        behind.note(left, rows.clone());
        is_over
    }

    /// Tells each peer what is durably with it: all writes older than its least advanced shard.
    fn promise(&mut self, lineage: &Lineage, rows: &Leases) {
        let promises = Promises { lineage, leases: rows };
        for (peer, promise) in &*self.promises {
            let millis = promises.to(peer);
            let hlc = Hlc::at_millis(millis);
            if let Some(now) = lineage.listed_millis
                && let Some(Backlog { age, left }) =
                    self.retention.look(peer, millis, now, self.shared.tuning.stream_retention)
            {
                let Shared { origin, table, .. } = &*self.shared;
                let (backlog, left) = (minutes(age), minutes(left));
                warn!(
                    region = %origin, %peer, table, backlog, left,
                    "the peer lacks writes that are so old, and streams keep records for a day only: bring the peer \
                     back before the time left is over, or run `tradewind verify` afterwards"
                );
            }
            promise.send_if_modified(|promised| {
                let raised = hlc > *promised;
                *promised = (*promised).max(hlc);
                raised
            });
        }
    }
}

/// A time in hours and minutes, for people.
fn minutes(time: Duration) -> String {
    humantime::format_duration(Duration::from_mins(time.as_secs() / 60)).to_string()
}

/// Who reads what.
struct Standing<'a> {
    shared: &'a Shared,
    lineage: &'a Lineage,
    rows: &'a Leases,
    alive: &'a BTreeMap<AgentId, bool>,
}

impl Standing<'_> {
    /// The leases of the shards that can be read: not yet read to their ends, though their parents
    /// have been.
    fn open(&self) -> impl Iterator<Item = &Lease> {
        let Self { shared, lineage, rows, .. } = self;
        rows.values().filter(move |row| {
            let parent = Family { lineage, leases: rows }.parent(&row.shard);
            let ready = parent.is_none_or(|parent| {
                rows.get(parent).is_some_and(|parent| parent.is_done_for(&shared.origin))
            });
            lineage.contains(&row.shard) && ready && !self.is_done(row)
        })
    }

    fn is_done(&self, lease: &Lease) -> bool {
        self.shared.lanes.keys().all(|destination| lease.is_done_for(destination))
    }

    /// The agent that reads a shard, if it is alive.
    fn owner<'a>(&self, lease: &'a Lease) -> Option<&'a AgentId> {
        lease.owner.as_ref().filter(|owner| self.alive.contains_key(*owner))
    }

    fn settled(&self) -> bool {
        let seen = |lease: &Lease| self.owner(lease).is_some_and(|owner| self.alive[owner]);
        // What is not listed may have been made just now, or be lost.
        let done = |lease: &Lease| self.lineage.contains(&lease.shard) || self.is_done(lease);
        let has_row = |shard: &ShardId| self.rows.contains_key(shard);
        self.open().all(seen) && self.rows.values().all(done) && self.lineage.shards().all(has_row)
    }

    /// The leases that nobody has.
    fn free<'a>(
        &'a self,
        me: &'a AgentId,
        running: &'a BTreeMap<ShardId, Running>,
    ) -> impl Iterator<Item = &'a Lease> {
        self.open()
            .filter(|lease| !running.contains_key(&lease.shard))
            .filter(move |lease| self.owner(lease).is_none_or(|owner| owner == me))
    }

    /// The leases that `me` should take now: an even share of them, free ones first, and else
    /// what whoever has the most has too many.
    ///
    /// What was free at the last look too, `neglected`, is taken beyond the share: an agent that is
    /// alive need not be at work on this table.
    fn wanted(
        &self,
        me: &AgentId,
        running: &BTreeMap<ShardId, Running>,
        neglected: &BTreeSet<ShardId>,
        rng: &mut fastrand::Rng,
    ) -> Vec<Lease> {
        let share = self.open().count().div_ceil(self.alive.len().max(1));
        let mine = self.open().filter(|lease| running.contains_key(&lease.shard)).count();
        let missing = share.saturating_sub(mine);
        let mut free: Vec<&Lease> = self.free(me, running).collect();
        // Agents that wake up together should not all want the same ones.
        rng.shuffle(&mut free);
        if !free.is_empty() || missing == 0 {
            let (share, rest) = free.split_at(missing.min(free.len()));
            let rest = rest.iter().filter(|lease| neglected.contains(&lease.shard));
            return share.iter().chain(rest).copied().cloned().collect();
        }
        let mut loads: BTreeMap<&AgentId, Vec<&Lease>> = BTreeMap::new();
        // One that was just lost may still be ending here.
        for lease in self.open().filter(|lease| !running.contains_key(&lease.shard)) {
            if let Some(owner) = self.owner(lease).filter(|owner| *owner != me) {
                loads.entry(owner).or_default().push(lease);
            }
        }
        let Some(richest) = loads.into_values().max_by_key(Vec::len) else { return Vec::new() };
        let excess = richest.len().saturating_sub(share).min(missing);
        rng.choose_multiple(richest, excess).into_iter().cloned().collect()
    }
}
