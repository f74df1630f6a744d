//! Whether agents are alive, and whether they are ready. Each answer is one word, for anyone may ask.

use std::time::Duration;

use crate::agent::{Figures, TableStanding};

/// A region whose control table has not answered for so long does not answer.
const SILENCE: Duration = Duration::from_secs(30);

/// Whether every shard that the agents hold has been read within `timeout`. It is asked at least twice
/// a second; while its region does not answer, tries are up to a quarter of a minute apart.
pub(crate) fn live(agents: &[Figures], timeout: Duration) -> Result<(), &'static str> {
    let halted = |table: &TableStanding| table.unread.values().any(|unread| *unread >= timeout);
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
