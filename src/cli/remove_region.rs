//! `tradewind remove-region`.

use std::time::Duration;

use clap::Args;

use super::chosen::{connected, known};
use super::{ConfigFile, Exit, Failure, moment, report};
use crate::operate::{Arrival, Removal, RemoveOptions, remove};
use crate::region::Region;

/// Remove a region from replication; its items stay.
///
/// Run it repeatedly, with a file that still has the region: it prints the next step each time. While agents
/// of the region run, it waits until everything written there is everywhere. Once they are stopped, and the
/// agents elsewhere have a file without the region, it removes the region's rows from all control tables.
/// Exits with 1 until then.
#[derive(Debug, Args)]
pub(super) struct RemoveRegion {
    #[command(flatten)]
    config: ConfigFile,
    /// The region to remove.
    #[arg(value_name = "NAME")]
    region: String,
    /// Remove it even though some of its writes are not everywhere, or it is gone forever. Prints what is
    /// lost, and marks the tables for `tradewind verify`.
    #[arg(long)]
    force: bool,
    /// Check only; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// How long its writes may take to arrive everywhere.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

impl RemoveRegion {
    pub(super) async fn run(self, json: bool) -> Result<Exit, Failure> {
        let config = self.config.load()?;
        let name = known(&config, &self.region)?;
        let regions = Region::connect_all(&config).await?;
        let gone = connected(&regions, &name)?;
        let Self { force, dry_run, timeout, .. } = self;
        let removal = remove(&config, &regions, gone, RemoveOptions { force, dry_run, timeout }).await?;
        let done = removal.removed || dry_run && removal.is_ready(force);
        report(json, &removal, |removal| text(removal, force))?;
        Ok(if done { Exit::Done } else { Exit::Differs })
    }
}

fn text(removal: &Removal, force: bool) -> String {
    let name = &removal.region;
    let mut lines = losses(removal);
    if removal.removed {
        let rows: usize = removal.rows.values().sum();
        lines.push(format!("{name} is removed: {rows} rows; its items are as they were"));
        if !removal.is_drained() {
            lines.push("the tables are marked: run `tradewind verify` with the new file".to_owned());
        }
        return lines.join("\n");
    }
    if !removal.agents.is_empty() {
        if removal.is_drained() {
            lines.push(format!("all that was written in {name} before the call is everywhere"));
        }
        lines.push(format!(
            "next: stop writing in {name}, then stop its agents ({}), and run this again",
            removal.agents.join(", ")
        ));
    } else if !force && !removal.is_drained() {
        lines.push(format!(
            "next: start an agent of {name} and run this again, or, if that is impossible, remove it with --force"
        ));
    } else if !removal.named_by.is_empty() {
        lines.push(format!("no agent of {name} runs, and nothing is left there to be replicated"));
        let agents = removal.named_by.iter().map(|named| format!("{} ({})", named.region, named.agent));
        lines.push(format!(
            "next: take {name} out of regions.toml for these agents, restart them, and run this again with the file \
             as it is now: {}",
            agents.collect::<Vec<_>>().join(", ")
        ));
    } else {
        lines.push(format!("{name} can be removed: without --dry-run, its rows would be removed"));
    }
    lines.join("\n")
}

/// What has not arrived everywhere.
fn losses(removal: &Removal) -> Vec<String> {
    let name = &removal.region;
    let mut lines = Vec::new();
    if let Some(error) = &removal.unreachable {
        lines.push(format!("{name} does not answer: {error}"));
    }
    for Arrival { table, peer, paused_until, .. } in
        removal.arrivals.iter().filter(|arrival| !arrival.is_complete())
    {
        let paused = paused_until.map(|until| format!(": it is paused until {}", moment(until)));
        lines.push(format!("{table}: {peer} lacks writes of {name}{}", paused.unwrap_or_default()));
    }
    for left in &removal.left {
        let table = &left.table;
        if left.writes > 0 {
            lines.push(format!("{table}: {} writes of {name} are not everywhere", left.writes));
        }
        if left.unknown {
            lines.push(format!("{table}: records were lost before they were replicated, or can't be read"));
        }
    }
    if removal.marks > 0 {
        lines.push(format!("{name} has {} marks: run `tradewind verify` first", removal.marks));
    }
    if removal.dead_letters > 0 {
        lines.push(format!(
            "{name} has {} dead letters, writes that a peer could not take: see `tradewind dead-letters`",
            removal.dead_letters
        ));
    }
    for watermark in &removal.watermarks {
        let (table, peer) = (&watermark.table, &watermark.peer);
        lines.push(match watermark.millis {
            Some(millis) => format!(
                "{table}: {peer} has what was written in {name} before {}; later writes may be missing",
                moment(millis)
            ),
            None => format!("{table}: {peer} has no watermark of {name}"),
        });
    }
    lines
}
