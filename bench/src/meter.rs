//! The cost and arrival of an agent's writes to replicas, seen by an interceptor in the SDK, so that every
//! request that is sent counts exactly once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_dynamodb::config::interceptors::{
    BeforeSerializationInterceptorContextMut, FinalizerInterceptorContextRef,
};
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::BoxError;
use aws_sdk_dynamodb::operation::delete_item::{DeleteItemInput, DeleteItemOutput};
use aws_sdk_dynamodb::operation::put_item::{PutItemInput, PutItemOutput};
use aws_sdk_dynamodb::operation::update_item::{UpdateItemInput, UpdateItemOutput};
use aws_sdk_dynamodb::types::{ConsumedCapacity, ReturnConsumedCapacity};
use aws_smithy_types::config_bag::{Storable, StoreReplace};
use tokio::time::Instant;

use crate::application::sent_at;

/// All writes of one agent to replicas.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter(Arc<Mutex<Metered>>);

/// What a meter has recorded.
#[derive(Debug, Default)]
pub(crate) struct Metered {
    pub(crate) peers: Count,
    pub(crate) own: Count,
    pub(crate) arrivals: Vec<Arrival>,
}

/// Requests, and the capacity they consumed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) requests: u64,
    /// Write units, as the service reported them.
    pub(crate) units: f64,
    /// Requests whose answers report no units: failed and refused ones.
    pub(crate) unanswered: u64,
}

/// A put that a peer has accepted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// When the application sent it; on the clock that [`sent_at`] reads.
    pub(crate) sent: Duration,
    /// From then to the peer's answer.
    pub(crate) lag: Duration,
    /// From the agent's request to the peer's answer.
    pub(crate) round_trip: Duration,
}

impl Meter {
    /// The interceptor for the client of a region: the agent's own, or a peer's.
    pub(crate) fn tap(&self, is_own: bool) -> Tap {
        Tap { meter: self.clone(), is_own }
    }

    /// What has been recorded since the last call.
    pub(crate) fn take(&self) -> Metered {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Metered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Part of one client; reports to a meter.
#[derive(Debug)]
pub(crate) struct Tap {
    meter: Meter,
    is_own: bool,
}

/// A request in flight.
#[derive(Debug)]
struct UnderWay {
    begun: Instant,
    sent: Option<Instant>,
}

impl Storable for UnderWay {
    type Storer = StoreReplace<Self>;
}

impl Intercept for Tap {
    fn name(&self) -> &'static str {
        "Tap"
    }

    fn modify_before_serialization(
        &self,
        context: &mut BeforeSerializationInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let input = context.input_mut();
        let total = Some(ReturnConsumedCapacity::Total);
        let mut sent = None;
        if let Some(put) = input.downcast_mut::<PutItemInput>() {
            put.return_consumed_capacity = total;
            sent = put.item.as_ref().and_then(sent_at);
        } else if let Some(update) = input.downcast_mut::<UpdateItemInput>() {
            update.return_consumed_capacity = total;
        } else if let Some(delete) = input.downcast_mut::<DeleteItemInput>() {
            delete.return_consumed_capacity = total;
        } else {
            return Ok(());
        }
        config.interceptor_state().store_put(UnderWay { begun: Instant::now(), sent });
        Ok(())
    }

    fn read_after_execution(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(UnderWay { begun, sent }) = config.load::<UnderWay>() else { return Ok(()) };
        let output = context.output_or_error().and_then(Result::ok);
        let put = output.and_then(|output| output.downcast_ref::<PutItemOutput>());
        let update = output.and_then(|output| output.downcast_ref::<UpdateItemOutput>());
        let delete = output.and_then(|output| output.downcast_ref::<DeleteItemOutput>());
        let capacity = put
            .and_then(PutItemOutput::consumed_capacity)
            .or_else(|| update.and_then(UpdateItemOutput::consumed_capacity))
            .or_else(|| delete.and_then(DeleteItemOutput::consumed_capacity));
        let units = capacity.and_then(ConsumedCapacity::capacity_units);
        let mut metered = self.meter.lock();
        let count = if self.is_own { &mut metered.own } else { &mut metered.peers };
        count.requests += 1;
        count.units += units.unwrap_or_default();
        count.unanswered += u64::from(units.is_none());
        if let (Some(_), Some(sent), false) = (put, sent, self.is_own) {
            let arrival = Arrival {
                sent: crate::application::on_clock(*sent),
                lag: sent.elapsed(),
                round_trip: begun.elapsed(),
            };
            metered.arrivals.push(arrival);
        }
        Ok(())
    }
}
