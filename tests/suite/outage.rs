//! Regions that are cut off, and come back.

use crate::items::{item, key, n, row, s};
use crate::load::{Load, Mix, seed};
use crate::world::World;

const DUBLIN: usize = 0;
const TOKYO: usize = 1;
const OREGON: usize = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_regions_go_on_while_the_third_is_cut_off_under_load() {
    let world = World::running(3).await;
    let load = Load::start(&world, seed(), Mix::Everything, 8, u64::MAX);
    load.go_on(60).await;
    world.cut_off(OREGON);
    load.go_on(150).await;
    world.put(DUBLIN, row("marker", "dublin")).await;
    world.await_item(TOKYO, &key("marker"), &row("marker", "dublin")).await;
    world.update(TOKYO, key("marker"), "v", s("tokyo")).await;
    world.await_item(DUBLIN, &key("marker"), &row("marker", "tokyo")).await;
    assert_eq!(world.get(OREGON, &key("marker")).await, None);
    world.rejoin(OREGON);
    load.go_on(60).await;
    load.finish().await;
    world.converged().await;
    world.await_item(OREGON, &key("marker"), &row("marker", "tokyo")).await;
    world.still_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_region_is_cut_off_in_turn() {
    let world = World::running(3).await;
    let load = Load::start(&world, seed(), Mix::Everything, 8, u64::MAX);
    for region in world.regions() {
        load.go_on(40).await;
        world.cut_off(region);
        load.go_on(40).await;
        world.rejoin(region);
    }
    load.finish().await;
    world.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_is_away_when_the_others_start_gets_everything_later() {
    let mut world = World::prepared(3, crate::world::PLAIN).await;
    world.cut_off(OREGON);
    world.start_agents().await;
    world.put(DUBLIN, row("a", "one")).await;
    world.await_item(TOKYO, &key("a"), &row("a", "one")).await;
    world.put(OREGON, row("b", "two")).await;
    world.rejoin(OREGON);
    assert_eq!(world.converged().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_loses_its_own_region_goes_on_when_that_is_back() {
    let world = World::running(2).await;
    world.put(DUBLIN, row("a", "one")).await;
    world.await_item(TOKYO, &key("a"), &row("a", "one")).await;
    world.link(DUBLIN, DUBLIN).cut();
    world.put(DUBLIN, row("b", "two")).await;
    world.put(TOKYO, row("c", "three")).await;
    world.await_item(DUBLIN, &key("c"), &row("c", "three")).await;
    world.link(DUBLIN, DUBLIN).restore();
    assert_eq!(world.converged().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_falls_far_behind_holds_nobody_up_and_catches_up() {
    let mut world = World::prepared(3, crate::world::PLAIN).await;
    // What waits for a peer may take up one MiB, and that is soon full.
    world.tuning.queue_mib = 1;
    world.start_agents().await;
    world.cut_off(OREGON);
    let large = "x".repeat(60_000);
    for round in 0..3 {
        for i in 0..20 {
            let id = format!("large {i}");
            world.put(DUBLIN, item([("pk", s(&id)), ("round", n(round)), ("text", s(&large))])).await;
        }
        world.put(TOKYO, row(&format!("small {round}"), "tokyo")).await;
        world.delete(DUBLIN, key(&format!("large {round}"))).await;
    }
    world.put(DUBLIN, row("marker", "one")).await;
    world.await_item(TOKYO, &key("marker"), &row("marker", "one")).await;
    assert_eq!(world.get(OREGON, &key("marker")).await, None);
    world.rejoin(OREGON);
    // While it catches up, the others go on.
    world.put(DUBLIN, row("marker", "two")).await;
    world.await_item(TOKYO, &key("marker"), &row("marker", "two")).await;
    let contents = world.converged().await;
    assert_eq!(contents.len(), 20 - 1 + 3 + 1);
    // And it is fed with the others again.
    world.put(DUBLIN, row("marker", "three")).await;
    world.await_item(OREGON, &key("marker"), &row("marker", "three")).await;
    world.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_far_behind_catches_up_though_the_agent_is_killed_meanwhile() {
    let mut world = World::prepared(3, crate::world::PLAIN).await;
    world.tuning.queue_mib = 1;
    world.start_agents().await;
    world.cut_off(OREGON);
    let large = "x".repeat(60_000);
    for i in 0..40 {
        world.put(DUBLIN, item([("pk", s(&format!("large {i}"))), ("text", s(&large))])).await;
    }
    world.await_item(TOKYO, &key("large 39"), &item([("pk", s("large 39")), ("text", s(&large))])).await;
    world.crash_agent(DUBLIN);
    world.start_agent(DUBLIN).await;
    world.put(DUBLIN, row("marker", "one")).await;
    world.await_item(TOKYO, &key("marker"), &row("marker", "one")).await;
    world.rejoin(OREGON);
    assert_eq!(world.converged().await.len(), 41);
}
