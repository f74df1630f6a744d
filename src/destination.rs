//! Where a table's changes go.

use std::fmt;

use crate::protocol::Origin;

/// Where a table's changes go, as the agent of one region sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// The agent's own replica: heals, stamps and marks.
    Home,
    /// The replica in another region.
    Peer(Origin),
}

impl Destination {
    /// The replica in `region`, for an agent in `home`.
    pub fn replica(region: &Origin, home: &Origin) -> Self {
        if region == home { Self::Home } else { Self::Peer(region.clone()) }
    }

    /// The region that it is in.
    pub fn region<'a>(&'a self, home: &'a Origin) -> &'a Origin {
        self.peer().unwrap_or(home)
    }

    /// The peer, if it is one.
    pub fn peer(&self) -> Option<&Origin> {
        match self {
            Self::Home => None,
            Self::Peer(peer) => Some(peer),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Home => f.write_str("home"),
            Self::Peer(peer) => peer.fmt(f),
        }
    }
}
