//! What the calls of a feed's sink are like: how many events each has, how long it takes, and how many keys wait
//! behind an event that was rejected.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry::KeyValue;

use crate::feed::FeedName;
use crate::protocol::Origin;
use crate::telemetry::SinkInstruments;

/// The calls of one feed's sink by one agent.
#[derive(Debug)]
pub struct SinkCalls {
    instruments: SinkInstruments,
    attributes: [KeyValue; 3],
    blocked: AtomicUsize,
    last: Mutex<Option<SinkCall>>,
}

/// A call that was answered, or has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkCall {
    pub events: usize,
    pub took: Duration,
}

impl SinkCalls {
    pub fn new(region: &Origin, table: &str, feed: &FeedName) -> Self {
        let attributes = [
            KeyValue::new("region", region.to_string()),
            KeyValue::new("table", table.to_owned()),
            KeyValue::new("feed", feed.to_string()),
        ];
        let (instruments, blocked, last) = (SinkInstruments::new(), AtomicUsize::new(0), Mutex::default());
        Self { instruments, attributes, blocked, last }
    }

    /// Records a call.
    pub fn add(&self, call: SinkCall) {
        self.instruments.record(call.events, call.took, &self.attributes);
        *self.lock() = Some(call);
    }

    /// Records how many keys wait behind a rejected event.
    pub fn block(&self, keys: usize) {
        self.blocked.store(keys, Ordering::Relaxed);
    }

    pub fn blocked(&self) -> usize {
        self.blocked.load(Ordering::Relaxed)
    }

    pub fn last(&self) -> Option<SinkCall> {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Option<SinkCall>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
