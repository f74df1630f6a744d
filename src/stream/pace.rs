//! Keeps all readers of one stream, together, below the service's quotas.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::ShardId;

/// The least time between two calls for records of one shard: 5 a second are allowed.
const RECORDS: Duration = Duration::from_millis(205);
/// The least time between two calls for the shards: 10 a second are allowed.
const SHARDS: Duration = Duration::from_millis(105);

/// When each kind of call may be made again. Every attempt counts, not only those that succeed.
#[derive(Debug, Default)]
pub struct Pace {
    records: Mutex<HashMap<ShardId, Instant>>,
    shards: Mutex<Option<Instant>>,
}

impl Pace {
    /// Waits until records of the shard may be asked for.
    pub(super) async fn records(&self, shard: &ShardId) {
        let turn = {
            let mut next = self.records.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = next.get(shard).map_or_else(Instant::now, |next| (*next).max(Instant::now()));
            next.insert(shard.clone(), turn + RECORDS);
            turn
        };
        sleep_until(turn).await;
    }

    /// Waits until the shards may be asked for.
    pub(super) async fn shards(&self) {
        let turn = {
            let mut next = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = next.map_or_else(Instant::now, |next| next.max(Instant::now()));
            *next = Some(turn + SHARDS);
            turn
        };
        sleep_until(turn).await;
    }

    /// Forgets a shard that has ended.
    pub(super) fn ended(&self, shard: &ShardId) {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).remove(shard);
    }
}
