//! Regions with fresh tables, and their agents.

use std::collections::BTreeMap;
use std::path::PathBuf;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use tradewind::agent::Agent;
use tradewind::config::{
    Config, Credentials, FeedConfig, OnFailure, RegionConfig, SinkConfig, Start, TableConfig, Tuning,
};
use tradewind::feed::{Retry, Shape};
use tradewind::operate;
use tradewind::protocol::Origin;
use tradewind::region::Region;

use crate::Result;
use crate::application::KEY;
use crate::engine::{Engine, PLACES};
use crate::meter::Meter;
use crate::requests::Requests;

/// A table in some regions, empty at first. Applications write in the first region.
pub(crate) struct Stage {
    pub(crate) table: String,
    config: Config,
    regions: BTreeMap<Origin, Region>,
}

impl Stage {
    /// Creates the tables; no agent runs yet.
    pub(crate) async fn set(engine: &Engine, regions: usize, tuning: Tuning) -> Result<Self> {
        Self::made(engine, regions, tuning, None).await
    }

    /// The same, and agents tell what is written in a file.
    pub(crate) async fn fed(engine: &Engine, regions: usize, tuning: Tuning, file: PathBuf) -> Result<Self> {
        Self::made(engine, regions, tuning, Some(file)).await
    }

    async fn made(engine: &Engine, regions: usize, tuning: Tuning, file: Option<PathBuf>) -> Result<Self> {
        let serial = fastrand::Rng::new().u32(..);
        let (table, control_table) = (format!("bench-{serial:08x}"), format!("bench-control-{serial:08x}"));
        let mut places = Vec::new();
        for ((name, aws_region), endpoint) in PLACES.into_iter().zip(engine.endpoints()).take(regions) {
            places.push(RegionConfig {
                name: name.parse()?,
                // A database of its own, if the engine keeps one for each AWS region.
                aws_region: format!("{aws_region}-{serial:08x}"),
                endpoint: Some(endpoint.clone()),
                streams_endpoint: None,
                credentials: Credentials::Embedded,
                control_table: control_table.clone(),
                conflict_table: RegionConfig::CONFLICT_TABLE.to_owned(),
            });
        }
        let feed = |file: PathBuf| {
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(FeedConfig {
                name: "bench".parse()?,
                table: table.clone(),
                regions: places.iter().map(|place| place.name.clone()).collect(),
                start: Start::default(),
                filters: Vec::new(),
                shape: Shape::default(),
                retry: Retry::default(),
                on_failure: OnFailure::DeadLetters,
                sink: SinkConfig::File { path: file.to_string_lossy().into_owned() },
            })
        };
        let feeds = file.map(feed).transpose()?.into_iter().collect();
        let replicas = places.iter().map(|place| (place.name.clone(), table.clone())).collect();
        let tables = vec![TableConfig::new(table.clone(), replicas)];
        let config =
            Config { regions: places, tables, patterns: Vec::new(), feeds, tuning, anti_entropy: None };
        let regions = Region::connect_all(&config).await?;
        let stage = Self { table, config, regions };
        stage.create_table().await?;
        let plan = operate::Plan::make(&stage.config, &stage.regions, true).await?;
        plan.carry_out(&stage.regions, |_| {}).await?;
        Ok(stage)
    }

    async fn create_table(&self) -> Result<()> {
        let key = AttributeDefinition::builder().attribute_name(KEY);
        let element = KeySchemaElement::builder().attribute_name(KEY).key_type(KeyType::Hash);
        self.client(0)
            .create_table()
            .table_name(&self.table)
            .billing_mode(BillingMode::PayPerRequest)
            .attribute_definitions(key.attribute_type(ScalarAttributeType::S).build()?)
            .key_schema(element.build()?)
            .send()
            .await?;
        Ok(())
    }

    fn region(&self, region: usize) -> &Region {
        &self.regions[&self.config.regions[region].name]
    }

    /// An application's client. It does not retry.
    pub(crate) fn client(&self, region: usize) -> &Client {
        &self.region(region).writes
    }

    /// Starts the agent of a region.
    pub(crate) async fn start_agent(&self, region: usize) -> Result<Agent> {
        Ok(Agent::start_over(&self.config, self.region(region).name.as_str(), &self.regions).await?)
    }

    /// Starts the agent of a region, with all its requests to that region counted.
    pub(crate) async fn start_counted(&self, region: usize) -> Result<(Agent, Requests)> {
        let own = &self.region(region).name;
        let requests = Requests::default();
        let mut regions = self.regions.clone();
        if let Some(region) = regions.get_mut(own) {
            let counted = |client: &Client| {
                Client::from_conf(client.config().to_builder().interceptor(requests.clone()).build())
            };
            (region.tables, region.writes) = (counted(&region.tables), counted(&region.writes));
            let streams = region.streams.config().to_builder().interceptor(requests.clone());
            region.streams = aws_sdk_dynamodbstreams::Client::from_conf(streams.build());
        }
        Ok((Agent::start_over(&self.config, own.as_str(), &regions).await?, requests))
    }

    /// Starts the agent of a region, with all its writes to replicas metered.
    pub(crate) async fn start_metered(&self, region: usize) -> Result<(Agent, Meter)> {
        let own = &self.region(region).name;
        let meter = Meter::default();
        let mut regions = self.regions.clone();
        for (name, region) in &mut regions {
            let metered = region.writes.config().to_builder().interceptor(meter.tap(name == own));
            region.writes = Client::from_conf(metered.build());
        }
        Ok((Agent::start_over(&self.config, own.as_str(), &regions).await?, meter))
    }
}
