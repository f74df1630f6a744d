//! The agent of one region: connects stream → protocol → deliver, and is the only module that knows them all.
//!
//! | file | subject |
//! | --- | --- |
//! | `tables` | which tables there are: named ones, and those found by patterns |
//! | `plan` | whether a table can be replicated |
//! | `keeper` | supervises one table, whatever happens to it |
//! | `figures` | what has been done, and the present state |
//! | `crew` | which agents of the region are alive |
//! | `asked` | requests to the table's agents: barriers, holds |
//! | `backlog` | how far each peer is behind, for people |
//! | `succession` | which streams of a table are read, one after the other |
//! | `foreign` | writes of another setup's agents |
//! | `table` | one table: lanes, watermarks |
//! | `coordinator` | distributes the table's shards among the crew |
//! | `family` | the shards' lineage, by list and leases |
//! | `promises` | what all leases together promise a peer |
//! | `recorder` | records conflicts, where configured |
//! | `retention` | how near a peer's backlog is to being lost |
//! | `holding` | one shard that this agent reads |
//! | `shared` | what all tracks of a stream share |
//! | `shard` | the tracks of one shard |
//! | `track` | one reading of the shard |
//! | `progress` | what a track has judged, and what may be checkpointed |

mod asked;
mod backlog;
mod coordinator;
mod crew;
mod family;
mod figures;
mod foreign;
mod holding;
mod keeper;
mod plan;
mod progress;
mod promises;
mod recorder;
mod retention;
mod shard;
mod shared;
mod succession;
mod table;
mod tables;
mod terms;
mod times;
mod track;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::crew::{Crew, Member, Watch};
use self::plan::Site;
use self::tables::{FirstTry, Tables};
use crate::config::Config;
use crate::contained::contained;
use crate::control::{AgentId, ControlTable};
use crate::fault::Fault;
use crate::protocol::Origin;
use crate::region::{ConnectError, Region};

pub use backlog::Backlog;
pub use figures::{FeedStanding, Figures, TableReport, TableStanding};

/// A running agent. It stops at once when it is dropped; [`Self::stop`] lets it finish.
#[derive(Debug)]
pub struct Agent {
    stop: CancellationToken,
    task: JoinHandle<()>,
    /// How long stopping may take.
    patience: Duration,
    figures: Figures,
}

/// Why an agent can't start, or one of its tables can't be replicated.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StartError {
    #[error("no region {0:?} in the configuration; there are: {1}")]
    UnknownRegion(String, String),
    #[error("no table has a replica in region {0}")]
    NoTable(Origin),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("region {region}, table {table}: {fault}\n{}", fault.kind.advice())]
    Fault { region: Origin, table: String, fault: Fault },
    #[error("region {region}, table {table}: {reason}")]
    NotReady { region: Origin, table: String, reason: String },
    #[error("region {region}, table {table}: its replication failed, which is a defect: {reason}")]
    BrokeDown { region: Origin, table: String, reason: String },
}

impl StartError {
    /// For a log line.
    fn in_one_line(&self) -> String {
        self.to_string().replace('\n', " ")
    }
}

impl Agent {
    /// Checks what the agent needs in its own region, and starts it.
    pub async fn start(config: &Config, region: &str) -> Result<Self, StartError> {
        let regions = Region::connect_all(config).await?;
        Self::start_over(config, region, &regions).await
    }

    /// Starts with clients of regions that are already connected.
    ///
    /// One table that can be replicated is enough: the others are retried. An agent without any starts only
    /// if its patterns may still find one.
    pub async fn start_over(
        config: &Config,
        region: &str,
        regions: &BTreeMap<Origin, Region>,
    ) -> Result<Self, StartError> {
        let Some(local) = config.region(region) else {
            let names: Vec<_> = config.regions.iter().map(|region| region.name.as_str()).collect();
            return Err(StartError::UnknownRegion(region.to_owned(), names.join(", ")));
        };
        if config.tuning.unproven {
            warn!(
                region,
                "`unproven` is set: writes may be lost; it is only for tests that need short intervals"
            );
        }
        let local = regions[&local.name].clone();
        let site = Site::new(config.clone(), local, regions.clone());
        if let Err(error) = site.spill.check() {
            let memory_keys = config.tuning.memory_keys;
            warn!(
                region, %error, memory_keys,
                "keys beyond memory_keys can't be moved to disk; then they stay in memory, which grows with the \
                 backlog. Set spill_directory to a writable folder"
            );
        }
        let me = AgentId::from(format!("{:016x}", fastrand::Rng::new().u64(..)).as_str());
        let figures = Figures::new(site.local.name.clone(), me.clone());
        let first = FirstTry::make(site, figures.clone()).await?;
        Ok(Self::spawn(first, me, figures))
    }

    fn spawn(first: FirstTry, me: AgentId, figures: Figures) -> Self {
        let stop = CancellationToken::new();
        let patience = first.site.config.tuning.stopping();
        let (sender, crew) = watch::channel(Crew::UNSEEN);
        let watching = CancellationToken::new();
        let site = Arc::clone(&first.site);
        figures.started(crew.clone(), Arc::clone(&site.pauses));
        let watch = Watch {
            control: ControlTable::of(&site.local),
            region: site.local.name.clone(),
            regions: site.config.regions.iter().map(|region| region.name.clone()).collect(),
            configuration: site.config.fingerprint(),
            me: me.clone(),
            lease_duration: site.config.tuning.lease_duration,
            crew: sender,
            pauses: Arc::clone(&site.pauses),
            feeds: site.feeds.clone(),
        };
        let tables = Tables::start(first, Member { me, crew }, stop.clone());
        let task = tokio::spawn(async move {
            let mut crew = JoinSet::new();
            let watched = watching.clone();
            crew.spawn(async move {
                let begin = || crew::keep_watch(watch.clone(), watched.clone());
                contained("the crew's watch", &watched, begin).await;
            });
            tables.run().await;
            // The others see at once that this agent is gone, with all its leases released.
            watching.cancel();
            while crew.join_next().await.is_some() {}
        });
        Self { stop, task, patience, figures }
    }

    /// Lets the agent finish what is in progress, save its checkpoints, and stop; what takes too long is
    /// abandoned, and done again after the next start.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if tokio::time::timeout(self.patience, &mut self.task).await.is_err() {
            warn!(
                region = %self.figures.region(), seconds = self.patience.as_secs(),
                "stopped with work left, which is repeated after the next start: something did not answer in time"
            );
        }
    }

    /// Returns once the agent has ended by itself, which only a defect can cause.
    pub async fn ended(&mut self) {
        let _ = (&mut self.task).await;
    }

    pub fn figures(&self) -> &Figures {
        &self.figures
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}
