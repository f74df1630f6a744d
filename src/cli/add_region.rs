//! `tradewind add-region`.

use clap::Args;
use serde::Serialize;

use super::chosen::{connected, known};
use super::seeding::{Pace, bootstrapped, is_done, text as copies};
use super::{ConfigFile, Exit, Failure, report};
use crate::operate::{Joining, Plan, SeedOptions, Seeded, join};
use crate::region::Region;

/// Add a region to replication, and copy existing items to it.
///
/// Run it repeatedly, with a file that has the region: it prints the next step each time. It creates what is
/// missing (tables like the first region's, streams, control tables). Once the agents elsewhere have been
/// restarted with a file that names the region, and an agent has been started in the region itself, it copies
/// the existing items, while agents and applications elsewhere keep running. Applications may write in the
/// region once it exits with 0; until then it exits with 1.
#[derive(Debug, Args)]
pub(super) struct AddRegion {
    #[command(flatten)]
    config: ConfigFile,
    /// The region to add.
    #[arg(value_name = "NAME")]
    region: String,
    /// Add it even though applications wrote in the region before the agents elsewhere knew it: those writes
    /// can replace newer ones elsewhere.
    #[arg(long)]
    force: bool,
    /// Check only; change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pace: Pace,
}

#[derive(Serialize)]
struct Addition {
    /// What is missing, or was before.
    #[serde(flatten)]
    plan: Plan,
    joining: Option<Joining>,
    seeded: Vec<Seeded>,
    added: bool,
    dry_run: bool,
}

impl AddRegion {
    pub(super) async fn run(self, json: bool) -> Result<Exit, Failure> {
        let config = self.config.load()?;
        let name = known(&config, &self.region)?;
        let regions = Region::connect_all(&config).await?;
        let new = connected(&regions, &name)?;
        let plan = Plan::make(&config, &regions, true).await?;
        let mut addition =
            Addition { plan, joining: None, seeded: Vec::new(), added: false, dry_run: self.dry_run };
        let fits = addition.plan.problems.is_empty();
        if !fits || self.dry_run && !addition.plan.steps.is_empty() {
            report(json, &addition, text)?;
            return Ok(if fits { Exit::Differs } else { Exit::Unavailable });
        }
        addition.plan.carry_out(&regions, |step| tracing::info!("{step}")).await?;
        let joining = join(&config, &regions, new, self.force).await?;
        if joining.is_ready() {
            let options = SeedOptions {
                tables: joining.tables.clone(),
                // For items without a version, the other regions' win.
                prefer: regions.keys().filter(|other| **other != name).cloned().collect(),
                dry_run: self.dry_run,
                ..self.pace.options()
            };
            addition.seeded = bootstrapped(&config, &regions, &options, json).await?;
            addition.added = !self.dry_run && is_done(&addition.seeded);
        }
        addition.joining = Some(joining);
        report(json, &addition, text)?;
        Ok(if addition.added { Exit::Done } else { Exit::Differs })
    }
}

fn text(addition: &Addition) -> String {
    let Addition { plan, joining, seeded, added, dry_run } = addition;
    let mut lines: Vec<String> = plan.problems.iter().map(|problem| format!("problem: {problem}")).collect();
    let verb = if joining.is_some() { "done" } else { "to do" };
    lines.extend(plan.steps.iter().map(|step| format!("{verb}: {step}")));
    let Some(joining) = joining else {
        lines.push("Nothing was changed.".to_owned());
        return lines.join("\n");
    };
    let name = &joining.region;
    if !seeded.is_empty() {
        lines.push(copies(seeded));
    }
    let unaware = joining.unaware.iter().map(|agent| format!("{} ({})", agent.region, agent.agent));
    let silent = joining.silent.iter().map(|region| format!("{region} (none runs)"));
    let others: Vec<String> = unaware.chain(silent).collect();
    lines.extend(joining.written.iter().map(|left| {
        format!(
            "{}: applications have already made {} writes in {name}; those could replace newer ones elsewhere",
            left.table, left.writes
        )
    }));
    lines.push(if !joining.written.is_empty() {
        format!(
            "next: stop writing in {name}, turn the table's stream off and on again (what was written stays, and \
             is copied to the others), and run this again; or use --force"
        )
    } else if !others.is_empty() {
        format!(
            "next: restart these agents with this file, and run this again: {}. Let nothing write in {name} until \
             this exits with 0",
            others.join(", ")
        )
    } else if joining.agents.is_empty() {
        format!("next: tradewind run --region {name}; then run this again")
    } else if *added {
        format!("{name} is added: applications may write there; `tradewind verify` compares the replicas")
    } else if *dry_run {
        format!("{name} can be added: without --dry-run, its items would be copied")
    } else {
        "next: fix what is listed above, and run this again".to_owned()
    });
    lines.join("\n")
}
