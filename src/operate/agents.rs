//! Which agents of a region run: those that beat while they are watched.
//!
//! A killed agent's last beat stays in the control table, so a beat alone proves nothing; and no clocks are
//! compared. All operator commands ask here.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::OperateError;
use crate::contained::joined;
use crate::control::{AgentId, Beat, ControlTable};
use crate::fault::{Fault, in_time};
use crate::protocol::Origin;
use crate::region::Region;

/// How often the beats are checked.
const LOOK: Duration = Duration::from_millis(250);
/// How long a control table may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a running agent may show no beat, in lease durations; it beats four times in one.
const SILENCE: u32 = 2;
/// How long an agent that has just been started may take to beat, on a busy machine.
const START: Duration = Duration::from_secs(10);

/// An agent of another region.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct AgentElsewhere {
    pub region: Origin,
    pub agent: String,
}

/// How long to look for agents.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// If none has ever beaten.
    first: Duration,
    /// If one has, but is not seen to beat again.
    again: Duration,
}

impl Patience {
    /// For agents that already run.
    pub(super) fn with_running(lease_duration: Duration) -> Self {
        Self { first: Duration::ZERO, again: silence(lease_duration) }
    }

    /// Also for agents that a person started a moment ago.
    pub(super) fn with_starting(lease_duration: Duration) -> Self {
        Self { first: START, again: silence(lease_duration).max(START) }
    }

    fn to_see(self, seen: &BTreeMap<AgentId, SeenAgent>) -> Duration {
        if seen.is_empty() { self.first } else { self.again }
    }
}

/// How long a running agent may show no beat.
pub(super) fn silence(lease_duration: Duration) -> Duration {
    lease_duration * SILENCE
}

/// The running agents of several regions, each with its last beat.
pub(super) async fn elsewhere(
    regions: &BTreeMap<Origin, Region>,
    patience: Patience,
) -> Result<Vec<(AgentElsewhere, Beat)>, OperateError> {
    let mut looks = JoinSet::new();
    for region in regions.values().cloned() {
        looks.spawn(async move {
            let agents = running(&region, patience).await;
            agents
                .map(|agents| (region.name.clone(), agents))
                .map_err(|fault| OperateError::at(&region, &region.control_table, fault))
        });
    }
    let mut found = Vec::new();
    while let Some(look) = looks.join_next().await {
        let (region, agents) = joined(look)?;
        let named = |agent: AgentId| AgentElsewhere { region: region.clone(), agent: agent.to_string() };
        found.extend(agents.into_iter().map(|(agent, beat)| (named(agent), beat)));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// The running agents of a region, each with its last beat. Takes as long as `patience`, unless all that have
/// ever beaten are seen to run sooner.
pub(super) async fn running(region: &Region, patience: Patience) -> Result<BTreeMap<AgentId, Beat>, Fault> {
    let (mut watch, began) = (Watch::of(region), Instant::now());
    loop {
        let seen = watch.look().await?;
        let all_run = !seen.is_empty() && seen.values().all(|seen| seen.runs);
        if all_run || began.elapsed() >= patience.to_see(seen) {
            let runs = seen.iter().filter(|(_, seen)| seen.runs);
            return Ok(runs.map(|(agent, seen)| (agent.clone(), seen.beat.clone())).collect());
        }
    }
}

/// The first of these regions without a running agent.
pub(super) async fn first_without<'a>(
    regions: impl Iterator<Item = &'a Region>,
    patience: Patience,
) -> Option<&'a Region> {
    let look = |region: &'a Region| {
        let cloned = region.clone();
        (region, AbortOnDropHandle::new(tokio::spawn(async move { has_agent(&cloned, patience).await })))
    };
    let looks: Vec<_> = regions.map(look).collect();
    for (region, look) in looks {
        if !joined(look.await) {
            return Some(region);
        }
    }
    None
}

