//! Carries out the steps of a plan.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, LocalSecondaryIndex,
    ProvisionedThroughput, ProvisionedThroughputDescription, ScalarAttributeType, StreamSpecification,
    StreamViewType, TableDescription, TimeToLiveSpecification,
};
use tokio::time::Instant;

use super::{Change, Plan, Step};
use crate::control::{PK, SK};
use crate::fault::{Fault, FaultKind};
use crate::operate::OperateError;
use crate::operate::replicas::client;
use crate::protocol::Origin;
use crate::region::Region;
use crate::schema::describe;

/// How long a table may take to become active.
const PATIENCE: Duration = Duration::from_mins(5);
const POLL: Duration = Duration::from_millis(500);

impl Plan {
    /// Carries out the steps, in order; reports each to `taken`.
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

/// A table without a billing summary has always been provisioned; the local engines show that by its capacity
/// alone.
pub(in crate::operate) fn is_on_demand(table: &TableDescription) -> bool {
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
    Err(Fault::new(FaultKind::Unreachable, message))
}
