//! `tradewind demo`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use clap::Args;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::warn;

use super::listen::Listen;
use super::progress::Progress;
use super::run::Signals;
use super::{Exit, Failure, report};
use crate::agent::{Agent, Figures};
use crate::config::{Config, Conflicts, TableConfig, Tuning};
use crate::dashboard::{Dashboard, Kept, Shown};
use crate::embedded::EmbeddedRegion;
use crate::fault::Fault;
use crate::lag::PeerLag;
use crate::observe::{self, Observer};
use crate::operate::{Difference, Options, Plan, verify};
use crate::protocol::Origin;
use crate::region::Region;
use crate::tally::TallySnapshot;
use crate::telemetry::Telemetry;
use crate::workload::{Application, Operation};

const NAMES: [&str; 8] = ["tokyo", "dublin", "oregon", "sydney", "mumbai", "santiago", "toronto", "lagos"];
const TABLE: &str = "orders";
/// How many applications write in each region.
const APPLICATIONS: u64 = 4;
/// Every agent must find nothing to do in this many calls, all at once.
const QUIET_CALLS: u32 = 4;
/// How often the replicas are compared, with a page.
const COMPARE: Duration = Duration::from_secs(20);
/// How long the regions may take to settle; about a hundred times what they need.
const PATIENCE: Duration = Duration::from_mins(5);
/// How replicas are compared.
const OPTIONS: Options = Options {
    segments: 2,
    settle: Duration::from_secs(5),
    limit: 20,
    read_units: None,
    memory: 256 * 1024 * 1024,
};

/// Watch regions replicate and converge, in this process, in about half a minute.
///
/// Starts DynamoDB-compatible regions on loopback ports, an agent for each, and applications that
/// put, update, put back old copies and delete the same keys in all regions at once, and count, each in
/// an item of its own. Then it lets the regions settle, compares every item, and prints what happened.
/// Exits with 0 only where nothing differs, and no count has gone back.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// How many regions.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=8))]
    regions: u8,
    /// How many keys the applications share: fewer make more conflicts.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// How many writes the applications make in all.
    #[arg(long, default_value_t = 3_000, value_parser = clap::value_parser!(u64).range(1..))]
    writes: u64,
    /// Writes a second, over all regions.
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    /// Makes the applications choose the same writes again; any number when left out.
    #[arg(long)]
    seed: Option<u64>,
    /// Goes on, with a page that shows what happens, until Ctrl-C; then it settles and compares.
    #[arg(long)]
    dashboard: bool,
    #[command(flatten)]
    listen: Listen,
}

/// What it takes to show the demo on a page.
struct Stage {
    _dashboard: Option<Dashboard>,
    _observers: Vec<Observer>,
    _comparing: JoinSet<()>,
}

/// What the demo did, and what came of it.
#[derive(Debug, Serialize)]
struct Outcome {
    seed: u64,
    regions: Vec<Origin>,
    writes: Writes,
    agents: TallySnapshot,
    agent_writes: u64,
    /// Agent writes per application write that changed something.
    agent_writes_per_write: f64,
    lag: Vec<Lag>,
    writing_seconds: f64,
    settling_seconds: f64,
    items_compared: u64,
    items_differing: u64,
    differences: Vec<Difference>,
}

/// The writes that the applications made.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Writes {
    puts: u64,
    updates: u64,
    put_backs: u64,
    deletes: u64,
    /// Counted up by ADD, and by a conditional update.
    counts: u64,
    swaps: u64,
    failed: u64,
    /// How often an application found its own item as it had been before its last write.
    rollbacks_seen: u64,
}

#[derive(Debug, Serialize)]
struct Lag {
    origin: Origin,
    peer: Origin,
    #[serde(flatten)]
    figures: PeerLag,
}

