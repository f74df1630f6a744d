//! The agent of one region: wires stream → protocol → apply, and alone knows them all.
//!
//! | file | subject |
//! | --- | --- |
//! | `crew` | which agents of the region are alive |
//! | `table` | one table: lanes, watermarks |
//! | `coordinator` | shares the table's shards out among the crew |
//! | `holding` | one shard that this agent reads |
//! | `track` | one reading of the shard |
//! | `progress` | what a track has judged, and what may be checkpointed |

mod coordinator;
mod crew;
mod holding;
mod progress;
mod table;
mod track;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::coordinator::Shards;
use self::crew::Crew;
use self::table::TablePlan;
use crate::config::{Config, RegionConfig, TableConfig};
use crate::control::{AgentId, ControlTable};
use crate::fault::{Fault, FaultKind};
use crate::lag::{LagBook, PeerLag};
use crate::protocol::Origin;
use crate::region::Region;
use crate::schema::{Described, StreamState, describe};
use crate::tally::{Tally, TallySnapshot};

/// A running agent. It stops at once when it is dropped; [`Self::stop`] lets it finish.
#[derive(Debug)]
pub struct Agent {
    stop: CancellationToken,
    task: JoinHandle<()>,
    figures: Figures,
}

/// What an agent has done, and where it stands; outlives it.
#[derive(Clone, Debug)]
pub struct Figures {
    region: Origin,
    tables: Arc<[TableStatus]>,
}

#[derive(Debug)]
struct TableStatus {
    name: String,
    tally: Arc<Tally>,
    lag: Arc<LagBook>,
    shards: Arc<Shards>,
}

/// What an agent has done for one table.
#[derive(Clone, Debug, Serialize)]
pub struct TableReport {
    pub origin: Origin,
    pub table: String,
    #[serde(flatten)]
    pub tally: TallySnapshot,
    pub lag: BTreeMap<Origin, PeerLag>,
}

/// Why an agent can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("there is no region {0:?} in the configuration; there are: {1}")]
    UnknownRegion(String, String),
    #[error("no table has a replica in region {0}")]
    NoTable(Origin),
    #[error("region {region}, table {table}: {fault}\n{}", fault.kind.advice())]
    Fault { region: Origin, table: String, fault: Fault },
    #[error("region {region}, table {table}: {reason}")]
    NotReady { region: Origin, table: String, reason: String },
}

impl Agent {
    /// Checks what the agent needs of its own region, and starts it.
    pub async fn start(config: &Config, region: &str) -> Result<Self, StartError> {
        let regions = Region::connect_all(config).await;
        Self::start_over(config, region, &regions).await
    }

    /// Starts with the clients of regions that are connected already.
    pub async fn start_over(
        config: &Config,
        region: &str,
        regions: &BTreeMap<Origin, Region>,
    ) -> Result<Self, StartError> {
        let Some(local) = config.region(region) else {
            let names: Vec<_> = config.regions.iter().map(|region| region.name.as_str()).collect();
            return Err(StartError::UnknownRegion(region.to_owned(), names.join(", ")));
        };
        let mut plans = Vec::new();
        for table in config.tables.iter().filter(|table| table.name_in(&local.name).is_some()) {
            plans.push(plan(config, local, table, regions).await?);
        }
        if plans.is_empty() {
            return Err(StartError::NoTable(local.name.clone()));
        }
        Ok(Self::spawn(&regions[&local.name], config.tuning.lease_duration, plans))
    }

    fn spawn(local: &Region, lease_duration: Duration, plans: Vec<TablePlan>) -> Self {
        let stop = CancellationToken::new();
        let me = AgentId::from(format!("{:016x}", fastrand::Rng::new().u64(..)).as_str());
        let (crew_alive, alive) = watch::channel(Crew::new());
        let watching = CancellationToken::new();
        let control = ControlTable::of(local);
        let watch = crew::keep_watch(control, me.clone(), lease_duration, crew_alive, watching.clone());
        let mut tables = Vec::new();
        let mut running = JoinSet::new();
        for plan in plans {
            let shards = Arc::new(Shards::default());
            info!(origin = %local.name, table = plan.table.name, peers = plan.peers.len(), agent = %me, "replicating");
            tables.push(TableStatus {
                name: plan.table.name.clone(),
                tally: Arc::clone(&plan.tally),
                lag: Arc::clone(&plan.lag),
                shards: Arc::clone(&shards),
            });
            running.spawn(plan.run(me.clone(), alive.clone(), shards, stop.clone()));
        }
        let task = tokio::spawn(async move {
            let mut crew = JoinSet::new();
            crew.spawn(watch);
            while running.join_next().await.is_some() {}
            // The others see at once that this agent is gone, all its leases given up.
            watching.cancel();
            while crew.join_next().await.is_some() {}
        });
        Self { stop, task, figures: Figures { region: local.name.clone(), tables: tables.into() } }
    }

