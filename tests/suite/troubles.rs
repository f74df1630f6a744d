//! One bad table does not stop the others; and once it is fixed, it is replicated.

use std::time::Duration;

use aws_sdk_dynamodb::types::{ScalarAttributeType, StreamViewType};
use serde_json::json;
use tradewind::agent::{Agent, StartError, TableReport};

use crate::items::{key, row};
use crate::process::{run_json, tradewind};
use crate::world::{Keys, PLAIN, World, eventually};

const DUBLIN: usize = 0;
const TOKYO: usize = 1;

const BOTH_IMAGES: Option<StreamViewType> = Some(StreamViewType::NewAndOldImages);

/// Two regions with a good table, and the names of that and of a second one, which is not there.
async fn world() -> (World, String, String) {
    let mut world = World::prepared(2, PLAIN).await;
    world.tuning.discovery_interval = Duration::from_millis(300);
    let (good, bad) = (world.table.clone(), format!("{}-bad", world.table));
    (world, good, bad)
}

async fn start(world: &World, region: usize, tables: &[&str]) -> Result<Agent, StartError> {
    let mut config = world.config(region);
    config.tables = tables.iter().map(|table| world.table_config(table)).collect();
    Agent::start(&config, world.name(region)).await
}

fn report_of(agent: &Agent, table: &str) -> TableReport {
    let reports = agent.figures().report().into_iter();
    reports.into_iter().find(|report| report.table == table).expect("the table")
}

/// Waits until an agent says this of a table.
async fn await_trouble(agent: &Agent, table: &str, says: &str) {
    let see = || async { report_of(agent, table).trouble };
    eventually(says, see, |trouble| trouble.as_ref().is_some_and(|trouble| trouble.contains(says))).await;
}

async fn await_no_trouble(agent: &Agent, table: &str) {
    let see = || async { report_of(agent, table).trouble };
    eventually("no trouble", see, Option::is_none).await;
}

/// An item comes from dublin to tokyo, in this table.
async fn is_replicated(world: &mut World, table: &str, id: &str) {
    table.clone_into(&mut world.table);
    world.put(DUBLIN, row(id, table)).await;
    world.await_item(TOKYO, &key(id), &row(id, table)).await;
}

