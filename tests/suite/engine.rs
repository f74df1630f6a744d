//! The engine under the regions, and all that one does differently from the others.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials as StaticCredentials, Region as AwsRegion};
use tradewind::config::Credentials;
use tradewind::embedded::EmbeddedRegion;
use tradewind::protocol::Origin;
use url::Url;

/// The keys that `tests/with-engine` sets; an engine may keep a set of tables for each.
pub(crate) const ACCESS_KEY: &str = "tradewind";
pub(crate) const SECRET_KEY: &str = "tradewind";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Embedded,
    DynamoDbLocal(Url),
    Ministack(Url),
}

impl Engine {
    /// The one that the environment names.
    pub(crate) fn chosen() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let Some(name) = variable("TRADEWIND_TEST_ENGINE") else { return Self::Embedded };
        let endpoint = variable("TRADEWIND_TEST_ENDPOINT").expect("TRADEWIND_TEST_ENDPOINT goes with it");
        let endpoint = Url::parse(&endpoint).expect("TRADEWIND_TEST_ENDPOINT is a URL");
        match name.as_str() {
            "dynamodb-local" => Self::DynamoDbLocal(endpoint),
            "ministack" => Self::Ministack(endpoint),
            other => panic!("TRADEWIND_TEST_ENGINE = {other:?}: expected dynamodb-local or ministack"),
        }
    }

    /// Whether creation times are whole minutes, so that a later write rarely has a later time.
    pub(crate) fn has_coarse_times(&self) -> bool {
        matches!(self, Self::DynamoDbLocal(_))
    }

    /// Why TTL expiry can't be tested here, if it can't.
    pub(crate) fn lacks_expiry(&self) -> Option<&'static str> {
        match self {
            Self::Ministack(_) => Some("its TTL deletes make no stream record"),
            Self::Embedded | Self::DynamoDbLocal(_) => None,
        }
    }

    /// Why the stream before can't be read once a table has another one, if it can't.
    pub(crate) fn drops_old_streams(&self) -> Option<&'static str> {
        match self {
            Self::Embedded => {
                Some("a table has one stream at most, and shows that whatever stream is asked for")
            }
            Self::DynamoDbLocal(_) | Self::Ministack(_) => None,
        }
    }

    /// Why a table's next stream can't be told from the one before, if it can't.
    pub(crate) fn mixes_streams_up(&self) -> Option<&'static str> {
        match self {
            Self::Embedded => Some("a table that is recreated shows the old records"),
            Self::Ministack(_) => Some("the shards of all streams have one name"),
            Self::DynamoDbLocal(_) => None,
        }
    }

    /// The credentials of an agent in this process.
    pub(crate) fn credentials(&self) -> Credentials {
        match self {
            Self::Embedded => Credentials::Embedded,
            // What `tests/with-engine` sets.
            Self::DynamoDbLocal(_) | Self::Ministack(_) => Credentials::Chain { profile: None, role: None },
        }
    }
}

/// One region's server: its own where the engine is embedded, else its share of the common one.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) endpoint: Url,
    embedded: Option<EmbeddedRegion>,
}

impl Server {
    pub(crate) async fn start(engine: &Engine, name: &Origin) -> Self {
        match engine {
            Engine::Embedded => {
                let region = EmbeddedRegion::start(name.clone()).await.expect("an embedded region");
                let endpoint = region.config().endpoint.expect("an endpoint");
                Self { endpoint, embedded: Some(region) }
            }
            Engine::DynamoDbLocal(endpoint) | Engine::Ministack(endpoint) => {
                Self { endpoint: endpoint.clone(), embedded: None }
            }
        }
    }

    /// Lets the items expire whose time has come, where the engine does not do so by itself.
    pub(crate) fn expire(&self) {
        if let Some(region) = &self.embedded {
            region.expire().expect("a sweep");
        }
    }
}

/// A client as an application would have it.
pub(crate) fn client(endpoint: &Url, aws_region: &str) -> Client {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(AwsRegion::new(aws_region.to_owned()))
        .credentials_provider(StaticCredentials::new(ACCESS_KEY, SECRET_KEY, None, None, "tests"))
        .endpoint_url(endpoint.as_str())
        .build();
    Client::from_conf(config)
}

pub(crate) fn streams_client(endpoint: &Url, aws_region: &str) -> aws_sdk_dynamodbstreams::Client {
    let config = aws_sdk_dynamodbstreams::Config::builder()
        .behavior_version(aws_sdk_dynamodbstreams::config::BehaviorVersion::latest())
        .region(AwsRegion::new(aws_region.to_owned()))
        .credentials_provider(StaticCredentials::new(ACCESS_KEY, SECRET_KEY, None, None, "tests"))
        .endpoint_url(endpoint.as_str())
        .build();
    aws_sdk_dynamodbstreams::Client::from_conf(config)
}
