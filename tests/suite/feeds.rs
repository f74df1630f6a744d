//! Feeds: every write of an application is told, by the region where it was made, in order, and by no other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;
use tradewind::config::{FeedConfig, SinkConfig};
use tradewind::control::{Cause, Gap};
use tradewind::feed::FeedName;

use crate::doctor::control;
use crate::items::{key, n, row};
use crate::world::{PATIENCE, World};

/// A feed of the world's table, into one file a region.
fn feed(world: &World, folder: &Path, filters: &[&str]) -> FeedConfig {
    FeedConfig {
        name: "search".parse().expect("a name"),
        table: world.table.clone(),
        regions: world.regions().map(|region| world.name(region).parse().expect("a name")).collect(),
        filters: filters.iter().map(|filter| filter.parse().expect("a filter")).collect(),
        sink: SinkConfig::File { path: folder.join("{region}.jsonl").to_string_lossy().into_owned() },
    }
}

/// What has been told in a region.
fn events(world: &World, folder: &Path, region: usize) -> Vec<Value> {
    let path = folder.join(format!("{}.jsonl", world.name(region)));
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
}

/// Waits until so many different events have been told in a region. Returns each once, as first told.
async fn told(world: &World, folder: &Path, region: usize, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut seen = BTreeSet::new();
        let mut all = events(world, folder, region);
        all.retain(|event| seen.insert(event["eventID"].to_string()));
        if all.len() >= count {
            return all;
        }
        assert!(Instant::now() < deadline, "{} of {count} events were told: {all:?}", all.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn images(event: &Value) -> (&str, &Value, &Value) {
    let name = event["eventName"].as_str().expect("a name");
    (name, &event["dynamodb"]["OldImage"], &event["dynamodb"]["NewImage"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_write_is_told_once_in_the_world_and_shows_no_trace_of_agents() {
    let folder = TempDir::new().expect("a folder");
    let mut world = World::prepared(2, crate::world::PLAIN).await;
    world.feeds = vec![feed(&world, folder.path(), &[])];
    world.start_agents().await;
    world.put(0, row("a", "one")).await;
    world.await_item(1, &key("a"), &row("a", "one")).await;
    world.put(1, row("a", "two")).await;
    world.await_item(0, &key("a"), &row("a", "two")).await;
    world.delete(0, key("a")).await;
    world.await_absent(1, &key("a")).await;
    world.put(1, row("a", "three")).await;
    world.await_item(0, &key("a"), &row("a", "three")).await;
    world.converged().await;
    let image = |value: &str| json!({ "pk": { "S": "a" }, "v": { "S": value } });
    let (one, two, three, none) = (image("one"), image("two"), image("three"), Value::Null);
    let here = told(&world, folder.path(), 0, 2).await;
    assert_eq!(
        here.iter().map(images).collect::<Vec<_>>(),
        [("INSERT", &none, &one), ("REMOVE", &two, &none)]
    );
    let there = told(&world, folder.path(), 1, 2).await;
    assert_eq!(
        there.iter().map(images).collect::<Vec<_>>(),
        [("MODIFY", &one, &two), ("INSERT", &none, &three)]
    );
    let (first, second) = (&here[0], &there[0]);
    assert_eq!(second["tradewind"]["base"], first["tradewind"]["version"]);
    assert_eq!(second["tradewind"]["region"], world.name(1));
    // Nothing is told again, and nothing of what agents write.
    world.stop_agent(0).await;
    world.start_agent(0).await;
    world.converged().await;
    assert_eq!((events(&world, folder.path(), 0).len(), events(&world, folder.path(), 1).len()), (2, 2));
    assert!(!std::fs::read_to_string(folder.path().join("dublin.jsonl")).expect("a file").contains("_tw"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_killed_again_and_again_miss_no_event() {
    const COUNTERS: usize = 5;
    const COUNTS: usize = 40;
    let folder = TempDir::new().expect("a folder");
    let mut world = World::prepared(2, crate::world::PLAIN).await;
    world.feeds = vec![feed(&world, folder.path(), &[])];
    world.start_agents().await;
    for count in 1..=COUNTS {
        for counter in 0..COUNTERS {
            world.update(0, key(&format!("counter {counter}")), "n", n(count)).await;
        }
        if count % 10 == 0 {
            world.crash_agent(0);
            world.start_agent(0).await;
        }
    }
    let all = told(&world, folder.path(), 0, COUNTERS * COUNTS).await;
    let mut counts: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for event in &all {
        let image = &event["dynamodb"]["NewImage"];
        let count = image["n"]["N"].as_str().expect("a number").parse().expect("a count");
        counts.entry(image["pk"]["S"].to_string()).or_default().push(count);
    }
    assert_eq!(counts.len(), COUNTERS);
    for (counter, counts) in counts {
        assert_eq!(counts, (1..=COUNTS).collect::<Vec<_>>(), "{counter}");
    }
    world.converged().await;
    assert_eq!(events(&world, folder.path(), 1), Vec::<Value>::new(), "a replicated write was told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_is_away_holds_up_no_peer_and_gets_everything_afterwards() {
    let folder = TempDir::new().expect("a folder");
    let away = folder.path().join("away");
    let mut world = World::prepared(2, crate::world::PLAIN).await;
    let urgent = r#"{"dynamodb":{"NewImage":{"v":{"S":[{"prefix":"urgent"}]}}}}"#;
    world.feeds = vec![feed(&world, &away, &[urgent])];
    world.start_agents().await;
    for i in 0..50 {
        let value = if i % 2 == 0 { format!("urgent {i}") } else { format!("idle {i}") };
        world.put(0, row(&format!("key {i}"), &value)).await;
    }
    world.await_item(1, &key("key 49"), &row("key 49", "idle 49")).await;
    // An agent that is started again has its checkpoint for the feed where nothing had been told.
    world.crash_agent(0);
    world.start_agent(0).await;
    world.put(0, row("key 50", "urgent 50")).await;
    world.await_item(1, &key("key 50"), &row("key 50", "urgent 50")).await;
    let standing = || world.agent(0).figures().standings().remove(0).feeds.pop_first().expect("a feed").1;
    let deadline = Instant::now() + PATIENCE;
    while standing().counts.retried == 0 || standing().backlog == 0 {
        assert!(Instant::now() < deadline, "{:?}", standing());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    std::fs::create_dir(&away).expect("a folder");
    let all = told(&world, &away, 0, 26).await;
    let values: BTreeSet<_> =
        all.iter().map(|event| event["dynamodb"]["NewImage"]["v"]["S"].to_string()).collect();
    assert_eq!(values.len(), 26);
    while standing().backlog > 0 {
        assert!(Instant::now() < deadline, "{:?}", standing());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(standing().counts.filtered >= 25, "{:?}", standing());
    world.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_feed_has_missed_stays_marked_until_it_is_acknowledged() {
    let world = World::prepared(2, crate::world::PLAIN).await;
    let control = control(&world, 0).await;
    let gaps = async || control.agreement(&world.table).await.expect("an answer").gaps;
    let names = ["search", "audit"].map(|name| name.parse::<FeedName>().expect("a name"));
    let gap = Gap {
        origin: world.name(0).parse().expect("a name"),
        cause: Cause::Trimmed,
        shard: "shard".to_owned(),
        peers: vec![world.name(1).parse().expect("a name")],
        feeds: names.to_vec(),
        from_millis: 1,
        until_millis: 2,
        found_millis: 3,
    };
    control.save_gap(&world.table, &gap).await.expect("a mark");
    assert_eq!(gaps().await, std::slice::from_ref(&gap));
    // The replicas are equal, which says nothing about feeds.
    control.close_gap(&world.table, &gap).await.expect("a mark of the feeds alone");
    let left = Gap { peers: Vec::new(), ..gap };
    assert_eq!(gaps().await, std::slice::from_ref(&left));
    control.acknowledge_gap(&world.table, &left, &names[0]).await.expect("a mark of one feed");
    let left = Gap { feeds: vec![names[1].clone()], ..left };
    assert_eq!(gaps().await, std::slice::from_ref(&left));
    // It has been found again meanwhile.
    let again = Gap { found_millis: 4, ..left.clone() };
    control.save_gap(&world.table, &again).await.expect("a mark");
    control.acknowledge_gap(&world.table, &left, &names[1]).await.expect("a mark that is left");
    assert_eq!(gaps().await, std::slice::from_ref(&again));
    control.acknowledge_gap(&world.table, &again, &names[1]).await.expect("no mark");
    assert_eq!(gaps().await, []);
}
