//! How many keys all tracks of a table remember together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One track's part of the sum, which ends with it.
#[derive(Debug)]
pub(super) struct Remembered {
    all: Arc<AtomicUsize>,
    mine: usize,
}

impl Remembered {
    pub(super) fn among(all: &Arc<AtomicUsize>) -> Self {
        Self { all: Arc::clone(all), mine: 0 }
    }

    /// This track remembers so many keys now.
    pub(super) fn note(&mut self, keys: usize) {
        if keys >= self.mine {
            self.all.fetch_add(keys - self.mine, Ordering::Relaxed);
        } else {
            self.all.fetch_sub(self.mine - keys, Ordering::Relaxed);
        }
        self.mine = keys;
    }

    /// What all of them remember.
    pub(super) fn all(&self) -> usize {
        self.all.load(Ordering::Relaxed)
    }
}

impl Drop for Remembered {
    fn drop(&mut self) {
        self.note(0);
    }
}
