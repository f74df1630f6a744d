//! `[tuning]`: what may be tuned, and the times that follow from it.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

/// What may be tuned. The defaults rarely need a change.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tuning {
    /// How often a shard is polled while records arrive.
    #[serde(deserialize_with = "duration")]
    pub poll_interval: Duration,
    /// How often a shard is polled that has had no record for half a minute.
    #[serde(deserialize_with = "duration")]
    pub idle_poll_interval: Duration,
    /// How long an agent may be silent before others take its shards.
    #[serde(deserialize_with = "duration")]
    pub lease_duration: Duration,
    /// How often progress is saved; a crash repeats at most this much.
    #[serde(deserialize_with = "duration")]
    pub checkpoint_interval: Duration,
    /// How many keys are written concurrently at each peer, at most; fewer while it throttles, and where
    /// fewer give the same rate.
    pub concurrency: usize,
    /// How much may wait for one peer, in MiB, before the peer gets a cursor of its own.
    pub queue_mib: usize,
    /// How many keys are remembered in memory; further keys are on disk. Beyond, local writes are stamped in place.
    pub memory_keys: usize,
    /// Where the files for keys remembered on disk are created; by default, in the system's temporary
    /// directory.
    pub spill_directory: Option<PathBuf>,
    /// How long a stream is read further before what a watermark says counts as settled.
    #[serde(deserialize_with = "duration")]
    pub settle: Duration,
    /// How long the streams keep records: 24 hours on AWS, perhaps less on another store.
    #[serde(deserialize_with = "duration")]
    pub stream_retention: Duration,
    /// How long stopping may take in all, whether or not anything answers.
    #[serde(deserialize_with = "duration")]
    pub drain_timeout: Duration,
    /// How long a starting agent waits for its own region to answer.
    #[serde(deserialize_with = "duration")]
    pub startup_timeout: Duration,
    /// How often new tables are looked for, and replicated ones are checked to exist; also the longest pause
    /// before a table that can't be replicated is retried.
    #[serde(deserialize_with = "duration")]
    pub discovery_interval: Duration,
    /// How often each agent reports its state to all regions, and measures the lag to them.
    #[serde(deserialize_with = "duration")]
    pub heartbeat_interval: Duration,
    /// How long a shard of its own may go unread before an agent counts as dead, and should be restarted.
    #[serde(deserialize_with = "duration")]
    pub liveness_timeout: Duration,
    /// How long a dead letter is kept, in days.
    pub dead_letter_days: u32,
    /// How long a recorded conflict is kept, in days.
    pub conflict_days: u32,
    /// For tests, which are short of time: accepts intervals that are not proven to be safe.
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
    /// How long an agent may write after it last confirmed that it holds a lease. Even the slowest write
    /// begun by then takes effect well within `settle`.
    pub(crate) fn tenure(&self) -> Duration {
        self.settle / 2
    }

    /// How long a stopping agent waits for writes in progress: the rest of `drain_timeout` is for
    /// checkpoints, and for releasing leases.
    pub(crate) fn draining(&self) -> Duration {
        self.drain_timeout / 3 * 2
    }

    /// How long a stopping agent takes at most; the rest of `drain_timeout` is for the last metrics.
    pub(crate) fn stopping(&self) -> Duration {
        self.drain_timeout / 10 * 9
    }

    /// How long a hold may go without being renewed before its seeder counts as gone. By then nothing that it
    /// wrote under the hold can still take effect.
    pub(crate) fn hold_lapse(&self) -> Duration {
        self.settle * 5
    }

    /// How often the leases are checked: less often where there are many, since all are read.
    pub(crate) fn lease_interval(&self, leases: usize) -> Duration {
        let many = Duration::from_millis(5 * u64::try_from(leases).unwrap_or(u64::MAX));
        self.checkpoint_interval.max(many).min(self.settle / 4)
    }
}

/// Parses a duration above zero, as people write one.
pub(super) fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let expected = "expected a time above zero such as \"250ms\", \"5s\" or \"2m\"";
    match humantime::parse_duration(&text) {
        Ok(time) if !time.is_zero() => Ok(time),
        Ok(_) => Err(serde::de::Error::custom(expected)),
        Err(error) => Err(serde::de::Error::custom(format!("{error}; {expected}"))),
    }
}
