//! `tradewind pause` and `tradewind resume`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::items::{item, key, row, s};
use crate::process::{Process, run, run_json};
use crate::world::{PLAIN, World, eventually};

const DUBLIN: usize = 0;
const TOKYO: usize = 1;
const OREGON: usize = 2;

const TO_TOKYO: [&str; 5] = ["pause", "--from", "dublin", "--to", "tokyo"];
const RESUME: [&str; 5] = ["resume", "--from", "dublin", "--to", "tokyo"];

#[expect(clippy::disallowed_methods, reason = "a pause ends by the wall clock")]
fn now_millis() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap()
}

/// Runs a command that is to succeed; what it says of its flows.
async fn flows(world: &World, arguments: &[&str]) -> Value {
    let (code, told) = run_json(world.tradewind(DUBLIN, arguments)).await;
    assert_eq!(code, 0, "{told:#}");
    told["flows"].clone()
}

/// Writes in Dublin more than may wait for a peer, and waits until Oregon has all of it: where that
/// is, what was to go to Tokyo would be.
async fn write_much(world: &World, round: &str) {
    let large = "x".repeat(60_000);
    for i in 0..30 {
        let id = format!("{round} {i}");
        world.put(DUBLIN, item([("pk", s(&id)), ("text", s(&large))])).await;
    }
    world.delete(DUBLIN, key(&format!("{round} 0"))).await;
    world.put(DUBLIN, row(round, "marker")).await;
    world.await_item(OREGON, &key(round), &row(round, "marker")).await;
    let last = item([("pk", s(&format!("{round} 29"))), ("text", s(&large))]);
    world.await_item(OREGON, &key(&format!("{round} 29")), &last).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_goes_to_a_paused_peer_and_afterwards_everything_does() {
    let mut world = World::prepared(3, PLAIN).await;
    world.tuning.queue_mib = 1;
    world.start_agents().await;
    world.put(DUBLIN, row("before", "one")).await;
    world.await_item(TOKYO, &key("before"), &row("before", "one")).await;
    let told = flows(&world, &TO_TOKYO).await;
    assert_eq!((&told[0]["agents"], &told[0]["unanswered"]), (&1.into(), &0.into()), "{told:#}");
    // Both what fits into the queue, and what makes the peer get a cursor of its own.
    world.update(DUBLIN, key("before"), "v", s("two")).await;
    world.await_item(OREGON, &key("before"), &row("before", "two")).await;
    write_much(&world, "first").await;
    // The other way, and around.
    world.put(TOKYO, row("tokyo", "one")).await;
    world.await_item(DUBLIN, &key("tokyo"), &row("tokyo", "one")).await;
    world.put(OREGON, row("oregon", "one")).await;
    world.await_item(TOKYO, &key("oregon"), &row("oregon", "one")).await;
    assert_eq!(world.get(TOKYO, &key("before")).await, Some(row("before", "one")));
    assert_eq!(world.contents(TOKYO).await.len(), 3, "something went through");
    let wait = ["wait", "--region", "dublin", "--until", "tokyo", "--timeout", "2s"];
    let (code, waited) = run_json(world.tradewind(DUBLIN, &wait)).await;
    assert_eq!((code, waited["arrivals"][0]["paused_until"].is_u64()), (1, true), "{waited:#}");
    let (_, text, log) = run(world.tradewind(DUBLIN, &wait)).await;
    assert!(text.contains("paused until") && log.contains("paused"), "{text}{log}");
    assert_eq!(world.contents(TOKYO).await.len(), 3, "something went through");

    let told = flows(&world, &RESUME).await;
    assert_eq!((told[0]["paused_until"].is_null(), told[0]["was_paused_until"].is_u64()), (true, true));
    assert_eq!(world.converged().await.len(), 3 + 29 + 1);
    // It is fed with the others again.
    world.put(DUBLIN, row("after", "one")).await;
    world.await_item(TOKYO, &key("after"), &row("after", "one")).await;
    world.converged().await;
    world.still_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_outlives_its_agents() {
    let mut world = World::prepared(3, PLAIN).await;
    world.tuning.queue_mib = 1;
    let mut agents = Vec::new();
    for _ in 0..2 {
        let mut agent = world.start_process(DUBLIN);
        agent.says("replicating").await;
        agents.push(agent);
    }
    let told = flows(&world, &TO_TOKYO).await;
    assert_eq!(told[0]["agents"], 2, "{told:#}");
    write_much(&world, "first").await;
    // One takes over from the other; and then from both one that knows of no pause but by the row.
    agents.remove(0).kill().await;
    write_much(&world, "second").await;
    agents.remove(0).kill().await;
    world.put(DUBLIN, row("nobody", "there")).await;
    let mut agent = Process::start(world.tradewind(DUBLIN, &["run", "--region", "dublin"]));
    agent.says("the destination is paused").await;
    write_much(&world, "third").await;
    assert_eq!(world.contents(TOKYO).await.len(), 0, "something went through");
    // One that is stopped does not wait for what it may not write.
    agent.signal("TERM").await;
    assert_eq!(agent.end().await.0, 0);
    world.start_agent(DUBLIN).await;
    write_much(&world, "fourth").await;
    assert_eq!(world.contents(TOKYO).await.len(), 0, "something went through");
    world.crash_agent(DUBLIN);

    flows(&world, &RESUME).await;
    world.start_agents().await;
    assert_eq!(world.converged().await.len(), 4 * 30 + 1);
    world.still_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_pause_ends_by_itself() {
    let world = World::running(3).await;
    let told = flows(&world, &["pause", "--to", "tokyo", "--for", "5s"]).await;
    let from: Vec<&str> =
        told.as_array().unwrap().iter().map(|flow| flow["origin"].as_str().unwrap()).collect();
    assert_eq!(from, ["dublin", "oregon"]);
    world.put(DUBLIN, row("a", "one")).await;
    world.await_item(TOKYO, &key("a"), &row("a", "one")).await;
    let until = told[0]["paused_until"].as_u64().unwrap();
    assert!(now_millis() >= until, "it went through before the pause was over");
    world.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_is_seen_everywhere() {
    let mut world = World::prepared(2, PLAIN).await;
    world.tuning.heartbeat_interval = Duration::from_millis(300);
    let command = world.tradewind(DUBLIN, &["run", "--region", "dublin", "--listen", "127.0.0.1:0"]);
    let (agent, address) = crate::observe::start(command).await;
    world.put(DUBLIN, row("a", "one")).await;
    world.await_item(TOKYO, &key("a"), &row("a", "one")).await;
    let told = flows(&world, &TO_TOKYO).await;
    world.put(DUBLIN, row("a", "two")).await;
    let at_tokyo = [("region", "dublin"), ("peer", "tokyo"), ("table", world.table.as_str())];
    let scrape = || async { crate::observe::get(&address, "/metrics", &[]).await.expect("an answer").1 };
    let metric = |text: &str, name| crate::observe::metric(text, name, &at_tokyo);
    eventually("a pause, and a lag that rises", scrape, |text| {
        metric(text, "tradewind_paused") == Some(1.0)
            && metric(text, "tradewind_watermark_age_seconds").is_some_and(|age| age > 3.0)
            && metric(text, "tradewind_backlog").is_some_and(|backlog| backlog > 0.0)
    })
    .await;
    let status = || async { run(world.tradewind(TOKYO, &["status"])).await.1 };
    eventually("the pause in another region", status, |text| text.contains("dublin → tokyo: paused until"))
        .await;
    let page = || async {
        let (_, page) = crate::observe::get(&address, "/api/overview", &[]).await.expect("an answer");
        serde_json::from_str::<Value>(&page).expect("JSON")["links"].clone()
    };
    let until = told[0]["paused_until"].clone();
    let shown = |links: &Value| links.as_array().unwrap().iter().any(|link| link["paused_until"] == until);
    eventually("the pause on the page", page, shown).await;
    flows(&world, &["resume", "--to", "tokyo"]).await;
    eventually("no pause", scrape, |text| metric(text, "tradewind_paused") == Some(0.0)).await;
    world.await_item(TOKYO, &key("a"), &row("a", "two")).await;
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_that_would_lose_writes_or_means_nothing_is_refused() {
    let world = World::prepared(2, PLAIN).await;
    for (arguments, says) in [
        (&["pause", "--from", "dublin", "--for", "13h"][..], "at most 12h"),
        (&["pause", "--from", "dublin", "--for", "0s"], "more than zero"),
        (&["pause", "--from", "dublin", "--to", "dublin"], "two regions"),
        (&["pause", "--from", "atlantis"], "atlantis"),
        (&["resume"], "--from"),
    ] {
        let (code, _, log) = run(world.tradewind(DUBLIN, arguments)).await;
        assert!(code == 64 && log.contains(says), "{arguments:?}: {log}");
    }
    // A peer that lacks writes of 23 hours ago.
    let report = serde_json::json!({
        "region": "dublin", "agent": "a", "millis": now_millis(),
        "peers": { "tokyo": { "watermark_age": 23 * 3600 } },
    });
    let saved = item([
        ("pk", s("report")),
        ("sk", s("dublin a")),
        ("beat", crate::items::n(1)),
        ("body", s(&report.to_string())),
    ]);
    let put = world.app(DUBLIN).put_item().table_name(&world.control).set_item(Some(saved));
    put.send().await.expect("a report");
    let (code, _, log) = run(world.tradewind(DUBLIN, &[&TO_TOKYO[..], &["--for", "2h"]].concat())).await;
    assert!(code == 64 && log.contains("would lose them"), "{log}");
    let (code, text, log) = run(world.tradewind(DUBLIN, &[&TO_TOKYO[..], &["--for", "30m"]].concat())).await;
    assert!(code == 0 && text.contains("writes would be lost") && text.contains("no agent"), "{text}{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_writes_to_one_key_the_newest_is_made_and_no_conflict_is_told() {
    let world = World::running(2).await;
    // What Dublin's writes are made on top of is Tokyo's own.
    world.put(TOKYO, row("hot", "tokyo")).await;
    world.await_item(DUBLIN, &key("hot"), &row("hot", "tokyo")).await;
    flows(&world, &TO_TOKYO).await;
    for i in 0..50 {
        match i % 10 {
            9 => world.delete(DUBLIN, key("hot")).await,
            4 => world.put(DUBLIN, row("hot", &format!("put {i}"))).await,
            _ => world.update(DUBLIN, key("hot"), "v", s(&format!("update {i}"))).await,
        }
    }
    world.put(DUBLIN, row("hot", "last")).await;
    let read = || async { world.tally(DUBLIN).local_writes() };
    eventually("all records", read, |read| *read == 51).await;
    flows(&world, &RESUME).await;
    world.await_item(TOKYO, &key("hot"), &row("hot", "last")).await;
    world.converged().await;
    let (dublin, total) = (world.tally(DUBLIN), world.total());
    assert_eq!(dublin.replicated + dublin.superseded + dublin.coalesced, 51, "{dublin:?}");
    // The first was on its way already; a look at the queue may have come between two pages.
    assert!((1..=3).contains(&dublin.replicated), "{dublin:?}");
    assert_eq!((total.conflicts, total.heals), (0, 0), "{total:?}");
}
