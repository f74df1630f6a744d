//! Parses the command line, starts telemetry, and runs the command.

use std::process::ExitCode;

use tradewind::{cli, telemetry};

fn main() -> ExitCode {
    let command = match cli::parse() {
        Ok(command) => command,
        Err(exit) => return exit.into(),
    };
    telemetry::start(command.log_level(), command.json(), command.log_keys());
    let exit = command.run();
    telemetry::flush_log();
    exit.into()
}
