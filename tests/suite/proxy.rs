//! A TCP proxy that can be cut and restored: the network between an agent and a region.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use url::Url;

use crate::calls::{Link, Tap};

/// One link. It is open until it is cut, and gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) url: Url,
    open: watch::Sender<bool>,
    server: JoinHandle<()>,
}

impl Proxy {
    /// A link from a port of its own to the server at `target`.
    pub(crate) async fn to(target: &Url, link: Link) -> Self {
        let host = target.host_str().expect("a host").to_owned();
        let port = target.port_or_known_default().expect("a port");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a loopback port");
        let address: SocketAddr = listener.local_addr().expect("an address");
        let (open, state) = watch::channel(true);
        let server = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (host, tap, mut state) = (host.clone(), Tap::on(&link), state.clone());
                if !*state.borrow() {
                    continue;
                }
                tokio::spawn(async move {
                    tokio::select! {
                        () = carry(client, &host, port, tap) => {}
                        _ = state.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        let url = Url::parse(&format!("http://{address}")).expect("a URL");
        Self { url, open, server }
    }

    /// Breaks every connection, and each new one at once.
    pub(crate) fn cut(&self) {
        self.open.send_replace(false);
    }

    pub(crate) fn restore(&self) {
        self.open.send_replace(true);
    }
}

async fn carry(mut client: TcpStream, host: &str, port: u16, tap: Option<Tap>) {
    let Ok(mut server) = TcpStream::connect((host, port)).await else { return };
    // Requests and answers are small: none must wait for the next.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    match tap {
        None => _ = copy_bidirectional(&mut client, &mut server).await,
        Some(tap) => _ = Box::pin(carry_and_look(client, server, tap)).await,
    }
}

async fn carry_and_look(mut client: TcpStream, mut server: TcpStream, mut tap: Tap) -> std::io::Result<()> {
    let (mut question, mut answer) = ([0; 16 * 1024], [0; 16 * 1024]);
    loop {
        tokio::select! {
            read = client.read(&mut question) => {
                let bytes = &question[..read?];
                if bytes.is_empty() {
                    return Ok(());
                }
                tap.asked(bytes);
                server.write_all(bytes).await?;
            }
            read = server.read(&mut answer) => {
                let bytes = &answer[..read?];
                if bytes.is_empty() {
                    return Ok(());
                }
                tap.answered(bytes);
                client.write_all(bytes).await?;
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}
