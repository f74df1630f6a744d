//! What has become of a feed's events.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// What has become of a feed's events, since the agent started.
#[derive(Debug, Default)]
pub struct FeedCounts {
    delivered: AtomicU64,
    filtered: AtomicU64,
    retried: AtomicU64,
}

/// A feed's counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FeedSnapshot {
    /// Events that the sink has taken.
    pub delivered: u64,
    /// Events that no filter of the feed matches.
    pub filtered: u64,
    /// Batches that failed, and were tried again.
    pub retried: u64,
}

impl FeedCounts {
    pub fn snapshot(&self) -> FeedSnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FeedSnapshot {
            delivered: read(&self.delivered),
            filtered: read(&self.filtered),
            retried: read(&self.retried),
        }
    }

    pub(super) fn delivered(&self, events: usize) {
        self.delivered.fetch_add(u64::try_from(events).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn filtered(&self) {
        self.filtered.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn retried(&self) {
        self.retried.fetch_add(1, Ordering::Relaxed);
    }
}
