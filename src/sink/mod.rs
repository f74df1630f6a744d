//! Where a feed's events go: one file a service.
//!
//! A sink takes a batch in order, and says what has become of it. `Taken` means that all of it is there for good. What
//! was rejected or could not be delivered is given again: at least once, in order per key. A sink knows neither tables
//! nor leases.

mod file;
#[cfg(feature = "lambda")]
mod lambda;
#[cfg(feature = "s3")]
mod s3;

use std::time::Duration;

use serde_json::Value;

use crate::config::{SinkConfig, in_region};
use crate::fault::Fault;
use crate::feed::{Limits, WindowCall};
use crate::region::Region;

pub use file::FileSink;
#[cfg(feature = "lambda")]
pub use lambda::LambdaSink;
#[cfg(feature = "s3")]
pub use s3::{RejectedBucket, S3Sink};

/// Where a feed's events go.
#[derive(Debug)]
pub enum Sink {
    File(FileSink),
    #[cfg(feature = "lambda")]
    Lambda(LambdaSink),
    #[cfg(feature = "s3")]
    S3(S3Sink),
}

/// An event that is offered to a sink.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// The event as JSON.
    pub text: &'a str,
    /// Its record's sequence number.
    pub sequence: &'a str,
    /// When its write was made, in milliseconds since the Unix epoch.
    pub created_millis: u64,
}

/// What a sink is called with: events in order, and where they come from.
#[derive(Clone, Debug, Default)]
pub struct Batch<'a> {
    pub events: Vec<Offer<'a>>,
    pub window: Option<&'a WindowCall>,
    /// The shard's name, and its stream's ARN, where every shard has slots of its own.
    pub shard: &'a str,
    pub stream: &'a str,
}

/// Events as lines of JSON.
fn json_lines(events: &[Offer<'_>]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(events.iter().map(|event| event.text.len() + 1).sum());
    for event in events {
        lines.extend(event.text.as_bytes());
        lines.push(b'\n');
    }
    lines
}

/// What has become of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Delivery {
    /// All of it was taken.
    Taken { state: Option<Value> },
    /// So many of the first ones had been taken before. The others were not.
    Had { count: usize },
    /// All of it had been taken before, with events that come after it. All of these together are finished at once.
    HadWithMore,
    /// What comes before `from` was taken. That event is rejected, or any of the later ones unless `is_named`.
    Rejected { from: usize, is_named: bool, reason: String, state: Option<Value> },
}

impl Sink {
    /// The sink of the agents of a region.
    pub fn open(config: &SinkConfig, region: &Region) -> Self {
        match config {
            SinkConfig::File { path } => Self::File(FileSink::new(in_region(path, &region.name).into())),
            #[cfg(feature = "lambda")]
            SinkConfig::Lambda(lambda) => Self::Lambda(LambdaSink::new(lambda.clone(), region)),
            #[cfg(feature = "s3")]
            SinkConfig::S3(s3) => Self::S3(S3Sink::new(s3.clone(), region)),
        }
    }

    /// Delivers events in this order; returns once it is known what has become of them. A fault says nothing about
    /// the events, unless its kind is `Invalid`.
    pub async fn deliver(&self, batch: &Batch<'_>) -> Result<Delivery, Fault> {
        match self {
            Self::File(file) => file.append(&batch.events).await.map(|()| Delivery::Taken { state: None }),
            #[cfg(feature = "lambda")]
            Self::Lambda(lambda) => lambda.invoke(batch).await,
            #[cfg(feature = "s3")]
            Self::S3(s3) => s3.put(batch).await,
        }
    }

    /// Whether events could be delivered, tried without effect; `None` if that can't be tried.
    pub async fn check(&self) -> Option<Result<(), Fault>> {
        match self {
            Self::File(_) => None,
            #[cfg(feature = "lambda")]
            Self::Lambda(lambda) => Some(lambda.check().await),
            #[cfg(feature = "s3")]
            Self::S3(s3) => Some(s3.check().await),
        }
    }

    /// What it takes at once.
    pub fn limits(&self) -> Limits {
        match self {
            Self::File(_) => {
                Limits { events: 1_000, bytes: 8 << 20, window: Duration::ZERO, tumbling: None, span: None }
            }
            #[cfg(feature = "lambda")]
            Self::Lambda(lambda) => lambda.limits(),
            #[cfg(feature = "s3")]
            Self::S3(s3) => s3.limits(),
        }
    }

    /// How many batches of one shard are delivered at once; `None` if one of all shards is.
    pub fn slots(&self) -> Option<u32> {
        match self {
            Self::File(_) => None,
            #[cfg(feature = "lambda")]
            Self::Lambda(lambda) => Some(lambda.slots()),
            #[cfg(feature = "s3")]
            Self::S3(_) => Some(1),
        }
    }
}
