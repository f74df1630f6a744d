//! The part of a stream record that the protocol reads.

use super::{Fingerprint, Item};

/// One change of one item, as the local stream shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// When the change was made according to the local service, in milliseconds since the Unix epoch. Whole
    /// seconds on AWS, whole minutes on DynamoDB Local.
    pub created_millis: u64,
    /// The key attributes.
    pub key: Item,
    pub old: Option<Item>,
    pub new: Option<Item>,
}

/// Whether two images are equal, apart from the stamp.
pub(super) fn same_data(a: &Item, b: &Item) -> bool {
    Fingerprint::of(a) == Fingerprint::of(b)
}
