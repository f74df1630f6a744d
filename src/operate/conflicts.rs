//! Recorded conflicts: lists them, and writes a losing image back.

use aws_sdk_dynamodb::types::ReturnValue;
use serde::Serialize;
use serde_json::Value;

use super::{OperateError, PhysicalReplica, TableReplicas};
use crate::control::{ConflictTable, RowId, SavedConflict};
use crate::fault::FaultKind;
use crate::item_json::item_json;
use crate::protocol::{Item, Origin, STAMP, Version};
use crate::region::Region;

/// A write that lost to one that was not made on top of it.
#[derive(Clone, Debug, Serialize)]
pub struct LostWrite {
    pub id: RowId,
    pub table: String,
    /// The region whose write lost, and which recorded that.
    pub region: Origin,
    /// The region whose write won.
    pub winner: Origin,
    /// The key, as DynamoDB JSON.
    pub key: Value,
    pub lost: String,
    pub won: String,
    /// The times in the two versions, and when the winner was seen in place of the loser; in milliseconds
    /// since the Unix epoch.
    pub lost_millis: u64,
    pub won_millis: u64,
    pub seen_millis: u64,
    /// The replica whose conflict table holds it.
    #[serde(skip)]
    kept_in: Region,
    #[serde(skip)]
    saved: SavedConflict,
}

/// The recorded conflicts of some tables, the oldest first. A region without a conflict table has
/// recorded none.
pub async fn conflicts(tables: &[TableReplicas]) -> Result<Vec<LostWrite>, OperateError> {
    let mut found = Vec::new();
    for replica in tables.iter().flat_map(|table| &table.replicas) {
        let region = &replica.region;
        match ConflictTable::of(region).list(&replica.table.name).await {
            Ok(saved) => found.extend(saved.into_iter().map(|saved| LostWrite::of(replica, saved))),
            Err(fault) if fault.kind == FaultKind::Missing => {}
            Err(fault) => return Err(OperateError::at(region, &region.conflict_table, fault)),
        }
    }
    found.sort_by_key(|conflict| conflict.seen_millis);
    Ok(found)
}

impl LostWrite {
    fn of(replica: &PhysicalReplica, saved: SavedConflict) -> Self {
        let text = |version: &Version| version.to_string().trim_end().to_owned();
        Self {
            id: saved.id.clone(),
            table: replica.table.name.clone(),
            region: replica.region.name.clone(),
            winner: saved.won.origin.clone(),
            key: item_json(&saved.key),
            lost: text(&saved.lost),
            won: text(&saved.won),
            lost_millis: saved.lost.hlc.millis(),
            won_millis: saved.won.hlc.millis(),
            seen_millis: saved.seen_millis,
            kept_in: replica.region.clone(),
            saved,
        }
    }

    /// The losing and the winning image, without their stamps. None for a delete, or for a loser that a third
    /// write had already replaced.
    pub async fn images(&self) -> Result<(Option<Item>, Option<Item>), OperateError> {
        let region = &self.kept_in;
        let images = ConflictTable::of(region).images(&self.saved).await;
        let (loser, winner) =
            images.map_err(|fault| OperateError::at(region, &region.conflict_table, fault))?;
        Ok((loser.map(without_stamp), winner.map(without_stamp)))
    }
}

/// What was written back, and what it replaced.
#[derive(Debug, Serialize)]
pub struct Restored {
    pub region: Origin,
    pub table: String,
    /// What was stored there: what was replaced, or would be.
    pub stood: Option<Value>,
    pub item: Value,
    pub dry_run: bool,
}

/// Puts an item into a replica as an application would: without a stamp, over whatever is stored there. From
/// there it is replicated as a new write.
pub async fn restore(
    replica: &PhysicalReplica,
    conflict: &LostWrite,
    item: Item,
    dry_run: bool,
) -> Result<Restored, OperateError> {
    let PhysicalReplica { table, region, name } = replica;
    let item = without_stamp(item);
    let shown = item_json(&item);
    let stood = if dry_run {
        let get = region.tables.get_item().table_name(name).consistent_read(true);
        let get = get.set_key(Some(conflict.saved.key.clone())).send().await;
        get.map_err(|error| replica.at(error))?.item
    } else {
        let put = region.tables.put_item().table_name(name).set_item(Some(item));
        let put = put.return_values(ReturnValue::AllOld).send().await;
        put.map_err(|error| replica.at(error))?.attributes
    };
    let stood = stood.map(|stood| item_json(&without_stamp(stood)));
    Ok(Restored { region: region.name.clone(), table: table.name.clone(), stood, item: shown, dry_run })
}

fn without_stamp(mut item: Item) -> Item {
    item.remove(STAMP);
    item
}
