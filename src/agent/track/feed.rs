//! How a track treats one destination.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Meeting;
use crate::agent::progress::{Needs, Progress};
use crate::control::Checkpoint;
use crate::deliver::{EventJob, Ledger};
use crate::source::Position;

/// How far creation times must move the durable promise to be worth a write.
const WORTH_A_WRITE_MILLIS: u64 = 60_000;

/// How a track treats one destination.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) ledger: Arc<Ledger>,
    /// How much of the shard was done before this track started.
    pub(super) start: Position,
    pub(super) state: FeedState,
    pub(super) held_up: Duration,
    /// What the lease says; `None` for a destination that it does not name yet.
    pub(super) saved: Option<Checkpoint>,
    /// Events that wait until another track has delivered what comes before them.
    pub(super) kept: Kept,
}

/// Events that are kept, and their size.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) events: Vec<EventJob>,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) enum FeedState {
    Fed,
    /// Fed, while another track still does what came before.
    Joining(Arc<watch::Sender<Meeting>>),
    /// No longer fed; what it was given, up to here, is still in progress.
    Dropped(Box<Dropped>),
}

/// The track's position when it dropped a peer.
#[derive(Debug)]
pub(super) struct Dropped {
    pub(super) fed_to: u64,
    /// When the first record that it was not given was created.
    pub(super) created_millis: u64,
    pub(super) progress: Progress,
    pub(super) needs: Needs,
}

impl Feed {
    pub(super) fn new(state: FeedState, start: Position, saved: Option<Checkpoint>) -> Self {
        Self { ledger: Arc::default(), start, state, held_up: Duration::ZERO, saved, kept: Kept::default() }
    }

    pub(super) fn is_fed(&self) -> bool {
        matches!(self.state, FeedState::Fed)
    }

    pub(super) fn is_joining(&self) -> bool {
        matches!(self.state, FeedState::Joining(_))
    }

    pub(super) fn is_dropped(&self) -> bool {
        matches!(self.state, FeedState::Dropped(_))
    }

    /// Whether everything that a dropped peer was given is done, and durably so.
    pub(super) fn is_saved(&self) -> bool {
        let FeedState::Dropped(dropped) = &self.state else { return false };
        let Dropped { fed_to, progress, needs, .. } = dropped.as_ref();
        let last = progress.checkpoint(*fed_to, needs).done;
        self.ledger.is_empty() && self.saved.as_ref().is_some_and(|saved| saved.done >= last)
    }

    /// The first record that is not done.
    pub(super) fn unfinished(&self, next: u64) -> u64 {
        let fed_to = match &self.state {
            FeedState::Dropped(dropped) => dropped.fed_to,
            FeedState::Fed | FeedState::Joining(_) => next,
        };
        self.ledger.first().map_or(fed_to, |first| first.min(fed_to))
    }

    /// A checkpoint never goes back: while a restarted track re-reads, the old one holds.
    pub(super) fn advance(&self, mut checkpoint: Checkpoint) -> Checkpoint {
        if let Some(saved) = &self.saved {
            if checkpoint.done < saved.done {
                checkpoint = saved.clone();
            }
            checkpoint.millis = checkpoint.millis.max(saved.millis);
            checkpoint.barrier = checkpoint.barrier.max(saved.barrier);
        }
        checkpoint
    }

    pub(super) fn is_worth_saving(&self, checkpoint: &Checkpoint) -> bool {
        self.saved.as_ref().is_none_or(|saved| {
            saved.done != checkpoint.done
                || saved.rewind != checkpoint.rewind
                || saved.barrier < checkpoint.barrier
                || checkpoint.millis >= saved.millis + WORTH_A_WRITE_MILLIS
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Floors;

    fn checkpoint(done: &str, rewind: &str, millis: u64, barrier: u64) -> Checkpoint {
        let rewind = [(crate::source::ShardId("s".into()), Position::from(rewind))].into();
        let (done, floors, terms) = (Position::from(done), Floors::default(), Vec::new());
        Checkpoint { done, rewind, floors, terms, millis, barrier }
    }

    fn fed(saved: Option<Checkpoint>) -> Feed {
        Feed::new(FeedState::Fed, Position::TrimHorizon, saved)
    }

    #[test]
    fn a_checkpoint_never_goes_back_and_is_saved_when_it_says_more() {
        let saved = checkpoint("20", "10", 100_000, 3);
        for (next, expected, is_saved) in [
            // Read again from an earlier position: what it would say is not true yet.
            (checkpoint("15", "5", 90_000, 0), checkpoint("20", "10", 100_000, 3), false),
            (checkpoint("15", "5", 900_000, 4), checkpoint("20", "10", 100_000, 3), false),
            (checkpoint("20", "10", 159_999, 3), checkpoint("20", "10", 159_999, 3), false),
            (checkpoint("20", "10", 160_000, 3), checkpoint("20", "10", 160_000, 3), true),
            (checkpoint("20", "10", 0, 4), checkpoint("20", "10", 100_000, 4), true),
            (checkpoint("20", "10", 100_000, 3), checkpoint("20", "10", 100_000, 3), false),
            (checkpoint("20", "12", 100_000, 3), checkpoint("20", "12", 100_000, 3), true),
            (checkpoint("21", "10", 90_000, 2), checkpoint("21", "10", 100_000, 3), true),
            (checkpoint("SHARD_END", "10", 0, 0), checkpoint("SHARD_END", "10", 100_000, 3), true),
        ] {
            let feed = fed(Some(saved.clone()));
            let advanced = feed.advance(next.clone());
            assert_eq!(advanced, expected, "{next:?}");
            assert_eq!(feed.is_worth_saving(&advanced), is_saved, "{next:?}");
        }
        let new = fed(None);
        assert_eq!(new.advance(saved.clone()), saved);
        assert!(new.is_worth_saving(&saved), "the lease names the destination from now on");
    }

    #[test]
    fn what_is_in_progress_is_not_finished() {
        let feed = fed(None);
        assert_eq!(feed.unfinished(9), 9);
        feed.ledger.begin(5, 0);
        feed.ledger.begin(7, 0);
        assert_eq!(feed.unfinished(9), 5);
        feed.ledger.finish(5);
        assert_eq!(feed.unfinished(9), 7);
        feed.ledger.finish(7);
        assert_eq!(feed.unfinished(9), 9);
    }
}
