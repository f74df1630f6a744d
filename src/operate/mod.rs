//! What an operator does to replicas, apart from replicating: prepare them, compare them, wait for them,
//! pause the flow to them, handle dead letters and conflicts.

mod add;
mod agents;
mod anti_entropy;
mod conflicts;
mod dead_letters;
mod doctor;
mod feeds;
mod init;
mod left;
mod pause;
mod remove;
mod replicas;
mod scanned;
mod seeding;
mod status;
mod verify;
mod wait;

use std::collections::BTreeMap;

use tracing::warn;

use crate::config::Config;
use crate::discovery;
use crate::fault::Fault;
use crate::protocol::Origin;
use crate::region::Region;

pub use add::{Joining, join};
pub use agents::AgentElsewhere;
pub use anti_entropy::anti_entropy;
pub use conflicts::{LostWrite, Restored, conflicts, restore};
pub use dead_letters::{Fate, Letter, Replayed, dead_letters, replay};
pub use doctor::{Diagnosis, Finding, Harm, Untried, doctor};
pub use feeds::{FeedMark, FeedSites, Offered, Parked};
pub use init::{Change, Model, Plan, Problem, Step};
pub use left::Left;
pub use pause::{Flow, PauseError, flows, pause};
pub use remove::{Removal, RemoveOptions, remove};
pub use replicas::{PhysicalReplica, TableReplicas};
pub use seeding::{
    SeedChange, SeedError, SeedOptions, SeedPhase, SeedProgress, Seeded, Settled, bootstrap, repair,
};
pub use status::{Silent, Status, status};
pub use verify::{
    Audience, Difference, Holding, Options, Scanned, Stage, TableVerdict, Verification, VerifyError, verify,
};
pub use wait::{Arrival, Watermark, wait, watermarks};

/// A failed call, and what it was for.
#[derive(Debug, thiserror::Error)]
#[error("region {region}, table {table}: {fault}\n{}", fault.kind.advice())]
pub struct OperateError {
    pub region: Origin,
    pub table: String,
    pub fault: Fault,
}

impl OperateError {
    fn at(region: &Region, table: &str, fault: impl Into<Fault>) -> Self {
        Self { region: region.name.clone(), table: table.to_owned(), fault: fault.into() }
    }
}

/// The tables given by name, and those that a pattern finds in any of its regions.
pub async fn tables(
    config: &Config,
    regions: &BTreeMap<Origin, Region>,
) -> Result<Vec<TableReplicas>, OperateError> {
    tables_seen_from(config, regions, regions.values()).await
}

/// The tables given by name, and those that a pattern finds in the regions that are `asked`.
async fn tables_seen_from<'a>(
    config: &Config,
    regions: &BTreeMap<Origin, Region>,
    asked: impl Iterator<Item = &'a Region>,
) -> Result<Vec<TableReplicas>, OperateError> {
    let mut found = BTreeMap::new();
    for region in asked {
        if let Some(pattern) = discovery::pattern_in(config, &region.name) {
            let there = discovery::find(config, region).await;
            found.extend(there.map_err(|fault| OperateError::at(region, &pattern, fault))?);
        }
    }
    for pattern in config.patterns.iter().map(|entry| &entry.pattern) {
        if !found.keys().any(|name| pattern.matches(name)) {
            warn!(%pattern, "no table matches the pattern in any of its regions");
        }
    }
    let tables = config.tables.iter().cloned().chain(found.into_values());
    tables.map(|table| TableReplicas::of(table, regions)).collect()
}

/// Why tables requested by name can't be used.
#[derive(Debug, thiserror::Error)]
pub enum NamedError {
    #[error(transparent)]
    Operate(#[from] OperateError),
    #[error("no table is called {name:?}; there are: {}", known.join(", "))]
    Unknown { name: String, known: Vec<String> },
}

/// Those of all [`tables`] that have one of these names; all, if no name is given.
pub async fn named_tables(
    config: &Config,
    regions: &BTreeMap<Origin, Region>,
    names: &[String],
) -> Result<Vec<TableReplicas>, NamedError> {
    let mut tables = tables(config, regions).await?;
    if let Some(name) = names.iter().find(|name| !tables.iter().any(|table| table.name() == *name)) {
        let known = tables.iter().map(|table| table.name().to_owned()).collect();
        return Err(NamedError::Unknown { name: name.clone(), known });
    }
    tables.retain(|table| names.is_empty() || names.iter().any(|name| name == table.name()));
    Ok(tables)
}
