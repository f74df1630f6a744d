//! Badly behaved clients of the agents' listeners: they connect, and send nothing or half a request.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// How many connections to open to each agent: more than it serves at once.
const MANY: usize = 400;
/// What each sends, in turn: nothing, half a head, and a request with nothing after it.
const SAID: [&str; 3] =
    ["", "GET /metrics HTTP/1.1\r\nHost: 127", "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"];
/// How often a probe asks, and how long it waits.
const EVERY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);

/// Holds connections to an agent for this long. Returns what was wrong with the agent's reaction: a probe
/// must get through all the while, and in the end the agent must have closed all of them.
pub async fn besiege(address: SocketAddr, lasts: Duration) -> Vec<String> {
    let until = Instant::now() + lasts;
    let mut wrong = Vec::new();
    let mut held = Vec::new();
    for i in 0..MANY {
        match TcpStream::connect(address).await {
            Ok(mut stream) => {
                // One that has been closed already is correct.
                let _ = stream.write_all(SAID[i % SAID.len()].as_bytes()).await;
                held.push(stream);
            }
            Err(error) => {
                wrong.push(format!("no connection to {address}: {error}"));
                break;
            }
        }
    }
    while Instant::now() < until {
        if !matches!(timeout(PATIENCE, probe(address)).await, Ok(true)) {
            wrong.push(format!("{address} does not answer a probe within {PATIENCE:?}"));
        }
        sleep(EVERY).await;
    }
    let mut open = 0;
    for mut stream in held {
        // An answer may come before the end.
        let mut rest = Vec::new();
        open += usize::from(timeout(Duration::from_millis(10), stream.read_to_end(&mut rest)).await.is_err());
    }
    if open > 0 {
        wrong.push(format!("{address} still holds {open} of {MANY} idle connections"));
    }
    wrong
}

/// Whether an agent reports that it is alive.
async fn probe(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else { return false };
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    stream.write_all(request.as_bytes()).await.is_ok()
        && stream.read_to_string(&mut answer).await.is_ok()
        && answer.starts_with("HTTP/1.1 200")
}
