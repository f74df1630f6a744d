//! Capacity: how many units a second may be consumed in one region.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, ConsumedCapacity};
use tokio::time::Instant;

use crate::protocol::Item;

/// Bytes in one strongly consistent read unit.
const UNIT_BYTES: usize = 4096;
/// Bytes in one write unit.
const WRITE_UNIT_BYTES: usize = 1024;

/// What may be consumed in one region, and what has been.
#[derive(Debug)]
pub struct Budget {
    /// Units a second; `None` means no limit.
    rate: Option<f64>,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When everything consumed so far falls within the rate: seconds since the budget was created.
    even: f64,
    used: f64,
}

impl Budget {
    /// At most so many units a second; `None` means no limit.
    pub fn new(units_a_second: Option<u32>) -> Self {
        Self { rate: units_a_second.map(f64::from), began: Instant::now(), state: Mutex::default() }
    }

    /// The limit, in units a second.
    pub fn rate(&self) -> Option<f64> {
        self.rate
    }

    /// The units consumed so far.
    pub fn used(&self) -> f64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).used
    }

    /// Waits for a turn to consume about so many units. [`Budget::settle`] reports the actual number.
    ///
    /// They count at once: concurrent calls must not all take the same turn. Unused capacity is not saved up,
    /// so never more than one call's units come at once.
    pub async fn begin(&self, estimate: f64) {
        let Some(rate) = self.rate else { return };
        loop {
            let now = self.began.elapsed().as_secs_f64();
            let wait = {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if state.even <= now {
                    state.even = now + estimate / rate;
                    return;
                }
                state.even - now
            };
            // Not for the whole wait: a call in flight may turn out to consume less.
            tokio::time::sleep(Duration::from_secs_f64(wait.clamp(0.001, 0.05))).await;
        }
    }

    /// Reports what a call that started with this estimate actually consumed.
    pub fn settle(&self, estimate: f64, used: f64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.used += used;
        if let Some(rate) = self.rate {
            state.even += (used - estimate) / rate;
        }
    }
}

/// The units that reading these items strongly consistently consumed: as reported by the service or, if it
/// does not say, by their sizes.
pub fn read_units<'a>(told: Option<&ConsumedCapacity>, items: impl Iterator<Item = &'a Item>) -> f64 {
    match told.and_then(ConsumedCapacity::capacity_units) {
        Some(units) => units,
        None => units(items.map(item_bytes).sum(), UNIT_BYTES),
    }
}

/// The approximate units that writing an item consumes, whether its condition holds or not.
pub fn write_units(item: &Item) -> f64 {
    units(item_bytes(item), WRITE_UNIT_BYTES)
}

fn units(bytes: usize, each: usize) -> f64 {
    u32::try_from(bytes.div_ceil(each)).map_or(f64::MAX, f64::from).max(1.0)
}

/// The approximate size of an item, as DynamoDB counts it.
fn item_bytes(item: &Item) -> usize {
    item.iter().map(|(name, value)| name.len() + value_bytes(value)).sum()
}

fn value_bytes(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(number) => number.len() / 2 + 1,
        AttributeValue::B(blob) => blob.as_ref().len(),
        AttributeValue::Ss(set) => set.iter().map(String::len).sum(),
        AttributeValue::Ns(set) => set.iter().map(|number| number.len() / 2 + 1).sum(),
        AttributeValue::Bs(set) => set.iter().map(|blob| blob.as_ref().len()).sum(),
        AttributeValue::L(list) => 3 + list.iter().map(|value| 1 + value_bytes(value)).sum::<usize>(),
        AttributeValue::M(map) => {
            3 + map.iter().map(|(name, value)| 1 + name.len() + value_bytes(value)).sum::<usize>()
        }
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_budget_is_kept_by_all_who_share_it() {
        let budget = std::sync::Arc::new(Budget::new(Some(100)));
        let began = Instant::now();
        let mut spenders = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let budget = budget.clone();
            spenders.spawn(async move {
                for _ in 0..10 {
                    budget.begin(10.0).await;
                    // Each call consumes more than estimated.
                    budget.settle(10.0, 25.0);
                }
            });
        }
        spenders.join_all().await;
        // The last call's units are counted after its turn.
        let least = (1000.0 - 25.0) / 100.0;
        let took = began.elapsed().as_secs_f64();
        assert!(took >= least && took < least * 1.1, "{took}");
        assert!((budget.used() - 1000.0).abs() < 0.001);
    }
}
