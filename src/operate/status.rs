//! The state of all regions, from what their agents report in the control tables.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;

use crate::clock::wall_millis;
use crate::config::Config;
use crate::control::{AgentId, ControlTable, SavedReport};
use crate::fault::{Fault, in_time};
use crate::observe::{Heard, Overview, Report};
use crate::protocol::Origin;
use crate::region::Region;

/// How long a region may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// All regions at a glance.
#[derive(Debug, Serialize)]
pub struct Status {
    #[serde(flatten)]
    pub overview: Overview,
    /// The regions whose control tables could not be read, each with the reason. What is reported about them
    /// comes from other regions.
    pub silent: Vec<Silent>,
}

/// A region that did not answer.
#[derive(Debug, Serialize)]
pub struct Silent {
    pub region: Origin,
    pub error: String,
    #[serde(skip)]
    pub fault: Fault,
}

/// Reads what the agents of all regions have reported. Every agent reports in every region, so one control
/// table that can be read shows all.
pub async fn status(config: &Config, regions: &BTreeMap<Origin, Region>) -> Status {
    let mut reads = JoinSet::new();
    for region in regions.values() {
        let (name, control) = (region.name.clone(), ControlTable::of(region));
        reads.spawn(async move { (name, in_time(ANSWER, "no answer", control.reports()).await) });
    }
    let mut newest: BTreeMap<(Origin, AgentId), SavedReport> = BTreeMap::new();
    let mut silent = Vec::new();
    for (region, reports) in reads.join_all().await {
        match reports {
            Ok(reports) => {
                for report in reports {
                    let key = (report.region.clone(), report.agent.clone());
                    if newest.get(&key).is_none_or(|known| known.beat < report.beat) {
                        newest.insert(key, report);
                    }
                }
            }
            Err(fault) => silent.push(Silent { region, error: fault.to_string(), fault }),
        }
    }
    silent.sort_by(|a, b| a.region.cmp(&b.region));
    let now = wall_millis();
    let heard = newest.into_values().filter_map(|saved| serde_json::from_str::<Report>(&saved.body).ok());
    let heard = heard
        .map(|report| Heard { silent: Duration::from_millis(now.saturating_sub(report.millis)), report });
    let names: Vec<Origin> = config.regions.iter().map(|region| region.name.clone()).collect();
    Status { overview: Overview::of(&names, heard.collect()), silent }
}
