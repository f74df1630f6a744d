//! Writes to a replica: the conditional writes themselves, and the lanes that make them in
//! order within a key, in parallel across keys, until each has been answered.

mod lanes;
mod ledger;
mod pauses;
mod replica;
mod tenure;

pub(crate) use lanes::item_bytes;
pub use lanes::{Complaints, Destination, Job, Lanes};
pub use ledger::Ledger;
pub use pauses::Pauses;
pub use replica::{Outcome, Replica};
pub use tenure::Tenure;
