//! Regions in this process, for the demo and the tests: each a dynoxide engine behind its own HTTP server on
//! a loopback port, used through the real SDK.

use std::fmt;
use std::net::Ipv4Addr;

use dynoxide::{Database, server};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::config::{Credentials, RegionConfig};
use crate::protocol::Origin;

/// One region in this process. Dropping it discards its data.
pub struct EmbeddedRegion {
    name: Origin,
    endpoint: Url,
    database: Database,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

/// Why a region can't start in this process.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    #[error("can't start the embedded engine: {0}")]
    Engine(#[from] dynoxide::DynoxideError),
    #[error("can't open a loopback port: {0}")]
    Port(#[from] std::io::Error),
    #[error("can't make a URL of the port: {0}")]
    Url(#[from] url::ParseError),
}

impl EmbeddedRegion {
    /// Starts an empty region on a free port of 127.0.0.1.
    pub async fn start(name: Origin) -> Result<Self, EmbeddedError> {
        let database = Database::memory()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let endpoint = Url::parse(&format!("http://{}", listener.local_addr()?))?;
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let engine = database.clone();
        let server = tokio::spawn(async move {
            if let Err(error) = server::serve_with_shutdown(listener, engine, stopped).await {
                tracing::error!(error, "embedded region stopped");
            }
        });
        Ok(Self { name, endpoint, database, stop, server })
    }

    /// Deletes the items whose time to live has passed, which the engine does not do by itself. Returns how
    /// many.
    pub fn expire(&self) -> Result<usize, EmbeddedError> {
        Ok(self.database.sweep_ttl()?)
    }

    /// The region as `regions.toml` would describe it, except for its credentials.
    pub fn config(&self) -> RegionConfig {
        RegionConfig {
            name: self.name.clone(),
            aws_region: "us-east-1".to_owned(),
            endpoint: Some(self.endpoint.clone()),
            streams_endpoint: None,
            credentials: Credentials::Embedded,
            control_table: RegionConfig::CONTROL_TABLE.to_owned(),
            conflict_table: RegionConfig::CONFLICT_TABLE.to_owned(),
        }
    }
}

impl fmt::Debug for EmbeddedRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, endpoint, .. } = self;
        f.debug_struct("EmbeddedRegion")
            .field("name", name)
            .field("endpoint", endpoint)
            .finish_non_exhaustive()
    }
}

impl Drop for EmbeddedRegion {
    fn drop(&mut self) {
        self.stop.cancel();
        self.server.abort();
    }
}
