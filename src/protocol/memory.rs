//! What is remembered of a key, and when it may be forgotten.

use std::collections::BTreeMap;

use super::classify::{Kind, classify};
use super::resolve::{Judgement, Reader, resolve};
use super::{Hlc, KeyId, Nonce, Origin, Record, Stamp, Version};

/// How far the creation times of one stream may go back, from one record to a later one, without anything
/// being lost. What is forgotten lies this much further back than a watermark says.
pub const SLACK_MILLIS: u64 = 60_000;

/// How far ahead of its own clock an agent believes a service's time. It is within the slack, so that nothing
/// is lost when a clock that was ahead by no more is corrected.
pub const AHEAD_MILLIS: u64 = SLACK_MILLIS / 2;

/// Whether an agent whose clock says `now` believes a time.
///
/// What is promised to others and what is forgotten depend on times that never sink. A time far ahead would
/// count until then, and make replicated writes pass for old copies.
pub fn is_credible(millis: u64, now: u64) -> bool {
    millis <= now.saturating_add(AHEAD_MILLIS)
}

fn less_slack(floor: Hlc) -> Hlc {
    Hlc::at_millis(floor.millis().saturating_sub(SLACK_MILLIS))
}

/// How far each region's writes are known to have arrived *and to have been read* here: no write of that
/// origin with a lower clock can appear in the local stream any more. For the region itself: everything that
/// its agent had to do here is done.
///
/// Floors come from durable watermarks, and only after the local stream has been read past the point at which
/// these were seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Floors(BTreeMap<Origin, Hlc>);

impl Floors {
    /// Raises the floor of one origin; a floor never sinks.
    pub fn raise(&mut self, origin: &Origin, to: Hlc) {
        let floor = self.0.entry(origin.clone()).or_default();
        *floor = (*floor).max(to);
    }

    /// Raises each floor to its value in another set.
    pub fn raise_all(&mut self, others: &Self) {
        others.iter().for_each(|(origin, floor)| self.raise(origin, floor));
    }

    pub fn get(&self, origin: &Origin) -> Hlc {
        self.0.get(origin).copied().unwrap_or_default()
    }

    /// The origins with their floors.
    pub fn iter(&self) -> impl Iterator<Item = (&Origin, Hlc)> {
        self.0.iter().map(|(origin, floor)| (origin, *floor))
    }

    /// The floors that an agent whose clock says `now` believes; the others count as unknown.
    #[must_use]
    pub fn credible(&self, now: u64) -> Self {
        let credible = |(origin, floor): &(&Origin, &Hlc)| {
            **origin == Origin::seeding() || is_credible(floor.millis(), now)
        };
        Self(self.0.iter().filter(credible).map(|(origin, floor)| (origin.clone(), *floor)).collect())
    }

    /// The lower floor of each origin: what holds in both sets.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        let lower = |(origin, floor): (&Origin, &Hlc)| (origin.clone(), (*floor).min(other.get(origin)));
        Self(self.0.iter().map(lower).collect())
    }

    pub(super) fn passed(&self, version: &Version) -> bool {
        version.hlc < self.before(&version.origin)
    }

    /// No version of an origin below this can appear any more, and no seed of a hold below the seeders'
    /// floor.
    pub(super) fn before(&self, origin: &Origin) -> Hlc {
        let floor = self.get(origin);
        if *origin == Origin::seeding() { floor } else { less_slack(floor) }
    }

    /// Whether no seed written under this hold can appear any more.
    pub(super) fn is_over(&self, hold: u64) -> bool {
        Hlc::from(hold) < self.before(&Origin::seeding())
    }
}

/// How the image now in the table relates to the highest version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tip {
    /// It is that version's, and carries no stamp that says so.
    Bare,
    /// That version is a delete: there is no item, or a mark whose delete is being applied.
    Absent,
    /// An older replicated write replaced it, and a heal is in progress.
    Stale,
    /// It is that version's, and its stamp says so; only the stamps that it replaced need be remembered.
    Carried,
}

/// What is known of one key beyond its current image.
#[derive(Clone, Debug)]
pub struct KeyState {
    /// The highest version that the local stream has shown.
    pub(super) latest: Version,
    pub(super) tip: Tip,
    /// The stamps seen meanwhile, newest last.
    pub(super) stamps: Box<[Seen]>,
    /// The last heal that was asked for, while it may still arrive.
    pub(super) heal: Option<Box<Healing>>,
    /// The record from which the stream must be read again to rebuild this version and tip.
    pub(super) since: u64,
}

/// A stamp that a record showed.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) nonce: Nonce,
    /// Until the floors have passed this, it can arrive a second time.
    pub(super) version: Version,
    pub(super) ordinal: u64,
}

/// A heal, and the record that asked for it.
#[derive(Clone, Debug)]
pub(super) struct Healing {
    pub(super) version: Version,
    pub(super) millis: u64,
    pub(super) ordinal: u64,
}

impl Healing {
    fn is_done(&self, own: Hlc) -> bool {
        Hlc::at_millis(self.millis) < own
    }
}

impl KeyState {
    /// How many stamps are kept for each key. A put-back of a copy with an older stamp is taken for the
    /// replicated write that it copies, and healed away.
    const STAMPS: usize = 64;

    /// Remembers a stamp that a record showed, if what carries it could still arrive a second time.
    pub(super) fn remember(&mut self, stamp: &Stamp, ordinal: u64, floors: &Floors) {
        let version = stamp.comes_until();
        if floors.passed(version) {
            return;
        }
        let mut stamps = std::mem::take(&mut self.stamps).into_vec();
        stamps.retain(|seen| seen.nonce != stamp.nonce);
        if stamps.len() == Self::STAMPS {
            stamps.remove(0);
        }
        stamps.push(Seen { nonce: stamp.nonce, version: version.clone(), ordinal });
        self.stamps = stamps.into();
    }

    /// Whether the image states everything that is known.
    pub(super) fn is_plain(&self) -> bool {
        self.tip == Tip::Carried && self.stamps.is_empty() && self.heal.is_none()
    }

    fn forget(&mut self, floors: &Floors, own: Hlc) {
        self.heal.take_if(|heal| heal.is_done(own));
        if self.stamps.iter().any(|seen| floors.passed(&seen.version)) {
            let stamps = std::mem::take(&mut self.stamps).into_vec();
            self.stamps = stamps.into_iter().filter(|seen| !floors.passed(&seen.version)).collect();
        }
    }

    /// Whether a heal with this version may still arrive, if everything written here before `own` is done.
    pub(super) fn may_heal(&self, version: &Version, own: Hlc) -> bool {
        self.heal.as_ref().is_some_and(|heal| heal.version == *version && !heal.is_done(own))
    }

    pub(super) fn has_seen(&self, nonce: Nonce) -> bool {
        self.stamps.iter().any(|seen| seen.nonce == nonce)
    }

    /// The oldest record still needed to rebuild this.
    pub(super) fn oldest(&self) -> u64 {
        let since = if self.tip == Tip::Carried { u64::MAX } else { self.since };
        let heal = self.heal.as_ref().map(|heal| heal.ordinal);
        self.stamps.iter().map(|seen| seen.ordinal).chain(heal).fold(since, u64::min)
    }
}

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
        if state.tip != Tip::Carried && state.latest.hlc < self.all && state.heal.is_none() {
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
        let record_millis = record.created_millis;
        let reader =
            Reader { own: &self.origin, floors, key, ordinal, record_millis, is_plain, stamp_in_place };
        let (judgement, next) = resolve(&reader, record, kind, known);
        let judgement = Judgement { by_floors, ..judgement };
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
