//! Tables that are found by a pattern: at the start and later, here or in another region.

use std::time::Duration;

use aws_sdk_dynamodb::types::StreamViewType;
use serde_json::json;
use tradewind::agent::{Agent, StartError};
use tradewind::fault::FaultKind;

use crate::items::{key, row};
use crate::process::{run, run_json};
use crate::world::{PLAIN, World, eventually};
use tradewind_proxy::Fate;

const DUBLIN: usize = 0;
const TOKYO: usize = 1;

const BOTH_IMAGES: Option<StreamViewType> = Some(StreamViewType::NewAndOldImages);

/// Regions without a table, and a pattern for those that begin as the world's own would.
async fn world() -> World {
    let mut world = World::bare(2).await;
    for region in world.regions() {
        world.make_control_table(region).await;
    }
    world.tuning.discovery_interval = Duration::from_millis(300);
    world.pattern = Some(format!("{}-*", world.table));
    world
}

/// Makes a table in all regions, and the world's own.
async fn make(world: &mut World, table: &str) {
    table.clone_into(&mut world.table);
    for region in world.regions() {
        world.make_table(region, PLAIN, BOTH_IMAGES).await;
    }
}

/// An item comes from dublin to tokyo, in this table.
async fn is_replicated(world: &mut World, table: &str, id: &str) {
    table.clone_into(&mut world.table);
    world.put(DUBLIN, row(id, table)).await;
    world.await_item(TOKYO, &key(id), &row(id, table)).await;
}

fn names(world: &World, region: usize) -> Vec<String> {
    world.agent(region).figures().report().into_iter().map(|table| table.table).collect()
}

