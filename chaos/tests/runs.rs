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

/// A good build passes this scenario, and a broken one must not.
const BRIEF: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/brief.toml");

/// The same, of agents that stamp in place what applications write.
const STAMPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stamped.toml");

/// The same, of locks that are held while an agent stamps them.
const LOCKS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/locks.toml");

/// The same, of deletes that meet older puts: what only a heal settles.
const DELETES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/deletes.toml");

/// Agents that tell what is written.
const FEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/feeds.toml");

fn is_noticed(scenario: &str, defect: &str, kinds: &[&str]) {
    let (code, report) = run(&[scenario, "--defect", defect]);
    let told: Vec<&str> = report["runs"][0]["violations"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|violation| violation["kind"].as_str())
        .collect();
    assert_eq!(code, Some(1), "{defect} went by unnoticed");
    assert!(told.iter().any(|kind| kinds.contains(kind)), "{defect}: {told:?} instead of {kinds:?}");
}

#[test]
fn a_good_build_passes() {
    let (code, report) = run(&[BRIEF, STAMPED, LOCKS, DELETES]);
    assert_eq!(code, Some(0), "{}", report["runs"]);
    let seen = |run: &serde_json::Value| run["rollbacks"]["seen"].as_u64();
    assert!(report["runs"].as_array().expect("runs").iter().all(|run| seen(run) == Some(0)));
}

macro_rules! defects {
    ($($test:ident: $defect:literal in $scenario:expr, as $($kind:literal)|+),* $(,)?) => {
        $(#[test] fn $test() { is_noticed($scenario, $defect, &[$($kind),+]); })*
    };
}

defects!(
    puts_without_a_condition_are_noticed: "unconditional" in BRIEF, as "false version" | "never at rest" | "last writer lost",
    heals_that_are_not_made_are_noticed: "no-heals" in DELETES, as "last writer lost" | "resurrected" | "vanished",
    writes_that_are_lost_are_noticed: "lost-writes" in BRIEF, as "last writer lost" | "vanished",
    pages_that_are_lost_are_noticed: "lost-pages" in BRIEF, as "last writer lost" | "vanished" | "resurrected",
    deletes_that_are_not_told_are_noticed: "no-marks" in BRIEF, as "resurrected",
    items_without_a_stamp_are_noticed: "no-stamps" in BRIEF, as "unstamped",
    a_clock_that_lies_is_noticed: "lying-clock" in BRIEF, as "false version",
    older_writes_over_newer_ones_are_noticed: "stamps-alone" in BRIEF, as "rolled back",
    counts_that_go_back_are_noticed: "counts-back" in STAMPED, as "count went back",
    locks_that_are_taken_away_are_noticed: "frees-locks" in LOCKS, as "two holders",
    a_gateway_that_is_believed_is_noticed: "believed-gateway" in "gateway", as "last writer lost" | "vanished" | "false verdict",
    ends_of_shards_that_are_believed_are_noticed: "believed-ends" in "false-ends", as "last writer lost" | "vanished",
    writes_put_aside_though_all_are_refused_are_noticed: "parks" in "refusing-peer", as "parked",
    a_table_that_nobody_looks_at_is_noticed: "blind" in "other-table", as "last writer lost" | "vanished",
    marks_that_are_not_made_are_noticed: "unmarked" in "undated-record", as "unmarked",
    credentials_that_are_never_read_again_are_noticed: "old-credentials" in "rotated-credentials", as "last writer lost" | "vanished",
    stopping_without_an_end_is_noticed: "slow-to-stop" in "silent-stop", as "agent broke down",
    agents_that_end_with_their_log_are_noticed: "fragile-output" in "unread-logs", as "agent broke down",
    agents_that_serve_nobody_are_noticed: "unserved" in "half-open", as "not served",
    a_recycled_stream_without_a_mark_is_noticed: "unmarked" in "recycled-stream", as "unmarked",
    another_setups_writes_that_are_forwarded_are_noticed: "forwards" in "chain", as "not left alone",
    a_managed_replica_that_is_written_to_is_noticed: "heedless" in "managed-table", as "not its own",
    checkpoints_that_pass_events_are_noticed: "passes-events" in "feed-away", as "not told",
    events_that_overtake_a_failed_one_are_noticed: "takes-rest" in "feed-function", as "out of order",
    archives_that_repeat_events_are_noticed: "overwrites" in "feed-bucket", as "told again",
    echoes_that_are_told_are_noticed: "tells-echoes" in FEEDS, as "made up",
    marks_that_are_told_are_noticed: "tells-marks" in FEEDS, as "made up",
);
