//! Runs on the user's own tables, with agents that are already running: applications write, the checker
//! judges, and the only fault is a pause of the flows between regions, which ends by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::types::{AttributeValue, KeyType, ScalarAttributeType};
use tokio::time::{Instant, sleep};
use tradewind::config::{Config, TableConfig};
use tradewind::control::ControlTable;
use tradewind::destination::Destination;
use tradewind::operate::pause;
use tradewind::protocol::Origin;
use tradewind::region::Region;
use tradewind::schema::{StreamState, describe};

use crate::Result;
use crate::checker::judge;
use crate::play::{Play, Regions};
use crate::report::{Made, Report};
use crate::scenario::{Fault, Kind, Scenario};
use crate::wire::{KeyShape, Wire};

/// How often each shard is read: agents read them, too, and a shard allows five calls a second.
const POLL: Duration = Duration::from_millis(500);
/// How often to check faults, and whether everything is clean again.
const TICK: Duration = Duration::from_millis(250);
/// The approximate size of an item beside its payload, in bytes: keys, names, and the stamp.
const OVERHEAD: usize = 250;

/// The user's regions, and the table to write to.
#[derive(Debug)]
pub struct Staging {
    config: Config,
    table: TableConfig,
    /// The table's regions, in the order of their names.
    names: Arc<[String]>,
    /// Overrides the scenarios' own value.
    recover_within: Option<Duration>,
}

/// Flows of writes, from and to.
type Flows = BTreeSet<(Origin, Destination)>;

impl Staging {
    /// Reads the user's configuration, and chooses the table.
    pub fn read(file: &Path, table: Option<&str>, recover_within: Option<Duration>) -> Result<Self> {
        let config = Config::load(file)?;
        let known: Vec<&str> = config.tables.iter().map(|table| table.name.as_str()).collect();
        let chosen = match (table, config.tables.as_slice()) {
            (Some(name), tables) => {
                let named = tables.iter().find(|table| table.name == name).cloned();
                let told = format!("{}: no [[table]] {name}: it has {}", file.display(), known.join(", "));
                named.or_else(|| config.found(name)).ok_or(told)?
            }
            (None, [table]) => table.clone(),
            (None, []) => return Err("no [[table]] has a name: name one with --table".into()),
            (None, _) => {
                return Err(format!("several tables: choose one with --table: {}", known.join(", ")).into());
            }
        };
        let mut names: Vec<String> = chosen.replicas.iter().map(|(name, _)| name.to_string()).collect();
        names.sort_unstable();
        if let Some((region, _)) =
            chosen.replicas.iter().find(|(name, _)| chosen.selections.of(name).is_some())
        {
            let what = "takes only part of what is written";
            return Err(format!(
                "table {}: {region} {what}, which the checker would mistake for losses: choose a table that all of its \
                 regions hold in full",
                chosen.name
            )
            .into());
        }
        Ok(Self { config, table: chosen, names: names.into(), recover_within })
    }

    /// The table's name in the configuration.
    pub fn table(&self) -> &str {
        &self.table.name
    }

    /// Checks that a scenario can be run here.
    pub fn check(&self, scenario: &Scenario) -> Result<()> {
        let name = &scenario.name;
        if scenario.skew_seconds.iter().any(|skew| *skew > 0) {
            return Err(
                format!("scenario {name}: clocks can be shifted for the harness's own agents only").into()
            );
        }
        if scenario.feeds.is_some() {
            return Err(
                format!("scenario {name}: feeds can be judged for the harness's own agents only").into()
            );
        }
        for fault in &scenario.faults {
            if fault.kind != Kind::Partition || fault.agent.is_some() {
                return Err(format!(
                    "scenario {name}: a fault of the kind {:?}{} is only possible between the harness's own agents and \
                     endpoints. On your tables there is `partition` between regions, by pausing their flows: \
                     take calm, partition, one-way, delete-storm, long-outage, or write a scenario",
                    fault.kind,
                    if fault.agent.is_some() { " of one agent" } else { "" },
                )
                .into());
            }
        }
        Ok(())
    }

