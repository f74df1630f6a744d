//! Which writes a record asks for: the last-writer-wins decision.

use std::sync::Arc;

use super::action::{Action, Body, Home, Past, Write};
use super::classify::Kind;
use super::key_state::{Healing, KeyState, Tip};
use super::record::Record;
use super::stamp::{Stamp, Stamped};
use super::{Fingerprint, Floors, Hlc, Item, KeyId, Origin, STAMP, Version};

/// What a record turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Unchanged,
    LocalPut,
    LocalDelete,
    EchoPut,
    EchoMark,
    EchoDelete,
}

impl Verdict {
    /// Whether an application made the write.
    pub fn is_local(self) -> bool {
        matches!(self, Self::LocalPut | Self::LocalDelete)
    }

    /// Whether the record is the echo of an agent's write.
    pub fn is_echo(self) -> bool {
        matches!(self, Self::EchoPut | Self::EchoMark | Self::EchoDelete)
    }
}

/// A local write that lost to one which was not made on top of it.
///
/// Every conflict is found once: in the region of the write that lost, by the record that shows the winner in
/// its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    pub key: Item,
    pub lost: Version,
    pub won: Version,
    /// The image that lost; `None` for a delete, or if a third write had already replaced it.
    pub loser: Option<Item>,
    /// The image that won; `None` for a delete.
    pub winner: Option<Item>,
}

/// What a record was, and what to do about it.
#[expect(clippy::struct_excessive_bools, reason = "each is a finding of its own")]
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    pub verdict: Verdict,
    pub actions: Vec<Action>,
    pub conflict: Option<Conflict>,
    /// A replicated write of this version has arrived. Older writes made here before it need not be pushed
    /// any more to where it was made.
    pub arrived: Option<(KeyId, Version)>,
    /// Whether something newer was here before, and is about to be put back.
    pub is_stale: bool,
    /// Whether what stood before it was older than something that had been here: nobody who is told what stands knows it.
    pub was_stale: bool,
    /// Whether what has arrived was made by a seeder.
    pub is_seed: bool,
    /// It is an application's put-back, and only the floors show that. Whoever reads the record again must
    /// judge it by the same floors, so they must be durable before anything is done about it.
    pub by_floors: bool,
}

impl Judgement {
    fn new(verdict: Verdict, actions: Vec<Action>) -> Self {
        Self {
            verdict,
            actions,
            conflict: None,
            arrived: None,
            is_stale: false,
            was_stale: false,
            is_seed: false,
            by_floors: false,
        }
    }

    /// Records that it is a replicated write that has arrived, according to its stamp.
    fn come(self, reader: &Reader<'_>, stamp: &Stamp) -> Self {
        Self { arrived: Some((reader.key, stamp.version.clone())), is_seed: stamp.hold().is_some(), ..self }
    }

    fn nothing(verdict: Verdict) -> Self {
        Self::new(verdict, Vec::new())
    }
}

/// The context in which a record is read.
pub(super) struct Reader<'a> {
    pub(super) own: &'a Origin,
    pub(super) floors: &'a Floors,
    pub(super) key: KeyId,
    pub(super) ordinal: u64,
    pub(super) record_millis: u64,
    /// An empty memory would give the record the same classification.
    pub(super) is_plain: bool,
    pub(super) stamp_in_place: bool,
}

impl Reader<'_> {
    /// The state of a key after this record, with `version` as its highest.
    fn state(&self, version: Version, tip: Tip, known: Option<&KeyState>, is_fresh: bool) -> KeyState {
        KeyState {
            latest: version,
            tip,
            stamps: known.map(|state| state.stamps.clone()).unwrap_or_default(),
            heals: known.map(|state| state.heals.clone()).unwrap_or_default(),
            since: known.filter(|_| !is_fresh).map_or(self.ordinal, |state| state.since),
        }
    }
}

/// Decides on one record, and what to remember of its key afterwards.
pub(super) fn resolve(
    reader: &Reader<'_>,
    record: Record,
    kind: Kind,
    known: Option<&KeyState>,
) -> (Judgement, Option<KeyState>) {
    match kind {
        Kind::Unchanged => (Judgement::nothing(Verdict::Unchanged), known.cloned()),
        Kind::LocalPut { is_stray } => local_put(reader, record, is_stray, known),
        Kind::LocalDelete => local_delete(reader, record, known),
        Kind::ReplicatedPut(stamp) => replicated_put(reader, record, &stamp, known),
        Kind::ReplicatedMark(stamp) => replicated_mark(reader, record, &stamp, known),
        // Its mark already said that the key is absent.
        Kind::ReplicatedDelete => (Judgement::nothing(Verdict::EchoDelete), known.cloned()),
    }
}

