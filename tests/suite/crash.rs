//! Agents that are ended at any moment, and started again: nothing is lost, and nothing that was
//! done is seen to be done again.

use std::collections::BTreeMap;

use crate::items::{exact, key, row, s};
use crate::load::{Load, Mix, seed};
use crate::world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_killed_again_and_again_under_load_lose_nothing() {
    let mut world = World::running(3).await;
    let seed = seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    let load = Load::start(&world, seed, Mix::Everything, 8, u64::MAX);
    for _ in 0..9 {
        load.go_on(rng.u64(10..40)).await;
        let region = rng.usize(0..3);
        world.crash_agent(region);
        load.go_on(rng.u64(0..20)).await;
        world.start_agent(region).await;
    }
    load.finish().await;
    world.converged().await;
    world.still_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_agents_killed_at_once_while_one_region_is_cut_off() {
    let mut world = World::running(3).await;
    let load = Load::start(&world, seed(), Mix::Everything, 8, u64::MAX);
    load.go_on(40).await;
    world.cut_off(1);
    load.go_on(60).await;
    for region in world.regions() {
        world.crash_agent(region);
    }
    load.go_on(30).await;
    world.start_agents().await;
    load.go_on(30).await;
    world.rejoin(1);
    load.finish().await;
    world.converged().await;
}

/// What every region stores, stamps and all: each physical write of an agent shows in it.
async fn everything(world: &World) -> BTreeMap<(usize, String), String> {
    let mut all = BTreeMap::new();
    for region in world.regions() {
        for item in world.all_items(region).await {
            all.insert((region, exact(&world.key_of(&item))), exact(&item));
        }
    }
    all
}

async fn some_history(world: &World) {
    for i in 0..30 {
        world.put(i % 3, row(&format!("key {i}"), "one")).await;
    }
    world.converged().await;
    for i in 0..10 {
        world.update(i % 3, key(&format!("key {i}")), "v", s("two")).await;
        world.delete((i + 1) % 3, key(&format!("key {}", i + 10))).await;
    }
    world.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_was_stopped_goes_on_where_it_was() {
    let mut world = World::running(3).await;
    some_history(&world).await;
    let before = everything(&world).await;
    for region in world.regions() {
        world.stop_agent(region).await;
        world.start_agent(region).await;
    }
    world.converged().await;
    let total = world.total();
    assert_eq!((total.records, total.agent_writes(), total.superseded), (0, 0, 0), "{total:?}");
    assert_eq!(everything(&world).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_was_killed_repeats_nothing_that_can_be_seen() {
    let mut world = World::running(3).await;
    some_history(&world).await;
    let before = everything(&world).await;
    for region in world.regions() {
        world.crash_agent(region);
        world.start_agent(region).await;
    }
    world.converged().await;
    assert_eq!(world.total().agent_writes(), 0, "{:?}", world.total());
    assert_eq!(everything(&world).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_while_no_agent_ran_is_replicated_later() {
    let mut world = World::prepared(3, crate::world::PLAIN).await;
    some_offline_writes(&world, "before").await;
    world.start_agents().await;
    assert_eq!(world.converged().await.len(), 3);
    for region in world.regions() {
        world.stop_agent(region).await;
    }
    some_offline_writes(&world, "between").await;
    world.start_agents().await;
    assert_eq!(world.converged().await.len(), 6);
}

async fn some_offline_writes(world: &World, when: &str) {
    for region in world.regions() {
        world.put(region, row(&format!("{when} {region}"), "one")).await;
        world.put(region, row("shared", &format!("{when} {region}"))).await;
        world.delete(region, key("shared")).await;
    }
}
