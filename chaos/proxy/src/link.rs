//! A TCP proxy that can be cut, slowed and restored: the network between an agent and a region.

use std::io::Result;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use url::Url;

/// What the network is like. The default is a good one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weather {
    /// Every connection is broken, and each new one at once.
    pub is_cut: bool,
    /// What the client sends gets nowhere, and it is not told.
    pub swallows_requests: bool,
    /// What the server answers gets nowhere: requests take effect all the same.
    pub swallows_answers: bool,
    /// Added to each piece, in each direction.
    pub delay: Duration,
    /// At most this is added to the delay, at random.
    pub jitter: Duration,
    /// In each direction of each connection. None: without a limit.
    pub bytes_per_second: Option<u32>,
    /// Of a hundred pieces, how many break their connection in place of going on.
    pub resets_percent: u8,
}

/// Hears what one connection carries, before it is passed on.
pub trait Witness: Send + 'static {
    /// Some more of what the client asked.
    fn asked(&mut self, bytes: &[u8]);

    /// Some more of what the server answered.
    fn answered(&mut self, bytes: &[u8]);
}

/// What hears a connection, if anything does.
type Heard = Arc<Mutex<Option<Box<dyn Witness>>>>;

/// One link. It is open until it is cut, and gone when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    pub url: Url,
    weather: watch::Sender<Weather>,
    server: JoinHandle<()>,
}

impl Proxy {
    /// A link from a port of its own to the server at `target`.
    pub async fn to(target: &Url) -> Result<Self> {
        Self::watched(target, || None).await
    }

    /// The same, with a witness for each connection.
    pub async fn watched(
        target: &Url,
        witness: impl Fn() -> Option<Box<dyn Witness>> + Send + 'static,
    ) -> Result<Self> {
        let host = target.host_str().unwrap_or_default().to_owned();
        let port = target.port_or_known_default().unwrap_or_default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = loopback(&listener)?;
        let (weather, state) = watch::channel(Weather::default());
        let server = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (host, state) = (host.clone(), state.clone());
                if state.borrow().is_cut {
                    continue;
                }
                let (mut cut, heard) = (state.clone(), Arc::new(Mutex::new(witness())));
                tokio::spawn(async move {
                    tokio::select! {
                        () = carry(client, &host, port, state, heard) => {}
                        _ = cut.wait_for(|weather| weather.is_cut) => {}
                    }
                });
            }
        });
        Ok(Self { url, weather, server })
    }

    /// Breaks every connection, and each new one at once.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.is_cut = true);
    }

    pub fn restore(&self) {
        self.weather.send_modify(|weather| weather.is_cut = false);
    }

    /// Makes the network so, for connections old and new.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

/// The URL of a listener on loopback.
pub(crate) fn loopback(listener: &TcpListener) -> Result<Url> {
    Url::parse(&format!("http://{}", listener.local_addr()?)).map_err(std::io::Error::other)
}

async fn carry(client: TcpStream, host: &str, port: u16, state: watch::Receiver<Weather>, heard: Heard) {
    let Ok(server) = TcpStream::connect((host, port)).await else { return };
    // Requests and answers are small: none must wait for the next.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    // A connection of which one direction has ended is of no use to HTTP/1.
    let told = |tell: fn(&mut dyn Witness, &[u8])| {
        let heard = Arc::clone(&heard);
        move |bytes: &[u8]| {
            if let Some(witness) = heard.lock().unwrap_or_else(PoisonError::into_inner).as_deref_mut() {
                tell(witness, bytes);
            }
        }
    };
    let (asked, answered) = (told(Witness::asked), told(Witness::answered));
    tokio::select! {
        _ = pass(&mut from_client, &mut to_server, &state, |weather| weather.swallows_requests, asked) => {}
        _ = pass(&mut from_server, &mut to_client, &state, |weather| weather.swallows_answers, answered) => {}
    }
}

/// Passes on one direction until it ends, or breaks.
async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    state: &watch::Receiver<Weather>,
    swallows: fn(&Weather) -> bool,
    hear: impl Fn(&[u8]),
) -> Result<()> {
    let mut rng = fastrand::Rng::new();
    let mut buffer = vec![0; 16 * 1024];
    // What has been swallowed leaves a hole, and nothing may come after it.
    let mut is_broken = false;
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let weather = *state.borrow();
        is_broken |= swallows(&weather);
        if is_broken && !swallows(&weather) || rng.u8(0..100) < weather.resets_percent {
            return Ok(());
        }
        if is_broken {
            continue;
        }
        let jitter = u64::try_from(weather.jitter.as_micros()).unwrap_or(u64::MAX);
        let mut wait = weather.delay + Duration::from_micros(rng.u64(0..=jitter));
        if let Some(rate) = weather.bytes_per_second {
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            wait += Duration::from_secs(1) * length / rate.max(1);
        }
        if !wait.is_zero() {
            sleep(wait).await;
        }
        hear(&buffer[..length]);
        to.write_all(&buffer[..length]).await?;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}
