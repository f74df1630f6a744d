//! What all leases of a table together promise a destination.

use std::collections::BTreeSet;

use super::family::Family;
use crate::control::Lease;
use crate::destination::Destination;
use crate::source::ShardId;

/// They rest on the shards of the table: those that are listed, and those that have a lease.
///
/// Neither set is complete: a list may be older than a lease that another agent has created, and a shard may
/// be listed before it has a lease.
impl Family<'_> {
    /// No write that the destination lacks has a creation time before this, in milliseconds. A shard that has
    /// ended counts as long as it may have children that `is_sure` does not say are all known.
    pub(super) fn promise(&self, destination: &Destination, is_sure: impl Fn(&ShardId) -> bool) -> u64 {
        let parents = self.parents();
        let shards: BTreeSet<&ShardId> = self.lineage.shards().chain(self.leases.keys()).collect();
        let promised = |shard: &ShardId| match self.leases.get(shard) {
            // A shard that has ended without children has some that are not listed yet.
            Some(lease) if lease.is_done_for(destination) && parents.contains(shard) && is_sure(shard) => {
                None
            }
            Some(lease) => Some(self.lease_promise(lease, destination)),
            None => Some(self.parents_promise(self.lineage.parent(shard), destination)),
        };
        shards.into_iter().filter_map(promised).min().unwrap_or_default()
    }

    /// The same, for one lease.
    pub(super) fn lease_promise(&self, lease: &Lease, destination: &Destination) -> u64 {
        match lease.checkpoints.get(destination) {
            Some(checkpoint) => checkpoint.millis,
            None => self.parents_promise(lease.parent.as_ref(), destination),
        }
    }

    /// Nothing in a shard that has not been started is older than its parent's last record.
    fn parents_promise(&self, parent: Option<&ShardId>, destination: &Destination) -> u64 {
        parent
            .and_then(|parent| self.leases.get(parent))
            .map_or(0, |parent| self.lease_promise(parent, destination))
    }
}
