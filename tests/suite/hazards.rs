//! What an application may do to an item's stamp, and what a skewed clock may do to versions:
//! each write is recognised as its own, and the last one stays.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::types::AttributeValue;
use tradewind::protocol::{Body, Fingerprint, Guard, Hlc, Item, Nonce, STAMP, Stamp, Version, Write};

use crate::items::{exact, item, key, n, row, s, stamp_of};
use crate::world::{World, eventually};

const DUBLIN: usize = 0;
const TOKYO: usize = 1;
const OREGON: usize = 2;

/// Waits until every region holds the one item, with this value.
async fn settles_on(world: &World, value: &str) {
    let contents = world.converged().await;
    assert_eq!(contents.values().collect::<Vec<_>>(), [&exact(&row("a", value))]);
}

/// The same, and nothing more happens after it.
async fn expect_everywhere(world: &World, value: &str) {
    settles_on(world, value).await;
    world.still_quiet().await;
}

/// Three regions that all hold an item of tokyo's, whose clock was an hour ahead.
async fn from_the_future() -> World {
    let world = World::running(3).await;
    #[expect(clippy::disallowed_methods, reason = "a clock to be ahead of")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_hours(1);
    let data = row("a", "future");
    let write = Write {
        key: key("a"),
        version: Version {
            hlc: Hlc::at_millis(u64::try_from(now.as_millis()).unwrap()),
            origin: "tokyo".parse().unwrap(),
        },
        base: None,
        body: Body::Put(std::sync::Arc::new(data.clone()), Fingerprint::of(&data)),
        replaced: None,
        home: None,
    };
    // To its agent this is an old copy put back: a new write, with a version above that stamp.
    let mut copy = data;
    let nonce = Nonce::new(&write.version.origin, 1);
    copy.insert(STAMP.to_owned(), AttributeValue::S(write.stamp(nonce, &Guard::Absent).to_string()));
    world.put(TOKYO, copy).await;
    expect_everywhere(&world, "future").await;
    for region in [DUBLIN, OREGON] {
        let stored = world.stored(region, &key("a")).await.unwrap();
        assert!(stamp_of(&stored) > Some(&Stamp::bound(&write.version)), "{stored:?}");
    }
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_on_top_of_a_replicated_item_wins_whatever_the_clocks_say() {
    let world = from_the_future().await;
    world.update(DUBLIN, key("a"), "v", s("updated")).await;
    expect_everywhere(&world, "updated").await;
    world.update(OREGON, key("a"), "v", s("updated again")).await;
    expect_everywhere(&world, "updated again").await;
    assert_eq!(world.total().conflicts, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_on_top_of_a_replicated_item_wins_whatever_the_clocks_say() {
    let world = from_the_future().await;
    world.put(DUBLIN, row("a", "replaced")).await;
    expect_everywhere(&world, "replaced").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_on_top_of_a_replicated_item_wins_whatever_the_clocks_say() {
    let world = from_the_future().await;
    world.delete(OREGON, key("a")).await;
    assert!(world.converged().await.is_empty());
    world.put(OREGON, row("a", "made again")).await;
    expect_everywhere(&world, "made again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_a_chain_of_unstamped_writes_wins_over_the_one_before() {
    let world = from_the_future().await;
    // The first put drops the stamp: from then on only memory knows how high to go.
    for i in 0..6 {
        world.put(DUBLIN, row("a", &format!("link {i}"))).await;
    }
    expect_everywhere(&world, "link 5").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_of_an_unstamped_write_outlives_its_agent() {
    let mut world = from_the_future().await;
    world.put(DUBLIN, row("a", "link 0")).await;
    expect_everywhere(&world, "link 0").await;
    world.stop_agent(DUBLIN).await;
    world.start_agent(DUBLIN).await;
    world.put(DUBLIN, row("a", "link 1")).await;
    expect_everywhere(&world, "link 1").await;
    world.crash_agent(DUBLIN);
    world.put(DUBLIN, row("a", "link 2")).await;
    world.start_agent(DUBLIN).await;
    expect_everywhere(&world, "link 2").await;
}

/// dublin's item as tokyo holds it, stamp and all.
async fn copy_at_tokyo(world: &World) -> Item {
    world.put(DUBLIN, row("a", "first")).await;
    world.await_item(TOKYO, &key("a"), &row("a", "first")).await;
    let copy = world.stored(TOKYO, &key("a")).await.unwrap();
    assert!(stamp_of(&copy).is_some(), "{copy:?}");
    copy
}

/// The same, once all is quiet.
async fn stamped_copy(world: &World) -> Item {
    let copy = copy_at_tokyo(world).await;
    world.quiet().await;
    copy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_put_back_with_its_stamp_is_a_new_write() {
    let world = World::running(3).await;
    let copy = stamped_copy(&world).await;
    world.update(DUBLIN, key("a"), "v", s("second")).await;
    expect_everywhere(&world, "second").await;
    world.put(TOKYO, copy).await;
    expect_everywhere(&world, "first").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_put_back_in_another_region_is_a_new_write() {
    let world = World::running(3).await;
    let copy = stamped_copy(&world).await;
    world.update(DUBLIN, key("a"), "v", s("second")).await;
    expect_everywhere(&world, "second").await;
    world.put(OREGON, copy).await;
    expect_everywhere(&world, "first").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_put_back_over_an_unstamped_write_is_a_new_write() {
    let world = World::running(3).await;
    let copy = stamped_copy(&world).await;
    world.put(TOKYO, row("a", "second")).await;
    expect_everywhere(&world, "second").await;
    world.put(TOKYO, copy).await;
    expect_everywhere(&world, "first").await;
}

async fn a_copy_lives_that_is_put_back_after_a_delete_in(region: usize) {
    let world = World::running(3).await;
    let copy = stamped_copy(&world).await;
    world.delete(region, key("a")).await;
    assert!(world.converged().await.is_empty());
    world.put(TOKYO, copy).await;
    expect_everywhere(&world, "first").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_put_back_after_a_delete_is_a_new_write() {
    a_copy_lives_that_is_put_back_after_a_delete_in(TOKYO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_put_back_after_another_region_deleted_its_item_is_a_new_write() {
    a_copy_lives_that_is_put_back_after_a_delete_in(DUBLIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stamp_moved_to_other_data_does_not_hide_a_write() {
    let world = World::running(3).await;
    let mut copy = stamped_copy(&world).await;
    copy.insert("v".to_owned(), s("other"));
    world.put(OREGON, copy).await;
    expect_everywhere(&world, "other").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_copied_to_another_key_with_its_stamp_is_a_new_write() {
    let world = World::running(3).await;
    let mut copy = stamped_copy(&world).await;
    copy.insert("pk".to_owned(), s("b"));
    world.put(OREGON, copy).await;
    for region in world.regions() {
        world.await_item(region, &key("b"), &row("b", "first")).await;
    }
    assert_eq!(world.converged().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stamp_that_is_newer_than_a_regions_own_does_not_hide_a_write() {
    let world = World::running(3).await;
    world.put(DUBLIN, row("a", "zeroth")).await;
    expect_everywhere(&world, "zeroth").await;
    world.cut_off(OREGON);
    let mut copy = copy_at_tokyo(&world).await;
    copy.insert("v".to_owned(), s("other"));
    // oregon has not seen the version that this stamp names.
    world.put(OREGON, copy).await;
    eventually("its record", || async { world.tally(OREGON).records }, |records| *records >= 2).await;
    world.rejoin(OREGON);
    expect_everywhere(&world, "other").await;
}

/// tokyo's item with a delete mark, which stands while its agent is away.
async fn marked_copy(world: &mut World) -> Item {
    world.put(DUBLIN, row("a", "first")).await;
    world.converged().await;
    world.stop_agent(TOKYO).await;
    world.delete(DUBLIN, key("a")).await;
    let marked =
        |item: &Option<Item>| item.as_ref().and_then(stamp_of).is_some_and(|stamp| stamp.contains(" x-"));
    let see = || async { world.stored(TOKYO, &key("a")).await };
    let copy = eventually("a delete mark in tokyo", see, marked).await;
    copy.unwrap()
}

async fn has_no_mark(world: &World) {
    for region in world.regions() {
        let stored = world.stored(region, &key("a")).await.unwrap();
        let stamp = stamp_of(&stored).unwrap_or_default();
        assert!(!stamp.contains(" x-"), "a mark stays in {}: {stamp}", world.name(region));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_put_back_with_its_delete_mark_lives() {
    let mut world = World::running(3).await;
    let copy = marked_copy(&mut world).await;
    world.start_agent(TOKYO).await;
    assert!(world.converged().await.is_empty());
    world.put(TOKYO, copy).await;
    expect_everywhere(&world, "first").await;
    has_no_mark(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_with_another_regions_delete_mark_lives() {
    let mut world = World::running(3).await;
    let copy = marked_copy(&mut world).await;
    world.start_agent(TOKYO).await;
    assert!(world.converged().await.is_empty());
    world.put(OREGON, copy).await;
    expect_everywhere(&world, "first").await;
    has_no_mark(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_put_over_a_marked_item_lives() {
    let mut world = World::running(3).await;
    marked_copy(&mut world).await;
    world.put(TOKYO, row("a", "second")).await;
    world.start_agent(TOKYO).await;
    expect_everywhere(&world, "second").await;
    has_no_mark(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stamp_attribute_that_no_agent_wrote_counts_as_none() {
    let world = World::running(3).await;
    let map = AttributeValue::M(item([("mine", n(1))]));
    let garbage = [s("garbage"), s(""), s("tw1 "), s("tw1 zzz"), n(7), AttributeValue::Null(true), map];
    for (i, garbage) in garbage.into_iter().enumerate() {
        let mut mine = row("a", &format!("value {i}"));
        mine.insert(STAMP.to_owned(), garbage);
        world.put(i % 3, mine.clone()).await;
        settles_on(&world, &format!("value {i}")).await;
        // Over a stamped item as well.
        mine.insert("v".to_owned(), s(&format!("again {i}")));
        world.put((i + 1) % 3, mine).await;
        settles_on(&world, &format!("again {i}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stamp_attribute_that_no_agent_wrote_holds_up_no_newer_write() {
    // The last two sort above every version of our time.
    for garbage in [n(7), s("garbage"), s("tw1 zzz"), s("tw1 f")] {
        let mut world = World::running(3).await;
        world.stop_agent(DUBLIN).await;
        let mut mine = row("a", "earlier");
        mine.insert(STAMP.to_owned(), garbage);
        world.put(DUBLIN, mine).await;
        world.put(TOKYO, row("a", "later")).await;
        world.await_item(OREGON, &key("a"), &row("a", "later")).await;
        world.quiet().await;
        world.start_agent(DUBLIN).await;
        settles_on(&world, "later").await;
    }
}
