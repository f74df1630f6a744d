//! Keys beyond what fits into memory: how many an agent holds there, and where it keeps the others.
//!
//! The disk is a cache of the stream. Its content is rebuilt after a restart, as memory is; the file has no
//! name, and vanishes with the process, however that ends.
//!
//! | file | subject |
//! | --- | --- |
//! | `keys` | what one track remembers, wherever that is kept |
//! | `shelf` | what one track keeps on disk |
//! | `store` | the file, shared by all tracks of an agent |
//! | `room` | how many keys the tracks of an agent hold in memory together |

mod keys;
mod room;
mod shelf;
mod store;

use std::path::PathBuf;

pub use keys::{Keys, Remembered};
pub use room::Spill;

/// Why keys can't be moved to disk, or read from there.
#[derive(Debug, thiserror::Error)]
pub enum SpillError {
    #[error("can't make a file in {}: {source}", folder.display())]
    Unmade { folder: PathBuf, source: std::io::Error },
    #[error("can't write to the file in {}: {reason}", folder.display())]
    Unwritten { folder: PathBuf, reason: String },
    #[error("can't use the file in {}: {source}", folder.display())]
    Broken { folder: PathBuf, source: Box<redb::Error> },
}
