//! Whole runs: a good build passes, and the checker notices each broken one. Needs the agents' binary,
//! which a build of the workspace makes.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Command;

/// Runs a scenario: its exit code, and its report.
fn run(arguments: &[&str]) -> (Option<i32>, serde_json::Value) {
    let out = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tradewind-chaos"));
    command.args(["run", "--json", "--seed", "7", "--out"]).arg(out.path()).args(arguments);
    let output = command.output().expect("a process");
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), report)
}

fn is_noticed(defect: &str, scenario: &str) {
    let (code, report) = run(&[scenario, "--defect", defect]);
    assert_eq!(code, Some(1), "{defect} went by unnoticed: {report:#}");
}

#[test]
fn a_good_build_passes() {
    let (code, report) = run(&["kill"]);
    assert_eq!(code, Some(0), "{report:#}");
}

macro_rules! defects {
    ($($test:ident: $defect:literal in $scenario:literal),* $(,)?) => {
        $(#[test] fn $test() { is_noticed($defect, $scenario); })*
    };
}

defects!(
    puts_without_a_condition_are_noticed: "unconditional" in "hot-key",
    heals_that_are_not_made_are_noticed: "no-heals" in "hot-key",
    writes_that_are_lost_are_noticed: "lost-writes" in "calm",
    pages_that_are_lost_are_noticed: "lost-pages" in "calm",
    deletes_that_are_not_told_are_noticed: "no-marks" in "calm",
    items_without_a_stamp_are_noticed: "no-stamps" in "calm",
    a_clock_that_lies_is_noticed: "lying-clock" in "calm",
);
