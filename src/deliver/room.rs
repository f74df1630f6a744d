//! The space in a queue.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Job;

/// The space in a queue, in KiB.
#[derive(Debug)]
pub(super) struct Room {
    left: Arc<Semaphore>,
    capacity: usize,
}

/// A job, and the space that it takes.
pub(super) type Queued = (Job, OwnedSemaphorePermit);

impl Room {
    pub(super) fn new(mib: usize) -> Self {
        let capacity = (mib * 1024).min(Semaphore::MAX_PERMITS);
        Self { left: Arc::new(Semaphore::new(capacity)), capacity }
    }

    /// Enters a job in its ledger if there is space for it; otherwise gives it back.
    #[expect(clippy::result_large_err, reason = "what is given back is sent later")]
    pub(super) fn try_take(&self, job: Job) -> Result<Queued, Job> {
        match Arc::clone(&self.left).try_acquire_many_owned(self.cost(&job)) {
            Ok(permit) => Ok(entered(job, permit)),
            Err(_) => Err(job),
        }
    }

    /// Enters a job in its ledger once there is space for it.
    pub(super) async fn take(&self, job: Job) -> Option<Queued> {
        let cost = self.cost(&job);
        // Never closed.
        let permit = Arc::clone(&self.left).acquire_many_owned(cost).await.ok()?;
        Some(entered(job, permit))
    }

    fn cost(&self, job: &Job) -> u32 {
        let kib = job.bytes().div_ceil(1024).max(1).min(self.capacity);
        u32::try_from(kib).unwrap_or(u32::MAX)
    }
}

fn entered(job: Job, permit: OwnedSemaphorePermit) -> Queued {
    job.record.ledger.begin(job.record.ordinal, job.record.created_millis);
    (job, permit)
}
