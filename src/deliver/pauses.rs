//! The peers and feeds that an operator has paused: nothing is written to them.
//!
//! What is queued for one waits in the ledger, and so ahead of the checkpoint, as it does for a
//! destination that can't be reached.

use std::sync::{PoisonError, RwLock};

use tokio::sync::Notify;

use crate::control::PausedDestinations;
use crate::destination::Destination;

/// The pauses in force for one agent.
#[derive(Debug, Default)]
pub struct Pauses {
    /// `None` until the agent has read what is paused: until then, every destination may be.
    paused: RwLock<Option<PausedDestinations>>,
    // Not a `watch`, which wakes the lanes in random order.
    changed: Notify,
}

impl Pauses {
    /// Sets the paused destinations to exactly these.
    pub fn are(&self, paused: PausedDestinations) {
        *self.paused.write().unwrap_or_else(PoisonError::into_inner) = Some(paused);
        self.changed.notify_waiters();
    }

    /// All paused destinations, each with the end of its pause.
    pub fn all(&self) -> PausedDestinations {
        self.paused.read().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }

    /// Whether no write to a destination may start.
    pub fn holds(&self, destination: &Destination) -> bool {
        if *destination == Destination::Home {
            return false;
        }
        let named = match destination {
            Destination::Feed(feed, _) => &Destination::feed_called(feed),
            Destination::Home | Destination::Peer(_) => destination,
        };
        let paused = self.paused.read().unwrap_or_else(PoisonError::into_inner);
        paused.as_ref().is_none_or(|paused| paused.contains_key(named))
    }

    /// Returns once a write to a destination may start.
    pub(super) async fn over(&self, destination: &Destination) {
        while self.holds(destination) {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            // It may have changed just before this.
            if self.holds(destination) {
                changed.await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_is_written_to_once_it_is_known_not_to_be_paused() {
        let peer = |name: &str| Destination::Peer(name.parse().expect("a name"));
        let (pauses, tokyo, oregon) = (Pauses::default(), peer("tokyo"), peer("oregon"));
        let waits = async |peer| timeout(Duration::from_secs(9), pauses.over(peer)).await.is_err();
        assert!(waits(&tokyo).await, "a write started before the pauses were known");
        pauses.are(PausedDestinations::from([(tokyo.clone(), 7)]));
        assert!(waits(&tokyo).await && !waits(&oregon).await);
        let (ended, ()) = tokio::join!(timeout(Duration::from_secs(9), pauses.over(&tokyo)), async {
            tokio::task::yield_now().await;
            pauses.are(PausedDestinations::new());
        });
        assert!(ended.is_ok(), "the end of the pause was not noticed");
    }
}
