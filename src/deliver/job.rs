//! A job queued for a destination: what to do, the records it is for, and its size.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Ledger, Tenure};
use crate::feed::{Event, Provenance};
use crate::protocol::{Action, Body};
use crate::replica::item_bytes;
use crate::telemetry::Trace;

/// What a queue carries.
pub trait Load {
    /// The record that it came from.
    fn record(&self) -> &JobRecord;
    /// The approximate size of its images, in bytes.
    fn bytes(&self) -> usize;
}

/// One action on its way to a replica.
#[derive(Debug)]
pub struct Job {
    pub action: Action,
    pub record: JobRecord,
    /// The right to make this write.
    pub tenure: Arc<Tenure>,
    /// Set if the record is traced.
    pub trace: Option<Trace>,
    /// The records whose writes this one has coalesced, so that they are not made.
    pub coalesced: Vec<JobRecord>,
}

/// The record that an action came from.
#[derive(Debug)]
pub struct JobRecord {
    pub ordinal: u64,
    /// Where the record is marked as finished once its action is.
    pub ledger: Arc<Ledger>,
    pub created_millis: u64,
    pub seen: Instant,
}

impl Job {
    /// Absorbs an older queued job of the same key, where the protocol allows it and both are under one
    /// lease; otherwise gives it back.
    pub(super) fn coalesce(&mut self, before: Self) -> Option<Self> {
        let may = Arc::ptr_eq(&self.tenure, &before.tenure) && self.action.coalesce(&before.action);
        if !may {
            return Some(before);
        }
        self.trace = self.trace.take().or(before.trace);
        self.coalesced.extend(before.coalesced);
        self.coalesced.push(before.record);
        None
    }

    /// Marks every record it was for as finished.
    pub(super) fn finish(&self) {
        for record in self.coalesced.iter().chain([&self.record]) {
            record.ledger.finish(record.ordinal);
        }
    }
}

impl Load for Job {
    fn record(&self) -> &JobRecord {
        &self.record
    }

    fn bytes(&self) -> usize {
        match &self.action {
            Action::Push(write) | Action::Heal(write, _) | Action::Restamp(write) => {
                let new = match &write.body {
                    Body::Put(item, _) => item_bytes(item),
                    Body::Delete => 0,
                };
                new + write.replaced.as_deref().map_or(0, item_bytes)
            }
            Action::ApplyDelete { marked, .. } => item_bytes(marked),
        }
    }
}

/// One event on its way to a feed's sink.
#[derive(Debug)]
pub struct EventJob {
    pub event: Event,
    pub provenance: Provenance,
    pub record: JobRecord,
    pub tenure: Arc<Tenure>,
}

impl EventJob {
    /// Marks its record as finished.
    pub(super) fn finish(&self) {
        self.record.ledger.finish(self.record.ordinal);
    }
}

impl Load for EventJob {
    fn record(&self) -> &JobRecord {
        &self.record
    }

    fn bytes(&self) -> usize {
        let images = self.event.old.iter().chain(self.event.new.as_deref());
        images.map(item_bytes).sum()
    }
}
