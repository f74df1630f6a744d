//! A stream that is turned off and on, and a table that is deleted and made again: what the old stream still holds
//! is replicated, and what is in no stream leaves a mark.

use std::time::Duration;

use serde_json::{Value, json};
use tradewind::control::PK;

use crate::items::{key, row};
use crate::process::{run, run_json};
use crate::world::{PLAIN, World, eventually};

const DUBLIN: usize = 0;
const TOKYO: usize = 1;
const OREGON: usize = 2;

async fn put(world: &World, id: &str) {
    world.put(DUBLIN, row(id, "one")).await;
}

async fn arrives(world: &World, region: usize, id: &str) {
    world.await_item(region, &key(id), &row(id, "one")).await;
}

/// Writes five items that no stream shows.
async fn put_unseen(world: &World) {
    for i in 0..5 {
        put(world, &format!("unseen {i}")).await;
    }
}

async fn turn_off_and_on(world: &World) {
    world.set_stream(DUBLIN, false).await;
    put_unseen(world).await;
    world.set_stream(DUBLIN, true).await;
}

async fn make_again(world: &World) {
    world.app(DUBLIN).delete_table().table_name(&world.table).send().await.expect("a table less");
    let gone = || async { world.app(DUBLIN).describe_table().table_name(&world.table).send().await.is_err() };
    eventually("a table less", gone, |gone| *gone).await;
    world.make_table(DUBLIN, PLAIN, None).await;
    put_unseen(world).await;
    world.set_stream(DUBLIN, true).await;
}

/// The causes of the table's marks.
async fn causes(world: &World) -> Vec<String> {
    let rows = world.control_rows(DUBLIN, "gap/").await;
    let causes = rows.iter().filter_map(|row| Some(row.get("cause")?.as_s().ok()?.clone()));
    causes.collect()
}

/// Waits until the table is marked, once, for the reason that the engine leaves.
async fn await_mark(world: &World) {
    let expected = world.engine.drops_old_streams().map_or("other_stream", |_| "stream_gone");
    eventually("a mark", || causes(world), |causes| *causes == [expected]).await;
}

async fn findings(world: &World) -> Vec<String> {
    let (_, told) = run_json(world.tradewind(DUBLIN, &["doctor"])).await;
    let line = |finding: &Value| {
        let text = |name: &str| finding[name].as_str().unwrap_or_default().to_owned();
        format!("{} {} {}", text("harm"), text("name"), text("region"))
    };
    told["findings"].as_array().expect("findings").iter().map(line).collect()
}

fn wait(world: &World) -> tokio::process::Command {
    world.tradewind(DUBLIN, &["wait", "--region", "dublin", "--until", "tokyo"])
}

/// Nobody who waits is told that all is there.
async fn a_wait_tells(world: &World) {
    let (code, text, _) = run(wait(world)).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("turned off and on") && text.contains("tradewind verify"), "{text}");
}

/// All that people are told about the mark; and how it goes.
async fn is_told_until_replicas_agree(world: &World) {
    a_wait_tells(world).await;
    let found = findings(world).await;
    assert!(found.contains(&"divergence marked dublin".to_owned()), "{found:#?}");
    let (code, verdict) = run_json(world.tradewind(DUBLIN, &["verify"])).await;
    let table = &verdict["tables"][0];
    assert_eq!((code, table["gaps"].as_array().map(Vec::len)), (1, Some(1)), "{verdict:#}");
    assert!(table["items_differing"].as_u64() >= Some(5), "{verdict:#}");
    let (code, text, log) = run(world.tradewind(DUBLIN, &["repair"])).await;
    assert_eq!(code, 0, "{text}{log}");
    let (code, verdict) = run_json(world.tradewind(DUBLIN, &["verify"])).await;
    assert_eq!((code, causes(world).await.len()), (0, 0), "{verdict:#}");
    let (code, text, _) = run(wait(world)).await;
    assert_eq!(code, 0, "{text}");
}

/// The rows of streams that are not read any more go by themselves.
async fn old_rows_go(world: &World) {
    let streams = || async {
        let mut rows = world.control_rows(DUBLIN, "table/").await;
        rows.retain(|row| row.contains_key("streamArn"));
        rows
    };
    let done = |rows: &Vec<_>| rows.len() == 2 && rows.iter().filter(|row| goes(row)).count() == 1;
    eventually("an old stream that is done with", streams, done).await;
    let leases = || async { world.control_rows(DUBLIN, "lease/").await };
    let of_both = |rows: &Vec<tradewind::protocol::Item>| {
        let spaces = |goes_now: bool| {
            let rows = rows.iter().filter(move |row| goes(row) == goes_now);
            rows.map(|row| row[PK].as_s().expect("text").clone()).collect::<std::collections::BTreeSet<_>>()
        };
        spaces(true).len() == 1 && spaces(false).len() == 1 && spaces(true).is_disjoint(&spaces(false))
    };
    eventually("old leases that go", leases, of_both).await;
}

