//! Waits until the peers have everything that was written to a table in one region before the call.
//!
//! ```sh
//! cargo run --example wait_for_peers -- regions.toml orders tokyo
//! ```
//!
//! An agent of that region must run: it answers. `tradewind wait` does the same for all tables at once.

use std::error::Error;
use std::io::{Write, stdout};
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;
use tradewind::config::Config;
use tradewind::operate::{TableReplicas, wait};
use tradewind::region::Region;

/// How long the peers may take.
const PATIENCE: Duration = Duration::from_mins(1);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, table, origin] = arguments.as_slice() else {
        return Err("usage: wait_for_peers FILE TABLE REGION".into());
    };
    let config = Config::load(Path::new(file))?;
    let regions = Region::connect_all(&config).await?;
    let table = config.tables.iter().find(|known| known.name == *table).ok_or("no table of that name")?;
    let table = TableReplicas::of(table.clone(), &regions)?;
    let origin = table.replica_in(&origin.parse()?).ok_or("the table has no replica in that region")?;

    let arrivals = wait([origin], &origin.peers(), Instant::now() + PATIENCE, |_| {}).await?;
    for arrival in &arrivals {
        let found = if !arrival.is_complete() {
            "lacks some of it"
        } else if arrival.marks.is_empty() {
            "has everything"
        } else {
            "may lack what no agent could read: run `tradewind verify`"
        };
        writeln!(stdout(), "{}: {found}", arrival.peer)?;
    }
    if arrivals.iter().all(|arrival| arrival.is_complete() && arrival.marks.is_empty()) {
        Ok(())
    } else {
        Err("not all peers have everything".into())
    }
}
