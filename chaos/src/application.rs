//! Applications, and readers, which know nothing of agents.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::{Instant, MissedTickBehavior};

use crate::faults::TABLE;
use crate::history::{AppWrite, KEY, Operation, Outcome, Read, STAMP, WRITE};
use crate::scenario::{PLACES, Workload};
use crate::wire::{Refusal, Wire};

/// How often a reader looks.
const LOOK: Duration = Duration::from_millis(50);
/// How many stamps of copies are kept.
const COPIES: usize = 16;

/// One region's.
#[derive(Debug)]
pub struct Application {
    pub region: usize,
    pub regions: usize,
    pub wire: Wire,
    pub workload: Workload,
    pub began: Instant,
    pub rng: fastrand::Rng,
    /// Stamps of items that any region has read: copies travel.
    pub copies: Arc<Mutex<Vec<Value>>>,
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
        if self.rng.u8(0..100) < self.workload.conflict_percent {
            format!("shared-{number}")
        } else {
            format!("{}-{number}", PLACES[region].0)
        }
    }

    async fn one(&mut self, serial: usize) -> Option<AppWrite> {
        let key = self.key(self.region);
        let id = format!("{} {serial}", PLACES[self.region].0);
        let Workload { put, update, put_back, delete, size, .. } = self.workload;
        let deal = self.rng.u32(0..put + update + put_back + delete);
        let payload: String = std::iter::repeat_with(|| self.rng.alphanumeric()).take(size).collect();
        let item = json!({ KEY: { "S": key }, WRITE: { "S": id }, "payload": { "S": payload } });
        let (operation, call, body) = if deal < put {
            (Operation::Put, "PutItem", json!({ "TableName": TABLE, "Item": item }))
        } else if deal < put + update {
            let body = json!({
                "TableName": TABLE, "Key": { KEY: { "S": key } },
                "UpdateExpression": "SET #w = :w, payload = :p",
                "ExpressionAttributeNames": { "#w": WRITE },
                "ExpressionAttributeValues": { ":w": { "S": id }, ":p": { "S": payload } },
            });
            (Operation::Update, "UpdateItem", body)
        } else if deal < put + update + put_back {
            let mut item = item;
            if let Some(stamp) = self.copy(&key).await {
                item[STAMP] = stamp;
            }
            (Operation::PutBack, "PutItem", json!({ "TableName": TABLE, "Item": item }))
        } else {
            (Operation::Delete, "DeleteItem", json!({ "TableName": TABLE, "Key": { KEY: { "S": key } } }))
        };
        let sent = self.now();
        let outcome = match self.wire.call(call, &body).await {
            Ok(_) if self.rng.u8(0..100) < self.workload.lost_answers_percent => Outcome::Maybe,
            Ok(_) => Outcome::Acknowledged,
            // What was refused was not made.
            Err(error) if error.is::<Refusal>() && !error.to_string().contains(": 5") => return None,
            Err(_) => Outcome::Maybe,
        };
        Some(AppWrite { id, region: self.region, key, operation, outcome, sent, done: self.now() })
    }

    /// The stamp of an older copy of something.
    async fn copy(&mut self, key: &str) -> Option<Value> {
        let item: Option<Map<String, Value>> = self.wire.get(TABLE, key).await.ok()?;
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
            let region = self.rng.usize(0..self.regions);
            let (key, at) = (self.key(region), self.now());
            if let Ok(item) = self.wire.get(TABLE, &key).await {
                let write = item.and_then(|item| Some(item.get(WRITE)?["S"].as_str()?.to_owned()));
                let read = Read { region: self.region, key, at, write };
                reads.lock().unwrap_or_else(PoisonError::into_inner).push(read);
            }
        }
    }
}
