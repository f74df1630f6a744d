//! Beats: each agent of a region reports regularly that it is alive.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::pause::{self, PausedDestinations};
use super::{
    AGENTS, ControlTable, FeedBegins, PK, Row, SK, feed_begin, number, read_number, read_text, text,
};
use crate::fault::Fault;
use crate::protocol::Origin;

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

/// The last beat of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// Increases with each beat.
    pub count: u64,
    /// The paused destinations, to which the agent writes nothing.
    pub paused: PausedDestinations,
    /// The regions in its configuration. An agent that reports none is of an older version.
    pub regions: Vec<Origin>,
    /// The fingerprint of its configuration: see [`crate::config::Config::fingerprint`].
    pub configuration: String,
}

/// The agents of a region, and the pauses set for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CrewTable {
    pub beats: BTreeMap<AgentId, Beat>,
    /// Pauses, including those that are over.
    pub pauses: PausedDestinations,
    pub feeds: FeedBegins,
}

const COUNT: &str = "beat";
const PAUSED: &str = "paused";
const REGIONS: &str = "regions";
const CONFIGURATION: &str = "configuration";

impl ControlTable {
    /// Records that an agent is alive.
    pub async fn beat(&self, agent: &AgentId, beat: &Beat) -> Result<(), Fault> {
        let mut row = Row::from([
            (PK.to_owned(), text(AGENTS)),
            (SK.to_owned(), text(agent.as_str())),
            (COUNT.to_owned(), number(beat.count)),
            (REGIONS.to_owned(), text(beat.regions.iter().map(Origin::as_str).collect::<Vec<_>>().join(" "))),
            (CONFIGURATION.to_owned(), text(&beat.configuration)),
        ]);
        if !beat.paused.is_empty() {
            row.insert(PAUSED.to_owned(), pause::write_kept(&beat.paused));
        }
        self.put(row).await
    }

    /// Deregisters an agent that has stopped, or has been silent for long.
    pub async fn strike(&self, agent: &AgentId) -> Result<(), Fault> {
        let delete = self.client.delete_item().table_name(&self.name);
        delete.key(PK, text(AGENTS)).key(SK, text(agent.as_str())).send().await?;
        Ok(())
    }

    /// The last beat of each agent, and the pauses.
    pub async fn crew(&self) -> Result<CrewTable, Fault> {
        let rows = self.rows(AGENTS).await?;
        Ok(CrewTable {
            beats: rows.iter().filter_map(read).collect(),
            pauses: rows.iter().filter_map(pause::read).collect(),
            feeds: rows.iter().filter_map(feed_begin::read).collect(),
        })
    }
}

pub(super) fn read(row: &Row) -> Option<(AgentId, Beat)> {
    let regions = read_text(row, REGIONS).unwrap_or_default().split_whitespace();
    let beat = Beat {
        count: read_number(row, COUNT)?,
        paused: pause::read_kept(row, PAUSED),
        regions: regions.filter_map(|name| name.parse().ok()).collect(),
        configuration: read_text(row, CONFIGURATION).unwrap_or_default().to_owned(),
    };
    Some((AgentId::from(read_text(row, SK)?), beat))
}
