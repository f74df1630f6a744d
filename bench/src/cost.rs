//! The cost of replication: requests and write units at the peer and at the origin, for each of an
//! application's writes.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tradewind::agent::Agent;
use tradewind::config::Tuning;

use crate::Result;
use crate::application::Application;
use crate::drain::{arrived, tally};
use crate::engine::Engine;
use crate::keys::{Choice, Keys};
use crate::meter::{Count, Meter};
use crate::plan::Plan;
use crate::stage::Stage;

const SIZES: [usize; 3] = [200, 1_000, 50_000];
/// From this size on, a quarter of the writes is enough.
const LARGE: usize = 10_000;
const WRITERS: usize = 16;
/// Costs don't depend on it, and a short one makes the run shorter.
const POLL: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_mins(1);

/// How an application writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    Put,
    Update,
    /// Of an existing item.
    Delete,
}

/// The cost of one kind of write, in one region, with one peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cost {
    pub operation: Operation,
    pub keys: Choice,
    pub bytes: usize,
    pub writes: u64,
    /// Write requests that agents made to the peer's replica, for each write.
    pub requests_at_peer: f64,
    /// Write units that these took, as reported by the engine; `None` if it does not report any.
    pub units_at_peer: Option<f64>,
    /// Write requests that agents made to the origin's replica.
    pub requests_at_origin: f64,
    /// Write units that the application's own write took.
    pub application_units: f64,
}

/// Two regions, with their agents.
struct Pair {
    stage: Stage,
    origin: (Agent, Meter),
    peer: (Agent, Meter),
}

/// Measures every kind of write, key choice and size.
pub(crate) async fn measure(engine: &Engine, plan: &Plan) -> Result<Vec<Cost>> {
    let tuning = Tuning { poll_interval: POLL, ..Tuning::default() };
    let stage = Stage::set(engine, 2, tuning).await?;
    let (origin, peer) = (stage.start_metered(0).await?, stage.start_metered(1).await?);
    let pair = Pair { stage, origin, peer };
    // The uniform puts, which come first, create every item; the deletes come last.
    let cases = [
        (Operation::Put, Choice::Uniform),
        (Operation::Put, Choice::Zipf),
        (Operation::Update, Choice::Uniform),
        (Operation::Update, Choice::Zipf),
        (Operation::Delete, Choice::Zipf),
        (Operation::Delete, Choice::Uniform),
    ];
    let mut progress = plan.progress("costs", Some((SIZES.len() * cases.len()) as u64));
    let mut costs = Vec::new();
    for bytes in SIZES {
        let items = if bytes >= LARGE { plan.cost_writes / 4 } else { plan.cost_writes };
        let mut present: BTreeSet<u64> = (0..items).collect();
        for (operation, choice) in cases {
            let mut keys = Keys::new(choice, items, 2);
            // Each of the deletes takes a quarter: a deleted item can't be deleted again.
            let chosen = match operation {
                Operation::Put | Operation::Update => (0..items).map(|_| keys.next()).collect(),
                Operation::Delete => (0..items / 4).map(|_| take(&mut keys, &mut present)).collect(),
            };
            costs.push(pair.cost(operation, choice, bytes, chosen).await?);
            progress.update(costs.len() as u64, || format!("items of {bytes} bytes"));
        }
    }
    progress.finish();
    pair.origin.0.stop().await;
    pair.peer.0.stop().await;
    Ok(costs)
}

/// The next existing key, which is then taken away.
fn take(keys: &mut Keys, present: &mut BTreeSet<u64>) -> u64 {
    loop {
        let key = keys.next();
        if present.remove(&key) {
            return key;
        }
    }
}

impl Pair {
    async fn cost(&self, operation: Operation, choice: Choice, bytes: usize, keys: Vec<u64>) -> Result<Cost> {
        let (Self { stage, .. }, writes) = (self, keys.len() as u64);
        let done = || match operation {
            Operation::Put | Operation::Update => arrived(&self.origin.0),
            Operation::Delete => tally(&self.peer.0).deletes_applied,
        };
        let goal = done() + writes;
        drop((self.origin.1.take(), self.peer.1.take()));
        let application = Application { client: stage.client(0).clone(), table: stage.table.clone(), bytes };
        let application_units = write(&application, operation, keys).await?;
        let deadline = Instant::now() + PATIENCE;
        while done() < goal {
            if Instant::now() >= deadline {
                return Err(
                    format!("{:?}: {} writes are missing at the peer", operation, goal - done()).into()
                );
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Unexpected writes would arrive now.
        for (agent, _) in [&self.origin, &self.peer] {
            tokio::time::timeout(PATIENCE, agent.figures().drained(3)).await?;
        }
        let (by_origin, by_peer) = (self.origin.1.take(), self.peer.1.take());
        let per_write = |count: f64| count / application_units.1;
        let at_peer = sum(by_origin.peers, by_peer.own);
        let at_origin = sum(by_origin.own, by_peer.peers);
        Ok(Cost {
            operation,
            keys: choice,
            bytes,
            writes,
            requests_at_peer: per_write(as_f64(at_peer.requests)),
            units_at_peer: (at_peer.unanswered == 0).then(|| per_write(at_peer.units)),
            requests_at_origin: per_write(as_f64(at_origin.requests)),
            application_units: per_write(application_units.0),
        })
    }
}

/// Writes to these keys. Returns the units consumed, and how many writes there were.
async fn write(application: &Application, operation: Operation, keys: Vec<u64>) -> Result<(f64, f64)> {
    let mut keys = keys.into_iter();
    let mut writes: JoinSet<Result<f64>> = JoinSet::new();
    let (mut units, mut count) = (0.0, 0.0);
    loop {
        let key = if writes.len() < WRITERS { keys.next() } else { None };
        if let Some(key) = key {
            let (application, key) = (application.clone(), format!("{}-{key:08}", application.bytes));
            writes.spawn(async move {
                match operation {
                    Operation::Put => application.put(&key, Instant::now()).await,
                    Operation::Update => application.update(&key).await,
                    Operation::Delete => application.delete(&key).await,
                }
            });
        } else if let Some(ended) = writes.join_next().await {
            units += ended??;
            count += 1.0;
        } else {
            return Ok((units, count));
        }
    }
}

fn sum(a: Count, b: Count) -> Count {
    Count {
        requests: a.requests + b.requests,
        units: a.units + b.units,
        unanswered: a.unanswered + b.unanswered,
    }
}

fn as_f64(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
