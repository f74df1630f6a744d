//! From when on a feed is told. The row is among the beats of the region's agents, which each of these reads anyway.

use std::collections::BTreeMap;

use super::{AGENTS, ControlTable, PK, Row, SK, number, read_number, read_text, text};
use crate::fault::Fault;
use crate::feed::FeedName;

/// From when on a feed is told, and how many times it was rewound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeedBegin {
    /// What was written before this is not told, in milliseconds since the Unix epoch.
    pub since_millis: u64,
    pub rewinds: u64,
}

/// The feeds that begin later than the stream does.
pub type FeedBegins = BTreeMap<FeedName, FeedBegin>;

/// Precedes the feed's name in the sort key; no agent has such a name.
const FEED: &str = "feed ";
const SINCE: &str = "sinceMillis";
const REWINDS: &str = "rewinds";

impl ControlTable {
    /// Makes a feed begin at a moment, unless it has begun.
    pub async fn begin_feed(&self, feed: &FeedName, since_millis: u64) -> Result<(), Fault> {
        let row = Row::from([
            (PK.to_owned(), text(AGENTS)),
            (SK.to_owned(), text(sk(feed))),
            (SINCE.to_owned(), number(since(since_millis))),
            (REWINDS.to_owned(), number(0)),
        ]);
        self.put_new(row).await
    }

    /// Makes the agents of this region tell a feed once more, from a moment on.
    pub async fn rewind_feed(&self, feed: &FeedName, since_millis: u64) -> Result<(), Fault> {
        let update = self.client.update_item().table_name(&self.name);
        let update = update
            .key(PK, text(AGENTS))
            .key(SK, text(sk(feed)))
            .update_expression("SET #since = :since ADD #rewinds :one")
            .expression_attribute_names("#since", SINCE)
            .expression_attribute_names("#rewinds", REWINDS)
            .expression_attribute_values(":since", number(since(since_millis)))
            .expression_attribute_values(":one", number(1));
        update.send().await?;
        Ok(())
    }
}

/// The whole minute before a moment: creation times are whole seconds on AWS and whole minutes on DynamoDB Local, and
/// what is written at the moment must be told.
fn since(millis: u64) -> u64 {
    millis - millis % 60_000
}

fn sk(feed: &FeedName) -> String {
    format!("{FEED}{feed}")
}

pub(super) fn read(row: &Row) -> Option<(FeedName, FeedBegin)> {
    let feed = read_text(row, SK)?.strip_prefix(FEED)?.parse().ok()?;
    let since_millis = read_number(row, SINCE)?;
    Some((feed, FeedBegin { since_millis, rewinds: read_number(row, REWINDS).unwrap_or_default() }))
}
