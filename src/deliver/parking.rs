//! Where the events are kept that a feed's sink rejects to the end.

use std::fmt;

#[cfg(feature = "s3")]
use serde_json::{Value, json};

use crate::config::OnFailure;
use crate::control::{ControlTable, ParkedEvent};
use crate::fault::Fault;
use crate::feed::Provenance;
#[cfg(feature = "s3")]
use crate::item_json::item_json;
use crate::region::Region;
#[cfg(feature = "s3")]
use crate::sink::RejectedBucket;

/// Keeps rejected events, each whole.
#[derive(Debug)]
pub enum Parking {
    /// Rows of the control table, for so many days.
    DeadLetters { control: ControlTable, days: u32 },
    #[cfg(feature = "s3")]
    S3(RejectedBucket),
}

impl Parking {
    pub fn open(config: &OnFailure, region: &Region, days: u32) -> Self {
        match config {
            OnFailure::DeadLetters => Self::DeadLetters { control: ControlTable::of(region), days },
            #[cfg(feature = "s3")]
            OnFailure::S3(place) => Self::S3(RejectedBucket::new(place.clone(), region)),
        }
    }

    /// Saves an event as it was told; it may be saved again.
    pub(super) async fn save(
        &self,
        parked: &ParkedEvent,
        provenance: &Provenance,
        told: &str,
    ) -> Result<(), Fault> {
        #[cfg(not(feature = "s3"))]
        let _ = provenance;
        match self {
            Self::DeadLetters { control, days } => control.park_event(parked, told, *days).await,
            #[cfg(feature = "s3")]
            Self::S3(bucket) => {
                let ParkedEvent { feed, table, key, version, reason, rejections } = parked;
                let about = json!({
                    "feed": feed,
                    "table": table,
                    "key": item_json(key),
                    "version": version.to_string().trim_end(),
                    "reason": reason,
                    "rejections": rejections,
                    "event": serde_json::from_str::<Value>(told).unwrap_or_else(|_| told.into()),
                });
                bucket.put(feed.as_str(), provenance, about).await
            }
        }
    }
}

/// Where they are, for people.
impl fmt::Display for Parking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeadLetters { .. } => f.write_str("the control table (`tradewind feed parked` lists it)"),
            #[cfg(feature = "s3")]
            Self::S3(bucket) => bucket.fmt(f),
        }
    }
}
