//! `tradewind bootstrap` and `tradewind repair`: what no stream tells of is brought to all regions, while
//! applications write, and whatever happens to the command.

use std::time::Duration;

use serde_json::{Value, json};
use tradewind::config::Conflicts;
use tradewind::protocol::Item;

use crate::items::{key, row, s, stamped, without_stamp};
use crate::load::{Load, Mix, seed};
use crate::process::{Process, run_json, run_json_within};
use crate::world::{PLAIN, World, eventually_within};

const DUBLIN: usize = 0;
const TOKYO: usize = 1;
const OREGON: usize = 2;

/// There are several barriers, and an engine may be busy.
const LONG: Duration = Duration::from_secs(400);
/// A hold is lost where its row can't be written for 2.5 of these; a busy engine may be silent for long.
const SETTLE: Duration = Duration::from_secs(8);
const LOOK: Duration = Duration::from_millis(250);

/// Tables without streams, as they are before anyone thinks of replicating them.
async fn before_streams(regions: usize) -> World {
    let mut world = World::bare(regions).await;
    world.tuning.settle = SETTLE;
    world.conflicts = Conflicts::Table;
    for region in world.regions() {
        world.make_control_table(region).await;
        world.make_table(region, PLAIN, None).await;
    }
    world
}

/// Turns the streams on, and starts the agents.
async fn go_live(world: &mut World) {
    let (code, plan) = run_json(world.tradewind(DUBLIN, &["init"])).await;
    assert_eq!(code, 0, "{plan:#}");
    world.start_agents().await;
}

async fn bootstrap(world: &World, arguments: &[&str]) -> (i32, Value) {
    run_json_within(LONG, world.tradewind(DUBLIN, &[&["bootstrap"], arguments].concat())).await
}

async fn repair(world: &World, arguments: &[&str]) -> (i32, Value) {
    run_json_within(LONG, world.tradewind(DUBLIN, &[&["repair"], arguments].concat())).await
}

/// Waits until Tokyo has more items than this.
async fn copied(world: &World, items: usize) {
    let there = || async { world.all_items(TOKYO).await.len() };
    eventually_within(LONG, LOOK, "copies", there, |there| *there > items).await;
}

async fn agrees(world: &World) {
    let (code, result) = run_json_within(LONG, world.tradewind(DUBLIN, &["verify"])).await;
    assert_eq!((code, &result["tables"][0]["items_differing"]), (0, &json!(0)), "{result:#}");
}

