//! What all leases together promise, and when the stream is over.

use std::collections::BTreeSet;
use std::time::Duration;

use tracing::warn;

use super::Coordinator;
use crate::agent::family::Family;
use crate::agent::retention::Backlog;
use crate::agent::shared::Shared;
use crate::control::Leases;
use crate::protocol::Hlc;
use crate::source::{Lineage, ShardId, Source};

impl Coordinator {
    /// Whether the stream has a successor and all destinations have all of it; notifies those who wait for
    /// their turn.
    pub(super) fn is_over(&mut self, lineage: &Lineage, rows: &Leases) -> bool {
        let Some(behind) = &self.behind else { return false };
        let has_row = |shard: &ShardId| rows.contains_key(shard);
        let is_whole = lineage.shards().all(has_row);
        let mut left = BTreeSet::new();
        for destination in self.shared.outlets.keys() {
            if !is_whole || !rows.values().all(|lease| lease.is_done_for(destination)) {
                self.at_end.remove(destination);
                left.insert(destination.clone());
                continue;
            }
            // One list may miss a shard.
            let first = *self.at_end.entry(destination.clone()).or_insert(lineage.asked);
            if lineage.asked == first {
                left.insert(destination.clone());
                self.shared.stream.look();
            }
        }
        let is_over = left.is_empty();
        behind.note(left, rows.clone());
        is_over
    }

    /// Reports to each replica what it durably has: all writes older than its least advanced shard. Warns of
    /// destinations that lack writes which are about to be trimmed.
    pub(super) fn promise(&mut self, lineage: &Lineage, rows: &Leases) {
        let family = Family { lineage, leases: rows };
        let in_doubt = self.missing.in_doubt(&family);
        if !in_doubt.is_empty() {
            self.shared.stream.look();
        }
        for destination in self.shared.outlets.keys() {
            let millis = family.promise(destination, |shard| !in_doubt.contains(shard));
            if let Some(now) = lineage.listed_millis
                && let Some(Backlog { age, left }) =
                    self.retention.look(destination, millis, now, self.shared.tuning.stream_retention)
            {
                let Shared { origin, table, .. } = &*self.shared;
                let (backlog, left) = (minutes(age), minutes(left));
                warn!(
                    region = %origin, destination = destination.label(origin), table, backlog, left,
                    "the destination lacks writes of this age, and streams keep records for a day only: bring it back \
                     within the time left, or run `tradewind verify` afterwards"
                );
            }
            if let Some(promise) = self.promises.get(destination) {
                promise.send_if_modified(|promised| {
                    let hlc = Hlc::at_millis(millis);
                    let raised = hlc > *promised;
                    *promised = (*promised).max(hlc);
                    raised
                });
            }
        }
    }
}

/// A time in hours and minutes, for people.
fn minutes(time: Duration) -> String {
    humantime::format_duration(Duration::from_mins(time.as_secs() / 60)).to_string()
}
