//! A quick run on the embedded engine: every figure is there, and costs are exact. How fast it is,
//! no test says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;
use tradewind_bench::baseline::compare;
use tradewind_bench::figures::Figures;

fn quick(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("tradewind-bench").unwrap();
    command.args(["--quick", "--engine", "embedded", "--records", "100"]).args(arguments);
    command
}

#[test]
fn a_quick_run_has_all_figures_and_exact_costs() {
    let files = TempDir::new().unwrap();
    let plot = files.path().join("lag.svg");
    let run = quick(&["--json", "--plot", plot.to_str().unwrap()]).assert().success();
    let figures: Value = serde_json::from_slice(&run.get_output().stdout).unwrap();

    let above_zero =
        |figure: &Value| assert!(figure.as_f64().is_some_and(|f| f > 0.0), "{figure}: {figures:#}");
    above_zero(&figures["ceiling"]["per_second"]);
    let drains = figures["drain"].as_array().unwrap();
    assert_eq!(drains.iter().map(|drain| drain["peers"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    for drain in drains {
        assert_eq!(drain["records"], 100, "{figures:#}");
        for name in ["records_per_second", "writes_per_second", "ratio", "cpu_us_per_record", "peak_mib"] {
            above_zero(&drain[name]);
        }
    }
    let steady = figures["steady"].as_array().unwrap();
    assert_eq!(steady.len(), 3, "{figures:#}");
    for steady in steady {
        for name in [
            "load",
            "p50_ms",
            "p99_ms",
            "p99.9_ms",
            "max_ms",
            "round_trip_ms",
            "cpu_us_per_write",
            "peak_mib",
        ] {
            above_zero(&steady[name]);
        }
        let order = ["p50_ms", "p99_ms", "p99.9_ms", "max_ms"].map(|name| steady[name].as_f64().unwrap());
        assert!(order.is_sorted(), "{steady:#}");
        assert!(!steady["timeline"].as_array().unwrap().is_empty(), "{steady:#}");
    }

    let feed = &figures["feed"];
    for name in ["events_per_second", "ratio", "cpu_us_per_event", "requests_per_thousand"] {
        above_zero(&feed["drain"][name]);
    }
    let lags = feed["steady"].as_array().unwrap();
    assert_eq!(lags.len(), 3, "{figures:#}");
    for lag in lags {
        for name in ["events", "p50_ms", "requests_per_thousand"] {
            above_zero(&lag[name]);
        }
        let order = ["p50_ms", "p99_ms", "max_ms"].map(|name| lag[name].as_f64().unwrap());
        assert!(order.is_sorted(), "{lag:#}");
    }

    let costs = figures["costs"].as_array().unwrap();
    assert_eq!(costs.len(), 3 * 2 * 3, "operations, key choices, sizes: {figures:#}");
    for cost in costs {
        let at_peer = if cost["operation"] == "delete" { 2.0 } else { 1.0 };
        assert_eq!(cost["requests_at_origin"], 0.0, "{cost:#}");
        // A key that is written again at once may be written once for both at the peer.
        if cost["keys"] == "uniform" || cost["operation"] == "delete" {
            assert_eq!(cost["requests_at_peer"], at_peer, "{cost:#}");
        } else {
            assert!((0.0..=at_peer).contains(&cost["requests_at_peer"].as_f64().unwrap()), "{cost:#}");
        }
        above_zero(&cost["units_at_peer"]);
        above_zero(&cost["application_units"]);
    }

    let drawn = std::fs::read_to_string(&plot).unwrap();
    assert!(drawn.starts_with("<svg") && drawn.trim_end().ends_with("</svg>"), "{drawn}");
    assert_eq!(drawn.matches("<polyline").count(), 3, "{drawn}");

    let figures: Figures = serde_json::from_value(figures).expect("what was printed can be read back");
    let table = figures.table();
    for part in ["ceiling", "1 peer", "2 peers", "80 %", "to file", "zipf", "50000"] {
        assert!(table.contains(part), "no {part:?} in:\n{table}");
    }
    let changes = compare(&figures, &figures);
    assert!(changes.len() > 30 && changes.iter().all(|change| change.ratio == Some(1.0)), "{changes:?}");
}

#[test]
fn what_cannot_be_used_is_told_at_once() {
    for (arguments, says) in [
        (&["--baseline", "/nonexistent.json"][..], "/nonexistent.json"),
        (&["--engine", "dynamodb-local", "--jar", "/nonexistent/DynamoDBLocal.jar"], "DynamoDB Local"),
    ] {
        let run = Command::cargo_bin("tradewind-bench").unwrap().args(arguments).assert().failure();
        let error = String::from_utf8(run.get_output().stderr.clone()).unwrap();
        assert!(error.contains(says), "{error}");
    }
}
