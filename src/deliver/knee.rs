//! Finds the concurrency beyond which more concurrent writes no longer raise throughput.

use std::time::Duration;

use tokio::time::Instant;

/// Looks for the knee of a destination's throughput, where queues begin (Jain and Ramakrishnan, 1988): while
/// more writes wait than may be in flight, it tries half and twice the width, and keeps whichever made more
/// writes a second.
///
/// Half the width is kept if it makes no fewer: the other writes only waited elsewhere. Where answers take
/// the same time however many are in flight, as with DynamoDB and across an ocean, half the width makes half
/// as many, so the width stays large. A result holds until it is measured again.
#[derive(Debug)]
pub(super) struct Knee {
    now: usize,
    least: usize,
    most: usize,
    round: Option<Round>,
    trial: Option<Trial>,
    wider_next: bool,
    /// Rounds between trials; doubles after each failed trial.
    patience: u32,
    rest: u32,
    /// When a count last completed.
    found: Option<Instant>,
}

/// A count of answers.
#[derive(Debug)]
struct Round {
    /// Answers still to come, before the count begins, from writes started at another width.
    settling: usize,
    since: Instant,
    answers: u32,
}

/// A width under trial.
#[derive(Debug)]
struct Trial {
    from: usize,
    /// Answers a second at that width.
    rate: f64,
}

impl Knee {
    /// The smallest width: a large item or a slow answer must not hold up all the others.
    const LEAST: usize = 4;
    /// How much faster a wider trial must be to be kept.
    const GAIN: f64 = 1.05;
    const FEWEST_ANSWERS: usize = 64;
    const MOST_PATIENCE: u32 = 64;
    /// How long a width holds without being found again: bursts too short to learn from get the largest.
    const MEMORY: Duration = Duration::from_secs(5);

    /// Starts at the largest width: tables take bursts.
    pub(super) fn new(most: usize) -> Self {
        Self {
            now: most,
            least: Self::LEAST.min(most),
            most,
            round: None,
            trial: None,
            wider_next: false,
            patience: 1,
            rest: 1,
            found: None,
        }
    }

    pub(super) fn now(&self) -> usize {
        self.now
    }

    /// Records a write that was answered while others waited only for its end.
    pub(super) fn answered(&mut self, at: Instant) {
        let Some(round) = &mut self.round else {
            self.round = Some(Round { settling: 0, since: at, answers: 0 });
            return;
        };
        if round.settling > 0 {
            round.settling -= 1;
            round.since = at;
            return;
        }
        round.answers += 1;
        if round.answers as usize >= Self::FEWEST_ANSWERS.max(2 * self.now) {
            let rate = f64::from(round.answers) / at.saturating_duration_since(round.since).as_secs_f64();
            let was = self.now;
            self.judge(rate);
            self.found = Some(at);
            let settling = if self.now == was { 0 } else { was.max(self.now) };
            self.round = Some(Round { settling, since: at, answers: 0 });
        }
    }

    fn judge(&mut self, rate: f64) {
        if let Some(Trial { from, rate: before }) = self.trial.take() {
            if rate < if self.now > from { before * Self::GAIN } else { before } {
                self.now = from;
                self.wider_next = !self.wider_next;
                self.patience = Self::MOST_PATIENCE.min(self.patience * 2);
                self.rest = self.patience;
                return;
            }
            self.patience = 1;
            self.rest = 1;
        }
        self.rest = self.rest.saturating_sub(1);
        if self.rest == 0 {
            self.wider_next = if self.wider_next { self.now < self.most } else { self.now == self.least };
            let next =
                if self.wider_next { self.most.min(self.now * 2) } else { self.least.max(self.now / 2) };
            self.trial = Some(Trial { from: std::mem::replace(&mut self.now, next), rate });
        }
    }