    /// Describes what the runs of these scenarios will do, for a person to agree to.
    pub fn warning(&self, scenarios: &[Scenario]) -> String {
        let regions = self.names.len();
        let mut lines = vec![format!("This writes to your table {}:", self.table.name)];
        for name in self.names.iter() {
            let region = self.config.region(name);
            let place = region.map_or("?", |region| region.aws_region.as_str());
            let at = region.and_then(|region| region.endpoint.as_ref()).map(|url| format!(" at {url}"));
            let physical = self.table.replicas.iter().find(|(region, _)| region.as_str() == name);
            let physical = physical.map_or("?", |(_, table)| table.as_str());
            lines.push(format!("  {name}: {physical} in {place}{}", at.unwrap_or_default()));
        }
        for scenario in scenarios {
            let load = &scenario.workload;
            let writes = u64::from(load.rate) * load.lasts.as_secs().max(1) * regions as u64;
            let units = writes * regions as u64 * (load.size + OVERHEAD).div_ceil(1024) as u64;
            lines.push(format!(
                "  {}: {writes} writes by applications, about {units} write units including your agents' writes",
                scenario.name
            ));
            if !scenario.faults.is_empty() {
                lines.push(
                    "    it pauses flows between regions, for all of their tables, and resumes them"
                        .to_owned(),
                );
            }
        }
        lines.push("Its items' keys begin with tradewind-chaos-; they are deleted at the end.".to_owned());
        lines.join("\n")
    }

    /// Makes one run. The agents must be running.
    pub async fn run(&self, text: &str, seed: u64) -> Result<Report> {
        let mut scenario = Scenario::parse(text)?;
        scenario.recover_within = self.recover_within.unwrap_or(scenario.recover_within);
        let connected = Region::connect_all(&self.config).await?;
        let mut wires = Vec::new();
        for name in self.names.iter() {
            let origin: Origin = name.parse()?;
            let region = connected.get(&origin).ok_or_else(|| format!("no region {name}"))?;
            self.leave_pauses(region).await?;
            wires.push(self.wire(region).await?);
        }
        let run = fastrand::Rng::new().u32(..);
        let regions = Regions {
            names: Arc::clone(&self.names),
            wires,
            prefix: format!("tradewind-chaos-{seed}-{run:08x}-").into(),
            are_shared: true,
            poll: POLL,
        };
        let mut play = Play::start(regions, scenario, seed).await?;
        let mut paused = Flows::new();
        while play.goes_on() {
            let wanted = self.cut(&play.scenario, play.began.elapsed())?;
            let until = |_: &Flows| play.scenario.calm().saturating_sub(play.began.elapsed());
            self.turn(&connected, &mut paused, wanted, until).await?;
            sleep(TICK).await;
        }
        self.turn(&connected, &mut paused, Flows::new(), |_| Duration::ZERO).await?;
        let (history, wrong, end) = play.end(|_| false).await?;
        let mut judgement = judge(&history, |_| false);
        for (kind, how) in wrong {
            judgement.add(kind, how);
        }
        let made = Made { on: "staging".to_owned(), seed, text, end, told: None };
        let report = Report::new(made, &play.scenario, &history, judgement);
        // After a failure everything is left as it is, for inspection.
        if report.passed {
            clean(&play).await?;
        }
        Ok(report)
    }

    /// A region's table, as far as items of our own fit into it.
    async fn wire(&self, region: &Region) -> Result<Wire> {
        let physical = self.table.name_in(&region.name).unwrap_or(&self.table.name).to_owned();
        let at = format!("{}: table {physical}", region.name);
        let described = describe(region, &physical).await.map_err(|fault| format!("{at}: {fault}"))?;
        if !matches!(described.stream, StreamState::On { .. }) {
            return Err(format!("{at} has no stream with both images: `tradewind init` turns it on").into());
        }
        let table = &described.table;
        let kind = |name: &str| {
            let found = table.attribute_definitions().iter().find(|found| found.attribute_name() == name);
            found.map(|found| found.attribute_type().clone())
        };
        let (mut partition, mut sort) = (None, None);
        for element in table.key_schema() {
            let name = element.attribute_name().to_owned();
            match (element.key_type(), kind(&name)) {
                (KeyType::Hash, Some(ScalarAttributeType::S)) => partition = Some(name),
                (KeyType::Range, Some(ScalarAttributeType::S)) => {
                    sort = Some((name, AttributeValue::S("tradewind-chaos".to_owned())));
                }
                (KeyType::Range, Some(ScalarAttributeType::N)) => {
                    sort = Some((name, AttributeValue::N("0".to_owned())));
                }
                _ => {
                    let needed =
                        "its partition key must be a string, and its sort key, if any, a string or a number";
                    return Err(format!("{at} can't hold the harness's items: {needed}").into());
                }
            }
        }
        let partition = partition.ok_or_else(|| format!("{at} has no partition key"))?;
        Ok(Wire::of(region, physical, KeyShape { partition, sort }))
    }

