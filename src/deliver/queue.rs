//! The queue of one destination: jobs on their way to whoever does them, within a bounded space.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::Load;

/// A job, and the space that it takes.
pub type Queued<J> = (J, OwnedSemaphorePermit);

/// The sender of a queue, whose messages are jobs and perhaps others.
#[derive(Debug)]
pub struct Queue<J, M> {
    sender: mpsc::UnboundedSender<M>,
    room: Room,
    carries: std::marker::PhantomData<fn(J)>,
}

/// The space of a queue, in KiB.
#[derive(Clone, Debug)]
pub(super) struct Room {
    left: Arc<Semaphore>,
    capacity: usize,
}

impl Room {
    pub(super) fn is_half_taken(&self) -> bool {
        self.left.available_permits() < self.capacity / 2
    }
}

impl<J: Load, M: From<Queued<J>>> Queue<J, M> {
    pub(super) fn new(sender: mpsc::UnboundedSender<M>, mib: usize) -> Self {
        let capacity = (mib * 1024).min(Semaphore::MAX_PERMITS);
        let room = Room { left: Arc::new(Semaphore::new(capacity)), capacity };
        Self { sender, room, carries: std::marker::PhantomData }
    }

    pub(super) fn room(&self) -> Room {
        self.room.clone()
    }

    /// Queues a job if there is space for it; otherwise gives it back.
    pub fn try_send(&self, job: J) -> Option<J> {
        match Arc::clone(&self.room.left).try_acquire_many_owned(self.cost(&job)) {
            Ok(permit) => {
                self.queue(job, permit);
                None
            }
            Err(_) => Some(job),
        }
    }

    /// Queues a job once there is space for it.
    pub async fn send(&self, job: J) {
        let cost = self.cost(&job);
        // The semaphore is never closed.
        if let Ok(permit) = Arc::clone(&self.room.left).acquire_many_owned(cost).await {
            self.queue(job, permit);
        }
    }

    /// Sends a message that takes no space.
    pub(super) fn tell(&self, message: M) {
        // If the receiver is gone, the agent is stopping: a job stays in the ledger, and so ahead of the
        // checkpoint.
        let _ = self.sender.send(message);
    }

    fn queue(&self, job: J, permit: OwnedSemaphorePermit) {
        let record = job.record();
        record.ledger.begin(record.ordinal, record.created_millis);
        self.tell((job, permit).into());
    }

    fn cost(&self, job: &J) -> u32 {
        let kib = job.bytes().div_ceil(1024).max(1).min(self.room.capacity);
        u32::try_from(kib).unwrap_or(u32::MAX)
    }
}
