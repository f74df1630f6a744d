//! `tradewind wait`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::time::Instant;

use super::chosen::known;
use super::progress::Progress;
use super::{ConfigFile, Exit, Failure, moment, report};
use crate::config::Config;
use crate::operate::{Arrival, tables, wait};
use crate::protocol::Origin;
use crate::region::Region;

/// Wait until peers have everything written in a region before this call.
///
/// To read your own writes in another region: write, wait, read there. The agents of the region answer, so at
/// least one must run. They rely on writes to show in the stream within two seconds, as DynamoDB's do. Exits
/// with 1 if a peer does not have everything in time, or if the table is marked: writes were lost before
/// agents read them.
#[derive(Debug, Args)]
pub(super) struct Wait {
    #[command(flatten)]
    config: ConfigFile,
    /// The region where the writes were made.
    #[arg(long, value_name = "NAME", env = "TRADEWIND_REGION")]
    region: String,
    /// The peer to wait for; may be repeated. Default: all.
    #[arg(long, value_name = "PEER")]
    until: Vec<String>,
    /// The table; may be repeated. Default: all that the region has.
    #[arg(long, value_name = "TABLE")]
    table: Vec<String>,
    /// How long to wait.
    #[arg(long, default_value = "1m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

#[derive(Serialize)]
struct Waited {
    complete: bool,
    milliseconds: u64,
    arrivals: Vec<Arrival>,
}

impl Wait {
    pub(super) async fn run(self, json: bool) -> Result<Exit, Failure> {
        let config = self.config.load()?;
        let origin = known(&config, &self.region)?;
        let mut peers = self.until.iter().map(|name| known(&config, name)).collect::<Result<Vec<_>, _>>()?;
        if peers.contains(&origin) {
            return Err(Failure::new(
                Exit::Usage,
                format!("{origin} can't wait for itself: --until takes a peer"),
            ));
        }
        if peers.is_empty() {
            peers = config
                .regions
                .iter()
                .map(|region| region.name.clone())
                .filter(|name| *name != origin)
                .collect();
        }
        let began = Instant::now();
        let regions = Region::connect_all(&config).await?;
        let arrivals = self.wait(&config, &regions, &origin, &peers, began + self.timeout, json).await?;
        let complete = arrivals.iter().all(|arrival| arrival.is_complete() && arrival.marks.is_empty());
        let milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        report(json, &Waited { complete, milliseconds, arrivals }, text)?;
        Ok(if complete { Exit::Done } else { Exit::Differs })
    }

    /// Waits for all tables concurrently.
    async fn wait(
        &self,
        config: &Config,
        regions: &BTreeMap<Origin, Region>,
        origin: &Origin,
        peers: &[Origin],
        deadline: Instant,
        json: bool,
    ) -> Result<Vec<Arrival>, Failure> {
        let mut tables = tables(config, regions).await?;
        tables.retain(|table| table.replica_in(origin).is_some());
        let is_there = |name: &&String| tables.iter().any(|table| table.name() == *name);
        if let Some(missing) = self.table.iter().find(|name| !is_there(name)) {
            return Err(Failure::new(Exit::Usage, format!("no table of {origin} is called {missing:?}")));
        }
        tables.retain(|table| self.table.is_empty() || self.table.iter().any(|name| name == table.name()));
        let origins: Vec<_> = tables.iter().filter_map(|table| table.replica_in(origin)).collect();
        let count = origins.len();
        let mut progress = Progress::new("waiting", None, json);
        let are_over = |over| progress.update(over, || format!("of {count} tables"));
        let arrivals = wait(origins, peers, deadline, are_over).await?;
        progress.finish();
        Ok(arrivals)
    }
}

fn text(waited: &Waited) -> String {
    let mut lines: Vec<String> = waited
        .arrivals
        .iter()
        .map(|arrival| {
            let Arrival { table, origin, peer, shards, arrived, paused_until, marks } = arrival;
            if let Some(until) = paused_until {
                format!(
                    "{table}: {peer} lacks writes of {origin}: it is paused until {}; \
                     `tradewind resume --from {origin} --to {peer}` resumes them",
                    moment(*until)
                )
            } else if let (true, Some(mark)) = (arrival.is_complete(), marks.first()) {
                format!(
                    "{table}: {peer} may lack writes of {origin}, and no wait will bring them: {mark}; run \
                     `tradewind verify`, and where replicas differ `tradewind repair`"
                )
            } else if arrival.is_complete() {
                format!("{table}: {peer} has everything that was written in {origin} before the call")
            } else {
                format!("{table}: {peer} lacks writes of {origin}: {arrived} of {shards} shards have arrived")
            }
        })
        .collect();
    if !waited.arrivals.iter().all(Arrival::is_complete) {
        lines.push("timed out; is an agent of the region running, and can it reach the peer?".to_owned());
    }
    lines.join("\n")
}
