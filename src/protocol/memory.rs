//! What is remembered of a stream's keys, and when it may be forgotten.

use std::collections::BTreeMap;

use super::classify::{Kind, classify};
use super::key_state::{KeyState, Tip};
use super::resolve::{Judgement, Reader, resolve};
use super::{Floors, Hlc, KeyId, Origin, Record};

/// What is forgotten once certain floors are in force. Floors only rise, so a later sweep forgets everything
/// that an earlier one did: after missing some, only the last need be made.
#[derive(Clone, Debug)]
pub struct Sweep {
    pub(super) floors: Floors,
    /// What this region's own agent is done with.
    pub(super) own: Hlc,
    /// What every region is done with.
    pub(super) all: Hlc,
}

impl Sweep {
    /// Forgets of a key what may be forgotten. Returns whether anything is left.
    pub fn leaves(&self, state: &mut KeyState) -> bool {
        state.forget(&self.floors, self.own);
        if state.tip != Tip::Carried && state.latest.hlc < self.all && state.heals.is_empty() {
            return false;
        }
        !state.is_plain()
    }
}

/// The memory of one reader of one table's stream: a pure function of the stream's prefix.
///
/// It holds a key only while the key's image does not state its version itself.
#[derive(Clone, Debug)]
pub struct KeyMemory {
    origin: Origin,
    keys: BTreeMap<KeyId, KeyState>,
}

impl KeyMemory {
    /// An empty memory for the replica in region `origin`.
    pub fn new(origin: Origin) -> Self {
        Self { origin, keys: BTreeMap::new() }
    }

    /// Judges the next record of the local stream.
    ///
    /// `ordinal` numbers the records of this reader and rises with each; [`Self::oldest`] answers in the same
    /// numbers. With `stamp_in_place`, a local put is also written back with its stamp, so that its key need
    /// not be remembered: for a peer so far behind that memory would not suffice.
    pub fn judge(
        &mut self,
        ordinal: u64,
        record: Record,
        floors: &Floors,
        stamp_in_place: bool,
    ) -> Judgement {
        let key = KeyId::of(&record.key);
        let known = self.keys.get(&key);
        let kind = classify(&record, known, &self.origin, floors);
        // For a stamp, the floors show what the memory may have forgotten.
        let by_floors = kind == Kind::LocalPut { is_stray: true }
            && classify(&record, None, &self.origin, &Floors::default()) != kind;
        // If the memory showed nothing that the record does not, a rebuild may start here.
        let is_plain = known.is_none() || classify(&record, None, &self.origin, floors) == kind;
        let was_stale = known.is_some_and(|state| state.tip == Tip::Stale);
        let record_millis = record.created_millis;
        let reader =
            Reader { own: &self.origin, floors, key, ordinal, record_millis, is_plain, stamp_in_place };
        let (judgement, next) = resolve(&reader, record, kind, known);
        let judgement = Judgement { was_stale, by_floors, ..judgement };
        match next {
            Some(state) => self.keys.insert(key, state),
            None => self.keys.remove(&key),
        };
        judgement
    }

    /// Forgets the keys whose highest version every region has, including this one: neither a peer's push of
    /// an older version can still arrive, nor a heal or a stamp of this region's own.
    ///
    /// A heal depends on the record that asked for it, which may be much younger than the version. While a
    /// seeder has a hold on the table, nothing is forgotten: seeds are older than what they meet, and arrive
    /// when every region may have that.
    ///
    /// Returns the sweep for the keys that are [set aside](Self::set_aside).
    pub fn forget(&mut self, peers: &[Origin], floors: &Floors, hold: Option<u64>) -> Option<Sweep> {
        if hold.is_some_and(|hold| !floors.is_over(hold)) {
            return None;
        }
        let own = floors.before(&self.origin);
        let all = peers.iter().map(|peer| floors.before(peer)).fold(own, Hlc::min);
        let sweep = Sweep { floors: floors.clone(), own, all };
        self.keys.retain(|_, state| sweep.leaves(state));
        Some(sweep)
    }

    /// Takes out the `count` keys with the lowest versions, which are the first to be forgotten, in the order
    /// of keys. Each must be [put back](Self::put_back) before a record of it is judged.
    pub fn set_aside(&mut self, count: usize) -> Vec<(KeyId, KeyState)> {
        let mut clocks: Vec<Hlc> = self.keys.values().map(|state| state.latest.hlc).collect();
        let count = count.min(clocks.len());
        let Some(last) = count.checked_sub(1) else { return Vec::new() };
        let (_, bound, _) = clocks.select_nth_unstable(last);
        let bound = *bound;
        self.keys.extract_if(.., |_, state| state.latest.hlc <= bound).take(count).collect()
    }

    /// Puts back the state of a key that was set aside.
    pub fn put_back(&mut self, key: KeyId, state: KeyState) {
        self.keys.insert(key, state);
    }

    /// Whether anything is remembered of the key here.
    pub fn knows(&self, key: &KeyId) -> bool {
        self.keys.contains_key(key)
    }

    /// The ordinal of the oldest record still needed to rebuild this memory.
    pub fn oldest(&self) -> Option<u64> {
        self.keys.values().map(KeyState::oldest).min()
    }

    /// The number of keys remembered.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}
