//! The control table's rows. There is one control table beside each region's replicas.
//!
//! Its key is `pk` and `sk`, both strings; `expires` is its TTL attribute.
//!
//! | row | pk | sk | who writes it |
//! | --- | --- | --- | --- |
//! | lease, with its checkpoints | `lease/<table>/<stream>` | the shard | the agent that holds it |
//! | stream that agents read, with the one before it | `table/<table>` | `stream`, its label | this region's agents |
//! | whose the table's rows are | `table/<table>` | `setup` | this region's agents |
//! | barrier, with holds | `lease/<table>/<stream>` | `barrier` | whoever waits; seeders |
//! | beat | `agent` | the agent | that agent |
//! | pause | `agent` | `pause`, the peer or feed | whoever pauses |
//! | from when on a feed is told | `agent` | `feed`, the feed | this region's agents; whoever rewinds it |
//! | watermark | `watermark/<table>` | the origin | that origin's agent |
//! | gap | `gap/<table>` | shard, time | this region's agents |
//! | verified | `gap/<table>` | `verified` | whoever has compared the replicas |
//! | report | `report` | region, agent | every agent, in every region |
//! | segment of a bootstrap | `seeding/<table>` | the source, the segment | `tradewind bootstrap` |
//! | dead letter | `dead-letter/<table>` | version, peer, key | this region's agent |
//! | event that a feed's sink rejects | `parked/<feed>` | version, key | this region's agent |
//!
//! Conflicts are recorded in a table of their own, with the same keys: see `conflict`.

mod beat;
mod condition;
mod conflict;
mod dead_letter;
mod feed_begin;
mod gap;
mod hold;
mod images;
mod jump;
mod lease;
mod parked;
mod pause;
mod removal;
mod report;
mod row_id;
mod seeding;
mod setup;
mod space;
mod table_stream;
mod verified;
mod watermark;

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;

use crate::fault::Fault;
use crate::protocol::Origin;
use crate::region::Region;

pub use beat::{AgentId, Beat, CrewTable};
pub use condition::Held;
pub use conflict::{ConflictTable, SavedConflict};
pub use dead_letter::{DeadLetter, SavedLetter};
pub use feed_begin::{FeedBegin, FeedBegins};
pub use gap::{Cause, Gap};
pub use hold::HoldRow;
pub use jump::Jump;
pub use lease::{Checkpoint, Lease, LeaseTable, Leases, Term};
pub use parked::{ParkedEvent, SavedEvent};
pub use pause::PausedDestinations;
pub use report::SavedReport;
pub use row_id::RowId;
pub use seeding::{SeededSegment, SegmentPosition};
pub use setup::Setup;
pub use space::{lease_space, stream_label};
pub use table_stream::TableStream;
pub use verified::{Agreement, Verified};
pub use watermark::Watermarks;

/// The name of the partition key.
pub const PK: &str = "pk";
/// The name of the sort key.
pub const SK: &str = "sk";
/// The name of the TTL attribute, in seconds since the Unix epoch.
pub const EXPIRES: &str = "expires";

/// The partition key of the rows about agents.
const AGENTS: &str = "agent";

type Row = HashMap<String, AttributeValue>;

/// The control table of one region.
#[derive(Clone, Debug)]
pub struct ControlTable {
    region: Origin,
    client: Client,
    name: String,
}

impl ControlTable {
    pub fn of(region: &Region) -> Self {
        let Region { name: region, tables: client, control_table: name, .. } = region.clone();
        Self { region, client, name }
    }

    /// One that no call reaches.
    #[cfg(test)]
    pub(crate) fn unreachable() -> Self {
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(aws_sdk_dynamodb::config::BehaviorVersion::latest())
            .region(aws_sdk_dynamodb::config::Region::new("none"))
            .endpoint_url("http://127.0.0.1:9")
            .build();
        Self { region: Origin::seeding(), client: Client::from_conf(config), name: String::new() }
    }

    /// All rows with this `pk`.
    async fn rows(&self, pk: &str) -> Result<Vec<Row>, Fault> {
        let mut rows = Vec::new();
        let mut start = None;
        loop {
            let query = self.query(pk).consistent_read(true);
            let page = query.set_exclusive_start_key(start).send().await?;
            rows.extend(page.items.unwrap_or_default());
            start = page.last_evaluated_key;
            if start.as_ref().is_none_or(HashMap::is_empty) {
                return Ok(rows);
            }
        }
    }

    /// The rows with this `pk` and the highest `sk`, the highest first.
    async fn last_rows(&self, pk: &str, most: usize) -> Result<Vec<Row>, Fault> {
        let query = self.query(pk).scan_index_forward(false).limit(i32::try_from(most).unwrap_or(i32::MAX));
        Ok(query.send().await?.items.unwrap_or_default())
    }

    /// A query for rows with this `pk`.
    fn query(&self, pk: &str) -> QueryFluentBuilder {
        let query = self.client.query().table_name(&self.name);
        query
            .key_condition_expression("#pk = :pk")
            .expression_attribute_names("#pk", PK)
            .expression_attribute_values(":pk", text(pk))
    }

    async fn put(&self, row: Row) -> Result<(), Fault> {
        self.client.put_item().table_name(&self.name).set_item(Some(row)).send().await?;
        Ok(())
    }

    async fn delete(&self, pk: &str, sk: &str) -> Result<(), Fault> {
        let delete = self.client.delete_item().table_name(&self.name);
        delete.key(PK, text(pk)).key(SK, text(sk)).send().await?;
        Ok(())
    }
}

/// Reads a row as every kind that it may be, for the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_any(row: &Row) {
    let home = Origin::seeding();
    let _ = (lease::read(row, &home), watermark::read(row), gap::read(row), verified::read(row));
    let _ = (beat::read(row), pause::read(row), report::read(row), seeding::read(row));
    let _ = (dead_letter::read(row.clone()), conflict::read(row.clone()), table_stream::read(row));
    let _ = (setup::read(row), parked::read(row.clone()), feed_begin::read(row));
}

fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// When a row from then on, in milliseconds since the Unix epoch, has been kept for so many days.
fn expires(millis: u64, keep_days: u32) -> AttributeValue {
    number(millis / 1000 + u64::from(keep_days) * 86_400)
}

fn read_text<'a>(row: &'a Row, name: &str) -> Option<&'a str> {
    row.get(name)?.as_s().ok().map(String::as_str)
}

fn read_number(row: &Row, name: &str) -> Option<u64> {
    row.get(name)?.as_n().ok()?.parse().ok()
}
