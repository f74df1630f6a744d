//! The keys that one track keeps on disk.
//!
//! Keys are stored in bundles of those that are forgotten at the same time. A bundle is forgotten as a whole,
//! by its outline; a key that would have been forgotten earlier is dropped when it is taken back. The result
//! is the same, since a key kept here is not judged meanwhile, and a later sweep forgets everything that
//! earlier ones did.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};

use super::SpillError;
use super::store::Store;
use crate::protocol::{KeyId, KeyState, Malformed, Origin, Outline, Sweep};

/// After this many keys were taken back, their old rows are deleted.
const STALE: usize = 256;

#[derive(Debug)]
pub(super) struct Shelf {
    store: Arc<Store>,
    /// The table of key states, by key: the number of the bundle, and the bytes of the state.
    states: String,
    /// The table of the bundles' keys.
    lists: String,
    bundles: BTreeMap<u32, Bundle>,
    /// Forgotten bundles whose rows still exist.
    forgotten: VecDeque<u32>,
    /// Keys that were taken back and whose rows still exist.
    stale: BTreeSet<KeyId>,
    next: u32,
    keys: usize,
    /// The last sweep, and the first bundle added after it.
    swept: Option<(Sweep, u32)>,
}

#[derive(Debug)]
struct Bundle {
    outline: Outline,
    /// The number of keys not taken back.
    keys: usize,
}

impl Shelf {
    pub(super) fn new(store: Arc<Store>, number: u64) -> Self {
        Self {
            store,
            states: format!("states {number}"),
            lists: format!("lists {number}"),
            bundles: BTreeMap::new(),
            forgotten: VecDeque::new(),
            stale: BTreeSet::new(),
            next: 0,
            keys: 0,
            swept: None,
        }
    }

    /// How many keys it holds, including those that only a read can tell from forgotten ones.
    pub(super) fn len(&self) -> usize {
        self.keys
    }

    /// A lower bound of the oldest record needed to rebuild what it holds.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.bundles.values().filter_map(|bundle| bundle.outline.oldest()).min()
    }

    /// Adds keys, none of which it holds.
    pub(super) fn add(&mut self, keys: &[(KeyId, KeyState)]) -> Result<(), SpillError> {
        let number = self.next;
        let mut outline = Outline::default();
        let mut list = Vec::with_capacity(keys.len() * 16);
        let done = self.forgotten.front().copied();
        self.store.write(|transaction| {
            let mut states = transaction.open_table(states(&self.states))?;
            let mut row = Vec::new();
            for (key, state) in keys {
                outline.add(state);
                list.extend(key.to_bytes());
                row.clear();
                row.extend(number.to_be_bytes());
                state.write(&mut row);
                states.insert(key.number(), &*row)?;
            }
            let added = |key: &KeyId| keys.binary_search_by_key(key, |(key, _)| *key).is_ok();
            for key in self.stale.iter().filter(|key| !added(key)) {
                states.remove(key.number())?;
            }
            transaction.open_table(lists(&self.lists))?.insert(number, &*list)?;
            done.map_or(Ok(()), |done| self.clear(transaction, &mut states, done))
        })?;
        if done.is_some() {
            self.forgotten.pop_front();
        }
        self.stale.clear();
        self.bundles.insert(number, Bundle { outline, keys: keys.len() });
        self.keys += keys.len();
        self.next += 1;
        self.store.written()
    }

    /// Takes a key back, if it is here.
    pub(super) fn take(&mut self, key: &KeyId, own: &Origin) -> Result<Option<KeyState>, SpillError> {
        if self.stale.contains(key) {
            return Ok(None);
        }
        let found = self.store.read(|transaction| {
            let table = transaction.open_table(states(&self.states))?;
            let Some(row) = table.get(key.number())? else { return Ok(None) };
            let (number, state) = row.value().split_first_chunk().ok_or_else(|| corrupted(Malformed))?;
            let number = u32::from_be_bytes(*number);
            if !self.bundles.contains_key(&number) {
                return Ok(None);
            }
            Ok(Some((number, KeyState::read(state, own).map_err(corrupted)?)))
        })?;
        let Some((number, mut state)) = found else { return Ok(None) };
        self.stale.insert(*key);
        self.keys -= 1;
        if let Some(bundle) = self.bundles.get_mut(&number) {
            bundle.keys -= 1;
            if bundle.keys == 0 {
                self.bundles.remove(&number);
                self.forgotten.push_back(number);
            }
        }
        if self.stale.len() >= STALE {
            self.store.write(|transaction| {
                let mut table = transaction.open_table(states(&self.states))?;
                self.stale.iter().try_for_each(|key| Ok(_ = table.remove(key.number())?))
            })?;
            self.stale.clear();
        }
        let missed = self.swept.as_ref().filter(|(_, next)| number < *next);
        Ok(missed.is_none_or(|(sweep, _)| sweep.leaves(&mut state)).then_some(state))
    }

    /// Forgets the bundles of which nothing is left, and deletes the rows of one of them.
    pub(super) fn forget(&mut self, sweep: Sweep) -> Result<(), SpillError> {
        let gone: Vec<u32> = self
            .bundles
            .iter()
            .filter(|(_, bundle)| sweep.forgets_all(&bundle.outline))
            .map(|(number, _)| *number)
            .collect();
        for number in gone {
            self.keys -= self.bundles.remove(&number).map_or(0, |bundle| bundle.keys);
            self.forgotten.push_back(number);
        }
        self.swept = Some((sweep, self.next));
        // With the last bundle, everything goes at once.
        let Some(done) = self.forgotten.front().copied().filter(|_| self.keys > 0) else { return Ok(()) };
        self.store.write(|transaction| {
            let mut states = transaction.open_table(states(&self.states))?;
            self.clear(transaction, &mut states, done)
        })?;
        self.forgotten.pop_front();
        Ok(())
    }

    /// Deletes the rows of a bundle.
    fn clear(
        &self,
        transaction: &WriteTransaction,
        states: &mut Table<'_, u128, &'static [u8]>,
        number: u32,
    ) -> Result<(), redb::Error> {
        let mut lists = transaction.open_table(lists(&self.lists))?;
        let Some(list) = lists.remove(number)? else { return Ok(()) };
        let (keys, _) = list.value().as_chunks::<16>();
        for key in keys {
            let key = u128::from_be_bytes(*key);
            // A key that came back later belongs to another bundle.
            if states.get(key)?.is_some_and(|row| row.value().starts_with(&number.to_be_bytes())) {
                states.remove(key)?;
            }
        }
        Ok(())
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        // The file goes with its last user; a failure is reported to those who still read it.
        if Arc::strong_count(&self.store) > 1 && !self.store.is_broken() {
            let _ = self.store.write(|transaction| {
                transaction.delete_table(states(&self.states))?;
                transaction.delete_table(lists(&self.lists))?;
                Ok(())
            });
        }
    }
}

fn states(name: &str) -> TableDefinition<'_, u128, &'static [u8]> {
    TableDefinition::new(name)
}

fn lists(name: &str) -> TableDefinition<'_, u32, &'static [u8]> {
    TableDefinition::new(name)
}

fn corrupted(malformed: Malformed) -> redb::Error {
    redb::Error::Corrupted(malformed.to_string())
}
