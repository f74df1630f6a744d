//! What a track makes durable, and what it may then forget.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::feed::{Feed, FeedState};
use super::{Notice, Track};
use crate::agent::progress::Needs;
use crate::agent::shared::{Shared, save_in_time};
use crate::clock::wall_millis;
use crate::config::Tuning;
use crate::control::{Checkpoint, Held};
use crate::destination::Destination;
use crate::protocol::{Hlc, Origin};
use crate::spill::SpillError;

/// How many floors may wait for the stream to be read; more are useless.
const UNSETTLED: usize = 64;

impl Track {
    pub(super) fn needs(&self) -> Needs {
        Needs { oldest: self.oldest, floors: Arc::clone(self.terms.floors()) }
    }

    /// Applies watermarks, forgets what may be forgotten, and makes progress durable. Returns whether all of
    /// it now is.
    pub(super) async fn checkpoint(&mut self) -> bool {
        while let Some(gap) = self.unmarked.last() {
            // Without its mark, a checkpoint would hide the gap.
            if !self.shared.mark(gap).await {
                return false;
            }
            self.unmarked.pop();
        }
        self.settle();
        self.forget().await;
        let now = self.needs();
        let mut changed: Vec<(Destination, Checkpoint)> = Vec::new();
        let mut least = self.progress.next();
        for (destination, feed) in &self.feeds {
            let unfinished = feed.unfinished(self.progress.next());
            let checkpoint = match &feed.state {
                FeedState::Joining(_) => {
                    least = least.min(unfinished);
                    continue;
                }
                FeedState::Fed => {
                    least = least.min(unfinished);
                    self.progress.checkpoint(unfinished, &now)
                }
                FeedState::Dropped(dropped) => dropped.progress.checkpoint(unfinished, &dropped.needs),
            };
            let checkpoint = feed.advance(checkpoint);
            if feed.is_worth_saving(&checkpoint) {
                changed.push((destination.clone(), checkpoint));
            }
        }
        let durable = changed.is_empty() || self.save(&changed).await;
        if durable {
            for (destination, checkpoint) in changed {
                if let Some(feed) = self.feeds.get_mut(&destination) {
                    feed.saved = Some(checkpoint);
                }
            }
        }
        self.release_dropped();
        self.progress.prune(least, &now);
        if self.progress.is_closed() {
            // No more pages come that would update this.
            self.note_backlogs(Some(Duration::ZERO), wall_millis());
        }
        durable
    }

    /// Saves what has changed. Returns whether that is durable.
    async fn save(&self, changed: &[(Destination, Checkpoint)]) -> bool {
        let Shared { control, table, space, origin, .. } = &*self.shared;
        let lease = &self.holding.lease;
        let mut saves = self.holding.saves.lock().await;
        *saves += 1;
        match save_in_time(control.save_checkpoints(space, lease, *saves, changed)).await {
            Ok(Held::Yes) => return true,
            Ok(Held::No) => {
                info!(region = %origin, table, shard = %lease.shard, "another agent has taken the shard");
                self.holding.tenure.end();
            }
            Err(fault) => {
                warn!(region = %origin, table, %fault, "can't save a checkpoint in the control table; retrying");
            }
        }
        false
    }

    /// Raises the floors by the watermarks, including the agent's own, that were seen before everything that
    /// has now been read.
    fn settle(&mut self) {
        let mut floors = self.shared.arrived.from_peers.borrow().clone();
        floors.raise(&self.shared.origin, *self.shared.arrived.own.borrow());
        floors.raise(&Origin::seeding(), Hlc::from(self.shared.asked.borrow().over));
        if self.unsettled.back().is_none_or(|(_, last)| *last != floors) {
            if self.unsettled.len() == UNSETTLED {
                self.unsettled.pop_back();
            }
            self.unsettled.push_back((Instant::now(), floors));
        }
        let Some(read_to) = self.progress.read_to() else { return };
        while self.unsettled.front().is_some_and(|(seen, _)| *seen <= read_to) {
            if let Some((_, watermarks)) = self.unsettled.pop_front() {
                self.floors.raise_all(&watermarks);
                self.terms.raise(&watermarks);
            }
        }
    }

    /// Forgets what may be forgotten; at the end of the shard everything, once it is known how far back that
    /// reaches.
    async fn forget(&mut self) {
        if self.is_over {
            return;
        }
        let hold = self.shared.asked.borrow().hold;
        // A failure to read is noticed when a record needs the key.
        let _ = self.keys.forget(&self.shared.peers, &self.floors, hold);
        self.oldest = self.keys.oldest().unwrap_or_else(|| self.progress.next());
        if self.progress.is_closed() {
            self.keys.clear();
            self.is_over = true;
        }
        while self.make_room() {
            tokio::task::yield_now().await;
        }
    }

    /// Moves keys to disk if there are too many in memory. Returns whether any were moved.
    pub(super) fn make_room(&mut self) -> bool {
        self.keys.make_room().unwrap_or_else(|error| {
            let Shared { origin: region, table, tuning: Tuning { memory_keys, .. }, .. } = &*self.shared;
            self.shared.notes.tally.spill_failures.add();
            error!(
                %region, table, %error, memory_keys,
                "keys beyond memory_keys can't be moved to disk: they stay in memory, which grows with the backlog; \
                 nothing is lost. Free space in that folder, or set spill_directory to another one; retrying in a \
                 minute"
            );
            false
        })
    }

    /// Keys that were moved to disk can't be read, so nothing more can be judged: the lease is taken again,
    /// and the keys are rebuilt from the stream.
    pub(super) fn begin_again(&self, error: &SpillError) {
        let Shared { origin: region, table, .. } = &*self.shared;
        self.shared.notes.tally.spill_failures.add();
        error!(
            %region, table, shard = %self.holding.lease.shard, %error,
            "can't read keys that were moved to disk: the shard is read again from its last checkpoint, and nothing is \
             lost. Check the disk, or set spill_directory to another folder"
        );
        self.holding.tenure.end();
    }

    /// Hands on the peers that have done everything they were given.
    fn release_dropped(&mut self) {
        let finished = |feed: &Feed| feed.is_dropped() && feed.is_saved();
        let released: Vec<Destination> =
            self.feeds.iter().filter(|(_, feed)| finished(feed)).map(|(peer, _)| peer.clone()).collect();
        for peer in released {
            if let Some(saved) = self.feeds.remove(&peer).and_then(|feed| feed.saved) {
                let _ = self.notices.send(Notice::Dropped(peer, saved));
            }
        }
    }
}
