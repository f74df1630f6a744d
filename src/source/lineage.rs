//! The shards of a stream and their lineage.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::ShardId;

/// The shards of a stream, each with its parent, if that is still listed.
#[derive(Clone, Debug)]
pub struct Lineage {
    parents: BTreeMap<ShardId, Option<ShardId>>,
    /// The parents that the list names, whether listed themselves or not.
    named: BTreeMap<ShardId, ShardId>,
    /// The shards with children.
    with_children: BTreeSet<ShardId>,
    /// The shards with an ending sequence number; all, if the stream is turned off.
    pub(super) ended: BTreeSet<ShardId>,
    /// When the list was requested.
    pub asked: Instant,
    /// When the list was answered, by the service's own clock, in milliseconds since the Unix epoch.
    pub listed_millis: Option<u64>,
    /// Whether the list came with its checksum: its service sends them.
    pub(super) is_summed: bool,
}

impl Lineage {
    pub fn contains(&self, shard: &ShardId) -> bool {
        self.parents.contains_key(shard)
    }

    pub fn shards(&self) -> impl Iterator<Item = &ShardId> {
        self.parents.keys()
    }

    pub fn parent(&self, shard: &ShardId) -> Option<&ShardId> {
        self.parents.get(shard)?.as_ref()
    }

    /// The shard's parent as the list names it, whether listed or not: it may be trimmed, or the list may
    /// miss it.
    pub fn named_parent(&self, shard: &ShardId) -> Option<&ShardId> {
        self.named.get(shard)
    }

    /// The shards of this list and of another one.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        let entries = |lineage: &Self| {
            let entry = |shard: &ShardId| (shard.clone(), lineage.named_parent(shard).cloned());
            lineage.shards().map(entry).collect::<Vec<_>>()
        };
        let both = entries(self).into_iter().chain(entries(other)).collect::<Self>();
        let ended = self.ended.union(&other.ended).cloned().collect();
        let is_summed = self.is_summed || other.is_summed;
        Self { ended, asked: other.asked, listed_millis: other.listed_millis, is_summed, ..both }
    }

    /// Whether nothing can be added to the shard any more. Some servers say so of every shard.
    pub(super) fn has_ended(&self, shard: &ShardId) -> bool {
        self.ended.contains(shard) || self.has_children(shard)
    }

    /// Whether the shard has children.
    pub fn has_children(&self, shard: &ShardId) -> bool {
        self.with_children.contains(shard)
    }
}

impl FromIterator<(ShardId, Option<ShardId>)> for Lineage {
    fn from_iter<T: IntoIterator<Item = (ShardId, Option<ShardId>)>>(shards: T) -> Self {
        let mut all: BTreeMap<_, _> = shards.into_iter().collect();
        let listed: Vec<ShardId> = all.keys().cloned().collect();
        let named = all.iter().filter_map(|(shard, parent)| Some((shard.clone(), parent.clone()?))).collect();
        for parent in all.values_mut() {
            if parent.as_ref().is_some_and(|parent| listed.binary_search(parent).is_err()) {
                *parent = None;
            }
        }
        let with_children = all.values().flatten().cloned().collect();
        let ended = BTreeSet::new();
        let asked = Instant::now();
        Self { parents: all, named, with_children, ended, asked, listed_millis: None, is_summed: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(name: &str) -> ShardId {
        ShardId(name.into())
    }

    #[test]
    fn a_parent_counts_only_while_it_is_listed() {
        let lineage: Lineage = [("c", Some("b")), ("b", Some("a")), ("a", Some("gone")), ("d", None)]
            .into_iter()
            .map(|(name, parent)| (shard(name), parent.map(shard)))
            .collect();
        assert_eq!(lineage.parent(&shard("c")), Some(&shard("b")));
        assert_eq!(
            (lineage.parent(&shard("a")), lineage.named_parent(&shard("a"))),
            (None, Some(&shard("gone")))
        );
        assert!(lineage.has_children(&shard("b")) && !lineage.has_children(&shard("c")));
    }

    #[test]
    fn two_lists_together_have_the_child_that_each_of_them_lacks() {
        let list = |child: &str| -> Lineage {
            [(shard("a"), None), (shard(child), Some(shard("a")))].into_iter().collect()
        };
        let both = list("b").with(&list("c"));
        assert!(both.contains(&shard("b")) && both.contains(&shard("c")) && both.has_children(&shard("a")));
    }
}
