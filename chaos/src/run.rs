//! One run: starts everything, writes and breaks, lets it come to rest, and judges.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use clap::ValueEnum;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tradewind::protocol::{Fingerprint, Nonce, Origin, STAMP_MAGIC};

use crate::Result;
use crate::agents::{Agent, Build, Ways, Wish};
use crate::checker::judge;
use crate::defect::Defect;
use crate::endpoints::{Endpoint, Engine};
use crate::faults::{ELSEWHERE, FOREIGN, Link, TABLE, TAKEN, UNDATED};
use crate::feeds::Feeds;
use crate::history::{History, Millis, STAMP, unseen};
use crate::listener::besiege;
use crate::marks;
use crate::play::{Play, Regions, Wrong};
use crate::report::{Made, Report};
use crate::scenario::{Fault, FeedsTo, Kind, Log, PLACES, Scenario};
use crate::sinks::Sinks;
use crate::staging::wall_millis;
use crate::told::check;
use crate::wire::{ACCESS_KEY, Item, Wire};

/// How often each shard is read.
const POLL: Duration = Duration::from_millis(60);
/// How often faults are checked.
const TICK: Duration = Duration::from_millis(50);
/// The key of the item that no stamp fits into, and what it holds: 400 KB with its names.
pub const POISON: &str = "poison";
const POISON_BYTES: usize = 400 * 1024 - 60;
/// The most iterators a second for reading each shard for one peer or another; more means unpaced reading.
const MOST_ITERATORS: usize = 20;
/// The exit code of a comparison that can't be made.
const UNAVAILABLE: i32 = 69;
/// How old another setup's writes are when they arrive. An engine whose clock counts in minutes is not behind
/// them.
const AGO_MILLIS: u64 = 60_000;

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
    /// What feeds deliver to in each region, unless that is files.
    sinks: Vec<Sinks>,
    agents: Vec<Agent>,
    is_paused: Vec<bool>,
    build: Build,
    /// By the fault's number: whether it has begun, and whether it is over.
    met: Vec<(bool, bool)>,
    /// The agents' regions and numbers.
    names: Vec<(usize, usize)>,
    /// How many access keys there have been.
    keys: usize,
    /// What others do to the agents meanwhile, and what was wrong with the agents' reactions.
    others: JoinSet<Result<Vec<Wrong>>>,
}

