//! Gaps: writes of a region that were not replicated, because their records were trimmed first or could not
//! be read, or because there was no stream to show them. A table with a gap is marked by a row until `verify`
//! has found its replicas equal.

use std::fmt;

use aws_sdk_dynamodb::types::AttributeValue;
use serde::Serialize;

use super::condition::held;
use super::{ControlTable, PK, Row, SK, number, read_number, read_text, text};
use crate::clock::moment;
use crate::fault::Fault;
use crate::feed::FeedName;
use crate::protocol::Origin;

/// Writes that may be missing at some peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The region whose stream held the records.
    pub origin: Origin,
    pub cause: Cause,
    /// For another stream, its label.
    pub shard: String,
    pub peers: Vec<Origin>,
    /// The feeds that may lack them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub feeds: Vec<FeedName>,
    /// Creation times, in milliseconds since the Unix epoch: nothing before this is missing.
    pub from_millis: u64,
    /// Nothing from here on is missing, as far as this gap is concerned.
    pub until_millis: u64,
    /// When it was last found, by the clock of whoever found it, in milliseconds since the Unix epoch.
    pub found_millis: u64,
}

/// Why records were not replicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The stream dropped them before they were read.
    Trimmed,
    /// They could not be read, and were skipped.
    Unreadable,
    /// The table has another stream than before, and neither contains what was written between the two.
    OtherStream,
    /// The same, and the rest of the earlier stream can no longer be read.
    StreamGone,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peers = self.peers.iter().map(ToString::to_string);
        let feeds = self.feeds.iter().map(|feed| format!("the feed {feed}"));
        let lacking = peers.chain(feeds).collect::<Vec<_>>().join(", ");
        let (cause, place) = match self.cause {
            Cause::Trimmed => {
                ("their records were trimmed from the stream before they were replicated", "shard")
            }
            Cause::Unreadable => {
                ("some of their records in the stream could not be read, and were skipped", "shard")
            }
            Cause::OtherStream => (
                "the table's stream was turned off and on, or the table was deleted and recreated, and what \
                 was written in between is in no stream",
                "new stream",
            ),
            Cause::StreamGone => (
                "the table's stream was turned off and on, or the table was deleted and recreated, and the \
                 previous stream can no longer be read",
                "new stream",
            ),
        };
        write!(
            f,
            "writes made in {} from {} to {} may be missing in {lacking}: {cause} ({place} {})",
            self.origin,
            moment(self.from_millis),
            moment(self.until_millis),
            self.shard
        )
    }
}

impl Gap {
    fn sk(&self) -> String {
        match self.cause {
            Cause::Trimmed => format!("{} {}", self.shard, self.from_millis),
            Cause::Unreadable => {
                format!("{} {} {} unreadable", self.shard, self.from_millis, self.until_millis)
            }
            Cause::OtherStream | Cause::StreamGone => format!("{} {}", self.shard, self.cause.name()),
        }
    }

    /// Whether one mark stands for both.
    pub fn is_marked_as(&self, other: &Self) -> bool {
        self.sk() == other.sk()
    }
}

impl Cause {
    fn name(self) -> &'static str {
        match self {
            Self::Trimmed => "trimmed",
            Self::Unreadable => "unreadable",
            Self::OtherStream => "other_stream",
            Self::StreamGone => "stream_gone",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Trimmed, Self::Unreadable, Self::OtherStream, Self::StreamGone]
            .into_iter()
            .find(|cause| cause.name() == name)
    }
}

const FOUND: &str = "foundMillis";
const FEEDS: &str = "feeds";
/// The gap has not been found again since.
const STILL_THAT: &str = "attribute_not_exists(#found) OR #found = :found";

