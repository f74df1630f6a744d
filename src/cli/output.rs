//! The one place that writes a command's results to standard output, and its errors to standard error.
//!
//! A reader that has gone away (`| head -1`) is not an error: nothing more is written, and the command
//! completes its work. If a result can't be written for another reason, such as a full disk, the command
//! exits with 70, since nobody can see the result.

use std::fmt::Display;
use std::io::{ErrorKind, Write, stderr, stdout};

use super::Failure;
use crate::telemetry;

/// What happened to a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Printed {
    Written,
    /// The reader has gone away.
    Unread,
}

/// Prints a result.
pub(super) fn print(result: &impl Display) -> Result<Printed, Failure> {
    match write(stdout().lock(), &format!("{result}\n")) {
        Ok(()) => Ok(Printed::Written),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Printed::Unread),
        Err(error) => Err(unwritten(&error)),
    }
}

/// Prints a result as JSON, or as the text that `text` renders.
pub(super) fn report<T: serde::Serialize>(
    json: bool,
    result: &T,
    text: impl FnOnce(&T) -> String,
) -> Result<Printed, Failure> {
    if json {
        print(&serde_json::to_string(result).map_err(Failure::internal)?)
    } else {
        print(&text(result))
    }
}

/// A line for each, or a text for none.
pub(super) fn lines<T>(all: &[T], line: impl Fn(&T) -> String, none: &str) -> String {
    if all.is_empty() { none.to_owned() } else { all.iter().map(line).collect::<Vec<_>>().join("\n") }
}

/// Prints an error for a person, after the log lines about it. If nobody can read it, the exit code still
/// shows the failure.
pub(super) fn complain(message: &str) {
    telemetry::flush_log();
    let _ = write(stderr().lock(), &format!("error: {message}\n"));
}

/// The failure to write a result.
pub(super) fn unwritten(error: &std::io::Error) -> Failure {
    Failure::internal(format!("the result can't be written to standard output: {error}"))
}

/// Flushes at once: what stays in a buffer would be lost silently.
fn write(mut to: impl Write, text: &str) -> std::io::Result<()> {
    to.write_all(text.as_bytes())?;
    to.flush()
}
