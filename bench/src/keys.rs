//! Which keys an application chooses.

use serde::{Deserialize, Serialize};

/// How keys are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// Each key as often as any other: one after the other, in shuffled order.
    Uniform,
    /// As YCSB does: the n-th key in proportion to n^-0.99.
    Zipf,
}

/// A stream of keys.
#[derive(Debug)]
pub(crate) enum Keys {
    Uniform {
        order: Vec<u64>,
        next: usize,
    },
    /// The cumulative share of all choices, up to each key.
    Zipf {
        shares: Vec<f64>,
        rng: fastrand::Rng,
    },
}

impl Keys {
    pub(crate) fn new(choice: Choice, keys: u64, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        match choice {
            Choice::Uniform => {
                let mut order: Vec<u64> = (0..keys).collect();
                rng.shuffle(&mut order);
                Self::Uniform { order, next: 0 }
            }
            Choice::Zipf => {
                let mut total = 0.0;
                let mut shares: Vec<f64> = Vec::new();
                for rank in 1..=u32::try_from(keys).unwrap_or(u32::MAX) {
                    total += f64::from(rank).powf(-0.99);
                    shares.push(total);
                }
                for share in &mut shares {
                    *share /= total;
                }
                Self::Zipf { shares, rng }
            }
        }
    }

    pub(crate) fn next(&mut self) -> u64 {
        match self {
            Self::Uniform { order, next } => {
                let key = order[*next];
                *next = (*next + 1) % order.len();
                key
            }
            Self::Zipf { shares, rng } => {
                let draw = rng.f64();
                shares.partition_point(|share| *share < draw) as u64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_takes_each_key_once_before_any_twice() {
        let mut keys = Keys::new(Choice::Uniform, 50, 7);
        let mut taken: Vec<u64> = (0..50).map(|_| keys.next()).collect();
        assert!(!taken.is_sorted());
        taken.sort_unstable();
        assert!(taken.into_iter().eq(0..50));
    }

    #[test]
    fn zipf_prefers_the_first_keys_and_stays_in_range() {
        let mut keys = Keys::new(Choice::Zipf, 1_000, 7);
        let mut counts = vec![0; 1_000];
        (0..20_000).for_each(|_| counts[usize::try_from(keys.next()).unwrap()] += 1);
        // The first key's share of 1,000 is 13 %.
        assert!((2_200..3_200).contains(&counts[0]), "{}", counts[0]);
        assert!(counts[0] > counts[9] && counts[9] > counts[99]);
    }
}
