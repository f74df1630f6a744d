//! The links between agents and endpoints, and how the faults in force affect them.

use std::time::Duration;

use tradewind_proxy::{Proxy, TamperingProxy, Weather};
use url::Url;

use crate::Result;
use crate::defect::Defect;
use crate::scenario::{Fault, Kind, PLACES};
use crate::service::{Service, SharedRules};

/// The name of the replicated table.
pub const TABLE: &str = "chaos-orders";
/// The key of the item whose records reach agents without a creation time.
pub const UNDATED: &str = "undated";
/// The region of another setup whose agents bring writes here, and the keys of those: an application later
/// writes the last one, the others are left alone.
pub const ELSEWHERE: &str = "atlantis";
pub const FOREIGN: [&str; 3] = ["foreign-0", "foreign-1", TAKEN];
pub const TAKEN: &str = "taken";

/// One agent's link to one endpoint.
#[derive(Debug)]
pub struct Link {
    /// The agent's region and number, and the endpoint's region.
    pub from: usize,
    pub agent: usize,
    pub to: usize,
    network: Proxy,
    _service: TamperingProxy,
    pub rules: SharedRules,
}

impl Link {
    pub async fn start(
        (from, agent, to): (usize, usize, usize),
        endpoint: &Url,
        skew_seconds: u32,
        defect: Option<Defect>,
        seed: u64,
    ) -> Result<Self> {
        let rules = SharedRules::new(seed);
        let service = Service { rules: rules.clone(), from, is_own: from == to, skew_seconds, defect };
        let service = TamperingProxy::to(endpoint, service).await?;
        let network = Proxy::to(&service.url).await?;
        Ok(Self { from, agent, to, network, _service: service, rules })
    }

    /// The URL at which the agent reaches the endpoint.
    pub fn url(&self) -> &Url {
        &self.network.url
    }

    /// Applies these faults to the link, at this time of the run.
    pub fn set(&self, faults: &[Fault], now: Duration) {
        let met: Vec<&Fault> = faults.iter().filter(|fault| self.is_met(fault)).collect();
        let mut weather = Weather::default();
        for fault in &met {
            match fault.kind {
                Kind::Partition => weather.is_cut = true,
                Kind::Flapping => {
                    let turn = now.saturating_sub(fault.at).as_millis() / fault.every.as_millis().max(1);
                    weather.is_cut |= turn.is_multiple_of(2);
                }
                Kind::SwallowRequests => weather.swallows_requests = true,
                Kind::SwallowAnswers => weather.swallows_answers = true,
                Kind::Latency => {
                    weather.delay += fault.delay;
                    weather.jitter += fault.jitter;
                }
                Kind::Bandwidth => weather.bytes_per_second = fault.bytes_per_second,
                Kind::Resets => weather.resets_percent = fault.percent,
                // The others are not network faults.
                _ => {}
            }
        }
        self.network.set(weather);
        self.rules.set(&met, now, self.from == self.to);
    }

    /// Whether a fault affects this link.
    fn is_met(&self, fault: &Fault) -> bool {
        let is = |name: &String, region: usize| PLACES[region].0 == *name;
        let between = fault
            .region
            .as_ref()
            .is_none_or(|name| self.from != self.to && (is(name, self.from) || is(name, self.to)));
        between
            && fault.from.as_ref().is_none_or(|name| is(name, self.from))
            && fault.to.as_ref().is_none_or(|name| is(name, self.to))
            && fault.agent.is_none_or(|agent| agent == self.agent)
    }
}
