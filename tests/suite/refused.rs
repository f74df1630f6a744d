//! A peer that refuses writes as invalid: one item is put aside, and where it is the table, all wait.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use aws_sdk_dynamodb::types::{ScalarAttributeType, StreamViewType};

use crate::items::{key, row};
use crate::process::{run, run_json};
use crate::world::{Keys, LOOK, PATIENCE, PLAIN, World, eventually, eventually_within, writes};
use tradewind_proxy::Fate;

const DUBLIN: usize = 0;
const TOKYO: usize = 1;
const OREGON: usize = 2;

async fn letters(world: &World) -> usize {
    let rows = world.control_rows(DUBLIN, "dead-letter/").await;
    rows.iter().filter(|row| row.contains_key("peer")).count()
}

/// How often the doctor finds that a peer refuses all.
async fn findings(world: &World) -> usize {
    let (_, told) = run_json(world.tradewind(DUBLIN, &["doctor", "--region", "dublin"])).await;
    let found = told["findings"].as_array().expect("findings").iter();
    found.filter(|finding| finding["name"] == "refused").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_refuses_every_key_is_held_and_told_of_and_gets_all_in_the_end() {
    const KEYS: usize = 60;
    let mut world = World::prepared(3, PLAIN).await;
    let (refuses, tries) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU32::new(0)));
    let tamper = {
        let (refuses, tries) = (Arc::clone(&refuses), Arc::clone(&tries));
        move |operation: &str, body: &str| {
            if !writes(operation, body) || !refuses.load(Ordering::Relaxed) {
                return Fate::Pass;
            }
            tries.fetch_add(1, Ordering::Relaxed);
            Fate::Fail("ValidationException")
        }
    };
    world.tuning.concurrency = 4;
    world.tamper(DUBLIN, TOKYO, tamper).await;
    for region in [TOKYO, OREGON] {
        world.start_agent(region).await;
    }
    let mut process = world.start_process(DUBLIN);
    for i in 0..KEYS {
        world.put(DUBLIN, row(&format!("key {i}"), "one")).await;
    }
    let line = process.says("refuses the writes of many keys in a row").await;
    assert!(
        line.contains("ERROR") && line.contains("tokyo") && line.contains("ValidationException"),
        "{line}"
    );
    let status = || async { run(world.tradewind(OREGON, &["status"])).await.1 };
    let told = |text: &String| text.contains(": tokyo takes no writes, and all wait: ValidationException");
    eventually("the refusals in another region", status, told).await;
    assert_eq!(findings(&world).await, 1);
    // Others get theirs, and it is tried now and then.
    for i in 0..KEYS {
        let id = format!("key {i}");
        world.await_item(OREGON, &key(&id), &row(&id, "one")).await;
    }
    let before = tries.load(Ordering::Relaxed);
    assert!((10..=30).contains(&before), "{before} writes were tried");
    let now = || async { tries.load(Ordering::Relaxed) };
    eventually("another try", now, |now| *now > before).await;
    assert_eq!((letters(&world).await, world.all_items(TOKYO).await.len()), (0, 0));
    refuses.store(false, Ordering::Relaxed);
    process.says("accepts writes again").await;
    for i in 0..KEYS {
        let id = format!("key {i}");
        world.await_item(TOKYO, &key(&id), &row(&id, "one")).await;
    }
    eventually("no more of it", status, |text| !text.contains("takes no writes")).await;
    assert_eq!((letters(&world).await, findings(&world).await), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_while_others_are_taken_is_put_aside() {
    const POISON: usize = 25;
    let mut world = World::prepared(2, PLAIN).await;
    let refused = Arc::new(Mutex::new(BTreeSet::new()));
    let tamper = {
        let refused = Arc::clone(&refused);
        move |operation: &str, body: &str| {
            if !writes(operation, body) || !body.contains("poison") {
                return Fate::Pass;
            }
            refused.lock().unwrap().insert(body.to_owned());
            Fate::Fail("ValidationException")
        }
    };
    world.tamper(DUBLIN, TOKYO, tamper).await;
    world.start_agents().await;
    // One alone is put aside in the end, though nothing else is written.
    world.put(DUBLIN, row("bad", "poison")).await;
    let aside = || async { letters(&world).await };
    eventually_within(2 * PATIENCE, 5 * LOOK, "a letter", aside, |letters| *letters == 1).await;
    // So are many in a row, while good ones follow.
    for i in 0..POISON {
        world.put(DUBLIN, row(&format!("bad {i}"), "poison")).await;
    }
    let rounds = AtomicU32::new(0);
    let aside = || async {
        let id = format!("good {}", rounds.fetch_add(1, Ordering::Relaxed));
        world.put(DUBLIN, row(&id, "one")).await;
        letters(&world).await
    };
    eventually("all letters", aside, |letters| *letters == 1 + POISON).await;
    for i in 0..rounds.load(Ordering::Relaxed) {
        let id = format!("good {i}");
        world.await_item(TOKYO, &key(&id), &row(&id, "one")).await;
    }
    world.quiet().await;
    let tally = world.tally(DUBLIN);
    assert_eq!(tally.dead_letters, 1 + POISON as u64, "{tally:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peers_table_that_is_made_anew_with_other_keys_gets_nothing_until_it_is_right() {
    let mut world = World::prepared(2, PLAIN).await;
    world.start_agent(DUBLIN).await;
    world.put(DUBLIN, row("a", "one")).await;
    world.await_item(TOKYO, &key("a"), &row("a", "one")).await;
    let other: Keys = &[("v", ScalarAttributeType::S)];
    let remake = async |keys| {
        world.app(TOKYO).delete_table().table_name(&world.table).send().await.expect("a deletion");
        world.make_table(TOKYO, keys, Some(StreamViewType::NewAndOldImages)).await;
    };
    // What is written while it is missing shows that it may be another one afterwards.
    world.app(TOKYO).delete_table().table_name(&world.table).send().await.expect("a deletion");
    world.put(DUBLIN, row("b", "one")).await;
    let failed = || async { world.tally(DUBLIN).retries };
    eventually("a write that fails", failed, |retries| *retries > 0).await;
    // A write of ours would pass as one of its items.
    world.make_table(TOKYO, other, Some(StreamViewType::NewAndOldImages)).await;
    world.put(DUBLIN, row("c", "two")).await;
    let refused = || async {
        let standings = world.agent(DUBLIN).figures().standings();
        standings[0].refused.values().next().cloned().unwrap_or_default()
    };
    eventually("that it is told", refused, |reason| reason.contains("other keys")).await;
    assert_eq!((world.all_items(TOKYO).await, letters(&world).await), (Vec::new(), 0));
    remake(PLAIN).await;
    for id in ["b", "c"] {
        let value = if id == "b" { "one" } else { "two" };
        world.await_item(TOKYO, &key(id), &row(id, value)).await;
    }
    eventually("that it is no more", refused, String::is_empty).await;
    // Of one whose keys have another type, a refusal is the first sign.
    remake(&[("pk", ScalarAttributeType::N)]).await;
    world.put(DUBLIN, row("d", "one")).await;
    eventually("that it is told", refused, |reason| reason.contains("other keys")).await;
    remake(PLAIN).await;
    world.await_item(TOKYO, &key("d"), &row("d", "one")).await;
    assert_eq!((letters(&world).await, world.tally(DUBLIN).dead_letters), (0, 0));
}
