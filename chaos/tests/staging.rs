//! Runs on tables of the user's own: two regions as a user has them, with tables of different names and
//! agents that the harness does not know.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;
use tradewind::embedded::EmbeddedRegion;
use tradewind_chaos::agents::{Agent, Build, Ways, Wish};
use tradewind_chaos::scenario::Log;
use tradewind_chaos::wire::{ACCESS_KEY, Wire};

const PLACES: [(&str, &str, &str); 2] =
    [("dublin", "eu-west-1", "orders-eu"), ("oregon", "us-west-2", "orders-us")];

const QUIET: &str = "name = \"quiet\"\nabout = \"No fault.\"\n[workload]\nfor = \"4s\"\nkeys = 5\n";
const CUT: &str = "name = \"cut\"\nabout = \"A pause.\"\n[workload]\nfor = \"8s\"\nkeys = 5\n\
                   [[fault]]\nkind = \"partition\"\nat = \"1s\"\nfor = \"5s\"\nregion = \"oregon\"\n";

struct Own {
    folder: TempDir,
    config: PathBuf,
    agents: Vec<Agent>,
    wires: Vec<Wire>,
    _regions: Vec<EmbeddedRegion>,
}

impl Own {
    /// Two regions; agents run in so many of them.
    async fn start(agents: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut text, mut regions, mut wires) = (String::new(), Vec::new(), Vec::new());
        for (name, aws_region, table) in PLACES {
            let region = EmbeddedRegion::start(name.parse().expect("a name")).await.expect("a region");
            let url = region.config().endpoint.expect("an endpoint");
            let wire = Wire::to(&url, aws_region, table);
            wire.make_table().await.expect("a table");
            Wire::to(&url, aws_region, "other").make_table().await.expect("a table");
            write!(
                text,
                "[[region]]\nname = \"{name}\"\naws_region = \"{aws_region}\"\nendpoint = \"{url}\"\n\n"
            )
            .expect("memory");
            wires.push(wire);
            regions.push(region);
        }
        text.push_str(
            "[[table]]\nname = \"orders\"\nnames = { dublin = \"orders-eu\", oregon = \"orders-us\" }\n\n\
             [[table]]\nname = \"other\"\n\n\
             [tuning]\npoll_interval = \"100ms\"\nsettle = \"4s\"\nunproven = true\nlease_duration = \"1500ms\"\n",
        );
        let config = folder.path().join("regions.toml");
        std::fs::write(&config, &text).expect("a file");
        let build = build(&folder);
        let init = build.command(&["init", "--config"]).arg(&config).output().await;
        let init = init.expect("a process");
        assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
        let ways = Ways { log: Log::File, listen: None };
        let start = |region| Agent::start(build.clone(), region, 0, &text, ways).expect("an agent");
        let agents = (0..agents).map(start).collect();
        wires[0].put("theirs", "before", "x".to_owned(), None).await.expect("an item");
        Self { folder, config, agents, wires, _regions: regions }
    }

    async fn run(&self, scenario: &str, arguments: &[&str]) -> (Output, Value) {
        let file = self.folder.path().join("scenario.toml");
        std::fs::write(&file, scenario).expect("a file");
        let mut command = harness(&file, &self.config, self.folder.path());
        command.args(arguments).args(["--seed", "3", "--json"]);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("a thread");
        let output = output.expect("a process");
        let report = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output, report)
    }

    async fn tradewind(&self, arguments: &[&str]) -> Value {
        let mut command = build(&self.folder).command(arguments);
        let output = command.arg("--config").arg(&self.config).arg("--json").output().await;
        let output = output.expect("a process");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    async fn end(self) {
        for agent in self.agents {
            agent.wish(Wish::Stop);
            assert_eq!(agent.end().await, [] as [String; 0]);
        }
    }
}

fn build(folder: &TempDir) -> Build {
    let tradewind = PathBuf::from(env!("CARGO_BIN_EXE_tradewind-chaos")).with_file_name("tradewind");
    Build { tradewind, folder: folder.path().to_path_buf(), defect: None, feeds: None }
}

