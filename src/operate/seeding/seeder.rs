//! Reads keys in all regions, and makes their seeds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::hold::{Hold, pass};
use super::{SeedChange, SeedError, SeedOptions, SeedPhase, SeedProgress, Seeded, Settled};
use crate::capacity::{Budget, write_units};
use crate::clock::wall_millis;
use crate::config::{Conflicts, Tuning};
use crate::contained::joined;
use crate::control::ConflictTable;
use crate::fault::{Fault, persist};
use crate::item_json::item_json;
use crate::log_key::log_key;
use crate::operate::TableReplicas;
use crate::operate::scanned::ScannedReplica;
use crate::protocol::{
    Body, Conflict, Fingerprint, Hlc, Item, Origin, STAMP, Seed, Seeding, Stamp, Version, seed,
};
use crate::region::Region;
use crate::replica::{AttributeNames, Outcome, Replica};

/// How many seeds are written at once, over all regions.
const WRITES_AT_ONCE: usize = 64;
/// How many keys are read at once in each region.
const KEYS_AT_ONCE: usize = 100;

/// Where a region's copies are written.
struct Writer {
    region: Region,
    replica: Replica,
    budget: Budget,
}

/// Seeds one table.
pub(super) struct Seeder {
    pub(super) table: TableReplicas,
    pub(super) options: SeedOptions,
    /// In the order in which their items win, where no version decides.
    pub(super) replicas: Arc<[ScannedReplica]>,
    pub(super) tuning: Tuning,
    to: Vec<Origin>,
    writers: BTreeMap<Origin, Writer>,
    names: Arc<AttributeNames>,
    writes: Semaphore,
    began: Instant,
    state: Mutex<State>,
}

struct State {
    result: Seeded,
    phase: SeedPhase,
}

/// A key, and what each region holds.
type KeyAcrossRegions = (Item, Vec<(Origin, Option<Item>)>);

/// A key on which regions disagree, and a short trace of what they hold.
pub(super) struct Suspect {
    key: Item,
    traces: Vec<Trace>,
}

/// Distinguishes items: by their data, and their stamp attribute.
type Trace = Option<(Fingerprint, Option<AttributeValue>)>;

fn traces(items: &[(Origin, Option<Item>)]) -> Vec<Trace> {
    let trace = |item: &Item| (Fingerprint::of(item), item.get(STAMP).cloned());
    items.iter().map(|(_, item)| item.as_ref().map(trace)).collect()
}

