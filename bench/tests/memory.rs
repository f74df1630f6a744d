//! What a key costs while it is remembered, in memory and on disk:
//! `cargo nextest run --release -p tradewind-bench --test memory --run-ignored only --no-capture`

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a measurement, for people"
)]

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::AttributeValue;
use tradewind::protocol::{Floors, Item, KeyMemory, Origin, Record};
use tradewind::spill::{Keys, Spill};

const KEYS: u64 = 500_000;
/// Of a backlog of hours.
const MANY_KEYS: u64 = 3_000_000;

/// The memory of this process that is resident, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * 4_096
}

/// What the files take up that this process has open and that have no name, in bytes.
fn on_disk() -> u64 {
    let files = std::fs::read_dir("/proc/self/fd").expect("Linux").flatten();
    let unnamed = files.filter(|file| {
        std::fs::read_link(file.path()).is_ok_and(|name| name.to_string_lossy().ends_with(" (deleted)"))
    });
    unnamed.filter_map(|file| std::fs::metadata(file.path()).ok()).map(|data| data.blocks() * 512).sum()
}

fn region() -> Origin {
    "tokyo".parse().expect("a name")
}

/// Puts of so many keys, one each; how long `judge` takes in all.
fn write(keys: u64, mut judge: impl FnMut(u64, Record)) -> Duration {
    let mut judging = Duration::ZERO;
    for i in 0..keys {
        let key = Item::from([("id".to_owned(), AttributeValue::S(format!("customer-{i}")))]);
        let mut new = key.clone();
        new.insert("v".to_owned(), AttributeValue::S("a value".to_owned()));
        let record = Record { created_millis: 1_795_000_000_000 + i, key, old: None, new: Some(new) };
        let began = Instant::now();
        judge(i, record);
        judging += began.elapsed();
    }
    judging
}

#[test]
#[ignore = "a measurement"]
fn bytes_per_key() {
    let mut memory = KeyMemory::new(region());
    let floors = Floors::default();
    let before = resident();
    let judging = write(KEYS, |i, record| _ = memory.judge(i, record, &floors, false));
    assert_eq!(memory.len(), usize::try_from(KEYS).expect("few"));
    println!("{} bytes a key, of {KEYS} keys written once", (resident() - before) / KEYS);
    println!("{:.1} µs a record", judging.as_secs_f64() * 1e6 / KEYS as f64);
}

#[test]
#[ignore = "a measurement"]
fn a_backlog_partly_on_disk() {
    let floors = Floors::default();
    for room in [100_000, 1_000_000, usize::MAX] {
        let mut keys = Keys::new(region(), &Arc::new(Spill::new(room, None)), &Arc::default());
        let before = resident();
        let judging = write(MANY_KEYS, |i, record| {
            keys.judge(i, record, &floors, false).expect("a disk");
            keys.make_room().expect("a disk");
        });
        let (in_memory, moved) = (keys.in_memory(), keys.on_disk());
        println!(
            "{MANY_KEYS} keys, {in_memory} of them in memory: {} MB more resident, {} bytes a key on disk, {:.1} µs a record",
            (resident() - before) / 1_000_000,
            on_disk() / u64::try_from(moved.max(1)).expect("few"),
            judging.as_secs_f64() * 1e6 / MANY_KEYS as f64,
        );
        let began = Instant::now();
        drop(keys);
        println!("forgotten in {} ms", began.elapsed().as_millis());
    }
}
