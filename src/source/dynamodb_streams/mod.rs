//! DynamoDB Streams: the lists of shards, the reader and its pace, the tip.
//!
//! It relies on these facts (DynamoDB developer guide, "Change data capture for DynamoDB Streams"): a page
//! holds at most 1,000 records or 1 MB; a shard allows 5 calls a second; a parent is read to its end before
//! its children; an iterator expires after 15 minutes; records are kept for 24 hours.

mod lenient;
mod lister;
mod pacer;
mod reader;
mod record;
mod service_clock;
mod tip;

#[cfg(any(test, fuzzing))]
pub(crate) use lenient::records as read_leniently;
pub use lister::list_once;
pub use pacer::Pacer;
pub use reader::Stream;
#[cfg(any(test, fuzzing))]
pub(crate) use record::convert;
pub(crate) use service_clock::{ServiceClock, own_millis};
pub use tip::Tip;
