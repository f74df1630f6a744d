//! Pauses the flow of writes from an origin to a peer or a feed, and resumes it.
//!
//! A pause is a row in the origin's control table, which all agents of the origin read. Their beats say which
//! pauses they obey; whoever pauses waits for that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::OperateError;
use super::agents::{SeenAgent, Watch, silence};
use super::replicas::client;
use crate::clock::{moment, wall_millis};
use crate::config::Config;
use crate::contained::joined;
use crate::control::{Beat, ControlTable};
use crate::destination::Destination;
use crate::fault::Fault;
use crate::observe::Report;
use crate::protocol::Origin;
use crate::region::Region;

/// How long a beating agent may take to confirm a pause.
const PATIENCE: Duration = Duration::from_secs(30);

/// One origin → peer or feed, after it was paused or resumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flow {
    pub origin: Origin,
    #[serde(flatten)]
    pub to: Destination,
    /// Until when nothing is written there, in milliseconds since the Unix epoch; none, if it is
    /// not paused.
    pub paused_until: Option<u64>,
    /// Until when it was paused before.
    pub was_paused_until: Option<u64>,
    /// When the stream drops the oldest write that is missing there, if it still is then. None if no
    /// agent of the origin has reported the age of that write.
    pub lost_from: Option<u64>,
    /// The agents of the origin that have confirmed the change.
    pub agents: usize,
    /// Those that run, and have not confirmed it.
    pub unanswered: usize,
}

/// Why a flow can't be paused, or resumed.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    #[error(transparent)]
    Operate(#[from] OperateError),
    /// The pause would outlast what the stream keeps.
    #[error(
        "{origin} → {to}: {to} lacks writes whose records the stream keeps until {}: a pause that lasts longer \
         would lose them. Give a shorter --for.",
        moment(*lost_from)
    )]
    TooLong { origin: Origin, to: Destination, lost_from: u64 },
}

/// The flows from `from` to `to` that some table has; an empty side means all.
pub fn flows(config: &Config, from: &[Origin], to: &[Origin]) -> Vec<(Origin, Destination)> {
    let named = config.tables.iter().map(|table| table.replicas.iter().map(|(name, _)| name).collect());
    let found = config.patterns.iter().map(|entry| entry.regions.iter().collect());
    let mut flows = BTreeSet::new();
    for regions in named.chain(found) {
        let regions: Vec<&Origin> = regions;
        for origin in regions.iter().filter(|name| from.is_empty() || from.contains(name)) {
            let peers = regions.iter().filter(|name| to.is_empty() || to.contains(name));
            let peers = peers.filter(|peer| *peer != origin);
            flows.extend(peers.map(|peer| ((*origin).clone(), Destination::Peer((*peer).clone()))));
        }
    }
    flows.into_iter().collect()
}

/// Pauses the writes from each origin to its peer or feed until a moment, in milliseconds since the Unix epoch;
/// without one, resumes them. Returns when the running agents have confirmed it.
pub async fn pause(
    config: &Config,
    regions: &BTreeMap<Origin, Region>,
    flows: &[(Origin, Destination)],
    until: Option<u64>,
) -> Result<Vec<Flow>, PauseError> {
    let mut by_origin: BTreeMap<&Origin, Vec<Destination>> = BTreeMap::new();
    for (origin, to) in flows {
        by_origin.entry(origin).or_default().push(to.clone());
    }
    let retention = u64::try_from(config.tuning.stream_retention.as_millis()).unwrap_or(u64::MAX);
    let silence = silence(config.tuning.lease_duration);
    // If one flow can't be paused, none is.
    let mut sites = Vec::new();
    for (origin, to) in by_origin {
        let control_table = config.region(origin.as_str()).map_or("", |region| &region.control_table);
        let region = client(regions, origin, control_table)?;
        let site = Site { region: region.clone(), control: ControlTable::of(region), to };
        let lost_from = match until {
            Some(until) => site.lost_from(until, retention).await?,
            None => BTreeMap::new(),
        };
        sites.push((site, lost_from));
    }
    let mut under_way = JoinSet::new();
    for (site, lost_from) in sites {
        under_way.spawn(async move { site.set(until, lost_from, silence).await });
    }
    let (mut all, mut failure) = (Vec::new(), None);
    while let Some(set) = under_way.join_next().await {
        match joined(set) {
            Ok(flows) => all.extend(flows),
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) => Err(error.into()),
        None => {
            all.sort_by(|a: &Flow, b| (&a.origin, &a.to).cmp(&(&b.origin, &b.to)));
            Ok(all)
        }
    }
}

