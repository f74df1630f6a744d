//! One region: its clients, its credentials, its endpoint, its control table.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_dynamodb::config::retry::{RetryConfig, RetryPartition};
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{
    Credentials as StaticCredentials, Region as AwsRegion, SharedCredentialsProvider,
};

use aws_smithy_runtime::client::defaults::default_http_client_plugin_v2;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponentsBuilder;
use aws_smithy_runtime_api::client::runtime_plugin::RuntimePlugin;

use crate::answer::{AnswersOnly, AskForProof};
use crate::config::{Config, Credentials, RegionConfig};
use crate::protocol::Origin;

/// The clients of one region. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Region {
    pub name: Origin,
    /// For reads, and for writes that may be repeated as they are: retries by itself.
    pub tables: aws_sdk_dynamodb::Client,
    /// For writes to a replica: never retries, since every physical attempt needs a nonce of its
    /// own.
    pub writes: aws_sdk_dynamodb::Client,
    /// Never retries: the service grants few calls a second, and every attempt counts.
    pub streams: aws_sdk_dynamodbstreams::Client,
    pub control_table: String,
    pub conflict_table: String,
}

impl Region {
    /// Makes the clients of every region, by name.
    pub async fn connect_all(config: &Config) -> BTreeMap<Origin, Self> {
        let mut regions = BTreeMap::new();
        for region in &config.regions {
            regions.insert(region.name.clone(), Self::connect(region).await);
        }
        regions
    }

    /// Makes the clients; sends nothing yet.
    pub async fn connect(config: &RegionConfig) -> Self {
        Self::over(config, load(config).await)
    }

    /// Makes the clients over an SDK whose credentials, HTTP client and clock are given.
    pub fn over(config: &RegionConfig, sdk: SdkConfig) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(3))
            .operation_attempt_timeout(Duration::from_secs(10))
            .build();
        let http = sdk.http_client().or_else(default_http_client);
        // Bodies are short, and every attempt has its time: watching their throughput as well costs
        // each request some of its CPU time for nothing.
        let mut shared = sdk
            .into_builder()
            .timeout_config(timeouts)
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        shared.set_http_client(http.map(|http| SharedHttpClient::new(AnswersOnly(http))));
        let shared = shared.build();
        // The SDK's own partition is its region: a peer that is down would use up the retries of
        // every other one that calls itself so.
        let partition = RetryPartition::custom(config.name.to_string()).build();
        let mut tables = aws_sdk_dynamodb::config::Builder::from(&shared)
            .retry_partition(partition.clone())
            .interceptor(AskForProof);
        let mut streams = aws_sdk_dynamodbstreams::config::Builder::from(&shared).retry_partition(partition);
        if let Some(endpoint) = &config.endpoint {
            tables = tables.endpoint_url(endpoint.as_str());
        }
        if let Some(endpoint) = config.streams_endpoint.as_ref().or(config.endpoint.as_ref()) {
            streams = streams.endpoint_url(endpoint.as_str());
        }
        Self {
            name: config.name.clone(),
            tables: aws_sdk_dynamodb::Client::from_conf(tables.clone().build()),
            writes: aws_sdk_dynamodb::Client::from_conf(tables.retry_config(RetryConfig::disabled()).build()),
            streams: aws_sdk_dynamodbstreams::Client::from_conf(
                streams.retry_config(RetryConfig::disabled()).build(),
            ),
            control_table: config.control_table.clone(),
            conflict_table: config.conflict_table.clone(),
        }
    }
}

/// The one that the SDK would take.
fn default_http_client() -> Option<SharedHttpClient> {
    let plugin = default_http_client_plugin_v2(BehaviorVersion::latest())?;
    plugin.runtime_components(&RuntimeComponentsBuilder::new("default")).http_client()
}

async fn load(config: &RegionConfig) -> SdkConfig {
    let region = AwsRegion::new(config.aws_region.clone());
    // Said here: the SDK panics on a setting that it does not know.
    let retries = RetryConfig::standard();
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).region(region.clone()).retry_config(retries);
    match &config.credentials {
        Credentials::Embedded => {
            loader
                .credentials_provider(StaticCredentials::new("embedded", "embedded", None, None, "embedded"))
                .load()
                .await
        }
        Credentials::Chain { profile, role } => {
            if let Some(profile) = profile {
                loader = loader.profile_name(profile);
            }
            let base = loader.load().await;
            let Some(role) = role else { return base };
            let mut provider = AssumeRoleProvider::builder(&role.arn)
                .configure(&base)
                .region(region)
                .session_name("tradewind");
            if let Some(external_id) = &role.external_id {
                provider = provider.external_id(external_id);
            }
            let provider = SharedCredentialsProvider::new(provider.build().await);
            base.into_builder().credentials_provider(provider).build()
        }
    }
}
