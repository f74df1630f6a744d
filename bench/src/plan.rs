//! How much of each measurement is made.

use std::time::Duration;

use tradewind::cli::Progress;

/// How much of each measurement.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many conditional writes at once are tried, to find the ceiling.
    pub concurrencies: Vec<usize>,
    /// How long each is tried.
    pub probe: Duration,
    /// The records of the backlog.
    pub records: u64,
    /// How long each steady load lasts, after as much warming up as `warm_up` says.
    pub steady: Duration,
    pub warm_up: Duration,
    /// How many writes each cost is measured with; a quarter of that with 50 KB items.
    pub cost_writes: u64,
    /// Whether progress is left to the log.
    pub quiet: bool,
}

impl Plan {
    /// For figures to rely on.
    pub fn full(records: u64) -> Self {
        Self {
            concurrencies: vec![8, 16, 32, 64, 128],
            probe: Duration::from_secs(4),
            records,
            steady: Duration::from_secs(20),
            warm_up: Duration::from_secs(5),
            cost_writes: 400,
            quiet: false,
        }
    }

    /// For a look, and for tests: under a minute, and too little for figures to rely on.
    pub fn quick(records: u64) -> Self {
        Self {
            concurrencies: vec![16, 32],
            probe: Duration::from_millis(700),
            records,
            steady: Duration::from_secs(2),
            warm_up: Duration::from_secs(1),
            cost_writes: 20,
            quiet: false,
        }
    }

    pub(crate) fn progress(&self, what: &'static str, total: Option<u64>) -> Progress {
        Progress::new(what, total, self.quiet)
    }
}