impl Demo {
    pub(super) async fn run(self, json: bool) -> Result<Exit, Failure> {
        let seed = self.seed.unwrap_or_else(|| fastrand::Rng::new().u64(..));
        let (_embedded, config) = self.regions().await?;
        let regions = Region::connect_all(&config).await?;
        prepare(&config, &regions).await?;
        // Before the agents: what is measured before is not kept.
        let telemetry =
            self.dashboard.then(|| Telemetry::start(None)).transpose().map_err(Failure::internal)?;
        let mut agents = Vec::new();
        for region in &config.regions {
            agents.push(Agent::start(&config, region.name.as_str()).await?);
        }

        let _stage = match telemetry {
            Some(telemetry) => Some(self.show(Arc::new(telemetry), &config, &regions, &agents).await?),
            None => None,
        };
        let started = Instant::now();
        let total = (!self.dashboard).then_some(self.writes);
        let mut progress = Progress::new("writing", total, json);
        let mut signals = if self.dashboard { Some(Signals::listen()?) } else { None };
        let writes = self.write(&regions, seed, &agents, &mut progress, &mut signals).await;
        progress.finish();
        let writing_seconds = started.elapsed().as_secs_f64();

        let stopped = Instant::now();
        let mut progress = Progress::new("settling", None, json);
        tokio::select! {
            settled = settle(&agents, &mut progress) => settled?,
            () = told(&mut signals) => return Ok(Exit::Interrupted),
        }
        progress.finish();
        let settling_seconds = stopped.elapsed().as_secs_f64();

        let verification = verify(&config, &regions, OPTIONS, &mut ()).await?;
        let mut outcome = Outcome::of(seed, &agents);
        outcome.writes = writes;
        (outcome.writing_seconds, outcome.settling_seconds) = (writing_seconds, settling_seconds);
        for table in verification.tables {
            outcome.items_compared += table.items_compared;
            outcome.items_differing += table.items_differing;
            outcome.differences.extend(table.differences);
        }
        for agent in agents {
            agent.stop().await;
        }
        report(json, &outcome, text)?;
        let is_right = outcome.items_differing == 0 && outcome.writes.rollbacks_seen == 0;
        Ok(if is_right { Exit::Done } else { Exit::Differs })
    }

    /// Shows the agents on a page.
    async fn show(
        &self,
        telemetry: Arc<Telemetry>,
        config: &Config,
        regions: &BTreeMap<Origin, Region>,
        agents: &[Agent],
    ) -> Result<Stage, Failure> {
        let figures: Vec<Figures> = agents.iter().map(|agent| agent.figures().clone()).collect();
        observe::register_agents(figures.clone());
        let start = |figures: &Figures| Observer::start(config, regions, figures.clone());
        let observers: Vec<Observer> = figures.iter().filter_map(start).collect();
        observe::register_boards(observers.iter().map(|observer| Arc::clone(observer.board())).collect());
        let dashboard = self.listen.serve(&telemetry).await?;
        if let (Some(dashboard), Some(first)) = (&dashboard, observers.first()) {
            let kept = Kept { config: config.clone(), regions: regions.clone(), is_public: true };
            dashboard.show(Shown { agents: figures, board: Arc::clone(first.board()), kept });
            // Logged as a warning would be: whoever asked for it wants to see it at any level.
            warn!("the page is at http://{}/ until Ctrl-C", dashboard.address());
        }
        let mut comparing = JoinSet::new();
        comparing.spawn(compare(config.clone(), regions.clone()));
        Ok(Stage { _dashboard: dashboard, _observers: observers, _comparing: comparing })
    }

    async fn regions(&self) -> Result<(Vec<EmbeddedRegion>, Config), Failure> {
        let mut embedded = Vec::new();
        for name in NAMES.iter().take(self.regions.into()) {
            let name: Origin = name.parse().map_err(Failure::internal)?;
            embedded.push(EmbeddedRegion::start(name).await.map_err(Failure::internal)?);
        }
        let regions: Vec<_> = embedded.iter().map(EmbeddedRegion::config).collect();
        let replicas = regions.iter().map(|region| (region.name.clone(), TABLE.to_owned())).collect();
        let mut table = TableConfig::new(TABLE.to_owned(), replicas);
        let mut tuning = Tuning::default();
        if self.dashboard {
            table.conflicts = Conflicts::Table;
            tuning.heartbeat_interval = Duration::from_secs(2);
        }
        Ok((
            embedded,
            Config { regions, tables: vec![table], patterns: Vec::new(), tuning, anti_entropy: None },
        ))
    }

