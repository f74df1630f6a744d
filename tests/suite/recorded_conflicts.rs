//! `conflicts = "table"` and `tradewind conflicts`: a write that lost is kept, told, and restored.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;
use tradewind::config::Conflicts;
use tradewind::item_json::item_json;
use tradewind::protocol::Item;
use tradewind::source::Position;

use crate::items::{item, key, n, row, s};
use crate::observe::{agent, get, start};
use crate::process::{Process, run, run_json};
use crate::world::{PLAIN, World, eventually};
use tradewind_proxy::Fate;

const DUBLIN: usize = 0;
const TOKYO: usize = 1;
const OREGON: usize = 2;

/// Regions that record conflicts, in the tables that `init` makes; no agent runs yet.
async fn recording() -> World {
    let mut world = World::prepared(3, PLAIN).await;
    world.conflicts = Conflicts::Table;
    let (code, plan) = run_json(world.tradewind(DUBLIN, &["init"])).await;
    assert_eq!(code, 0, "{plan:#}");
    for region in world.regions() {
        let ttl = world.app(region).describe_time_to_live().table_name(world.conflict_table()).send().await;
        let ttl = ttl.expect("a conflict table").time_to_live_description.expect("a description");
        assert_eq!(ttl.attribute_name.as_deref(), Some("expires"));
    }
    let (_, again) = run_json(world.tradewind(DUBLIN, &["init"])).await;
    assert_eq!(again["steps"], Value::Array(Vec::new()));
    world
}

/// Has a write in Dublin lose to one in Tokyo that knew nothing of it.
async fn conflict(world: &World, earlier: Item, later: Item) {
    world.cut_off(TOKYO);
    let key = world.key_of(&earlier);
    world.put(DUBLIN, earlier.clone()).await;
    world.await_item(OREGON, &key, &earlier).await;
    world.put(TOKYO, later).await;
    world.rejoin(TOKYO);
}

async fn conflicts(world: &World, arguments: &[&str]) -> (i32, Value) {
    run_json(world.tradewind(DUBLIN, &[&["conflicts"], arguments].concat())).await
}

async fn list(world: &World) -> Vec<Value> {
    let (code, listed) = conflicts(world, &["list"]).await;
    assert_eq!(code, 0, "{listed:#}");
    listed.as_array().expect("a list").clone()
}

