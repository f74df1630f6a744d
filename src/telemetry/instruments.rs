//! Measurements of single writes. `observe/metrics.rs` has the other instruments, and their attributes.

use std::time::Duration;

use opentelemetry::metrics::{Histogram, Meter};
use opentelemetry::{KeyValue, global};

use crate::tally::count;

/// Bounds of the lag histograms' buckets, in seconds: from a write in the same rack to the day that
/// streams keep.
const BOUNDS: [f64; 18] = [
    0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0,
    86_400.0,
];

/// Bounds of the buckets for the events of a call: from one to the most that a sink takes.
const BATCHES: [f64; 13] =
    [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0];

/// The meter that all instruments belong to.
pub(crate) fn meter() -> Meter {
    global::meter("tradewind")
}

fn seconds(name: &'static str, description: &'static str) -> Histogram<f64> {
    let meter = meter();
    let histogram = meter.f64_histogram(name).with_unit("s").with_description(description);
    histogram.with_boundaries(BOUNDS.to_vec()).build()
}

/// Measurements of each write that a peer has answered.
#[derive(Debug)]
pub struct LagInstruments {
    since_seen: Histogram<f64>,
    since_creation: Histogram<f64>,
}

impl LagInstruments {
    pub(crate) fn new() -> Self {
        Self {
            since_seen: seconds(
                "tradewind.apply.lag",
                "Time from when the agent first saw a record until the peer answered its write",
            ),
            since_creation: seconds(
                "tradewind.record.lag",
                "Time from a record's creation, in whole seconds, until the peer answered its write",
            ),
        }
    }

    pub(crate) fn record(&self, since_creation: Duration, since_seen: Duration, attributes: &[KeyValue]) {
        self.since_seen.record(since_seen.as_secs_f64(), attributes);
        self.since_creation.record(since_creation.as_secs_f64(), attributes);
    }
}

/// Measurements of each heartbeat.
#[derive(Debug)]
pub struct HeartbeatInstruments {
    pub(crate) lag: Histogram<f64>,
    pub(crate) stream_delay: Histogram<f64>,
}

impl HeartbeatInstruments {
    pub(crate) fn new() -> Self {
        Self {
            lag: seconds(
                "tradewind.heartbeat.lag",
                "Time from a heartbeat's write in its region until the peer answered its write",
            ),
            stream_delay: seconds(
                "tradewind.stream.delay",
                "Time from a heartbeat's write in its region until the agent saw it in the stream",
            ),
        }
    }
}

/// Measurements of each call of a feed's sink.
#[derive(Debug)]
pub struct SinkInstruments {
    events: Histogram<f64>,
    time: Histogram<f64>,
}

impl SinkInstruments {
    pub(crate) fn new() -> Self {
        let meter = meter();
        let events = meter.f64_histogram("tradewind.feed.batch").with_unit("{event}");
        let events = events.with_description("Events in a call of the feed's sink");
        Self {
            events: events.with_boundaries(BATCHES.to_vec()).build(),
            time: seconds(
                "tradewind.feed.call",
                "Time from a call of the feed's sink until its answer, or until it failed",
            ),
        }
    }

    pub(crate) fn record(&self, events: usize, time: Duration, attributes: &[KeyValue]) {
        self.events.record(count(events), attributes);
        self.time.record(time.as_secs_f64(), attributes);
    }
}
