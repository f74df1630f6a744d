//! Checkpoints: how far each destination has got in each shard of the local stream.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;

use super::{ControlTable, PK, Row, SK, number, read_number, read_text, text};
use crate::fault::Fault;
use crate::protocol::{Floors, Hlc, Origin};
use crate::stream::{Position, ShardId};

/// How far one destination has got in one shard.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Everything up to here has been done for the destination.
    pub done: Position,
    /// From here on the shard must be read again to arrive at the same key memory.
    pub rewind: Position,
    /// The floors that were in force at `rewind`.
    pub floors: Floors,
    /// No write that is not yet done will have a creation time below this one, in milliseconds.
    pub millis: u64,
}

/// All checkpoints of a table.
#[derive(Clone, Debug, Default)]
pub struct SavedCheckpoints {
    /// By shard and destination.
    pub shards: BTreeMap<ShardId, BTreeMap<Origin, Checkpoint>>,
    /// That of the newest save.
    pub revision: u64,
}

impl SavedCheckpoints {
    /// The first revision of an agent that starts with these: above all that an earlier run of it
    /// may have under way.
    pub fn next_run(&self) -> u64 {
        const SAVES_A_RUN: u64 = 1 << 32;
        (self.revision / SAVES_A_RUN + 1) * SAVES_A_RUN
    }
}

/// Precedes a destination's name in the name of its attribute.
const DESTINATION: &str = "to ";
const REVISION: &str = "revision";

impl ControlTable {
    /// The checkpoints of a table.
    pub async fn checkpoints(&self, table: &str) -> Result<SavedCheckpoints, Fault> {
        let rows = self.rows(&format!("checkpoint/{table}")).await?;
        let revisions = rows.iter().filter_map(|row| read_number(row, REVISION));
        Ok(SavedCheckpoints {
            revision: revisions.max().unwrap_or_default(),
            shards: rows
                .iter()
                .filter_map(|row| Some((ShardId(read_text(row, SK)?.into()), read(row))))
                .collect(),
        })
    }

    /// Saves what has changed in one shard, in one write; fails where a later revision has been
    /// saved.
    pub async fn save_checkpoints(
        &self,
        table: &str,
        shard: &ShardId,
        revision: u64,
        changed: &[(Origin, Checkpoint)],
    ) -> Result<(), Fault> {
        let mut update = self
            .client
            .update_item()
            .table_name(&self.name)
            .key(PK, text(format!("checkpoint/{table}")))
            .key(SK, text(&*shard.0))
            .condition_expression("attribute_not_exists(#revision) OR #revision <= :revision")
            .expression_attribute_names("#revision", REVISION)
            .expression_attribute_values(":revision", number(revision));
        let mut sets = vec!["#revision = :revision".to_owned()];
        for (i, (destination, checkpoint)) in changed.iter().enumerate() {
            sets.push(format!("#d{i} = :d{i}"));
            update = update
                .expression_attribute_names(format!("#d{i}"), format!("{DESTINATION}{destination}"))
                .expression_attribute_values(format!(":d{i}"), write(checkpoint));
        }
        update.update_expression(format!("SET {}", sets.join(", "))).send().await?;
        Ok(())
    }

    /// Removes the checkpoints of a shard that is no longer there.
    pub async fn retire_shard(&self, table: &str, shard: &ShardId) -> Result<(), Fault> {
        let delete = self.client.delete_item().table_name(&self.name);
        delete.key(PK, text(format!("checkpoint/{table}"))).key(SK, text(&*shard.0)).send().await?;
        Ok(())
    }
}

fn write(checkpoint: &Checkpoint) -> AttributeValue {
    let floors =
        checkpoint.floors.iter().map(|(origin, floor)| (origin.to_string(), number(u64::from(floor))));
    AttributeValue::M(HashMap::from([
        ("done".to_owned(), text(checkpoint.done.to_string())),
        ("rewind".to_owned(), text(checkpoint.rewind.to_string())),
        ("floors".to_owned(), AttributeValue::M(floors.collect())),
        ("millis".to_owned(), number(checkpoint.millis)),
    ]))
}

pub(super) fn read(row: &Row) -> BTreeMap<Origin, Checkpoint> {
    row.iter()
        .filter_map(|(name, value)| {
            let destination = name.strip_prefix(DESTINATION)?.parse().ok()?;
            let fields = value.as_m().ok()?;
            let mut floors = Floors::default();
            for (origin, floor) in fields.get("floors")?.as_m().ok()? {
                floors.raise(&origin.parse().ok()?, Hlc::from(floor.as_n().ok()?.parse::<u64>().ok()?));
            }
            let checkpoint = Checkpoint {
                done: read_text(fields, "done")?.into(),
                rewind: read_text(fields, "rewind")?.into(),
                floors,
                millis: read_number(fields, "millis")?,
            };
            Some((destination, checkpoint))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_map;
    use proptest::prelude::*;

    use super::*;

    fn positions() -> impl Strategy<Value = Position> {
        prop_oneof![
            Just(Position::TrimHorizon),
            Just(Position::End),
            "[0-9]{1,40}".prop_map(|digits| Position::from(digits.as_str())),
        ]
    }

    fn checkpoints() -> impl Strategy<Value = Checkpoint> {
        let floors = btree_map("[a-z0-9_-]{1,32}", any::<u64>(), 0..4);
        (positions(), positions(), floors, any::<u64>()).prop_map(|(done, rewind, raised, millis)| {
            let mut floors = Floors::default();
            for (origin, hlc) in raised {
                floors.raise(&origin.parse().expect("a name"), Hlc::from(hlc));
            }
            Checkpoint { done, rewind, floors, millis }
        })
    }

    proptest! {
        #[test]
        fn every_checkpoint_is_read_back(row in btree_map("[a-z0-9_-]{1,32}", checkpoints(), 0..4)) {
            let row: BTreeMap<Origin, Checkpoint> =
                row.into_iter().map(|(name, c)| (name.parse().expect("a name"), c)).collect();
            let written = row.iter().map(|(name, c)| (format!("{DESTINATION}{name}"), write(c))).collect();
            prop_assert_eq!(read(&written), row);
        }
    }

    #[test]
    fn what_is_no_checkpoint_is_passed_over() {
        let mut floors = Floors::default();
        floors.raise(&"tokyo".parse().expect("a name"), Hlc::at_millis(1_700_000_000_000));
        let checkpoint = Checkpoint {
            done: "00042".into(),
            rewind: Position::TrimHorizon,
            floors,
            millis: 1_700_000_000_123,
        };
        let row = Row::from([
            (SK.to_owned(), text("shard")),
            (format!("{DESTINATION}dublin"), write(&checkpoint)),
            (format!("{DESTINATION}Not a region"), text("garbage")),
        ]);
        assert_eq!(read(&row), BTreeMap::from([("dublin".parse().expect("a name"), checkpoint)]));
    }
}
