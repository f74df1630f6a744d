//! The last result of `verify` for a table: a row beside the table's marks, so that one query returns both.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::gap::{self, Gap};
use super::{ControlTable, EXPIRES, PK, Row, SK, number, read_number, text};
use crate::clock::wall_millis;
use crate::fault::Fault;

/// The result of comparing a table's replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// When it was known, by the clock of whoever compared, in milliseconds since the Unix epoch.
    pub millis: u64,
    pub items_compared: u64,
    pub items_differing: u64,
}

/// What is known about whether a table's replicas agree.
#[derive(Clone, Debug, Default)]
pub struct Agreement {
    /// The gaps that nobody has closed yet.
    pub gaps: Vec<Gap>,
    /// The result of the last comparison, if there was one recently.
    pub verified: Option<Verified>,
}

impl Verified {
    /// How long ago that was, by this machine's clock.
    pub fn age(&self) -> Duration {
        Duration::from_millis(wall_millis().saturating_sub(self.millis))
    }
}

impl Agreement {
    /// Whether the replicas differ, or may.
    pub fn is_in_doubt(&self) -> bool {
        !self.gaps.is_empty() || self.verified.is_some_and(|verified| verified.items_differing > 0)
    }
}

/// How long it is kept, in seconds: three months.
const KEPT: u64 = 90 * 86_400;
const VERIFIED: &str = "verified";

impl ControlTable {
    /// Saves the result of comparing a table's replicas, in place of the previous one.
    pub async fn save_verified(&self, table: &str, verified: Verified) -> Result<(), Fault> {
        let Verified { millis, items_compared, items_differing } = verified;
        self.put(Row::from([
            (PK.to_owned(), text(gap::pk(table))),
            (SK.to_owned(), text(VERIFIED)),
            (EXPIRES.to_owned(), number(millis / 1000 + KEPT)),
            ("millis".to_owned(), number(millis)),
            ("itemsCompared".to_owned(), number(items_compared)),
            ("itemsDiffering".to_owned(), number(items_differing)),
        ]))
        .await
    }

    /// What is known about whether a table's replicas agree.
    pub async fn agreement(&self, table: &str) -> Result<Agreement, Fault> {
        let rows = self.rows(&gap::pk(table)).await?;
        let gaps = rows.iter().filter_map(gap::read).collect();
        Ok(Agreement { gaps, verified: rows.iter().find_map(read) })
    }
}

pub(super) fn read(row: &Row) -> Option<Verified> {
    Some(Verified {
        millis: read_number(row, "millis")?,
        items_compared: read_number(row, "itemsCompared")?,
        items_differing: read_number(row, "itemsDiffering")?,
    })
}
