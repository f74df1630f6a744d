//! Keeps an agent's readers within DynamoDB's limits, unless the operator asks for more, and no
//! faster than is of use.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::source::ShardId;
use tokio::time::Instant;

/// The least time between two calls for records of one shard: 5 a second are allowed.
const LEAST: Duration = Duration::from_millis(205);
/// A shard that has had no record for this long is asked less often.
const IDLE_AFTER: Duration = Duration::from_secs(30);

/// When each shard may be asked next; shared by all of an agent's readers of one stream.
#[derive(Debug)]
pub struct Pacer {
    least: Duration,
    busy: Duration,
    idle: Duration,
    next: Mutex<BTreeMap<ShardId, Instant>>,
}

impl Pacer {
    /// Lets a reader ask once in `busy` while records come, and once in `idle` when none do.
    pub fn new(busy: Duration, idle: Duration) -> Self {
        Self { least: LEAST.min(busy), busy, idle: idle.max(busy), next: Mutex::default() }
    }

    /// Waits until it is of use to ask a shard again, which the reader last asked at `asked` and which last had
    /// a record at `fresh`; `full` is whether its last page held as much as a page can.
    pub(super) async fn pause(&self, asked: Instant, fresh: Instant, full: bool) {
        let pause = match fresh.elapsed() {
            _ if full => self.least,
            quiet if quiet < IDLE_AFTER => self.busy,
            _ => self.idle,
        };
        tokio::time::sleep_until(asked + pause).await;
    }

    /// Waits until one more call for the shard's records may be made: before each attempt, since
    /// every one counts, not only those that succeed.
    pub(super) async fn attempt(&self, shard: &ShardId) {
        while let Err(turn) = self.begin(shard) {
            tokio::time::sleep_until(turn).await;
        }
    }

    /// Begins a call now, or says when to ask again: a turn that was given out ahead might be used
    /// late, and the next one then comes too soon after it.
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
                // Shards come and go; those that have not been asked lately are as good as new.
                next.retain(|_, turn| *turn > now);
                next.insert(shard.clone(), now + self.least);
                Ok(())
            }
        }
    }
}
