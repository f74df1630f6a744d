//! Listed shards without a lease, and leases whose shards are not listed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::agent::family::Family;
use crate::source::ShardId;

/// An existing shard is listed at the latest this long after its creation.
pub(super) const LISTED_WITHIN: Duration = Duration::from_mins(1);

/// How many lists must lack a shard before it counts as missing: one may lack it by chance, and so may two in a row.
const LISTS: u32 = 5;

/// What is missing on either side, according to the last lists. One list may lack a shard, and may be older
/// than a lease.
#[derive(Debug, Default)]
pub(super) struct Missing {
    /// The leases whose shards are not listed, and since when that is known.
    absent: BTreeMap<ShardId, Instant>,
    /// The parents that shards without a lease name and that nothing else shows.
    orphans: BTreeMap<ShardId, Lists>,
    /// The shards with children.
    parents: BTreeMap<ShardId, Lists>,
}

/// How many lists have shown something, and when the last of them was requested.
#[derive(Debug, Default)]
struct Lists {
    count: u32,
    last: Option<Instant>,
}

impl Lists {
    fn note(&mut self, asked: Instant) {
        if self.last.replace(asked) != Some(asked) {
            self.count += 1;
        }
    }

    fn leave_doubt(&self) -> bool {
        self.count < LISTS
    }
}

impl Missing {
    /// Returns the shards that need a lease, and whether another list is needed for the rest.
    ///
    /// A shard with an unknown parent gets a lease when several lists lack the parent: then it is trimmed. A row created
    /// too early would let the shard be read before its parent.
    pub(super) fn without_lease(&mut self, family: &Family<'_>) -> (Vec<ShardId>, bool) {
        let Family { lineage, leases } = family;
        let missing: Vec<ShardId> =
            lineage.shards().filter(|shard| !leases.contains_key(*shard)).cloned().collect();
        let unknown: BTreeSet<&ShardId> =
            missing.iter().filter_map(|shard| family.unknown_parent(shard)).collect();
        self.orphans.retain(|parent, _| unknown.contains(parent));
        for parent in unknown {
            self.orphans.entry(parent.clone()).or_default().note(lineage.asked);
        }
        let is_in_doubt = |parent: &ShardId| self.orphans.get(parent).is_some_and(Lists::leave_doubt);
        let (doubtful, sure): (Vec<_>, Vec<_>) =
            missing.into_iter().partition(|shard| family.unknown_parent(shard).is_some_and(is_in_doubt));
        (sure, !doubtful.is_empty())
    }

    /// The parents of which too few lists have shown children: they may lack a child, of which nobody has a lease yet. As
    /// long as there are any, another list is needed.
    pub(super) fn in_doubt(&mut self, family: &Family<'_>) -> BTreeSet<ShardId> {
        let Family { lineage, .. } = family;
        let parents = family.parents();
        self.parents.retain(|parent, _| parents.contains(parent));
        for parent in parents {
            self.parents.entry(parent.clone()).or_default().note(lineage.asked);
        }
        let in_doubt = self.parents.iter().filter(|(_, lists)| lists.leave_doubt());
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

    fn shard(name: &str) -> ShardId {
        ShardId(name.into())
    }

    fn list(shards: &[(&str, Option<&str>)]) -> Lineage {
        shards.iter().map(|(name, parent)| (shard(name), parent.map(shard))).collect()
    }

    #[test]
    fn a_parent_is_in_doubt_until_enough_lists_have_shown_its_children() {
        let (mut missing, leases) = (Missing::default(), Leases::new());
        let mut in_doubt = |lineage: &Lineage| missing.in_doubt(&Family { lineage, leases: &leases });
        let alone = list(&[("parent", None)]);
        assert!(in_doubt(&alone).is_empty(), "without children, it holds a watermark back by itself");
        let parent = BTreeSet::from([shard("parent")]);
        for _ in 1..LISTS {
            let lists = list(&[("parent", None), ("one", Some("parent"))]);
            // A list counts once, however often it is looked at.
            assert_eq!((in_doubt(&lists), in_doubt(&lists)), (parent.clone(), parent.clone()));
        }
        let last = list(&[("parent", None), ("one", Some("parent")), ("other", Some("parent"))]);
        assert!(in_doubt(&last).is_empty());
    }

    #[test]
    fn a_shard_whose_parent_is_unknown_waits_for_enough_lists_that_lack_it() {
        let (mut missing, leases) = (Missing::default(), Leases::new());
        let mut without = |lineage: &Lineage| missing.without_lease(&Family { lineage, leases: &leases });
        let orphan = || list(&[("child", Some("parent"))]);
        for _ in 1..LISTS {
            assert_eq!(without(&orphan()), (Vec::new(), true));
        }
        // A list that shows the parent after all begins the count again.
        let both = list(&[("child", Some("parent")), ("parent", None)]);
        assert_eq!(without(&both), (vec![shard("child"), shard("parent")], false));
        for _ in 1..LISTS {
            assert_eq!(without(&orphan()), (Vec::new(), true));
        }
        assert_eq!(without(&orphan()), (vec![shard("child")], false));
    }
}
