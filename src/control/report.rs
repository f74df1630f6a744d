//! Reports: each agent reports its state in every region, so that any region knows about all.

use super::{ControlTable, EXPIRES, PK, Row, SK, number, read_number, read_text, text};
use crate::control::AgentId;
use crate::fault::Fault;
use crate::protocol::{Item, Origin};

/// A report as stored in the control table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedReport {
    /// The region of the reporting agent.
    pub region: Origin,
    pub agent: AgentId,
    /// Increases with each report of the agent.
    pub beat: u64,
    /// The report itself, as JSON.
    pub body: String,
}

/// How long the report of an agent that no longer runs is kept, in seconds.
const KEPT: u64 = 86_400;
pub(super) const REPORTS: &str = "report";
const BEAT: &str = "beat";

impl ControlTable {
    /// Saves an agent's report, in place of its last one.
    pub async fn save_report(&self, report: &SavedReport, now_millis: u64) -> Result<(), Fault> {
        let SavedReport { region, agent, beat, body } = report;
        self.put(Row::from([
            (PK.to_owned(), text(REPORTS)),
            (SK.to_owned(), text(format!("{region} {agent}"))),
            (EXPIRES.to_owned(), number(now_millis / 1000 + KEPT)),
            (BEAT.to_owned(), number(beat)),
            ("body".to_owned(), text(body)),
        ]))
        .await
    }

    /// The last report of each agent of every region.
    pub async fn reports(&self) -> Result<Vec<SavedReport>, Fault> {
        Ok(self.rows(REPORTS).await?.iter().filter_map(read).collect())
    }
}

impl SavedReport {
    /// Whether this is the report's image in a stream.
    pub fn is_shown_by(&self, image: &Item) -> bool {
        read(image).is_some_and(|shown| shown.agent == self.agent && shown.beat == self.beat)
    }
}

pub(super) fn read(row: &Row) -> Option<SavedReport> {
    if read_text(row, PK)? != REPORTS {
        return None;
    }
    let (region, agent) = read_text(row, SK)?.split_once(' ')?;
    Some(SavedReport {
        region: region.parse().ok()?,
        agent: AgentId::from(agent),
        beat: read_number(row, BEAT)?,
        body: read_text(row, "body")?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_known_by_its_image() {
        let row = |beat: u64| {
            Row::from([
                (PK.to_owned(), text(REPORTS)),
                (SK.to_owned(), text("dublin 0123")),
                (BEAT.to_owned(), number(beat)),
                ("body".to_owned(), text("{}")),
            ])
        };
        let report = read(&row(7)).expect("a report");
        assert_eq!(report.region.as_str(), "dublin");
        assert!(report.is_shown_by(&row(7)));
        assert!(!report.is_shown_by(&row(6)), "an older beat that appears late is not this one");
    }
}
