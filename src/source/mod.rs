//! What a track reads: the change stream of the local table.

pub mod dynamodb_streams;
mod lineage;
mod page;
mod position;

use tokio::sync::{mpsc, watch};

pub use lineage::Lineage;
pub use page::{Change, EventName, Extent, Page, StreamEvent, UnreadableRecord, UserIdentity};
pub use position::{Position, Sequence, ShardId};

/// The change stream of one table.
///
/// A source keeps this contract, whatever service is behind it:
///
/// * **Order.** The records of one item come in the order of its writes; within a shard by ascending sequence
///   number, and a shard's parents are read to their ends first. There is no order between items.
/// * **Repetition.** Only a reader that restarts may get a record again, after later ones. Within one reading
///   each record comes once.
/// * **Completeness.** Records that were trimmed before they were read, or can't be read, are reported as
///   events. A shard has ended only if the service proves it.
/// * **Time.** Each record has the creation time that its own service gave it, as precise as that service is:
///   whole seconds on AWS, whole minutes on DynamoDB Local. Times may be equal, and go back.
pub trait Source {
    /// The shards, as they were last listed; none before the first list.
    fn lineage(&self) -> watch::Receiver<Option<Lineage>>;

    /// Requests a fresh list of the shards.
    fn look(&self);

    /// The clock of the machine that reads, in milliseconds since the Unix epoch.
    fn own_millis(&self) -> u64;

    /// Reads shards one after the other, each from its position to its end, and sends what it reads until the
    /// receiver is dropped.
    fn read(
        self,
        shards: Vec<(ShardId, Position)>,
        events: mpsc::Sender<StreamEvent>,
    ) -> impl Future<Output = ()> + Send;
}
