//! The one place that writes a command's results to standard output, and its errors to standard error.
//!
//! A reader that has gone away (`| head -1`) is not the command's business: nothing more is written, and the
//! command does its work to the end. Where a result can't be written for another reason, such as a full
//! disk, the command ends with 70, for nobody can tell what it found.

use std::fmt::Display;
use std::io::{ErrorKind, Write, stderr, stdout};

use super::Failure;
use crate::telemetry;

/// What became of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Printed {
    Written,
    /// Nobody reads any more.
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

/// Prints a result as JSON, or as the text that `text` makes of it.
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

/// Prints an error, for a person, after what the log says of it. Where nobody can read it, the exit code
/// tells.
pub(super) fn complain(message: &str) {
    telemetry::flush_log();
    let _ = write(stderr().lock(), &format!("error: {message}\n"));
}

/// That a result could not be written.
pub(super) fn unwritten(error: &std::io::Error) -> Failure {
    Failure::internal(format!("the result can't be written to standard output: {error}"))
}

/// At once: what stays in a buffer would be lost without a word.
fn write(mut to: impl Write, text: &str) -> std::io::Result<()> {
    to.write_all(text.as_bytes())?;
    to.flush()
}