impl Plan {
    pub async fn run(&self) -> Result<Report> {
        let scenario = Scenario::parse(&self.text)?;
        let mut world = World::start(self, scenario).await?;
        let (history, wrong, end) = world.live().await?;
        let mut judgement = judge(&history, is_excused);
        for (kind, how) in wrong {
            judgement.add(kind, how);
        }
        let mut told = None;
        if let Some(feeds) = &world.build.feeds {
            let files = feeds.read(&world.play.regions.wires).await?;
            let findings = check(&history, &judgement, &files);
            for (kind, key, how) in findings.wrong {
                judgement.fail(&history, kind, Some(&key), how);
            }
            told = Some(findings.told);
        }
        let on = self.engine.to_possible_value().map(|value| value.get_name().to_owned());
        let run = Made { on: on.unwrap_or_default(), seed: self.seed, text: &self.text, end, told };
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
        let Plan { tradewind, folder, defect, .. } = plan.clone();
        let names: Vec<&str> = PLACES.iter().take(scenario.regions).map(|(name, _)| *name).collect();
        let feeds = scenario.feeds.map(|to| Feeds::start(&folder, &names, to)).transpose()?;
        let mut sinks = Vec::new();
        if let Some(feeds) = feeds.as_ref().filter(|_| scenario.feeds != Some(FeedsTo::Files)) {
            for name in &names {
                sinks.push(Sinks::start(name, feeds.of(name), defect, rng.u64(..)).await?);
            }
        }
        let build = Build { tradewind, folder, defect, feeds };
        build.write_credentials(ACCESS_KEY)?;
        let config = |links: &[Link]| {
            let sinks = links.first().and_then(|link| sinks.get(link.from)).map(Sinks::url);
            build.config(&links.iter().collect::<Vec<_>>(), scenario.memory_keys, sinks)
        };
        let configs: Vec<String> = links.chunks(scenario.regions).map(config).collect();
        let file = plan.folder.join("init.toml");
        std::fs::write(&file, &configs[0])?;
        let init = build.command(&["init", "--config"]).arg(&file).output().await?;
        if !init.status.success() {
            let said = String::from_utf8_lossy(&init.stderr);
            return Err(format!("tradewind init failed with {}: {said}", init.status).into());
        }
        let mut agents = Vec::new();
        for (i, config) in configs.iter().enumerate() {
            let (region, number) = (i / scenario.agents, i % scenario.agents);
            let listen = if scenario.has(Kind::HalfOpen) { Some(free_address().await?) } else { None };
            let ways = Ways { log: scenario.logs.get(region).copied().unwrap_or(Log::File), listen };
            agents.push(Agent::start(build.clone(), region, number, config, ways)?);
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
            met: vec![(false, false); scenario.faults.len()],
            names: agents.iter().map(|agent| (agent.region, agent.number)).collect(),
            keys: 0,
            others: JoinSet::new(),
            build,
            play: Play::start(regions, scenario, plan.seed).await?,
            endpoints,
            links,
            sinks,
            agents,
        })
    }

    /// Writes, breaks, and lets it come to rest. Returns what was seen, and what is wrong with the agents.
    async fn live(&mut self) -> Result<(History, Vec<Wrong>, Millis)> {
        while self.play.goes_on() {
            self.break_things().await?;
            sleep(TICK).await;
        }
        self.break_things().await?;
        let (mut history, mut wrong, end) = self.play.end(is_excused).await?;
        if let Some(feeds) = &self.build.feeds {
            let wires = &self.play.regions.wires;
            feeds.come_to_rest(&history, wires, self.play.scenario.recover_within).await?;
        }
        let mut ends = JoinSet::new();
        for agent in self.agents.drain(..) {
            ends.spawn(agent.end());
        }
        wrong.extend(ends.join_all().await.concat().into_iter().map(|how| ("agent broke down", how)));
        while let Some(told) = self.others.join_next().await {
            wrong.extend(told??);
        }
        for link in &self.links {
            let most = link.rules.most_iterators();
            if most > MOST_ITERATORS {
                let [from, to] = [link.from, link.to].map(|region| PLACES[region].0);
                let how = format!("an agent of {from} asked {to} for {most} iterators within a second");
                wrong.push(("without pace", how));
            }
            let writes = link.rules.disobeyed();
            if writes > 0 && link.from != link.to {
                let [from, to] = [link.from, link.to].map(|region| PLACES[region].0);
                let how = format!(
                    "an agent of {from} made {writes} writes in {to}, whose table only AWS may replicate"
                );
                wrong.push(("not its own", how));
            }
        }
        let Regions { names, wires, .. } = &self.play.regions;
        let marks = marks::check(&self.play.scenario, names, wires).await?;
        if marks.iter().all(|(kind, _)| *kind != "unmarked") {
            // What the marks are there for.
            let unseen = unseen(&history.silences, &history.writes, &history.seen);
            history.forget(|key| unseen.contains(key));
            history.unseen = unseen;
        }
        wrong.extend(marks);
        wrong.extend(marks::check_foreign(&self.play.scenario, &history));
        marks::forget_foreign(&mut history);
        wrong.extend(self.check_logs());
        Ok((history, wrong, end))
    }

    /// If a replica is managed, each agent must have logged that.
    fn check_logs(&self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        if !self.play.scenario.has(Kind::Managed) {
            return wrong;
        }
        for (region, number) in &self.names {
            let name = format!("{}-{number}", PLACES[*region].0);
            // A log that goes elsewhere can't be read.
            let log = std::fs::read_to_string(self.build.folder.join(format!("{name}.log")));
            let Ok(log) = log else { continue };
            if !log.contains("it is a managed global table") {
                wrong.push(("untold", format!("{name} has not logged that a replica is managed")));
            }
        }
        wrong
    }

    /// Puts the faults of this moment into force.
    async fn break_things(&mut self) -> Result<()> {
        let now = self.play.began.elapsed();
        let is_active = |fault: &&Fault| fault.at <= now && now < fault.at + fault.lasts;
        let active: Vec<Fault> = self.play.scenario.faults.iter().filter(is_active).cloned().collect();
        self.links.iter().for_each(|link| link.set(&active, now));
        self.sinks.iter().for_each(|sinks| sinks.set(&active));
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
            agent.wish(match (any(Kind::Kill), rolls || any(Kind::Stop)) {
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
        }
        for number in 0..self.met.len() {
            let fault = self.play.scenario.faults[number].clone();
            let (has_begun, is_over) = self.met[number];
            if fault.at <= now && !has_begun {
                self.met[number].0 = true;
                self.begin(&fault).await?;
            }
            if fault.at + fault.lasts <= now && !is_over {
                self.met[number].1 = true;
                self.end(&fault).await?;
            }
        }
        Ok(())
    }

    /// Starts a fault: what is to be done once.
    async fn begin(&mut self, fault: &Fault) -> Result<()> {
        let region =
            fault.region.as_ref().and_then(|name| self.play.scenario.region(name)).unwrap_or_default();
        let (name, wire) = (PLACES[region].0, &self.play.regions.wires[region]);
        match fault.kind {
            Kind::DeleteTable => self.play.delete_table(region).await?,
            Kind::Poison => {
                let payload = "x".repeat(POISON_BYTES);
                wire.put(POISON, &format!("{name} {POISON}"), payload, None).await?;
            }
            Kind::Undated => {
                wire.put(UNDATED, &format!("{name} {UNDATED}"), String::new(), None).await?;
            }
            Kind::RecycleStream => self.play.turn_stream(region, false).await?,
            Kind::Foreign => {
                for (number, key) in (0..).zip(FOREIGN) {
                    let write = format!("{ELSEWHERE} {number}");
                    let stamp = foreign_stamp(&wire.item(key, &write, String::new()), name, number)?;
                    wire.put(key, &write, String::new(), Some((STAMP, AttributeValue::S(stamp)))).await?;
                }
            }
            Kind::SinkAway => self.put_sink(name, true)?,
            Kind::RotateCredentials => {
                self.keys += 1;
                let key = self.key();
                self.links.iter().for_each(|link| link.rules.take_key(&key));
            }
            Kind::HalfOpen => {
                for address in self.agents.iter().filter_map(|agent| agent.listens) {
                    let siege = besiege(address, fault.lasts);
                    self.others.spawn(async move {
                        Ok(siege.await.into_iter().map(|how| ("not served", how)).collect())
                    });
                }
            }
            Kind::Verify => {
                let config = self.build.folder.join(format!("{name}-0.toml"));
                let mut verify = self.build.command(&["verify", "--settle", "0s", "--config"]);
                let verify = verify.arg(config).output();
                let lasts = fault.lasts;
                self.others.spawn(async move {
                    // A comparison that takes longer has seen the end of what made it impossible.
                    let Ok(output) = timeout(lasts, verify).await else { return Ok(Vec::new()) };
                    let output = output?;
                    if output.status.code() == Some(UNAVAILABLE) {
                        return Ok(Vec::new());
                    }
                    let said = String::from_utf8_lossy(&output.stdout);
                    Ok(vec![("false verdict", format!("verify ended with {}: {said}", output.status))])
                });
            }
            _ => {}
        }
        Ok(())
    }

    /// Ends a fault: what is to be done once.
    async fn end(&mut self, fault: &Fault) -> Result<()> {
        let region =
            fault.region.as_ref().and_then(|name| self.play.scenario.region(name)).unwrap_or_default();
        match fault.kind {
            Kind::RecycleStream => self.play.turn_stream(region, true).await?,
            Kind::SinkAway => self.put_sink(PLACES[region].0, false)?,
            // It keeps the stamp, as any update does.
            Kind::Foreign => {
                let write = format!("{} {TAKEN}", PLACES[region].0);
                self.play.regions.wires[region].update(TAKEN, &write, String::new()).await?;
            }
            _ => {}
        }
        if fault.kind == Kind::RotateCredentials && self.build.defect != Some(Defect::OldCredentials) {
            self.build.write_credentials(&self.key())?;
        }
        Ok(())
    }

    /// Takes the folder of a region's feeds away, or brings it back.
    fn put_sink(&self, region: &str, is_away: bool) -> Result<()> {
        self.build.feeds.as_ref().map_or(Ok(()), |feeds| feeds.take_away(region, is_away))
    }

    /// The access key that is accepted now.
    fn key(&self) -> String {
        format!("{ACCESS_KEY}{}", self.keys)
    }
}

/// Whether a key may differ, since nobody can replicate it.
fn is_excused(key: &str) -> bool {
    key == POISON || key == UNDATED || FOREIGN.contains(&key) && key != TAKEN
}

/// The stamp that an agent of another setup puts beside an item that it writes in this region.
fn foreign_stamp(item: &Item, region: &str, number: u64) -> Result<String> {
    // What it writes was written elsewhere, some time ago.
    let clock = (wall_millis().saturating_sub(AGO_MILLIS) << 20) + number;
    let (fingerprint, nonce) = (Fingerprint::of(item), Nonce::new(&region.parse::<Origin>()?, number));
    Ok(format!("{STAMP_MAGIC}{clock:016x} {ELSEWHERE} - - {fingerprint} {nonce}"))
}

/// An address on this machine that nobody listens on.
async fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()?)
}
