//! Whose write a stream record shows: an application's, or an agent's.

use super::key_state::{KeyState, Tip};
use super::record::{Record, same_data};
use super::stamp::{Stamp, Stamped};
use super::{Floors, Item, Origin, STAMP};

/// What a record shows.
#[derive(Debug, PartialEq)]
pub(super) enum Kind {
    /// No data changed: an agent set a stamp beside what an application had written since. Or nothing
    /// changed; DynamoDB writes no such record, but the embedded engine does.
    Unchanged,
    /// An agent put the new image here.
    ReplicatedPut(Stamp),
    /// An agent marked the item for deletion, or left a bare mark where there was none.
    ReplicatedMark(Stamp),
    /// This replica's agent applied the delete of a mark.
    ReplicatedDelete,
    /// An application's put or update. `is_stray` if it carried a stamp that must not stay: a mark, one that
    /// no agent wrote, or the stamp of an old copy that was put back as it was, which would later pass for
    /// the agent's own.
    LocalPut { is_stray: bool },
    /// An application's delete, or a TTL expiry.
    LocalDelete,
}

/// Distinguishes an agent's write from an application's, which may keep the stamp (UpdateItem), drop it
/// (PutItem), put back an old copy that carries an old stamp, or delete.
pub(super) fn classify(record: &Record, known: Option<&KeyState>, own: &Origin, floors: &Floors) -> Kind {
    let Some(new) = &record.new else {
        return match &record.old {
            None => Kind::Unchanged,
            Some(old) => classify_remove(old, known),
        };
    };
    if record.old.as_ref() == Some(new) {
        return Kind::Unchanged;
    }
    let new_stamp = match Stamped::read(new) {
        Stamped::No => return Kind::LocalPut { is_stray: false },
        Stamped::Malformed => return Kind::LocalPut { is_stray: true },
        Stamped::Yes(stamp) => stamp,
    };
    let old_stamp = record.old.as_ref().map_or(Stamped::No, Stamped::read);
    // Every write of an agent is conditional on a lower stamp, and its nonce is new.
    let rises = old_stamp.stamp().is_none_or(|old| old.version < new_stamp.version);
    let agent_could = rises && !is_copy(record, new, &new_stamp, &old_stamp, known, own, floors);

    // The agent sets the stamp of its own write beside something newer, which may be the same data again.
    let is_beside = agent_could
        && new_stamp.version.origin == *own
        && record.old.as_ref().is_some_and(|old| same_data(old, new));
    let is_older = |state: &KeyState| state.tip == Tip::Bare && new_stamp.version < state.latest;

    if new_stamp.is_mark() {
        let data_kept = match &record.old {
            Some(old) => same_data(old, new),
            None => new.keys().all(|name| name == STAMP || record.key.contains_key(name)),
        };
        if agent_could && data_kept {
            Kind::ReplicatedMark(new_stamp)
        } else {
            Kind::LocalPut { is_stray: true }
        }
    } else if !new_stamp.matches(new) {
        let is_known = known.is_none_or(|state| new_stamp.version <= state.latest);
        if is_beside && is_known { Kind::Unchanged } else { Kind::LocalPut { is_stray: false } }
    } else if is_beside && known.is_some_and(is_older) {
        Kind::Unchanged
    } else if agent_could {
        Kind::ReplicatedPut(new_stamp)
    } else {
        Kind::LocalPut { is_stray: true }
    }
}

fn classify_remove(old: &Item, known: Option<&KeyState>) -> Kind {
    let marked = Stamped::read(old).stamp().filter(|stamp| stamp.is_mark()).cloned();
    let applies_it = marked.is_some_and(|mark| {
        known.is_none_or(|state| state.tip == Tip::Absent || state.latest <= mark.version)
    });
    if applies_it { Kind::ReplicatedDelete } else { Kind::LocalDelete }
}

/// Whether a stamp was set elsewhere, or was in this table before, so that only an application's put-back can
/// show it: its nonce is another region's, or is remembered, or its version can no longer arrive.
fn is_copy(
    record: &Record,
    new: &Item,
    stamp: &Stamp,
    old_stamp: &Stamped,
    known: Option<&KeyState>,
    own: &Origin,
    floors: &Floors,
) -> bool {
    // A stamp that a heal may still bring is not a copy's, whatever the floors say.
    let may_heal = |state: &KeyState| state.may_heal(&stamp.version, floors.before(own));
    let is_late = floors.passed(&stamp.version) && !known.is_some_and(may_heal);
    match known {
        _ if !stamp.nonce.is_of(own) => true,
        Some(state) if state.has_seen(stamp.nonce) => true,
        // A seed comes late, and may have the version of one of this region's own writes.
        _ if stamp.hold().is_some() => floors.passed(stamp.comes_until()),
        // An own version is that of a heal, which replaces what another agent wrote, or of a stamp in place.
        // A rebuild that starts between the two may lack the memory that asked for it.
        _ if stamp.version.origin == *own => {
            let Some(old) = &record.old else { return true };
            let heals = !is_late && old_stamp.stamp().is_some_and(|below| below.fits(old, &record.key));
            // Beside an older replicated write, which waits for its heal, it sets no stamp of another version.
            let is_stale = known.is_some_and(|state| state.tip == Tip::Stale);
            let stamps_in_place = !stamp.is_mark() && same_data(old, new) && !(is_late && is_stale);
            !heals && !stamps_in_place
        }
        _ => is_late,
    }
}