    /// Discards the current count, which says nothing about the width: no write waited, or the destination
    /// failed. So nothing supports a narrower trial, and a wider one was wide enough.
    pub(super) fn disturbed(&mut self, at: Instant) {
        self.round = None;
        if let Some(Trial { from, .. }) = self.trial.take() {
            self.now = self.now.max(from);
        }
        if self.found.is_some_and(|found| at.saturating_duration_since(found) > Self::MEMORY) {
            self.found = None;
            self.now = self.most;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A simulated destination: the writes a second that it makes, by how many are in flight; each varies by
    /// up to a fifth.
    struct Peer {
        rng: fastrand::Rng,
        at: Instant,
    }

    impl Peer {
        fn new(seed: u64) -> Self {
            Self { rng: fastrand::Rng::with_seed(seed), at: Instant::now() }
        }

        /// Makes so many writes; returns the mean width.
        fn take(&mut self, knee: &mut Knee, writes: u32, rate: impl Fn(f64) -> f64) -> f64 {
            let width = |knee: &Knee| f64::from(u32::try_from(knee.now()).unwrap_or(u32::MAX));
            let mut sum = 0.0;
            for _ in 0..writes {
                self.at += Duration::from_secs_f64((0.8 + 0.4 * self.rng.f64()) / rate(width(knee)));
                knee.answered(self.at);
                sum += width(knee);
            }
            sum / f64::from(writes)
        }
    }

    /// Answers take 80 ms, however many are in flight.
    fn far(width: f64) -> f64 {
        width / 0.08
    }

    /// Fastest with eight in flight; a seventh slower with each doubling.
    fn contended(width: f64) -> f64 {
        3000.0 * if width <= 8.0 { width / 8.0 } else { (8.0 / width).powf(0.2) }
    }

    #[test]
    fn it_stays_wide_where_answers_take_as_long_however_many_are_asked_for() {
        for seed in 0..50 {
            let (mut peer, mut knee) = (Peer::new(seed), Knee::new(64));
            let start = peer.at;
            peer.take(&mut knee, 20_000, far);
            let ideal = 20_000.0 / far(64.0);
            let took = (peer.at - start).as_secs_f64();
            assert!(took < 1.05 * ideal, "seed {seed}: {took} s instead of {ideal}");
        }
    }

    #[test]
    fn it_finds_the_width_at_which_a_destination_is_fastest() {
        for seed in 0..50 {
            let (mut peer, mut knee) = (Peer::new(seed), Knee::new(64));
            peer.take(&mut knee, 2_000, contended);
            let mean = peer.take(&mut knee, 20_000, contended);
            assert!((7.0..10.0).contains(&mean), "seed {seed}: {mean}");
        }
    }

    #[test]
    fn it_finds_its_way_back_when_the_destination_changes() {
        for seed in 0..50 {
            let (mut peer, mut knee) = (Peer::new(seed), Knee::new(64));
            peer.take(&mut knee, 20_000, contended);
            peer.take(&mut knee, 10_000, far);
            let mean = peer.take(&mut knee, 20_000, far);
            assert!(mean > 60.0, "seed {seed}: {mean}");
        }
    }

    #[test]
    fn a_trial_ends_when_no_write_waits() {
        let (mut peer, mut knee) = (Peer::new(1), Knee::new(64));
        peer.take(&mut knee, 200, contended);
        assert_eq!(knee.now(), 32, "a trial is in progress");
        knee.disturbed(peer.at);
        assert_eq!(knee.now(), 64);
    }

    #[test]
    fn bursts_too_short_to_learn_from_get_the_most() {
        let (mut peer, mut knee) = (Peer::new(1), Knee::new(64));
        peer.take(&mut knee, 20_000, contended);
        assert!(knee.now() < 20);
        for _ in 0..100 {
            peer.at += Duration::from_millis(200);
            peer.take(&mut knee, 30, contended);
            knee.disturbed(peer.at);
        }
        assert_eq!(knee.now(), 64);
    }

    #[test]
    fn where_few_are_allowed_it_leaves_them() {
        for most in 1..=Knee::LEAST {
            let (mut peer, mut knee) = (Peer::new(1), Knee::new(most));
            peer.take(&mut knee, 1000, contended);
            assert_eq!(knee.now(), most);
        }
    }
}
