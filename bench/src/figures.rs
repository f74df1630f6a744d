//! All measurements, as JSON and as a table.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ceiling::Ceiling;
use crate::cost::Cost;
use crate::drain::{Drain, harmonic};
use crate::feed::{Feed, FeedDrain, FeedLag};
use crate::steady::Steady;

/// All figures of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figures {
    pub machine: Machine,
    pub engine: String,
    pub ceiling: Ceiling,
    pub drain: Vec<Drain>,
    pub steady: Vec<Steady>,
    /// Earlier runs have none.
    #[serde(default)]
    pub feed: Option<Feed>,
    pub costs: Vec<Cost>,
}

/// What it ran on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub processor: Option<String>,
    pub cores: Option<usize>,
    /// Whether the binary was built with optimisations.
    pub optimised: bool,
}

impl Machine {
    pub(crate) fn this() -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            processor: model.map(|(_, model)| model.to_owned()),
            cores: std::thread::available_parallelism().ok().map(Into::into),
            optimised: !cfg!(debug_assertions),
        }
    }
}

/// A rate; with CPU time, the rate per second of CPU time.
pub(crate) fn per_second(count: u64, time: Duration) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / time.as_secs_f64().max(1e-6)
}

impl Figures {
    /// The figures as text.
    pub fn table(&self) -> String {
        let Self { machine, engine, ceiling, .. } = self;
        let build = if machine.optimised { "" } else { ", built without optimisations" };
        let mut lines = vec![
            format!(
                "{engine}, {} × {}{build}",
                machine.cores.unwrap_or_default(),
                machine.processor.as_deref().unwrap_or("unknown processor")
            ),
            format!(
                "ceiling  {:.0} conditional puts a second, {} at once; the SDK's CPU {} µs each",
                ceiling.per_second,
                ceiling.concurrency,
                or_none(ceiling.cpu_us_per_put)
            ),
            String::new(),
            format!(
                "{:<8}{:>10}{:>12}{:>12}{:>10}{:>10}{:>14}{:>10}",
                "drain", "records", "records/s", "writes/s", "ceiling", "ratio", "CPU µs/rec", "peak MiB"
            ),
        ];
        for drain in &self.drain {
            lines.push(format!(
                "{:<8}{:>10}{:>12.0}{:>12.0}{:>10.0}{:>10.2}{:>14}{:>10}",
                format!("{} peer{}", drain.peers, if drain.peers == 1 { "" } else { "s" }),
                drain.records,
                drain.records_per_second,
                drain.writes_per_second,
                harmonic(drain.ceiling_per_second[0], drain.ceiling_per_second[1]),
                drain.ratio,
                or_none(drain.cpu_us_per_record),
                or_none(drain.peak_mib),
            ));
        }
        lines.push(String::new());
        lines.push(format!(
            "{:<8}{:>10}{:>9}{:>9}{:>9}{:>9}{:>10}{:>10}{:>10}{:>14}{:>10}",
            "lag, ms",
            "writes/s",
            "p50",
            "p99",
            "p99.9",
            "max",
            "least",
            "p50/least",
            "p99/least",
            "CPU µs/write",
            "peak MiB"
        ));
        for steady in &self.steady {
            lines.push(format!(
                "{:<8}{:>10.0}{:>9.0}{:>9.0}{:>9.0}{:>9.0}{:>10.0}{:>10.2}{:>10.2}{:>14}{:>10}",
                format!("{:.0} %", steady.load * 100.0),
                steady.application_writes_per_second,
                steady.p50_ms,
                steady.p99_ms,
                steady.p999_ms,
                steady.max_ms,
                steady.least_ms,
                steady.p50_ratio,
                steady.p99_ratio,
                or_none(steady.cpu_us_per_write),
                or_none(steady.peak_mib),
            ));
        }
        lines.extend(self.feed.iter().flat_map(feed_lines));
        lines.push(String::new());
        lines.push(format!(
            "{:<9}{:<9}{:>7}{:>8}{:>17}{:>14}{:>19}{:>12}",
            "a write",
            "keys",
            "bytes",
            "writes",
            "requests at peer",
            "units there",
            "requests at origin",
            "its units"
        ));
        for cost in &self.costs {
            lines.push(format!(
                "{:<9}{:<9}{:>7}{:>8}{:>17.3}{:>14}{:>19.3}{:>12.2}",
                format!("{:?}", cost.operation).to_lowercase(),
                format!("{:?}", cost.keys).to_lowercase(),
                cost.bytes,
                cost.writes,
                cost.requests_at_peer,
                cost.units_at_peer.map_or("-".to_owned(), |units| format!("{units:.2}")),
                cost.requests_at_origin,
                cost.application_units,
            ));
        }
        lines.join("\n")
    }
}

/// What a feed into a file does.
fn feed_lines(feed: &Feed) -> Vec<String> {
    let FeedDrain { events, ceiling_per_second: [before, after], .. } = &feed.drain;
    let mut lines = vec![
        String::new(),
        format!(
            "{:<8}{:>10}{:>12}{:>10}{:>10}{:>14}{:>20}{:>10}",
            "feed",
            "events",
            "events/s",
            "ceiling",
            "ratio",
            "CPU µs/event",
            "requests a thousand",
            "peak MiB"
        ),
        format!(
            "{:<8}{:>10}{:>12.0}{:>10.0}{:>10.2}{:>14}{:>20.1}{:>10}",
            "to file",
            events,
            feed.drain.events_per_second,
            harmonic(*before, *after),
            feed.drain.ratio,
            or_none(feed.drain.cpu_us_per_event),
            feed.drain.requests_per_thousand,
            or_none(feed.drain.peak_mib),
        ),
        String::new(),
        format!(
            "{:<8}{:>10}{:>9}{:>9}{:>9}{:>10}{:>10}{:>20}",
            "lag, ms", "writes/s", "p50", "p99", "max", "least", "p50/least", "requests a thousand"
        ),
    ];
    for lag in &feed.steady {
        let FeedLag { load, writes_per_second, p50_ms, p99_ms, max_ms, least_ms, p50_ratio, .. } = lag;
        let load = format!("{:.0} %", load * 100.0);
        lines.push(format!(
            "{load:<8}{writes_per_second:>10.0}{p50_ms:>9.0}{p99_ms:>9.0}{max_ms:>9.0}{least_ms:>10.0}{p50_ratio:>10.2}{:>20.1}",
            lag.requests_per_thousand
        ));
    }
    lines
}

fn or_none(figure: Option<f64>) -> String {
    figure.map_or("-".to_owned(), |figure| format!("{figure:.0}"))
}
