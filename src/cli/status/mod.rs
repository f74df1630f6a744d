//! `tradewind status`.

mod view;

use std::fmt::Write;
use std::io::{IsTerminal, stdout};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{ConfigFile, Exit, Failure, Printed, moment, report};
use crate::answer::Intercepted;
use crate::observe::{Comparison, FeedEntry, Link, RegionView, TableEntry};
use crate::operate::{Status as AllRegions, status};
use crate::protocol::Origin;
use crate::region::Region;
use crate::tally::FeedSnapshot;

/// How often `--watch` refreshes.
const LOOK: Duration = Duration::from_secs(2);

/// Print the state of all regions: lag, watermark ages, agents, conflicts, dead letters.
///
/// Reads what the agents report in the control tables every few seconds; access to `DynamoDB` is enough, and
/// one region that answers shows all. Exits with 1 if a lag or a watermark age is over --max-lag, or is
/// unknown because no agent has reported.
#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    config: ConfigFile,
    /// Keep running, and refresh every two seconds; q quits.
    #[arg(long)]
    watch: bool,
    /// The longest acceptable watermark age and heartbeat.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_lag: Option<Duration>,
}

#[derive(Serialize)]
struct StatusReport {
    /// The longest lag, in seconds; none if that of some origin → peer is unknown.
    longest_lag: Option<f64>,
    /// Whether that is over --max-lag.
    #[serde(skip_serializing_if = "Option::is_none")]
    over: Option<bool>,
    #[serde(flatten)]
    status: AllRegions,
}

