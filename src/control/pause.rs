//! Pauses: an operator stops writes to a peer, or a feed, for a limited time.
//!
//! They are stored among the beats of the origin's agents, which each of these reads anyway, a few times in a
//! lease duration.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::AttributeValue;

use super::{AGENTS, ControlTable, EXPIRES, PK, Row, SK, number, read_number, read_text, text};
use crate::destination::Destination;
use crate::fault::Fault;

/// The paused peers and feeds, each with the end of its pause, in milliseconds since the Unix epoch.
pub type PausedDestinations = BTreeMap<Destination, u64>;

/// Precedes the destination's name in the sort key; no agent has such a name.
const PAUSE: &str = "pause ";
const UNTIL: &str = "untilMillis";

impl ControlTable {
    /// Makes the agents of this region write nothing to a destination until a given time; a pause replaces the
    /// previous one.
    pub async fn pause(&self, destination: &Destination, until_millis: u64) -> Result<(), Fault> {
        self.put(Row::from([
            (PK.to_owned(), text(AGENTS)),
            (SK.to_owned(), text(sk(destination))),
            (UNTIL.to_owned(), number(until_millis)),
            (EXPIRES.to_owned(), number(until_millis / 1000 + 1)),
        ]))
        .await
    }

    /// Makes them write to a destination again.
    pub async fn resume(&self, destination: &Destination) -> Result<(), Fault> {
        self.delete(AGENTS, &sk(destination)).await
    }
}

pub(super) fn sk(destination: &Destination) -> String {
    format!("{PAUSE}{destination}")
}

pub(super) fn read(row: &Row) -> Option<(Destination, u64)> {
    Some((Destination::away(read_text(row, SK)?.strip_prefix(PAUSE)?)?, read_number(row, UNTIL)?))
}

/// The pauses that an agent's beat reports as observed.
pub(super) fn write_kept(kept: &PausedDestinations) -> AttributeValue {
    let kept = kept.iter().map(|(destination, until)| (destination.to_string(), number(until)));
    AttributeValue::M(kept.collect())
}

pub(super) fn read_kept(row: &Row, name: &str) -> PausedDestinations {
    let kept = row.get(name).and_then(|kept| kept.as_m().ok()).into_iter().flatten();
    kept.filter_map(|(name, until)| Some((Destination::away(name)?, until.as_n().ok()?.parse().ok()?)))
        .collect()
}