async fn replicates_its_next_stream(world: &mut World, table: &str) {
    match world.engine.mixes_streams_up() {
        Some(why) => eprintln!("passed over: {why}"),
        None => is_replicated(world, table, "b").await,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_without_a_stream_is_replicated_once_it_has_one() {
    let (mut world, good, bad) = world().await;
    world.table.clone_from(&bad);
    world.make_table(DUBLIN, PLAIN, None).await;
    world.make_table(TOKYO, PLAIN, BOTH_IMAGES).await;
    let agent = start(&world, DUBLIN, &[&bad, &good]).await.expect("an agent");
    await_trouble(&agent, &bad, "no stream; `tradewind init`").await;
    is_replicated(&mut world, &good, "a").await;
    assert_eq!(report_of(&agent, &good).trouble, None);
    assert_eq!(agent.figures().idle_calls(), 0);

    world.table.clone_from(&bad);
    world.set_stream(DUBLIN, true).await;
    await_no_trouble(&agent, &bad).await;
    is_replicated(&mut world, &bad, "a").await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_table_is_replicated_once_it_is_there() {
    let (mut world, good, bad) = world().await;
    let agent = start(&world, DUBLIN, &[&good, &bad]).await.expect("an agent");
    await_trouble(&agent, &bad, "tradewind init").await;
    is_replicated(&mut world, &good, "a").await;
    world.table.clone_from(&bad);
    for region in world.regions() {
        world.make_table(region, PLAIN, BOTH_IMAGES).await;
    }
    is_replicated(&mut world, &bad, "a").await;
    assert_eq!(report_of(&agent, &bad).trouble, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_keys_at_a_peer_are_no_other_tables_trouble() {
    let (mut world, good, bad) = world().await;
    let other: Keys = &[("id", ScalarAttributeType::S)];
    world.table.clone_from(&bad);
    world.make_table(DUBLIN, PLAIN, BOTH_IMAGES).await;
    world.make_table(TOKYO, other, BOTH_IMAGES).await;
    let agent = start(&world, DUBLIN, &[&bad, &good]).await.expect("an agent");
    world.put(DUBLIN, row("a", "one")).await;
    is_replicated(&mut world, &good, "a").await;
    world.table.clone_from(&bad);
    assert!(world.all_items(TOKYO).await.is_empty());
    assert_eq!(report_of(&agent, &bad).tally.dead_letters, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_whose_key_would_be_the_stamp_is_not_replicated() {
    let (mut world, good, bad) = world().await;
    let stamp: Keys = &[("pk", ScalarAttributeType::S), ("_tw", ScalarAttributeType::S)];
    world.table.clone_from(&bad);
    for region in world.regions() {
        world.make_table(region, stamp, BOTH_IMAGES).await;
    }
    let agent = start(&world, DUBLIN, &[&good, &bad]).await.expect("an agent");
    await_trouble(&agent, &bad, "its stamp").await;
    is_replicated(&mut world, &good, "a").await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_none_of_whose_tables_can_start_tells_the_first_reason() {
    let (mut world, _, bad) = world().await;
    world.table.clone_from(&bad);
    world.make_table(DUBLIN, PLAIN, None).await;
    let missing = format!("{bad}-2");
    match start(&world, DUBLIN, &[&bad, &missing]).await.expect_err("no agent") {
        StartError::NotReady { table, .. } => assert_eq!(table, bad),
        other => panic!("{other}"),
    }
    match start(&world, DUBLIN, &[&missing, &bad]).await.expect_err("no agent") {
        StartError::Fault { table, .. } => assert_eq!(table, missing),
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_deleted_under_its_agent_is_told_and_the_others_go_on() {
    let (mut world, good, bad) = world().await;
    world.table.clone_from(&bad);
    for region in world.regions() {
        world.make_table(region, PLAIN, BOTH_IMAGES).await;
    }
    let agent = start(&world, DUBLIN, &[&good, &bad]).await.expect("an agent");
    is_replicated(&mut world, &bad, "a").await;
    world.app(DUBLIN).delete_table().table_name(&bad).send().await.expect("a deletion");
    await_trouble(&agent, &bad, "tradewind init").await;
    is_replicated(&mut world, &good, "a").await;
    world.table.clone_from(&bad);
    world.make_table(DUBLIN, PLAIN, BOTH_IMAGES).await;
    await_no_trouble(&agent, &bad).await;
    replicates_its_next_stream(&mut world, &bad).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_turned_off_under_its_agent_is_told_and_read_again_once_it_is_on() {
    let (mut world, good, bad) = world().await;
    world.table.clone_from(&bad);
    for region in world.regions() {
        world.make_table(region, PLAIN, BOTH_IMAGES).await;
    }
    let agent = start(&world, DUBLIN, &[&good, &bad]).await.expect("an agent");
    is_replicated(&mut world, &bad, "a").await;
    world.set_stream(DUBLIN, false).await;
    await_trouble(&agent, &bad, "no stream").await;
    is_replicated(&mut world, &good, "a").await;
    world.table.clone_from(&bad);
    world.set_stream(DUBLIN, true).await;
    await_no_trouble(&agent, &bad).await;
    replicates_its_next_stream(&mut world, &bad).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_breaks_down_is_started_again() {
    let (mut world, good, _) = world().await;
    // No interval can be so short: a task panics at once.
    world.tuning.checkpoint_interval = Duration::ZERO;
    let agent = start(&world, DUBLIN, &[&good]).await.expect("an agent");
    let see = || async { report_of(&agent, &good).tally.breakdowns };
    eventually("new tries", see, |breakdowns| *breakdowns >= 3).await;
    await_trouble(&agent, &good, "is a defect").await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_drains_what_it_can_and_its_code_tells_of_the_rest() {
    let (mut world, good, bad) = world().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let config = format!("{}\n[[table]]\nname = \"{bad}\"\n", world.config_file(DUBLIN));
    std::fs::write(file.path(), config).unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    for i in 0..10 {
        world.put(DUBLIN, row(&format!("key {i}"), "one")).await;
    }
    let once = ["run", "--region", "dublin", "--once", "--config", &path];
    let (code, report) = run_json(tradewind(&once)).await;
    assert_eq!(code, 69, "{report:#}");
    let told = |i: usize| (&report[i]["table"], &report[i]["replicated"]);
    assert_eq!([told(0), told(1)], [(&json!(good), &json!(10)), (&json!(bad), &json!(0))]);
    assert_eq!(report[0].get("trouble"), None);
    assert!(report[1]["trouble"].as_str().unwrap().contains("tradewind init"), "{report:#}");

    world.table.clone_from(&bad);
    for region in world.regions() {
        world.make_table(region, PLAIN, BOTH_IMAGES).await;
    }
    let (code, report) = run_json(tradewind(&once)).await;
    assert_eq!(code, 0, "{report:#}");
}
