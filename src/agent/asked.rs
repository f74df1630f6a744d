//! Requests to a table's agents, made in its control table by whoever waits for them or seeds it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::control::HoldRow;

/// The latest requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// Report when everything written before this barrier is done.
    pub(super) barrier: u64,
    /// Forget no key until this hold, the last one, is known to be over.
    pub(super) hold: Option<u64>,
    /// All holds with a lower number are over.
    pub(super) over: u64,
}

/// Tracks which holds have live seeders.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<Option<(HoldRow, Instant)>>);

impl Holds {
    /// The requests in a table's barrier row, as just read. A hold that has not been renewed for `lapse` has
    /// lost its seeder, and is over.
    pub(super) fn look(&self, barrier: u64, row: HoldRow, lapse: Duration) -> Asked {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = match *last {
            Some((seen, since)) if seen == row => since,
            _ => Instant::now(),
        };
        *last = Some((row, since));
        let over = match row.active() {
            Some(hold) if since.elapsed() >= lapse => hold + 1,
            _ => row.over,
        };
        Asked { barrier, hold: (row.number > 0).then_some(row.number), over }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAPSE: Duration = Duration::from_mins(5);

    #[tokio::test(start_paused = true)]
    async fn a_hold_lasts_as_long_as_its_seeder_renews_it() {
        let holds = Holds::default();
        let row = |beat| HoldRow { number: 3, beat, over: 3 };
        for beat in 0..3 {
            let asked = holds.look(7, row(beat), LAPSE);
            assert_eq!(asked, Asked { barrier: 7, hold: Some(3), over: 3 });
            tokio::time::advance(Duration::from_secs(299)).await;
            assert_eq!(holds.look(7, row(beat), LAPSE), asked);
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(holds.look(7, row(2), LAPSE), Asked { barrier: 7, hold: Some(3), over: 4 });
        // Whoever comes next has another number.
        let next = HoldRow { number: 4, beat: 0, over: 3 };
        assert_eq!(holds.look(7, next, LAPSE), Asked { barrier: 7, hold: Some(4), over: 3 });
        let over = HoldRow { over: 5, ..next };
        assert_eq!(holds.look(7, over, LAPSE), Asked { barrier: 7, hold: Some(4), over: 5 });
    }
}