/// The holds that a region's control table tells of: the last one, and those that are over.
async fn holds(world: &World, region: usize) -> (u64, u64) {
    let rows = world.control_rows(region, "lease/").await;
    let number = |name: &str| {
        let found = rows.iter().filter_map(|row| row.get(name)?.as_n().ok()?.parse().ok());
        found.max().unwrap_or_default()
    };
    (number("holdNumber"), number("holdsOver"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_there_before_the_streams_is_brought_to_all_regions() {
    let mut world = before_streams(3).await;
    for i in 0..120 {
        world.put(DUBLIN, row(&format!("key {i}"), "dublin")).await;
    }
    for i in 100..110 {
        world.put(TOKYO, row(&format!("key {i}"), "dublin")).await;
    }
    for i in 110..120 {
        world.put(TOKYO, row(&format!("key {i}"), "tokyo")).await;
    }
    for i in 120..130 {
        world.put(OREGON, row(&format!("key {i}"), "oregon")).await;
    }
    go_live(&mut world).await;
    world.quiet().await;

    let (code, result) = bootstrap(&world, &["--dry-run"]).await;
    let told = json!({ "dublin": 10, "tokyo": 120, "oregon": 120 });
    assert_eq!((code, &result[0]["seeded"], &result[0]["clashes"]), (0, &told, &json!(10)), "{result:#}");
    assert_eq!(world.all_items(OREGON).await.len(), 10);
    assert_eq!(holds(&world, DUBLIN).await, (0, 0));

    let (code, result) = bootstrap(&world, &["--limit", "1000"]).await;
    assert_eq!((code, &result[0]["seeded"], &result[0]["clashes"]), (0, &told, &json!(10)), "{result:#}");
    assert_eq!(result[0]["settled"].as_array().unwrap().len(), 250);
    let contents = world.converged().await;
    assert_eq!(contents.len(), 130);
    // Of two items without a version, the first region's wins; the other is recorded.
    assert_eq!(world.get(TOKYO, &key("key 115")).await, Some(row("key 115", "dublin")));
    let (_, conflicts) = run_json_within(LONG, world.tradewind(DUBLIN, &["conflicts", "list"])).await;
    assert_eq!(conflicts.as_array().unwrap().len(), 10, "{conflicts:#}");
    for region in world.regions() {
        assert_eq!(holds(&world, region).await, (1, 2));
        assert_eq!(world.control_rows(region, "seeding/").await, [] as [Item; 0]);
    }
    world.still_quiet().await;
    agrees(&world).await;

    // What applications do with copies is replicated as with any other item.
    world.delete(OREGON, key("key 1")).await;
    world.update(TOKYO, key("key 2"), "v", s("new")).await;
    world.put(OREGON, row("key 3", "new")).await;
    let contents = world.converged().await;
    assert_eq!(contents.len(), 129);
    assert_eq!(world.get(DUBLIN, &key("key 2")).await, Some(row("key 2", "new")));

    // Nothing is left to do.
    let (code, result) = bootstrap(&world, &[]).await;
    assert_eq!((code, &result[0]["seeded"]), (0, &json!({})), "{result:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preferred_region_wins_and_only_the_named_ones_are_written() {
    let mut world = before_streams(3).await;
    for region in world.regions() {
        world.put(region, row("all", world.name(region))).await;
    }
    world.put(OREGON, row("one", "oregon")).await;
    go_live(&mut world).await;
    world.quiet().await;
    let (code, result) = bootstrap(&world, &["--prefer", "oregon", "--to", "tokyo"]).await;
    assert_eq!((code, &result[0]["seeded"]), (0, &json!({ "tokyo": 2 })), "{result:#}");
    assert_eq!(world.get(TOKYO, &key("all")).await, Some(row("all", "oregon")));
    assert_eq!(world.get(DUBLIN, &key("all")).await, Some(row("all", "dublin")));
    assert_eq!(world.get(DUBLIN, &key("one")).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applications_write_meanwhile_and_always_win() {
    let mut world = before_streams(3).await;
    for i in 0..200 {
        world.put(DUBLIN, row(&format!("key {i}"), "before")).await;
        if i % 3 == 0 {
            world.put(OREGON, row(&format!("key {i}"), "also before")).await;
        }
    }
    go_live(&mut world).await;
    // The load's keys are the first forty of them.
    let load = Load::paced(&world, seed(), Mix::Everything, 40, u64::MAX, Duration::from_millis(100));
    let bootstrapping =
        tokio::spawn(run_json_within(LONG, world.tradewind(DUBLIN, &["bootstrap", "--write-units", "100"])));
    copied(&world, 60).await;
    for i in 100..110 {
        world.delete(DUBLIN, key(&format!("key {i}"))).await;
        world.delete(OREGON, key(&format!("key {}", i + 50))).await;
        world.put(TOKYO, row(&format!("key {}", i + 20), "after")).await;
    }
    let (code, result) = bootstrapping.await.expect("an end");
    assert_eq!(code, 0, "{result:#}");
    load.finish().await;
    world.converged().await;
    for i in 100..110 {
        assert_eq!(world.get(TOKYO, &key(&format!("key {i}"))).await, None, "{i} came back");
        let after = format!("key {}", i + 20);
        assert_eq!(world.get(DUBLIN, &key(&after)).await, Some(row(&after, "after")));
    }
    agrees(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_bootstrap_goes_on_where_it_was() {
    let mut world = before_streams(2).await;
    for i in 0..400 {
        world.put(DUBLIN, row(&format!("key {i}"), "before")).await;
    }
    go_live(&mut world).await;
    let load = Load::paced(&world, seed(), Mix::Everything, 20, u64::MAX, Duration::from_millis(100));
    // So slow that a position is saved on the way.
    let slow = ["bootstrap", "--segments", "1", "--read-units", "50", "--write-units", "10"];
    let process = Process::start(world.tradewind(TOKYO, &slow));
    let saved = || async {
        let rows = world.control_rows(DUBLIN, "seeding/").await;
        rows.iter().filter(|row| row.contains_key("after")).count()
    };
    eventually_within(LONG, LOOK, "a position", saved, |rows| *rows > 0).await;
    process.kill().await;
    load.finish().await;
    let before = world.all_items(TOKYO).await.len();
    assert!(before < 400, "it was killed too late: {before}");

    let (code, result) = bootstrap(&world, &["--segments", "7"]).await;
    assert_eq!((code, &result[0]["complete"]), (0, &json!(true)), "{result:#}");
    // Both replicas are read once, but for what had been seen to.
    let read = result[0]["items_read"].as_u64().unwrap();
    assert!(read < 800, "{result:#}");
    world.converged().await;
    agrees(&world).await;
    // The one that was killed has lost its hold to this one.
    assert_eq!(holds(&world, TOKYO).await, (2, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_bootstrap_ends_well() {
    let mut world = before_streams(2).await;
    for i in 0..300 {
        world.put(DUBLIN, row(&format!("key {i}"), "before")).await;
    }
    go_live(&mut world).await;
    let slow = ["bootstrap", "--write-units", "20", "--json"];
    let process = Process::start(world.tradewind(TOKYO, &slow));
    copied(&world, 10).await;
    process.signal("INT").await;
    let (code, printed) = process.end().await;
    let result: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!((code, &result[0]["complete"]), (1, &json!(false)), "{result:#}");
    assert_eq!(holds(&world, TOKYO).await, (1, 2));
    let (code, result) = bootstrap(&world, &[]).await;
    assert_eq!((code, &result[0]["complete"]), (0, &json!(true)), "{result:#}");
    assert_eq!(world.converged().await.len(), 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_at_once_and_regions_without_agents_are_refused() {
    let mut world = before_streams(2).await;
    for i in 0..200 {
        world.put(DUBLIN, row(&format!("key {i}"), "before")).await;
    }
    go_live(&mut world).await;
    let _first = Process::start(world.tradewind(TOKYO, &["bootstrap", "--write-units", "20"]));
    copied(&world, 10).await;
    let (code, result) = bootstrap(&world, &[]).await;
    let error = result["error"].as_str().unwrap();
    assert!(code == 69 && error.contains("another bootstrap or repair"), "{result:#}");
    world.stop_agent(TOKYO).await;
    let (code, result) = repair(&world, &[]).await;
    let error = result["error"].as_str().unwrap();
    assert!(code == 69 && error.contains("tradewind run --region tokyo"), "{result:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_settles_by_versions_and_says_so_first() {
    let world = World::running(3).await;
    for i in 0..30 {
        world.put(i % 3, row(&format!("key {i}"), "same")).await;
    }
    world.converged().await;
    for i in 0..40 {
        world.put(TOKYO, stamped(TOKYO, row(&format!("lost {i}"), "one"), 1000)).await;
    }
    for (region, value, millis) in [(DUBLIN, "old", 1000), (TOKYO, "new", 3000), (OREGON, "older", 500)] {
        world.put(region, stamped(region, row("differs", value), millis)).await;
    }
    world.quiet().await;
    let (code, result) = repair(&world, &["--dry-run"]).await;
    let told = json!({ "dublin": 41, "oregon": 41 });
    assert_eq!((code, &result[0]["seeded"]), (1, &told), "{result:#}");
    let (code, result) = repair(&world, &["--dry-run", "--leave-missing"]).await;
    assert_eq!((code, &result[0]["seeded"]), (1, &json!({ "dublin": 1, "oregon": 1 })), "{result:#}");
    assert_eq!(world.get(DUBLIN, &key("lost 0")).await, None);

    let load = Load::paced(&world, seed(), Mix::Everything, 20, u64::MAX, Duration::from_millis(100));
    let process = Process::start(world.tradewind(TOKYO, &["repair", "--write-units", "5"]));
    let lost = || async {
        let items = world.all_items(OREGON).await;
        items.iter().filter(|item| item["pk"].as_s().expect("text").starts_with("lost")).count()
    };
    eventually_within(LONG, LOOK, "copies", lost, |lost| *lost > 5).await;
    process.kill().await;
    load.finish().await;
    assert!(lost().await < 40, "it was killed too late");
    let (code, result) = repair(&world, &[]).await;
    assert_eq!(code, 0, "{result:#}");
    world.converged().await;
    for region in world.regions() {
        assert_eq!(world.get(region, &key("differs")).await, Some(row("differs", "new")));
        for i in 0..40 {
            let name = format!("lost {i}");
            let found = world.get(region, &key(&name)).await.map(without_stamp);
            assert_eq!(found, Some(row(&name, "one")));
        }
    }
    agrees(&world).await;
    let (code, result) = repair(&world, &["--dry-run"]).await;
    assert_eq!((code, &result[0]["seeded"]), (0, &json!({})), "{result:#}");
}
