//! Which records are still being worked on for a destination.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// The ordinals of the records whose actions have not finished.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<BTreeSet<u64>>);

impl Ledger {
    pub fn begin(&self, ordinal: u64) {
        self.lock().insert(ordinal);
    }

    pub(super) fn finish(&self, ordinal: u64) {
        self.lock().remove(&ordinal);
    }

    /// The first record that has not finished; every one before it has.
    pub fn first(&self) -> Option<u64> {
        self.lock().first().copied()
    }

    pub fn len(&self) -> usize {
        self.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
