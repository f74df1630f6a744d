//! Checks everything that replication depends on, changes nothing, and says what to fix, the worst first.
//!
//! | file | subject |
//! | --- | --- |
//! | `finding` | what is wrong, and how bad that is |
//! | `place` | one region, as it answers: its tables, its clock, and which actions are allowed |
//! | `permissions` | tries each action without effect |
//! | `tables` | what the replicas of a table must have in common, and what each must have |
//! | `feeds` | whether feeds can deliver, and what their sinks have rejected |
//! | `agents` | what the agents report, and what they don't |

mod agents;
mod feeds;
mod finding;
mod permissions;
mod place;
mod tables;

use std::collections::BTreeMap;

use serde::Serialize;
use tokio::task::JoinSet;

use self::place::SurveyedRegion;
use crate::config::Config;
use crate::contained::joined;
use crate::operate::{OperateError, TableReplicas};
use crate::protocol::Origin;
use crate::region::Region;

pub use finding::{Finding, Harm};

/// The result of checking everything.
#[derive(Debug, Serialize)]
pub struct Diagnosis {
    /// The worst first.
    pub findings: Vec<Finding>,
    /// What could not be tried, or not without effect.
    pub untried: Vec<Untried>,
    /// How many actions were tried and are allowed.
    pub allowed: usize,
    /// How far each region's clock is ahead of this machine's, in seconds, where its answers say.
    pub clocks: BTreeMap<Origin, f64>,
}

/// An action that was not tried.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Untried {
    pub region: Origin,
    pub table: String,
    pub action: String,
    pub why: String,
}

impl Diagnosis {
    /// Whether something must be fixed.
    pub fn is_well(&self) -> bool {
        self.findings.iter().all(|finding| finding.harm == Harm::Note)
    }
}

/// Checks all regions and tables, and the permissions that the agents of these regions need.
pub async fn doctor(config: &Config, regions: &BTreeMap<Origin, Region>, agents_of: &[Origin]) -> Diagnosis {
    let (tables, mut findings) = find_tables(config, regions).await;
    let mut looks = JoinSet::new();
    for region in regions.values().cloned() {
        let (config, tables, agents_of) = (config.clone(), tables.clone(), agents_of.to_vec());
        looks.spawn(async move { SurveyedRegion::look(&config, &tables, region, &agents_of).await });
    }
    let mut places: BTreeMap<Origin, SurveyedRegion> = BTreeMap::new();
    while let Some(place) = looks.join_next().await {
        let place = joined(place);
        places.insert(place.region.clone(), place);
    }
    findings.extend(place::clocks(&places));
    for table in &tables {
        findings.extend(tables::look(config, table, &places));
    }
    let reached: BTreeMap<Origin, Region> = regions
        .iter()
        .filter(|(name, _)| places.get(*name).is_some_and(|place| place.answers))
        .map(|(name, region)| (name.clone(), region.clone()))
        .collect();
    findings.extend(agents::look(config, &tables, &reached, &places).await);
    let clocks =
        places.iter().filter_map(|(name, place)| Some((name.clone(), place.clock?.ahead()))).collect();
    let allowed = places.values().map(|place| place.allowed).sum();
    let (of_feeds, mut untried) = feeds::look(config, &reached, agents_of).await;
    findings.extend(of_feeds);
    for place in places.into_values() {
        findings.extend(place.findings);
        untried.extend(place.untried);
    }
    findings.sort();
    findings.dedup();
    untried.sort();
    Diagnosis { findings, untried, allowed, clocks }
}

/// The tables given by name, and those that patterns find where tables can be listed.
async fn find_tables(
    config: &Config,
    regions: &BTreeMap<Origin, Region>,
) -> (Vec<TableReplicas>, Vec<Finding>) {
    let mut found = BTreeMap::new();
    let mut findings = Vec::new();
    for region in regions.values() {
        let Some(pattern) = crate::discovery::pattern_in(config, &region.name) else { continue };
        match crate::discovery::find(config, region).await {
            Ok(tables) => found.extend(tables),
            Err(fault) => findings.push(Finding::of_fault(&region.name, &pattern, "ListTables", &fault)),
        }
    }
    let mut tables = Vec::new();
    for table in config.tables.iter().cloned().chain(found.into_values()) {
        match TableReplicas::of(table, regions) {
            Ok(table) => tables.push(table),
            Err(OperateError { region, table, fault }) => {
                findings.push(Finding::of_fault(&region, &table, "DescribeTable", &fault));
            }
        }
    }
    (tables, findings)
}
