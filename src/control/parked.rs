//! Parked events: those that a feed's sink rejects to the end, each whole, with the reason.

use super::images::Address;
use super::row_id::RowId;
use super::{ControlTable, EXPIRES, PK, Row, SK, expires, number, read_number, read_text, text};
use crate::fault::Fault;
use crate::feed::FeedName;
use crate::item_json::{item_json, json_item};
use crate::protocol::{Item, KeyId, Version};

/// An event that a sink rejects.
#[derive(Clone, Debug, PartialEq)]
pub struct ParkedEvent {
    pub feed: FeedName,
    /// The table's name in the configuration.
    pub table: String,
    pub key: Item,
    pub version: Version,
    /// What the sink answered last.
    pub reason: String,
    /// How many times it was rejected.
    pub rejections: u32,
}

/// A parked event as stored in the control table; the event itself is read on request.
#[derive(Clone, Debug)]
pub struct SavedEvent {
    pub id: RowId,
    pub event: ParkedEvent,
    row: Row,
}

const EVENT: &str = "event";
/// A reason may be a function's whole answer.
const LONGEST_REASON: usize = 4_000;

impl ControlTable {
    /// Saves an event as it was told. Its rows always have the same keys, so it may be saved again.
    ///
    /// The row itself is saved last: whoever finds it finds the event.
    pub async fn park_event(&self, parked: &ParkedEvent, told: &str, keep_days: u32) -> Result<(), Fault> {
        let ParkedEvent { feed, table, key, version, reason, rejections } = parked;
        let (pk, sk) = (pk(feed), format!("{version}{}", KeyId::of(key)));
        let mut row = Row::from([
            (PK.to_owned(), text(&pk)),
            (SK.to_owned(), text(&sk)),
            (EXPIRES.to_owned(), expires(version.hlc.millis(), keep_days)),
            ("table".to_owned(), text(table)),
            ("feed".to_owned(), text(feed.as_str())),
            ("key".to_owned(), text(item_json(key).to_string())),
            ("version".to_owned(), text(version.to_string().trim_end())),
            ("reason".to_owned(), text(reason.chars().take(LONGEST_REASON).collect::<String>())),
            ("rejections".to_owned(), number(rejections)),
        ]);
        self.save_parts(Address { pk: &pk, sk: &sk }, &mut row, EVENT, told.as_bytes()).await?;
        self.put(row).await
    }

    /// The parked events of a feed, oldest version first.
    pub async fn parked_events(&self, feed: &FeedName) -> Result<Vec<SavedEvent>, Fault> {
        Ok(self.rows(&pk(feed)).await?.into_iter().filter_map(read).collect())
    }

    /// The last of them, newest version first.
    pub async fn newest_parked_events(&self, feed: &FeedName, most: usize) -> Result<Vec<SavedEvent>, Fault> {
        Ok(self.last_rows(&pk(feed), most).await?.into_iter().filter_map(read).collect())
    }

    /// The event as it was told; `None` if part of it has already expired.
    pub async fn parked_text(&self, saved: &SavedEvent) -> Result<Option<String>, Fault> {
        let Some(at) = Address::of(&saved.row) else { return Ok(None) };
        let bytes = self.parts(at, &saved.row, EVENT).await?;
        Ok(bytes.and_then(|bytes| String::from_utf8(bytes).ok()))
    }

    /// Deletes a parked event.
    pub async fn delete_parked_event(&self, saved: &SavedEvent) -> Result<(), Fault> {
        let Some(at) = Address::of(&saved.row) else { return Ok(()) };
        self.delete_with_images(at, &saved.row, &[EVENT]).await
    }
}

fn pk(feed: &FeedName) -> String {
    format!("parked/{feed}")
}

pub(super) fn read(row: Row) -> Option<SavedEvent> {
    let event = ParkedEvent {
        feed: read_text(&row, "feed")?.parse().ok()?,
        table: read_text(&row, "table")?.to_owned(),
        key: json_item(&serde_json::from_str(read_text(&row, "key")?).ok()?)?,
        version: read_text(&row, "version")?.parse().ok()?,
        reason: read_text(&row, "reason")?.to_owned(),
        rejections: read_number(&row, "rejections")?.try_into().ok()?,
    };
    Some(SavedEvent { id: RowId::of(&row)?, event, row })
}
