//! `tradewind verify`.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::progress::{Progress, left};
use super::{ConfigFile, Exit, Failure, print, report};
use crate::config::TableConfig;
use crate::operate::{
    Audience, Difference, Options, Scanned, Stage, TableVerdict, Verification, named_tables, verify,
};
use crate::region::Region;

/// Compare the replicas item by item, and print the keys that differ and why.
///
/// Scans every replica once, with strongly consistent reads: one read unit per 4 KB. What differs in the
/// scans may still be on its way, so it is reread by key. It is reported only if it is unchanged after the
/// agents have confirmed that everything written before is everywhere; or, if no agents run, if it differs
/// for as long as --settle says. Keys that are written all the time are counted separately. Memory is bounded; the
/// rest goes to unnamed temporary files. Exits with 1 if replicas differ.
#[derive(Debug, Args)]
pub(super) struct Verify {
    #[command(flatten)]
    config: ConfigFile,
    /// Only this table; may be repeated. Default: all.
    #[arg(long, value_name = "TABLE")]
    table: Vec<String>,
    /// Concurrent scans per replica.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    segments: u16,
    /// How long replicas may take to agree on what differed at first, if no agents confirm that everything
    /// has arrived.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    settle: Duration,
    /// How many differing keys to print per table; all are counted.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Print every differing key as soon as it is known; with --json one object per line, and the result in
    /// the last line.
    #[arg(long)]
    each: bool,
    /// At most this many read units per second and region. Default: no limit.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    read_units: Option<u32>,
    /// Memory for keys that not all replicas have shown yet; the rest goes to temporary files.
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    memory_mib: u32,
}

impl Verify {
    pub(super) async fn run(self, json: bool) -> Result<Exit, Failure> {
        let mut config = self.config.load()?;
        let regions = Region::connect_all(&config).await?;
        // Exactly these tables, and no pattern that finds more.
        let tables = named_tables(&config, &regions, &self.table).await?;
        config.tables = tables.iter().map(|table| TableConfig::clone(&table.config)).collect();
        config.patterns.clear();
        let mebibytes = usize::try_from(self.memory_mib).unwrap_or(usize::MAX);
        let options = Options {
            segments: self.segments,
            settle: self.settle,
            limit: if self.each { 0 } else { self.limit },
            read_units: self.read_units,
            memory: mebibytes.saturating_mul(1024 * 1024),
        };
        let progress = Progress::new("comparing", None, json);
        let mut screen = Screen { progress, each: self.each, json, items: 0, unwritten: None };
        let result = verify(&config, &regions, options, &mut screen).await;
        screen.progress.finish();
        let verification = result?;
        if let Some(failure) = screen.unwritten {
            return Err(failure);
        }
        report(json, &verification, |verification| text(verification, self.each))?;
        Ok(if verification.agrees() { Exit::Done } else { Exit::Differs })
    }
}

struct Screen {
    progress: Progress,
    each: bool,
    json: bool,
    /// Items read so far.
    items: u64,
    /// Why a difference could not be printed. The comparison continues: its result is stored in the control
    /// tables, too.
    unwritten: Option<Failure>,
}

impl Audience for Screen {
    fn progress(&mut self, table: &str, stage: Stage) {
        if let Stage::Scanning(scanned) = stage {
            self.items = scanned.items;
        }
        self.progress.update(self.items, || match stage {
            Stage::Scanning(scanned) => scanning(table, scanned),
            Stage::Rechecking { suspects } => format!("items; rereading {suspects} ({table})"),
            Stage::WaitingForAgents { suspects } => {
                format!(
                    "items; {suspects} differ so far, asking the agents whether they are on their way ({table})"
                )
            }
        });
    }

    fn difference(&mut self, table: &str, difference: &Difference) {
        if !self.each {
            return;
        }
        let Self { progress, json, unwritten, .. } = self;
        progress.suspend(|| {
            let printed = match json {
                true => print(&json!({ "table": table, "difference": difference })),
                false => print(difference),
            };
            if let Err(failure) = printed {
                *unwritten = Some(failure);
            }
        });
    }
}

/// The progress of the scans, their speed, and about how long they will take.
fn scanning(table: &str, scanned: Scanned) -> String {
    let Scanned { items, estimate, read_units, since } = scanned;
    let seconds = since.elapsed().as_secs_f64().max(0.001);
    let rate = read_units / seconds;
    let left = left(items, estimate, since);
    format!("items of about {estimate}, {rate:.0} read units a second{left} ({table})")
}

fn text(verification: &Verification, each: bool) -> String {
    let mut lines = Vec::new();
    for table in &verification.tables {
        lines.extend(table.differences.iter().map(ToString::to_string));
        let told = table.items_differing + table.versions_differing;
        let hidden = told.saturating_sub(table.differences.len() as u64);
        if hidden > 0 && !each {
            lines.push(format!("... and {hidden} more (--each prints all)"));
        }
        lines.extend(table.gaps.iter().map(|gap| {
            let state = match (table.items_differing, table.items_changing) {
                (0, 0) => "closed, nothing differs",
                (0, _) => "not closed, since some keys kept changing",
                _ => "not closed",
            };
            format!("{}: {gap}; {state}", table.table)
        }));
        lines.extend(notes(table));
        lines.push(format!(
            "{}: {} items compared, {} differing",
            table.table, table.items_compared, table.items_differing
        ));
    }
    lines.join("\n")
}

/// Remarks on a table's verdict, apart from what differs.
fn notes(table: &TableVerdict) -> Vec<String> {
    let name = &table.table;
    let mut lines = Vec::new();
    if table.versions_differing > 0 {
        lines.push(format!(
            "{name}: {} items are the same everywhere, but their stamps have different versions",
            table.versions_differing
        ));
    }
    if table.items_changing > 0 {
        lines.push(format!(
            "{name}: {} keys changed at every read, and are not counted",
            table.items_changing
        ));
    }
    if table.items_differing > 0 && table.agents_answered == Some(false) {
        lines.push(format!(
            "{name}: the agents did not confirm that all had arrived; a difference may be on its way (are all running?)"
        ));
    }
    lines
}
