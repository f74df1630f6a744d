//! Checks whether a table of the agent's own region can be replicated.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::types::TableStatus as Lifecycle;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tracing::warn;

use super::StartError;
use super::figures::TableStatus;
use super::succession::Succession;
use super::table::{TableFeed, TablePlan};
use crate::config::{Config, FeedConfig, Start, TableConfig, Tuning};
use crate::contained::caught;
use crate::control::{ControlTable, FeedBegins, Setup};
use crate::deliver::Pauses;
use crate::discovery;
use crate::fault::{Fault, FaultKind};
use crate::protocol::{Origin, STAMP};
use crate::region::Region;
use crate::schema::{Described, StreamState, describe};
use crate::source::dynamodb_streams::own_millis;
use crate::spill::Spill;

/// How many tables are described at once, by an agent that has many.
const DESCRIBED_AT_ONCE: usize = 8;
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// What all tables of an agent share: its region, and the regions it reaches.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) config: Config,
    pub(super) local: Region,
    /// The paused peers and feeds, to which nothing is written.
    pub(super) pauses: Arc<Pauses>,
    /// From when on the region's feeds are told, as last seen.
    pub(super) feeds: watch::Sender<FeedBegins>,
    /// Where keys are kept that don't fit into memory.
    pub(super) spill: Arc<Spill>,
    regions: BTreeMap<Origin, Region>,
    turns: Semaphore,
}

/// What has become of a table that is being replicated.
pub(super) enum TableCheck {
    Unchanged,
    Deleted(Fault),
    /// It has another stream: it was recreated, or its stream was turned off and on again.
    OtherStream,
    /// It no longer shows what is written.
    NoStream(StartError),
}

impl Site {
    pub(super) fn new(config: Config, local: Region, regions: BTreeMap<Origin, Region>) -> Self {
        let Tuning { memory_keys, spill_directory, .. } = &config.tuning;
        let spill = Arc::new(Spill::new(*memory_keys, spill_directory.clone()));
        let turns = Semaphore::new(DESCRIBED_AT_ONCE);
        Self { config, local, pauses: Arc::default(), feeds: watch::Sender::default(), spill, regions, turns }
    }

    /// Checks a local replica; a region that does not answer is retried until the deadline.
    pub(super) async fn plan(
        &self,
        table: &TableConfig,
        status: &TableStatus,
        deadline: Instant,
    ) -> Result<TablePlan, StartError> {
        caught(Box::pin(self.check(table, status, deadline))).await.unwrap_or_else(|panic| {
            let (region, table) = (self.local.name.clone(), self.name_of(table).to_owned());
            Err(StartError::BrokeDown { region, table, reason: panic.to_string() })
        })
    }

    /// The table's feeds that agents of this region deliver, each with from when on it is told.
    async fn feeds_of(
        &self,
        table: &TableConfig,
        status: &TableStatus,
        deadline: Instant,
    ) -> Result<Vec<TableFeed>, StartError> {
        let of_table = self.config.feeds.iter().filter(|feed| feed.is_of(&table.name, &self.local.name));
        let of_table: Vec<&FeedConfig> = of_table.collect();
        if of_table.is_empty() {
            return Ok(Vec::new());
        }
        let (name, control) = (&self.local.control_table, ControlTable::of(&self.local));
        let now = own_millis(&self.local.streams);
        for feed in of_table.iter().filter(|feed| feed.start == Start::Latest) {
            self.patiently(name, deadline, || control.begin_feed(&feed.name, now)).await?;
        }
        let begins = self.patiently(name, deadline, || control.crew()).await?.feeds;
        let begin = |config: &&FeedConfig| TableFeed {
            config: (*config).clone(),
            figures: status.feed_figures(&self.local.name, &config.name),
            begin: begins.get(&config.name).copied().unwrap_or_default(),
        };
        Ok(of_table.iter().map(begin).collect())
    }

