//! Images of items, and whole events, that belong to a row: in rows of their own, since they can exceed what one
//! row holds.
//!
//! They also have a `pk` of their own, so that listing the rows does not read the images: the row's, and
//! `/images`; their `sk` is the row's, the side, and the number of the part.

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;

use super::{ControlTable, EXPIRES, PK, Row, SK, number, read_number, read_text, text};
use crate::fault::Fault;
use crate::item_json::{item_json, json_item};
use crate::protocol::Item;

/// Bytes of an image in one row; an item may have 400 KB in all.
const CHUNK: usize = 350_000;

/// The keys of a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address<'a> {
    pub(super) pk: &'a str,
    pub(super) sk: &'a str,
}

impl<'a> Address<'a> {
    pub(super) fn of(row: &'a Row) -> Option<Self> {
        Some(Self { pk: read_text(row, PK)?, sk: read_text(row, SK)? })
    }

    fn images_pk(self) -> String {
        format!("{}/images", self.pk)
    }

    fn chunk_sk(self, side: &str, i: u64) -> String {
        format!("{}/{side}/{i}", self.sk)
    }
}

fn count_name(side: &str) -> String {
    format!("{side}_chunks")
}

impl ControlTable {
    /// Saves an image, as DynamoDB JSON, and records the number of its parts in the row, which is saved after
    /// it. It may be saved again.
    pub(super) async fn save_image(
        &self,
        at: Address<'_>,
        row: &mut Row,
        side: &str,
        image: Option<&Item>,
    ) -> Result<(), Fault> {
        let json = image.map(|image| item_json(image).to_string()).unwrap_or_default();
        self.save_parts(at, row, side, json.as_bytes()).await
    }

    /// The same, of any bytes.
    pub(super) async fn save_parts(
        &self,
        at: Address<'_>,
        row: &mut Row,
        side: &str,
        bytes: &[u8],
    ) -> Result<(), Fault> {
        let mut count = 0;
        for chunk in bytes.chunks(CHUNK) {
            let mut part = Row::from([
                (PK.to_owned(), text(at.images_pk())),
                (SK.to_owned(), text(at.chunk_sk(side, count))),
                ("image".to_owned(), AttributeValue::B(Blob::new(chunk))),
            ]);
            part.extend(row.get(EXPIRES).map(|expires| (EXPIRES.to_owned(), expires.clone())));
            self.put(part).await?;
            count += 1;
        }
        row.insert(count_name(side), number(count));
        Ok(())
    }

    /// The image of a row; `None` if it has none, or if part of it has already expired.
    pub(super) async fn image(&self, at: Address<'_>, row: &Row, side: &str) -> Result<Option<Item>, Fault> {
        let json = self.parts(at, row, side).await?.unwrap_or_default();
        Ok(serde_json::from_slice(&json).ok().as_ref().and_then(json_item))
    }

    /// The bytes that were saved in parts; `None` if one of them has already expired.
    pub(super) async fn parts(
        &self,
        at: Address<'_>,
        row: &Row,
        side: &str,
    ) -> Result<Option<Vec<u8>>, Fault> {
        let mut all = Vec::new();
        for i in 0..read_number(row, &count_name(side)).unwrap_or_default() {
            let get = self.client.get_item().table_name(&self.name).consistent_read(true);
            let get = get.key(PK, text(at.images_pk())).key(SK, text(at.chunk_sk(side, i)));
            let part = get.send().await?.item.unwrap_or_default();
            let Some(Ok(bytes)) = part.get("image").map(AttributeValue::as_b) else { return Ok(None) };
            all.extend_from_slice(bytes.as_ref());
        }
        Ok(Some(all))
    }

    /// Deletes a row, and then its images.
    pub(super) async fn delete_with_images(
        &self,
        at: Address<'_>,
        row: &Row,
        sides: &[&str],
    ) -> Result<(), Fault> {
        self.delete(at.pk, at.sk).await?;
        for side in sides {
            for i in 0..read_number(row, &count_name(side)).unwrap_or_default() {
                self.delete(&at.images_pk(), &at.chunk_sk(side, i)).await?;
            }
        }
        Ok(())
    }
}
