//! Pauses: an operator stops writes to a peer, for a limited time.
//!
//! They are stored among the beats of the origin's agents, which each of these reads anyway, a few times in a
//! lease duration.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::AttributeValue;

use super::{AGENTS, ControlTable, EXPIRES, PK, Row, SK, number, read_number, read_text, text};
use crate::fault::Fault;
use crate::protocol::Origin;

/// The paused peers, each with the end of its pause, in milliseconds since the Unix epoch.
pub type PausedPeers = BTreeMap<Origin, u64>;

/// Precedes the peer's name in the sort key; no agent has such a name.
const PAUSE: &str = "pause ";
const UNTIL: &str = "untilMillis";

impl ControlTable {
    /// Makes the agents of this region write nothing to a peer until a given time; a pause replaces the
    /// previous one.
    pub async fn pause(&self, peer: &Origin, until_millis: u64) -> Result<(), Fault> {
        self.put(Row::from([
            (PK.to_owned(), text(AGENTS)),
            (SK.to_owned(), text(sk(peer))),
            (UNTIL.to_owned(), number(until_millis)),
            (EXPIRES.to_owned(), number(until_millis / 1000 + 1)),
        ]))
        .await
    }

    /// Makes them write to a peer again.
    pub async fn resume(&self, peer: &Origin) -> Result<(), Fault> {
        self.delete(AGENTS, &sk(peer)).await
    }
}

pub(super) fn sk(peer: &Origin) -> String {
    format!("{PAUSE}{peer}")
}

pub(super) fn read(row: &Row) -> Option<(Origin, u64)> {
    Some((read_text(row, SK)?.strip_prefix(PAUSE)?.parse().ok()?, read_number(row, UNTIL)?))
}

/// The pauses that an agent's beat reports as observed.
pub(super) fn write_kept(kept: &PausedPeers) -> AttributeValue {
    AttributeValue::M(kept.iter().map(|(peer, until)| (peer.to_string(), number(until))).collect())
}

pub(super) fn read_kept(row: &Row, name: &str) -> PausedPeers {
    let kept = row.get(name).and_then(|kept| kept.as_m().ok()).into_iter().flatten();
    kept.filter_map(|(peer, until)| Some((peer.parse().ok()?, until.as_n().ok()?.parse().ok()?))).collect()
}
