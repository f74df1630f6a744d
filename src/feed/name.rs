//! The name of a feed.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::protocol::is_name;

/// The name of a feed: 1 to 32 characters of `a-z 0-9 _ -`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FeedName(Arc<str>);

/// A text that can't name a feed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("expected 1 to 32 characters of a-z, 0-9, '_' and '-'")]
pub struct InvalidFeedName;

impl FeedName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FeedName {
    type Err = InvalidFeedName;

    fn from_str(name: &str) -> Result<Self, InvalidFeedName> {
        if is_name(name) { Ok(Self(name.into())) } else { Err(InvalidFeedName) }
    }
}

impl fmt::Display for FeedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for FeedName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}
