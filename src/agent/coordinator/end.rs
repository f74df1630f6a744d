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
                self.shared.stream.look();
            }
        }
        let is_over = left.is_empty();
        behind.note(left, rows.clone());
        is_over
    }

    /// Reports to each peer what it durably has: all writes older than its least advanced shard.
    pub(super) fn promise(&mut self, lineage: &Lineage, rows: &Leases) {
        let family = Family { lineage, leases: rows };
        for (peer, promise) in &*self.promises {
            let millis = family.promise(peer);
            let hlc = Hlc::at_millis(millis);
            if let Some(now) = lineage.listed_millis
                && let Some(Backlog { age, left }) =
                    self.retention.look(peer, millis, now, self.shared.tuning.stream_retention)
            {
                let Shared { origin, table, .. } = &*self.shared;
                let (backlog, left) = (minutes(age), minutes(left));
                warn!(
                    region = %origin, %peer, table, backlog, left,
                    "the peer lacks writes of this age, and streams keep records for a day only: bring the peer back \
                     within the time left, or run `tradewind verify` afterwards"
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
