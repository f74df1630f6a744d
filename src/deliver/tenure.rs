//! The right to write, which comes with a lease and ends with it.
//!
//! A lease fences what its owner saves; nothing fences what it writes to a replica. So an owner
//! that was paused, or cut off, must not go on with what it had queued: by then another may have
//! done all of it, the peers may have forgotten the keys, and an old write would come back.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

/// How long writes may be begun, by this machine's monotonic clock; none when it is over.
#[derive(Debug)]
pub struct Tenure {
    until: Mutex<Option<Instant>>,
    // Not a watch: that wakes those who wait in a random order.
    changed: Notify,
}

impl Tenure {
    pub fn until(moment: Instant) -> Self {
        Self { until: Mutex::new(Some(moment)), changed: Notify::new() }
    }

    /// The lease is known to be held still: writes may be begun for longer.
    pub fn extend(&self, moment: Instant) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.is_some_and(|until| until < moment) {
            *until = Some(moment);
            drop(until);
            self.changed.notify_waiters();
        }
    }

    /// Another agent has the lease, or may take it now.
    pub fn end(&self) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.changed.notify_waiters();
    }

    pub fn has_ended(&self) -> bool {
        self.now().is_none()
    }

    /// Returns when it is over.
    pub async fn ended(&self) {
        self.becomes(Option::is_none).await;
    }

    /// Makes a write while it may be made: one that is still under way when the time is up is left,
    /// and made again when there is more time. Does not return when it is over.
    ///
    /// A process that was stopped looks at the time first when it wakes up.
    pub async fn within<T, F: Future<Output = T>>(&self, write: impl Fn() -> F) -> T {
        loop {
            self.granted().await;
            tokio::select! {
                biased;
                () = self.lapsed() => {}
                outcome = write() => return outcome,
            }
        }
    }

    /// Returns when no write may be under way.
    async fn lapsed(&self) {
        while let Some(moment) = self.now().filter(|moment| Instant::now() < *moment) {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(moment) => {}
                () = self.becomes(|until| *until != Some(moment)) => {}
            }
        }
    }

    async fn granted(&self) {
        self.becomes(|until| until.is_some_and(|until| Instant::now() < until)).await;
    }

    fn now(&self) -> Option<Instant> {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when this holds; looks again at each change.
    async fn becomes(&self, holds: impl Fn(&Option<Instant>) -> bool) {
        while !holds(&self.now()) {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            // It may have changed just before that.
            if !holds(&self.now()) {
                changed.await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_write_waits_until_the_lease_is_known_to_be_held() {
        let tenure = Tenure::until(Instant::now() + SECOND);
        tenure.granted().await;
        tokio::time::sleep(2 * SECOND).await;
        let waited = tokio::time::timeout(SECOND, tenure.granted()).await;
        assert!(waited.is_err(), "a write was begun without a lease");
        tenure.extend(Instant::now() + SECOND);
        tenure.granted().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_takes_too_long_is_made_anew() {
        let tenure = Tenure::until(Instant::now() + SECOND);
        let tries = std::cell::Cell::new(0);
        let write = || async {
            tries.set(tries.get() + 1);
            tokio::time::sleep(SECOND * if tries.get() == 1 { 2 } else { 0 }).await;
        };
        let renew = async {
            tokio::time::sleep(3 * SECOND).await;
            tenure.extend(Instant::now() + SECOND);
        };
        tokio::join!(tenure.within(write), renew);
        assert_eq!(tries.get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_is_never_granted_again() {
        let tenure = Tenure::until(Instant::now() + SECOND);
        tenure.end();
        tenure.extend(Instant::now() + SECOND);
        tenure.ended().await;
        assert!(tokio::time::timeout(SECOND, tenure.granted()).await.is_err());
    }
}
