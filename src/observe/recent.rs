//! An agent's recent activity: lag over the last minute, heartbeats over the last ten; and what it has read
//! about its tables.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::agent::Figures;
use crate::control::Agreement;
use crate::feed::FeedName;
use crate::lag::{LagSummary, Spread};
use crate::protocol::Origin;
use crate::tally::{TallySnapshot, count};

/// The time span for which lag and rates are reported.
const WINDOW: Duration = Duration::from_mins(1);
/// How many heartbeats are summarised: ten minutes of them, at ten seconds each.
const HEARTBEATS: usize = 60;

#[derive(Debug)]
pub(super) struct Recent {
    begun: Instant,
    samples: VecDeque<Sample>,
    heartbeats: BTreeMap<Origin, VecDeque<Duration>>,
    stream_delays: VecDeque<Duration>,
    agreements: BTreeMap<String, Agreement>,
}

#[derive(Debug)]
struct Sample {
    at: Instant,
    lag: BTreeMap<Origin, Spread>,
    total: TallySnapshot,
    /// How many events the sink of each feed has taken.
    delivered: BTreeMap<FeedName, u64>,
}

impl Recent {
    pub(super) fn new() -> Self {
        let (samples, heartbeats, stream_delays) = (VecDeque::new(), BTreeMap::new(), VecDeque::new());
        Self { begun: Instant::now(), samples, heartbeats, stream_delays, agreements: BTreeMap::new() }
    }

    /// Records what the agent has done since the last call.
    pub(super) fn sample(&mut self, figures: &Figures) {
        let at = Instant::now();
        let mut lag: BTreeMap<Origin, Vec<Spread>> = BTreeMap::new();
        for (peer, spread) in figures.take_recent_lag() {
            lag.entry(peer).or_default().push(spread);
        }
        let lag = lag.into_iter().map(|(peer, spreads)| (peer, Spread::merged(&spreads))).collect();
        self.samples.push_back(Sample { at, lag, total: figures.total(), delivered: figures.delivered() });
        // An older sample shows what was done before the window.
        while self.samples.get(1).is_some_and(|second| at.duration_since(second.at) >= WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Records one heartbeat.
    pub(super) fn stream_delay_was(&mut self, delay: Duration) {
        push(&mut self.stream_delays, delay);
    }

    pub(super) fn heartbeat_was(&mut self, peer: &Origin, lag: Duration) {
        push(self.heartbeats.entry(peer.clone()).or_default(), lag);
    }

    pub(super) fn agreement_is(&mut self, table: String, agreement: Agreement) {
        self.agreements.insert(table, agreement);
    }

    /// What is known about whether a table's replicas agree, if that has been read.
    pub(super) fn agreement(&self, table: &str) -> Option<&Agreement> {
        self.agreements.get(table)
    }

    pub(super) fn running(&self) -> Duration {
        self.begun.elapsed()
    }

    /// The lag to each peer over the window.
    pub(super) fn lag(&self) -> BTreeMap<Origin, Spread> {
        let mut peers: BTreeMap<&Origin, Vec<&Spread>> = BTreeMap::new();
        for (peer, spread) in self.samples.iter().skip(1).flat_map(|sample| &sample.lag) {
            peers.entry(peer).or_default().push(spread);
        }
        peers.into_iter().map(|(peer, spreads)| (peer.clone(), Spread::merged(spreads))).collect()
    }

    /// A counter's rate over the window.
    pub(super) fn per_second(&self, read: impl Fn(&TallySnapshot) -> u64) -> f64 {
        self.rate(|sample| read(&sample.total))
    }

    /// The events of a feed that its sink has taken a second, over the window.
    pub(super) fn delivered_per_second(&self, feed: &FeedName) -> f64 {
        self.rate(|sample| sample.delivered.get(feed).copied().unwrap_or_default())
    }

    fn rate(&self, read: impl Fn(&Sample) -> u64) -> f64 {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else { return 0.0 };
        let seconds = last.at.duration_since(first.at).as_secs_f64();
        let grown = read(last).saturating_sub(read(first));
        if seconds > 0.0 { (count(grown) / seconds * 10.0).round() / 10.0 } else { 0.0 }
    }

    pub(super) fn stream_delay(&self) -> Option<LagSummary> {
        LagSummary::of_times(&self.stream_delays)
    }

    /// A summary of the heartbeats to each peer, and the last one in milliseconds.
    pub(super) fn heartbeats(&self) -> BTreeMap<Origin, (Option<LagSummary>, f64)> {
        let figures = |times: &VecDeque<Duration>| {
            let last = times.back().copied().unwrap_or_default();
            (LagSummary::of_times(times), (last.as_secs_f64() * 10_000.0).round() / 10.0)
        };
        self.heartbeats.iter().map(|(peer, times)| (peer.clone(), figures(times))).collect()
    }
}

fn push(times: &mut VecDeque<Duration>, time: Duration) {
    if times.len() == HEARTBEATS {
        times.pop_front();
    }
    times.push_back(time);
}
