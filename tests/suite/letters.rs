//! `tradewind dead-letters`: what a peer could not take is listed, and replayed where it is still
//! the newest; an old letter overwrites nothing, and brings nothing back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::Value;
use tradewind::item_json::item_json;

use crate::items::{exact, item, key, row, s};
use crate::process::{Process, run, run_json};
use crate::world::{PLAIN, World, eventually};
use tradewind_proxy::Fate;

const DUBLIN: usize = 0;
const TOKYO: usize = 1;
const OREGON: usize = 2;

/// Regions of which Tokyo refuses Dublin's writes while the switch says so.
async fn refusing(regions: usize) -> (World, Arc<AtomicBool>) {
    let mut world = World::prepared(regions, PLAIN).await;
    let refuses = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&refuses);
    let tamper = move |operation: &str, body: &str| {
        let writes = matches!(operation, "PutItem" | "UpdateItem" | "DeleteItem");
        let refuse = writes && body.contains("\"TableName\":\"orders-") && switch.load(Ordering::Relaxed);
        match refuse && !body.contains("\"passes\"") {
            true if body.contains("attribute_exists(#tw) AND attribute_not_exists(#tw)") => {
                // A replay's probe is refused with a reason of its own.
                Fate::Fail("ItemCollectionSizeLimitExceededException")
            }
            true => Fate::Fail("ValidationException"),
            false => Fate::Pass,
        }
    };
    world.tamper(DUBLIN, TOKYO, tamper).await;
    world.start_agents().await;
    world.put(DUBLIN, row("a", "one")).await;
    world.converged().await;
    (world, refuses)
}

/// The same, with a second put of the item that Tokyo has refused.
async fn refused(regions: usize) -> (World, Arc<AtomicBool>) {
    let (world, refuses) = refusing(regions).await;
    refuses.store(true, Ordering::Relaxed);
    world.put(DUBLIN, row("a", "two")).await;
    one_letter(&world).await;
    (world, refuses)
}

/// What Tokyo takes shows that an item is the cause where it refuses one.
async fn others_pass(world: &World) {
    world.put(DUBLIN, row("passes", "one")).await;
    world.delete(DUBLIN, key("passes")).await;
}

async fn one_letter(world: &World) {
    let letters = || async {
        others_pass(world).await;
        world.tally(DUBLIN).dead_letters
    };
    eventually("a dead letter", letters, |letters| *letters == 1).await;
    world.quiet().await;
}

async fn letters(world: &World, arguments: &[&str]) -> (i32, Value) {
    run_json(world.tradewind(DUBLIN, &[&["dead-letters"], arguments].concat())).await
}

async fn list(world: &World) -> Vec<Value> {
    let (code, listed) = letters(world, &["list"]).await;
    assert_eq!(code, 0, "{listed:#}");
    listed.as_array().expect("a list").clone()
}

