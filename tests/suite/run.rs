//! `tradewind run`: signals, `kill -9`, `--once`, and what it says where it can't start.

use std::collections::HashMap;
use std::sync::Mutex;

use aws_sdk_dynamodb::types::StreamViewType;
use tokio::net::TcpListener;

use crate::items::{key, row, s};
use crate::load::{Load, Mix, seed};
use crate::process::{Process, run, run_json, tradewind};
use crate::world::{PLAIN, World, eventually};
use tradewind_proxy::Fate;

const DUBLIN: usize = 0;
const TOKYO: usize = 1;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_processes_killed_in_the_middle_of_load_lose_nothing() {
    let mut world = World::prepared(3, PLAIN).await;
    let mut processes: Vec<_> = world.regions().map(|region| Some(world.start_process(region))).collect();
    let seed = seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    let load = Load::start(&world, seed, Mix::Everything, 8, u64::MAX);
    for _ in 0..5 {
        load.go_on(rng.u64(30..80)).await;
        let region = rng.usize(0..3);
        processes[region].take().expect("a process").kill().await;
        load.go_on(rng.u64(0..40)).await;
        processes[region] = Some(world.start_process(region));
    }
    load.finish().await;
    // All are killed once more, and agents in this process go on where they were.
    for process in processes.into_iter().flatten() {
        process.kill().await;
    }
    world.start_agents().await;
    world.converged().await;
    world.still_quiet().await;
}

