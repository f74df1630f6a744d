//! The result of a run: as JSON, as `JUnit` XML, and as one self-contained HTML file.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Value, json};

use crate::checker::{Judgement, Violation};
use crate::history::{History, Millis, Operation, Outcome};
use crate::lag::{Lag, STEP, Stale, lags, stale, ways};
use crate::play::check_recovery;
use crate::rollback::Rollbacks;
use crate::scenario::Scenario;
use crate::told::Told;

const PAGE: &str = include_str!("report.html");
/// The part of the page that the reports replace.
const DATA: &str = "/*REPORTS*/[]";
/// How many violations of a kind a terminal shows.
const MOST_OF_A_KIND: usize = 3;

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub scenario: String,
    pub about: String,
    pub engine: String,
    pub seed: u64,
    pub passed: bool,
    pub regions: Vec<String>,
    pub seconds: f64,
    pub writes: usize,
    pub lost_answers: usize,
    pub deletes: usize,
    /// Keys that are excluded, since no stream shows what was written to them, and a mark says so.
    pub unseen: usize,
    pub agent_writes: usize,
    pub heals: usize,
    pub conflicts: usize,
    /// Rollbacks that an application could see.
    pub rollbacks: Rollbacks,
    /// What feeds have told, if there were any.
    pub told: Option<Told>,
    pub violation_count: usize,
    pub violations: Vec<Violation>,
    pub lags: Vec<Lag>,
    pub stale: Stale,
    /// The plotted data: points every `step` milliseconds.
    pub step: Millis,
    pub faults: Vec<Band>,
    pub application_series: Vec<u32>,
    pub agent_series: Vec<u32>,
    pub heal_series: Vec<u32>,
    pub conflict_series: Vec<u32>,
    /// Replays the run: the scenario, as TOML.
    pub replay: String,
}

/// How a run was made.
#[derive(Clone, Debug)]
pub struct Made<'a> {
    /// What the regions run on.
    pub on: String,
    pub seed: u64,
    /// The scenario, as TOML.
    pub text: &'a str,
    pub end: Millis,
    pub told: Option<Told>,
}

/// A fault, as it is drawn.
#[derive(Clone, Debug, Serialize)]
pub struct Band {
    pub name: String,
    pub from: Millis,
    pub to: Millis,
}

impl Report {
    pub fn new(run: Made<'_>, scenario: &Scenario, history: &History, mut judgement: Judgement) -> Self {
        let Made { on, seed, text, end, told } = run;
        let ways = ways(history, &judgement);
        check_recovery(&mut judgement, scenario, history, &ways);
        let (lags, stale) = (lags(&ways, end), stale(history, &judgement));
        let series = |times: &mut dyn Iterator<Item = Millis>| {
            let mut points = vec![0; usize::try_from(end / STEP).unwrap_or_default() + 1];
            for time in times {
                if let Some(point) = usize::try_from(time / STEP).ok().and_then(|at| points.get_mut(at)) {
                    *point += 1;
                }
            }
            points
        };
        let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let faults = scenario.faults.iter().map(|fault| {
            let link = |from: &Option<String>, to: &Option<String>| match (from, to) {
                (None, None) => String::new(),
                (from, to) => {
                    let any = "any".to_owned();
                    format!(" {} → {}", from.as_ref().unwrap_or(&any), to.as_ref().unwrap_or(&any))
                }
            };
            let what = fault.error.as_ref().map(|error| format!(" {error}")).unwrap_or_default();
            let place = fault.region.as_ref().map(|region| format!(" {region}")).unwrap_or_default();
            Band {
                name: format!("{:?}{what}{place}{}", fault.kind, link(&fault.from, &fault.to)),
                from: millis(fault.at),
                to: millis(fault.at + fault.lasts),
            }
        });
        let mut issued: Vec<Millis> =
            judgement.issued.values().flatten().map(|(_, issued)| issued.at).collect();
        issued.sort_unstable();
        let application_series = series(&mut issued.iter().copied());
        let all: Vec<u32> = series(&mut history.seen.iter().map(|seen| seen.at));
        let agent_series =
            all.iter().zip(&application_series).map(|(all, own)| all.saturating_sub(*own)).collect();
        Self {
            scenario: scenario.name.clone(),
            about: scenario.about.clone(),
            engine: on,
            seed,
            passed: judgement.violation_count == 0,
            regions: history.regions.clone(),
            #[expect(clippy::cast_precision_loss, reason = "runs are short")]
            seconds: end as f64 / 1000.0,
            writes: history.writes.len(),
            unseen: history.unseen.len(),
            lost_answers: history.writes.iter().filter(|write| write.outcome == Outcome::Maybe).count(),
            deletes: history.writes.iter().filter(|write| write.operation == Operation::Delete).count(),
            agent_writes: judgement.agent_writes,
            heals: judgement.heals.len(),
            conflicts: judgement.conflicts.len(),
            rollbacks: Rollbacks::of(&judgement.rollbacks, end),
            told,
            violation_count: judgement.violation_count,
            lags,
            stale,
            step: STEP,
            faults: faults.collect(),
            application_series,
            agent_series,
            heal_series: series(&mut judgement.heals.iter().copied()),
            conflict_series: series(&mut judgement.conflicts.iter().copied()),
            violations: judgement.violations,
            replay: text.to_owned(),
        }
    }

