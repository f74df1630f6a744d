//! Where a table's changes go.

use std::fmt;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::feed::FeedName;
use crate::protocol::Origin;

/// Where a table's changes go, as the agent of one region sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// The agent's own replica: heals, stamps and marks.
    Home,
    /// The replica in another region.
    Peer(Origin),
    /// A feed, which tells what is written. Each time it is rewound it becomes another one, with checkpoints of its
    /// own; the number says how many times it was.
    Feed(FeedName, u64),
}

/// Precedes a feed's name; no region has such a name.
const FEED: &str = "feed:";

impl Destination {
    /// The replica in `region`, for an agent in `home`.
    pub fn replica(region: &Origin, home: &Origin) -> Self {
        if region == home { Self::Home } else { Self::Peer(region.clone()) }
    }

    /// The peer, if it is one.
    pub fn peer(&self) -> Option<&Origin> {
        match self {
            Self::Peer(peer) => Some(peer),
            Self::Home | Self::Feed(..) => None,
        }
    }

    /// The feed, if it is one.
    pub fn feed(&self) -> Option<&FeedName> {
        match self {
            Self::Feed(feed, _) => Some(feed),
            Self::Home | Self::Peer(_) => None,
        }
    }

    /// The region of the replica, if it is one.
    pub fn region<'a>(&'a self, home: &'a Origin) -> Option<&'a Origin> {
        match self {
            Self::Home => Some(home),
            Self::Peer(peer) => Some(peer),
            Self::Feed(..) => None,
        }
    }

    /// The feed with this name, as it is called however often it is rewound.
    pub fn feed_called(name: &FeedName) -> Self {
        Self::Feed(name.clone(), 0)
    }

    /// The peer or the feed that is called this; no agent calls its own region a peer.
    pub fn away(label: &str) -> Option<Self> {
        match label.strip_prefix(FEED) {
            Some(feed) => {
                let (name, rewinds) = feed.split_once('.').unwrap_or((feed, "0"));
                Some(Self::Feed(name.parse().ok()?, rewinds.parse().ok()?))
            }
            None => Some(Self::Peer(label.parse().ok()?)),
        }
    }

    /// What it is called in the control table of the region `home`.
    pub fn label(&self, home: &Origin) -> String {
        match self {
            Self::Home => home.to_string(),
            Self::Peer(_) | Self::Feed(..) => self.to_string(),
        }
    }

    /// The destination that is called this there.
    pub fn labelled(label: &str, home: &Origin) -> Option<Self> {
        Some(match Self::away(label)? {
            Self::Peer(peer) => Self::replica(&peer, home),
            away => away,
        })
    }
}

/// As one entry of an object: which peer, or which feed.
impl Serialize for Destination {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        match self {
            Self::Home => map.serialize_entry("home", &true)?,
            Self::Peer(peer) => map.serialize_entry("peer", peer)?,
            Self::Feed(feed, _) => map.serialize_entry("feed", feed)?,
        }
        map.end()
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Home => f.write_str("home"),
            Self::Peer(peer) => peer.fmt(f),
            Self::Feed(feed, 0) => write!(f, "{FEED}{feed}"),
            Self::Feed(feed, rewinds) => write!(f, "{FEED}{feed}.{rewinds}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_found_by_its_label() {
        let home: Origin = "tokyo".parse().expect("a name");
        for (label, expected) in [
            ("tokyo", Some(Destination::Home)),
            ("dublin", Some(Destination::Peer("dublin".parse().expect("a name")))),
            ("feed:search", Some(Destination::Feed("search".parse().expect("a name"), 0))),
            ("feed:search.2", Some(Destination::Feed("search".parse().expect("a name"), 2))),
            ("feed:", None),
            ("sink:search", None),
            ("Not a region", None),
        ] {
            let found = Destination::labelled(label, &home);
            assert_eq!(found, expected, "{label}");
            if let Some(found) = found {
                assert_eq!(found.label(&home), label);
            }
        }
    }
}
