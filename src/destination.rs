//! Where a table's changes go.

use std::fmt;

use crate::feed::FeedName;
use crate::protocol::Origin;

/// Where a table's changes go, as the agent of one region sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// The agent's own replica: heals, stamps and marks.
    Home,
    /// The replica in another region.
    Peer(Origin),
    /// A feed, which tells what applications write in this region.
    Feed(FeedName),
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
            Self::Home | Self::Feed(_) => None,
        }
    }

    /// The feed, if it is one.
    pub fn feed(&self) -> Option<&FeedName> {
        match self {
            Self::Feed(feed) => Some(feed),
            Self::Home | Self::Peer(_) => None,
        }
    }

    /// The region of the replica, if it is one.
    pub fn region<'a>(&'a self, home: &'a Origin) -> Option<&'a Origin> {
        match self {
            Self::Home => Some(home),
            Self::Peer(peer) => Some(peer),
            Self::Feed(_) => None,
        }
    }

    /// What it is called in the control table of the region `home`.
    pub fn label(&self, home: &Origin) -> String {
        match self {
            Self::Home => home.to_string(),
            Self::Peer(_) | Self::Feed(_) => self.to_string(),
        }
    }

    /// The destination that is called this there.
    pub fn labelled(label: &str, home: &Origin) -> Option<Self> {
        match label.strip_prefix(FEED) {
            Some(feed) => Some(Self::Feed(feed.parse().ok()?)),
            None => Some(Self::replica(&label.parse().ok()?, home)),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Home => f.write_str("home"),
            Self::Peer(peer) => peer.fmt(f),
            Self::Feed(feed) => write!(f, "{FEED}{feed}"),
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
            ("feed:search", Some(Destination::Feed("search".parse().expect("a name")))),
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