    /// The longest that a write took to a peer.
    pub fn max_lag(&self) -> Millis {
        self.lags.iter().map(|lag| lag.max).max().unwrap_or_default()
    }

    /// Those that are allowed, if there were any.
    fn late_rollbacks(&self) -> String {
        match self.rollbacks {
            Rollbacks { late: 0, .. } => String::new(),
            Rollbacks { late, longest_late, .. } => {
                format!(" (and {late} of an agent that was late or away, for at most {longest_late} ms)")
            }
        }
    }

    /// What feeds have told, if there were any.
    fn feeds(&self) -> String {
        self.told.map_or_else(String::new, |Told { writes, states, repetitions, parked, .. }| {
            format!(
                ", feeds told {writes} writes and {states} states, and {repetitions} events again, and parked {parked}"
            )
        })
    }

    /// One line, and one more for each violation.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{}  {:<20} {:<15} seed {}: {} writes, {} by agents, {} heals, {} conflicts, rollbacks seen by an application: {}{}{}, lag at most {} ms, stale at most {} ms",
            if self.passed { "passed" } else { "FAILED" },
            self.scenario,
            self.engine,
            self.seed,
            self.writes,
            self.agent_writes,
            self.heals,
            self.conflicts,
            self.rollbacks.seen,
            self.late_rollbacks(),
            self.feeds(),
            self.max_lag(),
            self.stale.longest,
        );
        let mut told: HashMap<&str, usize> = HashMap::new();
        for violation in &self.violations {
            let told = told.entry(violation.kind).or_default();
            *told += 1;
            if *told > MOST_OF_A_KIND {
                continue;
            }
            let key = violation.key.as_ref().map(|key| format!(" key {key}:")).unwrap_or_default();
            let _ = write!(text, "\n        {}:{key} {}", violation.kind, violation.message);
        }
        if told.values().any(|told| *told > MOST_OF_A_KIND) {
            let _ =
                write!(text, "\n        ... {} in all; the report has their histories", self.violation_count);
        }
        text
    }
}

/// All runs, as one page.
pub fn html(reports: &[Report]) -> crate::Result<String> {
    // A `</script>` in the data would end it.
    let data = serde_json::to_string(reports)?.replace('<', "\\u003c");
    Ok(PAGE.replacen(DATA, &data, 1))
}

pub fn json(reports: &[Report]) -> Value {
    json!({ "passed": reports.iter().all(|report| report.passed), "runs": reports })
}

/// The format that CI servers read.
pub fn junit(reports: &[Report]) -> String {
    let failures = reports.iter().filter(|report| !report.passed).count();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"tradewind-chaos\" tests=\"{}\" failures=\"{failures}\">\n",
        reports.len()
    );
    // Writing to memory does not fail.
    for report in reports {
        let (name, engine) = (escape(&report.scenario), &report.engine);
        let _ =
            write!(xml, "  <testcase classname=\"{engine}\" name=\"{name}\" time=\"{:.1}\">", report.seconds);
        if !report.passed {
            let _ = write!(xml, "<failure message=\"{} violations\">", report.violation_count);
            for violation in &report.violations {
                let key = violation.key.as_deref().unwrap_or("-");
                let _ = writeln!(xml, "{} {}: {}", violation.kind, escape(key), escape(&violation.message));
            }
            xml.push_str("</failure>");
        }
        xml.push_str("</testcase>\n");
    }
    xml.push_str("</testsuite>\n");
    xml
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
