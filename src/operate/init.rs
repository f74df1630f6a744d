//! Prepares the replicas: what is missing is made, and what does not fit is told, with its fix.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, LocalSecondaryIndex,
    ProvisionedThroughput, ProvisionedThroughputDescription, ScalarAttributeType, StreamSpecification,
    StreamViewType, TableDescription, TimeToLiveSpecification, TimeToLiveStatus,
};
use serde::Serialize;
use tokio::time::Instant;

use super::replicas::client;
use super::{OperateError, PhysicalReplica, TableReplicas};
use crate::config::{Config, RegionConfig};
use crate::control::{EXPIRES, PK, SK, Setup};
use crate::fault::{Fault, FaultKind};
use crate::protocol::{Origin, STAMP};
use crate::region::Region;
use crate::schema::{Described, StreamState, describe};

/// How long a table may take to become active.
const PATIENCE: Duration = Duration::from_mins(5);
const POLL: Duration = Duration::from_millis(500);

/// What is to be done before agents can run.
#[derive(Debug, Serialize)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// What a person has to fix first; with any, no step is taken.
    pub problems: Vec<Problem>,
}

/// One change.
#[derive(Debug, Serialize)]
pub struct Step {
    pub region: Origin,
    pub table: String,
    pub change: Change,
}

/// What changes at a table.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    CreateControlTable,
    CreateConflictTable,
    /// Made like the replica in another region.
    CreateTable(Box<Model>),
    EnableStream,
    EnableTtl(String),
}

/// What a new replica is made like.
#[derive(Debug, Serialize)]
pub struct Model {
    like: Origin,
    #[serde(skip)]
    table: TableDescription,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { region, table, change } = self;
        match change {
            Change::CreateControlTable => write!(f, "{region}: create the control table {table}"),
            Change::CreateConflictTable => write!(f, "{region}: create the conflict table {table}"),
            Change::CreateTable(model) => {
                write!(f, "{region}: create the table {table} like the one in {}", model.like)
            }
            Change::EnableStream => {
                write!(f, "{region}: turn on the stream of {table}, with NEW_AND_OLD_IMAGES")
            }
            Change::EnableTtl(attribute) => {
                write!(f, "{region}: turn on time to live of {table}, by {attribute}")
            }
        }
    }
}

/// What keeps a table from being replicated, and the fix.
#[derive(Debug, Serialize)]
pub struct Problem {
    pub region: Origin,
    pub table: String,
    pub problem: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "region {}, table {}: {}", self.region, self.table, self.problem)
    }
}

impl Plan {
    /// Looks at every replica and control table; changes nothing.
    pub async fn make(
        config: &Config,
        regions: &BTreeMap<Origin, Region>,
        create_tables: bool,
    ) -> Result<Self, OperateError> {
        let mut plan = Self { steps: Vec::new(), problems: Vec::new() };
        for RegionConfig { name, control_table, .. } in &config.regions {
            let region = client(regions, name, control_table)?;
            plan.own_table(region, &region.control_table, Change::CreateControlTable).await?;
            if config.records_conflicts_in(&region.name) {
                plan.own_table(region, &region.conflict_table, Change::CreateConflictTable).await?;
            }
        }
        for table in &super::tables(config, regions).await? {
            plan.table(table, create_tables).await?;
        }
        Ok(plan)
    }

    /// A table that Tradewind keeps for itself.
    async fn own_table(&mut self, region: &Region, name: &str, create: Change) -> Result<(), OperateError> {
        let (what, setting) = match create {
            Change::CreateConflictTable => ("conflict", "conflict_table"),
            _ => ("control", "control_table"),
        };
        match look(region, name).await? {
            None => {
                let measures = matches!(create, Change::CreateControlTable);
                self.step(region, name, create);
                self.step(region, name, Change::EnableTtl(EXPIRES.to_owned()));
                if measures {
                    self.step(region, name, Change::EnableStream);
                }
            }
            Some(found) => {
                if let Some(reason) = &found.managed {
                    self.problem(region, name, reason.clone());
                }
                let keys: Vec<_> = found.key_schema.names().collect();
                if keys != [PK, SK] {
                    self.problem(
                        region,
                        name,
                        format!(
                            "this is no {what} table: its keys are {}, not {PK} and {SK}; name another one \
                             with `{setting}` in regions.toml",
                            found.key_schema
                        ),
                    );
                    return Ok(());
                }
                if ttl_attribute(region, name).await?.is_none() {
                    self.step(region, name, Change::EnableTtl(EXPIRES.to_owned()));
                }
                // Heartbeats pass through it. One of another view type is its owner's to change.
                if matches!(create, Change::CreateControlTable) && found.stream == StreamState::Off {
                    self.step(region, name, Change::EnableStream);
                }
            }
        }
        Ok(())
    }

