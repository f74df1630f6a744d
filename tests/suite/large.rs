//! Items about as large as an item can be, and many of them.

use std::time::Duration;

use tradewind::control::SK;
use tradewind::item_json::item_json;
use tradewind::protocol::Item;

use crate::items::{item, key, row, s};
use crate::world::{World, eventually, eventually_within};

/// What an item may hold, in bytes: 400 KB, with the names of its attributes.
const LIMIT: usize = 400 * 1024;
/// More than a stamp takes, its name included.
const STAMP_ROOM: usize = 160;

fn item_of(id: &str, bytes: usize) -> Item {
    let names = "pk".len() + id.len() + "text".len();
    item([("pk", s(id)), ("text", s(&"x".repeat(bytes - names)))])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_with_just_enough_room_for_its_stamp_is_replicated() {
    let world = World::running(3).await;
    let large = item_of("a", LIMIT - STAMP_ROOM);
    world.put(0, large.clone()).await;
    for peer in [1, 2] {
        world.await_item(peer, &key("a"), &large).await;
    }
    world.converged().await;
    assert_eq!(world.total().dead_letters, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_that_its_stamp_makes_too_large_becomes_a_dead_letter() {
    let world = World::running(3).await;
    let before = row("a", "small");
    world.put(0, before.clone()).await;
    world.converged().await;
    let large = item_of("a", LIMIT);
    world.put(0, large.clone()).await;
    world.put(0, row("b", "after it")).await;
    // The stream goes on.
    for peer in [1, 2] {
        world.await_item(peer, &key("b"), &row("b", "after it")).await;
    }
    let letters = || async { world.tally(0).dead_letters };
    eventually("two dead letters", letters, |letters| *letters == 2).await;
    world.quiet().await;
    assert_eq!(world.get(1, &key("a")).await, Some(before.clone()));

    // Each with its reason and its images, for whoever is to put it right.
    let rows = world.control_rows(0, "dead-letter/").await;
    let mut peers: Vec<_> = rows.iter().filter_map(|row| row.get("peer")?.as_s().ok()).collect();
    peers.sort();
    assert_eq!(peers, ["oregon", "tokyo"], "{:?}", world.name(0));
    for letter in rows.iter().filter(|row| row.contains_key("peer")) {
        let text = |name: &str| letter[name].as_s().unwrap().as_str();
        assert_eq!((text("operation"), text("key")), ("put", item_json(&key("a")).to_string().as_str()));
        assert!(text("reason").to_lowercase().contains("size"), "{}", text("reason"));
        assert_eq!(image(&rows, letter, "new"), item_json(&large).to_string());
        assert_eq!(image(&rows, letter, "old"), item_json(&before).to_string());
        assert!(letter.contains_key("expires"));
    }

    // A smaller one gets through again.
    world.put(0, row("a", "small again")).await;
    for peer in [1, 2] {
        world.await_item(peer, &key("a"), &row("a", "small again")).await;
    }
    world.converged().await;
}

/// An image of a dead letter, from the rows that hold its parts.
fn image(rows: &[Item], letter: &Item, side: &str) -> String {
    let chunks: usize = letter[&format!("{side}_chunks")].as_n().unwrap().parse().unwrap();
    let mut image = Vec::new();
    for i in 0..chunks {
        let name = format!("{}/{side}/{i}", letter[SK].as_s().unwrap());
        let part = rows.iter().find(|row| row[SK].as_s().is_ok_and(|sk| *sk == name)).expect("a part");
        image.extend_from_slice(part["image"].as_b().unwrap().as_ref());
    }
    String::from_utf8(image).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_items_are_drained() {
    const ITEMS: usize = 2_000;
    let mut world = World::prepared(2, crate::world::PLAIN).await;
    world.put_all(0, (0..ITEMS).map(|i| row(&format!("key {i}"), "one of many"))).await;
    world.tuning.concurrency = 64;
    world.start_agents().await;
    // A slow engine takes minutes.
    let (long, look) = (Duration::from_mins(5), Duration::from_millis(100));
    // A call whose answer came too late is made again, and turned down.
    let answered = || async { world.tally(0).replicated + world.tally(0).superseded };
    eventually_within(long, look, "all items", answered, |n| *n == ITEMS as u64).await;
    assert_eq!(world.converged().await.len(), ITEMS);
    let total = world.total();
    // Each was written once here, and once there.
    assert_eq!(
        (total.records, total.agent_writes() + total.superseded),
        (2 * ITEMS as u64, ITEMS as u64),
        "{total:?}"
    );
}