impl ControlTable {
    /// Marks a table as one whose replicas must be compared. It may be marked again.
    pub async fn save_gap(&self, table: &str, gap: &Gap) -> Result<(), Fault> {
        let peers = gap.peers.iter().map(|peer| text(peer.as_str())).collect();
        let feeds = gap.feeds.iter().map(|feed| text(feed.as_str())).collect();
        self.put(Row::from([
            (PK.to_owned(), text(pk(table))),
            (SK.to_owned(), text(gap.sk())),
            ("origin".to_owned(), text(gap.origin.as_str())),
            ("shard".to_owned(), text(&gap.shard)),
            ("peers".to_owned(), AttributeValue::L(peers)),
            (FEEDS.to_owned(), AttributeValue::L(feeds)),
            ("fromMillis".to_owned(), number(gap.from_millis)),
            ("untilMillis".to_owned(), number(gap.until_millis)),
            ("cause".to_owned(), text(gap.cause.name())),
            (FOUND.to_owned(), number(gap.found_millis)),
        ]))
        .await
    }

    /// Removes a mark once the replicas are known to be equal, unless the same gap has been found again since.
    /// What a feed lacks is not known from that: for feeds, the mark stays.
    pub async fn close_gap(&self, table: &str, gap: &Gap) -> Result<(), Fault> {
        if gap.feeds.is_empty() {
            self.delete_gap(table, gap).await
        } else {
            self.narrow(table, gap, "peers", Vec::new()).await
        }
    }

    /// Removes what a mark says about one feed, in the same way.
    pub async fn acknowledge_gap(&self, table: &str, gap: &Gap, feed: &FeedName) -> Result<(), Fault> {
        let others: Vec<&FeedName> = gap.feeds.iter().filter(|other| *other != feed).collect();
        if gap.peers.is_empty() && others.is_empty() {
            return self.delete_gap(table, gap).await;
        }
        let others = others.into_iter().map(|other| text(other.as_str())).collect();
        self.narrow(table, gap, FEEDS, others).await
    }

    async fn delete_gap(&self, table: &str, gap: &Gap) -> Result<(), Fault> {
        let delete = self.client.delete_item().table_name(&self.name);
        let delete = delete.key(PK, text(pk(table))).key(SK, text(gap.sk()));
        let delete = delete
            .condition_expression(STILL_THAT)
            .expression_attribute_names("#found", FOUND)
            .expression_attribute_values(":found", number(gap.found_millis));
        held(delete.send().await)?;
        Ok(())
    }

    /// Leaves only these destinations of one kind on a mark.
    async fn narrow(
        &self,
        table: &str,
        gap: &Gap,
        kind: &str,
        left: Vec<AttributeValue>,
    ) -> Result<(), Fault> {
        let update = self.client.update_item().table_name(&self.name);
        let update = update.key(PK, text(pk(table))).key(SK, text(gap.sk()));
        let update = update
            .update_expression("SET #kind = :left")
            .condition_expression(STILL_THAT)
            .expression_attribute_names("#kind", kind)
            .expression_attribute_names("#found", FOUND)
            .expression_attribute_values(":left", AttributeValue::L(left))
            .expression_attribute_values(":found", number(gap.found_millis));
        held(update.send().await)?;
        Ok(())
    }
}

pub(super) fn pk(table: &str) -> String {
    format!("gap/{table}")
}

pub(super) fn read(row: &Row) -> Option<Gap> {
    let peers = row.get("peers")?.as_l().ok()?.iter();
    // A row from before there were feeds has none.
    let feeds = row.get(FEEDS).and_then(|feeds| feeds.as_l().ok()).into_iter().flatten();
    Some(Gap {
        origin: read_text(row, "origin")?.parse().ok()?,
        shard: read_text(row, "shard")?.to_owned(),
        peers: peers.filter_map(|peer| peer.as_s().ok()?.parse().ok()).collect(),
        feeds: feeds.filter_map(|feed| feed.as_s().ok()?.parse().ok()).collect(),
        from_millis: read_number(row, "fromMillis")?,
        until_millis: read_number(row, "untilMillis")?,
        cause: read_text(row, "cause").and_then(Cause::named).unwrap_or(Cause::Trimmed),
        found_millis: read_number(row, FOUND).unwrap_or_default(),
    })
}