    /// Lets the applications write, at the given rate.
    async fn write(
        &self,
        regions: &BTreeMap<Origin, Region>,
        seed: u64,
        agents: &[Agent],
        progress: &mut Progress,
        signals: &mut Option<Signals>,
    ) -> Writes {
        let mut rng = fastrand::Rng::with_seed(seed);
        let most = if self.dashboard { u64::MAX } else { self.writes };
        let left = Arc::new(AtomicU64::new(most));
        let mut running = JoinSet::new();
        let applications = u64::from(self.regions) * APPLICATIONS;
        for region in regions.values() {
            for _ in 0..APPLICATIONS {
                let (client, name) = (region.tables.clone(), region.name.to_string());
                let application = Application::new(client, TABLE.to_owned(), name, self.keys, rng.u64(..));
                let pause = Duration::from_secs(applications).div_f64(u64_as_f64(self.rate));
                running.spawn(drive(application, pause, Arc::clone(&left)));
            }
        }
        let mut writes = Writes::default();
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        loop {
            tokio::select! {
                ended = running.join_next() => match ended {
                    Some(Ok(made)) => writes.add(made),
                    Some(Err(_)) => writes.failed += 1,
                    None => return writes,
                },
                () = told(signals) => left.store(0, Ordering::Relaxed),
                _ = ticks.tick() => {
                    progress.update(most.saturating_sub(left.load(Ordering::Relaxed)), || lag_line(agents));
                }
            }
        }
    }
}

/// Compares the replicas now and then, as one would by `tradewind verify`.
async fn compare(config: Config, regions: BTreeMap<Origin, Region>) {
    loop {
        tokio::time::sleep(COMPARE).await;
        if let Err(error) = verify(&config, &regions, OPTIONS, &mut ()).await {
            warn!("the replicas can't be compared: {error}");
        }
    }
}

/// Waits until a person ends the demo; for ever, if that just ends the process.
async fn told(signals: &mut Option<Signals>) {
    match signals {
        Some(signals) => signals.next().await,
        None => std::future::pending().await,
    }
}

/// Writes at a steady pace until no write is left.
async fn drive(mut application: Application, pause: Duration, left: Arc<AtomicU64>) -> Writes {
    let mut writes = Writes::default();
    let mut ticks = tokio::time::interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let take = |left: u64| left.checked_sub(1);
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
        ticks.tick().await;
        match application.write().await {
            Ok(Operation::Put) => writes.puts += 1,
            Ok(Operation::Update) => writes.updates += 1,
            Ok(Operation::PutBack) => writes.put_backs += 1,
            Ok(Operation::Delete) => writes.deletes += 1,
            Ok(Operation::Count) => writes.counts += 1,
            Ok(Operation::Swap) => writes.swaps += 1,
            Err(_) => writes.failed += 1,
        }
    }
    writes.rollbacks_seen = application.rollbacks();
    writes
}

/// Creates the table in the first region, and lets `init` do the rest.
async fn prepare(config: &Config, regions: &BTreeMap<Origin, Region>) -> Result<(), Failure> {
    if let Some(first) = config.regions.first().and_then(|region| regions.get(&region.name)) {
        create_table(first).await.map_err(Failure::internal)?;
    }
    let plan = Plan::make(config, regions, true).await?;
    Ok(plan.carry_out(regions, |_| {}).await?)
}

async fn create_table(region: &Region) -> Result<(), Fault> {
    let key = AttributeDefinition::builder().attribute_name(Application::KEY);
    let element = KeySchemaElement::builder().attribute_name(Application::KEY).key_type(KeyType::Hash);
    let create = region.tables.create_table().table_name(TABLE).billing_mode(BillingMode::PayPerRequest);
    create
        .attribute_definitions(key.attribute_type(ScalarAttributeType::S).build()?)
        .key_schema(element.build()?)
        .send()
        .await?;
    Ok(())
}

/// Waits until all agents find nothing to do, all at once and for a while.
async fn settle(agents: &[Agent], progress: &mut Progress) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    while agents.iter().any(|agent| agent.figures().idle_calls() < QUIET_CALLS) {
        if Instant::now() >= deadline {
            return Err(Failure::internal("the regions did not settle"));
        }
        progress.update(Outcome::of(0, agents).agent_writes, || lag_line(agents));
        ticks.tick().await;
    }
    Ok(())
}

