//! Items that expire by their time to live, in several regions at once.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::types::TimeToLiveSpecification;
use tradewind::protocol::Item;

use crate::items::{item, key, n, s};
use crate::world::{PLAIN, World, eventually};

pub(crate) fn seconds_from_now(seconds: i64) -> i64 {
    #[expect(clippy::disallowed_methods, reason = "expiry goes by the wall clock")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(now.as_secs()).unwrap() + seconds
}

pub(crate) fn until(id: &str, expires: i64) -> Item {
    item([("pk", s(id)), ("expires", n(expires))])
}

/// Regions in which items expire, or nothing where the engine can't serve that.
pub(crate) async fn expiring(regions: usize) -> Option<World> {
    let world = World::prepared(regions, PLAIN).await;
    if let Some(reason) = world.engine.lacks_expiry() {
        eprintln!("skipped on {:?}: {reason}", world.engine);
        return None;
    }
    for region in world.regions() {
        let spec = TimeToLiveSpecification::builder().enabled(true).attribute_name("expires");
        let update = world.app(region).update_time_to_live().table_name(&world.table);
        update.time_to_live_specification(spec.build().unwrap()).send().await.expect("a time to live");
    }
    Some(world)
}

async fn await_expiry(world: &World, region: usize, id: &str) {
    let see = || async move {
        world.server(region).expire();
        world.stored(region, &key(id)).await
    };
    eventually("expiry", see, Option::is_none).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_that_expire_in_every_region_at_once_are_gone_and_stay_gone() {
    let Some(mut world) = expiring(3).await else { return };
    world.start_agents().await;
    for i in 0..5 {
        world.put(i % 3, until(&format!("key {i}"), seconds_from_now(-60))).await;
    }
    world.put(0, until("stays", seconds_from_now(3_600))).await;
    for i in 0..5 {
        for region in world.regions() {
            await_expiry(&world, region, &format!("key {i}")).await;
        }
    }
    let contents = world.converged().await;
    assert_eq!(contents.len(), 1, "{contents:?}");
    world.still_quiet().await;
    let total = world.total();
    // At most five expiries in each region, marked and applied at two peers.
    assert!(total.local_deletes <= 5 * 3, "{total:?}");
    assert!(total.agent_writes() <= 6 * 2 + 5 * 3 * 2 * 2, "{total:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_that_is_renewed_elsewhere_after_it_expired_comes_back() {
    let Some(mut world) = expiring(2).await else { return };
    world.start_agents().await;
    world.put(1, until("a", seconds_from_now(3_600))).await;
    world.converged().await;
    world.cut_off(1);
    // It expires in dublin, and is renewed in tokyo later.
    world.update(0, key("a"), "expires", n(seconds_from_now(-60))).await;
    await_expiry(&world, 0, "a").await;
    let times = world.creation_times(0, &key("a")).await;
    // Its update and its expiry in dublin are two versions: tokyo's must be above both, which a
    // later time alone gives where the clock is too coarse for it to be another one.
    let renewed = seconds_from_now(7_200);
    if world.engine.has_coarse_times() {
        world.update(1, key("a"), "expires", n(renewed - 1)).await;
        world.update(1, key("a"), "expires", n(renewed - 2)).await;
    } else {
        world.await_time_after(1, *times.last().unwrap()).await;
    }
    world.update(1, key("a"), "expires", n(renewed)).await;
    world.rejoin(1);
    let expected = until("a", renewed);
    for region in world.regions() {
        world.await_item(region, &key("a"), &expected).await;
    }
    world.converged().await;
}
