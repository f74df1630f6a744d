//! `[[table.peer]]`: part of the items, or of their attributes, goes to a region.

use tradewind::protocol::Item;

use crate::items::{item, key, s, stamp_of};
use crate::load::{Load, Mix, seed};
use crate::process::run_json;
use crate::world::{PLAIN, World, eventually};

const DUBLIN: usize = 0;
const TOKYO: usize = 1;
const OREGON: usize = 2;

/// Three regions, of which Oregon takes only part; no agent runs yet.
async fn selecting(what: &str) -> World {
    let mut world = World::prepared(3, PLAIN).await;
    world.peers = format!("[[table.peer]]\nregion = \"oregon\"\n{what}\n");
    world
}

fn customer(id: &str, residency: &str) -> Item {
    item([("pk", s(id)), ("residency", s(residency)), ("passport", s("X1"))])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_that_leaves_the_selection_is_deleted_there_and_comes_back_with_it() {
    let mut world = selecting("only = [{ attribute = \"residency\", is = [\"us\", \"any\"] }]").await;
    world.start_agents().await;
    world.put(DUBLIN, customer("a", "us")).await;
    world.await_item(OREGON, &key("a"), &customer("a", "us")).await;
    // It moves away, by a region that did not write it.
    world.await_item(TOKYO, &key("a"), &customer("a", "us")).await;
    world.update(TOKYO, key("a"), "residency", s("eu")).await;
    world.await_item(DUBLIN, &key("a"), &customer("a", "eu")).await;
    world.await_absent(OREGON, &key("a")).await;
    world.put(DUBLIN, customer("a", "any")).await;
    world.await_item(OREGON, &key("a"), &customer("a", "any")).await;
    // What the region writes itself goes to all, and stays.
    world.put(OREGON, customer("b", "eu")).await;
    world.await_item(TOKYO, &key("b"), &customer("b", "eu")).await;
    world.quiet().await;
    world.await_item(OREGON, &key("b"), &customer("b", "eu")).await;
    world.delete(DUBLIN, key("b")).await;
    world.await_absent(OREGON, &key("b")).await;
    let (code, verdict) = run_json(world.tradewind(DUBLIN, &["verify"])).await;
    assert_eq!(code, 0, "{verdict:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_sent_of_an_item_whose_key_keeps_it_away() {
    let mut world = selecting("only = [{ attribute = \"pk\", begins_with = \"us#\" }]").await;
    world.start_agents().await;
    for id in ["eu#1", "us#1"] {
        world.put(DUBLIN, customer(id, "x")).await;
        let is_for_oregon = id.starts_with("us#");
        world.await_item(TOKYO, &key(id), &customer(id, "x")).await;
        if is_for_oregon {
            world.await_item(OREGON, &key(id), &customer(id, "x")).await;
        }
        world.delete(TOKYO, key(id)).await;
        world.await_absent(DUBLIN, &key(id)).await;
        if is_for_oregon {
            world.await_absent(OREGON, &key(id)).await;
        }
        world.put(TOKYO, customer(id, "y")).await;
    }
    world.await_item(OREGON, &key("us#1"), &customer("us#1", "y")).await;
    world.quiet().await;
    assert_eq!(world.get(OREGON, &key("eu#1")).await, None);
    // Two puts, a delete, and its mark; the other key never showed.
    assert_eq!(world.tally(OREGON).records, 4, "{:?}", world.tally(OREGON));
    // The region keeps what it writes against its own selection. (Of a key that it
    // does not know of, its write could lose to one of the same second.)
    world.put(OREGON, customer("eu#2", "z")).await;
    world.await_item(DUBLIN, &key("eu#2"), &customer("eu#2", "z")).await;
    world.update(DUBLIN, key("eu#2"), "residency", s("moved")).await;
    world.await_item(TOKYO, &key("eu#2"), &customer("eu#2", "moved")).await;
    world.quiet().await;
    assert_eq!(world.get(OREGON, &key("eu#2")).await, Some(customer("eu#2", "z")));
    let (code, verdict) = run_json(world.tradewind(DUBLIN, &["verify"])).await;
    assert_eq!(code, 0, "{verdict:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attributes_stay_home_and_their_region_only_receives() {
    let mut world = selecting("without = [\"passport\"]").await;
    world.start_agents().await;
    world.put(DUBLIN, customer("a", "eu")).await;
    let mut shown = customer("a", "eu");
    shown.remove("passport");
    world.await_item(OREGON, &key("a"), &shown).await;
    world.await_item(TOKYO, &key("a"), &customer("a", "eu")).await;
    let stamp = world.stored(OREGON, &key("a")).await.as_ref().and_then(stamp_of).map(str::to_owned);
    assert!(stamp.is_some(), "the stamp covers what the region holds");
    // Its own write would take the passport away from all others: it stays.
    world.update(OREGON, key("a"), "residency", s("us")).await;
    eventually("Oregon's write seen", || async { world.tally(OREGON).local_writes() }, |n| *n == 1).await;
    world.quiet().await;
    assert_eq!(world.get(DUBLIN, &key("a")).await, Some(customer("a", "eu")));
    let (code, verdict) = run_json(world.tradewind(DUBLIN, &["verify"])).await;
    assert_eq!((code, &verdict["tables"][0]["items_differing"]), (1, &1.into()), "{verdict:#}");
    // The next write from elsewhere puts it right.
    world.put(TOKYO, customer("a", "ch")).await;
    shown.insert("residency".to_owned(), s("ch"));
    world.await_item(OREGON, &key("a"), &shown).await;
    let (code, verdict) = run_json(world.tradewind(DUBLIN, &["verify"])).await;
    assert_eq!(code, 0, "{verdict:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_attribute_can_not_stay_home() {
    let world = selecting("without = [\"pk\"]").await;
    let (code, told) = run_json(world.tradewind(DUBLIN, &["run", "--region", "dublin", "--once"])).await;
    assert_eq!(code, 69, "{told:#}");
    assert!(
        told["error"].as_str().is_some_and(|error| error.contains("part of the table's key")),
        "{told:#}"
    );
}

/// A random load in all regions at once, and agents that are killed: what is for Oregon is there,
/// and nothing else but what it wrote itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_converge_on_their_parts_under_a_random_load() {
    let seed = seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    let only = "only = [{ attribute = \"v\", begins_with = [\"dublin\", \"oregon\"] }]";
    let mut world = selecting(only).await;
    world.start_agents().await;
    let load = Load::start(&world, seed, Mix::Everything, 8, u64::MAX);
    for _ in 0..4 {
        load.go_on(rng.u64(30..100)).await;
        let region = rng.usize(0..3);
        world.crash_agent(region);
        load.go_on(rng.u64(0..20)).await;
        world.start_agent(region).await;
    }
    load.finish().await;
    world.quiet().await;
    let [dublin, tokyo, oregon] = [DUBLIN, TOKYO, OREGON].map(|region| world.contents(region));
    let (dublin, tokyo, oregon) = (dublin.await, tokyo.await, oregon.await);
    assert_eq!(dublin, tokyo);
    for (key, item) in &dublin {
        let is_for = item.contains("\"dublin ") || item.contains("\"oregon ");
        let held = oregon.get(key);
        assert!(held == Some(item) || (!is_for && held.is_none()), "{item} and in Oregon {held:?}");
    }
    assert!(oregon.keys().all(|key| dublin.contains_key(key)), "{oregon:#?}");
    let (code, verdict) = run_json(world.tradewind(DUBLIN, &["verify"])).await;
    assert_eq!(code, 0, "{verdict:#}");
}
