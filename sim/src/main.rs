//! `tradewind-sim`: runs simulations by seed, shrinks those that fail, and replays one.
//!
//! Exit codes: 0, every seed passed; 1, a seed failed; 2, the command line or a plan is wrong; 70, a result
//! can't be written.

use std::fmt::Display;
use std::io::{ErrorKind, Write as _, stderr, stdout};
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tradewind_sim::profile::Profile;
use tradewind_sim::run::{Report, run};
use tradewind_sim::settings::{Defect, Scenario};
use tradewind_sim::shrink::shrink;

/// Runs Tradewind's agents on a simulated DynamoDB, under virtual time.
///
/// Exit codes: 0, every seed passed; 1, a seed failed; 2, the command line or a plan is wrong; 70, a result
/// can't be written.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs many seeds; the first that fails is shrunk and printed.
    Run(Run),
    /// Runs one seed, or one plan, again.
    Replay(Replay),
}

#[derive(Debug, Args)]
struct What {
    /// The kind of scenario.
    #[arg(long, value_enum, default_value = "faulty")]
    profile: Profile,
    /// Minutes of writes and faults, in virtual time.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1_440))]
    minutes: u64,
    /// Breaks a rule on purpose, which the simulation must notice.
    #[arg(long, value_enum)]
    defect: Option<Defect>,
}

impl What {
    fn draw(&self, seed: u64) -> Scenario {
        let mut scenario = self.profile.draw(seed, self.minutes);
        scenario.settings.defect = self.defect;
        scenario
    }
}

#[derive(Debug, Args)]
struct Run {
    /// The seeds, such as 0..100 (the end is excluded).
    #[arg(long, value_parser = seeds, default_value = "0..100")]
    seeds: Range<u64>,
    /// How many run at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    #[command(flatten)]
    what: What,
    /// One JSON object a seed, on standard output.
    #[arg(long)]
    json: bool,
    /// How many runs may be spent on shrinking; 0 turns it off.
    #[arg(long, default_value_t = 300)]
    shrink_runs: usize,
    /// Where to write the shrunken plan of a failing seed.
    #[arg(long, default_value = "tradewind-sim-plan.json")]
    plan_out: PathBuf,
}

#[derive(Debug, Args)]
struct Replay {
    /// The seed.
    #[arg(long, required_unless_present = "plan")]
    seed: Option<u64>,
    #[command(flatten)]
    what: What,
    /// A plan written by `run`, instead of a seed.
    #[arg(long, conflicts_with_all = ["seed", "profile", "minutes", "defect"])]
    plan: Option<PathBuf>,
    /// Prints every request, answer and write; `RUST_LOG` shows the agents' own log.
    #[arg(long)]
    trace: bool,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let parsed = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed.filter(|range| !range.is_empty()).ok_or_else(|| "expected two numbers such as 0..100".to_owned())
}

fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Run(options) => run_many(&options),
        Command::Replay(options) => replay(&options),
    };
    match UNWRITTEN.get() {
        None => ended,
        Some(error) => {
            say(format_args!("can't write a result to standard output: {error}"));
            ExitCode::from(70)
        }
    }
}

/// Why a result could not be written.
static UNWRITTEN: OnceLock<std::io::Error> = OnceLock::new();

/// Prints a result; stops if the reader has gone away.
fn print(result: impl Display) {
    let mut out = stdout().lock();
    match writeln!(out, "{result}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => _ = UNWRITTEN.set(error),
        _ => {}
    }
}

/// Prints a message for a person, if there is one.
fn say(text: impl Display) {
    let _ = writeln!(stderr(), "{text}");
}

fn run_many(options: &Run) -> ExitCode {
    let Range { start, end } = options.seeds;
    let bar = ProgressBar::new(end - start);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:30} {pos}/{len} seeds, {elapsed}, {eta} to go {msg}")
    {
        bar.set_style(style);
    }
    let next = AtomicU64::new(start);
    let failed: Mutex<Vec<Report>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let report = run(&options.what.draw(seed), false);
                    bar.inc(1);
                    if options.json {
                        bar.suspend(|| print(json(&report)));
                    }
                    if !report.passed()
                        && let Ok(mut failed) = failed.lock()
                    {
                        failed.push(report);
                        bar.set_message(format!("{} failed", failed.len()));
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut failed = failed.into_inner().unwrap_or_default();
    failed.sort_by_key(|report| report.seed);
    let profile = options.what.profile.name();
    let Some(first) = failed.first() else {
        say(format_args!("{} seeds of {profile} passed", end - start));
        return ExitCode::SUCCESS;
    };
    for report in &failed {
        say(format_args!("seed {} of {profile} failed: {}", report.seed, report.failures.join("; ")));
    }
    if options.shrink_runs > 0 {
        show_shrunken(options, first.seed);
    }
    ExitCode::from(1)
}

fn show_shrunken(options: &Run, seed: u64) {
    let bar = ProgressBar::new_spinner();
    let (plan, report) = shrink(&options.what.draw(seed), options.shrink_runs, |runs, faults, writes| {
        bar.set_message(format!("shrinking: {runs} runs, {faults} faults and {writes} writes left"));
        bar.tick();
    });
    bar.finish_and_clear();
    say(format_args!("seed {seed}, shrunken, still fails: {}", report.failures.join("; ")));
    plan.faults.iter().for_each(|fault| say(format_args!("  {fault}")));
    plan.writes.iter().for_each(|write| say(format_args!("  {write}")));
    let path = options.plan_out.display();
    match serde_json::to_string_pretty(&plan).map(|text| std::fs::write(&options.plan_out, text)) {
        Ok(Ok(())) => say(format_args!("replay it with: tradewind-sim replay --plan {path} --trace")),
        Ok(Err(error)) => say(format_args!("can't write the plan to {path}: {error}")),
        Err(error) => say(format_args!("can't write the plan: {error}")),
    }
}

fn replay(options: &Replay) -> ExitCode {
    if std::env::var_os("RUST_LOG").is_some() {
        log_agents();
    }
    let scenario = match (&options.plan, options.seed) {
        (Some(path), _) => match read_plan(path) {
            Ok(scenario) => scenario,
            Err(error) => {
                say(format_args!("{}: {error}", path.display()));
                return ExitCode::from(2);
            }
        },
        (None, seed) => options.what.draw(seed.unwrap_or_default()),
    };
    let report = run(&scenario, options.trace);
    report.lines.iter().for_each(print);
    print(json(&report));
    if report.passed() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

/// Logs what agents log, as `RUST_LOG` says. The SDK's spans are never logged: each one logged draws a random number,
/// which would change the run.
fn log_agents() {
    let asked = tracing_subscriber::EnvFilter::from_default_env();
    let agents = filter_fn(|metadata| metadata.target().starts_with("tradewind"));
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).without_time();
    tracing_subscriber::registry().with(log.with_filter(asked.and(agents))).init();
}

fn read_plan(path: &PathBuf) -> Result<Scenario, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let scenario: Scenario = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    scenario.check().map(|()| scenario)
}

fn json(report: &Report) -> String {
    serde_json::to_string(report).unwrap_or_default()
}
