//! All regions at a glance, from their agents' reports.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::report::{PeerReport, Report, TableEntry};
use crate::answer::Intercepted;
use crate::clock::wall_millis;
use crate::control::Verified;
use crate::lag::{LagSummary, Spread};
use crate::protocol::Origin;
use crate::tally::TallySnapshot;

/// All regions, and every origin → peer.
#[derive(Clone, Debug, Serialize)]
pub struct Overview {
    /// When this was compiled, in milliseconds since the Unix epoch.
    pub millis: u64,
    pub regions: Vec<RegionView>,
    pub links: Vec<Link>,
    /// The last result of `tradewind verify` for each table that it has compared recently; those that differ
    /// first.
    pub verified: Vec<Comparison>,
}

/// The result of comparing a table's replicas.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    pub table: String,
    pub seconds_ago: f64,
    pub items_compared: u64,
    pub items_differing: u64,
}

/// One region, over its agents.
#[derive(Clone, Debug, Serialize)]
pub struct RegionView {
    pub region: Origin,
    /// Whether an agent of it has reported recently.
    pub heard: bool,
    /// Those that have; otherwise the one that reported last, if that was within a day.
    pub agents: Vec<AgentView>,
    pub writes_per_second: f64,
    pub replicated_per_second: f64,
    pub stream_delay: Option<LagSummary>,
    /// Since the agents started.
    pub total: TallySnapshot,
}

/// One agent.
#[derive(Clone, Debug, Serialize)]
pub struct AgentView {
    pub agent: String,
    pub version: String,
    pub silent_seconds: f64,
    pub heard: bool,
    pub running_seconds: f64,
    /// The regions in whose place something else has answered it within an hour.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub intercepted: BTreeMap<Origin, Intercepted>,
    pub tables: Vec<TableEntry>,
    pub more_tables: usize,
}

/// One origin → peer, over all tables and agents.
#[derive(Clone, Debug, Serialize)]
pub struct Link {
    pub origin: Origin,
    pub peer: Origin,
    /// The age of the oldest write that the peer lacks, in seconds. If no agent of the origin is reporting,
    /// the time since the last report is added. `None` if none ever has.
    pub watermark_age: Option<f64>,
    /// The same as the peer's agents see it, by the durable watermark: coarse.
    pub arrival_age: Option<f64>,
    pub backlog: usize,
    /// From first seen until answered, over the last minute.
    pub lag: Option<LagSummary>,
    /// From a heartbeat's write until the peer answered, over the last ten minutes.
    pub heartbeat: Option<LagSummary>,
    pub last_heartbeat_ms: Option<f64>,
    /// Until when an operator has paused writes to the peer: milliseconds since the Unix epoch.
    pub paused_until: Option<u64>,
}

/// A report, and how long ago it was made.
#[derive(Clone, Debug)]
pub struct Heard {
    pub report: Report,
    pub silent: Duration,
}

impl Heard {
    fn is_of_late(&self) -> bool {
        self.silent <= self.report.patience()
    }
}

impl Overview {
    /// For these regions, from the reports of all agents.
    pub fn of(regions: &[Origin], reports: Vec<Heard>) -> Self {
        let mut agents: BTreeMap<&Origin, Vec<&Heard>> = BTreeMap::new();
        for heard in &reports {
            agents.entry(&heard.report.region).or_default().push(heard);
        }
        for agents in agents.values_mut() {
            agents.sort_by_key(|heard| heard.silent);
        }
        let of = |region: &Origin| agents.get(region).cloned().unwrap_or_default();
        let mut links = Vec::new();
        for origin in regions {
            for peer in regions.iter().filter(|peer| *peer != origin) {
                links.push(Link::of(origin, peer, &of(origin), &of(peer)));
            }
        }
        let regions = regions.iter().map(|region| RegionView::of(region, &of(region))).collect();
        Self { millis: wall_millis(), regions, links, verified: Comparison::all(&reports) }
    }

    /// The longest lag of all, in seconds; `None` if the lag of some link is unknown.
    pub fn longest_lag(&self) -> Option<f64> {
        let lags = self.links.iter().map(Link::longest_lag).collect::<Option<Vec<_>>>()?;
        lags.into_iter().max_by(f64::total_cmp)
    }
}

impl Comparison {
    /// The last one for each table. It is saved in every region, but some may not have been reached.
    fn all(reports: &[Heard]) -> Vec<Self> {
        let mut last: BTreeMap<&str, Verified> = BTreeMap::new();
        for table in reports.iter().flat_map(|heard| &heard.report.tables) {
            let Some(verified) = table.verified else { continue };
            let known = last.entry(&table.table).or_insert(verified);
            if known.millis < verified.millis {
                *known = verified;
            }
        }
        let mut all: Vec<Self> =
            last.into_iter().map(|(table, verified)| Self::of(table, verified)).collect();
        all.sort_by_key(|table| std::cmp::Reverse(table.items_differing));
        all
    }

    fn of(table: &str, verified: Verified) -> Self {
        let Verified { items_compared, items_differing, .. } = verified;
        let seconds_ago = verified.age().as_secs_f64().round();
        Self { table: table.to_owned(), seconds_ago, items_compared, items_differing }
    }
}

