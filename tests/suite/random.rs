//! Random loads on the same keys in every region at once: what they leave is the same everywhere.

use std::sync::Mutex;

use crate::load::{Load, Mix, seed};
use crate::world::{PLAIN, World};
use tradewind_proxy::Flaky;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_regions_converge_under_a_random_load() {
    let world = World::running(3).await;
    let mut load = Load::start(&world, seed(), Mix::Everything, 8, 200);
    load.complete().await;
    let contents = world.converged().await;
    assert!(contents.len() <= 8, "{contents:?}");
    world.still_quiet().await;
    let total = world.total();
    assert_eq!((total.dead_letters, total.gaps, total.unreadable), (0, 0, 0), "{total:?}");
    // The steady cost is at most four a write: two peers, a mark and a delete at each. Heals, and
    // deletes that meet a mark, come on top.
    assert!(total.agent_writes() <= 6 * load.made(), "{} writes: {total:?}", load.made());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_write_is_taken_for_an_echo_and_no_echo_for_a_write() {
    let world = World::running(3).await;
    let mut load = Load::start(&world, seed(), Mix::Writes, 6, 200);
    load.complete().await;
    world.converged().await;
    world.still_quiet().await;
    let total = world.total();
    assert_eq!(total.local_writes(), load.made(), "{total:?}");
    // Each write was sent to two peers, and was taken or turned down there, by itself or with a later one.
    assert_eq!(total.replicated + total.superseded + total.coalesced, 2 * load.made(), "{total:?}");
    // A call whose answer came too late was made again, and turned down.
    let made = total.agent_writes();
    assert!((made..=made + total.superseded).contains(&total.echoes), "{total:?}");
    assert!(total.heals <= total.replicated, "{total:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_converge_with_a_memory_so_small_that_writes_are_stamped_in_place() {
    let mut world = World::prepared(3, PLAIN).await;
    world.tuning.memory_keys = 2;
    world.start_agents().await;
    let load = Load::start(&world, seed(), Mix::Everything, 8, u64::MAX);
    load.go_on(150).await;
    world.cut_off(2);
    load.go_on(150).await;
    world.rejoin(2);
    load.go_on(100).await;
    load.finish().await;
    world.converged().await;
    world.still_quiet().await;
    assert!(world.total().restamps > 0, "{:?}", world.total());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_converge_though_every_call_of_every_agent_may_fail() {
    let seed = seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    let world = flaky_world(&mut rng, None).await;
    let mut load = Load::start(&world, seed, Mix::Everything, 8, 60);
    load.complete().await;
    world.converged().await;
}

/// Everything at once: calls that fail, regions that are cut off, agents that are killed, and a
/// memory that is small in some of the runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_converge_after_a_storm() {
    let seed = seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    let memory_keys = rng.bool().then(|| rng.usize(1..6));
    let mut world = flaky_world(&mut rng, memory_keys).await;
    let load = Load::start(&world, seed, Mix::Everything, 6, u64::MAX);
    for _ in 0..6 {
        load.go_on(rng.u64(5..40)).await;
        let region = rng.usize(0..3);
        if rng.bool() {
            world.cut_off(region);
            load.go_on(rng.u64(5..40)).await;
            world.rejoin(region);
        } else {
            world.crash_agent(region);
            load.go_on(rng.u64(0..20)).await;
            world.start_agent(region).await;
        }
    }
    load.finish().await;
    world.converged().await;
}

async fn flaky_world(rng: &mut fastrand::Rng, memory_keys: Option<usize>) -> World {
    let mut world = World::prepared(3, PLAIN).await;
    world.tuning.memory_keys = memory_keys.unwrap_or(world.tuning.memory_keys);
    // A start that meets several failed calls in a row is tried again.
    world.tuning.startup_timeout = crate::world::PATIENCE;
    for from in world.regions() {
        for to in world.regions() {
            world.tamper(from, to, Flaky(Mutex::new(rng.fork()))).await;
        }
    }
    world.start_agents().await;
    world
}
