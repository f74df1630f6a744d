//! How extensive each measurement is.

use std::time::Duration;

use tradewind::cli::Progress;

/// How extensive each measurement is.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The concurrencies to try, to find the ceiling.
    pub concurrencies: Vec<usize>,
    /// How many writes to try each with.
    pub probe_writes: u64,
    /// The records of the backlog.
    pub records: u64,
    /// How long each steady load lasts, after as much warming up as `warm_up` says.
    pub steady: Duration,
    pub warm_up: Duration,
    /// No steady load makes more writes than this, excluding the warming up.
    pub steady_writes: u32,
    /// How many writes to measure each cost with; a quarter of that with 50 KB items.
    pub cost_writes: u64,
    /// Whether progress is left to the log.
    pub quiet: bool,
}

impl Plan {
    /// For reliable figures.
    ///
    /// Backlogs are small: with DynamoDB Local and with the embedded engine, a write takes longer the more
    /// records the stream holds.
    pub fn full() -> Self {
        Self {
            concurrencies: vec![4, 8, 16, 32, 64, 128],
            probe_writes: 1_000,
            records: 3_000,
            steady: Duration::from_secs(20),
            warm_up: Duration::from_secs(2),
            steady_writes: 3_000,
            cost_writes: 400,
            quiet: false,
        }
    }

    /// For a quick look, and for tests: under a minute, and too little for reliable figures.
    pub fn quick() -> Self {
        Self {
            concurrencies: vec![16, 32],
            probe_writes: 500,
            records: 300,
            steady: Duration::from_secs(2),
            warm_up: Duration::from_secs(1),
            steady_writes: 2_000,
            cost_writes: 20,
            quiet: false,
        }
    }

    pub(crate) fn progress(&self, what: &'static str, total: Option<u64>) -> Progress {
        Progress::new(what, total, self.quiet)
    }
}
