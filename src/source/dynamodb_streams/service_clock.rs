//! The service's own clock, from the Date header of its answers.
//!
//! It bounds how far a reader may be behind the tip, in the clock that also sets the records' creation times,
//! so that this needs no agent's clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_sdk_dynamodbstreams::Client;
use aws_sdk_dynamodbstreams::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_dynamodbstreams::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodbstreams::error::BoxError;
use aws_sdk_dynamodbstreams::primitives::{DateTime, DateTimeFormat};

use crate::clock::epoch_millis;

/// Captures the Date header of one call; 0 is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServiceClock(Arc<AtomicU64>);

impl ServiceClock {
    /// Milliseconds since the Unix epoch, in whole seconds, if the answer had a date.
    pub(crate) fn millis(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|millis| *millis > 0)
    }
}

/// The clock of the machine that this client runs on, in milliseconds since the Unix epoch: used only to
/// detect a service clock that is far ahead.
pub(crate) fn own_millis(client: &Client) -> u64 {
    epoch_millis(client.config().time_source().unwrap_or_default().now())
}

impl Intercept for ServiceClock {
    fn name(&self) -> &'static str {
        "ServiceClock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let parsed = date.and_then(|date| DateTime::from_str(date, DateTimeFormat::HttpDate).ok());
        if let Some(millis) = parsed.and_then(|date| u64::try_from(date.to_millis().ok()?).ok()) {
            self.0.store(millis, Ordering::Relaxed);
        }
        Ok(())
    }
}
