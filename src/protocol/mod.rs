//! The replication protocol: pure functions, without I/O, clock or randomness.
//!
//! A stream [`Record`] goes into [`KeyMemory::judge`], and a [`Judgement`] comes out: what the record was,
//! and which writes it asks for. The agent, the model checker and the simulator all call this code.
//!
//! | file | subject |
//! | --- | --- |
//! | `version` | the one total order of writes |
//! | `stamp` | the attribute an agent puts into an item it writes |
//! | `fingerprint` | the canonical hash by which a stamp recognises its item |
//! | `item` | an item, and the name of the stamp's attribute |
//! | `record` | what the protocol reads of a stream record |
//! | `classify` | whose write a record shows |
//! | `floors` | how far each region's writes are known to have arrived |
//! | `key_state` | what is remembered of one key |
//! | `memory` | what is remembered of a stream's keys, and when it may be forgotten |
//! | `aside` | keys that are kept elsewhere: as bytes, and in outlines of many |
//! | `action` | a write, and what is to be done with it |
//! | `resolve` | which writes a record asks for |
//! | `guard` | what such a write expects to find, and what follows if it finds something else |
//! | `seed` | which copies bring regions to the same item |
//! | `selection` | what of the items goes to which region |
//! | `tests` | `classify`, `memory` and `resolve` as tables: record in, verdict and writes out |

mod action;
mod aside;
mod classify;
mod fingerprint;
mod floors;
mod guard;
mod item;
mod key_state;
mod memory;
mod record;
mod resolve;
mod seed;
mod selection;
mod stamp;
#[cfg(test)]
mod tests;
mod version;

pub use action::{Action, Body, Home, Past, Write};
pub use aside::{Malformed, Outline};
pub use fingerprint::{Fingerprint, KeyId};
pub use floors::{AHEAD_MILLIS, Floors, SLACK_MILLIS, is_credible};
pub use guard::{Guard, Next, StampGuard};
pub use item::{Item, STAMP};
pub use key_state::KeyState;
pub use memory::{KeyMemory, Sweep};
pub use record::Record;
pub use resolve::{Conflict, Judgement, Verdict};
pub use seed::{Seed, Seeding, seed};
pub use selection::{Selection, Selections, Test, Visible};
pub use stamp::{Nonce, STAMP_MAGIC, Stamp};
pub(crate) use version::is_name;
pub use version::{Hlc, Origin, Version};