fn local_put(
    reader: &Reader<'_>,
    record: Record,
    is_stray: bool,
    known: Option<&KeyState>,
) -> (Judgement, Option<KeyState>) {
    let (version, base, state) = next_local(reader, &record, known, Tip::Bare);
    let mut item = record.new.unwrap_or_default();
    let beside = item.remove(STAMP);
    let fingerprint = Fingerprint::of(&item);
    let write = Write {
        key: record.key,
        version,
        base,
        body: Body::Put(Arc::new(item), fingerprint),
        replaced: record.old.map(Arc::new),
        home: Some(Home { fingerprint, beside }),
    };
    let mut actions = Vec::with_capacity(2);
    if is_stray || reader.stamp_in_place {
        actions.push(Action::Restamp(write.clone()));
    }
    actions.push(Action::Push(write));
    (Judgement::new(Verdict::LocalPut, actions), Some(state))
}

fn local_delete(
    reader: &Reader<'_>,
    record: Record,
    known: Option<&KeyState>,
) -> (Judgement, Option<KeyState>) {
    let (version, base, state) = next_local(reader, &record, known, Tip::Absent);
    let push = Action::Push(Write {
        key: record.key,
        version,
        base,
        body: Body::Delete,
        replaced: record.old.map(Arc::new),
        home: None,
    });
    (Judgement::new(Verdict::LocalDelete, vec![push]), Some(state))
}

/// The version of a local write, the version it was based on, and the key's state after it.
///
/// The same on every replay: it depends on the record's time, the stamps in its two images, and the memory,
/// which is a function of the records before it.
fn next_local(
    reader: &Reader<'_>,
    record: &Record,
    known: Option<&KeyState>,
    tip: Tip,
) -> (Version, Option<Version>, KeyState) {
    let old = record.old.as_ref().map_or(Stamped::No, Stamped::read);
    let new = record.new.as_ref().map_or(Stamped::No, Stamped::read);
    let time = Hlc::at_millis(reader.record_millis);
    let stamps = [&old, &new].into_iter().filter_map(Stamped::stamp);
    let seen = stamps.clone().map(|stamp| stamp.version.hlc).chain(known.map(|state| state.latest.hlc));
    let hlc = seen.map(Hlc::next).fold(time, Hlc::max);
    let version = Version { hlc, origin: reader.own.clone() };

    let carried = match (&record.old, &old) {
        (Some(image), Stamped::Yes(stamp)) if stamp.is_mark() || stamp.matches(image) => {
            Some(stamp.version.clone())
        }
        _ => None,
    };
    let base =
        carried.or_else(|| known.filter(|state| state.tip != Tip::Stale).map(|state| state.latest.clone()));

    // A version above everything known is the same without the memory.
    let is_fresh = reader.is_plain && known.is_none_or(|state| state.latest.hlc < time);
    let mut state = reader.state(version.clone(), tip, known, is_fresh);
    stamps.for_each(|stamp| state.remember(stamp, reader.ordinal, reader.floors));
    (version, base, state)
}

fn replicated_put(
    reader: &Reader<'_>,
    record: Record,
    stamp: &Stamp,
    known: Option<&KeyState>,
) -> (Judgement, Option<KeyState>) {
    match known.filter(|state| stamp.version < state.latest) {
        // From now on the image states its version itself.
        None => {
            let mut state = reader.state(stamp.version.clone(), Tip::Carried, known, true);
            state.remember_replaced(&record, reader);
            let conflict = conflict(reader.own, record, stamp, known);
            let judgement =
                Judgement { conflict, ..Judgement::nothing(Verdict::EchoPut) }.come(reader, stamp);
            (judgement, (!state.is_plain()).then_some(state))
        }
        Some(state) => heal(reader, Verdict::EchoPut, record, stamp, state),
    }
}

