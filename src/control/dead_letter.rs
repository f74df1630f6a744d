//! Dead letters: the writes that a replica can never take, each with its reason and images.

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;

use super::{ControlTable, EXPIRES, PK, Row, SK, number, text};
use crate::fault::Fault;
use crate::item_json::item_json;
use crate::protocol::{Body, Item, KeyId, Origin, Write};

/// A write that can never be applied at `peer`.
#[derive(Debug)]
pub struct DeadLetter<'a> {
    pub peer: &'a Origin,
    pub write: &'a Write,
    pub reason: &'a str,
}

/// Bytes of an image in one row; an item may have 400 KB in all.
const CHUNK: usize = 350_000;

impl ControlTable {
    /// Saves a dead letter. Its rows have the same names each time, so it may be saved again.
    ///
    /// The images, as DynamoDB JSON, follow in rows of their own, since two of them can exceed
    /// what one row holds: `<sk>/new/0`, `<sk>/old/0` and so on. The letter itself comes last.
    pub async fn save_dead_letter(
        &self,
        table: &str,
        letter: &DeadLetter<'_>,
        keep_days: u32,
    ) -> Result<(), Fault> {
        let DeadLetter { peer, write, reason } = letter;
        let pk = text(format!("dead-letter/{table}"));
        let sk = format!("{}{peer} {}", write.version, KeyId::of(&write.key));
        let kept = u64::from(keep_days) * 86_400;
        let expires = number(write.version.hlc.millis() / 1000 + kept);
        let new = match &write.body {
            Body::Put(item, _) => Some(item.as_ref()),
            Body::Delete => None,
        };
        let mut letter = Row::from([
            (PK.to_owned(), pk.clone()),
            (SK.to_owned(), text(&sk)),
            (EXPIRES.to_owned(), expires.clone()),
            ("peer".to_owned(), text(peer.as_str())),
            ("key".to_owned(), text(item_json(&write.key).to_string())),
            ("version".to_owned(), text(write.version.to_string().trim_end())),
            ("operation".to_owned(), text(if new.is_some() { "put" } else { "delete" })),
            ("reason".to_owned(), text(*reason)),
        ]);
        for (side, image) in [("new", new), ("old", write.replaced.as_deref())] {
            let chunks = image.map(chunks).unwrap_or_default();
            letter.insert(format!("{side}_chunks"), number(chunks.len()));
            for (i, chunk) in chunks.into_iter().enumerate() {
                self.put(Row::from([
                    (PK.to_owned(), pk.clone()),
                    (SK.to_owned(), text(format!("{sk}/{side}/{i}"))),
                    (EXPIRES.to_owned(), expires.clone()),
                    ("image".to_owned(), AttributeValue::B(Blob::new(chunk))),
                ]))
                .await?;
            }
        }
        self.put(letter).await
    }
}

fn chunks(image: &Item) -> Vec<Vec<u8>> {
    item_json(image).to_string().into_bytes().chunks(CHUNK).map(<[u8]>::to_vec).collect()
}
