//! The command line: one file per command.

mod add_region;
mod bootstrap;
mod chosen;
mod completions;
mod conflicts;
mod dead_letters;
mod demo;
mod doctor;
mod exit;
mod feed;
mod health;
mod init;
mod listen;
mod man;
mod output;
mod pause;
mod progress;
mod remove_region;
mod repair;
mod run;
mod seeding;
mod status;
mod supervisor;
mod verify;
mod wait;
mod watermarks;

use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use serde_json::json;
use tracing::level_filters::LevelFilter;

use self::output::{Printed, complain, print, report, unwritten};
use crate::clock::moment;
use crate::config::Config;
use crate::contained::caught;

pub use exit::{Exit, Failure};
pub use progress::Progress;

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    the replicas differ (demo, verify, repair --dry-run), a copy was refused or left (bootstrap,
       repair), not in time (wait), over --max-lag (status), an agent has not answered (pause, resume),
       a region is not added or removed yet (add-region, remove-region), something must be fixed
       (doctor), letters are left (dead-letters replay), or the agent is not healthy (health)
  64   the command line or regions.toml is wrong, or --listen lacks its token
  69   a region can't be reached, a table is missing or does not fit, the address of --listen is taken,
       or no agent answers (health)
  70   an internal error, or a result that can't be written
  77   credentials or permissions are refused
  130  stopped at once by a second signal (run), or interrupted

Logs go to standard error; RUST_LOG sets what is logged (RUST_LOG=tradewind=debug).";

/// Global tables for any DynamoDB-compatible store, run by you.
///
/// One agent per region reads the local table's stream, resolves conflicts by last writer wins,
/// and writes to every peer region. `tradewind demo` shows it in half a minute, with nothing but
/// this binary.
#[derive(Debug, Parser)]
#[command(name = "tradewind", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print the result, and logs, as JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Log items' keys in clear text, not as hashes.
    #[arg(long, global = true, env = "TRADEWIND_LOG_KEYS")]
    log_keys: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    AddRegion(add_region::AddRegion),
    Bootstrap(bootstrap::Bootstrap),
    Completions(completions::Completions),
    Conflicts(conflicts::Conflicts),
    DeadLetters(dead_letters::DeadLetters),
    Demo(demo::Demo),
    Doctor(doctor::Doctor),
    Feed(feed::Feed),
    Health(health::Health),
    Init(init::Init),
    Man(man::Man),
    Pause(pause::Pause),
    RemoveRegion(remove_region::RemoveRegion),
    Repair(repair::Repair),
    Resume(pause::Resume),
    Run(run::Run),
    Status(status::Status),
    Verify(verify::Verify),
    Wait(wait::Wait),
    Watermarks(watermarks::Watermarks),
}

impl Command {
    async fn run(self, json: bool) -> Result<Exit, Failure> {
        match self {
            Command::AddRegion(addition) => Box::pin(addition.run(json)).await,
            Command::Bootstrap(bootstrap) => Box::pin(bootstrap.run(json)).await,
            Command::Completions(completions) => completions.run::<Cli>(),
            Command::Conflicts(conflicts) => conflicts.run(json).await,
            Command::DeadLetters(letters) => letters.run(json).await,
            Command::Demo(demo) => demo.run(json).await,
            Command::Doctor(doctor) => doctor.run(json).await,
            Command::Feed(feed) => feed.run(json).await,
            Command::Health(health) => health.run(json).await,
            Command::Init(init) => init.run(json).await,
            Command::Man(man) => man.run::<Cli>(),
            Command::Pause(pause) => pause.run(json).await,
            Command::RemoveRegion(removal) => removal.run(json).await,
            Command::Repair(repair) => Box::pin(repair.run(json)).await,
            Command::Resume(resume) => resume.run(json).await,
            Command::Run(run) => run.run(json).await,
            Command::Status(status) => status.run(json).await,
            Command::Verify(verify) => verify.run(json).await,
            Command::Wait(wait) => wait.run(json).await,
            Command::Watermarks(watermarks) => watermarks.run(json).await,
        }
    }
}

/// Which configuration to use.
#[derive(Debug, Args)]
struct ConfigFile {
    /// The regions and tables to replicate. Default: regions.toml. Alternatively, the environment variable
    /// `TRADEWIND_CONFIG_TEXT` may hold the text itself.
    #[arg(long, short, value_name = "FILE", env = "TRADEWIND_CONFIG")]
    config: Option<PathBuf>,
}

/// The configuration itself, for containers that have no file.
const CONFIG_TEXT: &str = "TRADEWIND_CONFIG_TEXT";

impl ConfigFile {
    fn load(&self) -> Result<Config, Failure> {
        let text = std::env::var(CONFIG_TEXT).ok().filter(|text| !text.is_empty());
        Ok(match (&self.config, text) {
            (Some(file), Some(_)) => {
                let file = file.display();
                let message = format!(
                    "two configurations: the file {file} (--config or TRADEWIND_CONFIG) and {CONFIG_TEXT}\n\
                     Remove one: agents with different configurations can't agree."
                );
                return Err(Failure::new(Exit::Usage, message));
            }
            (None, Some(text)) => Config::parse(Path::new(CONFIG_TEXT), &text)?,
            (file, None) => Config::load(file.as_deref().unwrap_or(Path::new("regions.toml")))?,
        })
    }
}

/// A parsed command line.
#[derive(Debug)]
pub struct Invocation(Cli);

/// Parses the command line. If that fails, or if it asks for help, the message has been printed.
pub fn parse() -> Result<Invocation, Exit> {
    Cli::try_parse().map(Invocation).map_err(|error| {
        let printed = error.print();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match printed {
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                    let failure = unwritten(&error);
                    complain(&failure.message);
                    failure.exit
                }
                _ => Exit::Done,
            },
            // The terminal is gone: there is nobody to inform.
            _ => Exit::Usage,
        }
    })
}

impl Invocation {
    /// Whether output is JSON.
    pub fn json(&self) -> bool {
        self.0.json
    }

    /// Whether logs may show items' keys.
    pub fn log_keys(&self) -> bool {
        self.0.log_keys
    }

    /// The command's default log level.
    pub fn log_level(&self) -> LevelFilter {
        if matches!(self.0.command, Command::Run(_)) { LevelFilter::INFO } else { LevelFilter::WARN }
    }

    /// Runs the command to its end.
    pub fn run(self) -> Exit {
        let Cli { command, json, .. } = self.0;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let result = runtime.map_err(Failure::internal).and_then(|runtime| {
            let result = runtime.block_on(caught(command.run(json)));
            runtime.shutdown_background();
            result.unwrap_or_else(|panic| Err(Failure::internal(format!("a defect: {panic}"))))
        });
        result.unwrap_or_else(|failure| {
            let told = json!({ "error": failure.message, "exit_code": failure.exit.code() });
            if !json || print(&told).is_err() {
                complain(&failure.message);
            }
            failure.exit
        })
    }
}
