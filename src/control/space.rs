//! Where the leases of one stream of a table are kept, and its barrier.

use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;

use super::{ControlTable, PK, SK, text};
use crate::source::ShardId;

/// The sort key of a table's barrier; no shard is called so.
pub(super) const BARRIER: &str = "barrier";

/// What distinguishes one stream of a table from another: its creation time, on most servers.
pub fn stream_label(stream_arn: &str) -> &str {
    stream_arn.rsplit_once("/stream/").map_or(stream_arn, |(_, label)| label)
}

/// Where the leases of one stream of a table are stored: a table recreated under its old name has another
/// stream, and some servers give its shards the old names.
pub fn lease_space(table: &str, stream_arn: &str) -> String {
    format!("{table}/{}", stream_label(stream_arn))
}

pub(super) fn pk(space: &str) -> String {
    format!("lease/{space}")
}

impl ControlTable {
    pub(super) fn lease_row(&self, space: &str, shard: &ShardId) -> UpdateItemFluentBuilder {
        let update = self.client.update_item().table_name(&self.name);
        update.key(PK, text(pk(space))).key(SK, text(&*shard.0))
    }

    /// The row of a table's barrier, and of the holds on it.
    pub(super) fn barrier_row(&self, space: &str) -> UpdateItemFluentBuilder {
        let update = self.client.update_item().table_name(&self.name);
        update.key(PK, text(pk(space))).key(SK, text(BARRIER))
    }
}
