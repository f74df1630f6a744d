//! Whether agents are alive, and whether they are ready. Each answer is one word, for anyone may ask.

use std::time::Duration;

use crate::agent::{Figures, TableStanding};

/// A shard that this agent has not read for so long has come to a halt. It is asked at least twice a
/// second; while its region does not answer, tries are half a minute apart.
const HALT: Duration = Duration::from_mins(2);
/// A region whose control table has not answered for so long does not answer.
const SILENCE: Duration = Duration::from_secs(30);

/// Whether every shard that the agents hold is being read.
pub(super) fn live(agents: &[Figures]) -> Result<(), &'static str> {
    let halted = |table: &TableStanding| table.unread.values().any(|unread| *unread >= HALT);
    if agents.iter().flat_map(Figures::standings).any(|table| halted(&table)) {
        Err("halted")
    } else {
        Ok(())
    }
}

/// Whether each agent's region answers, and it replicates a table.
pub(super) fn ready(agents: &[Figures]) -> Result<(), &'static str> {
    for agent in agents {
        if agent.crew().is_none_or(|(_, looked)| looked >= SILENCE) {
            return Err("silence");
        }
        let standings = agent.standings();
        if !standings.is_empty() && !standings.iter().any(|table| table.is_replicating) {
            return Err("idle");
        }
    }
    Ok(())
}