    async fn check(
        &self,
        table: &TableConfig,
        status: &TableStatus,
        deadline: Instant,
    ) -> Result<TablePlan, StartError> {
        let physical = self.name_of(table);
        let described = self.patiently(physical, deadline, || self.describe(physical)).await?;
        let stream_arn = self.stream_of(table, &described)?;
        let is_key = |attribute: &str| described.key_schema.names().any(|name| name == attribute);
        if is_key(STAMP) {
            let reason = format!(
                "{STAMP} is part of the table's key, but Tradewind keeps its stamp in that attribute: such a table \
                 can't be replicated"
            );
            return Err(self.not_ready(physical, reason));
        }
        if let Some((region, key)) = table.selections.withheld().find(|(_, attribute)| is_key(attribute)) {
            let reason = format!(
                "regions.toml withholds the attribute {key:?} from {region}, but it is part of the table's key: remove \
                 it from `without`"
            );
            return Err(self.not_ready(physical, reason));
        }
        let peers = table.replicas.iter().filter(|(name, _)| *name != self.local.name);
        let peers: Vec<Region> = peers.filter_map(|(name, _)| self.regions.get(name).cloned()).collect();
        let names: Vec<Origin> = peers.iter().map(|peer| peer.name.clone()).collect();
        let feeds = self.feeds_of(table, status, deadline).await?;
        status.backlogs.are_of(names.clone(), feeds.iter().map(TableFeed::destination).collect());
        let succession = Succession {
            local: self.local.clone(),
            table: table.name.clone(),
            peers: names,
            feeds: feeds.iter().map(TableFeed::destination).collect(),
            tally: Arc::clone(&status.tally),
        };
        let control_table = &self.local.control_table;
        let (control, setup) = (ControlTable::of(&self.local), Setup::of(table, &self.local.name));
        let claimed = self.patiently(control_table, deadline, || control.claim(&table.name, &setup)).await?;
        if let Some(reason) = claimed {
            return Err(self.not_ready(physical, reason));
        }
        let stages = self.patiently(control_table, deadline, || succession.stages(&stream_arn)).await?;
        Ok(TablePlan {
            table: table.clone(),
            tuning: self.config.tuning.clone(),
            peers,
            local: self.local.clone(),
            stages,
            succession,
            key_schema: described.key_schema,
            tally: status.tally.clone(),
            lag: status.lag.clone(),
            backlogs: status.backlogs.clone(),
            pauses: Arc::clone(&self.pauses),
            refusals: Arc::clone(&status.refusals),
            remembered: Arc::clone(&status.remembered),
            spill: Arc::clone(&self.spill),
            foreign: Arc::clone(&status.foreign),
            feeds,
        })
    }

    /// Checks that the control table exists.
    pub(super) async fn check_control_table(&self, deadline: Instant) -> Result<(), StartError> {
        let name = &self.local.control_table;
        let described = self.patiently(name, deadline, || self.describe(name)).await?;
        described.managed.map_or(Ok(()), |reason| Err(self.not_ready(name, reason)))
    }

    /// The tables that patterns find here; `None` if there is no pattern.
    pub(super) async fn find(
        &self,
        deadline: Instant,
    ) -> Option<Result<BTreeMap<String, TableConfig>, StartError>> {
        let pattern = discovery::pattern_in(&self.config, &self.local.name)?;
        Some(self.patiently(&pattern, deadline, || discovery::find(&self.config, &self.local)).await)
    }

    /// Checks whether a table is still what it was when its replication started; `None` if there is no
    /// answer, or one that says nothing about it.
    pub(super) async fn look(&self, table: &TableConfig, stream_arn: &str) -> Option<TableCheck> {
        let physical = self.name_of(table);
        match self.describe(physical).await {
            Ok(described) => Some(match self.stream_of(table, &described) {
                Ok(arn) if arn == stream_arn => TableCheck::Unchanged,
                Ok(_) => TableCheck::OtherStream,
                Err(trouble) => TableCheck::NoStream(trouble),
            }),
            Err(fault) if fault.kind == FaultKind::Missing => Some(TableCheck::Deleted(fault)),
            Err(_) => None,
        }
    }

    pub(super) fn name_of<'a>(&self, table: &'a TableConfig) -> &'a str {
        table.name_in(&self.local.name).unwrap_or(&table.name)
    }

    pub(super) fn fault(&self, table: &str, fault: Fault) -> StartError {
        StartError::Fault { region: self.local.name.clone(), table: table.to_owned(), fault }
    }

    /// The stream of a table that may be replicated, or fed.
    fn stream_of(&self, config: &TableConfig, described: &Described) -> Result<String, StartError> {
        let table = self.name_of(config);
        if let Some(reason) = &described.managed {
            return Err(self.not_ready(table, reason.clone()));
        }
        let reason = match &described.stream {
            StreamState::On { arn } => return Ok(arn.clone()),
            StreamState::Off => "the table has no stream; `tradewind init` turns it on".to_owned(),
            StreamState::Partial { arn, view } => match self.config.lacks(config, *view) {
                None => return Ok(arn.clone()),
                Some(lacks) => {
                    format!("the stream shows {}, but {lacks}; `tradewind init` says what to do", view.name())
                }
            },
        };
        Err(self.not_ready(table, reason))
    }

    fn not_ready(&self, table: &str, reason: String) -> StartError {
        StartError::NotReady { region: self.local.name.clone(), table: table.to_owned(), reason }
    }

    /// Describes a table; one that is being deleted counts as gone.
    async fn describe(&self, table: &str) -> Result<Described, Fault> {
        // Never closed.
        let _turn = self.turns.acquire().await;
        let described = describe(&self.local, table).await?;
        if described.table.table_status() == Some(&Lifecycle::Deleting) {
            return Err(Fault::new(FaultKind::Missing, "the table is being deleted"));
        }
        Ok(described)
    }

    /// Retries until the region answers, or time is up; makes at least one attempt.
    async fn patiently<T, F>(
        &self,
        table: &str,
        deadline: Instant,
        attempt: impl Fn() -> F,
    ) -> Result<T, StartError>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        loop {
            let fault = match attempt().await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            let passing = fault.kind == FaultKind::Unreachable || fault.kind.is_throttling();
            if !passing || Instant::now() >= deadline {
                return Err(self.fault(table, fault));
            }
            warn!(region = %self.local.name, table, %fault, "the local region does not answer; retrying");
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }
}
