//! Agents as processes, which are restarted when they end, as a service manager would do.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{PipeReader, pipe};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use url::Url;

use crate::Result;
use crate::defect::Defect;
use crate::faults::{Link, TABLE};
use crate::feeds::Feeds;
use crate::scenario::{Log, PLACES};

/// The pause before an ended agent is restarted.
const PAUSE: Duration = Duration::from_millis(300);
/// How long a stopping agent may take by its configuration, and how long until it is killed, and that is
/// reported.
const DRAIN: Duration = Duration::from_secs(4);
const KILLED: Duration = Duration::from_secs(12);
/// The profile that agents sign with, and a key for the environment that belongs to nobody.
const PROFILE: &str = "chaos";
const NOBODYS: &str = "environment";

/// What an agent is wanted to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Run,
    Die,
    Stop,
}

/// An agent's connections to the outside.
#[derive(Clone, Copy, Debug)]
pub struct Ways {
    pub log: Log,
    pub listen: Option<SocketAddr>,
}

/// One agent of a region.
#[derive(Debug)]
pub struct Agent {
    pub region: usize,
    pub number: usize,
    /// Where it serves.
    pub listens: Option<SocketAddr>,
    wish: watch::Sender<Wish>,
    process: Arc<AtomicU32>,
    breakdowns: Arc<Mutex<Vec<String>>>,
    supervisor: JoinHandle<()>,
}

/// The agents' binary, and what all agents share.
#[derive(Clone, Debug)]
pub struct Build {
    pub tradewind: PathBuf,
    /// For configurations, credentials and logs.
    pub folder: PathBuf,
    pub defect: Option<Defect>,
    pub feeds: Option<Feeds>,
}

impl Build {
    /// A command of the binary, with the endpoints' credentials only in a file.
    pub fn command(&self, arguments: &[&str]) -> Command {
        // It must not outlive this process, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if self.defect == Some(Defect::FragileOutput) {
            command.args(["sh", "-c", "echo begins >&2 && exec \"$0\" \"$@\" || exit 101"]);
        }
        command.arg(&self.tradewind).args(arguments);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            // The file takes precedence.
            .env("AWS_ACCESS_KEY_ID", NOBODYS)
            .env("AWS_SECRET_ACCESS_KEY", NOBODYS)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_CONFIG_FILE", "/nonexistent")
            .env("AWS_SHARED_CREDENTIALS_FILE", self.credentials())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Replaces the access key in the agents' credentials file, atomically.
    pub fn write_credentials(&self, access_key: &str) -> Result<()> {
        let new = self.folder.join("credentials.new");
        let text =
            format!("[{PROFILE}]\naws_access_key_id = {access_key}\naws_secret_access_key = {access_key}\n");
        std::fs::write(&new, text)?;
        Ok(std::fs::rename(new, self.credentials())?)
    }

    fn credentials(&self) -> PathBuf {
        self.folder.join("credentials")
    }

    /// The configuration of one agent, whose calls all go over these links: one for each region, in order;
    /// its feeds deliver to this URL, if they call anything.
    pub fn config(&self, links: &[&Link], memory_keys: Option<usize>, sinks: Option<&Url>) -> String {
        let mut text = String::new();
        for link in links {
            let (name, aws_region) = PLACES[link.to];
            // Writing to memory does not fail.
            let _ = write!(
                text,
                "[[region]]\nname = \"{name}\"\naws_region = \"{aws_region}\"\nendpoint = \"{}\"\n\
                 profile = \"{PROFILE}\"\n\n",
                link.url()
            );
        }
        let is_slow = self.defect == Some(Defect::SlowToStop);
        let drain = if is_slow { Duration::from_mins(5) } else { DRAIN }.as_secs();
        let _ = write!(
            text,
            "[[table]]\nname = \"{TABLE}\"\n\n[tuning]\npoll_interval = \"100ms\"\nidle_poll_interval = \"100ms\"\n\
             checkpoint_interval = \"300ms\"\nsettle = \"4s\"\nunproven = true\nlease_duration = \"1500ms\"\n\
             concurrency = 16\nstartup_timeout = \"3s\"\ndiscovery_interval = \"5s\"\nheartbeat_interval = \"2s\"\n\
             drain_timeout = \"{drain}s\"\n"
        );
        if let Some(keys) = memory_keys {
            let _ = writeln!(text, "memory_keys = {keys}");
        }
        text.extend(self.feeds.as_ref().map(|feeds| feeds.config(sinks)));
        text
    }
}