    async fn table(&mut self, table: &TableReplicas, create_tables: bool) -> Result<(), OperateError> {
        let mut missing = Vec::new();
        let mut first: Option<(&Region, Described)> = None;
        for replica in &table.replicas {
            let PhysicalReplica { region, name: physical, .. } = replica;
            let Some(found) = look(region, physical).await? else {
                missing.push((region, physical));
                continue;
            };
            if let Some(reason) = &found.managed {
                self.problem(region, physical, reason.clone());
            }
            let setup = Setup::of(&table.config, &region.name);
            match replica.control().belongs_elsewhere(table.name(), &setup).await {
                Ok(Some(reason)) => self.problem(region, physical, reason),
                Ok(None) => {}
                // It is about to be made, or made right.
                Err(fault) if matches!(fault.kind, FaultKind::Missing | FaultKind::Invalid) => {}
                Err(fault) => return Err(replica.at_control(fault)),
            }
            self.stream(region, physical, &found);
            match &first {
                None => {
                    if found.key_schema.names().any(|key| key == STAMP) {
                        let problem =
                            format!("{STAMP} is a key attribute, but it must hold Tradewind's stamp");
                        self.problem(region, physical, problem);
                    }
                    first = Some((region, found));
                }
                Some((like, expected)) if expected.key_schema != found.key_schema => {
                    let problem = format!(
                        "its keys are {}, but in region {} they are {}; replicas need the same keys: recreate this \
                         one",
                        found.key_schema, like.name, expected.key_schema
                    );
                    self.problem(region, physical, problem);
                }
                Some(_) => {}
            }
        }
        let Some((like, model)) = first else {
            for (region, physical) in missing {
                let problem =
                    "it is in no region: create it in one, and run `tradewind init --create-tables`";
                self.problem(region, physical, problem.to_owned());
            }
            return Ok(());
        };
        let ttl = match table.replica_in(&like.name) {
            Some(replica) if create_tables && !missing.is_empty() => {
                ttl_attribute(like, &replica.name).await?
            }
            _ => None,
        };
        for (region, physical) in missing {
            if create_tables {
                let model = Model { like: like.name.clone(), table: model.table.clone() };
                self.step(region, physical, Change::CreateTable(Box::new(model)));
                if let Some(attribute) = &ttl {
                    self.step(region, physical, Change::EnableTtl(attribute.clone()));
                }
            } else {
                let problem = format!(
                    "it is missing; `tradewind init --create-tables` makes it like the one in region {}",
                    like.name
                );
                self.problem(region, physical, problem);
            }
        }
        Ok(())
    }

    fn stream(&mut self, region: &Region, table: &str, found: &Described) {
        match &found.stream {
            StreamState::On { .. } => {}
            StreamState::Off => self.step(region, table, Change::EnableStream),
            StreamState::Unfit(view) => {
                let problem = format!(
                    "its stream shows {view}, but NEW_AND_OLD_IMAGES is needed. A stream's view type can't be \
                     changed: once its other readers can do without it, turn it off (`aws dynamodb update-table \
                     --table-name {table} --stream-specification StreamEnabled=false`), and run `tradewind \
                     init` again"
                );
                self.problem(region, table, problem);
            }
        }
    }

    fn step(&mut self, region: &Region, table: &str, change: Change) {
        self.steps.push(Step { region: region.name.clone(), table: table.to_owned(), change });
    }

    fn problem(&mut self, region: &Region, table: &str, problem: String) {
        self.problems.push(Problem { region: region.name.clone(), table: table.to_owned(), problem });
    }

    /// Takes the steps, in order; `taken` hears of each.
    pub async fn carry_out(
        &self,
        regions: &BTreeMap<Origin, Region>,
        mut taken: impl FnMut(&Step),
    ) -> Result<(), OperateError> {
        for step in &self.steps {
            let region = client(regions, &step.region, &step.table)?;
            step.take(region).await.map_err(|fault| OperateError::at(region, &step.table, fault))?;
            taken(step);
        }
        Ok(())
    }
}

impl Step {
    async fn take(&self, region: &Region) -> Result<(), Fault> {
        let client = &region.tables;
        match &self.change {
            Change::CreateControlTable | Change::CreateConflictTable => {
                create_own_table(region, &self.table).await?;
            }
            Change::CreateTable(model) => create_replica(region, &self.table, &model.table).await?,
            Change::EnableStream => {
                let update = client.update_table().table_name(&self.table);
                update.stream_specification(both_images()?).send().await?;
            }
            Change::EnableTtl(attribute) => {
                let spec = TimeToLiveSpecification::builder().enabled(true).attribute_name(attribute).build();
                let spec = spec?;
                let update = client.update_time_to_live().table_name(&self.table);
                update.time_to_live_specification(spec).send().await?;
            }
        }
        wait_until_active(region, &self.table).await
    }
}

