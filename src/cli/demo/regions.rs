//! The regions of the demo, in this process.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};

use crate::cli::Failure;
use crate::config::{Config, Conflicts, TableConfig, Tuning};
use crate::embedded::EmbeddedRegion;
use crate::fault::Fault;
use crate::operate::Plan;
use crate::protocol::Origin;
use crate::region::Region;
use crate::workload::Application;

const NAMES: [&str; 8] = ["tokyo", "dublin", "oregon", "sydney", "mumbai", "santiago", "toronto", "lagos"];
pub(super) const TABLE: &str = "orders";

/// Starts this many regions, and describes them as `regions.toml` would.
pub(super) async fn start(count: u8, dashboard: bool) -> Result<(Vec<EmbeddedRegion>, Config), Failure> {
    let mut embedded = Vec::new();
    for name in NAMES.iter().take(count.into()) {
        let name: Origin = name.parse().map_err(Failure::internal)?;
        embedded.push(EmbeddedRegion::start(name).await.map_err(Failure::internal)?);
    }
    let regions: Vec<_> = embedded.iter().map(EmbeddedRegion::config).collect();
    let replicas = regions.iter().map(|region| (region.name.clone(), TABLE.to_owned())).collect();
    let mut table = TableConfig::new(TABLE.to_owned(), replicas);
    let mut tuning = Tuning::default();
    if dashboard {
        table.conflicts = Conflicts::Table;
        tuning.heartbeat_interval = Duration::from_secs(2);
    }
    Ok((
        embedded,
        Config {
            regions,
            tables: vec![table],
            patterns: Vec::new(),
            feeds: Vec::new(),
            tuning,
            anti_entropy: None,
        },
    ))
}

/// Creates the table in the first region, and lets `init` do the rest.
pub(super) async fn prepare(config: &Config, regions: &BTreeMap<Origin, Region>) -> Result<(), Failure> {
    if let Some(first) = config.regions.first().and_then(|region| regions.get(&region.name)) {
        create_table(first).await.map_err(Failure::internal)?;
    }
    let plan = Plan::make(config, regions, true).await?;
    Ok(plan.carry_out(regions, |_| {}).await?)
}

async fn create_table(region: &Region) -> Result<(), Fault> {
    let key = AttributeDefinition::builder().attribute_name(Application::KEY);
    let element = KeySchemaElement::builder().attribute_name(Application::KEY).key_type(KeyType::Hash);
    let create = region.tables.create_table().table_name(TABLE).billing_mode(BillingMode::PayPerRequest);
    create
        .attribute_definitions(key.attribute_type(ScalarAttributeType::S).build()?)
        .key_schema(element.build()?)
        .send()
        .await?;
    Ok(())
}
