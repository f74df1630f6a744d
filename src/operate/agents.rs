//! Which agents of a region run: those whose beats grow while they are looked at.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, timeout};

use super::OperateError;
use crate::control::{AgentId, Beat, ControlTable};
use crate::fault::{Fault, FaultKind};
use crate::protocol::Origin;
use crate::region::Region;

/// How often the beats are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How long a control table may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How long an agent may be seen doing nothing, in lease durations; it beats four times in one.
const SILENCE: u32 = 2;

/// An agent of another region.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct AgentElsewhere {
    pub region: Origin,
    pub agent: String,
}

/// The agents of several regions that run, each with its last beat.
pub(super) async fn elsewhere(
    regions: &BTreeMap<Origin, Region>,
    lease_duration: Duration,
) -> Result<Vec<(AgentElsewhere, Beat)>, OperateError> {
    let mut looks = JoinSet::new();
    for region in regions.values().cloned() {
        looks.spawn(async move {
            let agents = running(&region, lease_duration).await;
            agents
                .map(|agents| (region.name.clone(), agents))
                .map_err(|fault| OperateError::at(&region, &region.control_table, fault))
        });
    }
    let mut found = Vec::new();
    while let Some(look) = looks.join_next().await {
        let (region, agents) = look.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        let named = |agent: AgentId| AgentElsewhere { region: region.clone(), agent: agent.to_string() };
        found.extend(agents.into_iter().map(|(agent, beat)| (named(agent), beat)));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// The agents of a region that run, each with its last beat. Takes two lease durations, unless all
/// that have ever beaten are seen to run before, or none has.
pub(super) async fn running(
    region: &Region,
    lease_duration: Duration,
) -> Result<BTreeMap<AgentId, Beat>, Fault> {
    let control = ControlTable::of(region);
    let deadline = Instant::now() + lease_duration * SILENCE;
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut first: BTreeMap<AgentId, u64> = BTreeMap::new();
    loop {
        ticks.tick().await;
        let seen = timeout(ANSWER, control.crew()).await.unwrap_or_else(|_| {
            let message = format!("no answer within {} s", ANSWER.as_secs());
            Err(Fault { kind: FaultKind::Unreachable, code: String::new(), message })
        });
        let mut beats = seen?.beats;
        for (agent, beat) in &beats {
            first.entry(agent.clone()).or_insert(beat.count);
        }
        let total = beats.len();
        beats.retain(|agent, beat| first.get(agent) != Some(&beat.count));
        if beats.len() == total || Instant::now() >= deadline {
            return Ok(beats);
        }
    }
}
