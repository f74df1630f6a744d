//! `tradewind man`.

use std::path::PathBuf;

use clap::{Args, CommandFactory};

use super::{Exit, Failure};

/// Write the manual pages, one per command.
///
/// For example: `tradewind man /usr/local/share/man/man1`
#[derive(Debug, Args)]
pub(super) struct Man {
    /// The directory to write to; it must exist.
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

impl Man {
    pub(super) fn run<C: CommandFactory>(self) -> Result<Exit, Failure> {
        clap_mangen::generate_to(C::command(), &self.directory).map_err(|error| {
            let message = format!("can't write to {}: {error}", self.directory.display());
            Failure::new(Exit::Usage, message)
        })?;
        Ok(Exit::Done)
    }
}
