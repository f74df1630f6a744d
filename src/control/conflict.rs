//! Recorded conflicts: in a table of their own, each with both images, until they expire.
//!
//! | row | pk | sk |
//! | --- | --- | --- |
//! | conflict | `conflict/<table>/<region>` | the version that lost, the one that won, the key |
//! | image of one | the same, and `/images` | the same, the side, the part |
//!
//! A conflict is reported in the region whose write lost, and recorded in that region's table. A record that
//! is delivered again writes the same rows.

use super::images::Address;
use super::row_id::RowId;
use super::{ControlTable, EXPIRES, PK, Row, SK, expires, number, read_number, read_text, text};
use crate::fault::Fault;
use crate::item_json::{item_json, json_item};
use crate::protocol::{Conflict, Item, KeyId, Origin, Version};
use crate::region::Region;

/// The table of one region in which conflicts are recorded. It has the keys of a control table.
#[derive(Clone, Debug)]
pub struct ConflictTable(ControlTable);

/// A conflict as stored in the table; its images are read on request.
#[derive(Clone, Debug)]
pub struct SavedConflict {
    pub id: RowId,
    pub key: Item,
    pub lost: Version,
    pub won: Version,
    /// When the region's own service showed the winner in the loser's place, in milliseconds since the Unix
    /// epoch.
    pub seen_millis: u64,
    row: Row,
}

const LOSER: &str = "loser";
const WINNER: &str = "winner";

impl ConflictTable {
    pub fn of(region: &Region) -> Self {
        Self(ControlTable { name: region.conflict_table.clone(), ..ControlTable::of(region) })
    }

    /// Records a conflict; it may be recorded again. The images come first, as with a dead letter.
    pub async fn save(
        &self,
        table: &str,
        conflict: &Conflict,
        seen_millis: u64,
        keep_days: u32,
    ) -> Result<(), Fault> {
        let Conflict { key, lost, won, loser, winner } = conflict;
        let pk = self.pk(table);
        let sk = format!("{lost}{won}{}", KeyId::of(key));
        let at = Address { pk: &pk, sk: &sk };
        let version = |version: &Version| text(version.to_string().trim_end());
        let mut row = Row::from([
            (PK.to_owned(), text(&pk)),
            (SK.to_owned(), text(&sk)),
            (EXPIRES.to_owned(), expires(seen_millis, keep_days)),
            ("table".to_owned(), text(table)),
            ("key".to_owned(), text(item_json(key).to_string())),
            ("lost".to_owned(), version(lost)),
            ("lostMillis".to_owned(), number(lost.hlc.millis())),
            ("won".to_owned(), version(won)),
            ("wonMillis".to_owned(), number(won.hlc.millis())),
            ("seenMillis".to_owned(), number(seen_millis)),
        ]);
        self.0.save_image(at, &mut row, LOSER, loser.as_ref()).await?;
        self.0.save_image(at, &mut row, WINNER, winner.as_ref()).await?;
        self.0.put(row).await
    }

    /// The conflicts that the region's writes to a table lost, oldest first.
    pub async fn list(&self, table: &str) -> Result<Vec<SavedConflict>, Fault> {
        Ok(self.0.rows(&self.pk(table)).await?.into_iter().filter_map(read).collect())
    }

    /// The last of them by losing version, newest first.
    pub async fn newest(&self, table: &str, most: usize) -> Result<Vec<SavedConflict>, Fault> {
        Ok(self.0.last_rows(&self.pk(table), most).await?.into_iter().filter_map(read).collect())
    }

    /// The images that lost and won, as far as they were known.
    pub async fn images(&self, conflict: &SavedConflict) -> Result<(Option<Item>, Option<Item>), Fault> {
        let Some(at) = Address::of(&conflict.row) else { return Ok((None, None)) };
        let (loser, winner) =
            (self.0.image(at, &conflict.row, LOSER), self.0.image(at, &conflict.row, WINNER));
        Ok((loser.await?, winner.await?))
    }

    pub fn region(&self) -> &Origin {
        &self.0.region
    }

    fn pk(&self, table: &str) -> String {
        format!("conflict/{table}/{}", self.region())
    }
}

pub(super) fn read(row: Row) -> Option<SavedConflict> {
    Some(SavedConflict {
        id: RowId::of(&row)?,
        key: json_item(&serde_json::from_str(read_text(&row, "key")?).ok()?)?,
        lost: read_text(&row, "lost")?.parse().ok()?,
        won: read_text(&row, "won")?.parse().ok()?,
        seen_millis: read_number(&row, "seenMillis")?,
        row,
    })
}