/// Whether any agent of a region is seen to run. A read that fails is retried.
async fn has_agent(region: &Region, patience: Patience) -> bool {
    let (mut watch, began) = (Watch::of(region), Instant::now());
    loop {
        let limit = match watch.look().await {
            Ok(seen) if seen.values().any(|seen| seen.runs) => return true,
            Ok(seen) => patience.to_see(seen),
            Err(fault) => {
                debug!(region = %region.name, %fault, "can't read the beats in the control table");
                patience.again
            }
        };
        if began.elapsed() >= limit {
            return false;
        }
    }
}

/// A region's agents, watched over time.
pub(super) struct Watch {
    control: ControlTable,
    ticks: Interval,
    seen: Option<BTreeMap<AgentId, SeenAgent>>,
}

/// An agent that has not deregistered.
#[derive(Debug)]
pub(super) struct SeenAgent {
    pub(super) beat: Beat,
    /// When it was last seen to beat; if it has not beaten since, when it was first seen.
    pub(super) at: Instant,
    /// Whether it has beaten while it was watched.
    runs: bool,
}

impl Watch {
    pub(super) fn of(region: &Region) -> Self {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { control: ControlTable::of(region), ticks, seen: None }
    }

    /// Looks again, at the next tick.
    pub(super) async fn look(&mut self) -> Result<&BTreeMap<AgentId, SeenAgent>, Fault> {
        self.ticks.tick().await;
        let crew = in_time(ANSWER, "no answer", self.control.crew()).await?;
        let seen = noted(self.seen.as_ref(), crew.beats, Instant::now());
        Ok(self.seen.insert(seen))
    }
}

/// What is known about agents with these current beats. One that is new since the previous look has beaten
/// meanwhile.
fn noted(
    before: Option<&BTreeMap<AgentId, SeenAgent>>,
    beats: BTreeMap<AgentId, Beat>,
    now: Instant,
) -> BTreeMap<AgentId, SeenAgent> {
    let seen = |(agent, beat): (AgentId, Beat)| {
        let known = before.and_then(|before| before.get(&agent));
        let seen = match known.filter(|known| known.beat.count == beat.count) {
            Some(known) => SeenAgent { beat, at: known.at, runs: known.runs },
            None => SeenAgent { beat, at: now, runs: before.is_some() },
        };
        (agent, seen)
    };
    beats.into_iter().map(seen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_agent_that_beats_between_two_looks_runs() {
        let began = Instant::now();
        let look = |before: Option<&BTreeMap<AgentId, SeenAgent>>, second: u64, beats: &[(&str, u64)]| {
            let beat = |count| Beat { count, ..Beat::default() };
            let beats = beats.iter().map(|(agent, count)| (AgentId::from(*agent), beat(*count)));
            noted(before, beats.collect(), began + Duration::from_secs(second))
        };
        let told = |seen: &BTreeMap<AgentId, SeenAgent>| -> Vec<(String, bool, u64)> {
            let told = seen.iter().map(|(agent, seen)| (agent, seen.runs, seen.at.duration_since(began)));
            told.map(|(agent, runs, at)| (agent.to_string(), runs, at.as_secs())).collect()
        };
        let of = |agent: &str, runs, at| (agent.to_owned(), runs, at);
        let first = look(None, 0, &[("dead", 7), ("leaving", 3), ("old", 1)]);
        assert_eq!(told(&first), [of("dead", false, 0), of("leaving", false, 0), of("old", false, 0)]);
        let second = look(Some(&first), 1, &[("dead", 7), ("leaving", 3), ("new", 1), ("old", 2)]);
        let expected =
            [of("dead", false, 0), of("leaving", false, 0), of("new", true, 1), of("old", true, 1)];
        assert_eq!(told(&second), expected);
        // It has run once: how long it has been silent since is for the caller to judge.
        let third = look(Some(&second), 2, &[("dead", 7), ("new", 1), ("old", 3)]);
        assert_eq!(told(&third), [of("dead", false, 0), of("new", true, 1), of("old", true, 2)]);
    }
}
