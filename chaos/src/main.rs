//! `tradewind-chaos`: runs scenarios, and reports whether anything was lost.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tradewind_chaos::defect::Defect;
use tradewind_chaos::endpoints::{Engine, serve};
use tradewind_chaos::report::{Report, html, json, junit};
use tradewind_chaos::run::Plan;
use tradewind_chaos::scenario::{SHIPPED, Scenario};
use tradewind_chaos::staging::Staging;
use tradewind_chaos::{Result, random};

/// Break Tradewind on purpose, and see that nothing is lost.
///
/// Real agents on real endpoints, on this machine: with faults between them, applications that write
/// everywhere, and a checker that works out which write must survive. Or, with --regions, on tables of your
/// own, whose agents are already running.
///
/// Exit codes: 0, all promises were kept; 1, one was broken; 64, the command line or a scenario is wrong; 70,
/// a run could not be made.
#[derive(Debug, Parser)]
#[command(version, name = "tradewind-chaos")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run scenarios.
    Run(Run),
    /// List the scenarios.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Repeat the runs of a report: with the same scenarios, seeds and engines.
    Replay {
        /// The report.json of the runs.
        report: PathBuf,
        #[command(flatten)]
        settings: Settings,
    },
    /// Serve as the embedded engine.
    #[command(hide = true, name = tradewind_chaos::endpoints::SERVE)]
    Serve { port: u16, data: PathBuf },
}

#[derive(Debug, Args)]
struct Run {
    /// The names of shipped scenarios, or files.
    #[arg(required_unless_present_any = ["all", "random"])]
    scenarios: Vec<String>,
    /// All shipped scenarios.
    #[arg(long, conflicts_with = "scenarios")]
    all: bool,
    /// Everything at random.
    #[arg(long, conflicts_with_all = ["scenarios", "all"])]
    random: bool,
    /// The seed for random choices; by default another one each time.
    #[arg(long)]
    seed: Option<u64>,
    /// How long a random scenario lasts.
    #[arg(long = "for", default_value = "30s", value_parser = humantime::parse_duration)]
    lasts: Duration,
    /// The engine that the regions run on.
    #[arg(long, value_enum, default_value_t = Engine::Embedded)]
    engine: Engine,
    #[command(flatten)]
    own: Own,
    #[command(flatten)]
    settings: Settings,
}

/// The user's own tables.
#[derive(Debug, Args)]
#[command(next_help_heading = "On your own staging tables")]
struct Own {
    /// The configuration of your agents, which must be running: writes to one of their tables.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["random", "engine", "tradewind", "defect"])]
    regions: Option<PathBuf>,
    /// Which table; may be omitted if there is only one.
    #[arg(long, value_name = "NAME", requires = "regions")]
    table: Option<String>,
    /// Agrees to writing to the table of this name, if nobody can be asked.
    #[arg(long, value_name = "NAME", requires = "regions")]
    yes_write_to: Option<String>,
    /// How soon after the last fault every write must be everywhere, overriding the scenarios.
    #[arg(long, value_name = "TIME", requires = "regions", value_parser = humantime::parse_duration)]
    recover_within: Option<Duration>,
}

#[derive(Debug, Args)]
struct Settings {
    /// The agents' binary; by default the one beside this.
    #[arg(long, value_name = "FILE")]
    tradewind: Option<PathBuf>,
    /// Where to write report.html, report.json and junit.xml, and the logs of failed runs.
    #[arg(long, value_name = "FOLDER", default_value = "target/chaos")]
    out: PathBuf,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    /// Breaks the agents' build, to show that the checker notices.
    #[arg(long, value_enum, hide = true)]
    defect: Option<Defect>,
}

/// A scenario's text, what it runs on, and its seed.
type Job = (String, Engine, u64);

#[tokio::main]
async fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS };
        }
    };
    let (jobs, staging, settings) = match cli.command {
        Command::Serve { port, data } => return ended(serve(port, &data).await.map(|()| true)),
        Command::List { json } => return ended(list(json).map(|()| true)),
        Command::Run(run) => {
            let jobs = run.jobs();
            let staging = jobs.as_ref().map_or(Ok(None), |jobs| run.own.agreed(jobs));
            (jobs, staging, run.settings)
        }
        Command::Replay { report, settings } => (recorded(&report), Ok(None), settings),
    };
    match jobs.and_then(|jobs| Ok((jobs, staging?))) {
        Ok((jobs, staging)) => ended(run(jobs, staging, settings).await),
        Err(error) => {
            say(format_args!("error: {error}"));
            ExitCode::from(64)
        }
    }
}

fn ended(result: Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            say(format_args!("error: {error}"));
            ExitCode::from(70)
        }
    }
}

/// Prints a message for a person, if there is one.
fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints a result; stops if the reader has gone away.
fn print(text: impl std::fmt::Display) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("can't write a result to standard output: {error}").into())
        }
        _ => Ok(()),
    }
}

fn list(json: bool) -> Result<()> {
    let scenarios = SHIPPED.iter().map(|(_, text)| Scenario::parse(text)).collect::<Result<Vec<_>>>()?;
    if json {
        let rows: Vec<_> =
            scenarios.iter().map(|s| serde_json::json!({ "name": s.name, "about": s.about })).collect();
        return print(serde_json::to_string_pretty(&rows)?);
    }
    scenarios.iter().try_for_each(|scenario| print(format_args!("{:<20} {}", scenario.name, scenario.about)))
}

