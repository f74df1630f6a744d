//! The right to write, which comes and goes with a lease.
//!
//! A lease fences what its owner saves, but nothing fences what the owner writes to a replica. So an owner
//! that was paused or cut off must not continue with what it had queued: by then another agent may have done
//! all of it, the peers may have forgotten the keys, and an old write would come back.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

/// Until when writes may start, by this machine's monotonic clock; `None` once the tenure is over.
#[derive(Debug)]
pub struct Tenure {
    until: Mutex<Option<Instant>>,
    // Not a `watch`, which wakes its waiters in random order.
    changed: Notify,
}

impl Tenure {
    pub fn until(moment: Instant) -> Self {
        Self { until: Mutex::new(Some(moment)), changed: Notify::new() }
    }

    /// Lets writes start until a later moment: the lease is known to be still held.
    pub fn extend(&self, moment: Instant) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.is_some_and(|until| until < moment) {
            *until = Some(moment);
            drop(until);
            self.changed.notify_waiters();
        }
    }

    /// Ends the tenure: another agent has the lease, or may take it now.
    pub fn end(&self) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.changed.notify_waiters();
    }

    pub fn has_ended(&self) -> bool {
        self.now().is_none()
    }

    /// Returns once the tenure is over.
    pub async fn ended(&self) {
        self.becomes(Option::is_none).await;
    }

    /// Runs a write while the tenure allows it: a write still in flight when the time is up is dropped, and
    /// made again once the tenure is extended. Never returns if the tenure ends first.
    ///
    /// A process that was stopped checks the time first when it wakes up.
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

    /// Returns once no write may be in flight.
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

    /// Returns once this holds; checks again at each change.
    async fn becomes(&self, holds: impl Fn(&Option<Instant>) -> bool) {
        while !holds(&self.now()) {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            // It may have changed just before this.
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
        assert!(waited.is_err(), "a write started without a lease");
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