    /// Refuses to run if somebody has paused a flow: our pause would replace theirs, and writes that must not
    /// arrive would look lost.
    async fn leave_pauses(&self, region: &Region) -> Result<()> {
        let crew =
            ControlTable::of(region).crew().await.map_err(|fault| format!("{}: {fault}", region.name))?;
        let now = wall_millis();
        let theirs = crew
            .pauses
            .iter()
            .find(|(peer, until)| **until > now && self.names.iter().any(|name| *name == peer.to_string()));
        match theirs {
            Some((peer, _)) => Err(format!(
                "{} → {peer} is paused: `tradewind resume` it first, or wait until it resumes. Nothing was written",
                region.name
            )
            .into()),
            None => Ok(()),
        }
    }

    /// The flows that are cut at this time of a run.
    fn cut(&self, scenario: &Scenario, now: Duration) -> Result<Flows> {
        let is_active = |fault: &&Fault| fault.at <= now && now < fault.at + fault.lasts;
        let mut flows = Flows::new();
        for fault in scenario.faults.iter().filter(is_active) {
            let is = |place: &Option<String>, region: usize| {
                // If there are fewer regions, the last one stands in for the missing ones.
                let meant = place.as_ref().and_then(|place| scenario.region(place));
                meant.is_some_and(|meant| meant.min(self.names.len() - 1) == region)
            };
            for (from, origin) in self.names.iter().enumerate() {
                for (to, peer) in self.names.iter().enumerate().filter(|(to, _)| *to != from) {
                    let between = fault.region.is_none() || is(&fault.region, from) || is(&fault.region, to);
                    let leaves = fault.from.is_none() || is(&fault.from, from);
                    let comes = fault.to.is_none() || is(&fault.to, to);
                    if between && leaves && comes {
                        flows.insert((origin.parse()?, Destination::Peer(peer.parse()?)));
                    }
                }
            }
        }
        Ok(flows)
    }

    /// Pauses what is to be paused, and resumes the rest.
    async fn turn(
        &self,
        regions: &BTreeMap<Origin, Region>,
        paused: &mut Flows,
        wanted: Flows,
        lasts: impl Fn(&Flows) -> Duration,
    ) -> Result<()> {
        let over: Vec<_> = paused.difference(&wanted).cloned().collect();
        if !over.is_empty() {
            pause(&self.config, regions, &over, None).await?;
        }
        let new: Vec<_> = wanted.difference(paused).cloned().collect();
        if !new.is_empty() {
            // Whatever becomes of this process, the pause ends by itself.
            let until = wall_millis() + u64::try_from(lasts(&wanted).as_millis())?;
            let flows = pause(&self.config, regions, &new, Some(until)).await?;
            let theirs =
                flows.iter().find(|flow| flow.was_paused_until.is_some_and(|was| was > wall_millis()));
            if let Some(flow) = theirs {
                let (origin, peer) = (&flow.origin, &flow.to);
                return Err(format!(
                    "{origin} → {peer} was paused by somebody else: `tradewind resume` it first"
                )
                .into());
            }
        }
        *paused = wanted;
        Ok(())
    }
}

/// Milliseconds since the Unix epoch.
#[expect(
    clippy::disallowed_methods,
    reason = "a pause ends by the wall clock, and another setup's agents have theirs"
)]
pub fn wall_millis() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Deletes the run's items in one region, and waits until they are gone in all.
async fn clean(play: &Play) -> Result<()> {
    let (keys, wires) = (play.keys().unwrap_or_default(), &play.regions.wires);
    if let Some(wire) = wires.first() {
        for key in &keys {
            if wire.get(key).await?.is_some() {
                wire.delete(key).await?;
            }
        }
    }
    let deadline = Instant::now() + play.scenario.recover_within;
    loop {
        let mut left = 0;
        for wire in wires {
            left += wire.items(Some(&keys)).await?.len();
        }
        if left == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(format!(
                "{left} items whose keys begin with {} are still there",
                play.regions.prefix
            )
            .into());
        }
        sleep(TICK).await;
    }
}
