//! `--listen`: where a command serves its page and metrics.

use std::net::SocketAddr;
use std::sync::Arc;

use clap::Args;

use super::{Exit, Failure};
use crate::dashboard::{Dashboard, ListenError, Token};
use crate::telemetry::Telemetry;

#[derive(Debug, Args)]
pub(super) struct Listen {
    /// Where to serve the page, /metrics, /healthz and /readyz; "off" for nowhere. Beyond this machine it
    /// requires a token, in `TRADEWIND_TOKEN`. Default: 127.0.0.1:7780, or a free port if that is in use.
    #[arg(long, value_name = "ADDRESS", env = "TRADEWIND_LISTEN")]
    listen: Option<ListenAddress>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum ListenAddress {
    Off,
    On(SocketAddr),
}

impl std::str::FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            address => address
                .parse()
                .map(Self::On)
                .map_err(|_| "expected an address such as \"127.0.0.1:7780\", or \"off\"".to_owned()),
        }
    }
}

impl Listen {
    /// Starts to serve, unless that is turned off.
    pub(super) async fn serve(&self, telemetry: &Arc<Telemetry>) -> Result<Option<Dashboard>, Failure> {
        let address = match self.listen {
            Some(ListenAddress::Off) => return Ok(None),
            Some(ListenAddress::On(address)) => Some(address),
            None => None,
        };
        let token = std::env::var("TRADEWIND_TOKEN").ok().filter(|token| !token.is_empty());
        let token = token.as_deref().map(Token::new);
        Ok(Some(Dashboard::start(address, token, Arc::clone(telemetry)).await?))
    }
}

impl From<ListenError> for Failure {
    fn from(error: ListenError) -> Self {
        let exit = match error {
            ListenError::NoToken(_) => Exit::Usage,
            ListenError::Taken(..) => Exit::Unavailable,
        };
        Self::new(exit, error)
    }
}