fn replicated_mark(
    reader: &Reader<'_>,
    record: Record,
    mark: &Stamp,
    known: Option<&KeyState>,
) -> (Judgement, Option<KeyState>) {
    let carry_out = |record: &Record| {
        let marked = record.new.clone().unwrap_or_default();
        vec![Action::ApplyDelete { key: record.key.clone(), marked: Arc::new(marked) }]
    };
    match known.filter(|state| mark.version < state.latest) {
        None => {
            let actions = carry_out(&record);
            let mut state = reader.state(mark.version.clone(), Tip::Absent, known, reader.is_plain);
            state.remember_replaced(&record, reader);
            state.remember(mark, reader.ordinal, reader.floors);
            let conflict = conflict(reader.own, record, mark, known);
            let judgement = Judgement { conflict, ..Judgement::new(Verdict::EchoMark, actions) };
            (judgement.come(reader, mark), Some(state))
        }
        // A mark where a newer delete already left nothing: only the mark itself remains to be removed.
        Some(state) if state.tip == Tip::Absent => {
            let mut state = state.clone();
            state.remember(mark, reader.ordinal, reader.floors);
            let actions = carry_out(&record);
            let judgement = Judgement { is_stale: true, ..Judgement::new(Verdict::EchoMark, actions) };
            (judgement.come(reader, mark), Some(state))
        }
        Some(state) => heal(reader, Verdict::EchoMark, record, mark, state),
    }
}

/// An older replicated write replaced a newer version: put that back, once. The stream is the log: if the
/// newer version was a put, its data is the record's OLD image.
fn heal(
    reader: &Reader<'_>,
    verdict: Verdict,
    record: Record,
    stamp: &Stamp,
    state: &KeyState,
) -> (Judgement, Option<KeyState>) {
    let mut next = state.clone();
    next.tip = Tip::Stale;
    next.remember(stamp, reader.ordinal, reader.floors);
    let version = state.latest.clone();
    next.await_heal(Healing { version, millis: reader.record_millis, ordinal: reader.ordinal });
    let body = match (state.tip, record.old) {
        (Tip::Bare | Tip::Carried, Some(mut image)) => {
            image.remove(STAMP);
            let fingerprint = Fingerprint::of(&image);
            Some(Body::Put(Arc::new(image), fingerprint))
        }
        (Tip::Absent, _) => Some(Body::Delete),
        (Tip::Bare | Tip::Carried, None) | (Tip::Stale, _) => None,
    };
    let actions = body.map(|body| {
        let write = Write {
            key: record.key,
            version: state.latest.clone(),
            base: None,
            body,
            replaced: record.new.map(Arc::new),
            home: None,
        };
        let nonces = next.stamps.iter().map(|seen| seen.nonce).collect();
        let heals = next.heals.iter().map(|heal| heal.version.clone()).collect();
        Action::Heal(write, Past { nonces, floors: reader.floors.clone(), heals })
    });
    let judgement = Judgement { is_stale: true, ..Judgement::new(verdict, actions.into_iter().collect()) };
    (judgement.come(reader, stamp), Some(next))
}

impl KeyState {
    /// Remembers the stamp that a replicated write replaced: a copy of that image may be put back.
    fn remember_replaced(&mut self, record: &Record, reader: &Reader<'_>) {
        if let Some(stamp) = record.old.as_ref().and_then(Stamp::read) {
            self.remember(&stamp, reader.ordinal, reader.floors);
        }
    }
}

/// A conflict, if the winner that a record shows was not made on top of the local write that it replaced.
fn conflict(own: &Origin, record: Record, winner: &Stamp, known: Option<&KeyState>) -> Option<Conflict> {
    let known = known.filter(|state| state.tip != Tip::Carried);
    let lost = match known {
        Some(state) => state.latest.clone(),
        None => {
            let old = record.old.as_ref()?;
            let stamp = Stamped::read(old).stamp().filter(|stamp| stamp.matches(old))?.clone();
            // A seed is no write of this region's, whatever its version.
            stamp.hold().is_none().then_some(stamp.version)?
        }
    };
    // A seeder itself reports what it replaces.
    let is_seed = winner.hold().is_some();
    if is_seed || lost.origin != *own || winner.version.origin == *own || winner.base.as_ref() == Some(&lost)
    {
        return None;
    }
    Some(Conflict {
        key: record.key,
        lost,
        won: winner.version.clone(),
        loser: known.is_none_or(|state| state.tip == Tip::Bare).then_some(record.old).flatten(),
        winner: (!winner.is_mark()).then_some(record.new).flatten(),
    })
}
