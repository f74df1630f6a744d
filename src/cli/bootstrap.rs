//! `tradewind bootstrap`.

use clap::Args;

use super::seeding::{SeedArgs, bootstrapped, is_done, text};
use super::{Exit, Failure, report};
use crate::operate::SeedOptions;
use crate::region::Region;

/// Copy existing items to replicas that lack them, while agents and applications keep running.
///
/// Streams do not contain what was written before they were turned on. This reads each replica once, looks up
/// each key in the others, and copies what they lack or hold in an older version. A copy is older than every
/// later write, so applications may keep writing. Where replicas hold different items and no version shows
/// which is newer, the region that comes first wins (--prefer, then the order of the configuration); what it
/// replaced is reported, and recorded where the table has conflicts = "table". The agents of all regions must
/// run. If it is interrupted or killed, the same command continues where it was. Exits with 1 if a copy was
/// refused, or if it was interrupted.
#[derive(Debug, Args)]
pub(super) struct Bootstrap {
    #[command(flatten)]
    seed: SeedArgs,
    /// Start over, ignoring the progress of an earlier bootstrap.
    #[arg(long)]
    restart: bool,
}

impl Bootstrap {
    pub(super) async fn run(self, json: bool) -> Result<Exit, Failure> {
        let config = self.seed.config.load()?;
        let options = SeedOptions { restart: self.restart, ..self.seed.options(&config)? };
        let regions = Region::connect_all(&config).await?;
        let results = bootstrapped(&config, &regions, &options, json).await?;
        report(json, &results, |results| text(results))?;
        Ok(if is_done(&results) { Exit::Done } else { Exit::Differs })
    }
}
