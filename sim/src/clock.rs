//! Virtual time, and the clocks of the regions, which differ from it and from each other.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_smithy_async::time::TimeSource;
use tokio::time::Instant;

/// When every simulation starts, in milliseconds since the Unix epoch: 2026-11-24, 00:00:00 UTC.
pub const EPOCH_MILLIS: u64 = 1_795_478_400_000;

/// Virtual time, counted from the start of the simulation.
#[derive(Clone, Copy, Debug)]
pub struct SimClock {
    start: Instant,
}

impl SimClock {
    /// Starts now; the runtime's time must be paused.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Milliseconds since the start.
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The moment that many milliseconds after the start.
    pub fn instant(&self, at: u64) -> Instant {
        self.start + Duration::from_millis(at)
    }
}

/// The time of day that the SDK sees.
impl TimeSource for SimClock {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(EPOCH_MILLIS + SimClock::now(self))
    }
}

/// One region's own clock.
#[derive(Clone, Copy, Debug)]
pub struct RegionClock {
    /// How far it is off, in milliseconds.
    pub offset: i64,
    /// Creation times are multiples of this many milliseconds.
    pub granularity: u64,
}

impl RegionClock {
    /// The time of day there, in milliseconds since the Unix epoch.
    pub fn wall(&self, now: u64) -> u64 {
        (EPOCH_MILLIS + now).saturating_add_signed(self.offset)
    }

    /// The creation time that a record gets now.
    pub fn creation(&self, now: u64) -> u64 {
        let wall = self.wall(now);
        wall - wall % self.granularity
    }
}
