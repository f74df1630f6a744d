//! The function that the agents' feed invokes, and the judge of what it is told.
//!
//! It takes events one after the other, as a handler does: it may break in the middle, name the event that it broke at,
//! and never takes some of them. What it has taken counts as told, whether its answer arrives or not.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::item::{Item, STAMP, as_text, data_digest, item_of};
use crate::oracle::{Version, Writer, is_marked, version};
use crate::service::{Change, KEY};
use crate::settings::{Defect, NAMES};

/// The feed's name, and its function's.
pub const FEED: &str = "feed";

/// What the feed is like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedSettings {
    /// Whether one region tells what stands there; otherwise every region tells what is written in it.
    pub state: bool,
    pub batch_size: u32,
    pub parallelization: u32,
    /// Whether the function names the event at which it breaks.
    pub partial: bool,
    /// Whether a rejected event blocks its shard, and not only its key.
    pub blocks_shard: bool,
    /// How often the function breaks, in percent.
    pub breaks: u8,
    /// Every so many records, one is never taken; none, if 0.
    pub poison: u8,
}

/// What is told of a write.
#[derive(Clone, Debug)]
struct Expected {
    key: String,
    /// Whether it must be told: not if an agent may take it for something else.
    is_certain: bool,
    data: Option<u64>,
}

/// What a feed's function has been told.
#[derive(Debug, Default)]
pub struct FeedJudge {
    settings: Option<FeedSettings>,
    /// By region and sequence number.
    expected: BTreeMap<(usize, u128), Expected>,
    told: BTreeSet<(usize, u128)>,
    rejected: BTreeSet<(usize, u128)>,
    /// The last event of each key, by region.
    last: BTreeMap<(usize, String), u128>,
    /// The versions of each key that were told.
    versions: BTreeSet<(String, Version)>,
    /// What stands, by the events: version and data of each key.
    standing: BTreeMap<String, (Version, Option<u64>)>,
    /// Whether an application has written an item last, by region and key.
    by_app: BTreeMap<(usize, String), bool>,
    /// The last write of an agent, for a defect.
    echo: Option<Change>,
    pub failures: Vec<String>,
}

impl FeedJudge {
    pub fn new(settings: Option<FeedSettings>) -> Self {
        Self { settings, ..Self::default() }
    }

    /// Records a change of an item.
    pub fn observe(&mut self, region: usize, change: &Change, writer: Writer) {
        if self.settings.is_none() {
            return;
        }
        let by_app = writer == Writer::App;
        let was_by_app = self.by_app.insert((region, change.key.clone()), by_app) == Some(true);
        if !by_app {
            self.echo = Some(change.clone());
            // A marked copy that an application has put back is deleted, as docs/correctness.md says. That is told.
            if was_by_app && change.new.is_none() && change.old.as_deref().is_some_and(is_marked) {
                let expected = Expected { key: change.key.clone(), is_certain: false, data: None };
                self.expected.insert((region, change.sequence), expected);
            }
            return;
        }
        let data = |item: Option<&Item>| item.map(data_digest);
        let (old, new) = (data(change.old.as_deref()), data(change.new.as_deref()));
        let is_certain = !change.is_copy && old != new && !change.old.as_deref().is_some_and(is_marked);
        let expected = Expected { key: change.key.clone(), is_certain, data: new };
        self.expected.insert((region, change.sequence), expected);
    }

    /// Invokes the function for an agent of a region. Returns its answer.
    pub fn invoke(&mut self, region: usize, body: &Value, rng: &mut Rng, defect: Option<Defect>) -> Value {
        let Some(settings) = self.settings.clone() else {
            return json!({ "errorMessage": "no such function" });
        };
        let mut records = body["Records"].as_array().cloned().unwrap_or_default();
        match defect {
            Some(Defect::AckUntold) if rng.u8(..10) == 0 => return json!({ "batchItemFailures": [] }),
            Some(Defect::Shuffled) => records.reverse(),
            Some(Defect::ToldEcho) => records.extend(self.echo.take().as_ref().map(told_echo)),
            _ => {}
        }
        let breaks_at = (rng.u8(..100) < settings.breaks).then(|| rng.usize(..=records.len()));
        for (i, record) in records.iter().enumerate() {
            let sequence = record["dynamodb"]["SequenceNumber"].as_str().unwrap_or_default();
            let number = sequence.parse::<u128>().unwrap_or_default();
            let is_poison = settings.poison > 0 && number % u128::from(settings.poison) == 0;
            if is_poison {
                self.rejected.insert((region, number));
            }
            if is_poison || breaks_at == Some(i) {
                return if settings.partial {
                    json!({ "batchItemFailures": [{ "itemIdentifier": sequence }] })
                } else {
                    json!({ "errorMessage": "the function breaks", "errorType": "Broken" })
                };
            }
            if settings.state { self.stands(record) } else { self.tell(region, number, record) }
        }
        if breaks_at == Some(records.len()) && !settings.partial {
            return json!({ "errorMessage": "the function breaks at its end", "errorType": "Broken" });
        }
        json!({ "batchItemFailures": [] })
    }

