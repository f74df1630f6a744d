//! Applications and readers, which know nothing about agents.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use tokio::time::{Instant, MissedTickBehavior};

use crate::history::{AppWrite, HOLDER, Operation, Outcome, Read, STAMP, WRITE};
use crate::scenario::Workload;
use crate::wire::{Refusal, Wire, count_of};

/// How often a reader reads.
const LOOK: Duration = Duration::from_millis(50);
/// The owner in the name of keys that all regions write.
const SHARED: &str = "shared";
/// The names of a region's own keys, for items that only count and for locks; and how many there are of each.
const COUNTER: &str = "counter";
const LOCK: &str = "lock";
const SPECIAL: u32 = 2;
/// How many workers compete for a region's locks.
const WORKERS: u8 = 3;
/// How many stamps of copies are kept.
const COPIES: usize = 16;

/// The application of one region.
#[derive(Debug)]
pub struct Application {
    pub region: usize,
    /// The names of all regions.
    pub names: Arc<[String]>,
    /// The start of its keys.
    pub prefix: Arc<str>,
    pub wire: Wire,
    pub workload: Workload,
    pub began: Instant,
    pub rng: fastrand::Rng,
    /// Stamps of items that any region has read: copies travel.
    pub copies: Arc<Mutex<Vec<AttributeValue>>>,
}

impl Application {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Writes for as long as the workload says. Returns what it wrote.
    pub async fn write(mut self) -> Vec<AppWrite> {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / self.workload.rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut writes = Vec::new();
        while self.began.elapsed() < self.workload.lasts {
            ticks.tick().await;
            writes.extend(self.one(writes.len()).await);
        }
        writes
    }

    fn key(&mut self, region: usize) -> String {
        let number = self.rng.u32(0..self.workload.keys);
        let is_shared = self.rng.u8(0..100) < self.workload.conflict_percent;
        let whose = if is_shared { SHARED } else { &self.names[region] };
        format!("{}{whose}-{number}", self.prefix)
    }

    /// A key of a region's own, of this kind.
    fn special(&mut self, kind: &str) -> String {
        format!("{}{}-{kind}-{}", self.prefix, self.names[self.region], self.rng.u32(0..SPECIAL))
    }

    async fn one(&mut self, serial: usize) -> Option<AppWrite> {
        let key = self.key(self.region);
        let id = format!("{} {serial}", self.names[self.region]);
        let payload: String =
            std::iter::repeat_with(|| self.rng.alphanumeric()).take(self.workload.size).collect();
        let mut deal = self.rng.u32(0..self.workload.weights().iter().sum());
        let which = self.workload.weights().iter().position(|weight| match deal.checked_sub(*weight) {
            Some(rest) => {
                deal = rest;
                false
            }
            None => true,
        });
        match which {
            Some(0) => self.put(key, id, payload, Operation::Put, None).await,
            Some(1) => {
                let sent = self.now();
                let made = self.wire.update(&key, &id, payload).await.map(|()| None);
                self.made(key, id, Operation::Update, sent, made)
            }
            Some(2) => {
                let stamp = self.copy(&key).await;
                self.put(key, id, payload, Operation::PutBack, stamp).await
            }
            Some(3) => {
                let sent = self.now();
                let made = self.wire.delete(&key).await.map(|()| None);
                self.made(key, id, Operation::Delete, sent, made)
            }
            Some(4) => self.count(key, id).await,
            _ => self.lock(id).await,
        }
    }

    /// Puts an item, with or without an old copy's stamp.
    async fn put(
        &mut self,
        key: String,
        id: String,
        payload: String,
        operation: Operation,
        stamp: Option<AttributeValue>,
    ) -> Option<AppWrite> {
        let sent = self.now();
        let stamp = stamp.map(|stamp| (STAMP, stamp));
        let made = self.wire.put(&key, &id, payload, stamp).await.map(|()| None);
        self.made(key, id, operation, sent, made)
    }

