//! A short name for a row, for command lines.

use std::fmt;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{PK, Row, SK, read_text};

/// 48 bits of SHA-256 over a row's key: the same each time the row is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct RowId(String);

impl RowId {
    pub(super) fn of(row: &Row) -> Option<Self> {
        let digest = Sha256::new().chain_update(read_text(row, PK)?).chain_update([0]);
        let digest: [u8; 32] = digest.chain_update(read_text(row, SK)?).finalize().into();
        let bits = digest.first_chunk().map(|head| u64::from_be_bytes(*head) >> 16)?;
        Some(Self(format!("{bits:012x}")))
    }
}

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl PartialEq<str> for RowId {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}
