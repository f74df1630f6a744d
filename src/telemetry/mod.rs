//! Logs, metrics and traces: logs here, metrics in `instruments`, traces of single records in `trace`, where
//! the last two go in `provider`.
//!
//! Logs go to standard error, as text or, with `--json`, as one JSON object a line; `log` writes them.

mod instruments;
mod log;
mod provider;
mod trace;

use std::io::{IsTerminal, stderr};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use self::log::Log;
use crate::contained::tell_panics;
use crate::log_key::allow_keys;

pub(crate) use instruments::meter;
pub use instruments::{HeartbeatInstruments, LagInstruments, SinkInstruments};
pub use log::flush as flush_log;
pub use provider::{Telemetry, TelemetryError};
pub use trace::{Step, Trace};

/// Starts logging, for Tradewind itself from `level` on; `RUST_LOG` overrides that.
///
/// The contents of items are never logged. Keys are, hashed unless `keys` allows them, in errors that need a
/// person to act.
pub fn start(level: LevelFilter, json: bool, keys: bool) {
    if keys {
        allow_keys();
    }
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => EnvFilter::builder().parse_lossy(directives),
        _ => EnvFilter::builder().parse_lossy(format!("error,tradewind={level}")),
    };
    let colours = stderr().is_terminal();
    let log = Log::start();
    log.keep();
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(log).with_ansi(colours);
    // It would panic if standard error is gone.
    let logs = logs.log_internal_errors(false);
    if json {
        logs.json().flatten_event(true).init();
    } else {
        logs.with_target(false).init();
    }
    tell_panics();
}