impl Seeder {
    pub(super) fn new(
        table: &TableReplicas,
        replicas: Arc<[ScannedReplica]>,
        tuning: &Tuning,
        options: &SeedOptions,
    ) -> Self {
        let mut writers = BTreeMap::new();
        let names = Arc::new(AttributeNames::default());
        for replica in &*replicas {
            let (region, seed) = (replica.region.clone(), fastrand::Rng::new().u64(..));
            let target = Replica::new(&region, replica.table.clone(), Arc::clone(&names), seed);
            let budget = Budget::new(options.write_units);
            writers.insert(region.name.clone(), Writer { region, replica: target, budget });
        }
        let to = writers.keys().filter(|name| options.to.is_empty() || options.to.contains(name));
        let result = Seeded { table: table.name().to_owned(), dry_run: options.dry_run, ..Seeded::default() };
        Self {
            to: to.cloned().collect(),
            writers,
            names,
            replicas,
            table: table.clone(),
            tuning: tuning.clone(),
            options: options.clone(),
            writes: Semaphore::new(WRITES_AT_ONCE),
            began: Instant::now(),
            state: Mutex::new(State { result, phase: SeedPhase::WaitingForAgents }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(&self, phase: SeedPhase) {
        self.state().phase = phase;
    }

    pub(super) fn has_read(&self, items: usize) {
        self.state().result.items_read += items as u64;
    }

    pub(super) fn progress(&self) -> SeedProgress {
        let state = self.state();
        SeedProgress {
            table: self.table.name().to_owned(),
            phase: state.phase,
            items_read: state.result.items_read,
            estimate: self.replicas.iter().map(|replica| replica.estimate).sum(),
            copies: state.result.seeded.values().sum(),
            since: self.began,
        }
    }

    /// Raises a hold, except in a dry run; from then on keys may be seeded.
    pub(super) async fn raise(&self) -> Result<Option<Arc<Hold>>, SeedError> {
        self.enter(SeedPhase::WaitingForAgents);
        let SeedOptions { dry_run, patience, .. } = self.options;
        let hold = if dry_run {
            None
        } else {
            Some(Arc::new(Hold::raise(&self.table, &self.tuning, patience).await?))
        };
        self.enter(SeedPhase::Seeding);
        Ok(hold)
    }

    /// Releases a hold, once all that share it have ended.
    pub(super) async fn release(&self, hold: Option<Arc<Hold>>) -> Result<(), SeedError> {
        if let Some(hold) = hold.and_then(Arc::into_inner) {
            self.enter(SeedPhase::Ending);
            hold.release().await?;
        }
        Ok(())
    }

    /// The result.
    pub(super) fn result(&self, complete: bool) -> Seeded {
        let mut result = self.state().result.clone();
        let read = self.replicas.iter().map(|of| (of.region.name.clone(), of.budget.used()));
        let wrote = self.writers.iter().map(|(name, writer)| (name.clone(), writer.budget.used()));
        (result.read_units, result.write_units) = (read.collect(), wrote.collect());
        result.complete = complete;
        result.seconds = self.began.elapsed().as_secs_f64();
        result
    }

    /// Waits until everything written before the call is everywhere.
    pub(super) async fn pass(&self, hold: Option<&Hold>) -> Result<(), SeedError> {
        if let Some(hold) = hold {
            return hold.pass(self.options.patience).await;
        }
        pass(&self.table, self.options.patience).await
    }

    /// Finds the keys on which regions disagree. `known` is what one of the replicas has just shown for each
    /// of them.
    pub(super) async fn find(
        &self,
        hold: Option<&Arc<Hold>>,
        keys: Vec<Item>,
        known: Option<(usize, Vec<Item>)>,
    ) -> Result<Vec<Suspect>, SeedError> {
        let mut suspects = Vec::new();
        let (source, mut shown) = known.map_or((None, Vec::new()), |(source, items)| (Some(source), items));
        let mut keys = keys;
        while !keys.is_empty() {
            let rest = keys.split_off(keys.len().min(KEYS_AT_ONCE));
            let shown_rest = shown.split_off(shown.len().min(KEYS_AT_ONCE));
            for (key, items) in self.look(keys, source.map(|source| (source, shown))).await? {
                // If nothing is copied, a later source shows again what an earlier one has shown.
                let is_repeated = items.iter().take(source.unwrap_or(0)).any(|(_, item)| item.is_some());
                if (hold.is_some() || !is_repeated) && self.differs(hold, &key, &items) {
                    suspects.push(Suspect { key, traces: traces(&items) });
                }
            }
            (keys, shown) = (rest, shown_rest);
        }
        Ok(suspects)
    }

    /// Settles the keys on which regions still disagree after the agents have confirmed that everything is
    /// everywhere, unless something has changed: then it was on its way, or being fixed.
    pub(super) async fn settle(
        self: &Arc<Self>,
        hold: Option<&Arc<Hold>>,
        suspects: Vec<Suspect>,
    ) -> Result<(), SeedError> {
        if suspects.is_empty() {
            return Ok(());
        }
        self.pass(hold.map(AsRef::as_ref)).await?;
        for suspects in suspects.chunks(KEYS_AT_ONCE) {
            let keys = suspects.iter().map(|suspect| suspect.key.clone()).collect();
            let mut seeds = Vec::new();
            for (suspect, (key, now)) in suspects.iter().zip(self.look(keys, None).await?) {
                match self.decide(hold, &key, &now) {
                    Seeding::Same => {}
                    Seeding::Marked => self.state().result.marked += 1,
                    Seeding::Copy(copies) | Seeding::Clash(copies) if suspect.traces == traces(&now) => {
                        seeds.extend(copies);
                    }
                    Seeding::Clash(_) | Seeding::Copy(_) => self.state().result.moving += 1,
                }
            }
            self.write_all(hold, seeds).await?;
        }
        Ok(())
    }

    fn differs(&self, hold: Option<&Arc<Hold>>, key: &Item, items: &[(Origin, Option<Item>)]) -> bool {
        match self.decide(hold, key, items) {
            Seeding::Same => false,
            Seeding::Marked => true,
            Seeding::Copy(copies) | Seeding::Clash(copies) => !copies.is_empty(),
        }
    }

    fn decide(&self, hold: Option<&Arc<Hold>>, key: &Item, items: &[(Origin, Option<Item>)]) -> Seeding {
        let number = hold.map_or(1, |hold| hold.number);
        let mut seeding = seed(key, items, &self.table.config.selections, &self.to, number);
        if let Seeding::Copy(copies) | Seeding::Clash(copies) = &mut seeding {
            copies.retain(|seed| !self.options.leave.contains(&SeedChange::of(seed)));
        }
        seeding
    }

    /// Reads keys in all regions concurrently, except in the one that has shown them.
    async fn look(
        &self,
        keys: Vec<Item>,
        known: Option<(usize, Vec<Item>)>,
    ) -> Result<Vec<KeyAcrossRegions>, SeedError> {
        let mut reads = JoinSet::new();
        let keys: Arc<[Item]> = keys.into();
        let (source, shown) = known.map_or((None, Vec::new()), |(source, items)| (Some(source), items));
        for i in (0..self.replicas.len()).filter(|i| Some(*i) != source) {
            let (replicas, keys) = (Arc::clone(&self.replicas), Arc::clone(&keys));
            reads.spawn(async move { (i, replicas[i].get_all(&keys).await) });
        }
        let mut columns: Vec<Vec<Option<Item>>> = self.replicas.iter().map(|_| Vec::new()).collect();
        if let Some(source) = source {
            columns[source] = shown.into_iter().map(Some).collect();
        }
        while let Some(read) = reads.join_next().await {
            let (i, items) = joined(read);
            columns[i] = items?;
        }
        columns.iter().flatten().flatten().for_each(|item| self.names.note(item));
        let mut columns: Vec<_> = columns.into_iter().map(Vec::into_iter).collect();
        let row = |key: &Item| {
            let held = self.replicas.iter().zip(&mut columns);
            (
                key.clone(),
                held.map(|(of, column)| (of.region.name.clone(), column.next().flatten())).collect(),
            )
        };
        Ok(keys.iter().map(row).collect())
    }

    /// Writes seeds, and waits until each is answered.
    async fn write_all(
        self: &Arc<Self>,
        hold: Option<&Arc<Hold>>,
        seeds: Vec<Seed>,
    ) -> Result<(), SeedError> {
        let Some(hold) = hold else {
            for seed in &seeds {
                self.note(seed, None);
            }
            return Ok(());
        };
        let mut writes = JoinSet::new();
        for seed in seeds {
            let (seeder, hold) = (Arc::clone(self), Arc::clone(hold));
            writes.spawn(async move { seeder.write(&hold, &seed).await });
        }
        while let Some(written) = writes.join_next().await {
            joined(written)?;
        }
        Ok(())
    }

    async fn write(&self, hold: &Hold, seed: &Seed) -> Result<(), SeedError> {
        let (Some(writer), Body::Put(item, _)) = (self.writers.get(&seed.region), &seed.write.body) else {
            return Ok(());
        };
        let Ok(_turn) = self.writes.acquire().await else { return Ok(()) };
        let units = write_units(item);
        writer.budget.begin(units).await;
        let key = log_key(&seed.write.key);
        let complain = |fault: &Fault| {
            warn!(region = %seed.region, table = self.table.name(), %key, %fault, "can't make a copy; retrying");
        };
        let attempt = || hold.tenure.within(|| writer.replica.seed(seed));
        let outcome = tokio::select! {
            outcome = persist(attempt, complain) => outcome,
            () = hold.tenure.ended() => return Err(hold.lost()),
        };
        writer.budget.settle(units, units);
        match outcome {
            Ok(Outcome::Applied { .. }) => {
                self.note(seed, None);
                self.record(writer, seed).await;
            }
            Ok(Outcome::Done | Outcome::Superseded | Outcome::Contended(_)) => {
                self.state().result.moving += 1;
            }
            Err(fault) => self.note(seed, Some(fault)),
        }
        Ok(())
    }

    fn note(&self, seed: &Seed, fault: Option<Fault>) {
        let change = SeedChange::of(seed);
        let mut state = self.state();
        let result = &mut state.result;
        if fault.is_none() {
            *result.seeded.entry(seed.region.clone()).or_default() += 1;
            result.clashes += u64::from(change == SeedChange::Clash);
        } else {
            result.failed += 1;
        }
        // Failures are always reported: a person has to act on them.
        if result.settled.len() < self.options.limit || fault.is_some() {
            result.settled.push(Settled {
                key: item_json(&seed.write.key),
                region: seed.region.clone(),
                from: seed.write.version.origin.clone(),
                change,
                fault: fault.map(|fault| fault.to_string()),
            });
        }
    }

    /// Records what a clash replaced, if the table's conflicts are recorded.
    async fn record(&self, writer: &Writer, seed: &Seed) {
        let Some(loser) = seed.write.replaced.as_deref().filter(|_| seed.is_clash) else { return };
        let lost = Stamp::read(loser).map(|stamp| stamp.version);
        let unknown = || Version { hlc: Hlc::ZERO, origin: seed.region.clone() };
        let winner = match &seed.write.body {
            Body::Put(item, _) => Some(Item::clone(item)),
            Body::Delete => None,
        };
        let conflict = Conflict {
            key: seed.write.key.clone(),
            lost: lost.unwrap_or_else(unknown),
            won: seed.write.version.clone(),
            loser: Some(loser.clone()),
            winner,
        };
        let (table, key) = (self.table.name(), log_key(&seed.write.key));
        if self.table.config.conflicts != Conflicts::Table {
            debug!(region = %seed.region, table, %key, "an item without a version was replaced");
            return;
        }
        let conflicts = ConflictTable::of(&writer.region);
        let save = || conflicts.save(table, &conflict, wall_millis(), self.tuning.conflict_days);
        let save = persist(save, |fault| debug!(%fault, "can't record a conflict; retrying"));
        if !matches!(tokio::time::timeout(RECORD_TIMEOUT, save).await, Ok(Ok(()))) {
            warn!(region = %seed.region, table, %key, "a replaced item could not be recorded as a conflict");
        }
    }
}

/// How long a clash may take to be recorded.
const RECORD_TIMEOUT: Duration = Duration::from_secs(30);