async fn await_names(world: &World, region: usize, expected: &[&str]) {
    let see = || async { names(world, region) };
    eventually("the tables", see, |names: &Vec<String>| names == expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_are_found_at_the_start_and_later() {
    let mut world = world().await;
    let other = world.table.clone();
    let [one, two, three] = ["one", "two", "three"].map(|name| format!("{other}-{name}"));
    make(&mut world, &other).await;
    make(&mut world, &two).await;
    make(&mut world, &one).await;
    world.start_agents().await;
    assert_eq!(names(&world, DUBLIN), [&*one, &*two]);
    for table in [&one, &two] {
        is_replicated(&mut world, table, "a").await;
    }
    world.table = three.clone();
    world.make_table(DUBLIN, PLAIN, BOTH_IMAGES).await;
    world.put(DUBLIN, row("early", "one")).await;
    await_names(&world, DUBLIN, &[&one, &two, &three]).await;
    // Found in tokyo by tokyo's own agent.
    world.make_table(TOKYO, PLAIN, BOTH_IMAGES).await;
    world.await_item(TOKYO, &key("early"), &row("early", "one")).await;
    await_names(&world, TOKYO, &[&one, &two, &three]).await;
    world.put(TOKYO, row("late", "two")).await;
    world.await_item(DUBLIN, &key("late"), &row("late", "two")).await;
    assert_eq!(world.converged().await.len(), 2);
    world.stop_agent(DUBLIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_without_a_table_waits_for_one() {
    let mut world = world().await;
    let table = format!("{}-one", world.table);
    world.start_agents().await;
    assert!(names(&world, DUBLIN).is_empty());
    make(&mut world, &table).await;
    is_replicated(&mut world, &table, "a").await;
    assert_eq!(world.converged().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_found_table_that_is_deleted_is_given_up_and_the_others_go_on() {
    let mut world = world().await;
    let [one, two] = ["one", "two"].map(|name| format!("{}-{name}", world.table));
    make(&mut world, &one).await;
    make(&mut world, &two).await;
    world.start_agents().await;
    for table in [&one, &two] {
        is_replicated(&mut world, table, "a").await;
    }
    world.app(DUBLIN).delete_table().table_name(&two).send().await.expect("a deletion");
    await_names(&world, DUBLIN, &[&one]).await;
    assert_eq!(names(&world, TOKYO), [&*one, &*two]);
    is_replicated(&mut world, &one, "b").await;
    assert_eq!(world.all_items(TOKYO).await.len(), 2);
    // Both agents can still be stopped in good order.
    world.stop_agent(DUBLIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_listed_page_by_page() {
    let mut world = world().await;
    let (plain, last) = (world.table.clone(), format!("{}-z", world.table));
    for i in 0..101 {
        world.table = format!("{plain}{i}");
        world.make_table(DUBLIN, PLAIN, None).await;
    }
    world.table = last.clone();
    world.make_table(DUBLIN, PLAIN, BOTH_IMAGES).await;
    world.start_agent(DUBLIN).await;
    assert_eq!(names(&world, DUBLIN), [last]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_can_not_be_listed_stop_only_an_agent_that_has_no_other_table() {
    let mut world = world().await;
    let named = world.table.clone();
    make(&mut world, &named).await;
    let refuse = |operation: &str, _: &str| match operation {
        "ListTables" => Fate::Fail("AccessDeniedException"),
        _ => Fate::Pass,
    };
    world.tamper(DUBLIN, DUBLIN, refuse).await;
    let mut config = world.config(DUBLIN);
    match Agent::start(&config, "dublin").await.expect_err("no table") {
        StartError::Fault { fault, table, .. } => {
            assert_eq!((fault.kind, Some(table)), (FaultKind::Refused, world.pattern.clone()));
        }
        other => panic!("{other}"),
    }
    config.tables.push(world.table_config(&named));
    let agent = Agent::start(&config, "dublin").await.expect("an agent");
    is_replicated(&mut world, &named, "a").await;
    let trouble = agent.figures().trouble().expect("trouble").to_string();
    assert!(trouble.contains("AccessDeniedException") && trouble.contains("permissions"), "{trouble}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_verify_and_doctor_know_the_tables_of_all_regions() {
    let mut world = world().await;
    let init = |world: &World, arguments: &[&str]| {
        run_json(world.tradewind(DUBLIN, &[&["init"], arguments].concat()))
    };
    // Nothing there yet is no error, but it is told.
    let (code, _, log) = run(world.tradewind(DUBLIN, &["verify"])).await;
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("no table matches the pattern"), "{log}");

    let [one, two] = ["one", "two"].map(|name| format!("{}-{name}", world.table));
    for (region, table) in [(DUBLIN, &one), (TOKYO, &two)] {
        world.table.clone_from(table);
        world.make_table(region, PLAIN, None).await;
    }
    let (code, plan) = init(&world, &[]).await;
    let missing: Vec<_> = plan["problems"].as_array().unwrap().iter().map(|p| &p["table"]).collect();
    assert_eq!((code, missing), (69, vec![&json!(one), &json!(two)]), "{plan:#}");
    let (code, plan) = init(&world, &["--create-tables"]).await;
    assert_eq!((code, &plan["problems"]), (0, &json!([])), "{plan:#}");
    let (code, plan) = init(&world, &[]).await;
    assert_eq!((code, &plan["steps"]), (0, &json!([])), "{plan:#}");
    let (code, told) = run_json(world.tradewind(DUBLIN, &["doctor"])).await;
    let names: Vec<_> = told["findings"].as_array().unwrap().iter().map(|f| &f["name"]).collect();
    assert_eq!((code, names), (1, vec![&json!("no_agent"); 2]), "{told:#}");

    world.table.clone_from(&two);
    world.put(DUBLIN, row("a", "one")).await;
    let verify = ["verify", "--settle", "0s"];
    let (code, result) = run_json(world.tradewind(DUBLIN, &verify)).await;
    let differing = |i: usize| (&result["tables"][i]["table"], &result["tables"][i]["items_differing"]);
    assert_eq!(code, 1, "{result:#}");
    assert_eq!([differing(0), differing(1)], [(&json!(one), &json!(0)), (&json!(two), &json!(1))]);

    for (table, expected) in [(&one, 0), (&two, 1)] {
        let only = [&verify[..], &["--table", table]].concat();
        let (code, result) = run_json(world.tradewind(DUBLIN, &only)).await;
        let compared = result["tables"].as_array().map(Vec::len);
        assert_eq!(
            (code, compared, &result["tables"][0]["table"]),
            (expected, Some(1), &json!(table)),
            "{result:#}"
        );
    }

    let drain = ["run", "--region", "dublin", "--once"];
    let (code, report) = run_json(world.tradewind(DUBLIN, &drain)).await;
    assert_eq!((code, &report[1]["replicated"]), (0, &json!(1)), "{report:#}");
    let (code, result) = run_json(world.tradewind(DUBLIN, &verify)).await;
    assert_eq!(code, 0, "{result:#}");
}
