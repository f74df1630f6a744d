//! One run: starts everything, writes and breaks, lets it come to rest, and judges.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::Result;
use crate::agents::{Agent, Wish, config, tradewind};
use crate::application::Application;
use crate::checker::{Judgement, judge};
use crate::defect::Defect;
use crate::endpoints::{Endpoint, Engine};
use crate::faults::{Link, TABLE};
use crate::history::{AppWrite, History, KEY, Millis, WRITE};
use crate::lag::{Way, lags, stale, ways};
use crate::report::Report;
use crate::scenario::{Fault, Kind, PLACES, Scenario};
use crate::tail::Tail;
use crate::wire::Wire;

/// How often faults are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How often replicas are compared at the end, and how often in a row they must agree.
const LOOK: Duration = Duration::from_millis(400);
const AGREEMENTS: u32 = 3;
/// The key of the item that no stamp fits into, and what it holds: 400 KB with its names.
const POISON: &str = "poison";
const POISON_BYTES: usize = 400 * 1024 - 60;

/// A violation's kind, and its message.
type Wrong = (&'static str, String);

/// How to run a scenario.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The scenario, as TOML.
    pub text: String,
    pub engine: Engine,
    pub seed: u64,
    /// The agents' binary.
    pub tradewind: PathBuf,
    /// For data and logs.
    pub folder: PathBuf,
    pub defect: Option<Defect>,
}

struct World {
    scenario: Scenario,
    began: Instant,
    endpoints: Vec<Endpoint>,
    is_down: Vec<bool>,
    wires: Vec<Wire>,
    links: Vec<Link>,
    agents: Vec<Agent>,
    is_paused: Vec<bool>,
    is_deleted: Vec<bool>,
    is_poisoned: bool,
}

impl Plan {
    pub async fn run(&self) -> Result<Report> {
        let scenario = Scenario::parse(&self.text)?;
        let mut world = World::start(self, scenario).await?;
        let (history, breakdowns, end) = world.live(self.seed).await?;
        let mut judgement = judge(&history, |key| key == POISON);
        for (kind, how) in breakdowns {
            judgement.add(kind, how);
        }
        let ways = ways(&history, &judgement);
        world.check_recovery(&mut judgement, &history, &ways);
        let lags = lags(&ways, end);
        let stale = stale(&history, &judgement);
        Ok(Report::new(self, &world.scenario, &history, judgement, lags, stale, end))
    }
}

impl World {
    async fn start(plan: &Plan, scenario: Scenario) -> Result<Self> {
        let mut endpoints = Vec::new();
        let mut wires = Vec::new();
        let mut rng = fastrand::Rng::with_seed(plan.seed);
        for (name, aws_region) in PLACES.into_iter().take(scenario.regions) {
            let endpoint = Endpoint::start(plan.engine, plan.folder.join(format!("{name}-data"))).await?;
            let wire = Wire::to(&endpoint.url, aws_region);
            wire.make_table(TABLE).await?;
            endpoints.push(endpoint);
            wires.push(wire);
        }
        let mut links = Vec::new();
        for from in 0..scenario.regions {
            for agent in 0..scenario.agents {
                for (to, endpoint) in endpoints.iter().enumerate() {
                    let skew = scenario.skew_seconds.get(to).copied().unwrap_or_default();
                    let link = (from, agent, to);
                    links.push(Link::start(link, &endpoint.url, skew, plan.defect, rng.u64(..)).await?);
                }
            }
        }
        let configs: Vec<String> =
            links.chunks(scenario.regions).map(|links| config(&links.iter().collect::<Vec<_>>())).collect();
        let file = plan.folder.join("init.toml");
        std::fs::write(&file, &configs[0])?;
        let init = tradewind(&plan.tradewind, &["init", "--config"]).arg(&file).output().await?;
        if !init.status.success() {
            let said = String::from_utf8_lossy(&init.stderr);
            return Err(format!("tradewind init failed with {}: {said}", init.status).into());
        }
        let mut agents = Vec::new();
        for (i, config) in configs.iter().enumerate() {
            let (region, number) = (i / scenario.agents, i % scenario.agents);
            agents.push(Agent::start(plan.tradewind.clone(), &plan.folder, region, number, config)?);
        }
        Ok(Self {
            is_down: vec![false; scenario.regions],
            is_deleted: vec![false; scenario.regions],
            is_paused: vec![false; agents.len()],
            is_poisoned: false,
            began: Instant::now(),
            scenario,
            endpoints,
            wires,
            links,
            agents,
        })
    }

