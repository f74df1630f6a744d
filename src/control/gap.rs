//! Gaps: records that were trimmed from a region's stream before they were replicated. A table
//! with a gap is marked by a row until `verify` has found its replicas equal.

use std::fmt;

use aws_sdk_dynamodb::types::AttributeValue;
use serde::Serialize;

use super::{ControlTable, PK, Row, SK, number, read_number, read_text, text};
use crate::fault::Fault;
use crate::lag::moment;
use crate::protocol::Origin;

/// Writes that may be missing at some peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The region whose stream lost the records.
    pub origin: Origin,
    pub shard: String,
    pub peers: Vec<Origin>,
    /// Creation times, in milliseconds since the Unix epoch: nothing before is missing.
    pub from_millis: u64,
    /// Nothing from here on is missing, as far as this gap goes.
    pub until_millis: u64,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peers = self.peers.iter().map(Origin::as_str).collect::<Vec<_>>().join(", ");
        write!(
            f,
            "writes made in {} from {} to {} may be missing in {peers}: their records were trimmed from the \
             stream before they were replicated (shard {})",
            self.origin,
            moment(self.from_millis),
            moment(self.until_millis),
            self.shard
        )
    }
}

impl Gap {
    fn sk(&self) -> String {
        format!("{} {}", self.shard, self.from_millis)
    }
}

impl ControlTable {
    /// Marks a table as one whose replicas must be compared. It may be marked again.
    pub async fn save_gap(&self, table: &str, gap: &Gap) -> Result<(), Fault> {
        let peers = gap.peers.iter().map(|peer| text(peer.as_str())).collect();
        self.put(Row::from([
            (PK.to_owned(), text(pk(table))),
            (SK.to_owned(), text(gap.sk())),
            ("origin".to_owned(), text(gap.origin.as_str())),
            ("shard".to_owned(), text(&gap.shard)),
            ("peers".to_owned(), AttributeValue::L(peers)),
            ("fromMillis".to_owned(), number(gap.from_millis)),
            ("untilMillis".to_owned(), number(gap.until_millis)),
        ]))
        .await
    }

    /// Takes a mark away.
    pub async fn close_gap(&self, table: &str, gap: &Gap) -> Result<(), Fault> {
        self.delete(&pk(table), &gap.sk()).await
    }
}

pub(super) fn pk(table: &str) -> String {
    format!("gap/{table}")
}

pub(super) fn read(row: &Row) -> Option<Gap> {
    let peers = row.get("peers")?.as_l().ok()?.iter();
    Some(Gap {
        origin: read_text(row, "origin")?.parse().ok()?,
        shard: read_text(row, "shard")?.to_owned(),
        peers: peers.filter_map(|peer| peer.as_s().ok()?.parse().ok()).collect(),
        from_millis: read_number(row, "fromMillis")?,
        until_millis: read_number(row, "untilMillis")?,
    })
}
