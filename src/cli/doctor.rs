//! `tradewind doctor`.

use clap::Args;

use super::chosen::known;
use super::{ConfigFile, Exit, Failure, report};
use crate::operate::{Diagnosis, Finding, doctor};
use crate::region::Region;

/// Check everything that replication depends on, and print what to fix, the worst first.
///
/// Checks credentials, permissions action by action, clocks, streams, keys, times to live, capacities, agents
/// and what they report. It changes nothing: writes are tried with a condition that can't hold (one write
/// unit each). Exits with 1 if something must be fixed, otherwise with 0.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    config: ConfigFile,
    /// Try the permissions that this region's agent needs, in all regions; may be repeated. Default: those of
    /// all agents.
    #[arg(long, value_name = "NAME")]
    region: Vec<String>,
}

impl Doctor {
    pub(super) async fn run(self, json: bool) -> Result<Exit, Failure> {
        let config = self.config.load()?;
        let mut agents_of =
            self.region.iter().map(|name| known(&config, name)).collect::<Result<Vec<_>, _>>()?;
        if agents_of.is_empty() {
            agents_of = config.regions.iter().map(|region| region.name.clone()).collect();
        }
        let regions = Region::connect_all(&config).await?;
        let diagnosis = doctor(&config, &regions, &agents_of).await;
        let well = diagnosis.is_well();
        report(json, &diagnosis, text)?;
        Ok(if well { Exit::Done } else { Exit::Differs })
    }
}

fn text(diagnosis: &Diagnosis) -> String {
    let mut lines: Vec<String> = diagnosis.findings.iter().flat_map(finding).collect();
    for untried in &diagnosis.untried {
        let (region, table, action, why) = (&untried.region, &untried.table, &untried.action, &untried.why);
        lines.push(format!("could not be tried: {action} on {table} in {region}: {why}"));
    }
    lines.push(format!(
        "{} actions are allowed. What `init` does (CreateTable, UpdateTable, UpdateTimeToLive) can't be tried without \
         doing it",
        diagnosis.allowed
    ));
    lines.push(if diagnosis.is_well() { "nothing to fix" } else { "something must be fixed" }.to_owned());
    lines.join("\n")
}

fn finding(finding: &Finding) -> [String; 2] {
    let Finding { harm, name, region, table, problem, fix } = finding;
    let harm = format!("{harm:?}").to_lowercase();
    let place = if table.is_empty() { region.to_string() } else { format!("{region}, {table}") };
    [format!("{harm}: {place}: {problem} ({name})"), format!("  → {fix}")]
}
