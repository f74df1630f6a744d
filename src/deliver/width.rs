//! How many writes to one destination are in flight at once.

use tokio::time::Instant;

use super::knee::Knee;
use crate::fault::FaultKind;

/// As many as make the most writes a second, and fewer while the destination throttles.
///
/// Under throttling it rises by one for each round of successful writes, and halves when one is throttled, as
/// TCP's windows do (additive increase, multiplicative decrease; Chiu and Jain, 1989).
#[derive(Debug)]
pub(super) struct Width {
    knee: Knee,
    /// The limit set by throttling.
    now: usize,
    most: usize,
    /// Successful writes since the limit last changed.
    well: usize,
    /// When the limit was last halved: writes already in flight then tell nothing new.
    halved: Option<Instant>,
}

impl Width {
    /// Starts at the largest width: tables take bursts.
    pub(super) fn new(most: usize) -> Self {
        let most = most.max(1);
        Self { knee: Knee::new(most), now: most, most, well: 0, halved: None }
    }

    pub(super) fn allows(&self, under_way: usize) -> bool {
        under_way < self.now.min(self.knee.now())
    }

    /// Records a successful write; `under_way` counts those in flight including it, and others may have been
    /// waiting for their turn.
    pub(super) fn went_well(&mut self, under_way: usize, others_wait: bool) {
        let now = Instant::now();
        if others_wait && under_way >= self.knee.now() {
            self.knee.answered(now);
        } else {
            self.knee.disturbed(now);
        }
        self.well += 1;
        if self.well >= self.now {
            self.now = self.most.min(self.now + 1);
            self.well = 0;
        }
    }

    /// Records the failure of a write that started at this moment. A hot partition says nothing about other
    /// keys.
    pub(super) fn failed(&mut self, kind: FaultKind, begun: Instant) {
        if kind == FaultKind::HotPartition {
            return;
        }
        self.knee.disturbed(Instant::now());
        if kind == FaultKind::Throttled && self.halved.is_none_or(|halved| begun >= halved) {
            self.now = (self.now / 2).max(1);
            self.well = 0;
            self.halved = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_halves_once_for_all_that_was_under_way_and_comes_back_one_by_one() {
        let mut width = Width::new(16);
        let begun = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        (0..16).for_each(|_| width.failed(FaultKind::Throttled, begun));
        assert!(width.allows(7) && !width.allows(8));
        (0..8).for_each(|_| width.went_well(1, false));
        assert!(width.allows(8) && !width.allows(9));
        for _ in 0..9 {
            width.failed(FaultKind::Throttled, Instant::now());
        }
        assert!(width.allows(0) && !width.allows(1), "the width reached zero");
        (0..1000).for_each(|_| width.went_well(1, false));
        assert!(width.allows(15) && !width.allows(16), "the width exceeded its limit");
    }

    #[tokio::test(start_paused = true)]
    async fn a_hot_partition_leaves_other_keys_their_width() {
        let mut width = Width::new(16);
        for _ in 0..100 {
            width.failed(FaultKind::HotPartition, Instant::now());
            width.went_well(1, false);
        }
        assert!(width.allows(15));
    }
}
