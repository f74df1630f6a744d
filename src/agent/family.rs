//! The lineage of shards, by the list of the stream's shards and by the leases together.

use std::collections::BTreeSet;

use crate::control::Leases;
use crate::source::{Lineage, ShardId};

/// A list may miss an existing shard, and may be older than a lease.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family<'a> {
    pub(super) lineage: &'a Lineage,
    pub(super) leases: &'a Leases,
}

impl<'a> Family<'a> {
    /// The shard's parent, as long as it is listed or has a lease: then it must be read first.
    pub(super) fn parent(&self, shard: &ShardId) -> Option<&'a ShardId> {
        let parent = self.named_parent(shard)?;
        self.knows(parent).then_some(parent)
    }

    /// The shard's ancestors that are listed or have leases, oldest first.
    pub(super) fn ancestors(&self, shard: &ShardId) -> Vec<ShardId> {
        let ancestors = std::iter::successors(self.parent(shard), |shard| self.parent(shard));
        let mut ancestors: Vec<ShardId> = ancestors.cloned().collect();
        ancestors.reverse();
        ancestors
    }

    /// The parent that a shard without a lease names, if nothing else is known about that parent: it is
    /// trimmed, or the list misses it.
    pub(super) fn unknown_parent(&self, shard: &ShardId) -> Option<&'a ShardId> {
        self.named_parent(shard).filter(|parent| !self.knows(parent))
    }

    /// The shards known to have children.
    pub(super) fn parents(&self) -> BTreeSet<&'a ShardId> {
        let all = self.lineage.shards().chain(self.leases.keys());
        all.filter_map(|child| self.named_parent(child)).collect()
    }

    fn named_parent(&self, shard: &ShardId) -> Option<&'a ShardId> {
        let recorded = || self.leases.get(shard)?.parent.as_ref();
        self.lineage.named_parent(shard).or_else(recorded)
    }

    fn knows(&self, shard: &ShardId) -> bool {
        self.lineage.contains(shard) || self.leases.contains_key(shard)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::control::{Lease, Leases};

    fn shard(name: &str) -> ShardId {
        ShardId(name.into())
    }

    #[test]
    fn a_parent_that_the_list_misses_is_known_by_its_lease() {
        let listed: Lineage = [("b", Some("a")), ("d", Some("c")), ("f", None)]
            .into_iter()
            .map(|(name, parent)| (shard(name), parent.map(shard)))
            .collect();
        let lease = |name: &str, parent: Option<&str>| {
            let parent = parent.map(shard);
            (
                shard(name),
                Lease {
                    shard: shard(name),
                    parent,
                    owner: None,
                    counter: 0,
                    since_millis: 0,
                    made_millis: 0,
                    jumps: Vec::new(),
                    checkpoints: BTreeMap::new(),
                },
            )
        };
        let leases = Leases::from([
            lease("a", None),
            lease("b", Some("a")),
            lease("f", Some("e")),
            lease("e", Some("b")),
        ]);
        let family = Family { lineage: &listed, leases: &leases };
        assert_eq!(family.parent(&shard("b")), Some(&shard("a")));
        // Trimmed, or missed: nothing else is known about it.
        assert_eq!(
            (family.parent(&shard("d")), family.unknown_parent(&shard("d"))),
            (None, Some(&shard("c")))
        );
        assert_eq!(family.ancestors(&shard("f")), [shard("a"), shard("b"), shard("e")]);
        let parents = family.parents();
        assert!(parents.contains(&shard("c")) && !parents.contains(&shard("f")));
    }
}
