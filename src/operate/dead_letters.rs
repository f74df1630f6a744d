//! Dead letters: lists them, and replays what is still the newest.
//!
//! **A letter's own write is never made again.** By the time that a person sees it, the peer has
//! forgotten the key: watermarks have passed the letter's version. The peer's agent would take a put
//! of that version for an application that puts an old copy back, and a mark for a stray one, and
//! make either the newest write of all. So a letter only says which key is to be looked at. Where the
//! origin still holds what the letter says, the key is replicated again from there, as a new write
//! with a new version; in all other cases something newer stands, or a person has to decide.
//!
//! First all that was written anywhere has to arrive everywhere, or a delete on its way to the origin
//! would be undone; and a key that changes meanwhile is left alone. What remains is a write made
//! elsewhere in the milliseconds between the last look and the new write: the later of the two wins,
//! as with any other update at the origin, and it is told as a conflict.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use super::wait::everywhere;
use super::{Arrival, OperateError, PhysicalReplica, TableReplicas};
use crate::apply::Replica;
use crate::control::{ControlTable, RowId, SavedLetter};
use crate::fault::{Fault, FaultKind};
use crate::item_json::item_json;
use crate::protocol::{Body, Fingerprint, Item, KeyId, Origin, STAMP, Shown, Stamp, Version, Write};
use crate::region::Region;

/// A write that a peer could not take.
#[derive(Clone, Debug, Serialize)]
pub struct Letter {
    pub id: RowId,
    pub table: String,
    pub origin: Origin,
    pub peer: Origin,
    /// The key, as DynamoDB JSON.
    pub key: Value,
    pub operation: &'static str,
    pub version: String,
    /// The time in its version, in milliseconds since the Unix epoch.
    pub written_millis: u64,
    pub reason: String,
    /// Whose control table has it.
    #[serde(skip)]
    kept_in: Region,
    #[serde(skip)]
    saved: SavedLetter,
}

/// What came of replaying a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The key is replicated again; the letter is gone.
    Replayed,
    /// Nothing was to be done: something newer stands, or this has arrived; the letter is gone.
    Outrun,
    /// The peer would still not take it: the letter stays, with its new reason.
    Refused,
    /// A person has to decide, or an agent to run: the letter stays.
    Undecided,
}

/// One letter, and what came of it.
#[derive(Debug, Serialize)]
pub struct Replayed {
    #[serde(flatten)]
    pub letter: Letter,
    pub fate: Fate,
    pub why: String,
}

/// All letters of some tables, the oldest first.
pub async fn dead_letters(tables: &[TableReplicas]) -> Result<Vec<Letter>, OperateError> {
    let mut letters = Vec::new();
    for replica in tables.iter().flat_map(|table| &table.replicas) {
        let saved = replica.control().dead_letters(&replica.table.name).await;
        let saved = saved.map_err(|fault| replica.at_control(fault))?;
        letters.extend(saved.into_iter().map(|saved| Letter::of(replica, saved)));
    }
    letters.sort_by(|a, b| a.saved.version.cmp(&b.saved.version));
    Ok(letters)
}

impl Letter {
    fn of(replica: &PhysicalReplica, saved: SavedLetter) -> Self {
        Self {
            id: saved.id.clone(),
            table: replica.table.name.clone(),
            origin: replica.region.name.clone(),
            peer: saved.peer.clone(),
            key: item_json(&saved.key),
            operation: if saved.is_delete { "delete" } else { "put" },
            version: saved.version.to_string().trim_end().to_owned(),
            written_millis: saved.version.hlc.millis(),
            reason: saved.reason.clone(),
            kept_in: replica.region.clone(),
            saved,
        }
    }

    /// The image that the write put in place, and the one that it replaced at its origin.
    pub async fn images(&self) -> Result<(Option<Item>, Option<Item>), OperateError> {
        let images = ControlTable::of(&self.kept_in).dead_letter_images(&self.saved).await;
        images.map_err(|fault| self.at_control(fault))
    }

