//! How fast and how cheaply Tradewind replicates, as ratios to what the endpoint itself can do.
//!
//! A workspace crate, not a command of `tradewind`: what it needs (an engine in a process of its own, java,
//! interceptors, a plot) does not belong in the binary that runs beside a production table.
//!
//! | file | subject |
//! | --- | --- |
//! | `engine` | the endpoints, in a process of their own |
//! | `stage` | regions with fresh tables, and their agents |
//! | `meter` | what the agents' writes to replicas cost, and when they arrived |
//! | `requests` | how many requests an agent sends |
//! | `keys`, `application` | which keys an application chooses, and what it writes |
//! | `process` | this process's CPU time and memory |
//! | `ceiling`, `drain`, `steady`, `feed`, `cost` | the five measurements |
//! | `plan` | how much of each |
//! | `figures` | all measurements, as JSON and as a table |
//! | `baseline`, `plot` | compared with an earlier run; as a picture |

mod application;
pub mod baseline;
mod ceiling;
mod cost;
mod drain;
pub mod engine;
mod feed;
pub mod figures;
mod keys;
mod meter;
pub mod plan;
pub mod plot;
mod process;
mod requests;
mod stage;
mod steady;

use std::error::Error;

use self::ceiling::Ceiling;
use self::engine::Engine;
use self::figures::{Figures, Machine};
use self::plan::Plan;

/// A benchmark that can't go on stops with an error.
pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Measures everything, in one run against one engine.
pub async fn measure(engine: &Engine, plan: &Plan) -> Result<Figures> {
    let ceiling = Ceiling::find(engine, plan).await?;
    let mut drain = Vec::new();
    for peers in [1, 2] {
        drain.push(drain::measure(engine, plan, peers, &ceiling).await?);
    }
    let mut steady = Vec::new();
    for load in [0.1, 0.5, 0.8] {
        steady.push(steady::measure(engine, plan, load, &ceiling).await?);
    }
    let feed = Some(feed::measure(engine, plan, &ceiling).await?);
    let costs = cost::measure(engine, plan).await?;
    Ok(Figures { machine: Machine::this(), engine: engine.name(), ceiling, drain, steady, feed, costs })
}
