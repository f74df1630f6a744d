//! Beats: each agent of a region says, now and then, that it is alive.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{ControlTable, PK, Row, SK, number, read_number, read_text, text};
use crate::fault::Fault;

/// The name of one running agent; no two ever share one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentId(Arc<str>);

impl AgentId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for AgentId {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const BEATS: &str = "agent";

impl ControlTable {
    /// Says that an agent is alive, for the `beat`-th time.
    pub async fn beat(&self, agent: &AgentId, beat: u64) -> Result<(), Fault> {
        self.put(Row::from([
            (PK.to_owned(), text(BEATS)),
            (SK.to_owned(), text(agent.as_str())),
            ("beat".to_owned(), number(beat)),
        ]))
        .await
    }

    /// Takes an agent off the list: it has stopped, or has been silent for long.
    pub async fn strike(&self, agent: &AgentId) -> Result<(), Fault> {
        let delete = self.client.delete_item().table_name(&self.name);
        delete.key(PK, text(BEATS)).key(SK, text(agent.as_str())).send().await?;
        Ok(())
    }

    /// The last beat of each agent.
    pub async fn beats(&self) -> Result<BTreeMap<AgentId, u64>, Fault> {
        let rows = self.rows(BEATS).await?;
        Ok(rows
            .iter()
            .filter_map(|row| Some((AgentId::from(read_text(row, SK)?), read_number(row, "beat")?)))
            .collect())
    }
}
