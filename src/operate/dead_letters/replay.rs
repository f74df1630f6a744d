//! Waits until everything written has arrived, looks at a letter's key in all regions, and acts on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::decide::{Case, Decision, Images};
use super::{Fate, Letter, Replayed};
use crate::control::SavedLetter;
use crate::fault::{Fault, FaultKind};
use crate::operate::wait::everywhere;
use crate::operate::{Arrival, OperateError, PhysicalReplica, TableReplicas};
use crate::protocol::{Body, Fingerprint, Item, KeyId, STAMP, Visible, Write};
use crate::replica::Replica;

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
            (Some(newer), _) => {
                (Fate::Superseded, format!("a newer write of the key is in letter {}", newer.id))
            }
            (None, Some(lacking)) => (Fate::Undecided, lacking.clone()),
            (None, None) => letter.replay(table, before.get(&letter.id), &mut touched).await?,
        };
        match fate {
            Fate::Replayed | Fate::Superseded => letter.drop().await?,
            Fate::Refused if why != letter.reason => letter.save_reason(&why).await?,
            Fate::Refused | Fate::Undecided => {}
        }
        replayed.push(Replayed { letter: letter.clone(), fate, why });
    }
    Ok(replayed)
}

/// Waits until everything written to a table anywhere is everywhere; returns what is lacking at the deadline.
async fn drain(table: &TableReplicas, deadline: Instant) -> Result<Option<String>, OperateError> {
    let arrivals = everywhere(table, deadline).await?;
    let late = arrivals.iter().filter(|arrival| !arrival.is_complete());
    let lacking: BTreeSet<String> =
        late.map(|Arrival { origin, peer, .. }| format!("{origin} → {peer}")).collect();
    let pairs = lacking.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    Ok((!lacking.is_empty()).then(|| {
        format!("not everything written is known to have arrived ({pairs}): do the agents run, and reach all regions?")
    }))
}

async fn look(table: &TableReplicas, key: &Item) -> Result<Images, OperateError> {
    let mut held = Images::new();
    for replica in &table.replicas {
        let PhysicalReplica { region, name, .. } = replica;
        let get = region.tables.get_item().table_name(name).consistent_read(true);
        let answer = get.set_key(Some(key.clone())).send().await.map_err(|error| replica.at(error))?;
        held.insert(region.name.clone(), answer.item);
    }
    Ok(held)
}

/// Opens a replica for writing.
fn open(replica: &PhysicalReplica) -> Replica {
    let seed = fastrand::Rng::new().u64(..);
    Replica::new(&replica.region, replica.name.clone(), Arc::default(), seed)
}

/// The result for a letter, and why.
type Outcome = (Fate, String);

fn raced() -> Outcome {
    (Fate::Undecided, "the item was written just now: replay it again".to_owned())
}

/// A call that the service will never take because of the item is an outcome; any other fault is an error.
fn refusal(fault: Fault, replica: &PhysicalReplica) -> Result<Outcome, OperateError> {
    match fault.kind {
        FaultKind::Invalid => Ok((Fate::Refused, fault.to_string())),
        _ => Err(replica.at(fault)),
    }
}

impl Letter {
    /// `touched` are the keys that other letters have had replicated from their origin.
    async fn replay(
        &self,
        table: &TableReplicas,
        before: Option<&Images>,
        touched: &mut BTreeSet<KeyId>,
    ) -> Result<Outcome, OperateError> {
        let Self { origin, peer, saved: SavedLetter { key, version, is_delete, .. }, .. } = self;
        let (Some(at_origin), Some(at_peer)) = (table.replica_in(origin), table.replica_in(peer)) else {
            return Ok((Fate::Undecided, format!("the table has no replica in {origin} or {peer} any more")));
        };
        let (new, old) = self.images().await?;
        let held = look(table, key).await?;
        let stands = |region| held.get(region).and_then(Option::as_ref);
        let shown = stands(origin).map(|item| table.config.selections.shows(peer, key, item));
        let for_peer = match &shown {
            Some(Visible::Item(item)) => Some(item.as_ref()),
            Some(Visible::Nothing | Visible::Never) | None => None,
        };
        let id = KeyId::of(key);
        let case = Case {
            origin,
            peer,
            version,
            is_delete: *is_delete,
            new: new.as_ref(),
            old: old.as_ref(),
            held: &held,
            for_peer,
            has_changed: before != Some(&held),
            is_touched: touched.contains(&id),
        };
        let decision = case.decide();
        let is_touch = decision == Decision::TouchOrigin;
        let outcome = match decision {
            Decision::Not(fate, why) => (fate, why),
            Decision::DeleteAtPeer => self.delete(at_peer, stands(peer)).await?,
            Decision::Touched => self.refused_by(at_peer, new).await?.unwrap_or_else(|| self.replicated()),
            Decision::TouchOrigin => match self.refused_by(at_peer, new.clone()).await? {
                Some(refused) => refused,
                None => self.touch(at_origin, new, stands(origin)).await?,
            },
        };
        if is_touch && outcome.0 == Fate::Replayed {
            touched.insert(id);
        }
        Ok(outcome)
    }

    /// Deletes what is stored at the peer, if it is unchanged.
    async fn delete(&self, peer: &PhysicalReplica, stands: Option<&Item>) -> Result<Outcome, OperateError> {
        let stands = stands.cloned().unwrap_or_default();
        let deleted = open(peer).delete_exactly(&self.saved.key, &stands).await;
        let is_done = deleted.map_err(|fault| peer.at(fault))?;
        Ok(if is_done { (Fate::Replayed, format!("deleted in {}", self.peer)) } else { raced() })
    }

    /// The peer's reason, if it would still not take the write.
    async fn refused_by(
        &self,
        peer: &PhysicalReplica,
        new: Option<Item>,
    ) -> Result<Option<Outcome>, OperateError> {
        match open(peer).probe(&self.write(new.unwrap_or_default())).await {
            Ok(()) => Ok(None),
            Err(fault) => refusal(fault, peer).map(Some),
        }
    }

    /// Has what is stored at the origin replicated again, if it is unchanged.
    async fn touch(
        &self,
        origin: &PhysicalReplica,
        new: Option<Item>,
        stands: Option<&Item>,
    ) -> Result<Outcome, OperateError> {
        let (write, stands) = (self.write(new.unwrap_or_default()), stands.cloned().unwrap_or_default());
        match open(origin).touch(&write, &stands).await {
            Ok(true) => Ok(self.replicated()),
            Ok(false) => Ok(raced()),
            Err(fault) => refusal(fault, origin),
        }
    }

    fn replicated(&self) -> Outcome {
        (Fate::Replayed, format!("replicated again from {}", self.origin))
    }

    /// The letter's write, in the form that a stamp describes.
    fn write(&self, mut item: Item) -> Write {
        item.remove(STAMP);
        let SavedLetter { key, version, .. } = &self.saved;
        let fingerprint = Fingerprint::of(&item);
        let body = Body::Put(item.into(), fingerprint);
        // Its base is not stored; its version is as long.
        let base = Some(version.clone());
        Write { key: key.clone(), version: version.clone(), base, body, replaced: None, home: None }
    }
}
