//! Services that throttle, refuse, fail, or lose an answer: writes arrive all the same, once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use tradewind::control::SK;

use crate::items::{key, row};
use crate::process::run_json;
use crate::world::{PLAIN, World, eventually, writes};
use tradewind_proxy::{Fate, Tamper};

const DUBLIN: usize = 0;
const TOKYO: usize = 1;
const OREGON: usize = 2;

/// Fails the first writes to an application's table.
fn fail_first(count: u32, code: &'static str) -> impl Tamper {
    let left = AtomicU32::new(count);
    move |operation: &str, body: &str| {
        let take = |left: u32| left.checked_sub(1);
        if writes(operation, body) && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            Fate::Fail(code)
        } else {
            Fate::Pass
        }
    }
}

async fn fails_at_first(count: u32, code: &'static str) -> World {
    let mut world = World::prepared(3, PLAIN).await;
    world.tamper(DUBLIN, TOKYO, fail_first(count, code)).await;
    world.start_agents().await;
    for i in 0..5 {
        world.put(DUBLIN, row(&format!("key {i}"), "one")).await;
    }
    for i in 0..5 {
        world.await_item(OREGON, &key(&format!("key {i}")), &row(&format!("key {i}"), "one")).await;
    }
    assert_eq!(world.converged().await.len(), 5);
    assert_eq!(world.tally(DUBLIN).dead_letters, 0);
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_throttles_gets_every_write_in_the_end() {
    let world = fails_at_first(12, "ProvisionedThroughputExceededException").await;
    let tally = world.tally(DUBLIN);
    assert_eq!((tally.throttled, tally.retries), (12, 0), "{tally:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_fails_gets_every_write_in_the_end() {
    let world = fails_at_first(12, "InternalServerError").await;
    let tally = world.tally(DUBLIN);
    assert_eq!((tally.throttled, tally.retries), (0, 12), "{tally:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_refuses_for_a_while_holds_nobody_up_and_gets_every_write() {
    let world = fails_at_first(5, "AccessDeniedException").await;
    let tally = world.tally(DUBLIN);
    assert_eq!((tally.throttled, tally.retries), (0, 5), "{tally:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_answer_is_lost_takes_effect_once() {
    let mut world = World::prepared(2, PLAIN).await;
    let count = AtomicU32::new(0);
    let lose = move |operation: &str, body: &str| {
        let second = writes(operation, body) && count.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        if second { Fate::LoseAnswer } else { Fate::Pass }
    };
    world.tamper(DUBLIN, TOKYO, lose).await;
    world.start_agents().await;
    for i in 0..10 {
        world.put(DUBLIN, row(&format!("key {i}"), "one")).await;
    }
    assert_eq!(world.converged().await.len(), 10);
    for i in 0..10 {
        world.delete(DUBLIN, key(&format!("key {i}"))).await;
    }
    assert_eq!(world.converged().await.len(), 0);
    world.still_quiet().await;
    // What was applied though its answer was lost is turned down when it comes again; only a mark
    // whose item is gone by then is set once more, and applied once more.
    let (sent, applied) = (world.tally(DUBLIN), world.tally(TOKYO));
    assert!(sent.retries > 0, "{sent:?}");
    assert_eq!((sent.local_puts, sent.local_deletes, sent.echoes), (10, 10, 0), "{sent:?}");
    assert_eq!((applied.local_puts, applied.local_deletes), (0, 0), "{applied:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_iterator_is_asked_for_again() {
    let mut world = World::prepared(2, PLAIN).await;
    let count = AtomicU32::new(0);
    let expire = move |operation: &str, _: &str| {
        let third = operation == "GetRecords" && count.fetch_add(1, Ordering::Relaxed) % 3 == 2;
        if third { Fate::Fail("ExpiredIteratorException") } else { Fate::Pass }
    };
    world.tamper(DUBLIN, DUBLIN, expire).await;
    world.start_agents().await;
    for i in 0..30 {
        world.put(DUBLIN, row(&format!("key {i}"), "one")).await;
        world.await_item(TOKYO, &key(&format!("key {i}")), &row(&format!("key {i}"), "one")).await;
    }
    assert_eq!(world.converged().await.len(), 30);
    assert_eq!(world.tally(DUBLIN).records, 30);
}

/// Says once that records are gone: before any has been read, or after some have.
struct Trim {
    after_some: bool,
    seen_some: AtomicBool,
    done: AtomicBool,
}

impl Trim {
    fn once(after_some: bool) -> Self {
        Self { after_some, seen_some: AtomicBool::new(false), done: AtomicBool::new(false) }
    }
}

impl Tamper for Trim {
    fn request(&self, operation: &str, _body: &str) -> Fate {
        let due = operation == "GetRecords" && self.seen_some.load(Ordering::Relaxed) == self.after_some;
        if due && !self.done.swap(true, Ordering::Relaxed) {
            Fate::Fail("TrimmedDataAccessException")
        } else {
            Fate::Pass
        }
    }

    fn answer(&self, operation: &str, body: String) -> String {
        if operation == "GetRecords" && body.contains("SequenceNumber") {
            self.seen_some.store(true, Ordering::Relaxed);
        }
        body
    }
}

/// How many gaps are reported; each marks the table until its replicas have been compared.
async fn gaps(trim: Trim) -> u64 {
    let mut world = World::prepared(2, PLAIN).await;
    world.tamper(DUBLIN, DUBLIN, trim).await;
    world.start_agents().await;
    for i in 0..10 {
        world.put(DUBLIN, row(&format!("key {i}"), "one")).await;
        world.await_item(TOKYO, &key(&format!("key {i}")), &row(&format!("key {i}"), "one")).await;
    }
    assert_eq!(world.converged().await.len(), 10);
    let told = world.tally(DUBLIN).gaps;
    let marks = world.control_rows(DUBLIN, "gap/").await;
    assert_eq!(u64::try_from(marks.len()).unwrap(), told, "{marks:?}");
    let (code, verdict) = run_json(world.tradewind(DUBLIN, &["verify", "--settle", "0s"])).await;
    assert_eq!((code, verdict["tables"][0]["gaps"].as_array().map(Vec::len)), (0, Some(marks.len())));
    // What it found stays beside them.
    let left = world.control_rows(DUBLIN, "gap/").await;
    assert!(left.iter().all(|row| row[SK].as_s().is_ok_and(|sk| sk == "verified")), "{left:?}");
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trimmed_records_are_told_and_the_rest_is_read() {
    assert_eq!(gaps(Trim::once(true)).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_horizon_that_moves_before_the_first_read_is_no_gap() {
    assert_eq!(gaps(Trim::once(false)).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_fails_is_not_asked_for_every_key_that_waits() {
    let mut world = World::prepared(2, PLAIN).await;
    world.tuning.concurrency = 2;
    let tried = Arc::new(Mutex::new(BTreeMap::<String, u32>::new()));
    let fails = Arc::new(AtomicBool::new(true));
    let tamper = {
        let (tried, fails) = (Arc::clone(&tried), Arc::clone(&fails));
        move |operation: &str, body: &str| {
            if !writes(operation, body) {
                return Fate::Pass;
            }
            let (_, name) = body.split_once("\"key ").expect("a key");
            let name = name.chars().take_while(char::is_ascii_digit).collect();
            *tried.lock().unwrap().entry(name).or_default() += 1;
            if fails.load(Ordering::Relaxed) { Fate::Fail("InternalServerError") } else { Fate::Pass }
        }
    };
    world.tamper(DUBLIN, TOKYO, tamper).await;
    world.start_agents().await;
    for i in 0..20 {
        world.put(DUBLIN, row(&format!("key {i}"), "one")).await;
    }
    let most = || async { tried.lock().unwrap().values().max().copied() };
    eventually("a fourth try", most, |most| *most >= Some(4)).await;
    assert_eq!(tried.lock().unwrap().len(), 2, "{tried:?}");
    fails.store(false, Ordering::Relaxed);
    assert_eq!(world.converged().await.len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_key_that_is_throttled_stalls_no_other() {
    let mut world = World::prepared(2, PLAIN).await;
    // One write at a time: whoever waits with it keeps all others waiting.
    world.tuning.concurrency = 1;
    let is_hot = Arc::new(AtomicBool::new(true));
    let tamper = {
        let is_hot = Arc::clone(&is_hot);
        move |operation: &str, body: &str| {
            let throttled = writes(operation, body) && body.contains("\"hot\"");
            if throttled && is_hot.load(Ordering::Relaxed) {
                Fate::Fail("ProvisionedThroughputExceededException")
            } else {
                Fate::Pass
            }
        }
    };
    world.tamper(DUBLIN, TOKYO, tamper).await;
    world.start_agents().await;
    for i in 0..20 {
        world.put(DUBLIN, row("hot", &format!("{i}"))).await;
        world.put(DUBLIN, row(&format!("key {i}"), "one")).await;
    }
    for i in 0..20 {
        world.await_item(TOKYO, &key(&format!("key {i}")), &row(&format!("key {i}"), "one")).await;
    }
    assert_eq!(world.get(TOKYO, &key("hot")).await, None);
    assert!(world.tally(DUBLIN).throttled > 0);
    is_hot.store(false, Ordering::Relaxed);
    world.await_item(TOKYO, &key("hot"), &row("hot", "19")).await;
    assert_eq!(world.converged().await.len(), 21);
}