impl Status {
    pub(super) async fn run(self, json: bool) -> Result<Exit, Failure> {
        let config = self.config.load()?;
        let regions = Region::connect_all(&config).await?;
        if self.watch && !json && stdout().is_terminal() {
            return view::watch(&config, &regions, self.max_lag).await;
        }
        loop {
            let status = status(&config, &regions).await;
            // Nobody answers: there is nothing to show.
            if status.silent.len() == regions.len()
                && let Some(first) = status.silent.first()
            {
                let message =
                    format!("region {}: {}\n{}", first.region, first.error, first.fault.kind.advice());
                return Err(Failure::new(first.fault.kind.into(), message));
            }
            let longest_lag = status.overview.longest_lag();
            let over = self.max_lag.map(|most| longest_lag.is_none_or(|lag| lag > most.as_secs_f64()));
            let printed = report(json, &StatusReport { longest_lag, over, status }, text)?;
            if !self.watch || printed == Printed::Unread {
                return Ok(if over == Some(true) { Exit::Differs } else { Exit::Done });
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn text(told: &StatusReport) -> String {
    let StatusReport { status, over, .. } = told;
    let mut lines = vec![row(&LINK_HEADS, LINK_WIDTHS)];
    lines.extend(status.overview.links.iter().map(|link| row(&link_cells(link), LINK_WIDTHS)));
    lines.push(String::new());
    lines.push(row(&REGION_HEADS, REGION_WIDTHS));
    lines.extend(status.overview.regions.iter().map(|region| row(&region_cells(region), REGION_WIDTHS)));
    lines.extend(feeds(status));
    lines.extend(troubles(status));
    lines.extend(status.overview.verified.iter().map(verified));
    if *over == Some(true) {
        lines.push("over --max-lag".to_owned());
    }
    lines.join("\n")
}

/// Describes answers that came from something in a region's place.
fn intercepted(place: &Origin, found: &Intercepted) -> String {
    let Intercepted { count, seconds_ago, last } = found;
    let ago = seconds(*seconds_ago);
    format!("{count} answers to an agent were not {place}'s own, the last one {ago} ago: {last}")
}

/// The result of comparing a table's replicas.
fn verified(table: &Comparison) -> String {
    let Comparison { table, seconds_ago, items_compared, items_differing } = table;
    let ago = seconds(*seconds_ago);
    format!("{table}: verified {ago} ago: {items_compared} items compared, {items_differing} differing")
}

/// What the feeds of each region have told, and what they still have to tell.
fn feeds(status: &AllRegions) -> Vec<String> {
    let mut lines = Vec::new();
    for region in &status.overview.regions {
        for table in region.agents.iter().flat_map(|agent| &agent.tables) {
            for (feed, entry) in &table.feeds {
                let FeedEntry { counts, backlog, age, blocked, paused_until, .. } = entry;
                let FeedSnapshot { delivered, retried, parked, .. } = counts;
                let mut line = format!(
                    "{}/{}: feed {feed}: {delivered} delivered, {backlog} waiting, {} behind",
                    region.region,
                    table.table,
                    seconds(*age)
                );
                if *retried > 0 {
                    let _ = write!(line, ", {retried} calls tried again");
                }
                if *blocked > 0 {
                    let _ = write!(line, ", {blocked} keys blocked by a rejected event");
                }
                if *parked > 0 {
                    let _ = write!(line, ", {parked} parked (`tradewind feed parked {feed}`)");
                }
                if let Some(until) = paused_until {
                    let _ = write!(line, ", paused until {}", moment(*until));
                }
                lines.push(line);
            }
        }
    }
    lines
}

/// What a person should look at.
fn troubles(status: &AllRegions) -> Vec<String> {
    let mut lines = Vec::new();
    for Link { origin, peer, paused_until, .. } in &status.overview.links {
        if let Some(until) = paused_until {
            lines.push(format!("{origin} → {peer}: paused until {}", moment(*until)));
        }
    }
    for region in &status.overview.regions {
        let name = &region.region;
        match region.agents.first() {
            None => lines.push(format!("{name}: no agent has reported within a day")),
            Some(last) if !region.heard => {
                lines.push(format!("{name}: no agent has reported for {}", seconds(last.silent_seconds)));
            }
            Some(_) => {}
        }
        if region.total.unguarded > 0 {
            lines.push(format!(
                "{name}: {} writes took effect on a condition that did not name all that they replaced, and may have \
                 hidden an update for a moment: see tradewind_unguarded_total in docs/observability.md",
                region.total.unguarded
            ));
        }
        if region.total.spill_failures > 0 {
            lines.push(format!(
                "{name}: remembered keys could not be moved to disk, or read from there, {} times: the log names the \
                 folder, which is spill_directory",
                region.total.spill_failures
            ));
        }
        for (place, found) in region.agents.iter().flat_map(|agent| &agent.intercepted) {
            lines.push(format!("{name}: {}", intercepted(place, found)));
        }
        for table in region.agents.iter().flat_map(|agent| &agent.tables) {
            if table.keys_on_disk > 0 {
                let TableEntry { table, keys, keys_on_disk, .. } = table;
                lines.push(format!(
                    "{name}/{table}: {keys} keys are remembered in memory, {keys_on_disk} on disk"
                ));
            }
            if table.marks > 0 {
                let table = &table.table;
                lines.push(format!("{name}/{table}: writes may be missing at peers: run `tradewind verify`"));
            }
            for (peer, reason) in &table.refused {
                let table = &table.table;
                lines.push(format!("{name}/{table}: {peer} takes no writes, and all wait: {reason}"));
            }
            for (origin, writes) in &table.foreign {
                let table = &table.table;
                lines.push(format!(
                    "{name}/{table}: {writes} writes came from {origin}, which is not among its regions here, and go \
                     to no peer: another setup writes to it"
                ));
            }
            if let Some(trouble) = &table.trouble {
                lines.push(format!("{name}/{}: not being replicated: {trouble}", table.table));
            }
        }
    }
    lines.extend(
        status.silent.iter().map(|silent| format!("{}: can't be read: {}", silent.region, silent.error)),
    );
    lines
}

const LINK_HEADS: [&str; 7] =
    ["origin → peer", "watermark age", "heartbeat", "apply p50", "apply p99", "backlog", "arrival age"];
const LINK_WIDTHS: [usize; 7] = [22, 13, 10, 10, 10, 8, 12];
const REGION_HEADS: [&str; 10] = [
    "region",
    "agents",
    "shards",
    "writes/s",
    "repl/s",
    "conflicts",
    "contended",
    "heals",
    "letters",
    "throttled",
];
const REGION_WIDTHS: [usize; 10] = [22, 7, 7, 9, 8, 10, 10, 8, 8, 10];

fn link_cells(link: &Link) -> [String; 7] {
    let lag = link.lag.as_ref();
    [
        format!("{} → {}", link.origin, link.peer),
        link.watermark_age.map_or_else(unknown, seconds),
        link.last_heartbeat_ms.map_or_else(unknown, millis),
        lag.map_or_else(unknown, |lag| millis(lag.p50_ms)),
        lag.map_or_else(unknown, |lag| millis(lag.p99_ms)),
        link.backlog.to_string(),
        link.arrival_age.map_or_else(unknown, seconds),
    ]
}

fn region_cells(view: &RegionView) -> [String; 10] {
    let shards = view.agents.iter().flat_map(|agent| &agent.tables).map(|table| table.shard_count);
    let alive = view.agents.iter().filter(|agent| agent.heard).count();
    [
        view.region.to_string(),
        alive.to_string(),
        if alive > 0 { shards.fold(0, usize::saturating_add).to_string() } else { unknown() },
        format!("{:.1}", view.writes_per_second),
        format!("{:.1}", view.replicated_per_second),
        view.total.conflicts.to_string(),
        view.total.contended.to_string(),
        view.total.heals.to_string(),
        view.total.dead_letters.to_string(),
        view.total.throttled.to_string(),
    ]
}

fn unknown() -> String {
    "?".to_owned()
}

fn millis(millis: f64) -> String {
    if millis < 10_000.0 { format!("{millis:.0} ms") } else { seconds(millis / 1000.0) }
}

fn seconds(seconds: f64) -> String {
    match seconds {
        short if short < 120.0 => format!("{short:.1} s"),
        long if long < 7200.0 => format!("{:.0} min", long / 60.0),
        longer => format!("{:.1} h", longer / 3600.0),
    }
}

/// Left-aligns the first cell, and right-aligns the others.
fn row<const N: usize>(cells: &[impl AsRef<str>; N], widths: [usize; N]) -> String {
    let mut line = String::new();
    for (i, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let cell = cell.as_ref();
        let gap = " ".repeat(width.saturating_sub(cell.chars().count()));
        let (before, after) = if i == 0 { ("", gap.as_str()) } else { (gap.as_str(), "") };
        line.extend([before, cell, after, " "]);
    }
    line.trim_end().to_owned()
}
