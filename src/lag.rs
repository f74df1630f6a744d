//! Replication lag per origin → peer.
//!
//! | figure | from | to |
//! | --- | --- | --- |
//! | `since_creation` | the record's creation time, which is whole seconds on AWS and whole minutes on DynamoDB Local | the peer's answer |
//! | `since_seen` | the moment the agent first saw the record | the peer's answer |

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::protocol::Origin;

/// The longest lag that a histogram holds: two days, in microseconds. Streams keep 24 hours.
const LONGEST: u64 = 2 * 86_400 * 1_000_000;

/// The lag from one origin to all of its peers.
#[derive(Debug, Default)]
pub struct LagBook(Mutex<BTreeMap<Origin, Lag>>);

/// The lag to one peer, in microseconds.
#[derive(Clone, Debug)]
pub struct Lag {
    since_creation: Histogram<u64>,
    since_seen: Histogram<u64>,
}

/// A lag histogram in figures, in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LagSummary {
    pub count: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// Both figures of one origin → peer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeerLag {
    pub since_seen: LagSummary,
    pub since_creation: LagSummary,
}

impl LagBook {
    /// Notes that a peer has a record.
    pub fn note(&self, peer: &Origin, created_millis: u64, since_seen: Duration) {
        let since_creation = Duration::from_millis(wall_millis().saturating_sub(created_millis));
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.entry(peer.clone()).or_insert_with(Lag::new).record(since_creation, since_seen);
    }

    /// Takes in what another agent has noted.
    pub fn merge(&self, other: &Self) {
        let other = other.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (peer, lag) in other {
            book.entry(peer).or_insert_with(Lag::new).merge(&lag);
        }
    }

    /// The lag to each peer so far.
    pub fn summary(&self) -> BTreeMap<Origin, PeerLag> {
        let book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.iter().map(|(peer, lag)| (peer.clone(), lag.summary())).collect()
    }
}

impl Lag {
    fn new() -> Self {
        // Three significant figures within bounds that are constants: this can't fail.
        let histogram = Histogram::new_with_bounds(1, LONGEST, 3);
        #[expect(clippy::expect_used, reason = "the bounds are constants and legal")]
        let histogram = histogram.expect("legal bounds");
        Self { since_creation: histogram.clone(), since_seen: histogram }
    }

    fn record(&mut self, since_creation: Duration, since_seen: Duration) {
        self.since_creation.saturating_record(micros(since_creation));
        self.since_seen.saturating_record(micros(since_seen));
    }

    #[expect(clippy::expect_used, reason = "the bounds are the same everywhere")]
    fn merge(&mut self, other: &Self) {
        self.since_creation.add(&other.since_creation).expect("equal bounds");
        self.since_seen.add(&other.since_seen).expect("equal bounds");
    }

    fn summary(&self) -> PeerLag {
        PeerLag { since_seen: summarise(&self.since_seen), since_creation: summarise(&self.since_creation) }
    }
}

#[expect(clippy::cast_precision_loss, reason = "two days of microseconds are below 2^53")]
fn summarise(histogram: &Histogram<u64>) -> LagSummary {
    let millis = |micros: u64| micros as f64 / 1000.0;
    LagSummary {
        count: histogram.len(),
        p50_ms: millis(histogram.value_at_quantile(0.5)),
        p99_ms: millis(histogram.value_at_quantile(0.99)),
        max_ms: millis(histogram.max()),
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// This machine's clock, for lag only: no version ever takes it.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
fn wall_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A peer, and both lags in microseconds, now and then above what a histogram holds.
    fn notes() -> impl Strategy<Value = Vec<(bool, u64, u64)>> {
        let micros = || prop_oneof![0..5_u64, any::<u64>(), 0..2 * LONGEST];
        vec((any::<bool>(), micros(), micros()), 0..20)
    }

    fn book(notes: &[(bool, u64, u64)]) -> LagBook {
        let book = LagBook::default();
        for (peer, creation, seen) in notes {
            let peer = if *peer { "dublin" } else { "tokyo" }.parse().expect("a name");
            let mut lags = book.0.lock().expect("unpoisoned");
            let lag = lags.entry(peer).or_insert_with(Lag::new);
            lag.record(Duration::from_micros(*creation), Duration::from_micros(*seen));
        }
        book
    }

    proptest! {
        #[test]
        fn merged_books_say_what_one_book_would(a in notes(), b in notes()) {
            let merged = book(&a);
            merged.merge(&book(&b));
            prop_assert_eq!(merged.summary(), book(&[a, b].concat()).summary());
        }
    }
}