/// Replays all letters, of which there is one: the exit code, and what came of it.
async fn replay(world: &World) -> (i32, String) {
    let (code, replayed) = letters(world, &["replay", "--all"]).await;
    let fate = replayed[0]["fate"].as_str().unwrap_or_else(|| panic!("{replayed:#}")).to_owned();
    assert_eq!(replayed.as_array().map(Vec::len), Some(1), "{replayed:#}");
    (code, fate)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_is_listed_shown_and_dropped() {
    let (world, _) = refused(2).await;
    let listed = list(&world).await;
    let [letter] = &listed[..] else { panic!("{listed:#?}") };
    for (name, expected) in
        [("table", &*world.table), ("origin", "dublin"), ("peer", "tokyo"), ("operation", "put")]
    {
        assert_eq!(letter[name], expected, "{letter:#}");
    }
    assert_eq!(letter["key"], item_json(&key("a")));
    assert!(letter["reason"].as_str().unwrap().contains("ValidationException"), "{letter:#}");
    let id = letter["id"].as_str().unwrap();

    let (_, elsewhere) = letters(&world, &["list", "--region", "tokyo"]).await;
    assert_eq!(elsewhere.as_array().map(Vec::len), Some(0), "{elsewhere:#}");
    let (_, shown) = letters(&world, &["show", id]).await;
    assert_eq!((&shown["id"], &shown["new"]), (&letter["id"], &item_json(&row("a", "two"))), "{shown:#}");
    assert_eq!(shown["old"]["v"]["S"], "one", "{shown:#}");
    let (code, text, _) = run(world.tradewind(DUBLIN, &["dead-letters", "show", id])).await;
    assert!(code == 0 && text.contains("tokyo") && text.contains("two"), "{text}");

    let (code, _) = letters(&world, &["drop", id]).await;
    assert_eq!((code, list(&world).await.len()), (0, 0));
    assert_eq!(world.control_rows(DUBLIN, "dead-letter/").await, []);
    for arguments in
        [&["drop", id][..], &["show", "none"], &["replay", "none"], &["replay"], &["list", "--region", "x"]]
    {
        let (code, _, log) = run(world.tradewind(DUBLIN, &[&["dead-letters"], arguments].concat())).await;
        assert_eq!(code, 64, "{arguments:?}: {log}");
    }
    assert_eq!(letters(&world, &["replay", "--all"]).await, (0, Value::Array(Vec::new())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_is_replayed_once_its_peer_takes_it() {
    let (mut world, refuses) = refused(3).await;
    let before = list(&world).await;
    assert_eq!(replay(&world).await, (1, "refused".to_owned()));
    let reason = list(&world).await[0]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("ItemCollectionSizeLimitExceeded"), "the new reason is kept: {reason}");
    assert_eq!(list(&world).await.len(), 1);

    refuses.store(false, Ordering::Relaxed);
    let id = before[0]["id"].as_str().unwrap();
    let (code, replayed) = letters(&world, &["replay", id]).await;
    assert_eq!((code, &replayed[0]["fate"]), (0, &"replayed".into()), "{replayed:#}");
    // It is a write like any other: it outlives a crash.
    world.crash_agent(DUBLIN);
    world.start_agent(DUBLIN).await;
    world.await_item(TOKYO, &key("a"), &row("a", "two")).await;
    let contents = world.converged().await;
    assert_eq!((contents.len(), list(&world).await.len()), (1, 0));
    let stored = world.stored(DUBLIN, &key("a")).await.unwrap();
    assert!(!item_json(&stored).to_string().contains("tw- "), "{stored:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_overwrites_nothing_that_was_written_since() {
    let (world, refuses) = refused(3).await;
    refuses.store(false, Ordering::Relaxed);
    world.update(TOKYO, key("a"), "v", s("newer")).await;
    assert_eq!(replay(&world).await, (0, "superseded".to_owned()));
    world.await_item(DUBLIN, &key("a"), &row("a", "newer")).await;
    world.await_item(OREGON, &key("a"), &row("a", "newer")).await;
    assert_eq!((world.converged().await.len(), list(&world).await.len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_its_origin_has_overwritten_is_superseded() {
    let (world, refuses) = refused(2).await;
    refuses.store(false, Ordering::Relaxed);
    world.put(DUBLIN, row("a", "three")).await;
    assert_eq!(replay(&world).await, (0, "superseded".to_owned()));
    world.await_item(TOKYO, &key("a"), &row("a", "three")).await;
    world.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_brings_nothing_back_that_was_deleted_since() {
    let (world, refuses) = refused(3).await;
    refuses.store(false, Ordering::Relaxed);
    world.delete(OREGON, key("a")).await;
    // The replay itself waits for the delete to arrive.
    assert_eq!(replay(&world).await, (0, "superseded".to_owned()));
    assert_eq!((world.converged().await.len(), list(&world).await.len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_stays_while_nobody_can_tell_what_was_written_since() {
    let (mut world, refuses) = refused(3).await;
    refuses.store(false, Ordering::Relaxed);
    world.stop_agent(OREGON).await;
    world.delete(OREGON, key("a")).await;
    let (code, replayed) = letters(&world, &["replay", "--all", "--timeout", "5s"]).await;
    assert_eq!((code, &replayed[0]["fate"]), (1, &"undecided".into()), "{replayed:#}");
    assert!(replayed[0]["why"].as_str().unwrap().contains("oregon"), "{replayed:#}");
    world.start_agent(OREGON).await;
    assert_eq!(replay(&world).await, (0, "superseded".to_owned()));
    assert_eq!(world.converged().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_delete_is_replayed() {
    let (world, refuses) = refusing(2).await;
    refuses.store(true, Ordering::Relaxed);
    world.delete(DUBLIN, key("a")).await;
    one_letter(&world).await;
    assert_eq!(list(&world).await[0]["operation"], "delete");
    assert_eq!(world.get(TOKYO, &key("a")).await, Some(row("a", "one")));
    refuses.store(false, Ordering::Relaxed);
    assert_eq!(replay(&world).await, (0, "replayed".to_owned()));
    assert_eq!((world.converged().await.len(), list(&world).await.len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_that_is_still_too_large_is_still_refused() {
    let (world, _) = refusing(2).await;
    let text = "x".repeat(400 * 1024 - "pk".len() - "b".len() - "text".len());
    world.put(DUBLIN, item([("pk", s("b")), ("text", s(&text))])).await;
    one_letter(&world).await;
    let before = world.stored(DUBLIN, &key("b")).await;
    assert_eq!(replay(&world).await, (1, "refused".to_owned()));
    assert_eq!(world.stored(DUBLIN, &key("b")).await, before);
    let letter = &list(&world).await[0];
    assert!(letter["reason"].as_str().unwrap().to_lowercase().contains("size"), "{letter:#}");
    // Both chunks of its image come back.
    let (_, shown) = letters(&world, &["show", letter["id"].as_str().unwrap()]).await;
    assert_eq!(shown["new"]["text"]["S"].as_str().map(str::len), Some(text.len()));

    world.put(DUBLIN, row("b", "small")).await;
    world.await_item(TOKYO, &key("b"), &row("b", "small")).await;
    assert_eq!(replay(&world).await, (0, "superseded".to_owned()));
    assert_eq!(world.converged().await.len(), 2);
}

/// Many letters, of which some have been superseded by writes that are still on their way, while
/// applications write, and the replay is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_that_is_killed_is_run_again_and_all_regions_agree() {
    const KEYS: usize = 30;
    let (world, refuses) = refusing(3).await;
    for i in 0..KEYS {
        world.put(DUBLIN, row(&format!("key {i}"), "one")).await;
    }
    world.converged().await;
    refuses.store(true, Ordering::Relaxed);
    for i in 0..KEYS {
        world.put(DUBLIN, row(&format!("key {i}"), "two")).await;
    }
    // Without a write that is taken, so many refusals would be the table's.
    let rounds = AtomicU64::new(0);
    let parked = || async {
        let round = rounds.fetch_add(1, Ordering::Relaxed).to_string();
        world.put(DUBLIN, row("passes", &round)).await;
        world.tally(DUBLIN).dead_letters
    };
    eventually("dead letters", parked, |letters| *letters == KEYS as u64).await;
    world.quiet().await;
    refuses.store(false, Ordering::Relaxed);
    for i in (0..KEYS).step_by(3) {
        if i % 2 == 0 {
            world.update(OREGON, key(&format!("key {i}")), "v", s("newer")).await;
        } else {
            world.delete(OREGON, key(&format!("key {i}"))).await;
        }
    }
    let replaying = Process::start(world.tradewind(DUBLIN, &["dead-letters", "replay", "--all"]));
    let left = || async {
        world.put(TOKYO, row("meanwhile", "written")).await;
        world.control_rows(DUBLIN, "dead-letter/").await.iter().filter(|row| row.contains_key("peer")).count()
    };
    eventually("the first letters to go", left, |left| *left < KEYS).await;
    replaying.kill().await;
    // One that was on its way when its replay was killed may be found changed.
    let replay = || async { letters(&world, &["replay", "--all"]).await.0 };
    eventually("an end", replay, |code| *code == 0).await;
    assert_eq!(list(&world).await.len(), 0);

    let contents = world.converged().await;
    for i in 0..KEYS {
        let id = format!("key {i}");
        let expected = match (i % 3, i % 2) {
            (0, 0) => Some(row(&id, "newer")),
            (0, _) => None,
            _ => Some(row(&id, "two")),
        };
        assert_eq!(contents.get(&exact(&key(&id))), expected.as_ref().map(exact).as_ref(), "{id}");
    }
    let (code, verdict) = run_json(world.tradewind(DUBLIN, &["verify"])).await;
    assert_eq!(code, 0, "{verdict:#}");
}

/// Which of Dublin's calls to its own region are refused as invalid, and how many were.
async fn refused_at_home(world: &mut World, operation: &'static str, part: &'static str) -> Arc<AtomicU64> {
    let refused = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&refused);
    let tamper = move |name: &str, body: &str| {
        // More often than the agent asks before it takes an item for the fault.
        let refuse = name == operation && body.contains(part) && count.load(Ordering::Relaxed) < 3;
        count.fetch_add(u64::from(refuse), Ordering::Relaxed);
        if refuse { Fate::Fail("ValidationException") } else { Fate::Pass }
    };
    world.tamper(DUBLIN, DUBLIN, tamper).await;
    refused
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_is_refused_is_saved_in_the_end() {
    let (mut world, refuses) = refusing(2).await;
    world.stop_agent(DUBLIN).await;
    let count = refused_at_home(&mut world, "PutItem", "dead-letter/").await;
    world.start_agent(DUBLIN).await;
    refuses.store(true, Ordering::Relaxed);
    world.put(DUBLIN, row("a", "two")).await;
    let tries = || async {
        others_pass(&world).await;
        count.load(Ordering::Relaxed)
    };
    eventually("a refused letter", tries, |tries| *tries >= 1).await;
    // Its record has not been passed: who comes next has it again.
    world.crash_agent(DUBLIN);
    world.start_agent(DUBLIN).await;
    one_letter(&world).await;
    let listed = list(&world).await;
    assert_eq!(listed.len(), 1, "{listed:#?}");
    assert_eq!(count.load(Ordering::Relaxed), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_marked_item_is_deleted_in_the_end() {
    let mut world = World::prepared(2, PLAIN).await;
    let refused = refused_at_home(&mut world, "DeleteItem", "\"TableName\":\"orders-").await;
    world.start_agents().await;
    world.put(TOKYO, row("a", "one")).await;
    world.converged().await;
    world.delete(TOKYO, key("a")).await;
    let stored = || async { world.stored(DUBLIN, &key("a")).await };
    eventually("no mark is left", stored, Option::is_none).await;
    assert_eq!(refused.load(Ordering::Relaxed), 3);
}