    /// Increments a count, in an item that all regions write, or in one that only this region's application
    /// writes.
    async fn count(&mut self, key: String, id: String) -> Option<AppWrite> {
        let shared = format!("{}{SHARED}-", self.prefix);
        let key = if key.starts_with(&shared) { key } else { self.special(COUNTER) };
        if key.starts_with(&shared) || self.rng.bool() {
            let sent = self.now();
            let made = self.wire.add(&key, &id).await;
            return self.made(key, id, Operation::Add, sent, made);
        }
        let count = self.wire.get(&key).await.ok()?.as_ref().and_then(count_of);
        let sent = self.now();
        let made = self.wire.swap(&key, &id, count).await.map(Some);
        self.made(key, id, Operation::Swap, sent, made)
    }

    /// Releases a lock if this worker holds it; takes it if nobody does.
    async fn lock(&mut self, id: String) -> Option<AppWrite> {
        let key = self.special(LOCK);
        let me = format!("{}'s worker {}", self.names[self.region], self.rng.u8(0..WORKERS));
        let holder = self.wire.get(&key).await.ok()?.and_then(|item| item.get(HOLDER)?.as_s().ok().cloned());
        let sent = self.now();
        let (operation, made) = match holder {
            Some(holder) if holder == me => (Operation::Unlock, self.wire.unlock(&key, &id, &me).await),
            Some(_) => return None,
            None => (Operation::Lock, self.wire.lock(&key, &id, &me).await),
        };
        self.made(key, id, operation, sent, made.map(|()| None))
    }

    /// What the application knows about a write; `None` for one that was not made.
    fn made(
        &mut self,
        key: String,
        id: String,
        operation: Operation,
        sent: u64,
        made: crate::Result<Option<u64>>,
    ) -> Option<AppWrite> {
        let is_lost = self.rng.u8(0..100) < self.workload.lost_answers_percent;
        let (outcome, count) = match made {
            Ok(_) if is_lost => (Outcome::Maybe, None),
            Ok(count) => (Outcome::Acknowledged, count),
            // What was refused was not made.
            Err(error) if error.is::<Refusal>() => return None,
            Err(_) => (Outcome::Maybe, None),
        };
        Some(AppWrite { id, region: self.region, key, operation, outcome, count, sent, done: self.now() })
    }

    /// All keys that applications of these regions may write.
    pub fn keys(names: &[String], prefix: &str, workload: &Workload) -> Vec<String> {
        let all = |whose: String, many: u32| (0..many).map(move |number| format!("{prefix}{whose}-{number}"));
        let whose = names.iter().map(String::as_str).chain([SHARED]);
        let plain = whose.flat_map(|whose| all(whose.to_owned(), workload.keys));
        let special = names.iter().flat_map(|name| {
            [COUNTER, LOCK].into_iter().flat_map(move |kind| all(format!("{name}-{kind}"), SPECIAL))
        });
        plain.chain(special).collect()
    }

    /// The stamp of an older copy of something.
    async fn copy(&mut self, key: &str) -> Option<AttributeValue> {
        let item = self.wire.get(key).await.ok()?;
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stamp) = item.and_then(|mut item| item.remove(STAMP)) {
            if copies.len() >= COPIES {
                copies.remove(0);
            }
            copies.push(stamp);
        }
        (!copies.is_empty()).then(|| copies[self.rng.usize(0..copies.len())].clone())
    }

    /// Reads items, in any region, until it is dropped.
    pub async fn read(mut self, reads: Arc<Mutex<Vec<Read>>>) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let region = self.rng.usize(0..self.names.len());
            let (key, at) = (self.key(region), self.now());
            if let Ok(item) = self.wire.get(&key).await {
                let write = item.and_then(|item| item.get(WRITE)?.as_s().ok().cloned());
                let read = Read { region: self.region, key, at, write };
                reads.lock().unwrap_or_else(PoisonError::into_inner).push(read);
            }
        }
    }
}
