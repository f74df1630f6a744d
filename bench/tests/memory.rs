//! What a key costs in memory while it is remembered:
//! `cargo test --release -p tradewind-bench --test memory -- --ignored --nocapture`

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a measurement, for people")]

use aws_sdk_dynamodb::types::AttributeValue;
use tradewind::protocol::{Floors, Item, KeyMemory, Record};

const KEYS: u64 = 500_000;

/// The memory of this process that is resident, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * 4_096
}

#[test]
#[ignore = "a measurement"]
fn bytes_per_key() {
    let mut memory = KeyMemory::new("tokyo".parse().expect("a name"));
    let floors = Floors::default();
    let before = resident();
    for i in 0..KEYS {
        let key = Item::from([("id".to_owned(), AttributeValue::S(format!("customer-{i}")))]);
        let mut new = key.clone();
        new.insert("v".to_owned(), AttributeValue::S("a value".to_owned()));
        let record = Record { created_millis: 1_795_000_000_000 + i, key, old: None, new: Some(new) };
        memory.judge(i, record, &floors, false);
    }
    assert_eq!(memory.len(), usize::try_from(KEYS).expect("few"));
    println!("{} bytes a key, of {KEYS} keys written once", (resident() - before) / KEYS);
}
