//! Brings replicas to the same items where no stream can: `bootstrap` for what was written before the streams
//! were on, `repair` for what was lost in them.
//!
//! Both make seeds (see `protocol::seed`), while agents and applications keep running:
//!
//! 1. A hold is raised in each region: from then on agents forget no key.
//! 2. The agents of all regions confirm that they have seen it, and then that everything written before
//!    that is everywhere.
//! 3. Keys are read in all regions. Where these differ, something may be on its way, or being fixed by an
//!    agent: after another such confirmation the key is reread, and if nothing has changed a conditional put
//!    brings the regions together.
//! 4. Once no such put can still be in progress, the hold is released.
//!
//! A hold keeps the agents' memory and their positions in the streams where they are; so after half an hour
//! it is released, and another one is raised.
//!
//! | file | subject |
//! | --- | --- |
//! | `hold` | keeps the hold, and ends the right to write with it |
//! | `seeder` | reads keys in all regions, and makes their seeds |
//! | `bootstrap` | finds keys by reading one replica after the other, and can be resumed |
//! | `repair` | finds keys by comparing all replicas |

mod bootstrap;
mod hold;
mod repair;
mod seeder;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior};

use super::agents::{Patience, first_without};
use super::scanned::{Budgets, ScannedReplica};
use super::{NamedError, OperateError, PhysicalReplica, TableReplicas, VerifyError};
use crate::config::Config;
use crate::protocol::{Origin, Seed};

pub use bootstrap::bootstrap;
pub use repair::repair;
use seeder::Seeder;

/// How long one hold lasts.
const HOLD_FOR: Duration = Duration::from_mins(30);
/// How often progress is reported.
const TELL: Duration = Duration::from_millis(200);

/// How to seed.
#[derive(Clone, Debug, Default)]
pub struct SeedOptions {
    /// The tables; all, if none is given.
    pub tables: Vec<String>,
    /// The regions to write to; all, if none is given.
    pub to: Vec<Origin>,
    /// Whose items win where no version shows which is newer: these first, then by the order of the
    /// configuration.
    pub prefer: Vec<Origin>,
    /// Concurrent scans per replica.
    pub segments: u16,
    /// Read units per second and region.
    pub read_units: Option<u32>,
    /// Write units per second and region.
    pub write_units: Option<u32>,
    /// How much memory the comparison of a repair may take, in bytes.
    pub memory: usize,
    /// How long the agents may take to confirm that everything written is everywhere.
    pub patience: Duration,
    /// How many settled keys are kept per table; all are counted.
    pub limit: usize,
    /// Copies with these effects are not made.
    pub leave: Vec<SeedChange>,
    /// Write nothing.
    pub dry_run: bool,
    /// Repeat what an earlier bootstrap has done.
    pub restart: bool,
}

/// The result of seeding one table.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Seeded {
    pub table: String,
    /// Items that were read to find keys.
    pub items_read: u64,
    /// Copies made, by the region they were made in; with `dry_run`, that would be.
    pub seeded: BTreeMap<Origin, u64>,
    /// Those that replaced an item that no version shows to be older.
    pub clashes: u64,
    /// Keys that changed meanwhile: what was written is on its way.
    pub moving: u64,
    /// Keys whose items an agent is about to delete.
    pub marked: u64,
    /// Copies that the region refused.
    pub failed: u64,
    /// The first settled keys.
    pub settled: Vec<Settled>,
    pub read_units: BTreeMap<Origin, f64>,
    pub write_units: BTreeMap<Origin, f64>,
    pub dry_run: bool,
    /// Whether all keys were handled. If not, it was interrupted, and continues where it was.
    pub complete: bool,
    pub seconds: f64,
}

/// One copy.
#[derive(Clone, Debug, Serialize)]
pub struct Settled {
    /// The key, as DynamoDB JSON.
    pub key: Value,
    /// Where the copy was made.
    pub region: Origin,
    /// Whose item it is a copy of.
    pub from: Origin,
    pub change: SeedChange,
    /// Why the region refused it.
    pub fault: Option<String>,
}

/// What a copy did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SeedChange {
    /// There was no item.
    Added,
    /// There was an older one.
    Updated,
    /// There was one that no version shows to be older.
    Clash,
}

impl SeedChange {
    fn of(seed: &Seed) -> Self {
        match seed.write.replaced {
            None => Self::Added,
            Some(_) if seed.is_clash => Self::Clash,
            Some(_) => Self::Updated,
        }
    }
}

/// The progress of seeding.
#[derive(Clone, Debug)]
pub struct SeedProgress {
    pub table: String,
    pub phase: SeedPhase,
    pub items_read: u64,
    /// The items to read, as the services estimate them.
    pub estimate: u64,
    pub copies: u64,
    pub since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeedPhase {
    /// Comparing the replicas.
    Comparing,
    /// Waiting for the agents to confirm that everything written is everywhere.
    WaitingForAgents,
    Seeding,
    /// Waiting until no copy can still be in progress.
    Ending,
}

/// Why a table could not be seeded.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    #[error(transparent)]
    Operate(#[from] OperateError),
    #[error(transparent)]
    Named(#[from] NamedError),
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error(
        "region {region}: no agent is running, and only agents can confirm that what was written there is \
         everywhere.\nStart one: tradewind run --region {region}"
    )]
    NotServed { region: Origin },
    #[error(
        "table {table}: the agents of {origin} did not confirm within {} that everything written there is in \
         {peer}.\nAre the agents of both running, with a configuration that names both? `tradewind status` shows \
         how far they are; --timeout allows them more time.", humantime::format_duration(*.patience)
    )]
    NotPassed { table: String, origin: Origin, peer: Origin, patience: Duration },
    #[error(
        "table {table}: another bootstrap or repair is running on it (seen in region {region}).\nWait for it to end."
    )]
    Busy { table: String, region: Origin },
    #[error(
        "table {table}: the hold on it was lost, since a control table could not be written for long, or another \
         bootstrap or repair has begun.\nRun the command again: a bootstrap continues where it was."
    )]
    Lost { table: String },
}

/// The replicas of a table, those first whose items win; their regions' agents are alive.
async fn replicas(
    config: &Config,
    table: &TableReplicas,
    options: &SeedOptions,
) -> Result<Arc<[ScannedReplica]>, SeedError> {
    let rank = |name: &Origin| options.prefer.iter().position(|preferred| preferred == name);
    let mut ordered: Vec<&PhysicalReplica> = table.replicas.iter().collect();
    ordered.sort_by_key(|replica| rank(&replica.region.name).unwrap_or(usize::MAX));
    let patience = Patience::with_starting(config.tuning.lease_duration);
    if let Some(region) = first_without(ordered.iter().map(|replica| &replica.region), patience).await {
        return Err(SeedError::NotServed { region: region.name.clone() });
    }
    Ok(super::scanned::replicas(ordered, &mut Budgets::new(options.read_units)).await?)
}

/// Works, and reports its progress to the audience.
async fn told<T>(
    work: impl Future<Output = Result<T, SeedError>>,
    seeder: &Seeder,
    audience: &mut impl FnMut(SeedProgress),
) -> Result<T, SeedError> {
    let mut work = std::pin::pin!(work);
    let mut ticks = tokio::time::interval(TELL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            result = &mut work => return result,
            _ = ticks.tick() => audience(seeder.progress()),
        }
    }
}
