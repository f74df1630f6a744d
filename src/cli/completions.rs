//! `tradewind completions`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Exit, Failure, print};

/// Print the completion script of a shell.
///
/// For bash: `tradewind completions bash > /etc/bash_completion.d/tradewind`
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub(super) fn run<C: CommandFactory>(self) -> Result<Exit, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut C::command(), "tradewind", &mut script);
        print(&String::from_utf8(script).map_err(Failure::internal)?.trim_end())?;
        Ok(Exit::Done)
    }
}
