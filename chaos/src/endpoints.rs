//! The regions' endpoints, each in a process of its own, which keep their data when they are killed.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::ValueEnum;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};
use url::Url;

use crate::Result;

/// The argument that starts this binary as the embedded engine.
pub const SERVE: &str = "serve-embedded";
/// How long an engine may take to start.
const PATIENCE: Duration = Duration::from_mins(1);

/// The engine that the regions run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// dynoxide, which is in this binary.
    Embedded,
    /// Amazon's DynamoDB Local, which `tests/with-engine dynamodb-local` fetches. Needs Java.
    DynamodbLocal,
}

/// One region's endpoint.
#[derive(Debug)]
pub struct Endpoint {
    pub url: Url,
    engine: Engine,
    port: u16,
    data: PathBuf,
    process: Option<Child>,
}

impl Endpoint {
    /// Starts an empty one that keeps its data under this path.
    pub async fn start(engine: Engine, data: PathBuf) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()?.port();
        let url = Url::parse(&format!("http://127.0.0.1:{port}"))?;
        std::fs::create_dir_all(&data)?;
        let mut endpoint = Self { url, engine, port, data, process: None };
        endpoint.resume().await?;
        Ok(endpoint)
    }

    /// Kills it.
    pub async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended already.
            let _ = process.kill().await;
        }
    }

    /// Restarts it with its data.
    pub async fn resume(&mut self) -> Result<()> {
        let mut command = Command::new("setpriv");
        // It must not outlive this process, however that ends.
        command.args(["--pdeathsig", "KILL"]);
        match self.engine {
            Engine::Embedded => {
                command.arg(std::env::current_exe()?).arg(SERVE);
                command.arg(self.port.to_string()).arg(self.data.join("data.sqlite"));
            }
            Engine::DynamodbLocal => {
                let jar = jar().ok_or(
                    "DynamoDB Local not found under target/engines: fetch it with tests/with-engine dynamodb-local \
                     true",
                )?;
                let libraries = jar.parent().unwrap_or(Path::new(".")).join("DynamoDBLocal_lib");
                command
                    .args(["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
                    .arg(format!("-Djava.library.path={}", libraries.display()))
                    .arg("-jar")
                    .arg(jar)
                    .args(["-disableTelemetry", "-port", &self.port.to_string(), "-dbPath"])
                    .arg(&self.data);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let mut process = command.spawn().map_err(|error| format!("setpriv is needed: {error}"))?;
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_err() {
            if let Some(status) = process.try_wait()? {
                return Err(format!("an endpoint stopped while starting: {status}").into());
            }
            if Instant::now() >= deadline {
                return Err("an endpoint did not answer within a minute".into());
            }
            sleep(Duration::from_millis(50)).await;
        }
        self.process = Some(process);
        Ok(())
    }
}

/// Serves as the embedded engine until it is killed.
pub async fn serve(port: u16, data: &Path) -> Result<()> {
    let database = dynoxide::Database::new(&data.to_string_lossy())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    Ok(dynoxide::server::serve_with_shutdown(listener, database, std::future::pending()).await?)
}

/// The newest DynamoDB Local that has been fetched.
fn jar() -> Option<PathBuf> {
    let engines = std::env::var_os("TRADEWIND_ENGINES").map_or_else(found, |engines| Some(engines.into()))?;
    let mut jars: Vec<PathBuf> = std::fs::read_dir(engines)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path().join("DynamoDBLocal.jar")))
        .filter(|jar| jar.is_file())
        .collect();
    jars.sort();
    std::path::absolute(jars.pop()?).ok()
}

/// `target/engines`, here or in a parent folder.
fn found() -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    here.ancestors().map(|folder| folder.join("target/engines")).find(|engines| engines.is_dir())
}
