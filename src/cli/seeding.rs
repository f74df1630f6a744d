//! What `tradewind bootstrap`, `repair` and `add-region` have in common.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use tokio::sync::watch;

use super::chosen::known;
use super::progress::{Progress, left};
use super::{ConfigFile, Exit, Failure};
use crate::config::Config;
use crate::operate::{SeedChange, SeedOptions, SeedPhase, SeedProgress, Seeded, Settled, bootstrap};
use crate::protocol::Origin;
use crate::region::Region;

#[derive(Debug, Args)]
pub(super) struct SeedArgs {
    #[command(flatten)]
    pub(super) config: ConfigFile,
    /// Only this table; may be repeated. Default: all.
    #[arg(long, value_name = "TABLE")]
    table: Vec<String>,
    /// Write only to this region; may be repeated. Default: all.
    #[arg(long, value_name = "REGION")]
    to: Vec<String>,
    /// Where no version shows which of two items is newer, this region's wins; may be repeated, the preferred
    /// first. After these, the order of the configuration decides.
    #[arg(long, value_name = "REGION")]
    prefer: Vec<String>,
    /// Print what would be copied; copy nothing.
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pace: Pace,
}

/// How fast to seed, and how much to print.
#[derive(Debug, Args)]
pub(super) struct Pace {
    /// Concurrent scans per replica.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    segments: u16,
    /// At most this many read units per second and region. Default: no limit.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    read_units: Option<u32>,
    /// At most this many write units per second and region. Default: no limit.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    write_units: Option<u32>,
    /// How long the agents may take to confirm that everything written is everywhere.
    #[arg(long, default_value = "2m", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// How many settled keys to print per table; all are counted.
    #[arg(long, default_value_t = 20)]
    limit: usize,
}

impl SeedArgs {
    pub(super) fn options(&self, config: &Config) -> Result<SeedOptions, Failure> {
        let regions =
            |names: &[String]| names.iter().map(|name| known(config, name)).collect::<Result<Vec<_>, _>>();
        Ok(SeedOptions {
            tables: self.table.clone(),
            to: regions(&self.to)?,
            prefer: regions(&self.prefer)?,
            dry_run: self.dry_run,
            ..self.pace.options()
        })
    }
}

impl Pace {
    pub(super) fn options(&self) -> SeedOptions {
        SeedOptions {
            tables: Vec::new(),
            to: Vec::new(),
            prefer: Vec::new(),
            segments: self.segments,
            read_units: self.read_units,
            write_units: self.write_units,
            memory: 256 * 1024 * 1024,
            patience: self.timeout,
            limit: self.limit,
            leave: Vec::new(),
            dry_run: false,
            restart: false,
        }
    }
}

/// Bootstraps until it is done or the process is asked to stop.
pub(super) async fn bootstrapped(
    config: &Config,
    regions: &BTreeMap<Origin, Region>,
    options: &SeedOptions,
    json: bool,
) -> Result<Vec<Seeded>, Failure> {
    let mut progress = Progress::new("seeding", None, json);
    let (stop, stopped) = watch::channel(false);
    let results = {
        let mut audience = |now| show(&mut progress, &now);
        let mut work = std::pin::pin!(bootstrap(config, regions, options, stopped, &mut audience));
        loop {
            tokio::select! {
                results = &mut work => break results,
                Ok(()) = tokio::signal::ctrl_c() => {
                    if stop.send_replace(true) {
                        let message = "interrupted; the hold on the table lapses by itself";
                        return Err(Failure::new(Exit::Interrupted, message));
                    }
                    tracing::warn!("stopping cleanly, in about a minute; a second signal stops at once");
                }
            }
        }
    };
    progress.finish();
    Ok(results?)
}

/// Whether all keys were handled, and no copy was refused.
pub(super) fn is_done(results: &[Seeded]) -> bool {
    results.iter().all(|result| result.complete && result.failed == 0)
}

/// Shows the progress.
pub(super) fn show(progress: &mut Progress, now: &SeedProgress) {
    progress.update(now.items_read, || match now.phase {
        SeedPhase::Comparing => format!("comparing the replicas ({})", now.table),
        SeedPhase::WaitingForAgents => format!("items; waiting for the agents ({})", now.table),
        SeedPhase::Seeding => {
            format!(
                "items of about {}, {} copies{} ({})",
                now.estimate,
                now.copies,
                left(now.items_read, now.estimate, now.since),
                now.table
            )
        }
        SeedPhase::Ending => {
            format!(
                "items, {} copies; waiting until none can still be in progress ({})",
                now.copies, now.table
            )
        }
    });
}

pub(super) fn text(results: &[Seeded]) -> String {
    let mut lines = Vec::new();
    for result in results {
        let name = &result.table;
        lines.extend(result.settled.iter().map(|settled| line(settled, result.dry_run)));
        let all = result.seeded.values().sum::<u64>() + result.failed;
        let hidden = all.saturating_sub(result.settled.len() as u64);
        if hidden > 0 {
            lines.push(format!("... and {hidden} more"));
        }
        if result.clashes > 0 {
            lines.push(format!(
                "{name}: {} of these replaced an item that no version shows to be older",
                result.clashes
            ));
        }
        if result.moving > 0 {
            lines.push(format!(
                "{name}: {} keys changed meanwhile, and are left to the agents",
                result.moving
            ));
        }
        if result.marked > 0 {
            lines.push(format!("{name}: {} keys are about to be deleted by the agents", result.marked));
        }
        if result.failed > 0 {
            lines.push(format!("{name}: {} copies were refused", result.failed));
        }
        if !result.complete {
            lines.push(format!("{name}: interrupted; the same command continues from here"));
        }
        let by_region = result.seeded.iter().map(|(region, count)| format!("{count} in {region}"));
        let by_region = by_region.collect::<Vec<_>>().join(", ");
        let what = if result.dry_run { "copies would be made" } else { "copies made" };
        let by_region = if by_region.is_empty() { "none".to_owned() } else { by_region };
        lines.push(format!("{name}: {} items read, {what}: {by_region}", result.items_read));
    }
    lines.join("\n")
}

fn line(settled: &Settled, dry_run: bool) -> String {
    let Settled { key, region, from, change, fault } = settled;
    let what = match (change, dry_run) {
        (SeedChange::Added, false) => "added in",
        (SeedChange::Added, true) => "would be added in",
        (SeedChange::Updated, false) => "updated in",
        (SeedChange::Updated, true) => "would be updated in",
        (SeedChange::Clash, false) => "replaced, though perhaps not older, in",
        (SeedChange::Clash, true) => "would be replaced, though perhaps not older, in",
    };
    match fault {
        None => format!("{key}: {what} {region}, as {from} wrote it"),
        Some(fault) => format!("{key}: can't be put in {region}: {fault}"),
    }
}
