//! Several agents of one region: they share its shards, and one takes over from another, be that
//! killed, stopped, or only asleep.

use std::time::Duration;

use tradewind::protocol::Item;

use crate::items::{key, row};
use crate::load::{Load, Mix, seed};
use crate::process::Process;
use crate::world::{PLAIN, World, eventually};

const DUBLIN: usize = 0;
const TOKYO: usize = 1;

/// Which agent holds the lease of the region's only shard.
async fn owner(world: &World, region: usize) -> Option<String> {
    let leases = world.control_rows(region, "lease/").await;
    leases.iter().find_map(|lease| Some(lease.get("leaseOwner")?.as_s().ok()?.clone()))
}

/// Starts an agent, and says what it calls itself.
async fn start(world: &World, region: usize) -> (Process, String) {
    let mut process = world.start_process(region);
    let line = process.says("replicating").await;
    let (_, name) = line.split_once("agent=").expect("the agent's name");
    (process, name.chars().take_while(char::is_ascii_hexdigit).collect())
}

/// Whether what Tokyo has got of Dublin's first shard is durable.
async fn is_saved(world: &World) -> bool {
    let leases = world.control_rows(DUBLIN, "lease/").await;
    let done = |lease: &Item| Some(lease.get("to tokyo")?.as_m().ok()?.get("done")?.as_s().ok()?.clone());
    leases.iter().filter_map(done).any(|done| done != "TRIM_HORIZON")
}

async fn owned_by(world: &World, region: usize, agent: &str) {
    let held = |owner: &Option<String>| owner.as_deref() == Some(agent);
    eventually("an owner", || async { owner(world, region).await }, held).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_agents_of_one_region_killed_in_turn_under_load_lose_nothing() {
    let mut world = World::prepared(2, PLAIN).await;
    let tokyo = world.start_process(TOKYO);
    let mut crew = Vec::new();
    for _ in 0..3 {
        crew.push(start(&world, DUBLIN).await);
    }
    let load = Load::start(&world, seed(), Mix::Everything, 8, u64::MAX);
    for _ in 0..4 {
        load.go_on(40).await;
        let owner = eventually("an owner", || owner(&world, DUBLIN), Option::is_some).await;
        let place = crew.iter().position(|(_, name)| Some(name) == owner.as_ref());
        // One that has been killed may still be named as the owner.
        let (process, killed) = crew.remove(place.unwrap_or_default());
        process.kill().await;
        crew.push(start(&world, DUBLIN).await);
        let other = |owner: &Option<String>| owner.as_ref().is_some_and(|owner| *owner != killed);
        eventually("another owner", || owner_of_dublin(&world), other).await;
    }
    load.go_on(40).await;
    load.finish().await;
    for process in crew.into_iter().map(|(process, _)| process).chain([tokyo]) {
        process.kill().await;
    }
    world.start_agents().await;
    world.converged().await;
    world.still_quiet().await;
}

async fn owner_of_dublin(world: &World) -> Option<String> {
    owner(world, DUBLIN).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_stops_gives_its_shards_up_at_once() {
    let mut world = World::prepared(2, PLAIN).await;
    // Without that, its silence would be noticed only after the test.
    world.tuning.lease_duration = Duration::from_mins(10);
    let (first, name) = start(&world, DUBLIN).await;
    owned_by(&world, DUBLIN, &name).await;
    let (_second, heir) = start(&world, DUBLIN).await;
    world.put(DUBLIN, row("a", "one")).await;
    world.await_item(TOKYO, &key("a"), &row("a", "one")).await;
    first.signal("TERM").await;
    owned_by(&world, DUBLIN, &heir).await;
    assert_eq!(first.end().await.0, 0);
    world.put(DUBLIN, row("a", "two")).await;
    world.await_item(TOKYO, &key("a"), &row("a", "two")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_wakes_up_without_its_lease_writes_nothing_more() {
    let mut world = World::prepared(2, PLAIN).await;
    // It must sleep for longer than half of that.
    world.tuning.settle = Duration::from_millis(500);
    let (mut asleep, name) = start(&world, DUBLIN).await;
    owned_by(&world, DUBLIN, &name).await;
    world.link(DUBLIN, TOKYO).cut();
    world.put(DUBLIN, row("a", "one")).await;
    asleep.says("write failed").await;
    asleep.signal("STOP").await;
    let (_awake, heir) = start(&world, DUBLIN).await;
    owned_by(&world, DUBLIN, &heir).await;
    world.link(DUBLIN, TOKYO).restore();
    world.await_item(TOKYO, &key("a"), &row("a", "one")).await;
    eventually("a checkpoint", || is_saved(&world), |saved| *saved).await;
    // No agent of Tokyo runs: nothing would keep an old write from coming back.
    world.delete(TOKYO, key("a")).await;
    asleep.signal("CONT").await;
    asleep.says("another agent has taken the shard").await;
    for _ in 0..20 {
        assert_eq!(world.get(TOKYO, &key("a")).await, None, "it came back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// How long it takes from `kill -9` of the agent that reads a shard until a write that was made
/// right after it is at the peer, with everything tuned as it comes:
/// `tests/scale failover`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, of three minutes"]
async fn failover_times() {
    let mut world = World::prepared(2, PLAIN).await;
    world.tuning = tradewind::config::Tuning::default();
    let mut crew = vec![start(&world, DUBLIN).await, start(&world, DUBLIN).await];
    let mut times = Vec::new();
    let rounds = std::env::var("TRADEWIND_FAILOVERS").ok().and_then(|rounds| rounds.parse().ok());
    for round in 0..rounds.unwrap_or(20) {
        let names: Vec<String> = crew.iter().map(|(_, name)| name.clone()).collect();
        let held = |owner: &Option<String>| owner.as_ref().is_some_and(|owner| names.contains(owner));
        let owner = eventually("an owner", || owner_of_dublin(&world), held).await;
        let place = names.iter().position(|name| Some(name) == owner.as_ref()).expect("one of the crew");
        world.put(DUBLIN, row("before", &round.to_string())).await;
        world.await_item(TOKYO, &key("before"), &row("before", &round.to_string())).await;
        crew.remove(place).0.kill().await;
        let killed = std::time::Instant::now();
        world.put(DUBLIN, row("after", &round.to_string())).await;
        world.await_item(TOKYO, &key("after"), &row("after", &round.to_string())).await;
        times.push(killed.elapsed());
        eprintln!("failover {round}: {:.1?}", killed.elapsed());
        crew.push(start(&world, DUBLIN).await);
    }
    times.sort();
    eprintln!(
        "{} failovers: least {:.1?}, median {:.1?}, p90 {:.1?}, longest {:.1?}",
        times.len(),
        times[0],
        times[times.len() / 2],
        times[times.len() * 9 / 10],
        times[times.len() - 1]
    );
}
