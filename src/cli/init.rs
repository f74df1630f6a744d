//! `tradewind init`.

use clap::Args;
use serde::Serialize;

use super::{ConfigFile, Exit, Failure, report};
use crate::operate::Plan;
use crate::region::Region;

/// Check and prepare the replicas: turn streams on, create control tables.
///
/// Compares the replicas' key schemas, turns streams on with NEW_AND_OLD_IMAGES where they are off, and
/// creates the control table of each region. If something does not fit, it prints the problem and its fix,
/// and changes nothing. It can be run again at any time.
#[derive(Debug, Args)]
pub(super) struct Init {
    #[command(flatten)]
    config: ConfigFile,
    /// Print what would be done, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Create missing replicas like the first region's table: keys, indexes, billing mode, TTL.
    #[arg(long)]
    create_tables: bool,
}

#[derive(Serialize)]
struct Outcome {
    #[serde(flatten)]
    plan: Plan,
    /// Whether the steps were carried out.
    done: bool,
}

impl Init {
    pub(super) async fn run(self, json: bool) -> Result<Exit, Failure> {
        let config = self.config.load()?;
        let regions = Region::connect_all(&config).await?;
        let plan = Plan::make(&config, &regions, self.create_tables).await?;
        let fits = plan.problems.is_empty();
        let go = fits && !self.dry_run;
        if go {
            plan.carry_out(&regions, |step| tracing::info!("{step}")).await?;
        }
        report(json, &Outcome { plan, done: go }, |outcome| self.text(outcome))?;
        Ok(if fits { Exit::Done } else { Exit::Unavailable })
    }

    fn text(&self, outcome: &Outcome) -> String {
        let Plan { steps, problems } = &outcome.plan;
        let mut lines: Vec<String> = problems.iter().map(|problem| format!("problem: {problem}")).collect();
        let verb = if outcome.done { "done" } else { "to do" };
        lines.extend(steps.iter().map(|step| format!("{verb}: {step}")));
        lines.push(match (problems.is_empty(), steps.is_empty()) {
            (false, _) => "Nothing was changed: fix the problems first.".to_owned(),
            (true, true) => "All replicas are ready; nothing to do.".to_owned(),
            (true, false) if self.dry_run => "Nothing was changed: this is a dry run.".to_owned(),
            (true, false) => "All replicas are ready.".to_owned(),
        });
        lines.join("\n")
    }
}
