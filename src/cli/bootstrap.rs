//! `tradewind bootstrap`.

use clap::Args;

use super::seeding::{SeedArgs, bootstrapped, is_done, text};
use super::{Exit, Failure, report};
use crate::operate::SeedOptions;
use crate::region::Region;

/// Bring existing items into replicas that lack them, while agents and applications go on.
///
/// Streams tell nothing of what was written before they were on. This reads each replica once, looks
/// each key up in the others, and copies what they lack or hold in an older version. A copy is older than every
/// write to come, so applications may write meanwhile. Where replicas hold different items and no
/// version tells which is newer, the region that comes first wins (--prefer, then the order of the
/// configuration); what it replaced is told, and recorded where the table has conflicts = "table".
/// The agents of all regions must run. Interrupted or killed, the same command goes on where it was.
/// Exits with 1 where a copy was refused, or it was interrupted.
#[derive(Debug, Args)]
pub(super) struct Bootstrap {
    #[command(flatten)]
    seed: SeedArgs,
    /// Start over, whatever an earlier bootstrap has done.
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
