//! What a track reads: the change stream of the local table.
//!
//! A source keeps this contract, whatever service is behind it:
//!
//! * **Order.** The records of one item come in the order of its writes; within a shard by ascending sequence number,
//!   and a shard's parents are read to their ends first. Between items there is no order.
//! * **Repetition.** A record may come again, after what followed it came, only to a reader that starts again. Within
//!   one reading each comes once.
//! * **Completeness.** What was trimmed before it was read, and what can't be read, is an event of its own. A shard has
//!   ended only where the service proves it.
//! * **Time.** Each record has the creation time that its own service gave it, as precise as that service is: whole
//!   seconds on AWS, whole minutes on DynamoDB Local. It may be equal to that of others, and go back.

pub mod dynamodb_streams;
mod lineage;
mod page;
mod position;

pub use lineage::Lineage;
pub use page::{Extent, Page, StreamEvent, UnreadableRecord};
pub use position::{Position, Sequence, ShardId};
