//! The records that are still in progress for a destination.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The ordinals of the records with unfinished actions.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<BTreeMap<u64, Unfinished>>);

/// A record with unfinished actions.
#[derive(Debug)]
struct Unfinished {
    /// How many actions are unfinished.
    count: u32,
    /// When the record was created.
    created_millis: u64,
}

impl Ledger {
    pub fn begin(&self, ordinal: u64, created_millis: u64) {
        self.lock().entry(ordinal).or_insert(Unfinished { count: 0, created_millis }).count += 1;
    }

    /// Marks one action of this record as finished.
    pub fn finish(&self, ordinal: u64) {
        let mut unfinished = self.lock();
        match unfinished.get_mut(&ordinal) {
            Some(unfinished) if unfinished.count > 1 => unfinished.count -= 1,
            _ => _ = unfinished.remove(&ordinal),
        }
    }

    /// The first unfinished record; all before it are finished.
    pub fn first(&self) -> Option<u64> {
        self.lock().first_key_value().map(|(ordinal, _)| *ordinal)
    }

    /// When the first unfinished record was created, in milliseconds.
    pub fn oldest_millis(&self) -> Option<u64> {
        self.lock().first_key_value().map(|(_, unfinished)| unfinished.created_millis)
    }

    pub fn len(&self) -> usize {
        self.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Unfinished>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