    /// Deletes it, with its images.
    pub async fn drop(&self) -> Result<(), OperateError> {
        let dropped = ControlTable::of(&self.kept_in).delete_dead_letter(&self.saved).await;
        dropped.map_err(|fault| self.at_control(fault))
    }

    fn at_control(&self, fault: Fault) -> OperateError {
        OperateError::at(&self.kept_in, &self.kept_in.control_table, fault)
    }
}

/// Replays the chosen letters of a table; `all` are all that the table has, in every region.
pub async fn replay(
    table: &TableReplicas,
    all: &[Letter],
    chosen: &[Letter],
    timeout: Duration,
) -> Result<Vec<Replayed>, OperateError> {
    let mut replayed = Vec::new();
    let mut before = BTreeMap::new();
    for letter in chosen {
        before.insert(&letter.id, look(table, &letter.saved.key).await?);
    }
    let lacking = drain(table, Instant::now() + timeout).await?;
    let mut touched = BTreeSet::new();
    for letter in chosen {
        let newer = all.iter().filter(|other| other.saved.key == letter.saved.key);
        let newer = newer.max_by(|a, b| a.saved.version.cmp(&b.saved.version));
        let (fate, why) = match (newer.filter(|newer| newer.saved.version > letter.saved.version), &lacking) {
            (Some(newer), _) => (Fate::Outrun, format!("a newer write of the key is in letter {}", newer.id)),
            (None, Some(lacking)) => (Fate::Undecided, lacking.clone()),
            (None, None) => letter.replay(table, before.get(&letter.id), &mut touched).await?,
        };
        match fate {
            Fate::Replayed | Fate::Outrun => letter.drop().await?,
            Fate::Refused if why != letter.reason => letter.save_reason(&why).await?,
            Fate::Refused | Fate::Undecided => {}
        }
        replayed.push(Replayed { letter: letter.clone(), fate, why });
    }
    Ok(replayed)
}

/// Waits until all that was written to a table anywhere is everywhere; if it is not in time, says
/// what is lacking.
async fn drain(table: &TableReplicas, deadline: Instant) -> Result<Option<String>, OperateError> {
    let arrivals = everywhere(table, deadline).await?;
    let late = arrivals.iter().filter(|arrival| !arrival.is_complete());
    let lacking: BTreeSet<String> =
        late.map(|Arrival { origin, peer, .. }| format!("{origin} → {peer}")).collect();
    let pairs = lacking.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    Ok((!lacking.is_empty()).then(|| {
        format!("not all that was written is known to have arrived ({pairs}): do the agents run, and reach all regions?")
    }))
}

/// What each region holds for a key.
type Held = BTreeMap<Origin, Option<Item>>;

async fn look(table: &TableReplicas, key: &Item) -> Result<Held, OperateError> {
    let mut held = Held::new();
    for replica in &table.replicas {
        let PhysicalReplica { region, name, .. } = replica;
        let get = region.tables.get_item().table_name(name).consistent_read(true);
        let answer = get.set_key(Some(key.clone())).send().await.map_err(|error| replica.at(error))?;
        held.insert(region.name.clone(), answer.item);
    }
    Ok(held)
}

/// What a region holds for a key.
enum Standing<'a> {
    Nothing,
    /// An item, or a mark, that says by itself what its version is.
    Stamped(Version),
    /// An application's own.
    Bare(&'a Item),
}

impl<'a> Standing<'a> {
    fn of(item: Option<&'a Item>) -> Self {
        let Some(item) = item else { return Self::Nothing };
        match Stamp::read(item).filter(|stamp| stamp.is_mark() || stamp.matches(item)) {
            Some(stamp) => Self::Stamped(stamp.version),
            None => Self::Bare(item),
        }
    }
}

/// What is to be done about a letter.
#[derive(Debug, PartialEq)]
enum Decision {
    /// Replicate what the origin holds.
    TouchOrigin,
    /// Delete at the peer what the origin's delete did not reach.
    DeleteAtPeer,
    Not(Fate, String),
}

