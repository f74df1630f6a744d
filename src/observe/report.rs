//! An agent's report of itself to all regions.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::recent::Recent;
use crate::agent::{FeedStanding, Figures, TableStanding};
use crate::answer::Intercepted;
use crate::clock::wall_millis;
use crate::control::{Agreement, PausedDestinations, Verified};
use crate::deliver::SinkCall;
use crate::destination::Destination;
use crate::feed::FeedName;
use crate::lag::{LagSummary, Spread};
use crate::protocol::Origin;
use crate::tally::{FeedSnapshot, TallySnapshot};

/// How many tables are reported individually, those in trouble and those furthest behind first: a row holds
/// 400 KB, and each write is charged by the KB.
pub(super) const TABLES: usize = 30;
/// How many shards are named for each table.
const SHARDS: usize = 8;

/// An agent's state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub region: Origin,
    pub agent: String,
    /// When it was made, by the agent's own clock, in milliseconds since the Unix epoch.
    pub millis: u64,
    #[serde(default)]
    pub version: String,
    /// How soon the next one is due, in milliseconds.
    #[serde(default)]
    pub interval_millis: u64,
    #[serde(default)]
    pub running_seconds: f64,
    /// Since the start, over all tables.
    #[serde(default)]
    pub total: TallySnapshot,
    /// Applications' writes that appeared in the stream, over the last minute.
    #[serde(default)]
    pub writes_per_second: f64,
    /// Writes that peers accepted, over the last minute.
    #[serde(default)]
    pub replicated_per_second: f64,
    /// From a heartbeat's write in this region until the stream showed it.
    #[serde(default)]
    pub stream_delay: Option<LagSummary>,
    #[serde(default)]
    pub peers: BTreeMap<Origin, PeerReport>,
    /// The regions, including its own, in whose place something else has answered within an hour.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub intercepted: BTreeMap<Origin, Intercepted>,
    #[serde(default)]
    pub tables: Vec<TableEntry>,
    /// How many more tables there are, not reported individually.
    #[serde(default)]
    pub more_tables: usize,
}

/// The state of one peer, over all tables.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerReport {
    /// The age of the oldest write that the peer lacks, in seconds.
    pub watermark_age: f64,
    /// Records that have been read but have not reached it yet.
    pub backlog: usize,
    /// From first seen until answered, over the last minute, in microseconds.
    pub lag: Spread,
    /// From a heartbeat's write until the peer answered, over the last ten minutes.
    pub heartbeat: Option<LagSummary>,
    /// That of the last heartbeat.
    pub last_heartbeat_ms: Option<f64>,
    /// Until when an operator has paused writes to the peer: milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_until: Option<u64>,
}

/// The state of one table.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TableEntry {
    pub table: String,
    /// Why it is not being replicated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    pub replicating: bool,
    /// The regions that refuse all writes, which wait, each with its reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<Origin, String>,
    /// The writes of another setup's agents since the agent started, by the region that their stamps name: no
    /// peer gets them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub foreign: BTreeMap<Origin, u64>,
    /// Keys remembered in memory.
    pub keys: usize,
    /// Keys remembered on disk.
    pub keys_on_disk: usize,
    /// The shards that the agent reads: the first few, of this many.
    pub shards: Vec<String>,
    pub shard_count: usize,
    /// How long ago the shard that has waited longest was read, in seconds.
    pub unread: f64,
    /// The age of the oldest write that each peer lacks, in seconds.
    pub ages: BTreeMap<Origin, f64>,
    /// The age of what each other origin has durably promised this region, in seconds.
    pub arrivals: BTreeMap<Origin, f64>,
    /// The table's marks: writes of this region that may be missing at peers, until `tradewind verify` finds
    /// no difference.
    pub marks: usize,
    /// The last result of `tradewind verify`, if it has compared the replicas recently.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
    /// The table's feeds, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub feeds: BTreeMap<String, FeedEntry>,
    pub conflicts: u64,
    pub heals: u64,
    pub dead_letters: u64,
    pub throttled: u64,
    pub gaps: u64,
}

/// The state of one feed, as far as this agent delivers it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FeedEntry {
    #[serde(flatten)]
    pub counts: FeedSnapshot,
    /// Records that have been read but not told yet.
    pub backlog: usize,
    /// The age of the oldest write that has not been told yet, in seconds.
    pub age: f64,
    /// Events that the sink has taken, over the last minute.
    pub delivered_per_second: f64,
    /// Keys whose events wait behind one that the sink has rejected.
    pub blocked: usize,
    /// The last call of the sink.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_call: Option<CallEntry>,
    /// Until when an operator has paused the feed: milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_until: Option<u64>,
}

