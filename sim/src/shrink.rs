//! Makes a failing scenario smaller: drops faults and writes while it still fails.

use crate::run::{Report, run};
use crate::settings::Scenario;

/// The smallest failing scenario found with this many runs, and how it fails.
///
/// `notify` is called for each run with how many were made, and how many faults and writes are left.
pub fn shrink(
    scenario: &Scenario,
    most_runs: usize,
    mut notify: impl FnMut(usize, usize, usize),
) -> (Scenario, Report) {
    let mut best = (scenario.clone(), run(scenario, false));
    let mut runs = 1;
    // What comes after the failure can't have caused it.
    if !best.1.passed() {
        let end = best.1.virtual_seconds * 1_000 + 1_000;
        let mut cut = best.0.clone();
        cut.faults.retain(|fault| fault.at <= end);
        cut.writes.retain(|write| write.at <= end);
        try_one(&mut best, cut, &mut runs);
    }
    loop {
        let before = (best.0.faults.len(), best.0.writes.len());
        halve(
            &mut best,
            &mut runs,
            most_runs,
            &mut notify,
            |s| s.faults.len(),
            |s, from, to| {
                s.faults.drain(from..to);
            },
        );
        halve(
            &mut best,
            &mut runs,
            most_runs,
            &mut notify,
            |s| s.writes.len(),
            |s, from, to| {
                s.writes.drain(from..to);
            },
        );
        if runs >= most_runs || before == (best.0.faults.len(), best.0.writes.len()) {
            return best;
        }
    }
}

/// Drops pieces, first large ones, then ever smaller ones.
fn halve(
    best: &mut (Scenario, Report),
    runs: &mut usize,
    most_runs: usize,
    notify: &mut impl FnMut(usize, usize, usize),
    len: impl Fn(&Scenario) -> usize,
    drop: impl Fn(&mut Scenario, usize, usize),
) {
    let mut piece = len(&best.0);
    while piece > 0 {
        let mut from = 0;
        while from < len(&best.0) && *runs < most_runs {
            let to = (from + piece).min(len(&best.0));
            let mut smaller = best.0.clone();
            drop(&mut smaller, from, to);
            if !try_one(best, smaller, runs) {
                from = to;
            }
            notify(*runs, best.0.faults.len(), best.0.writes.len());
        }
        piece /= 2;
    }
}

fn try_one(best: &mut (Scenario, Report), scenario: Scenario, runs: &mut usize) -> bool {
    *runs += 1;
    let report = run(&scenario, false);
    let still_fails = !report.passed();
    if still_fails {
        *best = (scenario, report);
    }
    still_fails
}
