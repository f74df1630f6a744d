//! `tradewind remove-region`: nothing is lost, and nothing of the region is left in the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;
use tradewind::agent::Agent;
use tradewind::control::SK;

use crate::items::{key, row};
use crate::process::run_json;
use crate::without::Without;
use crate::world::{PLAIN, World, eventually};
use tradewind_proxy::Fate;

const DUBLIN: usize = 0;
const TOKYO: usize = 1;
const OREGON: usize = 2;

async fn remove(world: &World, more: &[&str]) -> (i32, Value) {
    run_json(world.tradewind(DUBLIN, &[&["remove-region", "oregon"], more].concat())).await
}

/// What the control tables of the others still tell of Oregon.
async fn traces(world: &World) -> Vec<String> {
    let mut traces = Vec::new();
    for region in [DUBLIN, TOKYO] {
        for row in world.control_rows(region, "").await {
            let sk = row[SK].as_s().expect("text");
            let tells = sk == "oregon" || sk.starts_with("oregon ") || row.contains_key("to oregon");
            traces.extend(tells.then(|| format!("{}: {row:?}", world.name(region))));
        }
    }
    traces
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_goes_once_its_writes_are_everywhere_and_no_agent_knows_it() {
    let mut world = World::prepared(3, PLAIN).await;
    let mut others = Vec::new();
    for region in [DUBLIN, TOKYO] {
        let mut agent = world.start_process(region);
        agent.says("replicating").await;
        others.push(agent);
    }
    world.start_agent(OREGON).await;
    for region in world.regions() {
        for i in 0..5 {
            world.put(region, row(&format!("{} {i}", world.name(region)), "one")).await;
        }
    }
    // While its agents run: it waits for them, and changes nothing.
    let (code, told) = remove(&world, &[]).await;
    assert_eq!((code, &told["removed"]), (1, &false.into()), "{told:#}");
    assert_eq!(
        (told["agents"].as_array().unwrap().len(), told["named_by"].as_array().unwrap().len()),
        (1, 2)
    );
    assert_eq!(world.get(TOKYO, &key("oregon 4")).await, Some(row("oregon 4", "one")), "{told:#}");

    // Its agent is killed, while a peer lacks something.
    world.link(OREGON, TOKYO).cut();
    world.put(OREGON, row("late", "one")).await;
    world.await_item(DUBLIN, &key("late"), &row("late", "one")).await;
    world.crash_agent(OREGON);
    let (code, told) = remove(&world, &[]).await;
    assert_eq!((code, told["left"][0]["writes"].as_u64() >= Some(1)), (1, true), "{told:#}");
    world.link(OREGON, TOKYO).restore();
    world.start_agent(OREGON).await;
    let (code, told) = remove(&world, &[]).await;
    assert_eq!((code, &told["removed"]), (1, &false.into()), "{told:#}");
    world.await_item(TOKYO, &key("late"), &row("late", "one")).await;
    world.stop_agent(OREGON).await;

    // Others still write to it; what they do there is not its own.
    world.put(DUBLIN, row("dublin 0", "two")).await;
    world.await_item(OREGON, &key("dublin 0"), &row("dublin 0", "two")).await;
    let (code, told) = remove(&world, &[]).await;
    assert_eq!((code, &told["left"][0]["writes"]), (1, &0.into()), "{told:#}");
    let named: Vec<&str> =
        told["named_by"].as_array().unwrap().iter().map(|agent| agent["region"].as_str().unwrap()).collect();
    assert_eq!(named, ["dublin", "tokyo"], "{told:#}");
    assert!(!traces(&world).await.is_empty());
    let files = [DUBLIN, TOKYO].map(|region| Without::oregon(&world, region));
    let mut agents = Vec::new();
    for (region, agent) in [DUBLIN, TOKYO].into_iter().zip(others) {
        agent.kill().await;
        let config = files[region].config(&world);
        agents.push(Agent::start(&config, world.name(region)).await.expect("an agent"));
    }
    // A write that was missed in all this is not passed over.
    world.put(OREGON, row("too late", "one")).await;
    let missed = || async { remove(&world, &[]).await };
    let told = eventually("the write", missed, |told| told.1["left"][0]["writes"] == 1).await;
    assert_eq!(told.0, 1, "{told:#?}");
    world.delete(OREGON, key("too late")).await;
    assert_eq!(remove(&world, &["--force", "--dry-run"]).await.1["removed"], false);
    assert!(!traces(&world).await.is_empty());

    let (code, told) = remove(&world, &["--force"]).await;
    assert_eq!((code, &told["removed"]), (0, &true.into()), "{told:#}");
    assert_eq!(traces(&world).await, [""; 0], "{told:#}");
    let own = world.control_rows(OREGON, "").await;
    assert!(own.is_empty(), "{own:?}");
    assert_eq!(world.get(OREGON, &key("oregon 0")).await, Some(row("oregon 0", "one")));

    // The others go on without it; they are marked, since it was forced.
    world.put(DUBLIN, row("after", "one")).await;
    world.await_item(TOKYO, &key("after"), &row("after", "one")).await;
    let (code, told) = run_json(files[DUBLIN].command(&["wait", "--region", "dublin"])).await;
    assert_eq!((code, told["arrivals"].as_array().unwrap().len()), (0, 1), "{told:#}");
    let (_, told) = run_json(files[DUBLIN].command(&["watermarks"])).await;
    assert_eq!(told.as_array().unwrap().len(), 2, "{told:#}");
    let (_, told) = run_json(files[DUBLIN].command(&["status"])).await;
    assert_eq!((told["regions"].as_array().unwrap().len(), told["links"].as_array().unwrap().len()), (2, 2));
    let (code, told) = run_json(files[DUBLIN].command(&["verify"])).await;
    assert_eq!((code, told["tables"][0]["gaps"].as_array().map(Vec::len)), (0, Some(1)), "{told:#}");
    // They are equal, so the mark is gone, though its origin is not there to ask.
    let (code, told) = run_json(files[DUBLIN].command(&["verify"])).await;
    assert_eq!((code, told["tables"][0]["gaps"].as_array().map(Vec::len)), (0, Some(0)), "{told:#}");
    assert_eq!(world.get(OREGON, &key("after")).await, None);
    assert_eq!(traces(&world).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_is_drained_goes_without_force_and_marks_nothing() {
    let mut world = World::running(3).await;
    world.put(OREGON, row("a", "one")).await;
    world.put(DUBLIN, row("b", "one")).await;
    world.converged().await;
    world.delete(OREGON, key("a")).await;
    world.converged().await;
    world.stop_agent(OREGON).await;
    let files = [DUBLIN, TOKYO].map(|region| Without::oregon(&world, region));
    let mut agents = Vec::new();
    for region in [DUBLIN, TOKYO] {
        world.stop_agent(region).await;
        agents.push(Agent::start(&files[region].config(&world), world.name(region)).await.expect("an agent"));
    }
    let (code, told) = remove(&world, &["--dry-run"]).await;
    assert_eq!((code, &told["removed"]), (0, &false.into()), "{told:#}");
    // It breaks off in the middle of the region's own rows, and is run again; and once more.
    let (refused, left) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(2)));
    let refuse = Arc::clone(&refused);
    let tamper = move |operation: &str, _: &str| {
        let less = |left: usize| left.checked_sub(1);
        let breaks = operation == "DeleteItem"
            && refuse.load(Ordering::Relaxed)
            && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err();
        if breaks { Fate::Fail("AccessDeniedException") } else { Fate::Pass }
    };
    world.tamper(DUBLIN, OREGON, tamper).await;
    assert_eq!(remove(&world, &[]).await.0, 77);
    assert!(!world.control_rows(OREGON, "").await.is_empty());
    refused.store(false, Ordering::Relaxed);
    for _ in 0..2 {
        let (code, told) = remove(&world, &[]).await;
        assert_eq!((code, &told["removed"]), (0, &true.into()), "{told:#}");
    }
    assert!(world.control_rows(OREGON, "").await.is_empty());
    assert_eq!(traces(&world).await, [""; 0]);
    world.put(TOKYO, row("c", "one")).await;
    world.await_item(DUBLIN, &key("c"), &row("c", "one")).await;
    let (code, told) = run_json(files[DUBLIN].command(&["verify"])).await;
    assert_eq!((code, told["tables"][0]["gaps"].as_array().map(Vec::len)), (0, Some(0)), "{told:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_is_gone_for_ever_is_removed_by_force_and_what_is_lost_is_told() {
    let mut world = World::running(3).await;
    world.put(OREGON, row("a", "one")).await;
    world.converged().await;
    world.link(OREGON, TOKYO).cut();
    world.put(OREGON, row("b", "one")).await;
    world.await_item(DUBLIN, &key("b"), &row("b", "one")).await;
    world.crash_agent(OREGON);
    let files = [DUBLIN, TOKYO].map(|region| Without::oregon(&world, region));
    // Nobody reaches it any more.
    world.link(DUBLIN, OREGON).cut();
    assert_eq!(remove(&world, &[]).await.0, 69);
    let (code, told) = remove(&world, &["--force"]).await;
    assert_eq!((code, &told["removed"]), (1, &false.into()), "other agents still know it: {told:#}");
    for region in [DUBLIN, TOKYO] {
        world.stop_agent(region).await;
    }
    let (code, told) = remove(&world, &["--force"]).await;
    assert_eq!((code, &told["removed"]), (0, &true.into()), "{told:#}");
    assert!(told["unreachable"].is_string(), "{told:#}");
    let of: Vec<_> = told["watermarks"].as_array().unwrap().iter().map(|mark| mark["peer"].clone()).collect();
    assert_eq!(of, ["dublin", "tokyo"], "{told:#}");
    assert_eq!(traces(&world).await, [""; 0], "{told:#}");
    // One has what the other lacks, and that is not passed over.
    let (code, told) = run_json(files[DUBLIN].command(&["verify", "--settle", "0s"])).await;
    assert_eq!((code, told["tables"][0]["gaps"][0]["origin"] == "oregon"), (1, true), "{told:#}");
}

/// `cargo nextest run --test suite --run-ignored only -E 'test(forget_keys_again)'`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "what is forgotten lies a minute back: it takes two"]
async fn the_rest_forget_keys_again() {
    let mut world = World::running(3).await;
    world.put(OREGON, row("a", "one")).await;
    world.converged().await;
    world.stop_agent(OREGON).await;
    for i in 0..20 {
        world.put(DUBLIN, row(&format!("key {i}"), "one")).await;
    }
    let clock = async |world: &World, regions: [usize; 2]| {
        for region in regions {
            let id = format!("clock of {}", world.name(region));
            world.put(region, row(&id, &fastrand::Rng::new().u64(..).to_string())).await;
        }
    };
    let began = std::time::Instant::now();
    while began.elapsed() < std::time::Duration::from_secs(90) {
        clock(&world, [DUBLIN, TOKYO]).await;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    // Oregon's watermark holds them back.
    let (held, _) = world.agent(DUBLIN).figures().remembered();
    assert!(held >= 20, "{held}");
    let files = [DUBLIN, TOKYO].map(|region| Without::oregon(&world, region));
    let mut agents = Vec::new();
    for region in [DUBLIN, TOKYO] {
        world.stop_agent(region).await;
        agents.push(Agent::start(&files[region].config(&world), world.name(region)).await.expect("an agent"));
    }
    assert_eq!(remove(&world, &[]).await.0, 0);
    let held = || async {
        clock(&world, [DUBLIN, TOKYO]).await;
        agents[DUBLIN].figures().remembered().0
    };
    eventually("few keys", held, |held| *held <= 2).await;
}
