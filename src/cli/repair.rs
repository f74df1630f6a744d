//! `tradewind repair`.

use clap::Args;

use super::progress::Progress;
use super::seeding::{SeedArgs, show, text};
use super::{Exit, Failure, report};
use crate::operate::{SeedChange, SeedOptions, repair};
use crate::region::Region;

/// Fix differences between replicas, while agents and applications keep running.
///
/// Compares all replicas, as `verify` does, and rereads what differs after the agents have confirmed that
/// everything written is everywhere. The highest version wins, by the stamps of the items. An item last
/// written by an application carries no version, so it is not known to be newer or older: then the region
/// that comes first wins (--prefer, then the order of the configuration), and what it replaced is reported,
/// and recorded where the table has conflicts = "table". An item that a region lacks is put there, even if
/// that region deleted it and the delete was lost; --leave-missing prevents that. With --leave-clashes, items
/// that no version can order are left alone. Nothing is written where replicas agree. Use --dry-run first,
/// and run `verify` afterwards. The agents of all regions must run. Exits with 1 if a copy was refused, or,
/// with --dry-run, if there is something to fix.
#[derive(Debug, Args)]
pub(super) struct Repair {
    #[command(flatten)]
    seed: SeedArgs,
    /// Leave items that some regions lack as they are.
    #[arg(long)]
    leave_missing: bool,
    /// Leave items as they are where no version shows that they are older.
    #[arg(long)]
    leave_clashes: bool,
    /// Memory for keys that not all replicas have shown yet; the rest goes to temporary files.
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    memory_mib: u32,
}

impl Repair {
    pub(super) async fn run(self, json: bool) -> Result<Exit, Failure> {
        let config = self.seed.config.load()?;
        let mebibytes = usize::try_from(self.memory_mib).unwrap_or(usize::MAX);
        let missing = self.leave_missing.then_some(SeedChange::Added);
        let clashes = self.leave_clashes.then_some(SeedChange::Clash);
        let options = SeedOptions {
            leave: missing.into_iter().chain(clashes).collect(),
            memory: mebibytes.saturating_mul(1024 * 1024),
            ..self.seed.options(&config)?
        };
        let regions = Region::connect_all(&config).await?;
        let mut progress = Progress::new("repairing", None, json);
        let results = repair(&config, &regions, &options, &mut |now| show(&mut progress, &now)).await;
        progress.finish();
        let results = results?;
        report(json, &results, |results| text(results))?;
        let done = results.iter().all(|result| {
            result.failed == 0 && (!self.seed.dry_run || result.seeded.values().all(|count| *count == 0))
        });
        Ok(if done { Exit::Done } else { Exit::Differs })
    }
}