    fn now(&self) -> Millis {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Writes, breaks, and lets it come to rest: what was seen, and what is wrong with the agents.
    async fn live(&mut self, seed: u64) -> Result<(History, Vec<Wrong>, Millis)> {
        let (records, reads) = (Arc::default(), Arc::default());
        let over = Arc::new(AtomicBool::new(false));
        let mut tails = JoinSet::new();
        let mut writers: JoinSet<Vec<AppWrite>> = JoinSet::new();
        let mut readers = JoinSet::new();
        let mut rng = fastrand::Rng::with_seed(seed);
        let copies: Arc<Mutex<Vec<Value>>> = Arc::default();
        for (region, wire) in self.wires.iter().enumerate() {
            let tail = Tail {
                region,
                wire: wire.clone(),
                skew_seconds: self.scenario.skew_seconds.get(region).copied().unwrap_or_default(),
                began: self.began,
                seen: Arc::clone(&records),
                over: Arc::clone(&over),
            };
            tails.spawn(async move { (region, tail.run().await) });
            let mut application = || Application {
                region,
                regions: self.scenario.regions,
                wire: wire.clone(),
                workload: self.scenario.workload.clone(),
                began: self.began,
                rng: rng.fork(),
                copies: Arc::clone(&copies),
            };
            writers.spawn(application().write());
            readers.spawn(application().read(Arc::clone(&reads)));
        }
        let mut written = Vec::new();
        while self.began.elapsed() < self.scenario.workload.lasts.max(self.scenario.calm()) {
            self.break_things().await?;
            sleep(TICK).await;
        }
        self.break_things().await?;
        while let Some(writes) = writers.join_next().await {
            written.extend(writes?);
        }
        self.come_to_rest().await;
        readers.shutdown().await;
        let end = self.now();
        over.store(true, Ordering::Relaxed);
        let mut wrong: Vec<Wrong> = Vec::new();
        while let Some(read) = tails.join_next().await {
            let (region, read) = read?;
            let name = PLACES[region].0;
            if self.is_deleted[region] {
                continue;
            }
            if !read.map_err(|error| format!("{name}'s stream can't be read: {error}"))? {
                wrong.push(("never at rest", format!("agents write on and on in {name}")));
            }
        }
        let mut stored = Vec::new();
        for (wire, is_deleted) in self.wires.iter().zip(&self.is_deleted) {
            stored.push(if *is_deleted { None } else { Some(wire.scan(TABLE).await?) });
        }
        let mut ends = JoinSet::new();
        for agent in self.agents.drain(..) {
            ends.spawn(agent.end());
        }
        wrong.extend(ends.join_all().await.concat().into_iter().map(|how| ("agent broke down", how)));
        let take =
            |list: &Mutex<Vec<_>>| std::mem::take(&mut *list.lock().unwrap_or_else(PoisonError::into_inner));
        let history = History {
            regions: PLACES.iter().take(self.scenario.regions).map(|(name, _)| (*name).to_owned()).collect(),
            writes: written,
            seen: take(&records),
            reads: std::mem::take(&mut *reads.lock().unwrap_or_else(PoisonError::into_inner)),
            stored,
            calm: u64::try_from(self.scenario.calm().as_millis()).unwrap_or(u64::MAX),
        };
        Ok((history, wrong, end))
    }

    /// Makes everything what the faults of this moment make of it.
    async fn break_things(&mut self) -> Result<()> {
        let now = self.began.elapsed();
        let is_active = |fault: &&Fault| fault.at <= now && now < fault.at + fault.lasts;
        let active: Vec<Fault> = self.scenario.faults.iter().filter(is_active).cloned().collect();
        self.links.iter().for_each(|link| link.set(&active, now));
        for i in 0..self.agents.len() {
            let agent = &self.agents[i];
            let meets = |fault: &Fault| {
                fault.region.as_deref() == Some(PLACES[agent.region].0)
                    && fault.agent.is_none_or(|number| number == agent.number)
            };
            let any = |kind| active.iter().any(|fault| fault.kind == kind && meets(fault));
            let rolls = active.iter().filter(|fault| fault.kind == Kind::RollingRestart).any(|fault| {
                // Each has its turn, and is away for half of it.
                let turn = fault.lasts / u32::try_from(self.agents.len()).unwrap_or(u32::MAX);
                let mine = fault.at + turn * u32::try_from(i).unwrap_or_default();
                (mine..mine + turn / 2).contains(&now)
            });
            let is_paused = any(Kind::Pause);
            agent.wish(match (any(Kind::Kill), rolls) {
                (true, _) => Wish::Die,
                (false, true) => Wish::Stop,
                (false, false) => Wish::Run,
            });
            if is_paused != self.is_paused[i] {
                agent.signal(if is_paused { "STOP" } else { "CONT" }).await?;
                self.is_paused[i] = is_paused;
            }
        }
        for (region, (name, _)) in PLACES.iter().enumerate().take(self.scenario.regions) {
            let is = |fault: &Fault, kind| fault.kind == kind && fault.region.as_deref() == Some(*name);
            let is_down = active.iter().any(|fault| is(fault, Kind::EndpointDown));
            match (is_down, self.is_down[region]) {
                (true, false) => self.endpoints[region].kill().await,
                (false, true) => self.endpoints[region].resume().await?,
                _ => {}
            }
            self.is_down[region] = is_down;
            let due = |kind| self.scenario.faults.iter().any(|fault| fault.at <= now && is(fault, kind));
            if due(Kind::DeleteTable) && !self.is_deleted[region] {
                self.wires[region].call("DeleteTable", &json!({ "TableName": TABLE })).await?;
                self.is_deleted[region] = true;
            }
            if due(Kind::Poison) && !self.is_poisoned {
                let item = json!({
                    KEY: { "S": POISON }, WRITE: { "S": format!("{name} poison") },
                    "payload": { "S": "x".repeat(POISON_BYTES) },
                });
                self.wires[region].call("PutItem", &json!({ "TableName": TABLE, "Item": item })).await?;
                self.is_poisoned = true;
            }
        }
        Ok(())
    }

    /// Waits until the replicas agree, or had long enough.
    async fn come_to_rest(&self) {
        let deadline = Instant::now() + self.scenario.recover_within;
        let mut agreements = 0;
        while agreements < AGREEMENTS && Instant::now() < deadline {
            sleep(LOOK).await;
            agreements = if self.agree().await { agreements + 1 } else { 0 };
        }
    }

    async fn agree(&self) -> bool {
        let mut first = None;
        for (wire, _) in self.wires.iter().zip(&self.is_deleted).filter(|(_, is_deleted)| !**is_deleted) {
            let Ok(items) = wire.scan(TABLE).await else { return false };
            let data: Vec<_> = items
                .into_iter()
                .filter(|(key, _)| key != POISON)
                .map(|(key, image)| (key, image.data))
                .collect();
            if first.get_or_insert_with(|| data.clone()) != &data {
                return false;
            }
        }
        true
    }

    /// After the last fault, every write must be everywhere in time.
    fn check_recovery(&self, judgement: &mut Judgement, history: &History, ways: &[Way]) {
        let within = u64::try_from(self.scenario.recover_within.as_millis()).unwrap_or(u64::MAX);
        let after = |way: &Way| way.to.map(|to| to.saturating_sub(way.from.max(history.calm)));
        let late = ways.iter().filter(|way| after(way).is_some_and(|took| took > within)).count();
        if late > 0 {
            judgement.add("slow to recover", format!("{late} writes took longer than {within} ms"));
        }
    }
}