impl Link {
    fn of(origin: &Origin, peer: &Origin, senders: &[&Heard], receivers: &[&Heard]) -> Self {
        let living: Vec<&PeerReport> = senders
            .iter()
            .filter(|heard| heard.is_of_late())
            .filter_map(|heard| heard.report.peers.get(peer))
            .collect();
        let watermark_age = if living.is_empty() {
            // Nobody knows what was written since.
            let last = senders.iter().find_map(|heard| Some((heard.report.peers.get(peer)?, heard.silent)));
            let last = last.map(|(last, silent)| last.watermark_age + silent.as_secs_f64());
            // An agent that fell silent before it knew is silent all the same.
            let silent = || senders.first().filter(|heard| !heard.is_of_late());
            last.or_else(|| silent().map(|heard| heard.silent.as_secs_f64()))
        } else {
            living.iter().map(|peer| peer.watermark_age).max_by(f64::total_cmp)
        };
        let arrival_age = receivers.iter().find_map(|heard| {
            let ages = heard.report.tables.iter().filter_map(|table| table.arrivals.get(origin));
            ages.copied().max_by(f64::total_cmp).map(|age| age + heard.silent.as_secs_f64())
        });
        let measured = living.iter().find(|peer| peer.heartbeat.is_some());
        Self {
            origin: origin.clone(),
            peer: peer.clone(),
            watermark_age,
            arrival_age,
            backlog: living.iter().map(|peer| peer.backlog).fold(0, usize::saturating_add),
            lag: Spread::merged(living.iter().map(|peer| &peer.lag)).summary(),
            heartbeat: measured.and_then(|peer| peer.heartbeat.clone()),
            last_heartbeat_ms: measured.and_then(|peer| peer.last_heartbeat_ms),
            paused_until: living.iter().filter_map(|peer| peer.paused_until).max(),
        }
    }

    /// The larger of watermark age and last heartbeat, in seconds.
    pub fn longest_lag(&self) -> Option<f64> {
        Some(self.watermark_age?.max(self.last_heartbeat_ms.unwrap_or_default() / 1000.0))
    }
}

impl RegionView {
    fn of(region: &Origin, agents: &[&Heard]) -> Self {
        let living = || agents.iter().filter(|heard| heard.is_of_late());
        // If all are gone, the last one shows how long the region has been without an agent.
        let mut shown: Vec<&Heard> = living().copied().collect();
        if shown.is_empty() {
            shown.extend(agents.first());
        }
        let mut total = TallySnapshot::default();
        for heard in &shown {
            total += heard.report.total;
        }
        Self {
            region: region.clone(),
            heard: living().next().is_some(),
            agents: shown.into_iter().map(AgentView::of).collect(),
            writes_per_second: sum(living().map(|heard| heard.report.writes_per_second)),
            replicated_per_second: sum(living().map(|heard| heard.report.replicated_per_second)),
            stream_delay: living().find_map(|heard| heard.report.stream_delay.clone()),
            total,
        }
    }
}

/// The sum, which for no figures is 0 and not the standard library's -0.
fn sum(figures: impl Iterator<Item = f64>) -> f64 {
    figures.fold(0.0, |sum, figure| sum + figure)
}

impl AgentView {
    fn of(heard: &Heard) -> Self {
        let Heard { report, silent } = heard;
        Self {
            agent: report.agent.clone(),
            version: report.version.clone(),
            silent_seconds: silent.as_secs_f64(),
            heard: heard.is_of_late(),
            running_seconds: report.running_seconds,
            intercepted: report.intercepted.clone(),
            tables: report.tables.clone(),
            more_tables: report.more_tables,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(region: &str, agent: &str, age: f64, lags: &[u64]) -> Report {
        let lag: Vec<(u64, u64)> = lags.iter().map(|ms| (ms * 1000, 1)).collect();
        let lag = serde_json::from_value(serde_json::json!(lag)).expect("a spread");
        let peer = PeerReport { watermark_age: age, lag, ..PeerReport::default() };
        let json = serde_json::json!({
            "region": region, "agent": agent, "millis": 0, "interval_millis": 10_000,
            "peers": { "tokyo": peer },
        });
        serde_json::from_value(json).expect("a report of another version, which says less")
    }

    fn link(reports: &[(Report, u64)]) -> Link {
        let heard = reports
            .iter()
            .map(|(report, silent)| Heard { report: report.clone(), silent: Duration::from_secs(*silent) });
        let regions = ["dublin", "tokyo"].map(|name| name.parse().expect("a name"));
        Overview::of(&regions, heard.collect()).links.into_iter().next().expect("dublin → tokyo")
    }

    #[test]
    fn the_agents_of_a_region_are_summed_up() {
        let both =
            link(&[(report("dublin", "a", 1.0, &[10; 99]), 2), (report("dublin", "b", 7.0, &[900]), 3)]);
        assert_eq!(both.watermark_age, Some(7.0));
        let lag = both.lag.expect("lag");
        assert_eq!((lag.count, lag.max_ms > 890.0, lag.p50_ms < 11.0), (100, true, true));
    }

    #[test]
    fn an_age_rises_while_no_agent_is_heard_of() {
        assert_eq!(link(&[(report("dublin", "a", 1.0, &[]), 300)]).watermark_age, Some(301.0));
        // The agent that took over counts, and not the one that died.
        let taken_over = [(report("dublin", "a", 1.0, &[]), 300), (report("dublin", "b", 2.0, &[]), 1)];
        assert_eq!(link(&taken_over).watermark_age, Some(2.0));
        assert_eq!(link(&[]).watermark_age, None);
        let mut early = report("dublin", "a", 0.0, &[]);
        early.peers.clear();
        assert_eq!(link(&[(early.clone(), 2)]).watermark_age, None);
        assert_eq!(link(&[(early, 200)]).watermark_age, Some(200.0));
    }
}
