//! A library that panics ends what it was asked to do, and no agent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::config::{
    BehaviorVersion, Credentials, ProvideCredentials, Region as AwsRegion, SharedCredentialsProvider,
};
use tradewind::agent::Agent;
use tradewind::config::RegionConfig;
use tradewind::observe::Observer;
use tradewind::protocol::Origin;
use tradewind::region::Region;

use crate::engine::{ACCESS_KEY, SECRET_KEY};
use crate::items::{key, row};
use crate::world::{PLAIN, World, eventually};

const DUBLIN: usize = 0;
const TOKYO: usize = 1;

/// A part of the SDK that is asked at each call, and panics as often as it is told to.
#[derive(Clone, Debug)]
struct Panicking(Arc<AtomicU32>);

impl ProvideCredentials for Panicking {
    fn provide_credentials<'a>(&'a self) -> aws_credential_types::provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        assert!(left.is_err(), "a defect of a library");
        let credentials = Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "tests");
        aws_credential_types::provider::future::ProvideCredentials::ready(Ok(credentials))
    }
}

fn connect(config: &RegionConfig, panics: &Panicking) -> Region {
    let sdk = aws_config::SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(AwsRegion::new(config.aws_region.clone()))
        .credentials_provider(SharedCredentialsProvider::new(panics.clone()))
        .identity_cache(aws_sdk_dynamodb::config::IdentityCache::no_cache())
        .build();
    Region::over(config, sdk)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_library_that_panics_everywhere_for_a_while_ends_no_agent() {
    let mut world = World::prepared(2, PLAIN).await;
    world.tuning.discovery_interval = Duration::from_millis(200);
    world.tuning.heartbeat_interval = Duration::from_millis(200);
    let config = world.config(DUBLIN);
    let panics = Panicking(Arc::default());
    let mut regions: BTreeMap<Origin, Region> = BTreeMap::new();
    for region in &config.regions {
        regions.insert(region.name.clone(), connect(region, &panics));
    }
    let mut agent = Agent::start_over(&config, "dublin", &regions).await.expect("an agent");
    let observer = Observer::start(&config, &regions, agent.figures().clone()).expect("an observer");
    world.put(DUBLIN, row("a", "one")).await;
    world.await_item(TOKYO, &key("a"), &row("a", "one")).await;
    // Whatever asks meets one: the watch, the stream, the writes, the looks at the table, the heartbeat.
    for round in 0..2 {
        panics.0.store(30, Ordering::Relaxed);
        let left = || async { panics.0.load(Ordering::Relaxed) };
        eventually("all panics", left, |left| *left == 0).await;
        let id = format!("b {round}");
        world.put(DUBLIN, row(&id, "one")).await;
        world.await_item(TOKYO, &key(&id), &row(&id, "one")).await;
    }
    // Each part of it is at work again.
    let reports = || async { world.control_rows(TOKYO, "report").await };
    let before = reports().await;
    eventually("a new report at the peer", reports, |rows| *rows != before && !rows.is_empty()).await;
    let beats = || async { world.control_rows(DUBLIN, "agent").await };
    let before = beats().await;
    eventually("a new beat", beats, |rows| *rows != before && !rows.is_empty()).await;
    let ended = tokio::time::timeout(Duration::from_millis(10), agent.ended()).await;
    assert!(ended.is_err(), "the agent has come to its end");
    drop(observer);
    agent.stop().await;
}