/// The median lag of each origin → peer.
fn lag_line(agents: &[Agent]) -> String {
    let mut line = "lag p50:".to_owned();
    for agent in agents {
        for table in agent.figures().report() {
            for (peer, lag) in &table.lag {
                let _ = write!(line, " {}→{peer} {:.0} ms", table.origin, lag.since_seen.p50_ms);
            }
        }
    }
    line
}

impl Writes {
    fn add(&mut self, other: Self) {
        self.puts += other.puts;
        self.updates += other.updates;
        self.put_backs += other.put_backs;
        self.deletes += other.deletes;
        self.counts += other.counts;
        self.swaps += other.swaps;
        self.failed += other.failed;
        self.rollbacks_seen += other.rollbacks_seen;
    }

    fn made(&self) -> u64 {
        self.puts + self.updates + self.put_backs + self.deletes + self.counts + self.swaps
    }
}

impl Outcome {
    /// What the agents say.
    fn of(seed: u64, agents: &[Agent]) -> Self {
        let reports: Vec<_> = agents.iter().flat_map(|agent| agent.figures().report()).collect();
        let mut tally = TallySnapshot::default();
        let mut lag = Vec::new();
        let mut regions = Vec::new();
        for report in reports {
            tally += report.tally;
            let lags = report.lag.into_iter();
            lag.extend(lags.map(|(peer, figures)| Lag { origin: report.origin.clone(), peer, figures }));
            regions.push(report.origin);
        }
        let local = tally.local_writes().max(1);
        Self {
            seed,
            regions,
            writes: Writes::default(),
            agents: tally,
            agent_writes: tally.agent_writes(),
            agent_writes_per_write: u64_as_f64(tally.agent_writes()) / u64_as_f64(local),
            lag,
            writing_seconds: 0.0,
            settling_seconds: 0.0,
            items_compared: 0,
            items_differing: 0,
            differences: Vec::new(),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts for display")]
fn u64_as_f64(count: u64) -> f64 {
    count as f64
}

fn text(outcome: &Outcome) -> String {
    let Outcome { writes, agents, .. } = outcome;
    let names: Vec<_> = outcome.regions.iter().map(Origin::as_str).collect();
    let mut lines = vec![
        format!("regions                  {}", names.join(", ")),
        format!(
            "writes made              {} ({} puts, {} updates, {} put-backs of old copies, {} deletes, {} counts)",
            writes.made(),
            writes.puts,
            writes.updates,
            writes.put_backs,
            writes.deletes,
            writes.counts + writes.swaps
        ),
    ];
    if writes.failed > 0 {
        lines.push(format!("writes that failed       {}", writes.failed));
    }
    lines.extend([
        format!("  that changed something {}", agents.local_writes()),
        format!(
            "replicated               {} (and {} outrun: the peer had something newer; {} taken in by a later one)",
            agents.replicated, agents.outrun, agents.taken_in
        ),
        format!("echoes suppressed        {}", agents.echoes),
        format!("conflicts                {} (last writer wins; counted, never silent)", agents.conflicts),
        format!("heals                    {}", agents.heals),
        format!("rollbacks seen by an application: {}", writes.rollbacks_seen),
        format!("agent writes per write   {:.2}", outcome.agent_writes_per_write),
        String::new(),
        format!(
            "{:<26}{:^29}  {:^29}",
            "lag, milliseconds", "from first seen by the agent", "from creation (whole seconds)"
        ),
        format!("{:<26}{:>9}{:>10}{:>10}  {:>9}{:>10}{:>10}", "", "p50", "p99", "max", "p50", "p99", "max"),
    ]);
    for Lag { origin, peer, figures } in &outcome.lag {
        let mut line = format!("{:<26}", format!("  {origin} → {peer}"));
        for lag in [&figures.since_seen, &figures.since_creation] {
            let _ = write!(line, "{:>9.0}{:>10.0}{:>10.0}  ", lag.p50_ms, lag.p99_ms, lag.max_ms);
        }
        lines.push(line.trim_end().to_owned());
    }
    lines.push(String::new());
    lines.extend(outcome.differences.iter().map(|difference| format!("DIFFERS {difference}")));
    lines.push(format!(
        "settled {:.1} s after the last write: {} items compared, {} differing",
        outcome.settling_seconds, outcome.items_compared, outcome.items_differing
    ));
    lines.push(format!("(tradewind demo --seed {} chooses the same writes again)", outcome.seed));
    lines.join("\n")
}
