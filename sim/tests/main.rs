//! Seeds of every profile, traces that repeat themselves, and broken rules that must be noticed.
//!
//! `TRADEWIND_SIM_SEEDS` sets how many seeds of each profile run; the default is about 80
//! seeds, which take some six minutes of one core that other work shares.

use std::ops::Range;

use tradewind_sim::profile::Profile;
use tradewind_sim::run::run;
use tradewind_sim::settings::{Defect, Scenario};
use tradewind_sim::shrink::shrink;

fn seeds(default: u64) -> Range<u64> {
    let asked = std::env::var("TRADEWIND_SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    0..asked.unwrap_or(default)
}

fn all_pass(profile: Profile, minutes: u64, seeds: Range<u64>) {
    for seed in seeds {
        let report = run(&profile.draw(seed, minutes), false);
        assert!(
            report.passed(),
            "{:?}\nagain: tradewind-sim replay --profile {} --seed {seed} --minutes {minutes}",
            report.failures,
            profile.name(),
        );
    }
}

#[test]
fn calm_seeds_pass() {
    all_pass(Profile::Calm, 1, seeds(4));
}

#[test]
fn counters_and_locks_never_go_back() {
    all_pass(Profile::Counters, 1, seeds(6));
}

#[test]
fn faulty_seeds_pass() {
    all_pass(Profile::Faulty, 1, seeds(9));
}

#[test]
fn seeds_with_crashes_pass() {
    all_pass(Profile::Crashes, 1, seeds(7));
}

#[test]
fn seeds_with_rolling_shards_pass() {
    all_pass(Profile::Shards, 1, seeds(6));
}

#[test]
fn seeds_with_a_clock_that_is_ahead_for_a_while_pass() {
    all_pass(Profile::Ahead, 1, seeds(5));
}

#[test]
fn seeds_with_skewed_clocks_pass() {
    all_pass(Profile::Skew, 1, seeds(6));
}

#[test]
fn seeds_with_a_long_outage_pass() {
    all_pass(Profile::LongOutage, 20, seeds(1));
}

#[test]
fn seeds_with_a_crowd_pass() {
    all_pass(Profile::Crowd, 1, seeds(3));
}

/// `cargo test --release -p tradewind-sim -- --ignored a_thousand_shards`
#[test]
#[ignore = "takes minutes, optimised"]
fn a_thousand_shards_and_ten_agents_pass() {
    all_pass(Profile::Scale, 5, seeds(1));
}

/// `cargo test --release -p tradewind-sim -- --ignored a_peer_that_is_away`
#[test]
#[ignore = "takes minutes, optimised"]
fn a_peer_that_is_away_for_twenty_hours_passes() {
    all_pass(Profile::Away, 1_440, seeds(1));
}

#[test]
fn records_that_are_trimmed_unread_are_told_of() {
    let mut gaps = 0;
    for seed in seeds(3) {
        let report = run(&Profile::Trimmed.draw(seed, 8), false);
        assert!(report.passed(), "seed {seed}: {:?}", report.failures);
        gaps += report.tally.gaps;
    }
    assert!(gaps > 0, "no seed trims a record unread");
}

#[test]
fn seeds_with_a_gateway_in_the_services_place_pass() {
    all_pass(Profile::Gateway, 1, seeds(4));
}

#[test]
fn seeds_with_a_replica_that_refuses_or_is_another_pass() {
    all_pass(Profile::Refused, 1, seeds(5));
}

#[test]
fn records_that_can_not_be_read_mark_the_table() {
    let mut unreadable = 0;
    for seed in seeds(5) {
        let report = run(&Profile::Unreadable.draw(seed, 1), false);
        assert!(report.passed(), "seed {seed}: {:?}", report.failures);
        unreadable += report.tally.unreadable;
    }
    assert!(unreadable > 0, "no seed has a record that can't be read");
}

#[test]
fn seeds_with_streams_that_are_turned_off_and_on_pass() {
    all_pass(Profile::Recycled, 3, seeds(3));
}

#[test]
fn a_feed_tells_each_write_in_order_whatever_its_function_does() {
    all_pass(Profile::Feeds, 1, seeds(10));
}

#[test]
fn one_seed_gives_one_trace_to_the_letter() {
    for profile in [Profile::Faulty, Profile::Shards, Profile::Unreadable, Profile::Recycled, Profile::Feeds]
    {
        let scenario = profile.draw(7, 1);
        let (first, second) = (run(&scenario, true), run(&scenario, true));
        assert!(first.lines.len() > 500, "{} lines", first.lines.len());
        for (a, b) in first.lines.iter().zip(&second.lines) {
            assert_eq!(a, b);
        }
        assert_eq!(first.lines.len(), second.lines.len());
        assert_eq!(first.trace, second.trace);
        assert_ne!(first.trace, run(&profile.draw(8, 1), false).trace);
    }
}

#[test]
fn a_plan_is_read_back_and_runs_the_same() {
    let scenario = Profile::Faulty.draw(3, 1);
    let text = serde_json::to_string(&scenario).expect("a plan is JSON");
    let read: Scenario = serde_json::from_str(&text).expect("and is read back");
    assert_eq!(read, scenario);
    assert_eq!(run(&read, false).trace, run(&scenario, false).trace);
}

fn notices(defect: Defect, profile: Profile) {
    let fails = |seed: &u64| {
        let mut scenario = profile.draw(*seed, 2);
        scenario.settings.defect = Some(defect);
        // Some keep the world from ever coming to rest.
        scenario.settings.patience = 10 * 60_000;
        !run(&scenario, false).passed()
    };
    assert!((0..12).any(|seed| fails(&seed)), "{defect:?} goes unnoticed");
}

#[test]
fn a_dropped_condition_is_noticed() {
    notices(Defect::DropCondition, Profile::Calm);
}

#[test]
fn a_write_that_is_acknowledged_and_not_done_is_noticed() {
    notices(Defect::AckWithoutDoing, Profile::Calm);
}

#[test]
fn a_missing_heal_is_noticed() {
    notices(Defect::NoHeal, Profile::Calm);
}

#[test]
fn a_child_that_is_read_before_its_parent_is_noticed() {
    notices(Defect::ChildFirst, Profile::Shards);
}

#[test]
fn a_checkpoint_ahead_of_what_is_done_is_noticed() {
    notices(Defect::SkipAhead, Profile::Crashes);
}

#[test]
fn a_checkpoint_of_whoever_lost_the_lease_is_noticed() {
    notices(Defect::DropFence, Profile::Crowd);
}

#[test]
fn a_delete_without_its_condition_is_noticed() {
    notices(Defect::BlindDelete, Profile::Calm);
}

#[test]
fn a_watermark_that_is_too_high_is_noticed() {
    notices(Defect::BoldWatermark, Profile::Calm);
}

#[test]
fn a_record_that_is_lost_is_noticed() {
    notices(Defect::DropRecord, Profile::Calm);
}

#[test]
fn a_gateway_that_is_believed_is_noticed() {
    notices(Defect::SummedGateway, Profile::Gateway);
}

#[test]
fn ends_of_shards_that_are_believed_are_noticed() {
    notices(Defect::BelievedEnds, Profile::Gateway);
}

#[test]
fn writes_that_are_put_aside_though_all_are_refused_are_noticed() {
    notices(Defect::NowAndThen, Profile::Refused);
}

#[test]
fn a_table_with_other_keys_that_nobody_looks_at_is_noticed() {
    notices(Defect::Blind, Profile::Refused);
}

#[test]
fn a_mark_that_is_not_made_is_noticed() {
    notices(Defect::DropMark, Profile::Unreadable);
    notices(Defect::DropMark, Profile::Trimmed);
}

#[test]
fn what_is_wrong_with_a_feed_is_noticed() {
    notices(Defect::AckUntold, Profile::Feeds);
    notices(Defect::Shuffled, Profile::Feeds);
    notices(Defect::ToldEcho, Profile::Feeds);
}

#[test]
fn a_panic_of_the_simulated_service_fails_the_run_at_once() {
    let mut scenario = Profile::Calm.draw(0, 2);
    scenario.settings.defect = Some(Defect::BreakDown);
    let report = run(&scenario, false);
    assert!(report.failures.iter().all(|why| why.contains("the simulated service panics")), "{report:?}");
    assert!(!report.passed() && report.virtual_seconds < 120, "{report:?}");
}

#[test]
fn a_failing_scenario_is_shrunk() {
    let mut scenario = Profile::Faulty.draw(1, 1);
    scenario.settings.defect = Some(Defect::BoldWatermark);
    let (small, report) = shrink(&scenario, 8, |_, _, _| {});
    assert!(!report.passed());
    assert!(small.faults.len() + small.writes.len() < scenario.writes.len());
}

#[test]
fn a_log_changes_no_trace() {
    let replay = |log: &[(&str, &str)]| {
        let mut sim = std::process::Command::new(env!("CARGO_BIN_EXE_tradewind-sim"));
        sim.args(["replay", "--profile", "faulty", "--minutes", "1", "--seed", "3"]);
        let output = sim.env_remove("RUST_LOG").envs(log.iter().copied()).output().expect("it runs");
        (String::from_utf8(output.stdout).expect("text"), output.stderr)
    };
    let (quiet, _) = replay(&[]);
    let (logged, log) = replay(&[("RUST_LOG", "debug")]);
    assert!(!log.is_empty(), "nothing is logged");
    assert_eq!(quiet, logged);
}