/// A signal ends an agent process well: what it had read is done, and told to be done.
async fn ends_well_at(signal: &str) {
    let mut world = World::prepared(2, PLAIN).await;
    // The first writes of each item are throttled, so that there is something left to finish.
    let tries = Mutex::new(HashMap::<String, u32>::new());
    let throttle = move |operation: &str, body: &str| {
        if operation != "PutItem" || !body.contains("\"TableName\":\"orders-") {
            return Fate::Pass;
        }
        let (_, key) = body.split_once("\"key ").expect("a key");
        let mut tries = tries.lock().unwrap();
        let tries = tries.entry(key.split('"').next().unwrap_or_default().to_owned()).or_default();
        *tries += 1;
        if *tries <= 4 { Fate::Fail("ProvisionedThroughputExceededException") } else { Fate::Pass }
    };
    world.tamper(DUBLIN, TOKYO, throttle).await;
    let mut process = Process::start(world.tradewind(DUBLIN, &["run", "--region", "dublin", "--json"]));
    process.says("replicating").await;
    for i in 0..60 {
        world.put(DUBLIN, row(&format!("key {i}"), "one")).await;
    }
    eventually("some items", || async { world.all_items(TOKYO).await.len() }, |items| *items >= 5).await;
    process.signal(signal).await;
    let (code, printed) = process.end().await;
    assert_eq!(code, 0, "{printed}");
    let report: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
    let (read, done) = (&report[0]["records"], report[0]["replicated"].as_u64().expect("a number"));
    assert_eq!(read.as_u64(), Some(done), "{report:#}");

    // The next one makes the rest of the writes, and no other.
    world.start_agents().await;
    assert_eq!(world.converged().await.len(), 60);
    let tally = world.tally(DUBLIN);
    assert_eq!((tally.replicated, tally.superseded), (60 - done, 0), "{tally:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_agent_finishes_its_work_and_exits_with_0() {
    ends_well_at("TERM").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_agent_finishes_its_work_and_exits_with_0() {
    ends_well_at("INT").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_an_agent_at_once() {
    let mut world = World::prepared(2, PLAIN).await;
    let mut process = world.start_process(DUBLIN);
    process.says("replicating").await;
    world.put(DUBLIN, row("a", "one")).await;
    world.await_item(TOKYO, &key("a"), &row("a", "one")).await;
    // Now there is something that it can't finish.
    world.cut_off(TOKYO);
    world.put(DUBLIN, row("b", "two")).await;
    process.says("retrying").await;
    process.signal("TERM").await;
    process.says("a second signal stops at once").await;
    process.signal("INT").await;
    assert_eq!(process.end().await.0, 130);

    world.rejoin(TOKYO);
    world.start_agents().await;
    assert_eq!(world.converged().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_ends_when_the_stream_is_drained() {
    let mut world = World::prepared(3, PLAIN).await;
    for i in 0..40 {
        world.put(DUBLIN, row(&format!("key {i}"), "one")).await;
    }
    world.delete(DUBLIN, key("key 0")).await;
    let once = ["run", "--region", "dublin", "--once"];
    let (code, report) = run_json(world.tradewind(DUBLIN, &once)).await;
    assert_eq!((code, &report[0]["local_puts"]), (0, &40.into()), "{report:#}");
    assert_eq!(world.get(TOKYO, &key("key 39")).await, Some(row("key 39", "one")));
    // The mark is tokyo's own agent's to apply.
    assert!(world.stored(TOKYO, &key("key 0")).await.is_some());
    let (code, report) = run_json(world.tradewind(TOKYO, &["run", "--region", "tokyo", "--once"])).await;
    assert_eq!((code, &report[0]["deletes_applied"]), (0, &1.into()), "{report:#}");
    assert!(world.stored(TOKYO, &key("key 0")).await.is_none());

    let (code, report) = run_json(world.tradewind(DUBLIN, &once)).await;
    assert_eq!((code, &report[0]["records"]), (0, &0.into()), "{report:#}");
    world.start_agents().await;
    world.put(TOKYO, row("key 0", "again")).await;
    assert_eq!(world.converged().await.len(), 40);
}

/// What a failed command says, and its code.
async fn failure(command: tokio::process::Command) -> (i32, String) {
    let (code, out, log) = run(command).await;
    assert_eq!(out, "");
    (code, log)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_table_ends_a_run_with_69() {
    let world = World::bare(2).await;
    let (code, message) = failure(world.tradewind(DUBLIN, &["run", "--region", "dublin"])).await;
    assert_eq!(code, 69, "{message}");
    assert!(message.contains(&world.table) && message.contains("tradewind init"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_another_view_type_ends_a_run_with_69() {
    let world = World::bare(2).await;
    world.make_control_table(DUBLIN).await;
    world.make_table(DUBLIN, PLAIN, Some(StreamViewType::NewImage)).await;
    let (code, message) = failure(world.tradewind(DUBLIN, &["run", "--region", "dublin"])).await;
    assert_eq!(code, 69, "{message}");
    assert!(message.contains("NEW_IMAGE") && message.contains("NEW_AND_OLD_IMAGES"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_region_ends_a_run_with_64() {
    let world = World::prepared(2, PLAIN).await;
    let (code, message) = failure(world.tradewind(DUBLIN, &["run", "--region", "atlantis"])).await;
    assert_eq!(code, 64, "{message}");
    assert!(message.contains("atlantis") && message.contains("dublin, tokyo"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_where_nobody_listens_ends_a_run_with_69() {
    let world = World::bare(2).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let file = tempfile::NamedTempFile::new().unwrap();
    let config = world.config_file(DUBLIN);
    let endpoint = config.lines().find_map(|line| line.strip_prefix("endpoint = ")).unwrap().to_owned();
    let config = config.replace(&endpoint, &format!("\"http://127.0.0.1:{port}\""));
    std::fs::write(file.path(), config).unwrap();
    let path = file.path().to_str().unwrap();
    let (code, message) = failure(tradewind(&["run", "--region", "dublin", "--config", path])).await;
    assert_eq!(code, 69, "{message}");
    assert!(message.contains("Check the endpoint"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_credentials_end_every_command_with_77() {
    let mut world = World::prepared(2, PLAIN).await;
    let refuse = |_: &str, _: &str| Fate::Fail("UnrecognizedClientException");
    world.tamper(DUBLIN, DUBLIN, refuse).await;
    for arguments in [&["run", "--region", "dublin"][..], &["init"], &["verify"]] {
        let (code, message) = failure(world.tradewind(DUBLIN, arguments)).await;
        assert_eq!(code, 77, "{message}");
        assert!(message.contains("UnrecognizedClientException"), "{message}");
        assert!(message.contains("Check the credentials"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_credentials_end_every_command_with_77() {
    let world = World::prepared(2, PLAIN).await;
    for arguments in [&["run", "--region", "dublin"][..], &["init"], &["verify"]] {
        let mut command = world.tradewind(DUBLIN, arguments);
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        let (code, message) = failure(command).await;
        assert_eq!(code, 77, "{message}");
        assert!(message.contains("Check the credentials"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_is_json_where_json_is_asked_for() {
    let world = World::bare(2).await;
    let (code, printed) = run_json(world.tradewind(DUBLIN, &["run", "--region", "dublin"])).await;
    assert_eq!((code, &printed["exit_code"]), (69, &69.into()), "{printed:#}");
    assert!(printed["error"].as_str().unwrap().contains("tradewind init"), "{printed:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_replicate_in_both_directions() {
    let world = World::prepared(2, PLAIN).await;
    let mut processes = Vec::new();
    for region in world.regions() {
        let mut process = world.start_process(region);
        process.says("replicating").await;
        processes.push(process);
    }
    world.put(DUBLIN, row("a", "one")).await;
    world.await_item(TOKYO, &key("a"), &row("a", "one")).await;
    world.update(TOKYO, key("a"), "v", s("two")).await;
    world.await_item(DUBLIN, &key("a"), &row("a", "two")).await;
    world.delete(DUBLIN, key("a")).await;
    world.await_absent(TOKYO, &key("a")).await;
    // A checkpoint is made by and by, though nobody asks for it.
    let saved = || async {
        let leases = world.control_rows(DUBLIN, "lease/").await;
        leases.iter().any(|lease| lease.contains_key("to tokyo"))
    };
    eventually("a checkpoint", saved, |saved| *saved).await;
    let rows = || async { world.control_rows(TOKYO, "watermark/").await.len() };
    eventually("a watermark", rows, |rows| *rows > 0).await;
}
