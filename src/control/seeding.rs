//! The progress of a bootstrap: a row for each segment of each replica that it reads, so that one that was
//! killed resumes where it was.

use aws_sdk_dynamodb::types::AttributeValue;

use super::{ControlTable, EXPIRES, PK, Row, SK, number, read_number, read_text, text};
use crate::fault::Fault;
use crate::item_json::{item_json, json_item};
use crate::protocol::{Item, Origin};

/// How long the rows are kept, in seconds: 30 days.
const KEPT: u64 = 30 * 86_400;

/// One segment of one replica.
#[derive(Clone, Debug, PartialEq)]
pub struct SeededSegment {
    /// The replica being read; the row is in its region.
    pub source: Origin,
    pub segment: u16,
    pub segments: u16,
    /// The regions being written to, and whatever else must be the same to resume.
    pub task: String,
    /// The first of the holds under which this was done.
    pub hold: u64,
    pub at: SegmentPosition,
}

/// How far a segment has been read.
#[derive(Clone, Debug, PartialEq)]
pub enum SegmentPosition {
    /// Everything up to this key has been handled; `None` if nothing has.
    After(Option<Item>),
    End,
}

impl ControlTable {
    /// The segments whose source is this region's replica of a table.
    pub async fn seeded_segments(&self, table: &str) -> Result<Vec<SeededSegment>, Fault> {
        Ok(self.rows(&pk(table)).await?.iter().filter_map(read).collect())
    }

    pub async fn save_seeded_segment(&self, table: &str, row: &SeededSegment, now: u64) -> Result<(), Fault> {
        let SeededSegment { source, segment, segments, task, hold, at } = row;
        let mut row = Row::from([
            (PK.to_owned(), text(pk(table))),
            (SK.to_owned(), text(sk(source, *segment))),
            (EXPIRES.to_owned(), number(now / 1000 + KEPT)),
            ("source".to_owned(), text(source.as_str())),
            ("segment".to_owned(), number(segment)),
            ("segments".to_owned(), number(segments)),
            ("task".to_owned(), text(task)),
            ("hold".to_owned(), number(hold)),
            ("done".to_owned(), AttributeValue::Bool(*at == SegmentPosition::End)),
        ]);
        if let SegmentPosition::After(Some(key)) = at {
            row.insert("after".to_owned(), text(item_json(key).to_string()));
        }
        self.put(row).await
    }

    pub async fn forget_seeded_segment(&self, table: &str, row: &SeededSegment) -> Result<(), Fault> {
        self.delete(&pk(table), &sk(&row.source, row.segment)).await
    }
}

fn pk(table: &str) -> String {
    format!("seeding/{table}")
}

fn sk(source: &Origin, segment: u16) -> String {
    format!("{source}/{segment}")
}

pub(super) fn read(row: &Row) -> Option<SeededSegment> {
    let small = |name| u16::try_from(read_number(row, name)?).ok();
    let at = match row.get("done")?.as_bool().ok()? {
        true => SegmentPosition::End,
        false => SegmentPosition::After(match read_text(row, "after") {
            Some(key) => Some(json_item(&serde_json::from_str(key).ok()?)?),
            None => None,
        }),
    };
    Some(SeededSegment {
        source: read_text(row, "source")?.parse().ok()?,
        segment: small("segment")?,
        segments: small("segments")?,
        task: read_text(row, "task")?.to_owned(),
        hold: read_number(row, "hold")?,
        at,
    })
}
