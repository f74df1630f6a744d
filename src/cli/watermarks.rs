//! `tradewind watermarks`.

use clap::Args;

use super::{ConfigFile, Exit, Failure, moment, report};
use crate::operate::{Watermark, tables, watermarks};
use crate::region::Region;

/// Print, for each origin and peer, up to when the peer has everything.
///
/// A watermark is durable: whatever happens to an agent, it never goes back. It is coarse: where nothing is
/// written it lags by about two minutes. Use `tradewind wait` for the very last write.
#[derive(Debug, Args)]
pub(super) struct Watermarks {
    #[command(flatten)]
    config: ConfigFile,
}

impl Watermarks {
    pub(super) async fn run(self, json: bool) -> Result<Exit, Failure> {
        let config = self.config.load()?;
        let regions = Region::connect_all(&config).await?;
        let tables = tables(&config, &regions).await?;
        report(json, &watermarks(&tables).await?, |all| all.iter().map(text).collect::<Vec<_>>().join("\n"))?;
        Ok(Exit::Done)
    }
}

fn text(watermark: &Watermark) -> String {
    let Watermark { table, origin, peer, millis } = watermark;
    match millis {
        Some(millis) => {
            format!("{table}: {peer} has everything written in {origin} before {}", moment(*millis))
        }
        None => format!("{table}: {peer} has no watermark of {origin} yet"),
    }
}
