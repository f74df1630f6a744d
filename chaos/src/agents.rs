//! Agents as processes, which are started again when they end, as a service manager would.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::Result;
use crate::faults::{Link, TABLE};
use crate::scenario::PLACES;
use crate::wire::ACCESS_KEY;

/// What an ended agent waits for before it is started again.
const PAUSE: Duration = Duration::from_millis(300);
/// How long a stopping agent may take before it is killed.
const DRAIN: Duration = Duration::from_secs(10);

/// What is wanted of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Run,
    Die,
    Stop,
}

/// One agent of a region.
#[derive(Debug)]
pub struct Agent {
    pub region: usize,
    pub number: usize,
    wish: watch::Sender<Wish>,
    process: Arc<AtomicU32>,
    breakdowns: Arc<Mutex<Vec<String>>>,
    supervisor: JoinHandle<()>,
}

/// A command of the agent's binary, with the endpoints' credentials and otherwise alone.
pub fn tradewind(binary: &Path, arguments: &[&str]) -> Command {
    // It must not outlive this process, however that ends.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(binary).args(arguments);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", ACCESS_KEY)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_CONFIG_FILE", "/nonexistent")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// The configuration of one agent, whose calls all go over these links: one a region, in order.
pub fn config(links: &[&Link], memory_keys: Option<usize>) -> String {
    let mut text = String::new();
    for link in links {
        let (name, aws_region) = PLACES[link.to];
        // Writing to memory does not fail.
        let _ = write!(
            text,
            "[[region]]\nname = \"{name}\"\naws_region = \"{aws_region}\"\nendpoint = \"{}\"\n\n",
            link.url()
        );
    }
    let _ = write!(
        text,
        "[[table]]\nname = \"{TABLE}\"\n\n[tuning]\npoll_interval = \"100ms\"\nidle_poll_interval = \"100ms\"\n\
         checkpoint_interval = \"300ms\"\nsettle = \"4s\"\nunproven = true\nlease_duration = \"1500ms\"\nconcurrency = 16\n\
         startup_timeout = \"3s\"\ndiscovery_interval = \"5s\"\nheartbeat_interval = \"2s\"\n"
    );
    if let Some(keys) = memory_keys {
        let _ = writeln!(text, "memory_keys = {keys}");
    }
    text
}

impl Agent {
    /// Starts it, with its configuration and its log in this folder.
    pub fn start(binary: PathBuf, folder: &Path, region: usize, number: usize, config: &str) -> Result<Self> {
        let name = format!("{}-{number}", PLACES[region].0);
        let file = folder.join(format!("{name}.toml"));
        std::fs::write(&file, config)?;
        let log = folder.join(format!("{name}.log"));
        let (wish, wishes) = watch::channel(Wish::Run);
        let process = Arc::new(AtomicU32::new(0));
        let breakdowns = Arc::new(Mutex::new(Vec::new()));
        let supervisor = Supervisor {
            binary,
            region,
            name,
            config: file,
            log,
            process: Arc::clone(&process),
            breakdowns: Arc::clone(&breakdowns),
        };
        let supervisor = tokio::spawn(supervisor.run(wishes));
        Ok(Self { region, number, wish, process, breakdowns, supervisor })
    }

    pub fn wish(&self, wish: Wish) {
        self.wish.send_replace(wish);
    }

    /// Sends a signal, such as STOP.
    pub async fn signal(&self, signal: &str) -> Result<()> {
        let id = self.process.load(Ordering::Relaxed);
        if id > 0 {
            Command::new("kill").args(["-s", signal, &id.to_string()]).stderr(Stdio::null()).status().await?;
        }
        Ok(())
    }

    /// Lets it finish, and tells how it has broken down, if it has.
    pub async fn end(self) -> Vec<String> {
        self.wish(Wish::Stop);
        drop(self.wish);
        // It ends once it has nobody to listen to.
        let _ = self.supervisor.await;
        std::mem::take(&mut self.breakdowns.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Supervisor {
    binary: PathBuf,
    region: usize,
    name: String,
    config: PathBuf,
    log: PathBuf,
    process: Arc<AtomicU32>,
    breakdowns: Arc<Mutex<Vec<String>>>,
}

impl Supervisor {
    async fn run(self, mut wishes: watch::Receiver<Wish>) {
        while wishes.wait_for(|wish| *wish == Wish::Run).await.is_ok() {
            let mut child = match self.spawn() {
                Ok(child) => child,
                Err(error) => return self.broke_down(&error.to_string()),
            };
            self.process.store(child.id().unwrap_or_default(), Ordering::Relaxed);
            let wish = tokio::select! {
                status = child.wait() => {
                    // 0 to 69 say that a region is missing, which is what faults are for.
                    let code = status.ok().and_then(|status| status.code());
                    if code.is_none_or(|code| code == 70 || code > 77) {
                        self.broke_down(&format!("ended with {code:?}; its log is {}", self.log.display()));
                    }
                    None
                }
                wish = wishes.wait_for(|wish| *wish != Wish::Run) => Some(wish.map_or(Wish::Die, |wish| *wish)),
            };
            match wish {
                None => sleep(PAUSE).await,
                Some(wish) => self.finish(child, wish).await,
            }
            self.process.store(0, Ordering::Relaxed);
        }
    }

    fn spawn(&self) -> Result<Child> {
        let region = PLACES[self.region].0;
        let mut command =
            tradewind(&self.binary, &["run", "--region", region, "--listen", "off", "--config"]);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        Ok(command.arg(&self.config).stdout(Stdio::null()).stderr(log).spawn()?)
    }

    async fn finish(&self, mut child: Child, wish: Wish) {
        if wish == Wish::Stop {
            if let Some(id) = child.id() {
                let _ = Command::new("kill").args(["-s", "TERM", &id.to_string()]).status().await;
            }
            if timeout(DRAIN, child.wait()).await.is_ok() {
                return;
            }
        }
        // It may have ended already.
        let _ = child.kill().await;
    }

    fn broke_down(&self, how: &str) {
        let how = format!("{}: {how}", self.name);
        self.breakdowns.lock().unwrap_or_else(PoisonError::into_inner).push(how);
    }
}