/// An origin, and the destinations concerned.
struct Site {
    region: Region,
    control: ControlTable,
    to: Vec<Destination>,
}

impl Site {
    /// When the oldest write that each destination lacks would be lost, as the origin's agents report.
    async fn lost_from(&self, until: u64, retention: u64) -> Result<BTreeMap<Destination, u64>, PauseError> {
        let origin = &self.region.name;
        let reports = self.control.reports().await.map_err(|fault| self.error(fault))?;
        let reports = reports.iter().filter(|saved| saved.region == *origin);
        let reports = reports.filter_map(|saved| serde_json::from_str::<Report>(&saved.body).ok());
        let mut reports: Vec<Report> = reports.collect();
        // Of agents that are gone, the last report counts: others may have continued from there.
        let newest = reports.iter().map(|report| report.millis).max().unwrap_or_default();
        let now = wall_millis();
        reports.retain(|report| {
            report.millis == newest
                || Duration::from_millis(now.saturating_sub(report.millis)) <= report.patience()
        });
        let mut lost_from: BTreeMap<Destination, u64> = BTreeMap::new();
        for report in &reports {
            for (to, age) in self.to.iter().filter_map(|to| Some((to, age_at(report, to)?))) {
                let age = Duration::try_from_secs_f64(age).unwrap_or_default();
                let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
                let oldest = report.millis.saturating_sub(age);
                let lost = lost_from.entry(to.clone()).or_insert(u64::MAX);
                *lost = oldest.saturating_add(retention).min(*lost);
            }
        }
        match lost_from.iter().find(|(_, lost)| until > **lost) {
            Some((to, lost)) => {
                Err(PauseError::TooLong { origin: origin.clone(), to: to.clone(), lost_from: *lost })
            }
            None => Ok(lost_from),
        }
    }

    async fn set(
        self,
        until: Option<u64>,
        lost_from: BTreeMap<Destination, u64>,
        silence: Duration,
    ) -> Result<Vec<Flow>, OperateError> {
        let mut flows = Vec::new();
        let before = self.control.crew().await.map_err(|fault| self.error(fault))?.pauses;
        for to in &self.to {
            match until {
                Some(until) => self.control.pause(to, until).await,
                None => self.control.resume(to).await,
            }
            .map_err(|fault| self.error(fault))?;
            flows.push(Flow {
                origin: self.region.name.clone(),
                to: to.clone(),
                paused_until: until,
                was_paused_until: before.get(to).copied().filter(|until| *until > wall_millis()),
                lost_from: lost_from.get(to).copied(),
                agents: 0,
                unanswered: 0,
            });
        }
        let (agents, unanswered) = self.answers(until, silence).await.map_err(|fault| self.error(fault))?;
        for flow in &mut flows {
            (flow.agents, flow.unanswered) = (agents, unanswered);
        }
        Ok(flows)
    }

    /// Waits until the running agents confirm it; returns how many have, and how many have not in time. One
    /// that falls silent is not waited for.
    async fn answers(&self, until: Option<u64>, silence: Duration) -> Result<(usize, usize), Fault> {
        let keeps = |beat: &Beat| self.to.iter().all(|to| beat.paused.get(to).copied() == until);
        let deadline = Instant::now() + PATIENCE.max(silence);
        let mut watch = Watch::of(&self.region);
        loop {
            let seen = watch.look().await?;
            let waits = |seen: &&SeenAgent| !keeps(&seen.beat) && seen.at.elapsed() < silence;
            let unanswered = seen.values().filter(waits).count();
            if unanswered == 0 || Instant::now() >= deadline {
                return Ok((seen.values().filter(|seen| keeps(&seen.beat)).count(), unanswered));
            }
        }
    }

    fn error(&self, fault: Fault) -> OperateError {
        OperateError::at(&self.region, &self.region.control_table, fault)
    }
}

/// The age of the oldest write that a destination lacks, in seconds, as an agent reports it.
fn age_at(report: &Report, to: &Destination) -> Option<f64> {
    match to {
        Destination::Home => None,
        Destination::Peer(peer) => Some(report.peers.get(peer)?.watermark_age),
        Destination::Feed(feed, _) => {
            report.tables.iter().find_map(|table| Some(table.feeds.get(feed.as_str())?.age))
        }
    }
}