fn goes(row: &tradewind::protocol::Item) -> bool {
    row.contains_key("expires")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_turned_off_and_on_while_its_agent_is_down_marks_the_table() {
    let mut world = World::running(2).await;
    put(&world, "first").await;
    world.converged().await;
    world.stop_agent(DUBLIN).await;
    put(&world, "in the old stream").await;
    turn_off_and_on(&world).await;
    put(&world, "in the new stream").await;
    // Before any agent has seen it.
    let found = findings(&world).await;
    assert!(found.contains(&"data_loss other_stream dublin".to_owned()), "{found:#?}");

    world.start_agent(DUBLIN).await;
    await_mark(&world).await;
    assert_eq!(world.tally(DUBLIN).gaps, 1);
    arrives(&world, TOKYO, "in the old stream").await;
    arrives(&world, TOKYO, "in the new stream").await;
    old_rows_go(&world).await;
    let found = findings(&world).await;
    assert!(!found.iter().any(|finding| finding.contains("other_stream")), "{found:#?}");
    // It is told once, whoever starts.
    world.crash_agent(DUBLIN);
    world.start_agent(DUBLIN).await;
    put(&world, "last").await;
    arrives(&world, TOKYO, "last").await;
    assert_eq!((world.tally(DUBLIN).gaps, causes(&world).await.len()), (0, 1));
    is_told_until_replicas_agree(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_stream_is_read_for_a_peer_that_is_away_and_the_new_one_for_the_others() {
    let mut world = World::prepared(3, PLAIN).await;
    world.tuning.discovery_interval = Duration::from_millis(300);
    world.start_agents().await;
    world.cut_off(TOKYO);
    for i in 0..5 {
        put(&world, &format!("old {i}")).await;
    }
    put(&world, "doomed").await;
    arrives(&world, OREGON, "doomed").await;
    turn_off_and_on(&world).await;
    await_mark(&world).await;
    world.delete(DUBLIN, key("doomed")).await;
    put(&world, "new").await;
    arrives(&world, OREGON, "new").await;
    // Whatever times its records have: what was remembered of the old stream still is.
    world.await_absent(OREGON, &key("doomed")).await;
    assert_eq!(world.tally(DUBLIN).gaps, 1);
    // A restart forgets nothing of it.
    world.crash_agent(DUBLIN);
    world.start_agent(DUBLIN).await;
    put(&world, "newer").await;
    arrives(&world, OREGON, "newer").await;
    assert_eq!(world.get(TOKYO, &key("new")).await, None);
    world.rejoin(TOKYO);
    for i in 0..5 {
        arrives(&world, TOKYO, &format!("old {i}")).await;
    }
    arrives(&world, TOKYO, "new").await;
    arrives(&world, TOKYO, "newer").await;
    world.await_absent(TOKYO, &key("doomed")).await;
    old_rows_go(&world).await;
    a_wait_tells(&world).await;
}

async fn a_table_made_again_marks(mut world: World) {
    world.start_agents().await;
    put(&world, "first").await;
    arrives(&world, TOKYO, "first").await;
    world.stop_agent(DUBLIN).await;
    put(&world, "in the old stream").await;
    make_again(&world).await;
    put(&world, "in the new stream").await;
    world.start_agent(DUBLIN).await;
    await_mark(&world).await;
    arrives(&world, TOKYO, "in the old stream").await;
    arrives(&world, TOKYO, "in the new stream").await;
    a_wait_tells(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_made_again_while_its_agent_is_down_is_marked() {
    a_table_made_again_marks(World::prepared(2, PLAIN).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_a_pattern_finds_is_marked_when_it_is_made_again() {
    let mut world = World::prepared(2, PLAIN).await;
    world.pattern = Some(format!("{}*", world.table));
    a_table_made_again_marks(world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_made_again_under_its_agent_is_marked() {
    let mut world = World::prepared(2, PLAIN).await;
    world.tuning.discovery_interval = Duration::from_millis(300);
    world.start_agents().await;
    put(&world, "first").await;
    arrives(&world, TOKYO, "first").await;
    make_again(&world).await;
    await_mark(&world).await;
    put(&world, "in the new stream").await;
    arrives(&world, TOKYO, "in the new stream").await;
    a_wait_tells(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_of_a_region_is_not_known_where_its_stream_is_another_one() {
    let mut world = World::running(2).await;
    put(&world, "first").await;
    world.converged().await;
    world.stop_agent(DUBLIN).await;
    turn_off_and_on(&world).await;
    world.stop_agent(TOKYO).await;
    let (code, removal) = run_json(world.tradewind(TOKYO, &["remove-region", "dublin", "--dry-run"])).await;
    assert_eq!((code, &removal["left"][0]["unknown"]), (1, &json!(true)), "{removal:#}");
}
