//! Delivery to destinations: jobs run in order within a key and in parallel across keys, as many at once as a
//! destination takes, until each is answered; and the ledger of those that are not.

mod batches;
mod complaints;
mod contention;
mod job;
mod knee;
mod lanes;
mod ledger;
mod outlet;
mod parking;
mod pauses;
mod queue;
mod refusals;
mod sink_calls;
mod tenure;
mod width;
mod writer;

pub use batches::{Batches, Teller};
pub use complaints::Complaints;
pub use job::{EventJob, Job, JobRecord, Load};
pub use lanes::Lanes;
pub use ledger::Ledger;
pub use outlet::Outlet;
pub use parking::Parking;
pub use pauses::Pauses;
pub use queue::{Queue, Queued};
pub use refusals::Refusals;
pub use sink_calls::{SinkCall, SinkCalls};
pub use tenure::Tenure;
pub use writer::Writer;
