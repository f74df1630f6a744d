//! Replication lag per origin → peer.
//!
//! | figure | from | to |
//! | --- | --- | --- |
//! | `since_creation` | the record's creation time, which is whole seconds on AWS and whole minutes on DynamoDB Local | the peer's answer |
//! | `since_seen` | the moment the agent first saw the record | the peer's answer |

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use opentelemetry::KeyValue;
use serde::{Deserialize, Serialize};

use crate::clock::wall_millis;
use crate::protocol::Origin;
use crate::telemetry::LagInstruments;

/// The longest lag that a histogram holds: two days, in microseconds. Streams keep 24 hours.
const LONGEST: u64 = 2 * 86_400 * 1_000_000;

/// The lag from one origin to all of its peers, for one table.
#[derive(Debug)]
pub struct LagBook {
    lags: Mutex<BTreeMap<Origin, Lag>>,
    instruments: LagInstruments,
    /// The attributes of the instruments, without the peer.
    attributes: [KeyValue; 2],
}

/// The lag to one peer, in microseconds.
#[derive(Clone, Debug)]
struct Lag {
    since_creation: Histogram<u64>,
    since_seen: Histogram<u64>,
    /// Recent `since_seen`: see [`LagBook::take_recent`].
    recent: Histogram<u64>,
    attributes: Vec<KeyValue>,
}

/// A lag histogram's summary, in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    pub fn new(origin: &Origin, table: &str) -> Self {
        let attributes =
            [KeyValue::new("region", origin.to_string()), KeyValue::new("table", table.to_owned())];
        Self { lags: Mutex::default(), instruments: LagInstruments::new(), attributes }
    }

    /// Records that a peer has a record.
    pub fn note(&self, peer: &Origin, created_millis: u64, since_seen: Duration) {
        let since_creation = Duration::from_millis(wall_millis().saturating_sub(created_millis));
        let mut lags = self.lock();
        let lag = lags.entry(peer.clone()).or_insert_with(|| Lag::new(peer, &self.attributes));
        lag.record(since_creation, since_seen);
        self.instruments.record(since_creation, since_seen, &lag.attributes);
    }

    /// The lag to each peer so far.
    pub fn summary(&self) -> BTreeMap<Origin, PeerLag> {
        self.lock().iter().map(|(peer, lag)| (peer.clone(), lag.summary())).collect()
    }

    /// The `since_seen` recorded since the last call, for one reader that looks now and then.
    pub fn take_recent(&self) -> BTreeMap<Origin, Spread> {
        let mut recent = BTreeMap::new();
        for (peer, lag) in self.lock().iter_mut().filter(|(_, lag)| !lag.recent.is_empty()) {
            recent.insert(peer.clone(), Spread::of(&lag.recent));
            lag.recent.reset();
        }
        recent
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Origin, Lag>> {
        self.lags.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A histogram as it is shared: how often each value was seen, in microseconds, smallest first. It has one
/// significant figure: an error of 6 %, and some tens of values at most, each of which takes space in a row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Spread(Vec<(u64, u64)>);

impl Spread {
    fn of(histogram: &Histogram<u64>) -> Self {
        let values = histogram.iter_recorded();
        Self::of_values(values.map(|value| (value.value_iterated_to(), value.count_at_value())))
    }

    fn of_values(values: impl Iterator<Item = (u64, u64)>) -> Self {
        let mut coarse = histogram(1);
        values.for_each(|(value, count)| coarse.saturating_record_n(value, count));
        let values = coarse.iter_recorded();
        Self(values.map(|value| (value.value_iterated_to(), value.count_at_value())).collect())
    }

    /// Several merged, as if one agent had recorded them all.
    pub fn merged<'a>(spreads: impl IntoIterator<Item = &'a Self>) -> Self {
        Self::of_values(spreads.into_iter().flat_map(|spread| &spread.0).copied())
    }

    /// Its summary; `None` if nothing was recorded.
    pub fn summary(&self) -> Option<LagSummary> {
        let mut coarse = histogram(1);
        for (value, count) in &self.0 {
            coarse.saturating_record_n(*value, *count);
        }
        (!coarse.is_empty()).then(|| summarise(&coarse))
    }
}

impl LagSummary {
    /// Of some times; `None` if there are none.
    pub fn of_times<'a>(times: impl IntoIterator<Item = &'a Duration>) -> Option<Self> {
        let mut all = histogram(2);
        times.into_iter().for_each(|time| all.saturating_record(micros(*time)));
        (!all.is_empty()).then(|| summarise(&all))
    }
}

impl Lag {
    fn new(peer: &Origin, attributes: &[KeyValue]) -> Self {
        let (since_creation, since_seen, recent) = (histogram(2), histogram(2), histogram(1));
        let peer = KeyValue::new("peer", peer.to_string());
        let attributes = attributes.iter().cloned().chain([peer]).collect();
        Self { since_creation, since_seen, recent, attributes }
    }

    fn record(&mut self, since_creation: Duration, since_seen: Duration) {
        self.since_creation.saturating_record(micros(since_creation));
        self.since_seen.saturating_record(micros(since_seen));
        self.recent.saturating_record(micros(since_seen));
    }

    fn summary(&self) -> PeerLag {
        PeerLag { since_seen: summarise(&self.since_seen), since_creation: summarise(&self.since_creation) }
    }
}

/// With two significant figures, an error of 1 %, and 30 kB; a third would take 230 kB.
#[expect(clippy::expect_used, reason = "the bounds are constants and legal")]
fn histogram(figures: u8) -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, figures).expect("legal bounds")
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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Lags in microseconds, some of them above what a histogram holds.
    fn lags() -> impl Strategy<Value = Vec<u64>> {
        vec(prop_oneof![0..5_u64, any::<u64>(), 0..2 * LONGEST], 0..20)
    }

    fn spread(lags: &[u64]) -> Spread {
        let mut noted = histogram(1);
        for lag in lags {
            noted.saturating_record(*lag);
        }
        Spread::of(&noted)
    }

    proptest! {
        #[test]
        fn merged_spreads_say_what_one_would(a in lags(), b in lags()) {
            let merged = Spread::merged([&spread(&a), &spread(&b)]);
            prop_assert_eq!(merged.summary(), spread(&[a, b].concat()).summary());
        }
    }

    #[test]
    fn what_is_recent_is_told_once() {
        let (origin, peer): (Origin, Origin) =
            ("dublin".parse().expect("a name"), "tokyo".parse().expect("a name"));
        let book = LagBook::new(&origin, "orders");
        book.note(&peer, 0, Duration::from_millis(20));
        assert_eq!(book.take_recent()[&peer].summary().map(|recent| recent.count), Some(1));
        assert!(book.take_recent().is_empty());
        assert_eq!(book.summary()[&peer].since_seen.count, 1);
    }
}
