//! The file for keys, shared by all tracks of an agent: a B-tree on disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{Database, ReadTransaction, ReadableDatabase, StorageBackend, WriteTransaction};

use super::SpillError;

/// How much of the file the B-tree caches in memory.
const CACHE: usize = 16 << 20;
const BLOCK: usize = 4_096;

#[derive(Debug)]
pub(super) struct Store {
    database: Database,
    folder: PathBuf,
    pages: Arc<Pages>,
    broken: AtomicBool,
}

impl Store {
    /// A file without a name.
    pub(super) fn file(folder: &Path) -> Result<File, SpillError> {
        tempfile::tempfile_in(folder)
            .map_err(|source| SpillError::Unmade { folder: folder.to_owned(), source })
    }

    pub(super) fn make(folder: &Path) -> Result<Self, SpillError> {
        let file = FileBackend::new(Self::file(folder)?).map_err(|error| broken(folder, error))?;
        Self::over(Box::new(file), folder)
    }

    fn over(file: Box<dyn StorageBackend>, folder: &Path) -> Result<Self, SpillError> {
        let pages = Arc::new(Pages { file, unwritten: Mutex::default() });
        let backend = Arc::clone(&pages);
        let database = Database::builder().set_cache_size(CACHE).create_with_backend(Shared(backend));
        let database = database.map_err(|error| broken(folder, error))?;
        Ok(Self { database, folder: folder.to_owned(), pages, broken: AtomicBool::new(false) })
    }

    /// Whether what is stored here can no longer be read.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, SpillError> {
        self.noting(|| read(&self.database.begin_read()?))
    }

    pub(super) fn write(
        &self,
        write: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), SpillError> {
        self.noting(|| {
            let transaction = self.database.begin_write()?;
            write(&transaction)?;
            Ok(transaction.commit()?)
        })
    }

    fn noting<T>(&self, work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, SpillError> {
        work().map_err(|error| {
            self.broken.store(true, Ordering::Relaxed);
            broken(&self.folder, error)
        })
    }

    /// Fails if some of what was written is not on disk; then it is in memory.
    pub(super) fn written(&self) -> Result<(), SpillError> {
        let written = self.pages.flush();
        written
            .map_err(|error| SpillError::Unwritten { folder: self.folder.clone(), reason: error.to_string() })
    }
}

fn broken(folder: &Path, error: impl Into<redb::Error>) -> SpillError {
    SpillError::Broken { folder: folder.to_owned(), source: Box::new(error.into()) }
}

/// The file, block by block. A block that the disk does not accept stays in memory, so that a full disk loses
/// no key.
#[derive(Debug)]
struct Pages {
    file: Box<dyn StorageBackend>,
    /// By number; each one block long.
    unwritten: Mutex<BTreeMap<u64, Vec<u8>>>,
}

impl Pages {
    fn unwritten(&self) -> MutexGuard<'_, BTreeMap<u64, Vec<u8>>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Retries writing what the disk did not accept.
    fn flush(&self) -> io::Result<()> {
        let mut unwritten = self.unwritten();
        while let Some(block) = unwritten.first_entry() {
            self.file.write(block.key() * BLOCK as u64, block.get())?;
            block.remove();
        }
        Ok(())
    }
}

/// The blocks that a range of bytes touches: for each its number, where the range starts in it, and which
/// part of the range that is.
fn blocks(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = usize::try_from(at % BLOCK as u64).unwrap_or_default();
        let end = length.min(done + BLOCK - within);
        let part = done..end;
        done = end;
        (!part.is_empty()).then_some((at / BLOCK as u64, within, part))
    })
}

/// The same file, for the database.
#[derive(Debug)]
struct Shared(Arc<Pages>);

impl StorageBackend for Shared {
    fn len(&self) -> io::Result<u64> {
        self.0.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.file.read(offset, out)?;
        let unwritten = self.0.unwritten();
        if !unwritten.is_empty() {
            for (number, within, part) in blocks(offset, out.len()) {
                if let Some(block) = unwritten.get(&number) {
                    let length = part.len();
                    out[part].copy_from_slice(&block[within..within + length]);
                }
            }
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.unwritten().split_off(&length.div_ceil(BLOCK as u64));
        self.0.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        // It need not outlive the process.
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut unwritten = self.0.unwritten();
        if unwritten.is_empty() && self.0.file.write(offset, data).is_ok() {
            return Ok(());
        }
        for (number, within, part) in blocks(offset, data.len()) {
            let block = match unwritten.entry(number) {
                std::collections::btree_map::Entry::Occupied(block) => block.into_mut(),
                std::collections::btree_map::Entry::Vacant(block) => {
                    let mut bytes = vec![0; BLOCK];
                    self.0.file.read(number * BLOCK as u64, &mut bytes)?;
                    block.insert(bytes)
                }
            };
            let length = part.len();
            block[within..within + length].copy_from_slice(&data[part]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use redb::TableDefinition;
    use redb::backends::InMemoryBackend;

    use super::*;

    const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("table");

    /// A disk that is full after some writes.
    #[derive(Debug, Default)]
    struct Full {
        disk: InMemoryBackend,
        left: Arc<AtomicUsize>,
    }

    impl StorageBackend for Full {
        fn len(&self) -> io::Result<u64> {
            self.disk.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.disk.read(offset, out)
        }

        fn set_len(&self, length: u64) -> io::Result<()> {
            self.disk.set_len(length)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.disk.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            let left = self.left.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            // The first part of a write may be there.
            let part = if left.is_ok() { data } else { &data[..data.len() / 2] };
            self.disk.write(offset, part)?;
            left.map(|_| ()).map_err(|_| io::ErrorKind::StorageFull.into())
        }
    }

    #[test]
    fn what_a_full_disk_does_not_take_is_kept() {
        for room in [0, 3, 10, 40] {
            let full = Full::default();
            let left = Arc::clone(&full.left);
            left.store(usize::MAX, Ordering::Relaxed);
            let store = Store::over(Box::new(full), Path::new("/tmp")).expect("a store");
            left.store(room, Ordering::Relaxed);
            for round in 0..20_u64 {
                let write = |transaction: &WriteTransaction| {
                    let mut table = transaction.open_table(TABLE)?;
                    for key in 0..200 {
                        table.insert(round * 200 + key, &*vec![u8::try_from(round).expect("few"); 300])?;
                    }
                    Ok(())
                };
                store.write(write).expect("memory takes it");
            }
            let failed = store.written().expect_err("a full disk").to_string();
            assert!(failed.starts_with("can't write to the file in /tmp: no storage space"), "{failed}");
            let check = || {
                for key in 0..4_000 {
                    let read = |transaction: &ReadTransaction| {
                        let value = transaction.open_table(TABLE)?.get(key)?;
                        Ok(value.map(|value| value.value().to_vec()))
                    };
                    let expected = vec![u8::try_from(key / 200).expect("few"); 300];
                    assert_eq!(store.read(read).expect("what was written"), Some(expected), "{key}");
                }
            };
            check();
            left.store(usize::MAX, Ordering::Relaxed);
            store.written().expect("room again");
            assert!(store.pages.unwritten().is_empty());
            check();
            assert!(!store.is_broken());
        }
    }
}
