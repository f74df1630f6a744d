//! Items as DynamoDB keeps them, and the attribute of theirs that is Tradewind's.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

/// An item, or one image of it, by attribute name.
pub type Item = HashMap<String, AttributeValue>;

/// The name of the attribute that holds the stamp.
pub const STAMP: &str = "_tw";