/// A call of a feed's sink.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CallEntry {
    pub events: usize,
    /// Until its answer, or until it failed.
    pub ms: f64,
}

impl FeedEntry {
    fn of(name: &FeedName, standing: FeedStanding, recent: &Recent, paused: &PausedDestinations) -> Self {
        let FeedStanding { counts, backlog, age, blocked, last_call } = standing;
        let paused_until = paused.get(&Destination::feed_called(name)).copied();
        let last_call =
            last_call.map(|SinkCall { events, took }| CallEntry { events, ms: rounded(took * 1000) });
        Self {
            counts,
            backlog,
            age: rounded(age),
            delivered_per_second: recent.delivered_per_second(name),
            blocked,
            last_call,
            paused_until,
        }
    }
}

impl Report {
    /// The agent's report now.
    pub(super) fn make(
        figures: &Figures,
        recent: &Recent,
        interval: Duration,
        intercepted: BTreeMap<Origin, Intercepted>,
    ) -> Self {
        let mut standings = figures.standings();
        let mut total = TallySnapshot::default();
        let mut peers: BTreeMap<Origin, PeerReport> = BTreeMap::new();
        for table in &standings {
            total += table.tally;
            for (peer, backlog) in &table.backlogs {
                let report = peers.entry(peer.clone()).or_default();
                report.watermark_age = report.watermark_age.max(rounded(backlog.age));
                report.backlog += backlog.records;
            }
        }
        for (peer, lag) in recent.lag() {
            peers.entry(peer).or_default().lag = lag;
        }
        for (peer, (heartbeat, last)) in recent.heartbeats() {
            let report = peers.entry(peer).or_default();
            (report.heartbeat, report.last_heartbeat_ms) = (heartbeat, Some(last));
        }
        let paused = figures.paused();
        for (paused, until) in &paused {
            if let Some(peer) = paused.peer() {
                peers.entry(peer.clone()).or_default().paused_until = Some(*until);
            }
        }
        standings.sort_by_key(|table| {
            let behind = table.backlogs.values().map(|backlog| backlog.age).max();
            let differs = recent.agreement(&table.table).is_some_and(Agreement::is_in_doubt);
            std::cmp::Reverse((table.trouble.is_some() || !table.refused.is_empty(), differs, behind))
        });
        let more_tables = standings.len().saturating_sub(TABLES);
        Self {
            region: figures.region().clone(),
            agent: figures.agent().to_string(),
            millis: wall_millis(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            interval_millis: u64::try_from(interval.as_millis()).unwrap_or(u64::MAX),
            running_seconds: rounded(recent.running()),
            total,
            writes_per_second: recent.per_second(TallySnapshot::local_writes),
            replicated_per_second: recent.per_second(|tally| tally.replicated),
            stream_delay: recent.stream_delay(),
            peers,
            intercepted,
            tables: standings
                .iter()
                .take(TABLES)
                .map(|table| TableEntry::of(table, recent, &paused))
                .collect(),
            more_tables,
        }
    }

    /// How long a report may be the last one before its agent counts as silent.
    pub fn patience(&self) -> Duration {
        Duration::from_millis(self.interval_millis) * 3 + Duration::from_secs(5)
    }
}

impl TableEntry {
    fn of(table: &TableStanding, recent: &Recent, paused: &PausedDestinations) -> Self {
        let tally = table.tally;
        let agreement = recent.agreement(&table.table);
        Self {
            table: table.table.clone(),
            trouble: table.trouble.clone(),
            replicating: table.is_replicating,
            refused: table.refused.clone(),
            foreign: table.foreign.clone(),
            keys: table.in_memory,
            keys_on_disk: table.on_disk,
            shards: table.unread.keys().take(SHARDS).map(ToString::to_string).collect(),
            shard_count: table.unread.len(),
            unread: table.unread.values().max().copied().map_or(0.0, rounded),
            ages: table.backlogs.iter().map(|(peer, backlog)| (peer.clone(), rounded(backlog.age))).collect(),
            arrivals: table.arrivals.iter().map(|(origin, age)| (origin.clone(), rounded(*age))).collect(),
            marks: agreement.map_or(0, |agreement| agreement.gaps.len()),
            verified: agreement.and_then(|agreement| agreement.verified),
            feeds: table
                .feeds
                .iter()
                .map(|(name, feed)| (name.to_string(), FeedEntry::of(name, *feed, recent, paused)))
                .collect(),
            conflicts: tally.conflicts,
            heals: tally.heals,
            dead_letters: tally.dead_letters,
            throttled: tally.throttled,
            gaps: tally.gaps,
        }
    }
}

/// In seconds, to the millisecond: every digit is charged for.
fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}
