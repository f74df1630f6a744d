//! The links between agents and endpoints, and what the faults under way make of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tradewind_proxy::{Fate, Proxy, Tamper, TamperingProxy, Weather};
use url::Url;

use crate::Result;
use crate::defect::{Defect, delay};
use crate::scenario::{Fault, Kind, PLACES, Table};

/// The name of the replicated table.
pub const TABLE: &str = "chaos-orders";
/// The errors that a scenario may name.
const ERRORS: [&str; 8] = [
    "ProvisionedThroughputExceededException",
    "ThrottlingException",
    "InternalServerError",
    "ServiceUnavailable",
    "RequestLimitExceeded",
    "ExpiredIteratorException",
    "LimitExceededException",
    "ResourceNotFoundException",
];

/// One agent's way to one endpoint.
#[derive(Debug)]
pub struct Link {
    /// The agent's region and number, and the endpoint's region.
    pub from: usize,
    pub agent: usize,
    pub to: usize,
    network: Proxy,
    _service: TamperingProxy,
    rules: Arc<Mutex<Rules>>,
}

#[derive(Debug)]
struct Rules {
    active: Vec<Rule>,
    rng: fastrand::Rng,
}

/// What happens to some calls.
#[derive(Clone, Debug)]
struct Rule {
    percent: u8,
    operation: Option<String>,
    table: Option<Table>,
    fate: Fate,
}

/// What a link does to what is said.
struct Service {
    rules: Arc<Mutex<Rules>>,
    from: usize,
    is_own: bool,
    skew_seconds: u32,
    defect: Option<Defect>,
}

impl Link {
    pub async fn start(
        (from, agent, to): (usize, usize, usize),
        endpoint: &Url,
        skew_seconds: u32,
        defect: Option<Defect>,
        seed: u64,
    ) -> Result<Self> {
        let rng = fastrand::Rng::with_seed(seed);
        let rules = Arc::new(Mutex::new(Rules { active: Vec::new(), rng }));
        let service = Service { rules: Arc::clone(&rules), from, is_own: from == to, skew_seconds, defect };
        let service = TamperingProxy::to(endpoint, service).await?;
        let network = Proxy::to(&service.url).await?;
        Ok(Self { from, agent, to, network, _service: service, rules })
    }

    /// Where the agent reaches the endpoint.
    pub fn url(&self) -> &Url {
        &self.network.url
    }

    /// Makes the link what these faults make of it, at this time of the run.
    pub fn set(&self, faults: &[Fault], now: Duration) {
        let mut weather = Weather::default();
        let mut active = Vec::new();
        for fault in faults.iter().filter(|fault| self.is_met(fault)) {
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
                Kind::Errors => active.push(rule(fault, Fate::Fail(error(fault)))),
                Kind::FailAfterwards => active.push(rule(fault, Fate::LoseAnswer)),
                // These are no faults of a link.
                Kind::Kill
                | Kind::Pause
                | Kind::RollingRestart
                | Kind::EndpointDown
                | Kind::DeleteTable
                | Kind::Poison => {}
            }
        }
        self.network.set(weather);
        lock(&self.rules).active = active;
    }

    /// Whether a fault is one of this link.
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

fn rule(fault: &Fault, fate: Fate) -> Rule {
    Rule { percent: fault.percent, operation: fault.operation.clone(), table: fault.table, fate }
}

fn error(fault: &Fault) -> &'static str {
    let named = fault.error.as_deref().unwrap_or("InternalServerError");
    ERRORS.iter().find(|error| **error == named).copied().unwrap_or("InternalServerError")
}

fn lock(rules: &Mutex<Rules>) -> MutexGuard<'_, Rules> {
    rules.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a call names a table. The control table's rows name the replicated one, too.
fn is_on(table: Table, body: &str) -> bool {
    let name = match table {
        Table::Data => TABLE,
        Table::Control => "tradewind-control",
    };
    body.contains(&format!("\"TableName\":\"{name}\""))
}

fn is_on_data(body: &str) -> bool {
    is_on(Table::Data, body)
}

impl Tamper for Service {
    fn request(&self, operation: &str, body: &str) -> Fate {
        let mut rules = lock(&self.rules);
        let Rules { active, rng } = &mut *rules;
        for rule in active {
            let is_met = rule.operation.as_ref().is_none_or(|only| only == operation)
                && rule.table.is_none_or(|table| is_on(table, body));
            if is_met && rng.u8(0..100) < rule.percent {
                return rule.fate;
            }
        }
        match self.defect.filter(|_| is_on_data(body)) {
            Some(defect) => defect.fate(operation, body, self.is_own, rng),
            None => Fate::Pass,
        }
    }

    fn forward(&self, operation: &str, body: String) -> String {
        let Some(defect) = self.defect.filter(|_| is_on_data(&body)) else { return body };
        let Ok(mut request) = serde_json::from_str(&body) else { return body };
        defect.bend_write(operation, &mut request);
        request.to_string()
    }

    fn answer(&self, operation: &str, body: String) -> String {
        if operation != "GetRecords" || self.skew_seconds == 0 && self.defect.is_none() {
            return body;
        }
        let Ok(mut page) = serde_json::from_str::<Value>(&body) else { return body };
        if let Some(records) = page["Records"].as_array_mut() {
            delay(records, self.skew_seconds);
            if let Some(defect) = self.defect {
                defect.bend_page(self.from, records, &mut lock(&self.rules).rng);
            }
        }
        page.to_string()
    }
}