/// A letter's write, and what all regions hold for its key.
struct Case<'a> {
    origin: &'a Origin,
    peer: &'a Origin,
    version: &'a Version,
    is_delete: bool,
    new: Option<&'a Item>,
    old: Option<&'a Item>,
    held: &'a Held,
    /// What the origin holds for the key, as far as it is for the peer.
    for_peer: Option<&'a Item>,
}

impl Case<'_> {
    fn decide(&self) -> Decision {
        let Self { origin, peer, version, is_delete, .. } = *self;
        let outrun = |why: String| Decision::Not(Fate::Outrun, why);
        let undecided = |why: String| Decision::Not(Fate::Undecided, why);
        if !self.held.contains_key(peer) {
            return undecided(format!("the table has no replica in {peer} any more: drop the letter"));
        }
        if !is_delete && self.new.is_none() {
            return undecided("its image has expired: drop the letter".to_owned());
        }
        for region in self.held.keys() {
            match self.standing(region) {
                Standing::Stamped(stands) if stands > *version => {
                    return outrun(format!("something newer stands in {region}"));
                }
                Standing::Stamped(stands) if region == peer && stands == *version => {
                    return outrun(format!("{peer} has it already"));
                }
                _ => {}
            }
        }
        let at_origin = match self.standing(origin) {
            Standing::Bare(_) => self.for_peer.map_or(Standing::Nothing, Standing::Bare),
            standing => standing,
        };
        match at_origin {
            Standing::Nothing if !is_delete => return outrun(format!("deleted in {origin} since")),
            Standing::Bare(item) if is_delete || !same(Some(item), self.new) => {
                return outrun(format!("written again in {origin} since"));
            }
            // Nothing can tell whether it may be overwritten: an update keeps the stamp.
            Standing::Stamped(stands) if stands < *version => {
                return undecided(format!(
                    "{origin} itself holds something older: write the item there again, and drop the letter"
                ));
            }
            Standing::Nothing | Standing::Bare(_) | Standing::Stamped(_) => {}
        }
        if peer == origin {
            return outrun(format!("{origin} holds it"));
        }
        for region in self.held.keys().filter(|region| *region != origin) {
            // What the write was made on top of is older. All else can't be compared.
            if let Standing::Bare(item) = self.standing(region)
                && !same(Some(item), self.old)
                && (is_delete || !same(Some(item), self.new))
            {
                return undecided(format!(
                    "{region} holds a write of its own that {origin} never took: write the right item again in \
                     either, and drop the letter"
                ));
            }
        }
        match self.standing(peer) {
            _ if !is_delete => Decision::TouchOrigin,
            Standing::Nothing => outrun(format!("{peer} has nothing left to delete")),
            _ => Decision::DeleteAtPeer,
        }
    }

    fn standing(&self, region: &Origin) -> Standing<'_> {
        Standing::of(self.held.get(region).and_then(Option::as_ref))
    }
}

/// A replica, to be written to.
fn open(replica: &PhysicalReplica) -> Replica {
    let seed = fastrand::Rng::new().u64(..);
    Replica::new(&replica.region, replica.name.clone(), Arc::default(), seed)
}

/// Whether both are there, and hold the same, the stamps aside.
fn same(a: Option<&Item>, b: Option<&Item>) -> bool {
    a.is_some() && a.map(Fingerprint::of) == b.map(Fingerprint::of)
}