    /// Lets the agent finish what is under way, make its checkpoints, and stop.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let _ = (&mut self.task).await;
    }

    /// Returns when the agent has come to its end by itself, which only a defect can cause.
    pub async fn ended(&mut self) {
        let _ = (&mut self.task).await;
    }

    pub fn figures(&self) -> &Figures {
        &self.figures
    }
}

impl Figures {
    /// Returns when each table's stream has been found drained, with nothing under way, in
    /// `calls` calls in a row.
    pub async fn drained(&self, calls: u32) {
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        while self.idle_calls() < calls {
            ticks.tick().await;
        }
    }

    /// The calls in a row that found each table's stream drained.
    pub fn idle_calls(&self) -> u32 {
        self.tables.iter().map(|table| table.shards.idle_calls()).min().unwrap_or_default()
    }

    /// The keys that the agent holds in memory: those whose items do not say their own version.
    pub fn remembered(&self) -> usize {
        self.tables.iter().map(|table| table.shards.remembered()).sum()
    }

    /// What the agent has done, by table.
    pub fn report(&self) -> Vec<TableReport> {
        self.tables
            .iter()
            .map(|table| TableReport {
                origin: self.region.clone(),
                table: table.name.clone(),
                tally: table.tally.snapshot(),
                lag: table.lag.summary(),
            })
            .collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Checks a local replica and its control table.
async fn plan(
    config: &Config,
    local: &RegionConfig,
    table: &TableConfig,
    regions: &BTreeMap<Origin, Region>,
) -> Result<TablePlan, StartError> {
    let region = regions[&local.name].clone();
    let physical = table.name_in(&local.name).unwrap_or(&table.name);
    let described = describe_local(&region, physical, config.tuning.startup_timeout).await?;
    let not_ready = |reason: String| StartError::NotReady {
        region: local.name.clone(),
        table: physical.to_owned(),
        reason,
    };
    let stream_arn = match described.stream {
        StreamState::On { arn } => arn,
        StreamState::Off => {
            return Err(not_ready("the table has no stream; `tradewind init` turns it on".to_owned()));
        }
        StreamState::Unfit(view) => {
            return Err(not_ready(format!(
                "the stream's view type is {view}, but NEW_AND_OLD_IMAGES is needed; `tradewind init` tells what to do"
            )));
        }
    };
    describe_local(&region, &region.control_table, config.tuning.startup_timeout).await?;
    let peers = table.replicas.iter().filter(|(name, _)| *name != local.name);
    Ok(TablePlan {
        table: table.clone(),
        tuning: config.tuning.clone(),
        peers: peers.filter_map(|(name, _)| regions.get(name).cloned()).collect(),
        local: region,
        stream_arn,
        key_schema: described.key_schema,
        tally: Arc::default(),
        lag: Arc::default(),
    })
}

/// Describes a table of the agent's own region, and gives a region that is starting some time.
async fn describe_local(region: &Region, table: &str, patience: Duration) -> Result<Described, StartError> {
    let deadline = Instant::now() + patience;
    loop {
        let fault = match describe(region, table).await {
            Ok(described) => return Ok(described),
            Err(fault) => fault,
        };
        let passing = matches!(fault.kind, FaultKind::Unreachable | FaultKind::Throttled);
        if !passing || Instant::now() >= deadline {
            return Err(StartError::Fault { region: region.name.clone(), table: table.to_owned(), fault });
        }
        warn!(region = %region.name, table, %fault, "the local region does not answer; trying again");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
