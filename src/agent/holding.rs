//! One lease that this agent holds, and where each destination goes on in its shard.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::shared::Shared;
use super::succession::Before;
use super::times::Times;
use crate::control::{Checkpoint, Lease, Leases, Term};
use crate::deliver::Tenure;
use crate::destination::Destination;
use crate::protocol::Floors;
use crate::source::{Position, ShardId};

/// A destination whose checkpoint is this much older than the newest one starts with a track of its own.
const LATE_MILLIS: u64 = 120_000;

/// A lease being held.
#[derive(Debug)]
pub(super) struct Holding {
    pub(super) lease: Lease,
    /// The shard's ancestors that are still listed, oldest first; those of the previous stream come before
    /// them.
    pub(super) ancestors: Vec<ShardId>,
    /// Ends when another agent has taken the lease.
    pub(super) tenure: Arc<Tenure>,
    /// The number of saves so far; locked during a save, so that they land in this order.
    pub(super) saves: Mutex<u64>,
    /// When records were created, where the service's clock was ahead.
    pub(super) times: Mutex<Times>,
}

/// Where a destination resumes.
#[derive(Clone, Debug)]
pub(super) struct StartPoint {
    pub(super) checkpoint: Checkpoint,
    /// Whether the lease says so; it says nothing about a destination that has not started the shard.
    pub(super) begun: bool,
}

impl Holding {
    pub(super) fn new(lease: Lease, ancestors: Vec<ShardId>, tenure: Arc<Tenure>) -> Self {
        Self { lease, ancestors, tenure, saves: Mutex::default(), times: Mutex::default() }
    }

