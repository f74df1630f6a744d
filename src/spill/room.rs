//! How many keys the tracks of an agent hold in memory together.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::SpillError;
use super::store::Store;

/// After a failure to move keys to disk, how long until the next attempt.
const REST: Duration = Duration::from_mins(1);
/// How many keys are moved at once, at most: no task may occupy a thread for long.
const MOST: usize = 8_192;
/// How many keys a track may always hold, so that it need not move them one by one while others hold too
/// many.
const FEW: usize = 256;

/// What all tracks of an agent share.
#[derive(Debug)]
pub struct Spill {
    folder: PathBuf,
    /// The most keys to hold in memory.
    pub(super) room: usize,
    held: AtomicUsize,
    tracks: AtomicUsize,
    shelves: AtomicU64,
    /// Set while anything is stored in it.
    store: Mutex<Weak<Store>>,
    /// Since when keys could not be moved to disk.
    failed: Mutex<Option<Instant>>,
}

impl Spill {
    /// Space for this many keys in memory, and a folder for the file that holds the others; by default, the
    /// system's folder for temporary files.
    pub fn new(room: usize, folder: Option<PathBuf>) -> Self {
        Self {
            folder: folder.unwrap_or_else(std::env::temp_dir),
            room,
            held: AtomicUsize::new(0),
            tracks: AtomicUsize::new(0),
            shelves: AtomicU64::new(0),
            store: Mutex::default(),
            failed: Mutex::default(),
        }
    }

    /// Whether a file can be made in the folder.
    pub fn check(&self) -> Result<(), SpillError> {
        Store::file(&self.folder).map(|_| ())
    }

    /// The file, and a number for a track's shelf in it.
    pub(super) fn open(&self) -> Result<(Arc<Store>, u64), SpillError> {
        let mut last = lock(&self.store);
        let store = match last.upgrade().filter(|store| !store.is_broken()) {
            Some(store) => store,
            None => {
                let store = Arc::new(Store::make(&self.folder)?);
                *last = Arc::downgrade(&store);
                store
            }
        };
        Ok((store, self.shelves.fetch_add(1, Ordering::Relaxed)))
    }

    pub(super) fn joined(&self) {
        self.tracks.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn left(&self) {
        self.tracks.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn held(&self) -> &AtomicUsize {
        &self.held
    }

    /// How many keys a track that holds `mine` in memory must move to disk now.
    ///
    /// Near the limit, tracks with more than their share move some; at the limit, every track does.
    pub(super) fn excess(&self, mine: usize) -> usize {
        let all = self.held.load(Ordering::Relaxed);
        let share = self.room / self.tracks.load(Ordering::Relaxed).max(1);
        let few = (self.room / 64).clamp(1, FEW);
        let is_full = all > self.room && mine >= few;
        let is_greedy = all > self.room - self.room / 8 && mine > share.max(few);
        if is_full || is_greedy { (mine / 8).clamp(few, MOST) } else { 0 }
    }

    /// Records that keys could not be moved to disk.
    pub(super) fn rest(&self) {
        *lock(&self.failed) = Some(Instant::now());
    }

    pub(super) fn rests(&self) -> bool {
        lock(&self.failed).is_some_and(|failed| failed.elapsed() < REST)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
