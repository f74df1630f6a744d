//! `tradewind-bench`: one run, one table; `--json` prints the same as JSON.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use serde::Serialize;
use tracing::level_filters::LevelFilter;
use tradewind::telemetry;
use tradewind_bench::baseline::{self, Change};
use tradewind_bench::engine::{self, Engine};
use tradewind_bench::figures::Figures;
use tradewind_bench::plan::Plan;
use tradewind_bench::{Result, measure, plot};
use url::Url;

/// Measures how fast and how cheaply Tradewind replicates.
///
/// Starts an engine in a process of its own, and measures in one run: the ceiling (conditional puts a second
/// of that engine, with nothing around them), how fast a backlog drains to one and to two peers, the lag at
/// 10, 50 and 80 % of the ceiling, and what each kind of write costs. Compare ratios, not rates, which depend
/// on the machine. Build with --release.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    /// Which engine to run against. tests/with-engine fetches DynamoDB Local, which needs java.
    #[arg(long, value_enum, default_value = "embedded")]
    engine: Kind,
    /// DynamoDB Local's DynamoDBLocal.jar.
    #[arg(long, value_name = "FILE")]
    jar: Option<PathBuf>,
    /// A server that is already running, and keeps a set of tables for each AWS region.
    #[arg(long, value_name = "URL", conflicts_with_all = ["engine", "jar"])]
    endpoint: Option<Url>,
    /// The records of the backlog; 3,000, since the engines' writes get slower with every record in the
    /// stream.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    records: Option<u64>,
    /// Measure little, in less than a minute: the figures are not reliable.
    #[arg(long)]
    quick: bool,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
    /// Draw the lag over time and the ratios as an SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Compare with the output of an earlier run with --json.
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Embedded,
    DynamodbLocal,
}

/// The output of --json.
#[derive(Debug, Serialize)]
struct Output {
    #[serde(flatten)]
    figures: Figures,
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<Vec<Change>>,
}

fn main() -> ExitCode {
    let result = match std::env::args().nth(1).as_deref() {
        Some(engine::SERVE) => run(engine::serve_embedded()),
        _ => {
            let cli = Cli::parse();
            telemetry::start(LevelFilter::WARN, false, false);
            run(cli.run())
        }
    };
    telemetry::flush_log();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a result; stops if the reader has gone away.
fn print(text: impl std::fmt::Display) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn run(command: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(command);
    runtime.shutdown_background();
    result
}

impl Cli {
    async fn run(self) -> Result<()> {
        // An unreadable file is reported at once, not after everything has been measured.
        let before = self.baseline.as_deref().map(read).transpose()?;
        let engine = self.start().await?;
        let plan = if self.quick { Plan::quick() } else { Plan::full() };
        let records = self.records.unwrap_or(plan.records);
        let figures = measure(&engine, &Plan { records, quiet: self.json, ..plan }).await?;
        if let Some(path) = &self.plot {
            std::fs::write(path, plot::svg(&figures))
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let changes = before.map(|before| baseline::compare(&before, &figures));
        if self.json {
            print(serde_json::to_string_pretty(&Output { figures, changes })?)?;
        } else {
            print(figures.table())?;
            if let Some(changes) = changes {
                print(format_args!("\n{}", baseline::table(&changes)))?;
            }
        }
        Ok(())
    }

    async fn start(&self) -> Result<Engine> {
        if let Some(endpoint) = &self.endpoint {
            return Ok(Engine::at(endpoint));
        }
        if self.engine == Kind::Embedded && self.jar.is_none() {
            return Engine::embedded();
        }
        let jar = self.jar.clone().or_else(Engine::fetched_jar);
        let jar = jar.ok_or(
            "DynamoDB Local not found: name its jar with --jar, or fetch it with `tests/with-engine dynamodb-local \
             true`",
        )?;
        Engine::dynamodb_local(&jar).await
    }
}

fn read(path: &Path) -> Result<Figures> {
    let told = |error: String| format!("the baseline {}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| told(error.to_string()))?;
    Ok(serde_json::from_str(&text).map_err(|error| told(error.to_string()))?)
}
