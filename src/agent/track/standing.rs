//! The state of a track, for those that wait for it, and for people.

use std::time::Duration;

use super::Track;
use super::feed::FeedState;
use crate::agent::progress::PageEnd;
use crate::destination::Destination;

impl Track {
    pub(super) fn note_idle(&self, end: &PageEnd) {
        let idle = self.progress.at_tip()
            && end.last_millis.is_none()
            && self.feeds.values().all(|feed| feed.is_fed() && feed.ledger.is_empty())
            && (!self.is_main || self.feeds.len() == self.shared.outlets.len());
        let near_tip = self.progress.near_tip();
        self.state.send_modify(|state| {
            state.idle_calls = if idle { state.idle_calls.saturating_add(1) } else { 0 };
            state.near_tip = near_tip;
        });
    }

    /// Records how far the peers are behind; an age is that of the oldest write that a peer lacks. `unread`
    /// is how old the unread part may be, if that is known.
    pub(super) fn note_backlogs(&self, unread: Option<Duration>, now: u64) {
        let backlogs = &self.shared.notes.backlogs;
        let shard = &self.holding.lease.shard;
        if self.is_main && self.progress.is_closed() {
            backlogs.closed(shard);
        } else if self.is_main {
            backlogs.read(shard);
        }
        let since = |millis: u64| Duration::from_millis(now.saturating_sub(millis));
        for (peer, feed) in self.feeds.iter().filter(|(peer, _)| **peer != Destination::Home) {
            let unread = match &feed.state {
                // What is read again was done before.
                FeedState::Fed => {
                    let promised = feed.saved.as_ref().map_or(Duration::MAX, |saved| since(saved.millis));
                    unread.map(|unread| unread.min(promised))
                }
                FeedState::Dropped(dropped) => Some(since(dropped.created_millis)),
                // The track that does what came before reports its progress.
                FeedState::Joining(_) => continue,
            };
            let unfinished = feed.ledger.oldest_millis().map(since);
            backlogs.note(shard, peer, unread.max(unfinished), feed.ledger.len());
        }
    }
}