    /// An event of a write made in the region.
    fn tell(&mut self, region: usize, sequence: u128, record: &Value) {
        let (key, new) = shown(record);
        let name = NAMES[region];
        let Some(expected) = self.expected.get(&(region, sequence)) else {
            self.failures
                .push(format!("{name}: an event tells {key} at {sequence}, which no application wrote"));
            return;
        };
        if expected.key != key || expected.data != new || record.to_string().contains(STAMP) {
            self.failures
                .push(format!("{name}: an event of {key} at {sequence} is not what was written: {record}"));
        }
        if !self.told.insert((region, sequence)) {
            return;
        }
        let before = self.last.insert((region, key.clone()), sequence);
        if before.is_some_and(|before| before > sequence) {
            self.failures.push(format!("{name}: {key} at {sequence} was told after {before:?}"));
        }
    }

    /// An event of what stands in the region.
    fn stands(&mut self, record: &Value) {
        let (key, new) = shown(record);
        let Some(version) = told_version(record) else {
            self.failures.push(format!("an event of {key} has no version: {record}"));
            return;
        };
        if !self.versions.insert((key.clone(), version)) {
            // It is told again.
            return;
        }
        let known = self.standing.get(&key).map(|(known, _)| *known);
        if known.is_some_and(|known| known > version) {
            self.failures.push(format!("{key}: {version:?} was told after {known:?}"));
        }
        self.standing.insert(key, (version, new));
    }

    /// What is wrong once everything is at rest. `items` stand in the telling region, and so many events are parked.
    pub fn judge(&self, items: &BTreeMap<String, std::sync::Arc<Item>>, parked: usize) -> Vec<String> {
        let Some(settings) = &self.settings else { return Vec::new() };
        if settings.state {
            let keys: BTreeSet<&String> = self.standing.keys().chain(items.keys()).collect();
            let differs = |key: &&String| {
                let told = self.standing.get(*key).and_then(|(_, data)| *data);
                told != items.get(*key).map(|item| data_digest(item))
            };
            return keys
                .into_iter()
                .filter(differs)
                .map(|key| format!("{key} is not what the feed has told"))
                .collect();
        }
        let mut wrong: Vec<String> = Vec::new();
        for ((region, sequence), Expected { key, .. }) in self.expected.iter().filter(|(_, e)| e.is_certain) {
            let id = (*region, *sequence);
            if !self.told.contains(&id) && !self.rejected.contains(&id) {
                wrong.push(format!("{}: {key} at {sequence} was never told", NAMES[*region]));
            }
        }
        if parked != self.rejected.len() {
            wrong.push(format!("{parked} events are parked, and {} were rejected", self.rejected.len()));
        }
        wrong
    }
}

/// An agent's write, told as if an application had made it.
fn told_echo(change: &Change) -> Value {
    json!({ "dynamodb": { "SequenceNumber": change.sequence.to_string(), "Keys": { KEY: { "S": change.key } } } })
}

/// The key, and the hash of the new image.
fn shown(record: &Value) -> (String, Option<u64>) {
    let key = as_text(&record["dynamodb"]["Keys"][KEY]).unwrap_or_default().to_owned();
    (key, item_of(&record["dynamodb"]["NewImage"]).as_ref().map(data_digest))
}

fn told_version(record: &Value) -> Option<Version> {
    let (hlc, origin) = record["tradewind"]["version"].as_str()?.split_once(' ')?;
    version(hlc, origin)
}