    fn parent<'a>(&self, leases: &'a Leases) -> Option<&'a Lease> {
        self.ancestors.last().and_then(|parent| leases.get(parent))
    }

    /// Where a destination resumes: where the lease says; in a shard that it has not started, with the key
    /// memory that it had at the end of the parent, or of the previous stream.
    pub(super) fn from(
        &self,
        destination: &Destination,
        leases: &Leases,
        before: Option<&Before>,
    ) -> StartPoint {
        if let Some(checkpoint) = self.lease.checkpoints.get(destination) {
            return StartPoint { checkpoint: checkpoint.clone(), begun: true };
        }
        let at_parents_end = self.parent(leases).and_then(|parent| parent.checkpoints.get(destination));
        let at_its_end = || {
            let (mut checkpoint, floors) =
                before.filter(|_| self.lease.parent.is_none())?.checkpoint(destination)?;
            let (shard, after) = (self.lease.shard.clone(), Position::TrimHorizon);
            checkpoint.terms.push(Term { shard, after, floors });
            Some(checkpoint)
        };
        let (mut rewind, floors, terms, millis) = match at_parents_end.cloned().or_else(at_its_end) {
            Some(Checkpoint { rewind, floors, terms, millis, .. }) => (rewind, floors, terms, millis),
            None => (BTreeMap::new(), Floors::default(), Vec::new(), 0),
        };
        rewind.retain(|_, position| *position != Position::End);
        rewind.insert(self.lease.shard.clone(), Position::TrimHorizon);
        StartPoint {
            checkpoint: Checkpoint { done: Position::TrimHorizon, rewind, floors, terms, millis, barrier: 0 },
            begun: false,
        }
    }

    /// From where the shard and its ancestors are read, and what is known about creation times, for several
    /// destinations together.
    pub(super) fn base<'a>(
        &self,
        destinations: impl Iterator<Item = &'a Checkpoint> + Clone,
    ) -> BTreeMap<ShardId, (Position, u64)> {
        let shards = self.ancestors.iter().chain([&self.lease.shard]);
        shards
            .filter_map(|shard| {
                let position = destinations.clone().filter_map(|from| from.rewind.get(shard)).min()?;
                let millis = destinations.clone().map(|from| from.millis).min()?;
                Some((shard.clone(), (position.clone(), millis)))
            })
            .collect()
    }

    /// The shards to read, oldest first, each with its position.
    pub(super) fn in_order(&self, positions: BTreeMap<ShardId, Position>) -> Vec<(ShardId, Position)> {
        let mut positions = positions;
        let shards = self.ancestors.iter().chain([&self.lease.shard]);
        shards.filter_map(|shard| positions.remove_entry(shard)).collect()
    }

    /// Adopts what the readers of this shard and its ancestors have found about the service's clock.
    pub(super) fn note_jumps(&mut self, leases: &Leases, before: Option<&Before>) {
        let times = self.times.get_mut();
        before.map(Before::jumps).into_iter().flatten().for_each(|(shard, jumps)| times.insert(shard, jumps));
        let ancestors = self.ancestors.iter().filter_map(|shard| leases.get(shard));
        for lease in ancestors.chain([&self.lease]).filter(|lease| !lease.jumps.is_empty()) {
            times.insert(lease.shard.clone(), lease.jumps.clone());
        }
    }

    /// The destinations that resume together, each with its position; and the peers that are too far behind
    /// for that, or not yet at the end of the parent.
    pub(super) fn split(
        &self,
        shared: &Shared,
        leases: &Leases,
    ) -> (BTreeMap<Destination, StartPoint>, Vec<Destination>) {
        let all: BTreeMap<Destination, StartPoint> = shared
            .outlets
            .keys()
            .map(|destination| {
                (destination.clone(), self.from(destination, leases, shared.before.as_deref()))
            })
            .collect();
        let newest = all.values().map(|from| from.checkpoint.millis).max().unwrap_or_default();
        let in_time = |destination: &Destination, from: &StartPoint| {
            *destination == Destination::Home
                || from.checkpoint.millis + LATE_MILLIS >= newest
                    && self.may_begin(destination, leases)
                    && shared.may_begin(destination)
        };
        let (in_time, late): (BTreeMap<_, _>, BTreeMap<_, _>) =
            all.into_iter().partition(|(destination, from)| in_time(destination, from));
        (in_time, late.into_keys().collect())
    }

    /// From when on, in milliseconds, a destination lacks writes to the shard that are trimmed; `None` if it
    /// lacks nothing that old. The stream does not report this to a reader that starts at its oldest record,
    /// whether for the first time or to rebuild the same key memory. If nothing was written meanwhile, it is
    /// reported all the same.
    pub(super) fn trimmed_unread(
        &self,
        from: &StartPoint,
        begins_at_oldest: bool,
        trimmed_to: u64,
        retention_millis: u64,
    ) -> Option<u64> {
        let Lease { made_millis, since_millis, checkpoints, .. } = &self.lease;
        let expected = match from.checkpoint.millis {
            // Whoever created the lease was about to read everything kept then. If others have started, this
            // is a peer that was added later.
            0 if checkpoints.values().all(Checkpoint::is_blank) && (1..trimmed_to).contains(made_millis) => {
                made_millis.saturating_sub(retention_millis)
            }
            0 => return None,
            millis => millis,
        };
        let is_unread = match from.checkpoint.done {
            Position::TrimHorizon => true,
            Position::End => false,
            Position::After(_) => begins_at_oldest,
        };
        Some(expected.max(*since_millis)).filter(|expected| is_unread && *expected < trimmed_to)
    }

    /// Whether a destination is at the end of the parent, as it must be to start this shard.
    pub(super) fn may_begin(&self, destination: &Destination, leases: &Leases) -> bool {
        self.parent(leases).is_none_or(|parent| parent.is_done_for(destination))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_was_not_read_in_time_lacks_what_is_trimmed() {
        const KEPT: u64 = 1_000;
        let lost = |done: &str,
                    begins_at_oldest,
                    parents_millis: u64,
                    made_millis: u64,
                    since_millis: u64| {
            let shard = ShardId("shard".into());
            let rewind = BTreeMap::new();
            let (done, floors) = (Position::from(done), Floors::default());
            let checkpoint =
                Checkpoint { done, rewind, floors, terms: Vec::new(), millis: parents_millis, barrier: 0 };
            // What is saved before anything was read.
            let blank = Checkpoint { rewind: BTreeMap::new(), millis: 0, ..checkpoint.clone() };
            let checkpoints = BTreeMap::from([(Destination::Peer("tokyo".parse().expect("a name")), blank)]);
            let lease = Lease {
                shard,
                parent: None,
                owner: None,
                counter: 0,
                since_millis,
                made_millis,
                jumps: Vec::new(),
                checkpoints,
            };
            let tenure = Arc::new(Tenure::until(tokio::time::Instant::now()));
            let holding = Holding::new(lease, Vec::new(), tenure);
            holding.trimmed_unread(&StartPoint { checkpoint, begun: true }, begins_at_oldest, 5_000, KEPT)
        };
        for (done, millis, made, since, expected) in [
            ("TRIM_HORIZON", 4_999, 0, 0, Some(4_999)),
            ("TRIM_HORIZON", 5_000, 0, 0, None),
            // Without a parent, by the time its lease was created.
            ("TRIM_HORIZON", 0, 4_999, 0, Some(3_999)),
            ("TRIM_HORIZON", 0, 5_000, 0, None),
            ("TRIM_HORIZON", 0, 0, 0, None),
            // What was written before is not to be replicated.
            ("TRIM_HORIZON", 4_000, 0, 4_500, Some(4_500)),
            ("TRIM_HORIZON", 0, 4_999, 6_000, None),
        ] {
            for begins_at_oldest in [false, true] {
                let lost = lost(done, begins_at_oldest, millis, made, since);
                assert_eq!(lost, expected, "{done} {millis} {made} {since}");
            }
        }
        // The stream reports it to a reader that resumes after a record, but not to one that reads again from
        // the oldest.
        for (done, begins_at_oldest, millis, expected) in [
            ("17", false, 4_999, None),
            ("17", true, 4_999, Some(4_999)),
            ("17", true, 5_000, None),
            ("SHARD_END", true, 4_999, None),
        ] {
            assert_eq!(lost(done, begins_at_oldest, millis, 0, 0), expected, "{done} {millis}");
        }
    }
}
