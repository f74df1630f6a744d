//! The endpoints, in a process of their own, so that the CPU time of this process is Tradewind's alone.

use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tradewind::embedded::EmbeddedRegion;
use url::Url;

use crate::Result;

/// The regions and their AWS names: DynamoDB Local keeps a set of tables for each.
pub(crate) const PLACES: [(&str, &str); 3] =
    [("tokyo", "ap-northeast-1"), ("dublin", "eu-west-1"), ("oregon", "us-west-2")];
/// How long an engine may take to start.
const PATIENCE: Duration = Duration::from_mins(1);
/// The argument that starts this binary as the embedded engine.
pub const SERVE: &str = "serve-embedded";

/// A running engine; it stops when this is dropped.
#[derive(Debug)]
pub struct Engine {
    name: &'static str,
    endpoints: Vec<Url>,
    _process: Option<Server>,
}

/// A process that is killed when this is dropped.
#[derive(Debug)]
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Engine {
    /// Embedded regions, all in one other process of this binary.
    pub fn embedded() -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        // Its standard input closes when this process ends, however that happens.
        command.arg(SERVE).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Server(command.spawn()?);
        let output = process.0.stdout.take().ok_or("the embedded engine has no output")?;
        let lines = BufReader::new(output).lines().take(PLACES.len());
        let endpoints = lines.map(|line| Ok(Url::parse(&line?)?)).collect::<Result<Vec<_>>>()?;
        if endpoints.len() < PLACES.len() {
            return Err("the embedded engine stopped while starting".into());
        }
        Ok(Self { name: "embedded", endpoints, _process: Some(process) })
    }

    /// Amazon's DynamoDB Local, with all regions in one process. Started as `tests/with-engine` does.
    pub async fn dynamodb_local(jar: &Path) -> Result<Self> {
        let folder = jar.parent().ok_or("the jar has no parent folder")?;
        let libraries = folder.join("DynamoDBLocal_lib");
        let port = TcpListener::bind(("127.0.0.1", 0)).await?.local_addr()?.port();
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "java", "-Xmx2g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .arg(format!("-Djava.library.path={}", libraries.display()))
            .arg("-jar")
            .arg(jar)
            .args(["-inMemory", "-disableTelemetry", "-port", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = command.spawn().map_err(|error| format!("setpriv and java are needed: {error}"))?;
        let mut process = Server(process);
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if let Some(status) = process.0.try_wait()? {
                return Err(format!("DynamoDB Local stopped while starting: {status}").into());
            }
            if Instant::now() >= deadline {
                return Err("DynamoDB Local did not answer within a minute".into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let endpoint = Url::parse(&format!("http://127.0.0.1:{port}"))?;
        Ok(Self { name: "dynamodb-local", endpoints: vec![endpoint; PLACES.len()], _process: Some(process) })
    }

    /// A server that is already running, and keeps a set of tables for each AWS region.
    pub fn at(endpoint: &Url) -> Self {
        Self { name: "endpoint", endpoints: vec![endpoint.clone(); PLACES.len()], _process: None }
    }

    /// The DynamoDB Local fetched by `tests/with-engine`, if there is one.
    pub fn fetched_jar() -> Option<PathBuf> {
        let engines = std::env::var_os("TRADEWIND_ENGINES").unwrap_or_else(|| "target/engines".into());
        let mut jars: Vec<PathBuf> = std::fs::read_dir(engines)
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("dynamodb-local-"))
            })
            .map(|folder| folder.join("DynamoDBLocal.jar"))
            .filter(|jar| jar.is_file())
            .collect();
        jars.sort();
        std::path::absolute(jars.pop()?).ok()
    }

    pub fn name(&self) -> String {
        self.name.to_owned()
    }

    pub(crate) fn endpoints(&self) -> &[Url] {
        &self.endpoints
    }
}

/// Serves as the embedded engine until standard input ends. Prints an endpoint for each region.
pub async fn serve_embedded() -> Result<()> {
    let mut regions = Vec::new();
    for (name, _) in PLACES {
        let region = EmbeddedRegion::start(name.parse()?).await?;
        let endpoint = region.config().endpoint.ok_or("an embedded region has no endpoint")?;
        writeln!(std::io::stdout(), "{endpoint}")?;
        regions.push(region);
    }
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    Ok(())
}
