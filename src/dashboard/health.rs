//! Whether agents are alive, and whether they are ready. Each answer is one word, since anyone may ask.

use std::time::Duration;

use crate::agent::{Figures, TableStanding};
use crate::source::ShardId;

/// A region counts as not answering once its control table has been silent for this long.
const SILENCE: Duration = Duration::from_secs(30);

/// Whether every shard that the agents hold has been read within `timeout`, or can't be read by anyone: if
/// the stream fails, or the control table is silent so that nothing may be written, a new process would fare
/// no better.
pub(crate) fn live(agents: &[Figures], timeout: Duration) -> Result<(), &'static str> {
    let halted = |table: &TableStanding| unread(table, timeout).any(|shard| !table.failing.contains(shard));
    let answered = agents.iter().filter(|agent| !is_silent(agent));
    if answered.flat_map(Figures::standings).any(|table| halted(&table)) { Err("halted") } else { Ok(()) }
}

/// The shards of a table that have not been read within `timeout`. Each is polled at least twice a second.
fn unread(table: &TableStanding, timeout: Duration) -> impl Iterator<Item = &ShardId> {
    table.unread.iter().filter(move |(_, unread)| **unread >= timeout).map(|(shard, _)| shard)
}

fn is_silent(agent: &Figures) -> bool {
    agent.crew().is_none_or(|(_, looked)| looked >= SILENCE)
}

/// Whether each agent's region answers, and the agent replicates a table and reads its shards.
pub(super) fn ready(agents: &[Figures], timeout: Duration) -> Result<(), &'static str> {
    for agent in agents {
        if is_silent(agent) {
            return Err("silence");
        }
        let standings = agent.standings();
        if standings.iter().any(|table| unread(table, timeout).next().is_some()) {
            return Err("unread");
        }
        if !standings.is_empty() && !standings.iter().any(|table| table.is_replicating) {
            return Err("idle");
        }
    }
    Ok(())
}
