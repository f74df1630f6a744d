//! What a run does to its regions while others break them: applications write, readers read, and every stream
//! is followed; at the end, what is stored is read.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep};

use crate::Result;
use crate::application::Application;
use crate::checker::Judgement;
use crate::history::{AppWrite, History, Millis, Read, Seen, Silence, unseen};
use crate::lag::Way;
use crate::scenario::Scenario;
use crate::tail::{Place, Tail};
use crate::wire::Wire;

/// How often replicas are compared at the end, and how many times in a row they must agree: a contended push waits
/// for 3 s before it is made, and is healed if it was older, so that replicas which agreed differ for a moment.
const LOOK: Duration = Duration::from_millis(400);
const AGREEMENTS: u32 = 12;

/// A violation's kind, and its message.
pub type Wrong = (&'static str, String);

/// The regions of a run, and what is done in them.
#[derive(Debug)]
pub struct Regions {
    /// In the order of their names.
    pub names: Arc<[String]>,
    pub wires: Vec<Wire>,
    /// The start of the applications' keys.
    pub prefix: Arc<str>,
    /// Whether the regions' tables also hold other items, and have records already.
    pub are_shared: bool,
    /// How often each shard is read.
    pub poll: Duration,
}

/// A run in progress.
#[derive(Debug)]
pub struct Play {
    pub regions: Regions,
    pub scenario: Scenario,
    pub began: Instant,
    /// By region: its table was deleted on purpose.
    pub is_deleted: Vec<bool>,
    tails: JoinSet<(usize, Result<bool>)>,
    /// By region: ends its tail.
    ends: Vec<AbortHandle>,
    /// By region: makes its tail look for another stream.
    looks: Vec<Arc<AtomicBool>>,
    silences: Vec<Silence>,
    writers: JoinSet<Vec<AppWrite>>,
    readers: JoinSet<()>,
    records: Arc<Mutex<Vec<Seen>>>,
    reads: Arc<Mutex<Vec<Read>>>,
    over: Arc<AtomicBool>,
}

impl Play {
    pub async fn start(regions: Regions, scenario: Scenario, seed: u64) -> Result<Self> {
        let mut places = Vec::new();
        for wire in &regions.wires {
            places.push(Place::stand(wire, regions.are_shared).await?);
        }
        let began = Instant::now();
        let (records, reads, over, copies) = Default::default();
        let (mut tails, mut ends) = (JoinSet::new(), Vec::new());
        let looks: Vec<Arc<AtomicBool>> = regions.wires.iter().map(|_| Arc::default()).collect();
        let (mut writers, mut readers) = (JoinSet::new(), JoinSet::new());
        let mut rng = fastrand::Rng::with_seed(seed);
        for ((region, wire), place) in regions.wires.iter().enumerate().zip(places) {
            let tail = Tail {
                region,
                wire: wire.clone(),
                prefix: Arc::clone(&regions.prefix),
                skew_seconds: scenario.skew_seconds.get(region).copied().unwrap_or_default(),
                began,
                poll: regions.poll,
                seen: Arc::clone(&records),
                look: Arc::clone(&looks[region]),
                over: Arc::clone(&over),
            };
            ends.push(tails.spawn(async move { (region, tail.run(place).await) }));
            let deletion = scenario.deletion(region);
            let mut application = || {
                let mut workload = scenario.workload.clone();
                workload.lasts = deletion.map_or(workload.lasts, |at| workload.lasts.min(at));
                Application {
                    region,
                    names: Arc::clone(&regions.names),
                    prefix: Arc::clone(&regions.prefix),
                    wire: wire.clone(),
                    workload,
                    began,
                    rng: rng.fork(),
                    copies: Arc::clone(&copies),
                }
            };
            writers.spawn(application().write());
            readers.spawn(application().read(Arc::clone(&reads)));
        }
        let is_deleted = vec![false; regions.wires.len()];
        Ok(Self {
            regions,
            scenario,
            began,
            is_deleted,
            tails,
            ends,
            looks,
            silences: Vec::new(),
            writers,
            readers,
            records,
            reads,
            over,
        })
    }

    pub fn now(&self) -> Millis {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether applications still write, or faults are still to come.
    pub fn goes_on(&self) -> bool {
        self.began.elapsed() < self.scenario.workload.lasts.max(self.scenario.calm())
    }

    /// Deletes a region's table, and with it its stream.
    pub async fn delete_table(&mut self, region: usize) -> Result<()> {
        self.regions.wires[region].delete_table().await?;
        self.is_deleted[region] = true;
        self.ends[region].abort();
        Ok(())
    }

    /// Turns the stream of a region's table off or on. What is written in between is in no stream.
    pub async fn turn_stream(&mut self, region: usize, on: bool) -> Result<()> {
        let from = self.now();
        self.regions.wires[region].turn_stream(on).await?;
        if !on {
            self.silences.push(Silence { region, from, until: Millis::MAX });
            return Ok(());
        }
        let until = self.now();
        if let Some(silence) = self.silences.iter_mut().rfind(|silence| silence.region == region) {
            silence.until = until;
        }
        self.looks[region].store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Lets the regions come to rest. Returns what was seen, what is wrong, and when it ended. `is_excused`
    /// names keys that may differ.
    pub async fn end(&mut self, is_excused: impl Fn(&str) -> bool) -> Result<(History, Vec<Wrong>, Millis)> {
        let mut written = Vec::new();
        while let Some(writes) = self.writers.join_next().await {
            written.extend(writes?);
        }
        self.come_to_rest(&written, is_excused).await;
        self.readers.shutdown().await;
        let end = self.now();
        self.over.store(true, Ordering::Relaxed);
        let mut wrong: Vec<Wrong> = Vec::new();
        while let Some(read) = self.tails.join_next().await {
            let (region, read) = match read {
                Err(error) if error.is_cancelled() => continue,
                read => read?,
            };
            let name = &self.regions.names[region];
            if !read.map_err(|error| format!("can't read {name}'s stream: {error}"))? {
                wrong.push(("never at rest", format!("agents don't stop writing in {name}")));
            }
        }
        let mut stored = Vec::new();
        for (region, is_deleted) in self.is_deleted.iter().enumerate() {
            stored.push(if *is_deleted { None } else { Some(self.items(region).await?) });
        }
        let history = History {
            regions: self.regions.names.to_vec(),
            writes: written,
            seen: take(&self.records),
            reads: take(&self.reads),
            stored,
            calm: millis(self.scenario.calm()),
            silences: self.silences.clone(),
            unseen: BTreeSet::new(),
        };
        Ok((history, wrong, end))
    }

    /// What a region holds of the run.
    async fn items(
        &self,
        region: usize,
    ) -> Result<std::collections::BTreeMap<String, crate::history::Image>> {
        self.regions.wires[region].items(self.keys().as_deref()).await
    }

    /// The run's own keys, if the tables hold others.
    pub fn keys(&self) -> Option<Vec<String>> {
        let Regions { names, prefix, are_shared, .. } = &self.regions;
        are_shared.then(|| Application::keys(names, prefix, &self.scenario.workload))
    }

    /// Waits until the replicas agree, or have had long enough.
    async fn come_to_rest(&self, written: &[AppWrite], is_excused: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + self.scenario.recover_within;
        let mut agreements = 0;
        while agreements < AGREEMENTS && Instant::now() < deadline {
            sleep(LOOK).await;
            let records = || self.records.lock().unwrap_or_else(PoisonError::into_inner);
            let unseen = unseen(&self.silences, written, &records());
            let may_differ = |key: &str| is_excused(key) || unseen.contains(key);
            agreements = if self.agree(may_differ).await { agreements + 1 } else { 0 };
        }
    }

    async fn agree(&self, is_excused: impl Fn(&str) -> bool) -> bool {
        let mut first = None;
        for (region, _) in self.is_deleted.iter().enumerate().filter(|(_, is_deleted)| !**is_deleted) {
            let Ok(items) = self.items(region).await else { return false };
            let items = items.into_iter().filter(|(key, _)| !is_excused(key));
            let data: Vec<_> = items.map(|(key, image)| (key, image.data)).collect();
            if first.get_or_insert_with(|| data.clone()) != &data {
                return false;
            }
        }
        true
    }
}

/// After the last fault, every write must be everywhere in time.
pub fn check_recovery(judgement: &mut Judgement, scenario: &Scenario, history: &History, ways: &[Way]) {
    let within = millis(scenario.recover_within);
    let after = |way: &Way| way.to.map(|to| to.saturating_sub(way.from.max(history.calm)));
    let late = ways.iter().filter(|way| after(way).is_some_and(|took| took > within)).count();
    if late > 0 {
        judgement.add("slow to recover", format!("{late} writes took longer than {within} ms"));
    }
}

fn millis(time: Duration) -> Millis {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn take<T>(list: &Mutex<Vec<T>>) -> Vec<T> {
    std::mem::take(&mut *list.lock().unwrap_or_else(PoisonError::into_inner))
}
