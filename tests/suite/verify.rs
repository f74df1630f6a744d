//! `tradewind verify`: 0 where replicas agree, 1 and the keys where they differ.

use serde_json::{Value, json};
use tradewind::item_json::item_json;

use crate::items::{key, row};
use crate::process::{run, run_json};
use crate::world::{PLAIN, World};

const DUBLIN: usize = 0;
const TOKYO: usize = 1;
const OREGON: usize = 2;

async fn verify(world: &World, arguments: &[&str]) -> (i32, Value) {
    let arguments = [&["verify", "--settle", "0s"], arguments].concat();
    run_json(world.tradewind(DUBLIN, &arguments)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_agree_are_told_to() {
    let world = World::running(3).await;
    for i in 0..50 {
        world.put(i % 3, row(&format!("key {i}"), "one")).await;
    }
    world.delete(DUBLIN, key("key 0")).await;
    world.converged().await;
    let (code, result) = verify(&world, &[]).await;
    assert_eq!(code, 0, "{result:#}");
    let table = &result["tables"][0];
    assert_eq!(table["items_compared"], 49);
    assert_eq!((&table["items_differing"], &table["differences"]), (&json!(0), &json!([])));
    let (code, text, _) = run(world.tradewind(TOKYO, &["verify"])).await;
    assert_eq!((code, text.trim()), (0, &*format!("{}: 49 items compared, 0 differing", world.table)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_replicas_agree() {
    let world = World::prepared(2, PLAIN).await;
    let (code, result) = verify(&world, &[]).await;
    assert_eq!((code, &result["tables"][0]["items_compared"]), (0, &json!(0)), "{result:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_differ_are_told_with_keys_and_reasons() {
    let world = World::prepared(3, PLAIN).await;
    for region in world.regions() {
        world.put(region, row("same", "one")).await;
    }
    world.put(DUBLIN, row("different", "one")).await;
    world.put(TOKYO, row("different", "two")).await;
    world.put(OREGON, row("different", "one")).await;
    world.put(DUBLIN, row("missing", "one")).await;
    world.put(OREGON, row("missing", "one")).await;
    let (code, result) = verify(&world, &[]).await;
    assert_eq!(code, 1, "{result:#}");
    let table = &result["tables"][0];
    assert_eq!((&table["items_compared"], &table["items_differing"]), (&json!(3), &json!(2)));
    let [different, missing] = table["differences"].as_array().unwrap().as_slice() else {
        panic!("{result:#}")
    };
    assert_eq!(different["key"], item_json(&key("different")));
    assert_eq!(different["why"], "different in v");
    assert_eq!(missing["key"], item_json(&key("missing")));
    assert_eq!(missing["why"], "missing in tokyo");
    assert_eq!(missing["regions"]["tokyo"]["holds"], "nothing");
    assert_eq!(missing["regions"]["oregon"]["holds"], "item");

    let (code, text, _) = run(world.tradewind(DUBLIN, &["verify", "--settle", "0s"])).await;
    assert_eq!(code, 1, "{text}");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines,
        [
            r#"{"pk":{"S":"different"}}: different in v"#,
            r#"{"pk":{"S":"missing"}}: missing in tokyo"#,
            &format!("{}: 3 items compared, 2 differing", world.table),
        ]
    );

    let (code, result) = verify(&world, &["--limit", "1"]).await;
    let table = &result["tables"][0];
    assert_eq!((code, &table["items_differing"]), (1, &json!(2)), "{result:#}");
    assert_eq!(table["differences"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_that_waits_for_its_delete_is_told_as_such() {
    let mut world = World::running(2).await;
    world.put(DUBLIN, row("a", "one")).await;
    world.converged().await;
    world.stop_agent(TOKYO).await;
    world.delete(DUBLIN, key("a")).await;
    world.quiet().await;
    let (code, result) = verify(&world, &[]).await;
    assert_eq!(code, 1, "{result:#}");
    let why = result["tables"][0]["differences"][0]["why"].as_str().unwrap();
    assert!(why.contains("marked for deletion in tokyo"), "{why}");

    // With time to settle, what is on its way arrives.
    let waiting = world.tradewind(DUBLIN, &["verify", "--settle", "50s"]);
    let waiting = tokio::spawn(run(waiting));
    world.start_agent(TOKYO).await;
    let (code, text, _) = waiting.await.unwrap();
    assert_eq!(code, 0, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_replica_ends_verify_with_69() {
    let world = World::bare(2).await;
    world.make_table(DUBLIN, PLAIN, None).await;
    let (code, text, log) = run(world.tradewind(DUBLIN, &["verify"])).await;
    assert_eq!((code, &*text), (69, ""), "{log}");
    assert!(log.contains("tokyo") && log.contains("--create-tables"), "{log}");
}
