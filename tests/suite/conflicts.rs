//! Concurrent writes to one key: the last writer wins in every region, and the loss is counted.
//!
//! The regions are dublin, tokyo and oregon. Where creation times are equal the later name wins,
//! so a later write in tokyo wins whether the engine's clock could tell the two apart or not.

use aws_sdk_dynamodb::types::AttributeValue;

use crate::items::{exact, item, key, n, row, s};
use crate::world::World;

const DUBLIN: usize = 0;
const TOKYO: usize = 1;
const OREGON: usize = 2;

/// An item that every region has, each with its agent's stamp or none.
async fn shared_item() -> World {
    let world = World::running(3).await;
    world.put(OREGON, row("a", "old")).await;
    world.converged().await;
    for region in world.regions() {
        world.await_item(region, &key("a"), &row("a", "old")).await;
    }
    world
}

async fn expect_everywhere(world: &World, value: AttributeValue) {
    let contents = world.converged().await;
    let expected = item([("pk", s("a")), ("v", value)]);
    assert_eq!(contents.values().collect::<Vec<_>>(), [&exact(&expected)]);
}

async fn expect_nothing(world: &World) {
    let contents = world.converged().await;
    assert!(contents.is_empty(), "{contents:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_puts_the_later_one_wins_though_its_region_was_cut_off() {
    let world = World::running(3).await;
    world.cut_off(TOKYO);
    world.put(DUBLIN, row("a", "earlier")).await;
    world.await_item(OREGON, &key("a"), &row("a", "earlier")).await;
    world.put(TOKYO, row("a", "later")).await;
    world.rejoin(TOKYO);
    expect_everywhere(&world, s("later")).await;
    // Found in the region of the write that lost.
    assert_eq!(world.tally(DUBLIN).conflicts, 1);
    assert_eq!(world.total().conflicts, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_puts_the_earlier_one_loses_though_it_arrives_last() {
    let world = World::running(3).await;
    world.cut_off(DUBLIN);
    world.put(DUBLIN, row("a", "earlier")).await;
    world.put(TOKYO, row("a", "later")).await;
    world.await_item(OREGON, &key("a"), &row("a", "later")).await;
    world.rejoin(DUBLIN);
    expect_everywhere(&world, s("later")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_time_beats_a_later_name() {
    let world = World::running(3).await;
    if world.engine.has_coarse_times() {
        eprintln!("skipped on {:?}: a later time takes up to a minute to come", world.engine);
        return;
    }
    world.cut_off(TOKYO);
    world.put(TOKYO, row("a", "earlier")).await;
    let earlier = world.creation_times(TOKYO, &key("a")).await[0];
    world.await_time_after(DUBLIN, earlier).await;
    world.put(DUBLIN, row("a", "later")).await;
    world.rejoin(TOKYO);
    let contents = world.converged().await;
    assert!(contents.values().any(|item| *item == exact(&row("a", "later"))), "{contents:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_update_does_not_bring_a_deleted_item_back() {
    let world = shared_item().await;
    world.cut_off(DUBLIN);
    world.update(DUBLIN, key("a"), "v", s("older")).await;
    world.delete(TOKYO, key("a")).await;
    world.await_absent(OREGON, &key("a")).await;
    world.rejoin(DUBLIN);
    expect_nothing(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_put_of_a_key_that_others_have_deleted_does_not_last() {
    let world = World::running(3).await;
    world.cut_off(DUBLIN);
    world.put(DUBLIN, row("a", "older")).await;
    world.put(TOKYO, row("a", "newer")).await;
    world.await_item(OREGON, &key("a"), &row("a", "newer")).await;
    world.delete(TOKYO, key("a")).await;
    world.await_absent(OREGON, &key("a")).await;
    world.rejoin(DUBLIN);
    expect_nothing(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_that_is_newer_than_a_delete_lasts() {
    let world = shared_item().await;
    world.cut_off(TOKYO);
    world.delete(DUBLIN, key("a")).await;
    world.await_absent(OREGON, &key("a")).await;
    world.put(TOKYO, row("a", "newer")).await;
    world.rejoin(TOKYO);
    expect_everywhere(&world, s("newer")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_that_is_newer_than_a_delete_brings_the_item_back() {
    let world = shared_item().await;
    world.cut_off(TOKYO);
    world.delete(DUBLIN, key("a")).await;
    world.update(TOKYO, key("a"), "v", n(1)).await;
    world.rejoin(TOKYO);
    expect_everywhere(&world, n(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletes_of_one_item_in_every_region_leave_nothing_behind() {
    let world = shared_item().await;
    world.cut_off(DUBLIN);
    world.cut_off(TOKYO);
    for region in world.regions() {
        world.delete(region, key("a")).await;
    }
    let before = world.total().agent_writes();
    world.rejoin(DUBLIN);
    world.rejoin(TOKYO);
    expect_nothing(&world).await;
    // Each of three deletes at two peers, marked and applied at most once.
    let writes = world.total().agent_writes() - before;
    assert!(writes <= 3 * 2 * 2, "{writes} writes: {:?}", world.total());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_reaches_a_peer_that_never_had_the_item() {
    let world = World::running(3).await;
    world.cut_off(OREGON);
    world.put(DUBLIN, row("a", "short-lived")).await;
    world.delete(DUBLIN, key("a")).await;
    world.await_absent(TOKYO, &key("a")).await;
    world.rejoin(OREGON);
    expect_nothing(&world).await;
    world.put(OREGON, row("a", "next")).await;
    expect_everywhere(&world, s("next")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_item_put_in_every_region_at_once_settles() {
    let world = World::running(3).await;
    world.cut_off(DUBLIN);
    world.cut_off(TOKYO);
    for region in world.regions() {
        world.put(region, row("a", "same")).await;
    }
    world.rejoin(DUBLIN);
    world.rejoin(TOKYO);
    expect_everywhere(&world, s("same")).await;
    world.still_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writes_in_each_of_three_regions_at_once_settle_on_the_last() {
    let world = World::running(3).await;
    world.cut_off(DUBLIN);
    world.cut_off(TOKYO);
    for i in 0..5 {
        for region in [DUBLIN, OREGON, TOKYO] {
            let value = s(&format!("{} {i}", world.name(region)));
            if i % 2 == 0 {
                world.put(region, item([("pk", s("a")), ("v", value)])).await;
            } else {
                world.update(region, key("a"), "v", value).await;
            }
        }
    }
    world.rejoin(DUBLIN);
    world.rejoin(TOKYO);
    expect_everywhere(&world, s("tokyo 4")).await;
    // Seen while writing this: with each loser's heal the others' older writes come once more.
    let total = world.total();
    assert!(total.agent_writes() <= 3 * total.local_writes(), "{total:?}");
}
