//! What answers in the place of the service (a proxy, a gateway) is not taken for it, whatever its status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::items::{key, row};
use crate::process::{run, run_json};
use crate::world::{PLAIN, World, eventually};
use tokio::time::Instant;
use tradewind_proxy::{Fate, Tamper};

const DUBLIN: usize = 0;
const TOKYO: usize = 1;

/// What gateways say when all is well with them.
const HOLLOW: [&str; 5] =
    ["", "{}", "null", r#"{"Records":[]}"#, r#"{"Items":[],"Count":0,"ScannedCount":0}"#];

/// Says each of these things once to each of some operations, one time in two.
#[derive(Default)]
struct Gateway(Arc<Mutex<BTreeMap<String, usize>>>);

impl Gateway {
    /// How many calls it has answered, by operation.
    fn answered(&self) -> Arc<Mutex<BTreeMap<String, usize>>> {
        Arc::clone(&self.0)
    }
}

impl Tamper for Gateway {
    fn request(&self, operation: &str, _body: &str) -> Fate {
        let mut calls = self.0.lock().unwrap();
        let call = calls.entry(operation.to_owned()).or_default();
        *call += 1;
        match HOLLOW.get((*call - 1) / 2) {
            Some(body) if (*call).is_multiple_of(2) => Fate::Intercept(200, body),
            _ => Fate::Pass,
        }
    }
}

async fn heard_all(operation: &str, calls: &Mutex<BTreeMap<String, usize>>) {
    let see = || async { calls.lock().unwrap().get(operation).copied() };
    eventually(operation, see, |calls| *calls > Some(2 * HOLLOW.len())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_ends_no_shard_and_loses_no_write() {
    let mut world = World::prepared(2, PLAIN).await;
    let (own, away) = (Gateway::default(), Gateway::default());
    let (own_calls, away_calls) = (own.answered(), away.answered());
    world.tamper(DUBLIN, DUBLIN, own).await;
    world.tamper(DUBLIN, TOKYO, away).await;
    world.start_agents().await;
    for i in 0..30 {
        world.put(DUBLIN, row(&format!("key {i}"), "one")).await;
    }
    for operation in ["GetRecords", "Query"] {
        heard_all(operation, &own_calls).await;
    }
    heard_all("PutItem", &away_calls).await;
    assert_eq!(world.converged().await.len(), 30);
    assert!(world.tally(DUBLIN).retries >= 5, "{:?}", world.tally(DUBLIN));
    let ended = |rows: &Vec<_>| format!("{rows:?}").contains("SHARD_END");
    let leases = world.control_rows(DUBLIN, "lease/").await;
    assert!(!ended(&leases), "{leases:?}");
    // For ever would be until the next start, and beyond.
    world.stop_agent(DUBLIN).await;
    world.start_agent(DUBLIN).await;
    world.put(DUBLIN, row("late", "one")).await;
    world.await_item(TOKYO, &key("late"), &row("late", "one")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_that_a_gateway_answers_ends_no_comparison() {
    let mut world = World::prepared(2, PLAIN).await;
    for i in 0..10 {
        world.put(DUBLIN, row(&format!("key {i}"), "one")).await;
    }
    world.tamper(DUBLIN, DUBLIN, Gateway::default()).await;
    let scan = |world: &World| run_json(world.tradewind(DUBLIN, &["verify", "--settle", "0s"]));
    // The SDK tries again by itself; what it is told each time, it can't make up for.
    let (code, verdict) = scan(&world).await;
    assert_eq!((code, &verdict["tables"][0]["items_differing"]), (1, &10.into()), "{verdict:#}");
    let always = |operation: &str, _: &str| match operation {
        "Scan" => Fate::Intercept(200, r#"{"Items":[],"Count":0,"ScannedCount":0}"#),
        _ => Fate::Pass,
    };
    world.tamper(DUBLIN, DUBLIN, always).await;
    let (code, _, log) = run(world.tradewind(DUBLIN, &["verify", "--settle", "0s"])).await;
    assert_eq!(code, 69, "{log}");
    let table = &world.table;
    assert!(log.contains("HTTP 200 to Scan, but not from DynamoDB: it has neither"), "{log}");
    assert!(log.contains("dublin") && log.contains(table), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxys_page_is_told_with_its_status() {
    let mut world = World::prepared(2, PLAIN).await;
    let statuses = [403, 404, 407, 429, 502, 503];
    let count = AtomicU32::new(0);
    let page = move |operation: &str, _: &str| {
        let turn = if operation == "GetRecords" { count.fetch_add(1, Ordering::Relaxed) } else { u32::MAX };
        let status = usize::try_from(turn).ok().and_then(|turn| statuses.get(turn));
        status.map_or(Fate::Pass, |status| Fate::Intercept(*status, "<html><title>A proxy</title></html>"))
    };
    world.tamper(DUBLIN, DUBLIN, page).await;
    let mut process = world.start_process(DUBLIN);
    for status in statuses {
        let line = process.says(&format!("HTTP {status} to GetRecords, but not from DynamoDB")).await;
        assert!(
            line.contains("it is a page that begins") && line.contains("<title>A proxy</title>"),
            "{line}"
        );
        assert!(line.contains("region=dublin") && line.contains(&world.table), "{line}");
    }
    world.put(DUBLIN, row("a", "one")).await;
    world.await_item(TOKYO, &key("a"), &row("a", "one")).await;
    // It is told afterwards, too, in every region.
    let status = || async { run(world.tradewind(TOKYO, &["status"])).await.1 };
    let told = eventually("the page in status", status, |text| text.contains("answers to an agent")).await;
    let line = told.lines().find(|line| line.contains("answers to an agent")).unwrap_or_default();
    assert!(line.starts_with("dublin: 6 answers to an agent were not dublin's own, the last one "), "{told}");
    assert!(line.contains(": HTTP 503 to GetRecords, but not from DynamoDB: it is a page"), "{told}");
    let (_, doctor) = run_json(world.tradewind(TOKYO, &["doctor"])).await;
    let found = doctor["findings"].as_array().expect("findings");
    assert!(found.iter().any(|found| found["name"] == "intercepted"), "{doctor:#}");
    process.kill().await;
}

/// Counts the calls for iterators, and answers that all is trimmed while it is told to.
struct Trimmed {
    asked: Arc<AtomicU32>,
    is_over: Arc<AtomicBool>,
}

impl Tamper for Trimmed {
    fn request(&self, operation: &str, _body: &str) -> Fate {
        if operation != "GetShardIterator" || self.is_over.load(Ordering::Relaxed) {
            return Fate::Pass;
        }
        self.asked.fetch_add(1, Ordering::Relaxed);
        Fate::Fail("TrimmedDataAccessException")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn iterators_that_are_of_no_use_are_asked_for_ever_more_rarely_and_told() {
    let mut world = World::prepared(2, PLAIN).await;
    let (asked, is_over) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let trimmed = Trimmed { asked: Arc::clone(&asked), is_over: Arc::clone(&is_over) };
    world.tamper(DUBLIN, DUBLIN, trimmed).await;
    let mut process = world.start_process(DUBLIN);
    let line = process.says("no usable iterator").await;
    assert!(line.contains("times=4") && line.contains("region=dublin"), "{line}");
    let line = process.says("no usable iterator").await;
    assert!(line.contains("times=8"), "{line}");
    // 100, 200, 400 ms and so on, without a pause it would be hundreds by now.
    let asked = asked.load(Ordering::Relaxed);
    assert!((8..=9).contains(&asked), "{asked}");
    is_over.store(true, Ordering::Relaxed);
    world.put(DUBLIN, row("a", "one")).await;
    world.await_item(TOKYO, &key("a"), &row("a", "one")).await;
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_was_never_begun_and_is_partly_trimmed_marks_the_table() {
    let mut world = World::prepared(2, PLAIN).await;
    // What the agent takes for trimmed is what it is told about the stream; no engine trims on demand.
    world.tuning.stream_retention = Duration::from_secs(2);
    let is_over = Arc::new(AtomicBool::new(false));
    let trimmed = Trimmed { asked: Arc::default(), is_over: Arc::clone(&is_over) };
    world.tamper(DUBLIN, DUBLIN, trimmed).await;
    world.start_agent(DUBLIN).await;
    let made = || async { world.control_rows(DUBLIN, "lease/").await.len() };
    eventually("a lease", made, |rows| *rows > 0).await;
    assert_eq!(world.control_rows(DUBLIN, "gap/").await, []);
    world.crash_agent(DUBLIN);
    let crashed = Instant::now();
    // The service's clock, which decides, tells whole seconds.
    let later = || async { crashed.elapsed() };
    eventually("what is older than it keeps", later, |gone| *gone > Duration::from_secs(4)).await;
    is_over.store(true, Ordering::Relaxed);
    world.start_agent(DUBLIN).await;
    let marks = || async { world.control_rows(DUBLIN, "gap/").await.len() };
    eventually("a mark", marks, |marks| *marks == 1).await;
    assert_eq!(world.tally(DUBLIN).gaps, 1);
    let (code, verdict) = run_json(world.tradewind(DUBLIN, &["verify", "--settle", "0s"])).await;
    assert_eq!((code, verdict["tables"][0]["gaps"].as_array().map(Vec::len)), (0, Some(1)), "{verdict:#}");
}
