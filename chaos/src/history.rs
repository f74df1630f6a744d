//! All that was seen of a run: what the checker judges, and the report draws.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

/// The attribute of the items' key.
pub const KEY: &str = "pk";
/// The attribute that tells which write an item comes from.
pub const WRITE: &str = "w";
/// The attribute that counts, and the one that tells who holds a lock.
pub const COUNT: &str = "n";
pub const HOLDER: &str = "holder";
/// The attribute that agents put into items.
pub const STAMP: &str = "_tw";

/// Milliseconds since the run began.
pub type Millis = u64;

/// What an application did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// An item without a stamp.
    Put,
    /// Keeps whatever stamp stands there.
    Update,
    /// New data, with the stamp of an old copy.
    PutBack,
    Delete,
    /// Adds one to the item's count.
    Add,
    /// Sets the count to one more than what was read, if that still stands.
    Swap,
    /// Takes the item's lock, if nobody has it.
    Lock,
    /// Gives the lock back, if it is still its own.
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
    /// The answer was lost: it may have been made.
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
    /// What the application was told that the item's count is now.
    pub count: Option<u64>,
    pub sent: Millis,
    pub done: Millis,
}

/// An item, as much of it as matters.
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
    /// Of an item in DynamoDB's JSON.
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
    /// When it was read.
    pub at: Millis,
    /// What the service says: milliseconds since 1970.
    pub created: u64,
    pub old: Option<Image>,
    pub new: Option<Image>,
}

/// What a reader saw.
#[derive(Clone, Debug, Serialize)]
pub struct Read {
    pub region: usize,
    pub key: String,
    /// When the read was begun.
    pub at: Millis,
    pub write: Option<String>,
}

/// Everything.
#[derive(Clone, Debug, Default, Serialize)]
pub struct History {
    pub regions: Vec<String>,
    pub writes: Vec<AppWrite>,
    /// Each region's in the order of its stream.
    pub seen: Vec<Seen>,
    pub reads: Vec<Read>,
    /// What the replicas held at the end, by key. None for one that was lost on purpose.
    pub stored: Vec<Option<BTreeMap<String, Image>>>,
    /// When the last fault ended.
    pub calm: Millis,
}
