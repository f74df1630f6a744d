//! Which agent reads which shard, and which ones this agent takes.

use std::collections::{BTreeMap, BTreeSet};

use super::Running;
use crate::agent::family::Family;
use crate::agent::shared::Shared;
use crate::control::{AgentId, Lease, Leases};
use crate::destination::Destination;
use crate::source::{Lineage, ShardId};

/// The assignment of shards to agents.
pub(super) struct Ownership<'a> {
    pub(super) shared: &'a Shared,
    pub(super) lineage: &'a Lineage,
    pub(super) rows: &'a Leases,
    pub(super) alive: &'a BTreeMap<AgentId, bool>,
}

impl Ownership<'_> {
    /// The leases of the shards that can be read: not yet read to their ends, but with all parents read.
    fn open(&self) -> impl Iterator<Item = &Lease> {
        let Self { lineage, rows, .. } = self;
        rows.values().filter(move |row| {
            let parent = Family { lineage, leases: rows }.parent(&row.shard);
            let ready = parent.is_none_or(|parent| {
                rows.get(parent).is_some_and(|parent| parent.is_done_for(&Destination::Home))
            });
            lineage.contains(&row.shard) && ready && !self.is_done(row)
        })
    }

    fn is_done(&self, lease: &Lease) -> bool {
        self.shared.outlets.keys().all(|destination| lease.is_done_for(destination))
    }

    /// The agent that reads a shard, if it is alive.
    fn owner<'a>(&self, lease: &'a Lease) -> Option<&'a AgentId> {
        lease.owner.as_ref().filter(|owner| self.alive.contains_key(*owner))
    }

    pub(super) fn settled(&self) -> bool {
        let seen = |lease: &Lease| self.owner(lease).is_some_and(|owner| self.alive[owner]);
        // A shard that is not listed may have just been created, or be lost.
        let done = |lease: &Lease| self.lineage.contains(&lease.shard) || self.is_done(lease);
        let has_row = |shard: &ShardId| self.rows.contains_key(shard);
        self.open().all(seen) && self.rows.values().all(done) && self.lineage.shards().all(has_row)
    }

    /// The leases without an owner.
    pub(super) fn free<'a>(
        &'a self,
        me: &'a AgentId,
        running: &'a BTreeMap<ShardId, Running>,
    ) -> impl Iterator<Item = &'a Lease> {
        self.open()
            .filter(|lease| !running.contains_key(&lease.shard))
            .filter(move |lease| self.owner(lease).is_none_or(|owner| owner == me))
    }

    /// The leases that `me` should take now: an even share, free ones first, and otherwise the surplus of
    /// whichever agent has the most.
    ///
    /// Leases that were already free at the last check, `neglected`, are taken beyond the share: an agent
    /// that is alive need not be working on this table.
    pub(super) fn wanted(
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
        // One that was just lost may still be shutting down here.
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
