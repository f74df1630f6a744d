//! Feeds: every write of an application is told, by the region where it was made, in order, and by no other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use aws_sdk_dynamodb::types::StreamViewType;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;
use tradewind::control::{Cause, Gap, ParkedEvent};
use tradewind::feed::FeedName;
use tradewind::protocol::{Hlc, Version};

use crate::doctor::control;
use crate::items::{item, key, n, row, s};
use crate::observe::{agent, get, metric, start};
use crate::process::{run, run_json};
use crate::world::{PATIENCE, World, eventually};

/// A feed of the world's table, into one file a region, with more of what may stand in `[[feed]]`.
fn feed(world: &World, folder: &Path, more: &str) -> String {
    format!(
        "[[feed]]\nname = \"search\"\ntable = \"{}\"\n{more}\n[feed.file]\npath = \"{}/{{region}}.jsonl\"\n",
        world.table,
        folder.display()
    )
}

/// Two regions with agents, and a feed of their table into one file a region.
async fn fed(folder: &Path, more: &str) -> World {
    let mut world = World::prepared(2, crate::world::PLAIN).await;
    world.feeds = feed(&world, folder, more);
    world.start_agents().await;
    world
}

/// A mark: what a region wrote at a moment may be missing in these regions, and in these feeds.
fn gap(world: &World, millis: u64, origin: usize, peers: &[usize], feeds: &[&str]) -> Gap {
    let name = |region: usize| world.name(region).parse().expect("a name");
    Gap {
        origin: name(origin),
        cause: Cause::Trimmed,
        shard: "shard".to_owned(),
        peers: peers.iter().map(|peer| name(*peer)).collect(),
        feeds: feeds.iter().map(|feed| feed.parse().expect("a name")).collect(),
        from_millis: millis,
        until_millis: millis + 1,
        found_millis: millis + 2,
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

/// Counts so many counters up in the first region, whose agent is killed each time after so many counts.
pub(crate) async fn count_up(world: &mut World, counters: usize, counts: usize, between_kills: usize) {
    for count in 1..=counts {
        for counter in 0..counters {
            world.update(0, key(&format!("counter {counter}")), "n", n(count)).await;
        }
        if count % between_kills == 0 {
            world.crash_agent(0);
            world.start_agent(0).await;
        }
    }
}

/// Asserts that these events tell each count of each counter, once and in order.
pub(crate) fn assert_counted<'a>(
    events: impl IntoIterator<Item = &'a Value>,
    counters: usize,
    counts: usize,
) {
    let mut told: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for event in events {
        let image = &event["dynamodb"]["NewImage"];
        let count = text_of(&image["n"]["N"]).parse().expect("a count");
        told.entry(image["pk"]["S"].to_string()).or_default().push(count);
    }
    assert_eq!(told.len(), counters);
    for (counter, told) in told {
        assert_eq!(told, (1..=counts).collect::<Vec<_>>(), "{counter}");
    }
}

/// Waits until a call of the sink that the first region's agent can't make, or that fails, has been made again.
pub(crate) async fn await_retries(world: &World) {
    let see = || async {
        let mut standing = world.agent(0).figures().standings().remove(0);
        standing.feeds.pop_first().expect("a feed").1.counts.retried
    };
    eventually("a retry", see, |retried| *retried > 0).await;
}

pub(crate) fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn images(event: &Value) -> (&str, &Value, &Value) {
    let name = event["eventName"].as_str().expect("a name");
    (name, &event["dynamodb"]["OldImage"], &event["dynamodb"]["NewImage"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_write_is_told_once_in_the_world_and_shows_no_trace_of_agents() {
    let folder = TempDir::new().expect("a folder");
    let mut world = fed(folder.path(), "").await;
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
    let mut world = fed(folder.path(), "").await;
    count_up(&mut world, COUNTERS, COUNTS, 10).await;
    let all = told(&world, folder.path(), 0, COUNTERS * COUNTS).await;
    assert_counted(&all, COUNTERS, COUNTS);
    world.converged().await;
    assert_eq!(events(&world, folder.path(), 1), Vec::<Value>::new(), "a replicated write was told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_is_away_holds_up_no_peer_and_gets_everything_afterwards() {
    let folder = TempDir::new().expect("a folder");
    let away = folder.path().join("away");
    let urgent = r#"filter = ['{"dynamodb":{"NewImage":{"v":{"S":[{"prefix":"urgent"}]}}}}']"#;
    let mut world = fed(&away, urgent).await;
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
    let gap = gap(&world, 1, 0, &[1], &["search", "audit"]);
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

/// Runs `tradewind feed` in the first region: its exit code, and what it prints.
async fn run_feed(world: &World, arguments: &[&str]) -> (i32, Value) {
    run_json(world.tradewind(0, &[&["feed"], arguments].concat())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_event_is_listed_shown_and_offered_again() {
    let folder = TempDir::new().expect("a folder");
    let away = folder.path().join("away");
    let mut world = World::prepared(2, crate::world::PLAIN).await;
    world.feeds = feed(&world, &away, "");
    let control = control(&world, 1).await;
    let event = |key: &str, hlc: u64| ParkedEvent {
        feed: "search".parse().expect("a name"),
        table: world.table.clone(),
        key: crate::items::key(key),
        version: Version { hlc: Hlc::at_millis(hlc), origin: world.name(1).parse().expect("a name") },
        reason: "the function failed".to_owned(),
        rejections: 11,
    };
    let long = format!("{{\"eventID\":\"one\",\"text\":\"{}\"}}", "x".repeat(900_000));
    control.park_event(&event("a", 1_800_000_000_000), &long, 7).await.expect("parked");
    control.park_event(&event("b", 1_800_000_000_001), "{\"eventID\":\"two\"}", 7).await.expect("parked");
    let (code, parked) = run_feed(&world, &["parked", "search"]).await;
    assert_eq!((code, parked.as_array().map(Vec::len)), (0, Some(2)), "{parked:#}");
    assert_eq!((&parked[0]["region"], &parked[0]["rejections"]), (&world.name(1).into(), &11.into()));
    let id = |number: usize| parked[number]["id"].as_str().expect("an id");
    let (code, shown) = run_feed(&world, &["show", "search", id(0)]).await;
    assert_eq!((code, shown.to_string().len()), (0, long.len()));
    // The sink is still away: nothing is lost.
    let (code, ..) = run(world.tradewind(0, &["feed", "replay", "search", "--all"])).await;
    assert_eq!(code, 69);
    std::fs::create_dir(&away).expect("a folder");
    let (code, replayed) = run_feed(&world, &["replay", "search", id(0)]).await;
    assert_eq!((code, &replayed[0]["fate"]), (0, &"taken".into()), "{replayed:#}");
    assert_eq!(events(&world, &away, 1)[0].to_string().len(), long.len());
    let (code, dropped) = run_feed(&world, &["drop", "search", id(1)]).await;
    assert_eq!((code, &dropped["id"]), (0, &parked[1]["id"]), "{dropped:#}");
    assert_eq!(run_feed(&world, &["parked", "search"]).await, (0, json!([])));
    let (code, tested) = run_feed(&world, &["test", "search"]).await;
    assert_eq!((code, tested.as_array().map(Vec::len)), (0, Some(2)), "{tested:#}");
    assert_eq!(events(&world, &away, 0)[0]["dynamodb"]["Keys"], json!({ "pk": { "S": "tradewind-test" } }));
    control.save_gap(&world.table, &gap(&world, 1, 1, &[0], &["search"])).await.expect("a mark");
    control
        .save_gap(&world.table, &gap(&world, 2, 1, &[], &["search"]))
        .await
        .expect("a mark of the feed alone");
    let (code, acknowledged) = run_feed(&world, &["acknowledge", "search"]).await;
    assert_eq!((code, acknowledged["marks"].as_array().map(Vec::len)), (0, Some(2)), "{acknowledged:#}");
    let (code, listed) = run_feed(&world, &["list"]).await;
    assert_eq!((code, &listed[0]["feed"]), (0, &"search".into()), "{listed:#}");
    assert_eq!(run_feed(&world, &["parked", "other"]).await.0, 64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_feed_does_is_measured() {
    let folder = TempDir::new().expect("a folder");
    let mut world = World::prepared(2, crate::world::PLAIN).await;
    world.feeds = feed(&world, folder.path(), "");
    let (process, address) = start(agent(&world, 0, "127.0.0.1:0", |_| {})).await;
    world.put(0, row("a", "1")).await;
    let here = [("region", world.name(0)), ("table", world.table.as_str()), ("feed", "search")];
    let scrape = || async { get(&address, "/metrics", &[]).await.expect("an answer").1 };
    let text = eventually("a call in the metrics", scrape, |text| {
        metric(text, "tradewind_feed_delivered_total", &here) == Some(1.0)
    })
    .await;
    for (name, expected) in [
        ("tradewind_feed_batch_sum", 1.0),
        ("tradewind_feed_batch_count", 1.0),
        ("tradewind_feed_call_seconds_count", 1.0),
        ("tradewind_feed_blocked", 0.0),
    ] {
        assert_eq!(metric(&text, name, &here), Some(expected), "{name}: {text}");
    }
    let told = |overview: Value| overview["regions"][0]["agents"][0]["tables"][0]["feeds"]["search"].clone();
    let (code, status) = run_json(world.tradewind(0, &["status"])).await;
    assert!(code < 2 && told(status.clone())["blocked"] == 0, "{status:#}");
    let (_, overview) = get(&address, "/api/overview", &[]).await.expect("an answer");
    let overview = told(serde_json::from_str(&overview).expect("JSON"));
    assert_eq!(overview["last_call"]["events"], 1, "{overview:#}");
    assert!(overview["last_call"]["ms"].as_f64() > Some(0.0), "{overview:#}");
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_parked_events_and_what_is_in_them_only_with_a_token() {
    let folder = TempDir::new().expect("a folder");
    let mut world = World::prepared(2, crate::world::PLAIN).await;
    world.feeds = feed(&world, folder.path(), "");
    let event = ParkedEvent {
        feed: "search".parse().expect("a name"),
        table: world.table.clone(),
        key: crate::items::key("secret key"),
        version: Version {
            hlc: Hlc::at_millis(1_800_000_000_000),
            origin: world.name(0).parse().expect("a name"),
        },
        reason: "the function failed".to_owned(),
        rejections: 11,
    };
    let text = "{\"eventID\":\"secret event\"}";
    control(&world, 0).await.park_event(&event, text, 7).await.expect("parked");
    for token in [None, Some("s3cret")] {
        let set = |command: &mut tokio::process::Command| {
            _ = token.map(|token| command.env("TRADEWIND_TOKEN", token));
        };
        let (process, address) = start(agent(&world, 0, "127.0.0.1:0", set)).await;
        let bearer = [("Authorization", "Bearer s3cret")];
        let headers = if token.is_some() { &bearer[..] } else { &[] };
        let look = || async {
            let (_, page) = get(&address, "/api/items", headers).await?;
            serde_json::from_str::<Value>(&page).ok()?["parked"].get(0).cloned()
        };
        let shown = eventually("a parked event", look, Option::is_some).await.expect("an event");
        let expected = json!({ "feed": "search", "reason": "the function failed", "rejections": 11 });
        assert!(
            expected.as_object().expect("an object").iter().all(|(name, value)| shown[name] == *value),
            "{shown:#}"
        );
        assert_eq!(shown.to_string().contains("secret"), token.is_some(), "{shown:#}");
        assert_eq!(shown["event"]["eventID"].as_str(), token.map(|_| "secret event"), "{shown:#}");
        process.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_feed_tells_nothing_and_afterwards_everything_in_order() {
    let folder = TempDir::new().expect("a folder");
    let mut world = World::prepared(2, crate::world::PLAIN).await;
    world.tuning.queue_mib = 1;
    world.feeds = feed(&world, folder.path(), "view = \"NEW_IMAGE\"\nwithout = [\"text\"]");
    world.start_agents().await;
    let (code, paused) = run_feed(&world, &["pause", "search"]).await;
    assert_eq!((code, &paused["flows"][0]["feed"]), (0, &"search".into()), "{paused:#}");
    // More than may wait in memory, so that the feed gets a cursor of its own.
    let text = "x".repeat(60_000);
    let count = |n: usize| item([("pk", s("a")), ("n", crate::items::n(n)), ("text", s(&text))]);
    for n in 0..30 {
        world.put(0, count(n)).await;
    }
    world.await_item(1, &key("a"), &count(29)).await;
    assert_eq!(events(&world, folder.path(), 0), Vec::<Value>::new());
    let (code, resumed) = run_feed(&world, &["resume", "search"]).await;
    assert_eq!(code, 0, "{resumed:#}");
    for n in 30..60 {
        world.put(0, count(n)).await;
    }
    let all = told(&world, folder.path(), 0, 60).await;
    let numbers: Vec<_> = all.iter().map(|event| event["dynamodb"]["NewImage"]["n"]["N"].clone()).collect();
    assert_eq!(numbers, (0..60).map(|n| Value::from(n.to_string())).collect::<Vec<_>>());
    let shown = &all[1]["dynamodb"];
    assert_eq!((shown.get("OldImage"), shown["NewImage"].get("text")), (None, None), "{shown:#}");
    assert_eq!(shown["StreamViewType"], "NEW_IMAGE");
    world.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_transforms_events_and_what_it_fails_on_is_parked_whole() {
    let folder = TempDir::new().expect("a folder");
    let mut world = World::prepared(1, crate::world::PLAIN).await;
    let program = |of: &str| {
        format!(
            "transform = '.dynamodb.NewImage | select(.v.S != \"draft\") | {{ id: .pk.S, value: ({of}) }}'"
        )
    };
    world.feeds = feed(&world, folder.path(), &program(".v.S | tonumber"));
    world.start_agents().await;
    for (key, value) in [("a", "1"), ("b", "draft"), ("c", "none"), ("d", "2")] {
        world.put(0, row(key, value)).await;
    }
    let see = || async { events(&world, folder.path(), 0) };
    let all = eventually("two events", see, |all| all.len() == 2).await;
    assert_eq!(all, [json!({ "id": "a", "value": 1 }), json!({ "id": "d", "value": 2 })]);
    let parked = || async { run_feed(&world, &["parked", "search"]).await.1 };
    let is_one = |parked: &Value| parked.as_array().is_some_and(|parked| parked.len() == 1);
    let parked = eventually("a parked event", parked, is_one).await;
    let (reason, id) = (text_of(&parked[0]["reason"]), text_of(&parked[0]["id"]));
    assert!(reason.contains("`transform` fails") && reason.contains("none"), "{reason}");
    let (_, shown) = run_feed(&world, &["show", "search", id]).await;
    assert_eq!(shown["dynamodb"]["NewImage"], json!({ "pk": { "S": "c" }, "v": { "S": "none" } }));
    assert_eq!(run_feed(&world, &["replay", "search", id]).await.0, 1, "the program is as it was");
    world.feeds = feed(&world, folder.path(), &program(".v.S"));
    let (code, replayed) = run_feed(&world, &["replay", "search", id]).await;
    assert_eq!((code, &replayed[0]["fate"]), (0, &"taken".into()), "{replayed:#}");
    assert_eq!(events(&world, folder.path(), 0)[2], json!({ "id": "c", "value": "none" }));
    world.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_in_one_region_is_fed_and_nothing_is_written_to_it() {
    let folder = TempDir::new().expect("a folder");
    let mut world = World::prepared(1, crate::world::PLAIN).await;
    // Where there are peers, writes beyond this would be stamped in place.
    world.tuning.memory_keys = 1;
    world.feeds = feed(&world, folder.path(), "");
    world.start_agents().await;
    for n in 0..20 {
        world.put(0, row(&format!("key {}", n % 5), &n.to_string())).await;
    }
    world.delete(0, key("key 0")).await;
    let all = told(&world, folder.path(), 0, 21).await;
    assert_eq!(images(&all[20]).0, "REMOVE");
    assert_eq!(world.tally(0).agent_writes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_any_view_is_told_as_far_as_it_shows() {
    let folder = TempDir::new().expect("a folder");
    for (view, stream) in [
        ("KEYS_ONLY", StreamViewType::KeysOnly),
        ("NEW_IMAGE", StreamViewType::NewImage),
        ("OLD_IMAGE", StreamViewType::OldImage),
    ] {
        let mut world = World::bare(1).await;
        world.make_table(0, crate::world::PLAIN, Some(stream)).await;
        world.feeds = feed(&world, &folder.path().join(view), "");
        let (code, plan) = run_json(world.tradewind(0, &["init"])).await;
        let problem = text_of(&plan["problems"][0]["problem"]);
        let why =
            format!("shows {view}, but the feed search shows NEW_AND_OLD_IMAGES: give it view = \"{view}\"");
        assert!(code == 69 && problem.contains(&why), "{code}: {problem}");
        std::fs::create_dir(folder.path().join(view)).expect("a folder");
        world.feeds = feed(&world, &folder.path().join(view), &format!("view = \"{view}\""));
        let (code, plan) = run_json(world.tradewind(0, &["init"])).await;
        assert_eq!(code, 0, "{plan:#}");
        world.start_agents().await;
        world.put(0, row("a", "one")).await;
        world.put(0, row("a", "two")).await;
        world.delete(0, key("a")).await;
        let all = told(&world, &folder.path().join(view), 0, 3).await;
        let image = |value: &str, of: &str| {
            if view == of { json!({ "pk": { "S": "a" }, "v": { "S": value } }) } else { Value::Null }
        };
        let expected = [
            ("INSERT", Value::Null, image("one", "NEW_IMAGE")),
            ("MODIFY", image("one", "OLD_IMAGE"), image("two", "NEW_IMAGE")),
            ("REMOVE", image("two", "OLD_IMAGE"), Value::Null),
        ];
        let seen: Vec<_> =
            all.iter().map(images).map(|(name, old, new)| (name, old.clone(), new.clone())).collect();
        assert_eq!(seen, expected, "{view}");
        assert_eq!(all[0]["dynamodb"]["StreamViewType"], view);
        world.converged().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewound_feed_tells_the_same_events_once_more() {
    let folder = TempDir::new().expect("a folder");
    let mut world = World::prepared(2, crate::world::PLAIN).await;
    world.feeds = feed(&world, folder.path(), "start = \"latest\"\nregions = [\"dublin\"]");
    world.start_agents().await;
    for n in 0..5 {
        world.put(0, row("a", &n.to_string())).await;
    }
    world.put(1, row("b", "elsewhere")).await;
    let count = 5;
    let ids = |events: &[Value]| events.iter().map(|event| event["eventID"].clone()).collect::<Vec<_>>();
    let first = told(&world, folder.path(), 0, count).await;
    world.converged().await;
    let (code, rewound) = run_feed(&world, &["rewind", "search", "--to", "1h"]).await;
    assert_eq!(code, 0, "{rewound:#}");
    let again = || async { events(&world, folder.path(), 0) };
    let again = eventually("the events told once more", again, |all| all.len() >= 2 * count).await;
    assert_eq!(ids(&first), ids(&again[count..]));
    let (code, ..) = run(world.tradewind(0, &["feed", "rewind", "search", "--to", "30h"])).await;
    assert_eq!(code, 64);
    world.converged().await;
    assert_eq!(events(&world, folder.path(), 0).len(), 2 * count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_is_told_by_one_region_wherever_it_was_written() {
    let folder = TempDir::new().expect("a folder");
    let world = fed(folder.path(), "events = \"state\"").await;
    world.put(0, row("a", "here")).await;
    world.await_item(1, &key("a"), &row("a", "here")).await;
    world.put(1, row("a", "there")).await;
    world.put(1, row("b", "there")).await;
    world.await_item(0, &key("a"), &row("a", "there")).await;
    world.delete(1, key("b")).await;
    world.converged().await;
    let mut standing = BTreeMap::new();
    let all =
        eventually("what stands", || async { events(&world, folder.path(), 0) }, |all| all.len() >= 3).await;
    for event in &all {
        standing.insert(event["dynamodb"]["Keys"]["pk"]["S"].clone().to_string(), event);
    }
    let (a, b) = (standing["\"a\""], standing.get("\"b\""));
    assert_eq!(
        (&a["dynamodb"]["NewImage"]["v"]["S"], &a["tradewind"]["origin"]),
        (&"there".into(), &world.name(1).into())
    );
    // Its put may have been replaced by its delete before it was replicated.
    assert!(b.is_none_or(|b| b["eventName"] == "REMOVE"), "{b:?}");
    assert_eq!(events(&world, folder.path(), 1), Vec::<Value>::new());
}
