//! `tradewind health`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::listen::ListenAddress;
use super::{Exit, Failure, report};
use crate::dashboard::DEFAULT_ADDRESS;

/// The longest answer that is read, in bytes; a normal one is one word.
const LONGEST: u64 = 4096;

/// Ask the agent on this machine whether it is healthy.
///
/// For images without a shell, and for supervisors that run a command: it requests /healthz where the agent
/// listens. Exits with 0 if the agent is healthy, with 1 if it reports that it is not, with 69 if it does not
/// answer.
#[derive(Debug, Args)]
pub(super) struct Health {
    /// Where the agent listens. Default: 127.0.0.1:7780.
    #[arg(long, value_name = "ADDRESS", env = "TRADEWIND_LISTEN")]
    listen: Option<ListenAddress>,
    /// Request /readyz instead: whether the agent replicates.
    #[arg(long)]
    ready: bool,
    /// How long to wait for the answer.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

#[derive(Serialize)]
struct Answer {
    well: bool,
    says: String,
}

impl Health {
    pub(super) async fn run(self, json: bool) -> Result<Exit, Failure> {
        let address = match self.listen {
            None => DEFAULT_ADDRESS,
            Some(ListenAddress::On(address)) => reachable(address),
            Some(ListenAddress::Off) => {
                let message = "the agent does not listen (--listen off), so it can't be asked";
                return Err(Failure::new(Exit::Usage, message));
            }
        };
        let path = if self.ready { "/readyz" } else { "/healthz" };
        let silent =
            |why: String| Failure::new(Exit::Unavailable, format!("no answer from {address}{path}: {why}"));
        let answer = timeout(self.timeout, ask(address, path))
            .await
            .map_err(|_| silent("timed out".to_owned()))?
            .map_err(|error| silent(error.to_string()))?;
        let (status, says) = answer
            .split_once("\r\n\r\n")
            .and_then(|(head, body)| Some((head.split(' ').nth(1)?, body.trim().to_owned())))
            .ok_or_else(|| silent("it does not speak HTTP".to_owned()))?;
        let well = status == "200";
        report(json, &Answer { well, says }, |answer| answer.says.clone())?;
        Ok(if well { Exit::Done } else { Exit::Differs })
    }
}

/// The address at which an agent that listens here is reached from this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Returns the whole answer. With HTTP/1.0, it ends when the connection does.
async fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    connection.take(LONGEST).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
