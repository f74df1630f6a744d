//! Where a feed's events go: one file a service.
//!
//! A sink takes a batch in order, and answers once all of it is there for good. A batch that failed is given
//! again, all of it: at least once, in order. It knows neither tables nor leases.

mod file;

use serde_json::Value;

use crate::fault::Fault;

pub use file::FileSink;

/// Where a feed's events go.
#[derive(Debug)]
pub enum Sink {
    File(FileSink),
}

impl Sink {
    /// Delivers events in this order; returns once all are there.
    pub async fn deliver(&self, events: &[&Value]) -> Result<(), Fault> {
        match self {
            Self::File(file) => file.append(events).await,
        }
    }

    /// The most events that it takes at once.
    pub fn most(&self) -> usize {
        match self {
            Self::File(_) => FileSink::MOST,
        }
    }
}