async fn create_own_table(region: &Region, name: &str) -> Result<(), Fault> {
    let mut create = region.tables.create_table().table_name(name).billing_mode(BillingMode::PayPerRequest);
    for (key, kind) in [(PK, KeyType::Hash), (SK, KeyType::Range)] {
        let definition = AttributeDefinition::builder().attribute_name(key);
        let definition = definition.attribute_type(ScalarAttributeType::S).build()?;
        let element = KeySchemaElement::builder().attribute_name(key).key_type(kind).build();
        create = create.attribute_definitions(definition).key_schema(element?);
    }
    create.send().await?;
    Ok(())
}

/// Creates a replica like another one: keys, indexes and billing mode.
async fn create_replica(region: &Region, name: &str, model: &TableDescription) -> Result<(), Fault> {
    let on_demand = is_on_demand(model);
    let create = region.tables.create_table().table_name(name).stream_specification(both_images()?);
    let create = create
        .set_attribute_definitions(Some(model.attribute_definitions().to_vec()))
        .set_key_schema(Some(model.key_schema().to_vec()))
        .billing_mode(if on_demand { BillingMode::PayPerRequest } else { BillingMode::Provisioned });
    let throughput = |described: Option<&ProvisionedThroughputDescription>| match described {
        Some(described) if !on_demand => throughput(described).map(Some),
        _ => Ok(None),
    };
    let mut create = create.set_provisioned_throughput(throughput(model.provisioned_throughput())?);
    for index in model.global_secondary_indexes() {
        let global = GlobalSecondaryIndex::builder()
            .set_index_name(index.index_name.clone())
            .set_key_schema(index.key_schema.clone())
            .set_projection(index.projection.clone())
            .set_provisioned_throughput(throughput(index.provisioned_throughput())?);
        create = create.global_secondary_indexes(global.build()?);
    }
    for index in model.local_secondary_indexes() {
        let local = LocalSecondaryIndex::builder()
            .set_index_name(index.index_name.clone())
            .set_key_schema(index.key_schema.clone())
            .set_projection(index.projection.clone());
        create = create.local_secondary_indexes(local.build()?);
    }
    create.send().await?;
    Ok(())
}

/// A table without a billing summary has always been provisioned; the local engines say so by
/// its capacity alone.
pub(super) fn is_on_demand(table: &TableDescription) -> bool {
    match table.billing_mode_summary().and_then(|summary| summary.billing_mode()) {
        Some(mode) => *mode == BillingMode::PayPerRequest,
        None => {
            let read = table
                .provisioned_throughput()
                .and_then(ProvisionedThroughputDescription::read_capacity_units);
            read.unwrap_or_default() == 0
        }
    }
}

fn throughput(described: &ProvisionedThroughputDescription) -> Result<ProvisionedThroughput, Fault> {
    ProvisionedThroughput::builder()
        .set_read_capacity_units(described.read_capacity_units())
        .set_write_capacity_units(described.write_capacity_units())
        .build()
        .map_err(Fault::from)
}

fn both_images() -> Result<StreamSpecification, Fault> {
    let both = StreamSpecification::builder().stream_enabled(true);
    both.stream_view_type(StreamViewType::NewAndOldImages).build().map_err(Fault::from)
}

/// Describes a table, if it is there.
async fn look(region: &Region, table: &str) -> Result<Option<Described>, OperateError> {
    match describe(region, table).await {
        Ok(described) => Ok(Some(described)),
        Err(fault) if fault.kind == FaultKind::Missing => Ok(None),
        Err(fault) => Err(OperateError::at(region, table, fault)),
    }
}

async fn ttl_attribute(region: &Region, table: &str) -> Result<Option<String>, OperateError> {
    let answer = region.tables.describe_time_to_live().table_name(table).send().await;
    let described = answer.map_err(|error| OperateError::at(region, table, error))?.time_to_live_description;
    Ok(described
        .filter(|ttl| {
            matches!(ttl.time_to_live_status, Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling))
        })
        .and_then(|ttl| ttl.attribute_name))
}

async fn wait_until_active(region: &Region, table: &str) -> Result<(), Fault> {
    let deadline = Instant::now() + PATIENCE;
    let mut ticks = tokio::time::interval(POLL);
    while Instant::now() < deadline {
        if describe(region, table).await?.active {
            return Ok(());
        }
        ticks.tick().await;
    }
    let message = format!("the table is not active after {} minutes", PATIENCE.as_secs() / 60);
    Err(Fault { kind: FaultKind::Unreachable, code: String::new(), message })
}
