//! The way to one destination.

use std::sync::Arc;

use super::{Batches, Job, Lanes};

/// The way to one destination.
#[derive(Clone, Debug)]
pub enum Outlet {
    /// To a replica: one write after the other in each key's lane.
    Replica(Arc<Lanes>),
    /// To a feed's sink: in batches.
    Feed(Arc<Batches>),
}

impl Outlet {
    /// Queues a job if there is space for it; otherwise gives it back.
    pub fn try_send(&self, job: Job) -> Option<Job> {
        match self {
            Self::Replica(lanes) => lanes.0.try_send(job),
            Self::Feed(batches) => batches.0.try_send(job),
        }
    }

    /// Queues a job once there is space for it.
    pub async fn send(&self, job: Job) {
        match self {
            Self::Replica(lanes) => lanes.0.send(job).await,
            Self::Feed(batches) => batches.0.send(job).await,
        }
    }
}
