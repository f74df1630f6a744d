//! Adds a region to replication: before anything is written in it, the agents elsewhere already keep every
//! key that it has not passed, and only then are existing items copied there.
//!
//! This order makes it safe, the reverse of a removal: agents elsewhere that do not know the region forget
//! keys without asking it, and would take an older write of it for the newest.

use std::collections::BTreeMap;

use serde::Serialize;

use super::agents::{AgentElsewhere, Patience, elsewhere, running};
use super::left::{Left, left};
use super::{OperateError, tables};
use crate::config::Config;
use crate::protocol::Origin;
use crate::region::Region;

/// How ready everything is for a region's items.
#[derive(Debug, Serialize)]
pub struct Joining {
    pub region: Origin,
    /// The tables that it takes part in.
    pub tables: Vec<String>,
    /// Its running agents.
    pub agents: Vec<String>,
    /// The agents of other regions that do not know it.
    pub unaware: Vec<AgentElsewhere>,
    /// The other regions without a running agent.
    pub silent: Vec<Origin>,
    /// What applications have written there too early, by table.
    pub written: Vec<Left>,
}

impl Joining {
    /// Whether the agents elsewhere know the region.
    pub fn is_known(&self) -> bool {
        self.unaware.is_empty() && self.silent.is_empty()
    }

    /// Whether existing items may be copied there.
    pub fn is_ready(&self) -> bool {
        self.is_known() && self.written.is_empty() && !self.agents.is_empty()
    }
}

/// Checks how ready everything is for a region whose tables exist. With `force`, it may already have been
/// written to.
pub async fn join(
    config: &Config,
    regions: &BTreeMap<Origin, Region>,
    new: &Region,
    force: bool,
) -> Result<Joining, OperateError> {
    let mut taken = tables(config, regions).await?;
    taken.retain(|table| table.is_in(&new.name));
    let others: BTreeMap<Origin, Region> = regions
        .iter()
        .filter(|(name, _)| **name != new.name && taken.iter().any(|table| table.is_in(name)))
        .map(|(name, region)| (name.clone(), region.clone()))
        .collect();
    let names = taken.iter().map(|table| table.name().to_owned()).collect();
    let patience = Patience::with_starting(config.tuning.lease_duration);
    let mut joining = agents_of(&others, new, names, patience).await?;
    // Once it has joined, what is written there is replicated like everything else.
    if !force && (!joining.is_known() || joining.agents.is_empty()) {
        for replica in taken.iter().filter_map(|table| table.replica_in(&new.name)) {
            let left = left(replica, &config.tuning).await;
            let left = left.map_err(|fault| OperateError::at(new, &replica.table.name, fault))?;
            joining.written.extend((left.writes > 0).then_some(left));
        }
    }
    Ok(joining)
}

/// Which agents run, and which of those elsewhere know the region.
async fn agents_of(
    others: &BTreeMap<Origin, Region>,
    new: &Region,
    tables: Vec<String>,
    patience: Patience,
) -> Result<Joining, OperateError> {
    let (agents, beating) = tokio::join!(running(new, patience), elsewhere(others, patience));
    let agents = agents.map_err(|fault| OperateError::at(new, &new.control_table, fault))?;
    let beating = beating?;
    let silent =
        others.keys().filter(|name| !beating.iter().any(|(agent, _)| agent.region == **name)).cloned();
    let silent = silent.collect();
    let unaware = beating.into_iter().filter(|(_, beat)| !beat.regions.contains(&new.name));
    Ok(Joining {
        region: new.name.clone(),
        tables,
        agents: agents.keys().map(ToString::to_string).collect(),
        silent,
        unaware: unaware.map(|(agent, _)| agent).collect(),
        written: Vec::new(),
    })
}
