//! Applications, and readers, which know nothing of agents.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use tokio::time::{Instant, MissedTickBehavior};

use crate::history::{AppWrite, Operation, Outcome, Read, STAMP, WRITE};
use crate::scenario::Workload;
use crate::wire::{Refusal, Wire};

/// How often a reader looks.
const LOOK: Duration = Duration::from_millis(50);
/// Whose the keys are that all regions write.
const SHARED: &str = "shared";
/// How many stamps of copies are kept.
const COPIES: usize = 16;

/// One region's.
#[derive(Debug)]
pub struct Application {
    pub region: usize,
    /// What all regions are called.
    pub names: Arc<[String]>,
    /// What its keys begin with.
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

    /// Writes for as long as the workload says; returns what it wrote.
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

    async fn one(&mut self, serial: usize) -> Option<AppWrite> {
        let key = self.key(self.region);
        let id = format!("{} {serial}", self.names[self.region]);
        let Workload { put, update, put_back, delete, size, .. } = self.workload;
        let deal = self.rng.u32(0..put + update + put_back + delete);
        let payload: String = std::iter::repeat_with(|| self.rng.alphanumeric()).take(size).collect();
        let operation = if deal < put {
            Operation::Put
        } else if deal < put + update {
            Operation::Update
        } else if deal < put + update + put_back {
            Operation::PutBack
        } else {
            Operation::Delete
        };
        let stamp = if operation == Operation::PutBack { self.copy(&key).await } else { None };
        let sent = self.now();
        let made = match operation {
            Operation::Put | Operation::PutBack => {
                self.wire.put(&key, &id, payload, stamp.map(|stamp| (STAMP, stamp))).await
            }
            Operation::Update => self.wire.update(&key, &id, payload).await,
            Operation::Delete => self.wire.delete(&key).await,
        };
        let outcome = match made {
            Ok(()) if self.rng.u8(0..100) < self.workload.lost_answers_percent => Outcome::Maybe,
            Ok(()) => Outcome::Acknowledged,
            // What was refused was not made.
            Err(error) if error.is::<Refusal>() => return None,
            Err(_) => Outcome::Maybe,
        };
        Some(AppWrite { id, region: self.region, key, operation, outcome, sent, done: self.now() })
    }

    /// All keys that applications of these regions may write.
    pub fn keys(names: &[String], prefix: &str, workload: &Workload) -> Vec<String> {
        let whose = names.iter().map(String::as_str).chain([SHARED]);
        whose
            .flat_map(|whose| (0..workload.keys).map(move |number| format!("{prefix}{whose}-{number}")))
            .collect()
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

    /// Reads items, of whatever region, until it is dropped.
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