fn harness(scenario: &Path, config: &Path, out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tradewind-chaos"));
    command.arg("run").arg(scenario).arg("--regions").arg(config).arg("--out").arg(out.join("out"));
    command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", ACCESS_KEY);
    command.stdin(std::process::Stdio::null());
    command
}

const AGREED: [&str; 4] = ["--table", "orders", "--yes-write-to", "orders"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_build_passes_and_leaves_nothing_behind() {
    let own = Own::start(2).await;
    for scenario in [QUIET, CUT] {
        let (output, report) = own.run(scenario, &AGREED).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains("orders-eu") && said.contains("orders-us"), "{said}");
        let run = &report["runs"][0];
        assert_eq!((&run["engine"], &run["passed"]), (&"staging".into(), &true.into()), "{run:#}");
        assert!(run["writes"].as_u64() > Some(50), "{run:#}");
        let lag = run["lags"].as_array().into_iter().flatten().filter_map(|lag| lag["max"].as_u64()).max();
        assert!(scenario != CUT || lag >= Some(3_000), "what is paused is late: {lag:?}");
        for wire in &own.wires {
            let left: Vec<String> = wire.items(None).await.expect("a scan").into_keys().collect();
            assert_eq!(left, ["theirs"], "what was there is there, and nothing else");
        }
    }
    own.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_do_not_arrive_are_noticed_and_left_to_be_looked_at() {
    let own = Own::start(1).await;
    let within = [&AGREED[..], &["--recover-within", "3s"]].concat();
    let (output, report) = own.run(QUIET, &within).await;
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let violations = report["runs"][0]["violations"].as_array().cloned().unwrap_or_default();
    assert!(violations.iter().any(|violation| violation["kind"] == "vanished"), "{violations:#?}");
    assert!(own.wires[1].items(None).await.expect("a scan").len() > 1);
    own.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_before_someone_has_agreed_or_where_it_cannot_be_right() {
    let own = Own::start(0).await;
    let kill = format!("{QUIET}[[fault]]\nkind = \"kill\"\nat = \"1s\"\nfor = \"1s\"\nregion = \"dublin\"\n");
    let fed = format!("feeds = true\n{QUIET}");
    let skewed = format!("skew_seconds = [5]\n{QUIET}");
    for (scenario, arguments, says) in [
        (QUIET, &["--table", "orders"][..], "--yes-write-to orders"),
        (QUIET, &["--table", "orders", "--yes-write-to", "orders-eu"], "nothing was written"),
        (QUIET, &["--yes-write-to", "orders"], "orders, other"),
        (QUIET, &["--table", "customers", "--yes-write-to", "customers"], "no [[table]] customers"),
        (&kill, &AGREED, "Kill"),
        (&skewed, &AGREED, "clocks"),
        (&fed, &AGREED, "feeds"),
        (QUIET, &["--engine", "embedded"], "cannot be used with"),
    ] {
        let (output, _) = own.run(scenario, arguments).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
    for (wire, expected) in own.wires.iter().zip([1, 0]) {
        assert_eq!(wire.items(None).await.expect("a scan").len(), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_of_somebody_elses_is_left_alone() {
    let own = Own::start(0).await;
    let paused = own.tradewind(&["pause", "--from", "dublin", "--for", "1h"]).await;
    assert_eq!(paused["flows"][0]["was_paused_until"], Value::Null, "{paused:#}");
    let (output, _) = own.run(CUT, &AGREED).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(70), "{said}");
    assert!(said.contains("is paused") && said.contains("tradewind resume"), "{said}");
    for (wire, expected) in own.wires.iter().zip([1, 0]) {
        assert_eq!(wire.items(None).await.expect("a scan").len(), expected);
    }
    let resumed = own.tradewind(&["resume", "--from", "dublin"]).await;
    assert_eq!(resumed["flows"][0]["was_paused_until"], paused["flows"][0]["paused_until"], "{resumed:#}");
}
