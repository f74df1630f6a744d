//! What is told to the outside: logs here, metrics in `instruments`, where both go in `otlp`.
//!
//! Logs go to standard error, as text or, with `--json`, as one JSON object a line.

mod instruments;
mod provider;

use std::io::{IsTerminal, stderr};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

pub use instruments::{HeartbeatInstruments, LagInstruments, register, register_boards};
pub use provider::{Telemetry, TelemetryError};

/// Starts logging, of Tradewind's own doings from `level` on; `RUST_LOG` overrules that.
///
/// Items' contents are never logged. Keys are, in errors that need a person to act.
pub fn start(level: LevelFilter, json: bool) {
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => EnvFilter::builder().parse_lossy(directives),
        _ => EnvFilter::builder().parse_lossy(format!("error,tradewind={level}")),
    };
    let colours = stderr().is_terminal();
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(colours);
    if json {
        logs.json().flatten_event(true).init();
    } else {
        logs.with_target(false).init();
    }
}
