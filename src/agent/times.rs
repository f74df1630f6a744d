//! When records were created, where their service's clock was ahead.
//!
//! A time hours ahead would win over everything that other regions write until then, and be remembered for as
//! long. So from the first record with an incredible time, times count as if the clock had been right then,
//! and continue from there, until records show that it has been corrected. The decision is kept with the
//! lease, since an agent's clock must not decide twice.

use std::collections::BTreeMap;

use crate::control::Jump;
use crate::protocol::{SLACK_MILLIS, is_credible};
use crate::source::{Sequence, ShardId};

/// How many are kept for each shard: a clock that jumps more often is beyond help.
const MOST: usize = 100;

/// The jumps of a shard and its ancestors.
#[derive(Debug, Default)]
pub(super) struct Times(BTreeMap<ShardId, Vec<Jump>>);

/// When a record was created.
#[derive(Debug, PartialEq)]
pub(super) enum Created {
    At(u64),
    /// The service's clock has jumped here, which must be durable before the record is judged.
    Jumped(Jump),
}

impl Times {
    pub(super) fn insert(&mut self, shard: ShardId, jumps: Vec<Jump>) {
        self.0.insert(shard, jumps);
    }

    /// The jumps of a shard, with one more.
    pub(super) fn with(&self, shard: &ShardId, jump: Jump) -> Vec<Jump> {
        let mut jumps = self.0.get(shard).cloned().unwrap_or_default();
        jumps.push(jump);
        let too_many = jumps.len().saturating_sub(MOST);
        jumps.drain(..too_many);
        jumps
    }

    /// How far the service's clock is ahead at the end of what has been read of a shard, in milliseconds.
    pub(super) fn ahead_millis(&self, shard: &ShardId) -> u64 {
        self.0.get(shard).and_then(|jumps| jumps.last()).map_or(0, |jump| jump.ahead_millis)
    }

    /// How much later than it was made a record may count, in milliseconds.
    pub(super) fn late_millis(&self, shard: &ShardId, sequence: &Sequence) -> u64 {
        let passed = self.0.get(shard).into_iter().flatten().take_while(|jump| jump.from <= *sequence);
        passed.last().map_or(0, |jump| jump.late_millis)
    }

    /// When the record with the time `millis` was created, as far as an agent whose clock says `now` can
    /// tell, and which knows that nothing it has not read yet is older than `oldest`.
    pub(super) fn created(
        &self,
        shard: &ShardId,
        sequence: &Sequence,
        millis: u64,
        now: u64,
        oldest: u64,
    ) -> Created {
        let jumps = self.0.get(shard).map_or(&[][..], Vec::as_slice);
        let passed = jumps.partition_point(|jump| jump.from <= *sequence);
        let in_force = jumps[..passed].last().filter(|jump| jump.ahead_millis > 0);
        let is_decided = passed < jumps.len();
        let from = sequence.clone();
        match in_force {
            Some(jump) if millis.saturating_add(SLACK_MILLIS) >= jump.since_millis => {
                let created = millis.saturating_sub(jump.ahead_millis);
                if is_decided || is_credible(created, now) {
                    return Created::At(created);
                }
            }
            Some(_) if !is_decided && is_credible(millis, now) => {
                return Created::Jumped(Jump { from, since_millis: 0, ahead_millis: 0, late_millis: 0 });
            }
            None if is_credible(millis, now) => return Created::At(millis),
            _ => {}
        }
        if is_decided {
            return Created::At(millis);
        }
        // As coarse as this service's times.
        let unit = [60_000, 1_000].into_iter().find(|unit| millis.is_multiple_of(*unit)).unwrap_or(1);
        let ahead_millis = millis.saturating_sub(now - now % unit);
        let late_millis = now.saturating_sub(oldest);
        Created::Jumped(Jump { from, since_millis: millis, ahead_millis, late_millis })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000_000_000;
    const HOUR: u64 = 3_600_000;

    fn shard() -> ShardId {
        ShardId("s".into())
    }

    /// Judges records one after the other, each at a given time.
    fn created(times: &mut Times, sequence: u64, millis: u64, now: u64) -> u64 {
        let at = Sequence::new(&sequence.to_string());
        loop {
            match times.created(&shard(), &at, millis, now, NOW - HOUR) {
                Created::At(millis) => return millis,
                Created::Jumped(jump) => times.insert(shard(), times.with(&shard(), jump)),
            }
        }
    }

    #[test]
    fn a_clock_that_is_ahead_counts_from_where_it_jumped() {
        let mut times = Times::default();
        let records = [
            (1, NOW, NOW, NOW),
            (2, NOW + 9 * HOUR + 7, NOW + 2_000, NOW + 2_000),
            (3, NOW + 9 * HOUR + 1_007, NOW + 3_000, NOW + 3_000),
            // It may go back by a minute, as any clock may.
            (4, NOW + 9 * HOUR - 58_993, NOW + 4_000, NOW - 57_000),
            // It jumps once more,
            (5, NOW + 20 * HOUR + 1, NOW + 5_000, NOW + 5_000),
            // is put half right,
            (6, NOW + 2 * HOUR + 1, NOW + 6_000, NOW + 6_000),
            // and right.
            (7, NOW + 7_000, NOW + 7_000, NOW + 7_000),
            (8, NOW + 8_000, NOW + 8_000, NOW + 8_000),
        ];
        for (sequence, millis, now, expected) in records {
            assert_eq!(created(&mut times, sequence, millis, now), expected, "{sequence}");
        }
        let jumps = times.0[&shard()].len();
        assert_eq!(times.ahead_millis(&shard()), 0);
        // Read again a day later, when all these times have passed.
        for (sequence, millis, _, expected) in records {
            assert_eq!(created(&mut times, sequence, millis, NOW + 24 * HOUR), expected, "{sequence}");
        }
        assert_eq!(times.0[&shard()].len(), jumps);
    }

    #[test]
    fn a_record_that_was_read_late_may_have_been_made_long_before() {
        let mut times = Times::default();
        for (sequence, millis, late) in [
            (1, NOW, 0),
            (2, NOW + 9 * HOUR + 7, HOUR + 2_000),
            (3, NOW + 9 * HOUR + 1_007, HOUR + 2_000),
            (4, NOW + 3_000, 0),
        ] {
            created(&mut times, sequence, millis, NOW + 2_000);
            let at = Sequence::new(&sequence.to_string());
            assert_eq!(times.late_millis(&shard(), &at), late, "{sequence}");
        }
        // Read again, it is as late as it was.
        assert_eq!(times.late_millis(&shard(), &Sequence::new("3")), HOUR + 2_000);
    }

    #[test]
    fn coarse_times_stay_coarse() {
        let mut times = Times::default();
        let minute = NOW - NOW % 60_000;
        assert_eq!(created(&mut times, 1, minute + 9 * HOUR, minute + 42_000), minute);
        assert_eq!(created(&mut times, 2, minute + 9 * HOUR + 60_000, minute + 61_000), minute + 60_000);
        assert_eq!(times.ahead_millis(&shard()), 9 * HOUR);
    }

    #[test]
    fn what_is_a_little_ahead_is_believed() {
        let mut times = Times::default();
        assert_eq!(created(&mut times, 1, NOW + 30_000, NOW), NOW + 30_000);
        assert_eq!(created(&mut times, 2, NOW + 30_001, NOW), NOW);
    }

    #[test]
    fn the_last_jumps_are_kept() {
        let mut times = Times::default();
        for i in 0..300 {
            created(&mut times, i, NOW + (i % 2) * HOUR + 1, NOW);
        }
        assert_eq!(times.0[&shard()].len(), MOST);
    }
}
