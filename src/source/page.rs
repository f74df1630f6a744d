//! What the reader of a source hands on.

use serde::Serialize;
use tokio::time::Instant;

use super::{Position, Sequence, ShardId};
use crate::protocol::Record;

/// What a reader reports.
#[derive(Debug)]
pub enum StreamEvent {
    Page(Page),
    /// Records after this position were trimmed before they were read: this reader has lost them, and goes on
    /// with the oldest one left.
    Trimmed {
        shard: ShardId,
        after: Position,
    },
    /// A record that can't be read was skipped; the page that held it comes next.
    Unreadable {
        shard: ShardId,
        record: UnreadableRecord,
    },
    /// A call failed and is retried. Sent only where there is room: many may fail.
    Failed,
}

/// The result of one call for records.
#[derive(Debug)]
pub struct Page {
    pub shard: ShardId,
    /// Empty at the tip of the shard.
    pub records: Vec<Change>,
    /// How many more there were that can't be read.
    pub unreadable: usize,
    pub extent: Extent,
    /// The position of the last record, readable or not.
    pub last: Option<Sequence>,
    /// The shard has ended, and all of it has been handed on.
    pub closed: bool,
    /// The shard is not known to have ended: an empty page may mean its tip.
    pub open: bool,
    /// When the call was made.
    pub asked: Instant,
    /// When the call was answered, by the service's own clock, in milliseconds since the Unix epoch.
    pub served_millis: Option<u64>,
}

/// What a write did to its item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum EventName {
    Insert,
    Modify,
    Remove,
}

/// A record, and what its source says about it beside the images.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// What the source calls it, if it has a name that is known.
    pub name: Option<EventName>,
    pub sequence: Sequence,
    pub record: Record,
    /// The size of keys and images, as the service counts it.
    pub bytes: u64,
    pub user: Option<UserIdentity>,
}

impl EventName {
    /// What DynamoDB Streams calls so.
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "INSERT" => Some(Self::Insert),
            "MODIFY" => Some(Self::Modify),
            "REMOVE" => Some(Self::Remove),
            _ => None,
        }
    }
}

impl Change {
    /// What the write did, where the record lacks an image that such a write has: its stream does not show it.
    pub fn partial(&self) -> Option<EventName> {
        let images = (self.record.old.is_some(), self.record.new.is_some());
        self.name.filter(|name| match name {
            EventName::Insert => images != (false, true),
            EventName::Modify => images != (true, true),
            EventName::Remove => images != (true, false),
        })
    }
}

/// Who made a change: the service, where an item's time to live has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserIdentity {
    pub kind: String,
    pub principal: String,
}

/// How much a page holds of what follows the page before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// Certainly all.
    All,
    /// Perhaps all.
    Unsure,
    /// So much that more probably follows at once.
    Part,
    /// As many records as a page can hold.
    Full,
}

/// A record that can't be read, with its readable parts.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct UnreadableRecord {
    pub sequence: Option<Sequence>,
    /// Its creation time, in milliseconds since the Unix epoch.
    pub created_millis: Option<u64>,
    /// Which record it is, and why it can't be read.
    pub(super) text: String,
}
