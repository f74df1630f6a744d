//! Keys beyond what memory is to hold: they are on disk, whatever a backlog is made of.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_dynamodb::types::{PutRequest, WriteRequest};
use serde_json::Value;
use tokio::task::JoinHandle;
use tradewind::agent::Figures;
use tradewind_proxy::Tamper;

use crate::items::{key, row};
use crate::process::run;
use crate::world::{PLAIN, World, eventually, eventually_within};

const DUBLIN: usize = 0;
const TOKYO: usize = 1;
const OREGON: usize = 2;

const ROOM: usize = 200;
/// Three keys for each track that may run.
const MARGIN: usize = 15;
/// A backlog takes some time on a machine that is busy.
const LONG: Duration = Duration::from_mins(5);

/// The most keys that an agent has been seen to hold, in memory and on disk.
struct Most {
    seen: Arc<Mutex<(usize, usize)>>,
    looking: JoinHandle<()>,
}

impl Most {
    fn of(world: &World, region: usize) -> Self {
        let figures: Figures = world.agent(region).figures().clone();
        let seen = Arc::new(Mutex::default());
        let told = Arc::clone(&seen);
        let looking = tokio::spawn(async move {
            loop {
                let (in_memory, on_disk) = figures.remembered();
                {
                    let mut most: std::sync::MutexGuard<'_, (usize, usize)> = told.lock().unwrap();
                    *most = (most.0.max(in_memory), most.1.max(on_disk));
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        Self { seen, looking }
    }

    /// Most of the backlog was on disk at once, and never more in memory than there is room.
    fn assert_bounded(self, keys: u64) {
        self.looking.abort();
        let keys = usize::try_from(keys).unwrap();
        let (in_memory, on_disk) = *self.seen.lock().unwrap();
        assert!(
            in_memory <= ROOM + MARGIN && on_disk >= keys / 4 * 3,
            "{in_memory} in memory, {on_disk} on disk"
        );
    }
}

async fn put_many(world: &World, region: usize, keys: u64, text: &str) {
    let ids: Vec<u64> = (0..keys).collect();
    for chunk in ids.chunks(25) {
        let put = |id: &u64| {
            let put = PutRequest::builder().set_item(Some(row(&format!("key {id}"), text))).build();
            WriteRequest::builder().put_request(put.expect("a whole request")).build()
        };
        let batch = world.app(region).batch_write_item();
        let batch = batch.request_items(&world.table, chunk.iter().map(put).collect());
        let left = batch.send().await.expect("a batch").unprocessed_items.unwrap_or_default();
        assert!(left.is_empty(), "{left:?}");
    }
}

async fn has_come(world: &World, region: usize, keys: u64) {
    let echoes = || async { world.tally(region).echoes };
    eventually_within(
        LONG,
        Duration::from_millis(50),
        &format!("{keys} keys in {}", world.name(region)),
        echoes,
        |seen| *seen >= keys,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_takes_no_more_memory_than_it_may() {
    const KEYS: u64 = 5_000;
    let mut world = World::prepared(2, PLAIN).await;
    world.tuning.memory_keys = ROOM;
    world.tuning.concurrency = 64;
    put_many(&world, DUBLIN, KEYS, "one").await;
    world.start_agents().await;
    let most = Most::of(&world, DUBLIN);
    has_come(&world, TOKYO, KEYS / 5).await;
    most.looking.abort();
    // What is on disk is no more than memory: the same again.
    world.crash_agent(DUBLIN);
    world.start_agent(DUBLIN).await;
    let most = Most::of(&world, DUBLIN);
    has_come(&world, TOKYO, KEYS).await;
    world.quiet().await;
    // Known from the disk, a newer write of a key that was moved there is told from an older one.
    world.put(TOKYO, row("key 17", "tokyo's")).await;
    world.put(DUBLIN, row("key 18", "two")).await;
    world.delete(DUBLIN, key("key 19")).await;
    let contents = world.converged().await;
    assert_eq!(contents.len(), usize::try_from(KEYS).unwrap() - 1);
    world.await_item(DUBLIN, &key("key 17"), &row("key 17", "tokyo's")).await;
    world.await_item(TOKYO, &key("key 18"), &row("key 18", "two")).await;
    most.assert_bounded(KEYS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_away_takes_no_more_memory_than_it_may() {
    const KEYS: u64 = 1_000;
    let mut world = World::prepared(3, PLAIN).await;
    world.tuning.memory_keys = ROOM;
    // The peer gets a cursor of its own soon.
    world.tuning.queue_mib = 1;
    world.tuning.concurrency = 64;
    world.cut_off(OREGON);
    world.start_agents().await;
    put_many(&world, DUBLIN, KEYS, &"x".repeat(1_000)).await;
    has_come(&world, TOKYO, KEYS).await;
    world.crash_agent(DUBLIN);
    world.start_agent(DUBLIN).await;
    let most = Most::of(&world, DUBLIN);
    world.rejoin(OREGON);
    has_come(&world, OREGON, KEYS).await;
    assert_eq!(world.converged().await.len(), usize::try_from(KEYS).unwrap());
    most.assert_bounded(KEYS);
}

/// Says, once it is told to, that every shard has ended, to whoever reads past its last record.
struct Ends(Arc<AtomicBool>);

impl Tamper for Ends {
    fn answer(&self, operation: &str, body: String) -> String {
        if !self.0.load(Ordering::Relaxed) {
            return body;
        }
        let mut answer: Value = serde_json::from_str(&body).unwrap();
        match operation {
            "DescribeStream" => {
                for shard in answer["StreamDescription"]["Shards"].as_array_mut().unwrap() {
                    shard["SequenceNumberRange"]["EndingSequenceNumber"] = "99999999999999999999999".into();
                }
            }
            "GetRecords" if answer["Records"].as_array().is_some_and(Vec::is_empty) => {
                answer.as_object_mut().unwrap().remove("NextShardIterator");
            }
            _ => return body,
        }
        answer.to_string()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_has_ended_keeps_no_keys_while_a_peer_is_away() {
    let mut world = World::prepared(2, PLAIN).await;
    let ends = Arc::new(AtomicBool::new(false));
    world.tamper(DUBLIN, DUBLIN, Ends(Arc::clone(&ends))).await;
    world.start_agents().await;
    world.cut_off(TOKYO);
    for i in 0..50 {
        world.put(DUBLIN, row(&format!("key {i}"), "one")).await;
    }
    let keys = || async { world.agent(DUBLIN).figures().remembered() };
    eventually("fifty keys", keys, |keys| *keys == (50, 0)).await;
    ends.store(true, Ordering::Relaxed);
    eventually("no keys", keys, |keys| *keys == (0, 0)).await;
    // Its agent still has to bring them.
    assert_eq!(world.contents(TOKYO).await.len(), 0);
    world.rejoin(TOKYO);
    let arrived = || async { world.contents(TOKYO).await.len() };
    eventually("all of it", arrived, |arrived| *arrived == 50).await;
    let ended =
        || async { format!("{:?}", world.control_rows(DUBLIN, "lease/").await).matches("SHARD_END").count() };
    eventually("a shard that is done for both", ended, |ended| *ended >= 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_cant_be_moved_to_disk_stay_in_memory_and_that_is_told() {
    let mut world = World::prepared(2, PLAIN).await;
    // A file, whoever asks.
    world.more = "memory_keys = 5\nspill_directory = \"/dev/null\"\n";
    let mut process = world.start_process(DUBLIN);
    let line = process.says("can't be moved to disk; then they stay in memory").await;
    assert!(line.contains("can't make a file in /dev/null") && line.contains("memory_keys=5"), "{line}");
    assert!(line.contains("spill_directory"), "{line}");
    world.start_agent(TOKYO).await;
    for i in 0..20 {
        world.put(DUBLIN, row(&format!("key {i}"), "one")).await;
    }
    let line = process.says("they stay in memory").await;
    assert!(line.contains("can't make a file in /dev/null") && line.contains(&world.table), "{line}");
    has_come(&world, TOKYO, 20).await;
    let status = || async { run(world.tradewind(DUBLIN, &["status"])).await.1 };
    eventually_within(LONG, Duration::from_millis(50), "status", status, |text| {
        text.contains("dublin: remembered keys could not be moved to disk, or read from there, 1 times")
    })
    .await;
    process.kill().await;
    world.start_agent(DUBLIN).await;
    assert_eq!(world.converged().await.len(), 20);
}
