//! Everything observed in a run: what the checker judges, and the report draws.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::Serialize;
use serde_json::{Map, Value};

/// The attribute of the items' key.
pub const KEY: &str = "pk";
/// The attribute that identifies the write an item comes from.
pub const WRITE: &str = "w";
/// The attribute that counts, and the one that names a lock's holder.
pub const COUNT: &str = "n";
pub const HOLDER: &str = "holder";
/// The attribute that agents add to items.
pub const STAMP: &str = "_tw";

/// Milliseconds since the run began.
pub type Millis = u64;

/// What an application did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// An item without a stamp.
    Put,
    /// Keeps whatever stamp the item has.
    Update,
    /// New data, with the stamp of an old copy.
    PutBack,
    Delete,
    /// Adds one to the item's count.
    Add,
    /// Sets the count to one more than what was read, if that is still its value.
    Swap,
    /// Takes the item's lock, if nobody has it.
    Lock,
    /// Releases the lock, if it is still its own.
    Unlock,
}

impl Operation {
    pub fn counts(self) -> bool {
        matches!(self, Self::Add | Self::Swap)
    }

    pub fn locks(self) -> bool {
        matches!(self, Self::Lock | Self::Unlock)
    }
}

/// What an application was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Acknowledged,
    /// The answer was lost: the write may have been made.
    Maybe,
}

/// An application's write.
#[derive(Clone, Debug, Serialize)]
pub struct AppWrite {
    /// Unique, and in the item. A delete's is in no item.
    pub id: String,
    pub region: usize,
    pub key: String,
    pub operation: Operation,
    pub outcome: Outcome,
    /// The item's new count, as reported to the application.
    pub count: Option<u64>,
    pub sent: Millis,
    pub done: Millis,
}

/// An item, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Image {
    pub write: Option<String>,
    pub count: Option<u64>,
    pub holder: Option<String>,
    pub stamp: Option<String>,
    /// Everything but the stamp.
    pub data: String,
}

impl Image {
    /// From an item in DynamoDB's JSON.
    pub fn of(item: &Map<String, Value>) -> Self {
        let text = |name: &str| item.get(name).and_then(|value| value["S"].as_str()).map(str::to_owned);
        let rest: BTreeMap<_, _> = item.iter().filter(|(name, _)| *name != STAMP).collect();
        let data = serde_json::to_string(&rest).unwrap_or_default();
        let count = item.get(COUNT).and_then(|value| value["N"].as_str()?.parse().ok());
        Self { write: text(WRITE), count, holder: text(HOLDER), stamp: text(STAMP), data }
    }
}

/// A record of a region's stream.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    pub region: usize,
    pub key: String,
    /// Its sequence number.
    pub sequence: String,
    /// When it was read.
    pub at: Millis,
    /// The time stated by the service: milliseconds since 1970.
    pub created: u64,
    pub old: Option<Image>,
    pub new: Option<Image>,
}

/// What a reader saw.
#[derive(Clone, Debug, Serialize)]
pub struct Read {
    pub region: usize,
    pub key: String,
    /// When the read began.
    pub at: Millis,
    pub write: Option<String>,
}

/// A time during which a region's table had no stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Silence {
    pub region: usize,
    pub from: Millis,
    pub until: Millis,
}

/// Everything.
#[derive(Clone, Debug, Default, Serialize)]
pub struct History {
    pub regions: Vec<String>,
    pub writes: Vec<AppWrite>,
    /// Each region's, in the order of its stream.
    pub seen: Vec<Seen>,
    pub reads: Vec<Read>,
    /// What the replicas held at the end, by key. `None` for one that was lost on purpose.
    pub stored: Vec<Option<BTreeMap<String, Image>>>,
    /// When the last fault ended.
    pub calm: Millis,
    pub silences: Vec<Silence>,
    /// The keys whose writes no stream shows, which are therefore excluded.
    pub unseen: BTreeSet<String>,
}

impl History {
    /// Excludes some keys.
    pub fn forget(&mut self, is_out: impl Fn(&str) -> bool) {
        self.writes.retain(|write| !is_out(&write.key));
        self.seen.retain(|seen| !is_out(&seen.key));
        self.reads.retain(|read| !is_out(&read.key));
        for items in self.stored.iter_mut().flatten() {
            items.retain(|key, _| !is_out(key));
        }
    }
}

/// The keys of writes that were made while there was no stream to show them, and that none shows.
pub fn unseen(silences: &[Silence], writes: &[AppWrite], seen: &[Seen]) -> BTreeSet<String> {
    let in_silence = |write: &&AppWrite| {
        let meets = |silence: &Silence| {
            silence.region == write.region && silence.from <= write.done && write.sent <= silence.until
        };
        silences.iter().any(meets)
    };
    // An agent may bring a write that no stream has shown into one later, by setting another stamp than the
    // item had. A put-back does that, too, and so counts as hidden.
    let is_by_app = |seen: &&Seen| {
        let stamp = |image: &Option<Image>| image.as_ref().and_then(|image| image.stamp.clone());
        let new = stamp(&seen.new);
        new.is_none() || new == stamp(&seen.old)
    };
    let of = |seen: &Seen| Some((seen.region, seen.new.as_ref()?.write.clone()?));
    let shown: HashSet<(usize, String)> = if silences.is_empty() {
        HashSet::new()
    } else {
        seen.iter().filter(is_by_app).filter_map(of).collect()
    };
    // A delete leaves no item, so nobody knows of it.
    let missing =
        writes.iter().filter(in_silence).filter(|write| !shown.contains(&(write.region, write.id.clone())));
    missing.map(|write| write.key.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_silence_hid_is_known_by_its_time_and_by_the_stream() {
        let write = |id: &str, at| AppWrite {
            id: id.to_owned(),
            region: 0,
            key: format!("key of {id}"),
            operation: Operation::Put,
            outcome: Outcome::Acknowledged,
            count: None,
            sent: at,
            done: at + 10,
        };
        let writes = [write("before", 50), write("shown", 95), write("hidden", 150), write("after", 201)];
        let record = |id: &str, stamp: Option<&str>| {
            let (write, stamp) = (Some(id.to_owned()), stamp.map(str::to_owned));
            let new = Some(Image { write, count: None, holder: None, stamp, data: String::new() });
            let (key, sequence) = (format!("key of {id}"), String::new());
            Seen { region: 0, key, sequence, at: 250, created: 250, old: None, new }
        };
        let seen = [record("shown", None), record("hidden", Some("an agent's"))];
        let silence = |region| Silence { region, from: 100, until: 200 };
        let keys = |region| unseen(&[silence(region)], &writes, &seen);
        assert_eq!(keys(0), BTreeSet::from(["key of hidden".to_owned()]));
        assert_eq!(keys(1), BTreeSet::new());
    }
}
