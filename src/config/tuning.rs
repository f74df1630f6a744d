//! `[tuning]`: what may be tuned, and the times that follow from it.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

/// What may be tuned. The defaults need no thought.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tuning {
    /// How often a shard is asked for records while they come.
    #[serde(deserialize_with = "duration")]
    pub poll_interval: Duration,
    /// How often a shard is asked that has had no record for half a minute.
    #[serde(deserialize_with = "duration")]
    pub idle_poll_interval: Duration,
    /// How long an agent may be silent before others take its shards.
    #[serde(deserialize_with = "duration")]
    pub lease_duration: Duration,
    /// How often progress is made durable; what a crash repeats is at most this much.
    #[serde(deserialize_with = "duration")]
    pub checkpoint_interval: Duration,
    /// How many keys are written at once at each peer, at most; fewer while it throttles, and where fewer at once
    /// make as many a second.
    pub concurrency: usize,
    /// How much may wait for one peer, in MiB, before the peer gets a cursor of its own.
    pub queue_mib: usize,
    /// How many keys are remembered in memory; what is more is on disk. Beyond, local writes are stamped in place.
    pub memory_keys: usize,
    /// Where files for what is remembered on disk are made; by default, where the system has temporary ones.
    pub spill_directory: Option<PathBuf>,
    /// How long a stream is read on before what a watermark says is taken as settled.
    #[serde(deserialize_with = "duration")]
    pub settle: Duration,
    /// How long the streams keep records: 24 hours on AWS, perhaps less on another store.
    #[serde(deserialize_with = "duration")]
    pub stream_retention: Duration,
    /// How long stopping may take in all, whatever answers or does not.
    #[serde(deserialize_with = "duration")]
    pub drain_timeout: Duration,
    /// How long a starting agent waits for its own region to answer.
    #[serde(deserialize_with = "duration")]
    pub startup_timeout: Duration,
    /// How often new tables are looked for, and whether those that are replicated are still there;
    /// the longest that a table which can't be replicated waits for the next try.
    #[serde(deserialize_with = "duration")]
    pub discovery_interval: Duration,
    /// How often each agent reports to all regions how it fares, and measures the lag to them.
    #[serde(deserialize_with = "duration")]
    pub heartbeat_interval: Duration,
    /// How long a shard of its own may go unread before an agent counts as dead, and should be
    /// restarted.
    #[serde(deserialize_with = "duration")]
    pub liveness_timeout: Duration,
    /// How long a dead letter is kept, in days.
    pub dead_letter_days: u32,
    /// How long a recorded conflict is kept, in days.
    pub conflict_days: u32,
    /// For tests, which have no time: intervals that nothing shows to be safe are taken.
    pub unproven: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            poll_interval: Duration::from_millis(250),
            idle_poll_interval: Duration::from_millis(500),
            lease_duration: Duration::from_secs(5),
            checkpoint_interval: Duration::from_secs(5),
            concurrency: 64,
            queue_mib: 16,
            memory_keys: 1_000_000,
            spill_directory: None,
            settle: Duration::from_mins(1),
            stream_retention: Duration::from_hours(24),
            drain_timeout: Duration::from_secs(30),
            startup_timeout: Duration::from_secs(30),
            discovery_interval: Duration::from_mins(1),
            heartbeat_interval: Duration::from_secs(10),
            liveness_timeout: Duration::from_mins(2),
            dead_letter_days: 30,
            conflict_days: 30,
            unproven: false,
        }
    }
}

impl Tuning {
    /// How long an agent may write after it has last seen that a lease is its own. A write that was
    /// begun then, and takes its longest, lands well within `settle`.
    pub(crate) fn tenure(&self) -> Duration {
        self.settle / 2
    }

    /// How long a stopping agent waits for writes under way: what is left of `drain_timeout` is for checkpoints, and
    /// for giving up leases.
    pub(crate) fn draining(&self) -> Duration {
        self.drain_timeout / 3 * 2
    }

    /// How long a stopping agent takes at most; what is left of `drain_timeout` is for the last metrics.
    pub(crate) fn stopping(&self) -> Duration {
        self.drain_timeout / 10 * 9
    }

    /// How long a hold may go without being renewed until its seeder counts as gone. By then
    /// nothing of what it wrote under it can still land.
    pub(crate) fn hold_lapse(&self) -> Duration {
        self.settle * 5
    }

    /// How often the leases are looked at: less often where there are many, since all are read.
    pub(crate) fn lease_interval(&self, leases: usize) -> Duration {
        let many = Duration::from_millis(5 * u64::try_from(leases).unwrap_or(u64::MAX));
        self.checkpoint_interval.max(many).min(self.settle / 4)
    }
}

/// Reads a time above zero, as people write one.
pub(super) fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let expected = "expected a time above zero such as \"250ms\", \"5s\" or \"2m\"";
    match humantime::parse_duration(&text) {
        Ok(time) if !time.is_zero() => Ok(time),
        Ok(_) => Err(serde::de::Error::custom(expected)),
        Err(error) => Err(serde::de::Error::custom(format!("{error}; {expected}"))),
    }
}
