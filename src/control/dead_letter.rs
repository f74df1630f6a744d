//! Dead letters: the writes that a replica can never accept, each with its reason and images.

use super::images::Address;
use super::row_id::RowId;
use super::{ControlTable, EXPIRES, PK, Row, SK, expires, read_text, text};
use crate::fault::Fault;
use crate::item_json::{item_json, json_item};
use crate::protocol::{Body, Item, KeyId, Origin, Version, Write};

/// A write that can never be applied at `peer`.
#[derive(Debug)]
pub struct DeadLetter<'a> {
    pub peer: &'a Origin,
    pub write: &'a Write,
    pub reason: &'a str,
}

/// A dead letter as stored in the control table; its images are read on request.
#[derive(Clone, Debug)]
pub struct SavedLetter {
    pub id: RowId,
    pub peer: Origin,
    pub key: Item,
    pub version: Version,
    /// Whether the write was a delete.
    pub is_delete: bool,
    pub reason: String,
    row: Row,
}

const NEW: &str = "new";
const OLD: &str = "old";

impl ControlTable {
    /// Saves a dead letter. Its rows always have the same keys, so it may be saved again.
    ///
    /// The letter itself is saved last: whoever finds it finds its images.
    pub async fn save_dead_letter(
        &self,
        table: &str,
        letter: &DeadLetter<'_>,
        keep_days: u32,
    ) -> Result<(), Fault> {
        let DeadLetter { peer, write, reason } = letter;
        let pk = pk(table);
        let sk = format!("{}{peer} {}", write.version, KeyId::of(&write.key));
        let at = Address { pk: &pk, sk: &sk };
        let new = match &write.body {
            Body::Put(item, _) => Some(item.as_ref()),
            Body::Delete => None,
        };
        let mut row = Row::from([
            (PK.to_owned(), text(&pk)),
            (SK.to_owned(), text(&sk)),
            (EXPIRES.to_owned(), expires(write.version.hlc.millis(), keep_days)),
            ("peer".to_owned(), text(peer.as_str())),
            ("key".to_owned(), text(item_json(&write.key).to_string())),
            ("version".to_owned(), text(write.version.to_string().trim_end())),
            ("operation".to_owned(), text(if new.is_some() { "put" } else { "delete" })),
            ("reason".to_owned(), text(*reason)),
        ]);
        self.save_image(at, &mut row, NEW, new).await?;
        self.save_image(at, &mut row, OLD, write.replaced.as_deref()).await?;
        self.put(row).await
    }

    /// The dead letters of a table, oldest version first.
    pub async fn dead_letters(&self, table: &str) -> Result<Vec<SavedLetter>, Fault> {
        Ok(self.rows(&pk(table)).await?.into_iter().filter_map(read).collect())
    }

    /// The last of them, newest version first.
    pub async fn newest_dead_letters(&self, table: &str, most: usize) -> Result<Vec<SavedLetter>, Fault> {
        Ok(self.last_rows(&pk(table), most).await?.into_iter().filter_map(read).collect())
    }

    /// The image that the letter's write put in place, and the one that it replaced at its origin.
    pub async fn dead_letter_images(
        &self,
        letter: &SavedLetter,
    ) -> Result<(Option<Item>, Option<Item>), Fault> {
        let Some(at) = letter.address() else { return Ok((None, None)) };
        Ok((self.image(at, &letter.row, NEW).await?, self.image(at, &letter.row, OLD).await?))
    }

    /// Saves the reason why a letter's write is refused now.
    pub async fn save_reason(&self, letter: &SavedLetter, reason: &str) -> Result<(), Fault> {
        let mut row = letter.row.clone();
        row.insert("reason".to_owned(), text(reason));
        self.put(row).await
    }

    /// Deletes a letter, with its images.
    pub async fn delete_dead_letter(&self, letter: &SavedLetter) -> Result<(), Fault> {
        let Some(at) = letter.address() else { return Ok(()) };
        self.delete_with_images(at, &letter.row, &[NEW, OLD]).await
    }
}

impl SavedLetter {
    fn address(&self) -> Option<Address<'_>> {
        Address::of(&self.row)
    }
}

fn pk(table: &str) -> String {
    format!("dead-letter/{table}")
}

pub(super) fn read(row: Row) -> Option<SavedLetter> {
    Some(SavedLetter {
        id: RowId::of(&row)?,
        peer: read_text(&row, "peer")?.parse().ok()?,
        key: json_item(&serde_json::from_str(read_text(&row, "key")?).ok()?)?,
        version: read_text(&row, "version")?.parse().ok()?,
        is_delete: read_text(&row, "operation")? == "delete",
        reason: read_text(&row, "reason")?.to_owned(),
        row,
    })
}
