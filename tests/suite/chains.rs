//! Two setups that meet in one region: what one replicates there the other takes for replicated, and says so; and
//! they don't share a control table's rows.

use std::time::Duration;

use serde_json::Value;
use tradewind::agent::{Agent, StartError};

use crate::items::{key, row};
use crate::process::{run, run_json};
use crate::without::Without;
use crate::world::{PLAIN, World, eventually};

const DUBLIN: usize = 0;
const TOKYO: usize = 1;
const OREGON: usize = 2;

/// Whether `doctor` finds this in Tokyo.
async fn finds(file: &Without, harm: &str, name: &str) -> bool {
    let (_, told) = run_json(file.command(&["doctor"])).await;
    let is_it = |finding: &Value| {
        (&finding["harm"], &finding["name"], &finding["region"])
            == (&harm.into(), &name.into(), &"tokyo".into())
    };
    told["findings"].as_array().expect("findings").iter().any(is_it)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_setup_writes_is_not_forwarded_and_that_is_told() {
    let mut world = World::prepared(3, PLAIN).await;
    world.tuning.heartbeat_interval = Duration::from_secs(1);
    let first = [DUBLIN, TOKYO].map(|region| Without::oregon(&world, region));
    world.control = format!("{}-second", world.control);
    for region in [TOKYO, OREGON] {
        world.make_control_table(region).await;
    }
    let [second, at_oregon] = [TOKYO, OREGON].map(|region| Without::region(&world, "dublin", region));
    let mut agents = Vec::new();
    for (file, region) in [(&first[0], "dublin"), (&first[1], "tokyo"), (&at_oregon, "oregon")] {
        agents.push(Agent::start(&file.config(&world), region).await.expect("an agent"));
    }
    let mut meets = second.start_process("tokyo");
    meets.says("replicating").await;
    assert!(!finds(&second, "halt", "foreign_writes").await);

    for i in 0..3 {
        world.put(DUBLIN, row(&format!("foreign {i}"), "one")).await;
    }
    let line = meets.says("agents of another setup write to this table").await;
    assert!(line.contains("origin=dublin") && line.contains(&world.table), "{line}");
    // What applications write where the two meet goes both ways.
    world.put(TOKYO, row("own", "one")).await;
    for region in [DUBLIN, OREGON] {
        world.await_item(region, &key("own"), &row("own", "one")).await;
    }
    assert_eq!(world.all_items(OREGON).await.len(), 1);
    let counted = || async {
        let (_, told) = run_json(second.command(&["status"])).await;
        let regions = told["regions"].as_array().expect("regions").clone();
        let tokyo = regions.into_iter().find(|region| region["region"] == "tokyo").expect("tokyo");
        tokyo["agents"][0]["tables"][0]["foreign"]["dublin"].as_u64()
    };
    eventually("so many", counted, |count| *count == Some(3)).await;
    let (_, text, _) = run(second.command(&["status"])).await;
    assert!(text.contains("3 writes came from dublin"), "{text}");
    assert!(finds(&second, "halt", "foreign_writes").await);
    meets.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_setups_do_not_share_the_rows_of_a_table() {
    let world = World::prepared(3, PLAIN).await;
    let [first, second] = ["oregon", "dublin"].map(|without| Without::region(&world, without, TOKYO));
    let start = async |file: &Without| Agent::start(&file.config(&world), "tokyo").await;
    assert!(!finds(&second, "halt", "other_setup").await);
    start(&first).await.expect("an agent").stop().await;

    let refused = start(&second).await.expect_err("another setup's table");
    assert!(matches!(refused, StartError::NotReady { .. }), "{refused}");
    let refused = refused.to_string();
    for told in ["another setup", "dublin, tokyo", "control_table", &world.control] {
        assert!(refused.contains(told), "{refused}");
    }
    assert!(finds(&second, "halt", "other_setup").await);
    assert!(!finds(&first, "halt", "other_setup").await);
    let (code, text, log) = run(second.command(&["init", "--dry-run"])).await;
    assert!(code != 0 && format!("{text}{log}").contains("another setup"), "{code}: {text}{log}");
    let (code, text, log) = run(first.command(&["init"])).await;
    assert_eq!(code, 0, "{text}{log}");

    // One that grows, and then shrinks, is the same.
    Agent::start(&world.config(TOKYO), "tokyo").await.expect("an agent").stop().await;
    start(&second).await.expect("an agent").stop().await;
    start(&first).await.expect_err("it is another one by now");
}
