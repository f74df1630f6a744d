//! What is remembered of one key.

use super::{Floors, Hlc, Nonce, Stamp, Version};

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
    /// The heals that were asked for, while they may still arrive, the last one last. An older one may be under way
    /// when a newer one is asked for: what the application has written between them made another version the highest.
    pub(super) heals: Box<[Healing]>,
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
    /// How many heals are.
    const HEALS: usize = 64;

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

    /// Remembers a heal that is asked for.
    pub(super) fn await_heal(&mut self, heal: Healing) {
        let mut heals = std::mem::take(&mut self.heals).into_vec();
        heals.retain(|earlier| earlier.version != heal.version);
        if heals.len() == Self::HEALS {
            heals.remove(0);
        }
        heals.push(heal);
        self.heals = heals.into();
    }

    /// Whether the image states everything that is known.
    pub(super) fn is_plain(&self) -> bool {
        self.tip == Tip::Carried && self.stamps.is_empty() && self.heals.is_empty()
    }

    pub(super) fn forget(&mut self, floors: &Floors, own: Hlc) {
        if self.heals.iter().any(|heal| heal.is_done(own)) {
            let heals = std::mem::take(&mut self.heals).into_vec();
            self.heals = heals.into_iter().filter(|heal| !heal.is_done(own)).collect();
        }
        if self.stamps.iter().any(|seen| floors.passed(&seen.version)) {
            let stamps = std::mem::take(&mut self.stamps).into_vec();
            self.stamps = stamps.into_iter().filter(|seen| !floors.passed(&seen.version)).collect();
        }
    }

    /// Whether a heal with this version may still arrive, if everything written here before `own` is done.
    pub(super) fn may_heal(&self, version: &Version, own: Hlc) -> bool {
        self.heals.iter().any(|heal| heal.version == *version && !heal.is_done(own))
    }

    pub(super) fn has_seen(&self, nonce: Nonce) -> bool {
        self.stamps.iter().any(|seen| seen.nonce == nonce)
    }

    /// The oldest record still needed to rebuild this.
    pub(super) fn oldest(&self) -> u64 {
        let since = if self.tip == Tip::Carried { u64::MAX } else { self.since };
        let heals = self.heals.iter().map(|heal| heal.ordinal);
        self.stamps.iter().map(|seen| seen.ordinal).chain(heals).fold(since, u64::min)
    }
}
