//! What a reader of a source hands on.

use tokio::time::Instant;

use super::{Position, Sequence, ShardId};
use crate::protocol::Record;

/// What a reader reports.
#[derive(Debug)]
pub enum StreamEvent {
    Page(Page),
    /// Records after this position were trimmed before they were read: they are lost to this
    /// reader, which goes on with the oldest that is left.
    Trimmed {
        shard: ShardId,
        after: Position,
    },
    /// A record that can't be read was passed over; the page that held it comes next.
    Unreadable {
        shard: ShardId,
        record: UnreadableRecord,
    },
    /// A call failed, and is being tried again. Told where there is room: many may fail.
    Failed,
}

/// What came of one call for records.
#[derive(Debug)]
pub struct Page {
    pub shard: ShardId,
    /// Empty at the tip of the shard.
    pub records: Vec<(Sequence, Record)>,
    /// How many more there were, which can't be read.
    pub unreadable: usize,
    pub extent: Extent,
    /// Where the last record is, read or not.
    pub last: Option<Sequence>,
    /// The shard has ended, and all of it has been handed on.
    pub closed: bool,
    /// The shard is not known to have ended: when nothing comes, this may be the tip.
    pub open: bool,
    /// When the call was made.
    pub asked: Instant,
    /// When it was answered, by the service's own clock, in milliseconds since the Unix epoch.
    pub served_millis: Option<u64>,
}

/// How much a page holds of what there was after the page before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// All, for certain.
    All,
    /// Perhaps all.
    Unsure,
    /// So much that more probably follows at once.
    Part,
    /// As many records as a page can hold.
    Full,
}

/// A record that can't be read, with what can be read of it.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct UnreadableRecord {
    pub sequence: Option<Sequence>,
    /// Its creation time, in milliseconds since the Unix epoch.
    pub created_millis: Option<u64>,
    /// Which one it is, and why it can't be read.
    pub(super) text: String,
}
