//! The part of a stream record that the protocol reads.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use super::Fingerprint;

/// An item, or one image of it, by attribute name.
pub type Item = HashMap<String, AttributeValue>;

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
