//! Events that a feed's sink rejects to the end, as objects of a bucket: one each.

use std::fmt;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use serde_json::Value;

use super::{client, fault, look, path};
use crate::config::S3Place;
use crate::fault::Fault;
use crate::feed::Provenance;
use crate::protocol::Origin;
use crate::region::Region;

/// A bucket for rejected events, and what the names of its objects begin with.
#[derive(Debug)]
pub struct RejectedBucket {
    client: Client,
    place: S3Place,
    region: Origin,
}

impl RejectedBucket {
    /// Writes with the credentials of an agent's region.
    pub fn new(place: S3Place, region: &Region) -> Self {
        Self { client: client(&place, region), place, region: region.name.clone() }
    }

    /// Writes an event of a feed, with what is told about it; the same object if it is written again.
    pub async fn put(&self, feed: &str, provenance: &Provenance, mut told: Value) -> Result<(), Fault> {
        let Provenance { shard, sequence, created_millis, .. } = provenance;
        let (prefix, region) = (self.place.prefix_in(&self.region), &self.region);
        told["region"] = region.as_str().into();
        let path = path(*created_millis, region, &shard.0, sequence.as_str());
        let put = self
            .client
            .put_object()
            .bucket(&self.place.bucket)
            .key(format!("{prefix}{feed}/{path}.json"))
            .content_type("application/json")
            .body(ByteStream::from(told.to_string().into_bytes()));
        Box::pin(put.send()).await.map(|_| ()).map_err(|error| fault(&error))
    }

    /// Whether the bucket is there and may be read.
    pub async fn check(&self) -> Result<(), Fault> {
        look(&self.client, &self.place).await
    }
}

/// Where it is, for people.
impl fmt::Display for RejectedBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place.url_in(&self.region))
    }
}
