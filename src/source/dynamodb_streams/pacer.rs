//! Keeps an agent's readers within DynamoDB's limits, unless the operator asks for more, and no faster than
//! is useful.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::source::ShardId;
use tokio::time::Instant;

/// The least time between two calls for records of one shard: 5 a second are allowed.
const LEAST: Duration = Duration::from_millis(205);
/// A shard without records for this long is polled less often.
const IDLE_AFTER: Duration = Duration::from_secs(30);

/// When each shard may be polled next; shared by all of an agent's readers of one stream.
#[derive(Debug)]
pub struct Pacer {
    least: Duration,
    busy: Duration,
    idle: Duration,
    next: Mutex<BTreeMap<ShardId, Instant>>,
}

impl Pacer {
    /// Lets a reader poll once in `busy` while records come, and once in `idle` when none do.
    pub fn new(busy: Duration, idle: Duration) -> Self {
        Self { least: LEAST.min(busy), busy, idle: idle.max(busy), next: Mutex::default() }
    }

    /// Waits until it is useful to poll a shard again, which the reader last polled at `asked` and which last
    /// had a record at `fresh`; `full` says whether its last page held as much as a page can.
    pub(super) async fn pause(&self, asked: Instant, fresh: Instant, full: bool) {
        let pause = match fresh.elapsed() {
            _ if full => self.least,
            quiet if quiet < IDLE_AFTER => self.busy,
            _ => self.idle,
        };
        tokio::time::sleep_until(asked + pause).await;
    }

    /// Waits until one more call for the shard's records may be made: before each attempt, since every one
    /// counts, not only those that succeed.
    pub(super) async fn attempt(&self, shard: &ShardId) {
        while let Err(turn) = self.begin(shard) {
            tokio::time::sleep_until(turn).await;
        }
    }

    /// Starts a call now, or returns when to ask again: a turn given out ahead might be used late, and the
    /// next one would then follow too soon.
    fn begin(&self, shard: &ShardId) -> Result<(), Instant> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match next.get_mut(shard) {
            Some(turn) if *turn > now => Err(*turn),
            Some(turn) => {
                *turn = now + self.least;
                Ok(())
            }
            None => {
                // Shards come and go; one that has not been polled lately is as good as new.
                next.retain(|_, turn| *turn > now);
                next.insert(shard.clone(), now + self.least);
                Ok(())
            }
        }
    }
}
