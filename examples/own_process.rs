//! Runs the agent of one region inside your own process.
//!
//! ```sh
//! tradewind init --create-tables
//! cargo run --example own_process -- regions.toml tokyo
//! ```
//!
//! `tradewind run` does more than this: it serves the page and the metrics (`tradewind::dashboard`), reports to all
//! regions (`tradewind::observe`), and compares the replicas where `[anti_entropy]` says so
//! (`tradewind::operate::anti_entropy`).

use std::error::Error;
use std::io::{Write, stderr, stdout};
use std::path::Path;

use tradewind::agent::Agent;
use tradewind::config::Config;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, region] = arguments.as_slice() else {
        return Err("usage: own_process FILE REGION".into());
    };
    // The library logs with `tracing`; the process decides where that goes.
    tracing_subscriber::fmt().with_writer(stderr).init();

    let config = Config::load(Path::new(file))?;
    let mut agent = Agent::start(&config, region).await?;
    tokio::select! {
        told = tokio::signal::ctrl_c() => told?,
        () = agent.ended() => return Err("the agent stopped unexpectedly; its log says why".into()),
    }

    let figures = agent.figures().clone();
    // An agent that is only dropped stops at once, and repeats what was in progress after the next start.
    agent.stop().await;
    for table in figures.report() {
        writeln!(stdout(), "{}: {} writes replicated", table.table, table.tally.replicated)?;
    }
    Ok(())
}
