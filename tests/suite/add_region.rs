//! `tradewind add-region`: a region joins while the others go on, and nothing is lost or comes back.

use std::time::Duration;

use serde_json::{Value, json};
use tradewind::agent::Agent;

use crate::items::{key, row};
use crate::load::{Load, Mix, seed};
use crate::process::{Process, run_json, run_json_within};
use crate::without::Without;
use crate::world::{PLAIN, World, eventually_within};

const DUBLIN: usize = 0;
const TOKYO: usize = 1;
const OREGON: usize = 2;

/// A bootstrap waits for several barriers.
const LONG: Duration = Duration::from_secs(400);
const LOOK: Duration = Duration::from_millis(250);

/// Dublin and Tokyo replicate to each other, and hold so many items from before; nothing is in Oregon.
async fn two_of_three(items: usize) -> (World, Vec<Agent>) {
    let mut world = World::bare(3).await;
    // A hold is lost where its row can't be written for 2.5 of these; a busy engine may be silent for long.
    world.tuning.settle = Duration::from_secs(8);
    for region in [DUBLIN, TOKYO] {
        world.make_table(region, PLAIN, None).await;
        for i in 0..items {
            world.put(region, row(&format!("key {i}"), "before")).await;
        }
    }
    let mut agents = Vec::new();
    for region in [DUBLIN, TOKYO] {
        let file = Without::oregon(&world, region);
        let (code, plan) = run_json(file.command(&["init"])).await;
        assert_eq!(code, 0, "{plan:#}");
        agents.push(Agent::start(&file.config(&world), world.name(region)).await.expect("an agent"));
    }
    (world, agents)
}

/// Restarts them, with a file that names Oregon.
async fn start_anew(world: &mut World, agents: Vec<Agent>) {
    for (region, agent) in [DUBLIN, TOKYO].into_iter().zip(agents) {
        agent.stop().await;
        world.start_agent(region).await;
    }
}

async fn add(world: &World, more: &[&str]) -> (i32, Value) {
    let arguments = [&["add-region", "oregon"], more].concat();
    run_json_within(LONG, world.tradewind(DUBLIN, &arguments)).await
}

fn regions(agents: &Value) -> Vec<&str> {
    agents.as_array().unwrap().iter().map(|agent| agent["region"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_joins_while_the_others_go_on() {
    let (mut world, agents) = two_of_three(150).await;
    let (code, told) = add(&world, &["--dry-run"]).await;
    assert_eq!((code, &told["joining"]), (1, &Value::Null), "{told:#}");
    let there = world.app(OREGON).describe_table().table_name(&world.table).send().await;
    assert!(there.is_err(), "a dry run makes nothing");

    // The tables are made; the agents elsewhere do not know the region yet.
    let (code, told) = add(&world, &[]).await;
    assert_eq!(code, 1, "{told:#}");
    assert_eq!(regions(&told["joining"]["unaware"]), ["dublin", "tokyo"], "{told:#}");
    start_anew(&mut world, agents).await;
    let (code, told) = add(&world, &[]).await;
    assert_eq!((code, &told["steps"]), (1, &json!([])), "{told:#}");
    assert_eq!(
        (&told["joining"]["unaware"], &told["joining"]["agents"]),
        (&json!([]), &json!([])),
        "{told:#}"
    );

    world.start_agent(OREGON).await;
    let load = Load::in_regions(
        &world,
        [DUBLIN, TOKYO],
        seed(),
        Mix::Everything,
        40,
        u64::MAX,
        Duration::from_millis(100),
    );
    let slow = ["add-region", "oregon", "--write-units", "40"];
    let process = Process::start(world.tradewind(TOKYO, &slow));
    let there = || async { world.all_items(OREGON).await.len() };
    // More than the load's.
    eventually_within(LONG, LOOK, "copies", there, |items| *items > 60).await;
    process.kill().await;
    load.finish().await;
    for i in 100..110 {
        world.delete(DUBLIN, key(&format!("key {i}"))).await;
    }
    let (code, told) = add(&world, &[]).await;
    assert_eq!((code, &told["added"]), (0, &json!(true)), "{told:#}");
    world.put(OREGON, row("of its own", "one")).await;
    let contents = world.converged().await;
    assert!(contents.len() > 100, "{}", contents.len());
    for i in 100..110 {
        assert_eq!(world.get(OREGON, &key(&format!("key {i}"))).await, None, "{i} came back");
    }
    let (code, verified) = run_json(world.tradewind(DUBLIN, &["verify"])).await;
    assert_eq!((code, &verified["tables"][0]["items_differing"]), (0, &json!(0)), "{verified:#}");
    assert_eq!(verified["tables"][0]["versions_differing"], json!(0), "{verified:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_there_too_early_is_told() {
    let (mut world, agents) = two_of_three(0).await;
    let (code, told) = add(&world, &[]).await;
    assert_eq!((code, &told["joining"]["written"]), (1, &json!([])), "{told:#}");
    world.put(OREGON, row("early", "oregon")).await;
    let (code, told) = add(&world, &[]).await;
    assert_eq!((code, &told["joining"]["written"][0]["writes"]), (1, &json!(1)), "{told:#}");
    start_anew(&mut world, agents).await;
    let (code, told) = add(&world, &[]).await;
    assert_eq!((code, &told["joining"]["written"][0]["writes"]), (1, &json!(1)), "{told:#}");
    world.start_agent(OREGON).await;
    let (code, told) = add(&world, &["--force"]).await;
    assert_eq!(code, 0, "{told:#}");
    assert_eq!(world.converged().await.len(), 1);
}
