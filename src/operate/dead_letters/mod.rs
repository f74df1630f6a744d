//! Dead letters: lists them, and replays those that are still the newest write.
//!
//! **A letter's own write is never repeated.** By the time a person sees it, the peer has forgotten the key:
//! watermarks have passed the letter's version. The peer's agent would take a put of that version for an
//! application that puts an old copy back, and a mark for a stray one, and turn either into the newest write
//! of all. So a letter only says which key to look at. If the origin still holds what the letter says, the
//! key is replicated again from there, as a new write with a new version; otherwise something newer is
//! stored, or a person has to decide.
//!
//! First, everything written anywhere has to arrive everywhere, or a delete on its way to the origin would be
//! undone; and a key that changes meanwhile is left alone. What remains is a write made elsewhere in the
//! milliseconds between the last look and the new write: the later of the two wins, as with any other update
//! at the origin, and it is reported as a conflict.
//!
//! | file | subject |
//! | --- | --- |
//! | `decide` | what to do about a letter, given what is stored in the replicas |
//! | `replay` | waits until everything has arrived, looks, and acts |

mod decide;
mod replay;

use serde::Serialize;
use serde_json::Value;

use super::{OperateError, PhysicalReplica, TableReplicas};
use crate::control::{ControlTable, RowId, SavedLetter};
use crate::fault::Fault;
use crate::item_json::item_json;
use crate::protocol::{Item, Origin};
use crate::region::Region;

pub use replay::replay;

/// A write that a peer could not take.
#[derive(Clone, Debug, Serialize)]
pub struct Letter {
    pub id: RowId,
    pub table: String,
    pub origin: Origin,
    pub peer: Origin,
    /// The key, as DynamoDB JSON.
    pub key: Value,
    pub operation: &'static str,
    pub version: String,
    /// The time in its version, in milliseconds since the Unix epoch.
    pub written_millis: u64,
    pub reason: String,
    /// The replica whose control table holds it.
    #[serde(skip)]
    kept_in: Region,
    #[serde(skip)]
    saved: SavedLetter,
}

/// The result of replaying a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The key is replicated again; the letter is gone.
    Replayed,
    /// Nothing to do: something newer is stored, or this has arrived; the letter is gone.
    Superseded,
    /// The peer would still not take it: the letter stays, with its new reason.
    Refused,
    /// A person has to decide, or an agent has to run: the letter stays.
    Undecided,
}

/// One letter, and its result.
#[derive(Debug, Serialize)]
pub struct Replayed {
    #[serde(flatten)]
    pub letter: Letter,
    pub fate: Fate,
    pub why: String,
}

/// All letters of some tables, the oldest first.
pub async fn dead_letters(tables: &[TableReplicas]) -> Result<Vec<Letter>, OperateError> {
    let mut letters = Vec::new();
    for replica in tables.iter().flat_map(|table| &table.replicas) {
        let saved = replica.control().dead_letters(&replica.table.name).await;
        let saved = saved.map_err(|fault| replica.at_control(fault))?;
        letters.extend(saved.into_iter().map(|saved| Letter::of(replica, saved)));
    }
    letters.sort_by(|a, b| a.saved.version.cmp(&b.saved.version));
    Ok(letters)
}

impl Letter {
    fn of(replica: &PhysicalReplica, saved: SavedLetter) -> Self {
        Self {
            id: saved.id.clone(),
            table: replica.table.name.clone(),
            origin: replica.region.name.clone(),
            peer: saved.peer.clone(),
            key: item_json(&saved.key),
            operation: if saved.is_delete { "delete" } else { "put" },
            version: saved.version.to_string().trim_end().to_owned(),
            written_millis: saved.version.hlc.millis(),
            reason: saved.reason.clone(),
            kept_in: replica.region.clone(),
            saved,
        }
    }

    /// The write's image, and the one that it replaced at its origin.
    pub async fn images(&self) -> Result<(Option<Item>, Option<Item>), OperateError> {
        let images = ControlTable::of(&self.kept_in).dead_letter_images(&self.saved).await;
        images.map_err(|fault| self.at_control(fault))
    }

    /// Deletes it, with its images.
    pub async fn drop(&self) -> Result<(), OperateError> {
        let dropped = ControlTable::of(&self.kept_in).delete_dead_letter(&self.saved).await;
        dropped.map_err(|fault| self.at_control(fault))
    }

    async fn save_reason(&self, reason: &str) -> Result<(), OperateError> {
        let saved = ControlTable::of(&self.kept_in).save_reason(&self.saved, reason).await;
        saved.map_err(|fault| self.at_control(fault))
    }

    fn at_control(&self, fault: Fault) -> OperateError {
        OperateError::at(&self.kept_in, &self.kept_in.control_table, fault)
    }
}