/// How far Dublin's stream is done for a destination, durably.
async fn done(world: &World, destination: &str) -> Option<Position> {
    let leases = world.control_rows(DUBLIN, "lease/").await;
    let checkpoint = leases.iter().find_map(|lease| lease.get(&format!("to {destination}"))?.as_m().ok())?;
    Some(checkpoint["done"].as_s().ok()?.as_str().into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_lost_is_listed_shown_and_restored() {
    let mut world = recording().await;
    world.start_agents().await;
    conflict(&world, row("a", "earlier"), row("a", "later")).await;
    world.converged().await;
    let listed = list(&world).await;
    let [lost] = &listed[..] else { panic!("{listed:#?}") };
    for (name, expected) in [("table", &*world.table), ("region", "dublin"), ("winner", "tokyo")] {
        assert_eq!(lost[name], expected, "{lost:#}");
    }
    assert_eq!(lost["key"], item_json(&key("a")));
    assert!(lost["lost"].as_str() < lost["won"].as_str(), "{lost:#}");
    let id = lost["id"].as_str().unwrap();
    let (_, shown) = conflicts(&world, &["show", id]).await;
    assert_eq!(shown["loser_image"], item_json(&row("a", "earlier")), "{shown:#}");
    assert_eq!(shown["winner_image"], item_json(&row("a", "later")), "{shown:#}");
    let (code, text, _) = run(world.tradewind(TOKYO, &["conflicts", "show", id])).await;
    assert!(code == 0 && text.contains("earlier") && text.contains("later"), "{text}");

    // It says what stands there, and writes nothing.
    let (code, dry) = conflicts(&world, &["restore", id, "--region", "oregon", "--dry-run"]).await;
    assert_eq!((code, &dry["stood"]), (0, &item_json(&row("a", "later"))), "{dry:#}");
    assert_eq!(world.get(OREGON, &key("a")).await, Some(row("a", "later")));

    let (code, restored) = conflicts(&world, &["restore", id, "--region", "oregon"]).await;
    assert_eq!((code, &restored["stood"]), (0, &item_json(&row("a", "later"))), "{restored:#}");
    for region in world.regions() {
        world.await_item(region, &key("a"), &row("a", "earlier")).await;
    }
    world.converged().await;
    // It was made on top of the winner: no conflict.
    assert_eq!(list(&world).await.len(), 1);

    for arguments in
        [&["show", "none"][..], &["restore", id, "--region", "atlantis"], &["list", "--table", "none"]]
    {
        let (code, _, log) = run(world.tradewind(DUBLIN, &[&["conflicts"], arguments].concat())).await;
        assert_eq!(code, 64, "{arguments:?}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_what_lost_and_what_won() {
    let world = recording().await;
    let token = |command: &mut Command| _ = command.env("TRADEWIND_TOKEN", "s3cret");
    let (dublin, address) = start(agent(&world, DUBLIN, "127.0.0.1:0", token)).await;
    let others: Vec<_> = [TOKYO, OREGON].map(|region| agent(&world, region, "off", |_| {})).into();
    let _others: Vec<_> = others.into_iter().map(Process::start).collect();
    conflict(&world, row("a", "earlier"), row("a", "later")).await;
    let look = || async {
        let (_, page) = get(&address, "/api/items", &[("Authorization", "Bearer s3cret")]).await?;
        serde_json::from_str::<Value>(&page).ok()?["conflicts"].get(0).cloned()
    };
    let shown = eventually("a conflict on the page", look, Option::is_some).await.expect("a conflict");
    let image = |name: &str| &shown[name];
    assert_eq!(image("lost_image"), &item_json(&row("a", "earlier")), "{shown:#}");
    assert_eq!(image("won_image"), &item_json(&row("a", "later")), "{shown:#}");
    dublin.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_made_on_top_is_no_conflict() {
    let mut world = recording().await;
    world.start_agents().await;
    world.put(DUBLIN, row("a", "0")).await;
    for i in 1..8 {
        for region in world.regions() {
            world.await_item(region, &key("a"), &row("a", &(i - 1).to_string())).await;
        }
        let region = i % 3;
        if i % 2 == 0 {
            world.put(region, row("a", &i.to_string())).await;
        } else {
            world.update(region, key("a"), "v", s(&i.to_string())).await;
        }
    }
    world.converged().await;
    world.delete(OREGON, key("a")).await;
    world.converged().await;
    assert_eq!(list(&world).await, [] as [Value; 0]);
    assert_eq!(world.total().conflicts, 0);
    let (code, text, _) = run(world.tradewind(DUBLIN, &["conflicts", "list"])).await;
    assert_eq!((code, text.trim()), (0, "no recorded conflicts"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_images_are_kept_whole() {
    let mut world = recording().await;
    world.start_agents().await;
    let large = |letter: &str| item([("pk", s("a")), ("text", s(&letter.repeat(390_000))), ("n", n(1))]);
    conflict(&world, large("x"), large("y")).await;
    world.converged().await;
    let listed = list(&world).await;
    let (_, shown) = conflicts(&world, &["show", listed[0]["id"].as_str().unwrap()]).await;
    assert!(shown["loser_image"] == item_json(&large("x")));
    assert!(shown["winner_image"] == item_json(&large("y")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflict_that_is_found_again_after_a_crash_is_recorded_once_and_not_lost() {
    let mut world = recording().await;
    let (refuses, tried) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU32::new(0)));
    let (switch, count) = (Arc::clone(&refuses), Arc::clone(&tried));
    let tamper = move |operation: &str, body: &str| {
        let records = operation == "PutItem" && body.contains("\"TableName\":\"conflicts-");
        if records && switch.load(Ordering::Relaxed) {
            count.fetch_add(1, Ordering::Relaxed);
            return Fate::Fail("InternalServerError");
        }
        Fate::Pass
    };
    world.tamper(DUBLIN, DUBLIN, tamper).await;
    world.start_agents().await;
    conflict(&world, row("a", "earlier"), row("a", "later")).await;
    let so_far = || async { tried.load(Ordering::Relaxed) };
    eventually("a try to record it", so_far, |tries| *tries > 0).await;
    // What comes after it is done meanwhile: the stream goes on.
    world.put(TOKYO, row("b", "one")).await;
    world.await_item(DUBLIN, &key("b"), &row("b", "one")).await;
    // Only what hangs on the conflict stays before the checkpoint.
    let done = || async { (done(&world, "tokyo").await, done(&world, "dublin").await) };
    eventually("a checkpoint of tokyo's beyond dublin's", done, |(tokyo, own)| tokyo > own).await;
    world.crash_agent(DUBLIN);
    refuses.store(false, Ordering::Relaxed);
    assert_eq!(list(&world).await.len(), 0);
    for _ in 0..2 {
        world.start_agent(DUBLIN).await;
        world.converged().await;
        assert_eq!(list(&world).await.len(), 1);
        assert_eq!(world.tally(DUBLIN).conflicts_unrecorded, 0);
        world.crash_agent(DUBLIN);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_conflict_table_the_stream_goes_on_and_the_loss_is_counted() {
    let mut world = World::prepared(3, PLAIN).await;
    world.conflicts = Conflicts::Table;
    world.tuning.drain_timeout = Duration::from_secs(1);
    world.start_agents().await;
    conflict(&world, row("a", "earlier"), row("a", "later")).await;
    let unrecorded = || async { world.tally(DUBLIN).conflicts_unrecorded };
    eventually("a conflict that is not recorded", unrecorded, |unrecorded| *unrecorded == 1).await;
    world.converged().await;
    assert_eq!((world.tally(DUBLIN).conflicts, list(&world).await.len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflicts_are_told_in_the_log_where_that_is_asked_for() {
    let mut world = World::prepared(2, PLAIN).await;
    world.conflicts = Conflicts::Log;
    world.put(DUBLIN, row("a", "earlier")).await;
    world.put(TOKYO, row("a", "later")).await;
    let mut dublin = world.start_process(DUBLIN);
    let _tokyo = world.start_process(TOKYO);
    let line = dublin.says("conflict: the last writer won").await;
    assert!(line.contains("dublin") && line.contains("tokyo"), "{line}");
}
