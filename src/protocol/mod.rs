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
//! | `record` | what the protocol reads of a stream record |
//! | `classify` | whose write a record shows |
//! | `memory` | what is remembered of a key, and when it may be forgotten |
//! | `aside` | keys that are kept elsewhere: as bytes, and in outlines of many |
//! | `resolve` | which writes a record asks for |
//! | `guard` | what such a write expects to find, and what follows if it finds something else |
//! | `seed` | which copies bring regions to the same item |
//! | `selection` | what of the items goes to which region |
//! | `tests` | `classify`, `memory` and `resolve` as tables: record in, verdict and writes out |

mod aside;
mod classify;
mod fingerprint;
mod guard;
mod memory;
mod record;
mod resolve;
mod seed;
mod selection;
mod stamp;
#[cfg(test)]
mod tests;
mod version;

pub use aside::{Malformed, Outline};
pub use fingerprint::{Fingerprint, KeyId};
pub use guard::{Guard, Next, StampGuard};
pub use memory::{AHEAD_MILLIS, Floors, KeyMemory, KeyState, SLACK_MILLIS, Sweep, is_credible};
pub use record::{Item, Record};
pub use resolve::{Action, Body, Conflict, Home, Judgement, Verdict, Write};
pub use seed::{Seed, Seeding, seed};
pub use selection::{Selection, Selections, Shown, Test};
pub use stamp::{Nonce, STAMP, STAMP_MAGIC, Stamp};
pub use version::{Hlc, Origin, Version};
