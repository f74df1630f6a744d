//! What a track reads: the change stream of the local table.
//!
//! A source keeps this contract, whatever service is behind it:
//!
//! * **Order.** The records of one item come in the order of its writes; within a shard by ascending sequence number,
//!   and a shard's parents are read to their ends first. There is no order between items.
//! * **Repetition.** Only a reader that restarts may get a record again, after later ones. Within one reading
//!   each record comes once.
//! * **Completeness.** Records that were trimmed before they were read, or can't be read, are reported as
//!   events. A shard has ended only if the service proves it.
//! * **Time.** Each record has the creation time that its own service gave it, as precise as that service is: whole
//!   seconds on AWS, whole minutes on DynamoDB Local. Times may be equal, and go back.

pub mod dynamodb_streams;
mod lineage;
mod page;
mod position;

pub use lineage::Lineage;
pub use page::{Extent, Page, StreamEvent, UnreadableRecord};
pub use position::{Position, Sequence, ShardId};
