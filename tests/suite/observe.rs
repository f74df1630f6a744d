//! What an agent serves: metrics, probes, and who may see them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::types::StreamViewType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::items::{key, row, stamped};
use crate::process::{Process, run, run_json};
use crate::world::{PLAIN, World, eventually, eventually_within};
use tradewind_proxy::Fate;

const DUBLIN: usize = 0;
const TOKYO: usize = 1;

/// A status code and a body; nothing while nobody listens.
pub(crate) async fn get(address: &str, path: &str, headers: &[(&str, &str)]) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let host = if headers.iter().any(|(name, _)| *name == "Host") { None } else { Some(("Host", address)) };
    let mut lines = vec![format!("GET {path} HTTP/1.1"), "Connection: close".to_owned()];
    lines.extend(headers.iter().chain(&host).map(|(name, value)| format!("{name}: {value}")));
    stream.write_all(format!("{}\r\n\r\n", lines.join("\r\n")).as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// The agent of a region as a process, with what else its command takes.
pub(crate) fn agent(world: &World, region: usize, listen: &str, more: impl FnOnce(&mut Command)) -> Command {
    let mut command = world.tradewind(region, &["run", "--region", world.name(region), "--listen", listen]);
    more(&mut command);
    command
}

/// Starts an agent, and says where it listens.
pub(crate) async fn start(command: Command) -> (Process, String) {
    let mut process = Process::start(command);
    let line = process.says("the page is at").await;
    let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("an address");
    (process, address.to_owned())
}

/// The value of a metric with these labels; of several, the first.
pub(crate) fn metric(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    let of = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'))
            && labels.iter().all(|label| line.contains(label.as_str()))
    };
    text.lines().find(of)?.rsplit_once(' ')?.1.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_serves_its_metrics_and_says_that_it_is_well() {
    let world = World::prepared(2, PLAIN).await;
    let (process, address) = start(agent(&world, DUBLIN, "127.0.0.1:0", |_| {})).await;
    let ready = || get(&address, "/readyz", &[]);
    eventually("a ready agent", ready, |answer| *answer == Some((200, "ok".to_owned()))).await;
    assert_eq!(get(&address, "/healthz", &[]).await, Some((200, "ok".to_owned())));
    world.put(DUBLIN, row("a", "1")).await;
    world.await_item(TOKYO, &key("a"), &row("a", "1")).await;
    let table = world.table.as_str();
    let scrape = || async { get(&address, "/metrics", &[]).await.expect("an answer").1 };
    let at_tokyo = [("region", "dublin"), ("peer", "tokyo"), ("table", table)];
    let text = eventually("a write in the metrics", scrape, |text| {
        metric(text, "tradewind_apply_lag_seconds_count", &at_tokyo) == Some(1.0)
            && metric(text, "tradewind_backlog", &at_tokyo) == Some(0.0)
    })
    .await;
    let here = [("region", "dublin"), ("table", table)];
    assert_eq!(metric(&text, "tradewind_local_puts_total", &here), Some(1.0), "{text}");
    assert_eq!(metric(&text, "tradewind_replicating", &here), Some(1.0), "{text}");
    assert_eq!(metric(&text, "tradewind_agents", &here[..1]), Some(1.0), "{text}");
    assert!(metric(&text, "tradewind_shard_unread_seconds", &here).is_some(), "{text}");
    process.signal("TERM").await;
    assert_eq!(process.end().await.0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_watermark_age_rises_while_a_peer_is_away_and_falls_when_it_is_back() {
    let world = World::prepared(2, PLAIN).await;
    let (process, address) = start(agent(&world, DUBLIN, "127.0.0.1:0", |_| {})).await;
    let at_tokyo = [("region", "dublin"), ("peer", "tokyo"), ("table", world.table.as_str())];
    let figures = || async {
        let text = get(&address, "/metrics", &[]).await.expect("an answer").1;
        let age = metric(&text, "tradewind_watermark_age_seconds", &at_tokyo);
        age.zip(metric(&text, "tradewind_backlog", &at_tokyo))
    };
    world.put(DUBLIN, row("a", "1")).await;
    world.await_item(TOKYO, &key("a"), &row("a", "1")).await;
    let low = |figures: &Option<(f64, f64)>| figures.is_some_and(|(age, backlog)| age < 2.0 && backlog < 1.0);
    eventually("nothing missing", figures, low).await;
    world.cut_off(TOKYO);
    world.put(DUBLIN, row("a", "2")).await;
    let missing =
        |figures: &Option<(f64, f64)>| figures.is_some_and(|(age, backlog)| age > 2.0 && backlog > 0.0);
    let first = eventually("a write that is missing", figures, missing).await.expect("figures").0;
    let older = |figures: &Option<(f64, f64)>| figures.is_some_and(|(age, _)| age > first + 3.0);
    eventually("an older one", figures, older).await;
    world.rejoin(TOKYO);
    world.await_item(TOKYO, &key("a"), &row("a", "2")).await;
    eventually("nothing missing again", figures, low).await;
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_guards_what_is_served_but_for_the_probes() {
    let world = World::prepared(2, PLAIN).await;
    let token = |command: &mut Command| _ = command.env("TRADEWIND_TOKEN", "s3cret");
    let (process, address) = start(agent(&world, DUBLIN, "0.0.0.0:0", token)).await;
    let address = address.replace("0.0.0.0", "127.0.0.1");
    let code =
        async |path: &str, headers: &[(&str, &str)]| get(&address, path, headers).await.map(|(code, _)| code);
    assert_eq!(code("/metrics", &[]).await, Some(401));
    assert_eq!(code("/metrics", &[("Authorization", "Bearer wrong")]).await, Some(401));
    assert_eq!(code("/metrics", &[("Authorization", "Bearer s3cret")]).await, Some(200));
    // "anyone:s3cret", as a browser sends it.
    assert_eq!(code("/metrics", &[("Authorization", "Basic YW55b25lOnMzY3JldA==")]).await, Some(200));
    assert_eq!(code("/healthz", &[]).await, Some(200));
    process.kill().await;

    let (process, address) = start(agent(&world, DUBLIN, "127.0.0.1:0", |_| {})).await;
    assert_eq!(get(&address, "/metrics", &[("Host", "evil.example")]).await.map(|(code, _)| code), Some(403));
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_can_not_be_listened_on_is_an_error() {
    let world = World::prepared(2, PLAIN).await;
    let (code, _, log) = run(agent(&world, DUBLIN, "0.0.0.0:0", |_| {})).await;
    assert_eq!(code, 64, "{log}");
    assert!(log.contains("TRADEWIND_TOKEN"), "{log}");
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let (code, _, log) = run(agent(&world, DUBLIN, &address, |_| {})).await;
    assert_eq!(code, 69, "{log}");
    assert!(log.contains(&address) && log.contains("--listen"), "{log}");
    // Another agent may have the default port already.
    let _first = TcpListener::bind("127.0.0.1:7780").await;
    let mut process = Process::start(world.tradewind(DUBLIN, &["run", "--region", "dublin"]));
    process.says("listening on a free port").await;
    let line = process.says("the page is at").await;
    assert!(!line.contains(":7780/"), "{line}");
    process.kill().await;
    let mut process = Process::start(agent(&world, DUBLIN, "off", |_| {}));
    process.says("replicating").await;
    process.kill().await;
}

/// Two regions as `init` makes them, whose agents report often.
async fn observed() -> World {
    let mut world = World::bare(2).await;
    world.tuning.heartbeat_interval = Duration::from_millis(300);
    world.make_table(DUBLIN, PLAIN, Some(StreamViewType::NewAndOldImages)).await;
    let (code, _, log) = run(world.tradewind(DUBLIN, &["init", "--create-tables"])).await;
    assert_eq!(code, 0, "{log}");
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_measure_the_lag_round_by_round() {
    let world = observed().await;
    let (process, address) = start(agent(&world, DUBLIN, "127.0.0.1:0", |_| {})).await;
    let scrape = || async { get(&address, "/metrics", &[]).await.expect("an answer").1 };
    let at_tokyo = [("region", "dublin"), ("peer", "tokyo")];
    let rounds = |text: &str| metric(text, "tradewind_heartbeat_lag_seconds_count", &at_tokyo);
    let text =
        eventually("two heartbeats", scrape, |text| rounds(text).is_some_and(|rounds| rounds >= 2.0)).await;
    let sum = |name| metric(&text, name, &at_tokyo[..1]).expect("a sum");
    let (lag, delay) =
        (sum("tradewind_heartbeat_lag_seconds_sum"), sum("tradewind_stream_delay_seconds_sum"));
    assert!(0.0 < delay && delay < lag, "the way to the peer begins with the stream: {delay} s of {lag} s");
    // While the peer is away, no round ends there.
    world.link(DUBLIN, TOKYO).cut();
    let delays = |text: &str| metric(text, "tradewind_stream_delay_seconds_count", &at_tokyo[..1]);
    let before = delays(&scrape().await).expect("rounds");
    let text =
        eventually("a heartbeat", scrape, |text| delays(text).is_some_and(|now| now > before + 1.0)).await;
    assert!(rounds(&text) < delays(&text), "{text}");
    world.link(DUBLIN, TOKYO).restore();
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_tells_of_an_agent_that_is_dead() {
    let world = observed().await;
    let (dead, _) = start(agent(&world, DUBLIN, "127.0.0.1:0", |_| {})).await;
    let (survivor, address) = start(agent(&world, TOKYO, "127.0.0.1:0", |_| {})).await;
    let status = |most: &str| run_json(world.tradewind(TOKYO, &["status", "--max-lag", most]));
    let well = |told: &(i32, serde_json::Value)| told.0 == 0;
    let told = eventually("two regions that are well", || status("1h"), well).await.1;
    assert_eq!(told["over"], false, "{told:#}");
    assert!(
        told["regions"].as_array().expect("regions").iter().all(|region| region["heard"] == true),
        "{told:#}"
    );
    dead.kill().await;
    // The survivor's metrics, and what anyone can read in the control tables, rise together.
    let from_dublin = [("region", "tokyo"), ("origin", "dublin")];
    let scrape = || async { get(&address, "/metrics", &[]).await.expect("an answer").1 };
    let age = |text: &str| metric(text, "tradewind_heartbeat_age_seconds", &from_dublin);
    eventually("silence", scrape, |text| age(text).is_some_and(|age| age > 3.0)).await;
    assert!(metric(&scrape().await, "tradewind_arrival_age_seconds", &from_dublin).is_some());
    let told = eventually("a lag that rises", || status("2s"), |told| told.0 == 1).await.1;
    assert_eq!(told["over"], true, "{told:#}");
    let age = || async {
        let (_, page) = get(&address, "/api/overview", &[]).await.expect("an answer");
        let page: serde_json::Value = serde_json::from_str(&page).expect("JSON");
        let link = page["links"].as_array().expect("links").iter().find(|link| link["origin"] == "dublin");
        link.expect("dublin → tokyo")["watermark_age"].as_f64()
    };
    eventually("the page to tell so", age, |age| *age > Some(3.0)).await;
    // One region that answers tells of all; the other one is named.
    world.link(TOKYO, DUBLIN).cut();
    let told = status("2s").await.1;
    assert_eq!(told["silent"][0]["region"], "dublin", "{told:#}");
    assert_eq!(told["links"].as_array().map(Vec::len), Some(2), "{told:#}");
    survivor.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_that_is_not_known_is_over_every_bound() {
    let world = observed().await;
    let (code, told) = run_json(world.tradewind(DUBLIN, &["status", "--max-lag", "1h"])).await;
    assert_eq!((code, &told["longest_lag"]), (1, &serde_json::Value::Null), "{told:#}");
    let (code, text, _) = run(world.tradewind(DUBLIN, &["status"])).await;
    assert_eq!(code, 0);
    assert!(text.contains("dublin: no agent has reported"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_shard_is_not_read_is_not_alive() {
    let mut world = World::prepared(2, PLAIN).await;
    world.tuning.liveness_timeout = Duration::from_secs(3);
    let stuck = Arc::new(AtomicBool::new(false));
    let tamper = {
        let stuck = Arc::clone(&stuck);
        move |operation: &str, _: &str| {
            let hold = operation == "GetRecords" && stuck.load(Ordering::Relaxed);
            // Not the stream's failure, which a new process would meet, too.
            if hold { Fate::Fail("ExpiredIteratorException") } else { Fate::Pass }
        }
    };
    world.tamper(DUBLIN, DUBLIN, tamper).await;
    let (process, address) = start(agent(&world, DUBLIN, "127.0.0.1:0", |_| {})).await;
    let health = || get(&address, "/healthz", &[]);
    eventually(
        "a ready agent",
        || get(&address, "/readyz", &[]),
        |answer| *answer == Some((200, "ok".to_owned())),
    )
    .await;
    assert_eq!(health().await, Some((200, "ok".to_owned())));
    stuck.store(true, Ordering::Relaxed);
    eventually("a red light", health, |answer| *answer == Some((503, "halted".to_owned()))).await;
    stuck.store(false, Ordering::Relaxed);
    eventually("a green one", health, |answer| *answer == Some((200, "ok".to_owned()))).await;
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_marked_is_told_everywhere_until_it_is_verified() {
    let world = observed().await;
    let (process, address) = start(agent(&world, DUBLIN, "127.0.0.1:0", |_| {})).await;
    world.mark(2000).await;
    let of_table = [("region", "dublin"), ("table", world.table.as_str())];
    let marks = || async {
        metric(&get(&address, "/metrics", &[]).await.expect("an answer").1, "tradewind_marks", &of_table)
    };
    eventually("the mark in the metrics", marks, |marks| *marks == Some(1.0)).await;
    let status = || async { run(world.tradewind(TOKYO, &["status"])).await.1 };
    eventually("the mark in another region", status, |text| text.contains("run `tradewind verify`")).await;
    let (code, _, log) = run(world.tradewind(DUBLIN, &["verify"])).await;
    assert_eq!(code, 0, "{log}");
    eventually("no mark", marks, |marks| *marks == Some(0.0)).await;
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_difference_that_verify_finds_is_told_until_a_later_one_finds_none() {
    let world = observed().await;
    // It looks like an agent's, so no agent replicates it.
    world.put(TOKYO, stamped(TOKYO, row("extra", "one"), 1000)).await;
    let (process, address) = start(agent(&world, DUBLIN, "127.0.0.1:0", |_| {})).await;
    let verify = || run(world.tradewind(TOKYO, &["verify", "--settle", "0s"]));
    let of_table = [("region", "dublin"), ("table", world.table.as_str())];
    let figures = || async {
        let text = get(&address, "/metrics", &[]).await.expect("an answer").1;
        let page = get(&address, "/api/overview", &[]).await.expect("an answer").1;
        // Nothing while it starts.
        let page: serde_json::Value = serde_json::from_str(&page).unwrap_or_default();
        let age = metric(&text, "tradewind_verified_age_seconds", &of_table);
        let differing = metric(&text, "tradewind_verified_differing", &of_table);
        (differing, age.is_some(), page["verified"][0]["items_differing"].as_u64())
    };
    assert_eq!(figures().await, (None, false, None));
    for (code, differing, told) in
        [(1, 1_u32, "1 items compared, 1 differing"), (0, 0, "0 items compared, 0 differing")]
    {
        let (ended, _, log) = verify().await;
        assert_eq!(ended, code, "{log}");
        let expected = (Some(f64::from(differing)), true, Some(differing.into()));
        eventually("the result in the metrics and on the page", figures, |figures| *figures == expected)
            .await;
        let status = || async { run(world.tradewind(TOKYO, &["status"])).await.1 };
        eventually("the result in another region", status, |text| text.contains(told)).await;
        world.delete(TOKYO, key("extra")).await;
    }
    process.kill().await;
}

/// Four agents and as many tables are much for a slow engine.
const LONG: Duration = Duration::from_mins(4);
const LOOK: Duration = Duration::from_millis(250);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agents_of_a_crew_are_put_together_and_counted_once() {
    let mut world = observed().await;
    let first = world.table.clone();
    world.pattern = Some(format!("{first}*"));
    let others = ["-two", "-three"].map(|end| format!("{first}{end}"));
    for name in &others {
        name.clone_into(&mut world.table);
        for region in world.regions() {
            world.make_table(region, PLAIN, Some(StreamViewType::NewAndOldImages)).await;
        }
    }
    let tables = [vec![first], others.into()].concat();
    let mut crew = Vec::new();
    for _ in 0..3 {
        crew.push(start(agent(&world, DUBLIN, "127.0.0.1:0", |_| {})).await);
    }
    let (tokyo, address) = start(agent(&world, TOKYO, "127.0.0.1:0", |_| {})).await;
    let dublin = |told: &serde_json::Value| {
        let regions = told["regions"].as_array().cloned().unwrap_or_default();
        regions.into_iter().find(|region| region["region"] == "dublin").unwrap_or_default()
    };
    // The shards of each table, by agent, as all agents together tell.
    let owners = |region: &serde_json::Value| -> Vec<(String, String)> {
        let agents = region["agents"].as_array().cloned().unwrap_or_default();
        let of_agent = |agent: &serde_json::Value| -> Vec<(String, String)> {
            let tables = agent["tables"].as_array().cloned().unwrap_or_default();
            let owned = tables.iter().filter(|table| table["shard_count"] == 1);
            owned.map(|table| (table["table"].to_string(), agent["agent"].to_string())).collect()
        };
        let mut owners: Vec<_> = agents.iter().flat_map(of_agent).collect();
        owners.sort();
        owners
    };
    // As one of the crew sees it, as another region does, and as the command does.
    let all = async |crew: &[(Process, String)]| {
        let mut told = vec![run_json(world.tradewind(TOKYO, &["status"])).await.1];
        for address in crew.iter().map(|(_, address)| address).chain([&address]) {
            let page = get(address, "/api/overview", &[]).await.expect("an answer").1;
            told.push(serde_json::from_str(&page).unwrap_or_default());
        }
        told.iter().map(dublin).collect::<Vec<_>>()
    };
    let each_is_read_once = |told: &Vec<serde_json::Value>, agents: usize| {
        told.iter().all(|region| {
            let owners = owners(region);
            let names: Vec<_> = owners.iter().map(|(table, _)| table.trim_matches('"').to_owned()).collect();
            let mut expected = tables.clone();
            expected.sort();
            region["agents"].as_array().map(Vec::len) == Some(agents) && names == expected
        })
    };
    eventually_within(LONG, LOOK, "one owner a table", || all(&crew), |told| each_is_read_once(told, 3))
        .await;
    let writes = tables.len() * 4;
    for (i, table) in (0..writes).zip(tables.iter().cycle()) {
        let put = world.app(DUBLIN).put_item().table_name(table).set_item(Some(row(&i.to_string(), "1")));
        put.send().await.expect("a put");
    }
    let replicated =
        |told: &Vec<serde_json::Value>| told.iter().all(|region| region["total"]["replicated"] == writes);
    eventually_within(LONG, LOOK, "each write counted once", || all(&crew), replicated).await;

    // One that is killed is gone, and its tables are another's.
    crew.remove(0).0.kill().await;
    eventually_within(LONG, LOOK, "two agents", || all(&crew), |told| each_is_read_once(told, 2)).await;
    for (process, _) in crew.drain(..) {
        process.kill().await;
    }
    // Of a region without any, the last one is shown as silent.
    let silent = |told: &Vec<serde_json::Value>| {
        told.iter().all(|region| region["heard"] == false && region["agents"][0]["heard"] == false)
    };
    eventually_within(LONG, LOOK, "silence", || all(&[]), silent).await;
    tokyo.kill().await;
}