impl Letter {
    async fn replay(
        &self,
        table: &TableReplicas,
        before: Option<&Held>,
        touched: &mut BTreeSet<KeyId>,
    ) -> Result<(Fate, String), OperateError> {
        let SavedLetter { key, version, is_delete, .. } = &self.saved;
        let (new, old) = self.images().await?;
        let held = look(table, key).await?;
        let Self { origin, peer, .. } = self;
        let at_origin = held.get(origin).and_then(Option::as_ref);
        let shown = at_origin.map(|item| table.config.selections.shows(peer, key, item));
        let for_peer = match &shown {
            Some(Shown::Item(item)) => Some(item.as_ref()),
            Some(Shown::Nothing | Shown::Never) | None => None,
        };
        let case = Case {
            origin,
            peer,
            version,
            is_delete: *is_delete,
            new: new.as_ref(),
            old: old.as_ref(),
            held: &held,
            for_peer,
        };
        let id = KeyId::of(key);
        let decision = match case.decide() {
            // Another letter of this write has done it, a moment ago.
            Decision::Not(Fate::Outrun, _) if touched.contains(&id) => Decision::TouchOrigin,
            // A delete leaves no trace of its time.
            Decision::TouchOrigin | Decision::DeleteAtPeer
                if before != Some(&held) && !touched.contains(&id) =>
            {
                Decision::Not(
                    Fate::Undecided,
                    "the item changed during the replay: replay it again".to_owned(),
                )
            }
            decision => decision,
        };
        let (Some(at_origin), Some(at_peer)) = (table.replica_in(origin), table.replica_in(peer)) else {
            return Ok((Fate::Undecided, format!("the table has no replica in {origin} or {peer} any more")));
        };
        let stands = |region: &Origin| held.get(region).cloned().flatten().unwrap_or_default();
        let is_done = match decision {
            Decision::Not(fate, why) => return Ok((fate, why)),
            Decision::DeleteAtPeer => {
                let deleted = open(at_peer).delete_exactly(key, &stands(peer)).await;
                deleted.map_err(|fault| at_peer.at(fault))?
            }
            Decision::TouchOrigin => {
                let write = self.write(new.unwrap_or_default());
                match open(at_peer).probe(&write).await {
                    Ok(()) => {}
                    Err(fault) if fault.kind == FaultKind::Invalid => {
                        return Ok((Fate::Refused, fault.to_string()));
                    }
                    Err(fault) => return Err(at_peer.at(fault)),
                }
                if touched.contains(&id) {
                    return Ok((Fate::Replayed, format!("replicated again from {origin}")));
                }
                match open(at_origin).touch(&write, &stands(origin)).await {
                    Ok(is_done) => is_done,
                    Err(fault) if fault.kind == FaultKind::Invalid => {
                        return Ok((Fate::Refused, fault.to_string()));
                    }
                    Err(fault) => return Err(at_origin.at(fault)),
                }
            }
        };
        Ok(match (is_done, is_delete) {
            (false, _) => {
                (Fate::Undecided, "the item was written at this very moment: replay it again".to_owned())
            }
            (true, true) => (Fate::Replayed, format!("deleted in {peer}")),
            (true, false) => {
                touched.insert(id);
                (Fate::Replayed, format!("replicated again from {origin}"))
            }
        })
    }

    /// The letter's write, as a stamp sees it.
    fn write(&self, mut item: Item) -> Write {
        item.remove(STAMP);
        let SavedLetter { key, version, .. } = &self.saved;
        let fingerprint = Fingerprint::of(&item);
        let body = Body::Put(item.into(), fingerprint);
        // What it was based on is not kept; its version is as long.
        let base = Some(version.clone());
        Write { key: key.clone(), version: version.clone(), base, body, replaced: None, home: None }
    }

