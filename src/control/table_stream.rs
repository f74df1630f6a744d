//! The streams of a table that its agents know, each with its predecessor: a table whose stream is turned off
//! and on, or that is deleted and recreated, has another stream.

use aws_sdk_dynamodb::types::AttributeValue;

use super::condition::held;
use super::{ControlTable, EXPIRES, PK, Row, SK, lease_space, number, read_text, space, stream_label, text};
use crate::clock::epoch_millis;
use crate::fault::Fault;

/// One stream of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableStream {
    pub arn: String,
    /// The label of its predecessor; the first stream that agents knew has none.
    pub before: Option<String>,
    /// Nothing of it is left to replicate, and none of it is replicated again.
    pub is_done: bool,
    /// It can no longer be read.
    pub is_lost: bool,
}

impl TableStream {
    pub fn label(&self) -> &str {
        stream_label(&self.arn)
    }

    /// When it was created, in milliseconds since the Unix epoch, if its label says so.
    pub fn made_millis(&self) -> Option<u64> {
        humantime::parse_rfc3339(&format!("{}Z", self.label())).ok().map(epoch_millis)
    }
}

const STREAM: &str = "stream ";
const ARN: &str = "streamArn";
const BEFORE: &str = "streamBefore";
const DONE: &str = "doneMillis";
const LOST: &str = "lost";
/// How long the rows of a stream that nobody reads any more are kept, in seconds.
const KEPT: u64 = 2 * 86_400;

impl ControlTable {
    /// The streams of a table that its agents know, in no order.
    pub async fn table_streams(&self, table: &str) -> Result<Vec<TableStream>, Fault> {
        Ok(self.rows(&pk(table)).await?.iter().filter_map(read).collect())
    }

    /// Records a stream that agents are about to read, unless another agent has recorded it.
    pub async fn begin_stream(&self, table: &str, stream: &TableStream) -> Result<(), Fault> {
        let mut row = Row::from([
            (PK.to_owned(), text(pk(table))),
            (SK.to_owned(), text(sk(stream))),
            (ARN.to_owned(), text(&stream.arn)),
        ]);
        if let Some(before) = &stream.before {
            row.insert(BEFORE.to_owned(), text(before));
        }
        self.put_new(row).await
    }

    /// Records that nothing of a stream is left to replicate, or that it can no longer be read, and lets its
    /// rows, including leases, expire two days later: an agent that has not noticed yet must not start it
    /// again.
    pub async fn end_stream(
        &self,
        table: &str,
        stream: &TableStream,
        is_lost: bool,
        now: u64,
    ) -> Result<(), Fault> {
        let expires = now / 1000 + KEPT;
        let update = self.client.update_item().table_name(&self.name);
        let update = update.key(PK, text(pk(table))).key(SK, text(sk(stream)));
        let update = update
            .update_expression(format!("SET {DONE} = :now, {LOST} = :lost, #expires = :expires"))
            .expression_attribute_values(":lost", AttributeValue::Bool(is_lost))
            .condition_expression("attribute_exists(#pk)")
            .expression_attribute_names("#pk", PK)
            .expression_attribute_names("#expires", EXPIRES)
            .expression_attribute_values(":now", number(now))
            .expression_attribute_values(":expires", number(expires));
        held(update.send().await)?;
        let space = space::pk(&lease_space(table, &stream.arn));
        for row in self.rows(&space).await? {
            let Some(sk) = read_text(&row, SK).filter(|_| !row.contains_key(EXPIRES)) else { continue };
            let update = self.client.update_item().table_name(&self.name);
            let update = update.key(PK, text(&space)).key(SK, text(sk));
            let update = update
                .update_expression("SET #expires = :expires")
                .condition_expression("attribute_exists(#pk)")
                .expression_attribute_names("#pk", PK)
                .expression_attribute_names("#expires", EXPIRES)
                .expression_attribute_values(":expires", number(expires));
            held(update.send().await)?;
        }
        Ok(())
    }
}

pub(super) fn pk(table: &str) -> String {
    format!("table/{table}")
}

fn sk(stream: &TableStream) -> String {
    format!("{STREAM}{}", stream.label())
}

pub(super) fn read(row: &Row) -> Option<TableStream> {
    read_text(row, SK)?.strip_prefix(STREAM)?;
    Some(TableStream {
        arn: read_text(row, ARN)?.to_owned(),
        before: read_text(row, BEFORE).map(str::to_owned),
        is_done: row.contains_key(DONE),
        is_lost: row.get(LOST) == Some(&AttributeValue::Bool(true)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_says_when_its_stream_was_made() {
        let made = |label: &str| {
            let arn = format!("arn:aws:dynamodb:eu-west-1:1:table/orders/stream/{label}");
            let stream = TableStream { arn, before: None, is_done: false, is_lost: false };
            assert_eq!(stream.label(), label);
            stream.made_millis()
        };
        assert_eq!(made("1970-01-02T00:00:00.007"), Some(86_400_007));
        assert_eq!(made("1795975409.000000001"), None);
    }
}
