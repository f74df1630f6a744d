//! Writes made here by another setup's agents: their stamps name a region that this configuration does not
//! know. They count as replicated, and so go to no peer of this setup.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::Origin;

/// How often one region is reported.
const AGAIN: Duration = Duration::from_hours(1);
/// How many regions are distinguished: a stamp may say anything.
const MANY: usize = 8;

/// How many came, by region, since the agent started.
#[derive(Debug, Default)]
pub(super) struct Foreign(Mutex<BTreeMap<Origin, Came>>);

#[derive(Debug)]
struct Came {
    count: u64,
    told: Option<Instant>,
}

impl Foreign {
    /// Counts a write. Returns how many have come from that region, if it is time to log that.
    pub(super) fn note(&self, origin: &Origin) -> Option<u64> {
        let mut all = self.lock();
        if all.len() >= MANY && !all.contains_key(origin) {
            return None;
        }
        let came = all.entry(origin.clone()).or_insert(Came { count: 0, told: None });
        came.count += 1;
        let is_due = came.told.is_none_or(|told| told.elapsed() >= AGAIN);
        is_due.then(|| {
            came.told = Some(Instant::now());
            came.count
        })
    }

    pub(super) fn all(&self) -> BTreeMap<Origin, u64> {
        self.lock().iter().map(|(origin, came)| (origin.clone(), came.count)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Origin, Came>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_told_at_once_and_then_every_hour() {
        let (foreign, origin) = (Foreign::default(), "atlantis".parse().expect("a name"));
        assert_eq!((foreign.note(&origin), foreign.note(&origin)), (Some(1), None));
        tokio::time::advance(AGAIN).await;
        assert_eq!((foreign.note(&origin), foreign.note(&origin)), (Some(3), None));
        for i in 0..2 * MANY {
            foreign.note(&format!("region-{i}").parse().expect("a name"));
        }
        assert_eq!((foreign.all().len(), foreign.all()[&origin]), (MANY, 4));
    }
}
