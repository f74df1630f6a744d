//! Watermarks: what each origin reports to have arrived here.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::AttributeValue;

use super::condition::held;
use super::{ControlTable, PK, Row, SK, number, read_number, read_text, text};
use crate::fault::Fault;
use crate::protocol::{AHEAD_MILLIS, Floors, Hlc, Origin};

const NAMES: &str = "attributeNames";

/// What the origins report.
#[derive(Debug, Default)]
pub struct Watermarks {
    /// What has arrived in this region: for each origin, every write with a lower clock.
    pub arrived: Floors,
    /// The attribute names that their items have.
    pub names: BTreeSet<String>,
}

impl ControlTable {
    /// The watermarks of all origins for a table.
    pub async fn watermarks(&self, table: &str) -> Result<Watermarks, Fault> {
        let mut watermarks = Watermarks::default();
        for row in self.rows(&format!("watermark/{table}")).await? {
            if let Some((origin, hlc)) = read(&row) {
                watermarks.arrived.raise(&origin, hlc);
            }
            if let Some(AttributeValue::Ss(names)) = row.get(NAMES) {
                watermarks.names.extend(names.iter().cloned());
            }
        }
        Ok(watermarks)
    }

    /// Records that every write of `origin` with a lower clock is in this region's replica, and which
    /// attributes its items have. A watermark never sinks, whichever of the origin's agents reports it.
    ///
    /// Only call this for what a durable checkpoint covers: after a crash, none of it is written again. A
    /// watermark so far ahead that nobody whose clock says `now` believes it is taken back.
    pub async fn save_watermark(
        &self,
        table: &str,
        origin: &Origin,
        hlc: Hlc,
        names: Vec<String>,
        now: u64,
    ) -> Result<(), Fault> {
        let mut row = Row::from([
            (PK.to_owned(), text(format!("watermark/{table}"))),
            (SK.to_owned(), text(origin.as_str())),
            ("hlc".to_owned(), number(u64::from(hlc))),
            ("millis".to_owned(), number(hlc.millis())),
        ]);
        if !names.is_empty() {
            row.insert(NAMES.to_owned(), AttributeValue::Ss(names));
        }
        let put = self
            .client
            .put_item()
            .table_name(&self.name)
            .set_item(Some(row))
            .condition_expression("attribute_not_exists(hlc) OR hlc < :hlc OR millis > :credible")
            .expression_attribute_values(":hlc", number(u64::from(hlc)))
            .expression_attribute_values(":credible", number(now.saturating_add(AHEAD_MILLIS)));
        // If another agent has already reported more, nothing is wrong.
        held(put.send().await).map(|_| ())
    }
}

pub(super) fn read(row: &Row) -> Option<(Origin, Hlc)> {
    Some((read_text(row, SK)?.parse().ok()?, Hlc::from(read_number(row, "hlc")?)))
}
