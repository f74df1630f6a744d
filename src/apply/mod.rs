//! Writes to a replica: the conditional writes themselves, and the lanes that make them in
//! order within a key, in parallel across keys, until each has been answered.

mod attribute_names;
mod condition;
mod contention;
mod destination;
mod fitness;
mod job;
mod knee;
mod lanes;
mod ledger;
mod pauses;
mod refusals;
mod replica;
mod tenure;
mod width;

pub use attribute_names::AttributeNames;
pub use contention::Insistence;
pub use destination::{Complaints, Destination};
pub use fitness::Fitness;
pub(crate) use job::item_bytes;
pub use job::{Job, Source};
pub use lanes::Lanes;
pub use ledger::Ledger;
pub use pauses::Pauses;
pub use refusals::Refusals;
pub use replica::{Outcome, Replica};
pub use tenure::Tenure;
