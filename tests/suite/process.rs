//! The binary as a process.

use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

use crate::calls::{CALLER, name_of};
use crate::engine::{ACCESS_KEY, SECRET_KEY};
use crate::world::PATIENCE;

/// A command of the binary that is being tested, with credentials but otherwise alone.
pub(crate) fn tradewind(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tradewind"));
    command.args(arguments).kill_on_drop(true).stdin(Stdio::null()).env(CALLER, name_of(arguments));
    for name in [
        "AWS_PROFILE",
        "AWS_SESSION_TOKEN",
        "RUST_LOG",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
        "NOTIFY_SOCKET",
        "TRADEWIND_CONFIG",
        "TRADEWIND_CONFIG_TEXT",
        "TRADEWIND_REGION",
        "TRADEWIND_LISTEN",
        "TRADEWIND_TOKEN",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ] {
        command.env_remove(name);
    }
    command
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_CONFIG_FILE", "/nonexistent")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent");
    command
}

/// Runs a command to its end: its exit code, and what it wrote to standard output and error.
pub(crate) async fn run(command: Command) -> (i32, String, String) {
    run_within(PATIENCE, command).await
}

async fn run_within(patience: Duration, mut command: Command) -> (i32, String, String) {
    let output = timeout(patience, command.output()).await.expect("an end in time").expect("a process");
    let Output { status, stdout, stderr } = output;
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (code(status), text(stdout), text(stderr))
}

/// Runs a command to its end, with `--json`: its exit code, and what it printed.
pub(crate) async fn run_json(command: Command) -> (i32, serde_json::Value) {
    run_json_within(PATIENCE, command).await
}

/// The same, where it takes longer.
pub(crate) async fn run_json_within(patience: Duration, mut command: Command) -> (i32, serde_json::Value) {
    command.arg("--json");
    let (code, out, log) = run_within(patience, command).await;
    let printed = serde_json::from_str(&out);
    (code, printed.unwrap_or_else(|error| panic!("{error}: {out}\n{log}")))
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| panic!("{status}"))
}

/// A command that goes on until it is told otherwise; killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a process");
        let log = BufReader::new(child.stderr.take().expect("a log")).lines();
        Self { child, log }
    }

    /// Waits until the log says this, in the line that is returned.
    pub(crate) async fn says(&mut self, what: &str) -> String {
        let look = async {
            while let Some(line) = self.log.next_line().await.expect("a log") {
                if line.contains(what) {
                    return line;
                }
            }
            panic!("the process ended without having said {what:?}");
        };
        timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("waited in vain for {what:?}"))
    }

    /// `kill -9`: at once, and without a word.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("a kill");
    }

    pub(crate) async fn signal(&self, signal: &str) {
        let id = self.child.id().expect("a running process").to_string();
        let sent = Command::new("kill").args(["-s", signal, &id]).status().await.expect("kill");
        assert!(sent.success());
    }

    /// Waits for its end: its exit code, and what it printed.
    pub(crate) async fn end(self) -> (i32, String) {
        let Self { child, mut log } = self;
        // A process whose log is not read could wait for that.
        let read = tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        let output = timeout(PATIENCE, child.wait_with_output()).await.expect("an end in time");
        let output = output.expect("a process");
        read.abort();
        (code(output.status), String::from_utf8(output.stdout).expect("UTF-8"))
    }
}