impl Agent {
    /// Starts it, with its configuration and its log in the folder.
    pub fn start(build: Build, region: usize, number: usize, config: &str, ways: Ways) -> Result<Self> {
        let name = format!("{}-{number}", PLACES[region].0);
        let file = build.folder.join(format!("{name}.toml"));
        std::fs::write(&file, config)?;
        let (wish, wishes) = watch::channel(Wish::Run);
        let process = Arc::new(AtomicU32::new(0));
        let breakdowns = Arc::new(Mutex::new(Vec::new()));
        let supervisor = Supervisor {
            log: build.folder.join(format!("{name}.log")),
            build,
            region,
            name,
            config: file,
            ways,
            unread: Vec::new(),
            process: Arc::clone(&process),
            breakdowns: Arc::clone(&breakdowns),
        };
        let supervisor = tokio::spawn(supervisor.run(wishes));
        Ok(Self { region, number, listens: ways.listen, wish, process, breakdowns, supervisor })
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

    /// Lets it finish. Returns how it has failed, if it has.
    pub async fn end(self) -> Vec<String> {
        self.wish(Wish::Stop);
        drop(self.wish);
        // It ends once it has nobody to listen to.
        let _ = self.supervisor.await;
        std::mem::take(&mut self.breakdowns.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Supervisor {
    build: Build,
    region: usize,
    name: String,
    config: PathBuf,
    log: PathBuf,
    ways: Ways,
    /// The ends of pipes from which nobody reads.
    unread: Vec<PipeReader>,
    process: Arc<AtomicU32>,
    breakdowns: Arc<Mutex<Vec<String>>>,
}

impl Supervisor {
    async fn run(mut self, mut wishes: watch::Receiver<Wish>) {
        while wishes.wait_for(|wish| *wish == Wish::Run).await.is_ok() {
            let mut child = match self.spawn() {
                Ok(child) => child,
                Err(error) => return self.broke_down(&error.to_string()),
            };
            self.process.store(child.id().unwrap_or_default(), Ordering::Relaxed);
            let wish = tokio::select! {
                status = child.wait() => {
                    // 0 to 69 mean that a region is missing, which is what faults are for.
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

    fn spawn(&mut self) -> Result<Child> {
        let region = PLACES[self.region].0;
        let is_unserved = self.build.defect == Some(Defect::Unserved);
        let listen = self.ways.listen.filter(|_| !is_unserved);
        let listen = listen.map_or_else(|| "off".to_owned(), |address| address.to_string());
        let mut command = self.build.command(&["run", "--region", region, "--listen", &listen, "--config"]);
        let log: Stdio = match self.ways.log {
            Log::File => OpenOptions::new().create(true).append(true).open(&self.log)?.into(),
            Log::Full => OpenOptions::new().write(true).open("/dev/full")?.into(),
            Log::Gone => pipe()?.1.into(),
            Log::Unread => {
                let (reader, writer) = pipe()?;
                self.unread.push(reader);
                // Much more than a pipe holds.
                command.env("RUST_LOG", "trace");
                writer.into()
            }
        };
        Ok(command.arg(&self.config).stdout(Stdio::null()).stderr(log).spawn()?)
    }

    async fn finish(&self, mut child: Child, wish: Wish) {
        if wish == Wish::Stop {
            if let Some(id) = child.id() {
                let _ = Command::new("kill").args(["-s", "TERM", &id.to_string()]).status().await;
            }
            if timeout(KILLED, child.wait()).await.is_ok() {
                return;
            }
            self.broke_down(&format!("did not stop within {KILLED:?}; its log is {}", self.log.display()));
        }
        // It may have ended already.
        let _ = child.kill().await;
    }

    fn broke_down(&self, how: &str) {
        let how = format!("{}: {how}", self.name);
        self.breakdowns.lock().unwrap_or_else(PoisonError::into_inner).push(how);
    }
}
