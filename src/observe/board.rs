//! The board: the state of all regions now, and over the last minutes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::overview::{Heard, Overview};
use super::recent::Recent;
use super::report::Report;
use crate::agent::Figures;
use crate::answer::Interceptions;
use crate::clock::wall_millis;
use crate::control::{AgentId, Agreement, SavedReport};
use crate::protocol::Origin;

/// How many points of the past are kept: a quarter of an hour, at two seconds each.
const POINTS: usize = 450;
/// How long answers by something else in a region's place are reported.
const OF_LATE: Duration = Duration::from_hours(1);

/// What one agent knows about all regions.
#[derive(Debug)]
pub struct Board {
    regions: Vec<Origin>,
    figures: Figures,
    /// How often each agent reports.
    interval: Duration,
    /// The answers by something else in each region's place.
    interceptions: BTreeMap<Origin, Interceptions>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    recent: Recent,
    others: BTreeMap<(Origin, AgentId), LatestReport>,
    history: VecDeque<Point>,
}

/// The last report of an agent.
#[derive(Debug)]
struct LatestReport {
    report: Report,
    beat: u64,
    /// When it was made, as far as this agent saw, by its own monotonic clock.
    at: Instant,
}

/// A moment of the past.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    pub millis: u64,
    pub links: Vec<LinkPoint>,
    pub regions: Vec<RegionPoint>,
}

/// One origin → peer at a moment.
#[derive(Clone, Debug, Serialize)]
pub struct LinkPoint {
    pub origin: Origin,
    pub peer: Origin,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub heartbeat_ms: Option<f64>,
    pub watermark_age: Option<f64>,
}

/// One region at a moment.
#[derive(Clone, Debug, Serialize)]
pub struct RegionPoint {
    pub region: Origin,
    pub writes_per_second: f64,
    pub replicated_per_second: f64,
}

impl Board {
    pub(super) fn new(
        regions: Vec<Origin>,
        figures: Figures,
        interval: Duration,
        interceptions: BTreeMap<Origin, Interceptions>,
    ) -> Self {
        let state = State { recent: Recent::new(), others: BTreeMap::new(), history: VecDeque::new() };
        Self { regions, figures, interval, interceptions, state: Mutex::new(state) }
    }

    /// All regions as they are now.
    pub fn overview(&self) -> Overview {
        let own = Heard { report: self.report(), silent: Duration::ZERO };
        let heard = |told: &LatestReport| Heard { report: told.report.clone(), silent: told.at.elapsed() };
        let reports = std::iter::once(own).chain(self.lock().others.values().map(heard)).collect();
        Overview::of(&self.regions, reports)
    }

    /// The last minutes, oldest moment first.
    pub fn history(&self) -> Vec<Point> {
        self.lock().history.iter().cloned().collect()
    }

    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    /// For each other region, how long none of its agents has reported here.
    pub(crate) fn silences(&self) -> BTreeMap<Origin, Duration> {
        let state = self.lock();
        let since = |region: &Origin| {
            let told = state.others.iter().filter(|((of, _), _)| of == region).map(|(_, told)| told.at);
            told.max().map_or_else(|| state.recent.running(), |at| at.elapsed())
        };
        let others = self.regions.iter().filter(|region| *region != self.figures.region());
        others.map(|region| (region.clone(), since(region).saturating_sub(self.interval))).collect()
    }

    /// What is known about whether the replicas of this agent's tables agree.
    pub(crate) fn agreements(&self) -> Vec<(String, Agreement)> {
        let state = self.lock();
        let known = |table: String| Some((state.recent.agreement(&table)?.clone(), table));
        self.figures.tables().into_iter().filter_map(known).map(|(known, table)| (table, known)).collect()
    }

    /// The agent's own report now.
    pub(super) fn report(&self) -> Report {
        let intercepted = self.interceptions.iter();
        let intercepted = intercepted.filter_map(|(at, noted)| Some((at.clone(), noted.within(OF_LATE)?)));
        Report::make(&self.figures, &self.lock().recent, self.interval, intercepted.collect())
    }

    /// How often something else has answered this agent in each region's place.
    pub(crate) fn intercepted(&self) -> impl Iterator<Item = (&Origin, u64)> {
        self.interceptions.iter().map(|(region, noted)| (region, noted.count()))
    }

    /// Records something that the agent did or has read.
    pub(super) fn note(&self, note: impl FnOnce(&mut Recent)) {
        note(&mut self.lock().recent);
    }

    /// Records what the agent did since the last call, and keeps the moment.
    pub(super) fn tick(&self) {
        self.note(|recent| recent.sample(&self.figures));
        let Overview { millis, regions, links, .. } = self.overview();
        let links = links.into_iter().map(|link| LinkPoint {
            p50_ms: link.lag.as_ref().map(|lag| lag.p50_ms),
            p99_ms: link.lag.as_ref().map(|lag| lag.p99_ms),
            heartbeat_ms: link.last_heartbeat_ms,
            watermark_age: link.watermark_age,
            origin: link.origin,
            peer: link.peer,
        });
        let regions = regions.into_iter().map(|view| RegionPoint {
            region: view.region,
            writes_per_second: view.writes_per_second,
            replicated_per_second: view.replicated_per_second,
        });
        let point = Point { millis, links: links.collect(), regions: regions.collect() };
        let history = &mut self.lock().history;
        if history.len() == POINTS {
            history.pop_front();
        }
        history.push_back(point);
    }

    /// Records what all agents have reported.
    pub(super) fn hear(&self, reports: Vec<SavedReport>) {
        let now = Instant::now();
        let mut state = self.lock();
        let mut others = BTreeMap::new();
        for SavedReport { region, agent, beat, body } in reports {
            if agent == *self.figures.agent() {
                continue;
            }
            let key = (region, agent);
            let told = match state.others.remove(&key) {
                Some(told) if told.beat == beat => Some(told),
                last => serde_json::from_str::<Report>(&body).ok().map(|report| {
                    // For an agent that was there before this one, only its own clock shows the age.
                    let age = Duration::from_millis(wall_millis().saturating_sub(report.millis));
                    let at = if last.is_some() { now } else { now.checked_sub(age).unwrap_or(now) };
                    LatestReport { report, beat, at }
                }),
            };
            others.extend(told.map(|told| (key, told)));
        }
        state.others = others;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