impl Run {
    fn jobs(&self) -> Result<Vec<Job>> {
        let seed = self.seed.unwrap_or_else(|| fastrand::Rng::new().u64(..1_000_000));
        let texts = if self.random {
            vec![random::scenario(seed, self.lasts)]
        } else if self.all {
            SHIPPED.iter().map(|(_, text)| (*text).to_owned()).collect()
        } else {
            self.scenarios.iter().map(|name| find(name)).collect::<Result<Vec<_>>>()?
        };
        texts.iter().try_for_each(|text| Scenario::parse(text).map(|_| ()))?;
        Ok(texts.into_iter().map(|text| (text, self.engine, seed)).collect())
    }
}

impl Own {
    /// The user's tables, if they are to be used, once a person has agreed.
    fn agreed(&self, jobs: &[Job]) -> Result<Option<Staging>> {
        let Some(file) = &self.regions else { return Ok(None) };
        let staging = Staging::read(file, self.table.as_deref(), self.recover_within)?;
        let scenarios = jobs.iter().map(|(text, ..)| Scenario::parse(text)).collect::<Result<Vec<_>>>()?;
        scenarios.iter().try_for_each(|scenario| staging.check(scenario))?;
        let name = staging.table();
        let mut err = std::io::stderr();
        writeln!(err, "{}", staging.warning(&scenarios))?;
        let agreed = match &self.yes_write_to {
            Some(agreed) => agreed.clone(),
            None if std::io::stdin().is_terminal() => {
                write!(err, "Type the table's name to go on: ")?;
                let mut typed = String::new();
                std::io::stdin().lock().read_line(&mut typed)?;
                typed.trim().to_owned()
            }
            None => return Err(format!("nobody can be asked: agree with --yes-write-to {name}").into()),
        };
        if agreed != name {
            return Err(format!("nothing was written: {agreed:?} is not {name:?}").into());
        }
        Ok(Some(staging))
    }
}

/// A shipped scenario, or a file.
fn find(name: &str) -> Result<String> {
    if let Some((_, text)) = SHIPPED.iter().find(|(shipped, _)| *shipped == name) {
        return Ok((*text).to_owned());
    }
    std::fs::read_to_string(name).map_err(|error| {
        format!("no scenario {name}, and no such file ({error}): see `tradewind-chaos list`").into()
    })
}

/// The runs of a report.
fn recorded(path: &Path) -> Result<Vec<Job>> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let report: serde_json::Value = serde_json::from_str(&text)?;
    let runs = report["runs"].as_array().ok_or("the report has no runs")?;
    let job = |run: &serde_json::Value| {
        if run["engine"] == "staging" {
            return Err("can't replay runs on your own tables: start new ones with --regions".into());
        }
        let text = run["replay"].as_str().ok_or("a run has no scenario")?.to_owned();
        let engine = clap::ValueEnum::from_str(run["engine"].as_str().unwrap_or_default(), true)?;
        Ok((text, engine, run["seed"].as_u64().ok_or("a run has no seed")?))
    };
    runs.iter().map(job).collect()
}

async fn run(jobs: Vec<Job>, staging: Option<Staging>, settings: Settings) -> Result<bool> {
    let tradewind = match settings.tradewind {
        Some(binary) => binary,
        None => std::env::current_exe()?.with_file_name("tradewind"),
    };
    if staging.is_none() && !tradewind.is_file() {
        return Err(
            format!("{} does not exist: build it, or name it with --tradewind", tradewind.display()).into()
        );
    }
    std::fs::create_dir_all(&settings.out)?;
    let count = jobs.len();
    let mut reports: Vec<Report> = Vec::new();
    for (i, (text, engine, seed)) in jobs.into_iter().enumerate() {
        let folder = tempfile::Builder::new().prefix("tradewind-chaos-").tempdir()?;
        let path = folder.path().to_path_buf();
        let report = match &staging {
            Some(staging) => staging.run(&text, seed).await,
            None => {
                let (tradewind, defect) = (std::path::absolute(&tradewind)?, settings.defect);
                Plan { text, engine, seed, tradewind, folder: path, defect }.run().await
            }
        };
        let report = match report {
            Ok(report) => report,
            // The others may still be made.
            Err(error) => {
                say(format_args!("[{}/{count}] can't be made: {error}", i + 1));
                continue;
            }
        };
        if !report.passed && staging.is_none() {
            let kept = folder.keep();
            say(format_args!("the agents' logs are in {}", kept.display()));
        }
        say(format_args!("[{}/{count}] {}", i + 1, report.text()));
        reports.push(report);
        // After each, so that a run that is stopped leaves what it has.
        std::fs::write(settings.out.join("report.html"), html(&reports)?)?;
        std::fs::write(settings.out.join("report.json"), serde_json::to_string(&json(&reports))?)?;
        std::fs::write(settings.out.join("junit.xml"), junit(&reports))?;
    }
    let made = reports.len();
    let passed = reports.iter().filter(|report| report.passed).count();
    if settings.json {
        print(serde_json::to_string_pretty(&json(&reports))?)?;
    } else {
        let page = settings.out.join("report.html");
        print(format_args!("{passed} of {count} passed; the report is {}", page.display()))?;
    }
    if passed == made && made < count {
        return Err(format!("{} of {count} runs could not be made", count - made).into());
    }
    Ok(passed == count)
}
