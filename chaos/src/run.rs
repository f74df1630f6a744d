//! One run: starts everything, writes and breaks, lets it come to rest, and judges.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::Result;
use crate::agents::{Agent, Wish, config, tradewind};
use crate::checker::judge;
use crate::defect::Defect;
use crate::endpoints::{Endpoint, Engine};
use crate::faults::{Link, TABLE};
use crate::history::{History, Millis};
use crate::play::{Play, Regions, Wrong};
use crate::report::{Made, Report};
use crate::scenario::{Fault, Kind, PLACES, Scenario};
use crate::wire::Wire;

/// How often each shard is read.
const POLL: Duration = Duration::from_millis(60);
/// How often faults are looked at.
const TICK: Duration = Duration::from_millis(50);
/// The key of the item that no stamp fits into, and what it holds: 400 KB with its names.
const POISON: &str = "poison";
const POISON_BYTES: usize = 400 * 1024 - 60;

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
    play: Play,
    endpoints: Vec<Endpoint>,
    is_down: Vec<bool>,
    links: Vec<Link>,
    agents: Vec<Agent>,
    is_paused: Vec<bool>,
    is_poisoned: bool,
}

impl Plan {
    pub async fn run(&self) -> Result<Report> {
        let scenario = Scenario::parse(&self.text)?;
        let mut world = World::start(self, scenario).await?;
        let (history, wrong, end) = world.live().await?;
        let mut judgement = judge(&history, |key| key == POISON);
        for (kind, how) in wrong {
            judgement.add(kind, how);
        }
        let on = self.engine.to_possible_value().map(|value| value.get_name().to_owned());
        let run = Made { on: on.unwrap_or_default(), seed: self.seed, text: &self.text, end };
        Ok(Report::new(run, &world.play.scenario, &history, judgement))
    }
}

impl World {
    async fn start(plan: &Plan, scenario: Scenario) -> Result<Self> {
        let mut endpoints = Vec::new();
        let mut wires = Vec::new();
        let mut rng = fastrand::Rng::with_seed(plan.seed);
        for (name, aws_region) in PLACES.into_iter().take(scenario.regions) {
            let endpoint = Endpoint::start(plan.engine, plan.folder.join(format!("{name}-data"))).await?;
            let wire = Wire::to(&endpoint.url, aws_region, TABLE);
            wire.make_table().await?;
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
        let config = |links: &[Link]| config(&links.iter().collect::<Vec<_>>(), scenario.memory_keys);
        let configs: Vec<String> = links.chunks(scenario.regions).map(config).collect();
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
        let regions = Regions {
            names: PLACES.iter().take(scenario.regions).map(|(name, _)| (*name).to_owned()).collect(),
            wires,
            prefix: "".into(),
            are_shared: false,
            poll: POLL,
        };
        Ok(Self {
            is_down: vec![false; scenario.regions],
            is_paused: vec![false; agents.len()],
            is_poisoned: false,
            play: Play::start(regions, scenario, plan.seed).await?,
            endpoints,
            links,
            agents,
        })
    }

    /// Writes, breaks, and lets it come to rest: what was seen, and what is wrong with the agents.
    async fn live(&mut self) -> Result<(History, Vec<Wrong>, Millis)> {
        while self.play.goes_on() {
            self.break_things().await?;
            sleep(TICK).await;
        }
        self.break_things().await?;
        let (history, mut wrong, end) = self.play.end(|key| key == POISON).await?;
        let mut ends = JoinSet::new();
        for agent in self.agents.drain(..) {
            ends.spawn(agent.end());
        }
        wrong.extend(ends.join_all().await.concat().into_iter().map(|how| ("agent broke down", how)));
        Ok((history, wrong, end))
    }

    /// Makes everything what the faults of this moment make of it.
    async fn break_things(&mut self) -> Result<()> {
        let now = self.play.began.elapsed();
        let is_active = |fault: &&Fault| fault.at <= now && now < fault.at + fault.lasts;
        let active: Vec<Fault> = self.play.scenario.faults.iter().filter(is_active).cloned().collect();
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
        for (region, (name, _)) in PLACES.iter().enumerate().take(self.play.scenario.regions) {
            let is = |fault: &Fault, kind| fault.kind == kind && fault.region.as_deref() == Some(*name);
            let is_down = active.iter().any(|fault| is(fault, Kind::EndpointDown));
            match (is_down, self.is_down[region]) {
                (true, false) => self.endpoints[region].kill().await,
                (false, true) => self.endpoints[region].resume().await?,
                _ => {}
            }
            self.is_down[region] = is_down;
            let due = |kind| self.play.scenario.faults.iter().any(|fault| fault.at <= now && is(fault, kind));
            let (is_deletion_due, is_poison_due) = (due(Kind::DeleteTable), due(Kind::Poison));
            if is_deletion_due && !self.play.is_deleted[region] {
                self.play.delete_table(region).await?;
            }
            if is_poison_due && !self.is_poisoned {
                let (write, payload) = (format!("{name} poison"), "x".repeat(POISON_BYTES));
                self.play.regions.wires[region].put(POISON, &write, payload, None).await?;
                self.is_poisoned = true;
            }
        }
        Ok(())
    }
}
