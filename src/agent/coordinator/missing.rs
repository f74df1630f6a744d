//! Listed shards without a lease, and leases whose shards are not listed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::agent::family::Family;
use crate::source::ShardId;

/// An existing shard is listed at the latest this long after its creation.
pub(super) const LISTED_WITHIN: Duration = Duration::from_mins(1);

/// What is missing on either side, according to the last lists. One list may lack a shard, and may be older
/// than a lease.
#[derive(Debug, Default)]
pub(super) struct Missing {
    /// The leases whose shards are not listed, and since when that is known.
    absent: BTreeMap<ShardId, Instant>,
    /// The parents that shards without a lease name and that nothing else shows; and when that was first
    /// listed.
    orphans: BTreeMap<ShardId, Instant>,
    /// The shards with children, and when the first list was requested that showed any.
    parents: BTreeMap<ShardId, Instant>,
}

impl Missing {
    /// Returns the shards that need a lease, and whether another list is needed for the rest.
    ///
    /// A shard with an unknown parent gets a lease when a second list lacks the parent too: then it is
    /// trimmed. A row created too early would let the shard be read before its parent.
    pub(super) fn without_lease(&mut self, family: &Family<'_>) -> (Vec<ShardId>, bool) {
        let Family { lineage, leases } = family;
        let missing: Vec<ShardId> =
            lineage.shards().filter(|shard| !leases.contains_key(*shard)).cloned().collect();
        let unknown: BTreeSet<&ShardId> =
            missing.iter().filter_map(|shard| family.unknown_parent(shard)).collect();
        self.orphans.retain(|parent, _| unknown.contains(parent));
        for parent in unknown {
            self.orphans.entry(parent.clone()).or_insert(lineage.asked);
        }
        let is_in_doubt = |parent: &ShardId| self.orphans.get(parent) == Some(&lineage.asked);
        let (doubtful, sure): (Vec<_>, Vec<_>) =
            missing.into_iter().partition(|shard| family.unknown_parent(shard).is_some_and(is_in_doubt));
        (sure, !doubtful.is_empty())
    }

    /// The parents of which only one list has shown children: it may lack a child, of which nobody has a lease
    /// yet. As long as there are any, another list is needed.
    pub(super) fn in_doubt(&mut self, family: &Family<'_>) -> BTreeSet<ShardId> {
        let Family { lineage, .. } = family;
        let parents = family.parents();
        self.parents.retain(|parent, _| parents.contains(parent));
        for parent in parents {
            self.parents.entry(parent.clone()).or_insert(lineage.asked);
        }
        let in_doubt = self.parents.iter().filter(|(_, first)| **first == lineage.asked);
        in_doubt.map(|(parent, _)| parent.clone()).collect()
    }

    /// The leases whose shards are gone, as shards are a day after their end.
    pub(super) fn gone(&mut self, family: &Family<'_>) -> Vec<ShardId> {
        let Family { lineage, leases } = family;
        self.absent.retain(|shard, _| leases.contains_key(shard) && !lineage.contains(shard));
        for shard in leases.keys().filter(|shard| !lineage.contains(shard)) {
            self.absent.entry(shard.clone()).or_insert_with(Instant::now);
        }
        // A list may be older than a row that another agent has created.
        let is_gone = |since: &Instant| lineage.asked >= *since + LISTED_WITHIN;
        self.absent.iter().filter(|(_, since)| is_gone(since)).map(|(shard, _)| shard.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Leases;
    use crate::source::Lineage;

    #[test]
    fn a_parent_is_in_doubt_until_a_second_list_shows_its_children() {
        let shard = |name: &str| ShardId(name.into());
        let list = |shards: &[(&str, Option<&str>)]| -> Lineage {
            shards.iter().map(|(name, parent)| (shard(name), parent.map(shard))).collect()
        };
        let (mut missing, leases) = (Missing::default(), Leases::new());
        let mut in_doubt = |lineage: &Lineage| missing.in_doubt(&Family { lineage, leases: &leases });
        let alone = list(&[("parent", None)]);
        assert!(in_doubt(&alone).is_empty(), "without children, it holds a watermark back by itself");
        let first = list(&[("parent", None), ("one", Some("parent"))]);
        let parent = BTreeSet::from([shard("parent")]);
        assert_eq!((in_doubt(&first), in_doubt(&first)), (parent.clone(), parent));
        let second = list(&[("parent", None), ("one", Some("parent")), ("other", Some("parent"))]);
        assert!(in_doubt(&second).is_empty());
    }
}
