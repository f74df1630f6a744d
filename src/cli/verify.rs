//! `tradewind verify`.

use std::time::Duration;

use clap::Args;

use super::progress::Progress;
use super::{ConfigFile, Exit, Failure, report};
use crate::operate::{Options, Verification, verify};
use crate::region::Region;

/// Compare the replicas item by item, and print the keys that differ and why.
///
/// Scans every replica with strongly consistent reads, which is charged as such, and takes about
/// 150 bytes of memory an item. What differs at first may be on its way: it is read again until it
/// agrees, or for as long as --settle says. Exits with 1 where replicas differ.
#[derive(Debug, Args)]
pub(super) struct Verify {
    #[command(flatten)]
    config: ConfigFile,
    /// Scans at once, a replica.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    segments: u16,
    /// How long replicas may take to agree on what differed at first.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    settle: Duration,
    /// How many differing keys to print, a table; all are counted.
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

impl Verify {
    pub(super) async fn run(self, json: bool) -> Result<Exit, Failure> {
        let config = self.config.load()?;
        let regions = Region::connect_all(&config).await;
        let options = Options { segments: self.segments, settle: self.settle, limit: self.limit };
        let mut progress = Progress::new("comparing", None, json);
        let result = verify(&config, &regions, options, |table, scanned| {
            progress.update(scanned.items, || format!("items of about {} ({table})", scanned.estimate));
        })
        .await;
        progress.finish();
        let verification = result?;
        report(json, &verification, text)?;
        Ok(if verification.agrees() { Exit::Done } else { Exit::Differs })
    }
}

fn text(verification: &Verification) -> String {
    let mut lines = Vec::new();
    for table in &verification.tables {
        lines.extend(table.differences.iter().map(ToString::to_string));
        let hidden = table.items_differing - table.differences.len();
        if hidden > 0 {
            lines.push(format!("... and {hidden} more"));
        }
        for gap in &table.gaps {
            let state = if table.items_differing == 0 { "closed, nothing differs" } else { "not closed" };
            lines.push(format!("{}: {gap}; {state}", table.table));
        }
        lines.push(format!(
            "{}: {} items compared, {} differing",
            table.table, table.items_compared, table.items_differing
        ));
    }
    lines.join("\n")
}