    async fn save_reason(&self, reason: &str) -> Result<(), OperateError> {
        let saved = ControlTable::of(&self.kept_in).save_reason(&self.saved, reason).await;
        saved.map_err(|fault| self.at_control(fault))
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::AttributeValue;

    use super::*;
    use crate::protocol::{Guard, Hlc, Nonce};

    fn origin(name: &str) -> Origin {
        name.parse().expect("a legal name")
    }

    fn version(millis: u64, region: &str) -> Version {
        Version { hlc: Hlc::at_millis(millis), origin: origin(region) }
    }

    fn bare(value: &str) -> Item {
        Item::from([("v".to_owned(), AttributeValue::S(value.to_owned()))])
    }

    fn stamped(value: &str, millis: u64, region: &str) -> Item {
        let item = bare(value);
        let body = Body::Put(item.clone().into(), Fingerprint::of(&item));
        stamp(item, body, millis, region)
    }

    fn marked(value: &str, millis: u64, region: &str) -> Item {
        stamp(bare(value), Body::Delete, millis, region)
    }

    fn stamp(mut item: Item, body: Body, millis: u64, region: &str) -> Item {
        let version = version(millis, region);
        let write = Write {
            key: Item::new(),
            version: version.clone(),
            base: None,
            body,
            replaced: None,
            home: None,
        };
        let nonce = Nonce::new(&version.origin, 7);
        item.insert(STAMP.to_owned(), AttributeValue::S(write.stamp(nonce, &Guard::Absent).to_string()));
        item
    }

    /// What becomes of a letter from `a` to `b` of version 9, which replaced "old" by "new" (or
    /// deleted it), where `a`, `b` and `c` hold these.
    fn decide(is_delete: bool, held: [Option<Item>; 3]) -> Result<bool, Fate> {
        let [origin, peer, _] = ["a", "b", "c"].map(origin);
        let held: Held = ["a", "b", "c"].map(self::origin).into_iter().zip(held).collect();
        let (new, old) = (bare("new"), bare("old"));
        let version = version(9, "a");
        let new = (!is_delete).then_some(&new);
        let case = Case {
            origin: &origin,
            peer: &peer,
            version: &version,
            is_delete,
            new,
            old: Some(&old),
            held: &held,
            for_peer: held[&origin].as_ref(),
        };
        match case.decide() {
            Decision::TouchOrigin => Ok(false),
            Decision::DeleteAtPeer => Ok(true),
            Decision::Not(fate, _) => Err(fate),
        }
    }

    #[test]
    fn a_put_is_replayed_only_where_its_origin_still_holds_it_and_nothing_newer_may_stand() {
        let new = || Some(bare("new"));
        for (held, expected) in [
            ([new(), None, None], Ok(false)),
            ([Some(stamped("new", 9, "a")), None, Some(stamped("new", 9, "a"))], Ok(false)),
            ([new(), Some(stamped("old", 5, "c")), Some(stamped("new", 9, "a"))], Ok(false)),
            ([new(), Some(bare("old")), Some(stamped("new", 9, "a"))], Ok(false)),
            // The peer has got it.
            ([new(), Some(stamped("new", 9, "a")), None], Err(Fate::Outrun)),
            // Something newer, anywhere.
            ([new(), Some(stamped("x", 10, "c")), None], Err(Fate::Outrun)),
            ([new(), Some(marked("old", 10, "c")), None], Err(Fate::Outrun)),
            ([new(), None, Some(stamped("x", 9, "b"))], Err(Fate::Outrun)),
            ([Some(stamped("new", 10, "c")), None, None], Err(Fate::Outrun)),
            ([Some(bare("x")), None, None], Err(Fate::Outrun)),
            // Deleted since: nothing brings it back.
            ([None, None, None], Err(Fate::Outrun)),
            ([None, Some(bare("old")), Some(stamped("new", 9, "a"))], Err(Fate::Outrun)),
            // What can't be compared is left alone.
            ([new(), Some(bare("x")), None], Err(Fate::Undecided)),
            ([new(), None, Some(bare("x"))], Err(Fate::Undecided)),
            ([Some(stamped("x", 5, "c")), None, None], Err(Fate::Undecided)),
        ] {
            assert_eq!(decide(false, held.clone()), expected, "{held:?}");
        }
    }

    #[test]
    fn a_delete_is_replayed_only_onto_what_is_older() {
        for (held, expected) in [
            ([None, Some(stamped("old", 5, "c")), None], Ok(true)),
            ([None, Some(bare("old")), None], Ok(true)),
            ([None, None, None], Err(Fate::Outrun)),
            ([Some(bare("old")), Some(bare("old")), None], Err(Fate::Outrun)),
            ([None, Some(stamped("x", 10, "c")), None], Err(Fate::Outrun)),
            ([None, Some(bare("old")), Some(stamped("x", 10, "c"))], Err(Fate::Outrun)),
            ([None, Some(bare("x")), None], Err(Fate::Undecided)),
            ([None, Some(bare("old")), Some(bare("x"))], Err(Fate::Undecided)),
            ([Some(stamped("old", 5, "c")), Some(bare("old")), None], Err(Fate::Undecided)),
        ] {
            assert_eq!(decide(true, held.clone()), expected, "{held:?}");
        }
    }
}
