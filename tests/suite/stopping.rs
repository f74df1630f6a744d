//! Stopping has one deadline, whatever answers or does not.

use std::time::Duration;

use tokio::time::Instant;
use tradewind_proxy::Weather;

use crate::items::{key, row};
use crate::world::{PLAIN, World};

const DUBLIN: usize = 0;
const TOKYO: usize = 1;

/// Stops an agent whose requests to some regions get nowhere, without anybody telling it so.
async fn stops_in_time(silent: &[usize], works: bool) {
    let mut world = World::prepared(2, PLAIN).await;
    world.more = "drain_timeout = \"6s\"\n";
    let mut process = world.start_process(DUBLIN);
    process.says("replicating").await;
    world.put(DUBLIN, row("a", "one")).await;
    world.await_item(TOKYO, &key("a"), &row("a", "one")).await;
    for region in silent {
        world.link(DUBLIN, *region).set(Weather { swallows_requests: true, ..Weather::default() });
    }
    if works {
        world.put(DUBLIN, row("b", "two")).await;
        process.says("retrying").await;
    }
    process.signal("TERM").await;
    process.says("stopping: finishing what is in progress").await;
    let begun = Instant::now();
    let (code, printed) = process.end().await;
    let took = begun.elapsed();
    assert_eq!(code, 0, "{printed}");
    // The SDK alone would take 30 s for one call.
    assert!(took < Duration::from_secs(12), "{took:?}");
    for region in silent {
        world.link(DUBLIN, *region).set(Weather::default());
    }
    world.start_agents().await;
    assert_eq!(world.converged().await.len(), if works { 2 } else { 1 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_agent_stops_in_time_though_nothing_answers() {
    stops_in_time(&[DUBLIN, TOKYO], false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_with_writes_under_way_stops_in_time_though_a_peer_answers_nothing() {
    stops_in_time(&[TOKYO], true).await;
}
