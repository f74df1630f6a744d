//! Output for people is no precondition of work: readers that go away, readers that stop reading, full disks.

use std::fs::File;
use std::io::{PipeReader, pipe};
use std::process::Stdio;

use tokio::process::Command;
use tokio::time::timeout;

use crate::items::{key, row, stamped};
use crate::process::{run, tradewind};
use crate::world::{PATIENCE, PLAIN, World};

const DUBLIN: usize = 0;
const TOKYO: usize = 1;

/// Where every write fails.
fn full() -> Stdio {
    File::options().write(true).open("/dev/full").expect("/dev/full").into()
}

/// Whose reader has gone away.
fn gone() -> Stdio {
    pipe().expect("a pipe").1.into()
}

/// A command's exit code, and what it says on standard error, with this for its standard output.
async fn code(mut command: Command, stdout: Stdio) -> (i32, String) {
    command.stdout(stdout).stderr(Stdio::piped());
    let child = command.spawn().expect("a process");
    let output = timeout(PATIENCE, child.wait_with_output()).await.expect("an end in time");
    let output = output.expect("a process");
    let code = output.status.code().unwrap_or_else(|| panic!("{}", output.status));
    (code, String::from_utf8(output.stderr).expect("UTF-8"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_can_read_ends_no_agent_and_holds_none_up() {
    let world = World::prepared(2, PLAIN).await;
    let unread = || -> (Stdio, Option<PipeReader>) {
        let (reader, writer) = pipe().expect("a pipe");
        (writer.into(), Some(reader))
    };
    for (name, (log, _reader)) in [("full", (full(), None)), ("gone", (gone(), None)), ("unread", unread())] {
        let mut command = world.tradewind(DUBLIN, &["run", "--region", "dublin", "--listen", "off"]);
        // Much more than a pipe holds.
        command.env("RUST_LOG", "trace").stdout(Stdio::null()).stderr(log);
        let mut agent = command.spawn().expect("a process");
        for i in 0..20 {
            let id = format!("{name} {i}");
            world.put(DUBLIN, row(&id, "one")).await;
            world.await_item(TOKYO, &key(&id), &row(&id, "one")).await;
        }
        let id = agent.id().expect("a running process").to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &id]).status().await.expect("kill").success());
        let status = timeout(PATIENCE, agent.wait()).await.expect("an end in time").expect("a process");
        assert_eq!(status.code(), Some(0), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_has_gone_away_is_left_in_peace() {
    let world = World::prepared(2, PLAIN).await;
    // It looks like an agent's, so it differs for good.
    world.put(TOKYO, stamped(TOKYO, row("extra", "one"), 1000)).await;
    for (command, expected) in [
        (world.tradewind(DUBLIN, &["status"]), 0),
        (world.tradewind(DUBLIN, &["status", "--watch"]), 0),
        (world.tradewind(DUBLIN, &["init", "--dry-run"]), 0),
        (world.tradewind(DUBLIN, &["verify", "--each", "--json", "--settle", "0s"]), 1),
        (tradewind(&["completions", "zsh"]), 0),
        (tradewind(&["--help"]), 0),
        (tradewind(&["--version"]), 0),
    ] {
        let shown = format!("{command:?}");
        let (code, log) = code(command, gone()).await;
        assert_eq!(code, expected, "{shown}: {log}");
        assert!(!log.contains("error") && !log.contains("panic"), "{shown}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_can_not_be_written_ends_a_command_with_70() {
    let world = World::prepared(2, PLAIN).await;
    world.put(TOKYO, stamped(TOKYO, row("extra", "one"), 1000)).await;
    for command in [
        world.tradewind(DUBLIN, &["status"]),
        world.tradewind(DUBLIN, &["init", "--dry-run"]),
        world.tradewind(DUBLIN, &["verify", "--each", "--json", "--settle", "0s"]),
        world.tradewind(DUBLIN, &["run", "--region", "dublin", "--once", "--listen", "off"]),
        tradewind(&["completions", "zsh"]),
        tradewind(&["--help"]),
    ] {
        let shown = format!("{command:?}");
        let (code, log) = code(command, full()).await;
        assert_eq!(code, 70, "{shown}: {log}");
        let told = "error: the result can't be written to standard output: No space left on device";
        assert!(log.contains(told) && !log.contains("panic"), "{shown}: {log}");
    }
    // An error is printed there, too, with --json; it is told all the same.
    let command = tradewind(&["verify", "--config", "/nonexistent/regions.toml", "--json"]);
    let (code, log) = code(command, full()).await;
    assert_eq!(code, 64, "{log}");
    assert!(log.contains("error: can't read /nonexistent/regions.toml"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_for_which_the_sdk_would_panic_are_not_asked_for() {
    let world = World::prepared(2, PLAIN).await;
    world.put(DUBLIN, row("a", "one")).await;
    for (name, value) in [("AWS_RETRY_MODE", "legacy"), ("AWS_MAX_ATTEMPTS", "0")] {
        for arguments in [&["run", "--region", "dublin", "--once", "--listen", "off"][..], &["status"]] {
            let mut command = world.tradewind(DUBLIN, arguments);
            command.env(name, value);
            let (code, _, log) = run(command).await;
            assert_eq!(code, 0, "{name}={value} {arguments:?}: {log}");
        }
    }
    world.await_item(TOKYO, &key("a"), &row("a", "one")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_that_has_no_date_is_told_all_the_same() {
    let world = World::prepared(2, PLAIN).await;
    world.mark(u64::MAX).await;
    let (code, out, log) = run(world.tradewind(DUBLIN, &["verify", "--settle", "0s"])).await;
    assert_eq!(code, 0, "{log}");
    assert!(out.contains("from 1970-01-01T00:00:01Z to 9999-12-31T23:59:59Z"), "{out}");
}
