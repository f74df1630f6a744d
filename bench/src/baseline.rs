//! Compares a run with an earlier one, by ratio.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::figures::Figures;

/// One figure in both runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    pub figure: String,
    pub before: f64,
    pub now: f64,
    /// `now` divided by `before`; `None` if there was nothing before.
    pub ratio: Option<f64>,
}

/// The figures of `now` that `before` has as well.
pub fn compare(before: &Figures, now: &Figures) -> Vec<Change> {
    let before = by_name(before);
    let change = |(figure, now): (String, f64)| {
        let before = *before.get(&figure)?;
        Some(Change { figure, before, now, ratio: (before != 0.0).then(|| now / before) })
    };
    by_name(now).into_iter().filter_map(change).collect()
}

/// The changes as text.
pub fn table(changes: &[Change]) -> String {
    let mut lines =
        vec![format!("{:<44}{:>12}{:>12}{:>10}", "against the baseline", "before", "now", "ratio")];
    for Change { figure, before, now, ratio } in changes {
        let ratio = ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        lines.push(format!("{figure:<44}{before:>12.2}{now:>12.2}{ratio:>10}"));
    }
    lines.join("\n")
}

fn by_name(figures: &Figures) -> BTreeMap<String, f64> {
    let mut named = BTreeMap::from([("ceiling, puts a second".to_owned(), figures.ceiling.per_second)]);
    let mut name = |name: String, figure: Option<f64>| {
        if let Some(figure) = figure {
            named.insert(name, figure);
        }
    };
    for drain in &figures.drain {
        let peers = drain.peers;
        name(format!("drain to {peers}, to the ceiling"), Some(drain.ratio));
        name(format!("drain to {peers}, CPU µs a record"), drain.cpu_us_per_record);
        name(format!("drain to {peers}, peak MiB"), drain.peak_mib);
    }
    for steady in &figures.steady {
        let load = format!("{:.0} %", steady.load * 100.0);
        name(format!("lag at {load}, p50 to the least"), Some(steady.p50_ratio));
        name(format!("lag at {load}, p99 to the least"), Some(steady.p99_ratio));
        name(format!("lag at {load}, CPU µs a write"), steady.cpu_us_per_write);
        name(format!("lag at {load}, peak MiB"), steady.peak_mib);
    }
    if let Some(feed) = &figures.feed {
        name("feed, to the ceiling".to_owned(), Some(feed.drain.ratio));
        name("feed, CPU µs an event".to_owned(), feed.drain.cpu_us_per_event);
        name("feed, requests a thousand events".to_owned(), Some(feed.drain.requests_per_thousand));
        for lag in &feed.steady {
            let load = format!("{:.0} %", lag.load * 100.0);
            name(format!("feed lag at {load}, p50 to the least"), Some(lag.p50_ratio));
        }
    }
    for cost in &figures.costs {
        let what = format!("{:?} {:?} {}", cost.operation, cost.keys, cost.bytes).to_lowercase();
        name(format!("{what}, requests at the peer"), Some(cost.requests_at_peer));
        name(format!("{what}, units at the peer"), cost.units_at_peer);
    }
    named
}
