//! A service's clock that is hours ahead for a while, and then right again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::primitives::{DateTime, DateTimeFormat};
use serde_json::Value;
use tradewind::protocol::Stamp;
use tradewind_proxy::Tamper;

use crate::items::{key, row};
use crate::process::run_json;
use crate::world::{PLAIN, World, eventually};

const DUBLIN: usize = 0;
const TOKYO: usize = 1;
const AHEAD: Duration = Duration::from_hours(9);

/// A region's service as its agent sees it.
#[derive(Clone, Default)]
struct Clock(Arc<AtomicBool>);

impl Clock {
    fn set_ahead(&self, is_ahead: bool) {
        self.0.store(is_ahead, Ordering::Relaxed);
    }

    fn is_ahead(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[expect(clippy::disallowed_methods, reason = "the clock that is to be ahead")]
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time of our era")
}

impl Tamper for Clock {
    fn answer(&self, operation: &str, body: String) -> String {
        if operation != "GetRecords" || !self.is_ahead() {
            return body;
        }
        let mut answer: Value = serde_json::from_str(&body).expect("JSON");
        for record in answer["Records"].as_array_mut().into_iter().flatten() {
            let created = &mut record["dynamodb"]["ApproximateCreationDateTime"];
            *created = (created.as_f64().expect("a time") + AHEAD.as_secs_f64()).into();
        }
        answer.to_string()
    }

    fn date(&self) -> Option<String> {
        let ahead = DateTime::from_secs(i64::try_from((now() + AHEAD).as_secs()).expect("a time of our era"));
        self.is_ahead().then(|| ahead.fmt(DateTimeFormat::HttpDate).expect("a date"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_was_ahead_brings_nothing_back() {
    let clock = Clock::default();
    let mut world = World::prepared(2, PLAIN).await;
    world.tamper(DUBLIN, DUBLIN, clock.clone()).await;
    world.start_agents().await;
    clock.set_ahead(true);
    for pk in ["a", "b", "c"] {
        world.put(DUBLIN, row(pk, "ahead")).await;
    }
    world.delete(DUBLIN, key("c")).await;
    world.converged().await;
    clock.set_ahead(false);
    let seen = || async { world.control_rows(TOKYO, "watermark/").await };
    let is_told = |rows: &Vec<_>| !rows.is_empty();
    eventually("a watermark of dublin's", seen, is_told).await;
    for i in 0..12 {
        let pk = format!("deleted {i}");
        world.put(DUBLIN, row(&pk, "short-lived")).await;
        world.await_item(TOKYO, &key(&pk), &row(&pk, "short-lived")).await;
        world.delete(DUBLIN, key(&pk)).await;
    }
    let contents = world.converged().await;
    assert_eq!(contents.len(), 2, "deleted items are back: {contents:?}");
    world.still_quiet().await;
    assert_eq!(world.total().conflicts, 0);
    let most = u64::try_from((now() + Duration::from_mins(1)).as_millis()).expect("a time of our era");
    for pk in ["a", "b"] {
        let stored = world.stored(TOKYO, &key(pk)).await.expect("an item");
        let version = Stamp::read(&stored).expect("a stamp").version;
        assert!(version.hlc.millis() < most, "it wins over whatever comes until then: {version}");
    }
    for row in world.control_rows(TOKYO, "watermark/").await {
        let millis: u64 = row["millis"].as_n().expect("a number").parse().expect("a time");
        assert!(millis < most, "a watermark is ahead: {row:?}");
    }
    let (_, told) = run_json(world.tradewind(DUBLIN, &["doctor"])).await;
    assert!(!told.to_string().contains("watermark_ahead"), "{told:#}");
}
