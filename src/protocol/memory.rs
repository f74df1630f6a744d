//! What is remembered of a key, and when it may be forgotten.

use std::collections::{BTreeMap, HashMap};

use super::classify::classify;
use super::resolve::{Judgement, resolve};
use super::{Hlc, KeyId, Nonce, Origin, Record, Version};

/// How far each peer's writes are known to have arrived *and to have been read* here: no write of
/// that origin with a lower clock can show up in the local stream any more.
///
/// It comes from the peers' durable watermarks, and only after the local stream has been read
/// past the point at which they were seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Floors(BTreeMap<Origin, Hlc>);

impl Floors {
    /// Raises the floor of one origin; a floor never sinks.
    pub fn raise(&mut self, origin: &Origin, to: Hlc) {
        let floor = self.0.entry(origin.clone()).or_default();
        *floor = (*floor).max(to);
    }

    pub fn get(&self, origin: &Origin) -> Hlc {
        self.0.get(origin).copied().unwrap_or_default()
    }

    /// The origins with their floors.
    pub fn iter(&self) -> impl Iterator<Item = (&Origin, Hlc)> {
        self.0.iter().map(|(origin, floor)| (origin, *floor))
    }

    /// The lower floor of each origin: what holds in both places.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        let lower = |(origin, floor): (&Origin, &Hlc)| (origin.clone(), (*floor).min(other.get(origin)));
        Self(self.0.iter().map(lower).collect())
    }

    pub(super) fn passed(&self, version: &Version) -> bool {
        version.hlc < self.get(&version.origin)
    }
}

/// How the image that is in the table now relates to the highest version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tip {
    /// It is that version's, and carries no stamp that says so.
    Bare,
    /// That version is a delete: there is no item, or a mark that is being carried out.
    Absent,
    /// An older replicated write replaced it, and a heal is under way.
    Stale,
}

/// What is known of one key beyond its current image.
#[derive(Clone, Debug)]
pub(super) struct KeyState {
    /// The highest version that the local stream has shown.
    pub(super) latest: Version,
    pub(super) tip: Tip,
    /// The nonces of the stamps seen meanwhile, the newest last.
    pub(super) nonces: Vec<Nonce>,
    /// The record from which on the stream must be read again to arrive at this state.
    pub(super) since: u64,
}

impl KeyState {
    /// How many nonces are kept a key. A put-back of a copy with an older one is taken for the
    /// replicated write that it copies, and healed away.
    const NONCES: usize = 8;

    pub(super) fn remember(&mut self, nonce: Nonce) {
        if !self.nonces.contains(&nonce) {
            if self.nonces.len() == Self::NONCES {
                self.nonces.remove(0);
            }
            self.nonces.push(nonce);
        }
    }
}

/// The memory of one reader of one table's stream: a pure function of the stream's prefix.
///
/// It holds a key only while its image does not say by itself what its version is.
#[derive(Clone, Debug)]
pub struct KeyMemory {
    origin: Origin,
    keys: HashMap<KeyId, KeyState>,
}

impl KeyMemory {
    /// An empty memory for the replica in region `origin`.
    pub fn new(origin: Origin) -> Self {
        Self { origin, keys: HashMap::new() }
    }

    /// Judges the next record of the local stream.
    ///
    /// `ordinal` counts the records of this reader and rises with each; [`Self::oldest`] answers
    /// in it. With `stamp_in_place`, a local put is also written back with its stamp, so that its
    /// key need not be remembered: for when a peer is so far behind that memory would not do.
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
        let (judgement, next) = resolve(&self.origin, ordinal, record, kind, known, stamp_in_place);
        match next {
            Some(state) => self.keys.insert(key, state),
            None => self.keys.remove(&key),
        };
        judgement
    }

    /// Forgets the keys whose highest version every peer has, and whose older versions can no
    /// longer arrive.
    ///
    /// `stream_millis` is a creation time that the local stream has reached on every shard. A
    /// version ahead of it is kept, or the key's next write could get a lower one.
    pub fn forget(&mut self, peers: &[Origin], floors: &Floors, stream_millis: u64) {
        let floor = peers.iter().map(|peer| floors.get(peer)).min().unwrap_or_default();
        let floor = floor.min(Hlc::at_millis(stream_millis));
        self.keys.retain(|_, state| state.tip == Tip::Stale || state.latest.hlc >= floor);
    }

    /// The ordinal of the oldest record that is still needed to rebuild this memory.
    pub fn oldest(&self) -> Option<u64> {
        self.keys.values().map(|state| state.since).min()
    }

    /// The number of keys remembered.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}
