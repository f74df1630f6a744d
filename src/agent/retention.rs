//! Warns as a peer's backlog nears the streams' retention: 24 hours, on AWS.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::destination::Destination;

/// The time left at which a warning is due, in minutes.
const WARNINGS: [u64; 7] = [12 * 60, 6 * 60, 3 * 60, 60, 30, 10, 0];

/// The age of the oldest write that a peer lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backlog {
    pub(super) age: Duration,
    /// The time until records are lost; zero if some are.
    pub(super) left: Duration,
}

/// Which warnings each peer has had.
#[derive(Debug, Default)]
pub(super) struct Retention(BTreeMap<Destination, Watched>);

#[derive(Debug)]
struct Watched {
    /// When nothing was known about the peer yet.
    first_millis: u64,
    warned: usize,
}

impl Retention {
    /// Records what a peer has been promised, and the stream's own time, both in milliseconds. Returns the
    /// backlog, if it is time to warn of it.
    pub(super) fn look(
        &mut self,
        peer: &Destination,
        promised: u64,
        now: u64,
        kept: Duration,
    ) -> Option<Backlog> {
        let watched = self.0.entry(peer.clone()).or_insert(Watched { first_millis: now, warned: 0 });
        // A peer that was never reached has been waited for since then, at least.
        let since = if promised == 0 { watched.first_millis } else { promised };
        let age = Duration::from_millis(now.saturating_sub(since));
        let left = kept.saturating_sub(age);
        let due = WARNINGS.iter().take_while(|minutes| left <= Duration::from_mins(**minutes)).count();
        let is_news = due > watched.warned;
        watched.warned = due;
        is_news.then_some(Backlog { age, left })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    const DAY: Duration = Duration::from_hours(24);

    #[test]
    fn each_warning_comes_once_until_the_peer_has_caught_up() {
        let mut retention = Retention::default();
        let peer = Destination::Peer("tokyo".parse().expect("a name"));
        let start = 100 * HOUR;
        let mut left = Vec::new();
        for minutes in 0..=25 * 60 {
            let now = start + minutes * 60_000;
            left.extend(retention.look(&peer, start, now, DAY).map(|backlog| backlog.left.as_secs() / 60));
        }
        assert_eq!(left, WARNINGS);
        let now = start + 26 * HOUR;
        assert_eq!(retention.look(&peer, now, now, DAY), None);
        let hours = Duration::from_hours;
        let expected = Backlog { age: hours(13), left: hours(11) };
        assert_eq!(retention.look(&peer, now, now + 13 * HOUR, DAY), Some(expected));
    }

    #[test]
    fn a_peer_that_was_never_reached_is_waited_for_from_the_first_look() {
        let mut retention = Retention::default();
        let peer = Destination::Peer("tokyo".parse().expect("a name"));
        assert_eq!(retention.look(&peer, 0, 50 * HOUR, DAY), None);
        assert!(retention.look(&peer, 0, 63 * HOUR, DAY).is_some());
    }
}
