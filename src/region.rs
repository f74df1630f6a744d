//! One region: its clients, its credentials, its endpoint, its control table.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_config::identity::IdentityCache;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
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

use crate::answer::{AnswersOnly, AskForProof, Interceptions};
use crate::config::{Config, Credentials, RegionConfig};
use crate::credentials::{CredentialSource, Kept, ProfileError, Refusals};
use crate::protocol::Origin;

/// The clients of one region. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Region {
    pub name: Origin,
    /// For reads, and for writes that may be repeated as they are; retries by itself.
    pub tables: aws_sdk_dynamodb::Client,
    /// For writes to a replica: never retries, since every physical attempt needs a nonce of its
    /// own.
    pub writes: aws_sdk_dynamodb::Client,
    /// Never retries: the service grants few calls a second, and every attempt counts.
    pub streams: aws_sdk_dynamodbstreams::Client,
    pub control_table: String,
    pub conflict_table: String,
    /// Answers that came from something else in its place.
    pub interceptions: Interceptions,
    /// What clients of other services are made from.
    sdk: SdkConfig,
}

/// Why a region's clients can't be made.
#[derive(Clone, Debug, thiserror::Error)]
#[error("region {region}: {reason}\nCheck its `profile` in regions.toml.")]
pub struct ConnectError {
    pub region: Origin,
    reason: String,
}

impl Region {
    /// Makes the clients of every region, by name.
    pub async fn connect_all(config: &Config) -> Result<BTreeMap<Origin, Self>, ConnectError> {
        let mut regions = BTreeMap::new();
        for region in &config.regions {
            regions.insert(region.name.clone(), Self::connect(region).await?);
        }
        Ok(regions)
    }

    /// Makes the clients; sends nothing yet.
    pub async fn connect(config: &RegionConfig) -> Result<Self, ConnectError> {
        let (profile, role) = match &config.credentials {
            Credentials::Embedded => {
                let embedded = StaticCredentials::new("embedded", "embedded", None, None, "embedded");
                let sdk = load(config, None).await.into_builder();
                let sdk = sdk.credentials_provider(SharedCredentialsProvider::new(embedded)).build();
                return Ok(Self::over(config, sdk));
            }
            Credentials::Chain { profile, role } => (profile.clone(), role.clone()),
        };
        let sdk = load(config, profile.as_deref()).await;
        let source = CredentialSource { sdk: sdk.clone(), profile, role };
        source.check().await.map_err(|error: ProfileError| ConnectError {
            region: config.name.clone(),
            reason: error.to_string(),
        })?;
        let kept = Kept::from(config.name.clone(), source);
        // Credentials are cached there, and must not be cached twice.
        let sdk = sdk
            .into_builder()
            .credentials_provider(SharedCredentialsProvider::new(kept.clone()))
            .identity_cache(IdentityCache::no_cache())
            .build();
        Ok(Self::with(config, sdk, Some(kept)))
    }

    /// Makes the clients from an SDK configuration whose credentials, HTTP client and clock are given.
    pub fn over(config: &RegionConfig, sdk: SdkConfig) -> Self {
        Self::with(config, sdk, None)
    }

    fn with(config: &RegionConfig, sdk: SdkConfig, kept: Option<Kept>) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(3))
            .operation_attempt_timeout(Duration::from_secs(10))
            .build();
        let http = sdk.http_client().or_else(default_http_client);
        // Bodies are short, and every attempt has a timeout: watching their throughput as well costs each
        // request CPU time for nothing.
        let mut shared = sdk
            .clone()
            .into_builder()
            .timeout_config(timeouts)
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        let interceptions = Interceptions::default();
        shared.set_http_client(
            http.map(|http| SharedHttpClient::new(AnswersOnly(http, interceptions.clone()))),
        );
        let shared = shared.build();
        // The SDK's own retry partition is the AWS region: a peer that is down would use up the retries of
        // every other one with the same AWS region.
        let partition = RetryPartition::custom(config.name.to_string()).build();
        let mut tables = aws_sdk_dynamodb::config::Builder::from(&shared)
            .retry_partition(partition.clone())
            .interceptor(AskForProof);
        let mut streams = aws_sdk_dynamodbstreams::config::Builder::from(&shared).retry_partition(partition);
        if let Some(kept) = kept {
            tables = tables.interceptor(Refusals(kept.clone()));
            streams = streams.interceptor(Refusals(kept));
        }
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
            interceptions,
            sdk,
        }
    }

    /// The AWS region.
    pub fn aws_region(&self) -> &str {
        self.sdk.region().map(AsRef::as_ref).unwrap_or_default()
    }

    /// The region's credentials, HTTP client and AWS region, for clients of other services.
    pub fn sdk(&self) -> &SdkConfig {
        &self.sdk
    }
}

/// The client that the SDK uses by default.
fn default_http_client() -> Option<SharedHttpClient> {
    let plugin = default_http_client_plugin_v2(BehaviorVersion::latest())?;
    plugin.runtime_components(&RuntimeComponentsBuilder::new("default")).http_client()
}

/// The environment's settings, apart from credentials.
async fn load(config: &RegionConfig, profile: Option<&str>) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .region(AwsRegion::new(config.aws_region.clone()))
        // Set here: the SDK panics on a setting that it does not know.
        .retry_config(RetryConfig::standard())
        .no_credentials();
    if let Some(profile) = profile {
        loader = loader.profile_name(profile);
    }
    loader.load().await
}
