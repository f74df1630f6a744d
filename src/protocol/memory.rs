//! What is remembered of a key, and when it may be forgotten.

use std::collections::BTreeMap;

use super::classify::classify;
use super::resolve::{Judgement, Reader, resolve};
use super::{Hlc, KeyId, Nonce, Origin, Record, Stamp, Version};

/// How far the creation times of one stream may go back, from one record to a later one, and
/// nothing is lost. What is forgotten lies this much further back than a watermark says.
pub const SLACK_MILLIS: u64 = 60_000;

fn less_slack(floor: Hlc) -> Hlc {
    Hlc::at_millis(floor.millis().saturating_sub(SLACK_MILLIS))
}

/// How far each region's writes are known to have arrived *and to have been read* here: no write of
/// that origin with a lower clock can show up in the local stream any more. For the region itself:
/// all that its agent had to do here is done.
///
/// They come from durable watermarks, and only after the local stream has been read past the point
/// at which they were seen.
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
        version.hlc < less_slack(self.get(&version.origin))
    }

    /// Whether no seed that was written under this hold can show up any more.
    pub(super) fn is_over(&self, hold: u64) -> bool {
        hold < self.get(&Origin::seeding()).into()
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
    /// The stamps seen meanwhile, the newest last.
    pub(super) stamps: Box<[Seen]>,
    /// The record from which on the stream must be read again to arrive at this version and tip.
    pub(super) since: u64,
}

/// A stamp that a record showed.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    nonce: Nonce,
    millis: u64,
    ordinal: u64,
}

impl KeyState {
    /// How many stamps are kept a key. A put-back of a copy with an older one is taken for the
    /// replicated write that it copies, and healed away.
    const STAMPS: usize = 8;
    /// How long a stamp is kept, by the times of the key's records, which a rebuild sees again.
    const STAMP_MILLIS: u64 = 600_000;

    pub(super) fn remember(&mut self, stamp: &Stamp, record_millis: u64, ordinal: u64) {
        let mut stamps = std::mem::take(&mut self.stamps).into_vec();
        stamps.retain(|seen| seen.nonce != stamp.nonce);
        if stamps.len() == Self::STAMPS {
            stamps.remove(0);
        }
        stamps.push(Seen { nonce: stamp.nonce, millis: record_millis, ordinal });
        self.stamps = stamps.into();
    }

    /// The stamps that are still worth keeping when a record of this time comes.
    pub(super) fn stamps_at(&self, record_millis: u64) -> Box<[Seen]> {
        let fresh = |seen: &&Seen| seen.millis + Self::STAMP_MILLIS >= record_millis;
        self.stamps.iter().filter(fresh).cloned().collect()
    }

    pub(super) fn has_seen(&self, nonce: Nonce) -> bool {
        self.stamps.iter().any(|seen| seen.nonce == nonce)
    }

    /// The time of the last record that showed a stamp.
    fn last_seen(&self) -> Hlc {
        Hlc::at_millis(self.stamps.last().map_or(0, |seen| seen.millis))
    }

    fn oldest(&self) -> u64 {
        self.stamps.iter().map(|seen| seen.ordinal).fold(self.since, u64::min)
    }
}

/// The memory of one reader of one table's stream: a pure function of the stream's prefix.
///
/// It holds a key only while its image does not say by itself what its version is.
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
        // Where the memory told nothing that the record does not, a rebuild may begin here.
        let is_plain = known.is_none() || classify(&record, None, &self.origin, floors) == kind;
        let record_millis = record.created_millis;
        let reader = Reader { own: &self.origin, ordinal, record_millis, is_plain, stamp_in_place };
        let (judgement, next) = resolve(&reader, record, kind, known);
        match next {
            Some(state) => self.keys.insert(key, state),
            None => self.keys.remove(&key),
        };
        judgement
    }

    /// Forgets the keys whose highest version every region has, this one included: neither a
    /// peer's push of an older version can still arrive, nor a heal or a stamp of our own.
    ///
    /// A heal hangs on the record that asked for it, which may be much younger than the version.
    /// While a seeder has a hold on the table, nothing is forgotten: seeds are older than what they
    /// meet, and come when every region may have that.
    pub fn forget(&mut self, peers: &[Origin], floors: &Floors, hold: Option<u64>) {
        if hold.is_some_and(|hold| !floors.is_over(hold)) {
            return;
        }
        let own = less_slack(floors.get(&self.origin));
        let floor = peers.iter().map(|peer| less_slack(floors.get(peer))).fold(own, Hlc::min);
        let heals = |state: &KeyState| state.tip == Tip::Stale && state.last_seen() >= own;
        self.keys.retain(|_, state| state.latest.hlc >= floor || heals(state));
    }

    /// The ordinal of the oldest record that is still needed to rebuild this memory.
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
