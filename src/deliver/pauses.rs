//! The peers that nothing is written to for now, because an operator said so.
//!
//! What was queued for such a peer waits, in the ledger and so before the checkpoint, as it does for
//! a peer that can't be reached.

use std::sync::{PoisonError, RwLock};

use tokio::sync::Notify;

use crate::control::PausedPeers;
use crate::protocol::Origin;

/// The pauses that hold for one agent.
#[derive(Debug, Default)]
pub struct Pauses {
    /// None before the agent has seen what is paused: until then, every peer may be.
    paused: RwLock<Option<PausedPeers>>,
    // Not a watch: that wakes the lanes in a random order.
    changed: Notify,
}

impl Pauses {
    /// These, and no others, are paused now.
    pub fn are(&self, paused: PausedPeers) {
        *self.paused.write().unwrap_or_else(PoisonError::into_inner) = Some(paused);
        self.changed.notify_waiters();
    }

    /// All of them, each until when.
    pub fn all(&self) -> PausedPeers {
        self.paused.read().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }

    /// Whether a write to a peer may be begun.
    pub fn holds(&self, peer: &Origin) -> bool {
        let paused = self.paused.read().unwrap_or_else(PoisonError::into_inner);
        paused.as_ref().is_none_or(|paused| paused.contains_key(peer))
    }

    /// Returns when a write to a peer may be begun.
    pub(super) async fn over(&self, peer: &Origin) {
        while self.holds(peer) {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            // It may have changed just before that.
            if self.holds(peer) {
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
        let (pauses, tokyo) = (Pauses::default(), "tokyo".parse().expect("a name"));
        let oregon = "oregon".parse().expect("a name");
        let waits = async |peer| timeout(Duration::from_secs(9), pauses.over(peer)).await.is_err();
        assert!(waits(&tokyo).await, "a write was begun before what is paused was known");
        pauses.are(PausedPeers::from([(tokyo.clone(), 7)]));
        assert!(waits(&tokyo).await && !waits(&oregon).await);
        let (ended, ()) = tokio::join!(timeout(Duration::from_secs(9), pauses.over(&tokyo)), async {
            tokio::task::yield_now().await;
            pauses.are(PausedPeers::new());
        });
        assert!(ended.is_ok(), "it was not noticed that the pause was over");
    }
}
