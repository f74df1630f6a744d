//! The agents: started, killed, stopped, and restarted.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_dynamodb::config::{
    Credentials as StaticCredentials, Region as AwsRegion, SharedCredentialsProvider,
};
use aws_smithy_async::rt::sleep::{SharedAsyncSleep, TokioSleep};
use aws_smithy_async::time::SharedTimeSource;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use tokio::task::JoinHandle;
use tradewind::agent::Agent;
use tradewind::config::{
    Config, Credentials, FeedConfig, LambdaConfig, OnFailure, RegionConfig, SinkConfig, Start, TableConfig,
    Tuning,
};
use tradewind::feed::{Blocked, Events, Retry, Shape};
use tradewind::protocol::Origin;
use tradewind::region::Region;
use tradewind::tally::TallySnapshot;

use crate::clock::SimClock;
use crate::feed::{FEED, FeedSettings};
use crate::network::{Network, SharedWorld};
use crate::service::{CONTROL, TABLE};
use crate::settings::{NAMES, Settings};

/// How long a process manager waits before it restarts an agent that could not start.
const RESTART: u64 = 2_000;

enum State {
    Down,
    /// Starts at this moment, unless a fault keeps it down.
    Due(u64),
    Starting(JoinHandle<Result<Agent, String>>),
    Running(Agent),
    Stopping(JoinHandle<()>),
}

struct Slot {
    state: State,
    /// The faults that keep the agent down.
    kept_down: u32,
    tally: TallySnapshot,
}

/// The agents of all regions.
pub struct Crew {
    config: Config,
    world: SharedWorld,
    clock: SimClock,
    slots: Vec<Slot>,
}

impl Crew {
    pub fn new(settings: &Settings, world: SharedWorld, clock: SimClock) -> Option<Self> {
        let config = config(settings)?;
        let slot = |_| Slot { state: State::Due(0), kept_down: 0, tally: TallySnapshot::default() };
        let slots = (0..settings.regions * settings.agents).map(slot).collect();
        Some(Self { config, world, clock, slots })
    }

    /// Kills an agent, whatever it is doing. Requests that it has sent stay in flight.
    pub fn crash(&mut self, agent: usize) {
        let slot = &mut self.slots[agent];
        slot.kept_down += 1;
        slot.count();
        match std::mem::replace(&mut slot.state, State::Down) {
            State::Starting(task) => task.abort(),
            State::Stopping(task) => task.abort(),
            State::Running(_) | State::Down | State::Due(_) => {}
        }
    }

    /// Stops an agent gracefully.
    pub fn stop(&mut self, agent: usize) {
        let slot = &mut self.slots[agent];
        slot.kept_down += 1;
        slot.count();
        slot.state = match std::mem::replace(&mut slot.state, State::Down) {
            State::Running(agent) => State::Stopping(tokio::spawn(agent.stop())),
            State::Starting(task) => {
                task.abort();
                State::Down
            }
            other => other,
        };
    }

    /// Ends a fault that kept an agent down.
    pub fn let_up(&mut self, agent: usize) {
        self.slots[agent].kept_down = self.slots[agent].kept_down.saturating_sub(1);
    }

    /// Starts agents that are due, and handles those that have started or stopped.
    pub async fn tend(&mut self) {
        let now = self.clock.now();
        for agent in 0..self.slots.len() {
            let is_free = self.slots[agent].kept_down == 0;
            let state = std::mem::replace(&mut self.slots[agent].state, State::Down);
            self.slots[agent].state = match state {
                State::Down if is_free => State::Due(now),
                State::Due(at) if is_free && at <= now => State::Starting(tokio::spawn(start(
                    self.config.clone(),
                    self.regions(agent),
                    self.region(agent),
                ))),
                State::Starting(task) if task.is_finished() => match task.await {
                    Ok(Ok(agent)) => State::Running(agent),
                    _ => State::Due(now + RESTART),
                },
                State::Stopping(task) if task.is_finished() => State::Down,
                other => other,
            };
        }
    }

    /// Whether all agents run, and have found their streams drained for this many calls in a row.
    pub fn is_drained(&self, calls: u32) -> bool {
        self.slots.iter().all(|slot| match &slot.state {
            State::Running(agent) => agent.figures().idle_calls() >= calls,
            _ => false,
        })
    }

    /// The keys that the agents remember.
    pub fn remembered(&self) -> usize {
        self.slots
            .iter()
            .map(|slot| match &slot.state {
                State::Running(agent) => {
                    let (in_memory, on_disk) = agent.figures().remembered();
                    in_memory + on_disk
                }
                _ => 0,
            })
            .sum()
    }

    /// An agent that holds more keys in memory than allowed, whatever waits for it.
    pub fn crowded(&self) -> Option<String> {
        let most = self.config.tuning.memory_keys;
        self.slots.iter().find_map(|slot| match &slot.state {
            State::Running(agent) => {
                let (in_memory, _) = agent.figures().remembered();
                (in_memory > most).then(|| {
                    format!(
                        "an agent of {} holds {in_memory} keys in memory; the limit is {most}",
                        agent.figures().region()
                    )
                })
            }
            _ => None,
        })
    }

    /// What the agents have done, over all their lives.
    pub fn tally(&mut self) -> TallySnapshot {
        let mut sum = TallySnapshot::default();
        for slot in &mut self.slots {
            slot.count();
            sum += slot.tally;
        }
        sum
    }

    fn region(&self, agent: usize) -> usize {
        agent % self.config.regions.len()
    }

    /// Fresh clients: a restarted agent has no connection and no state of the old one.
    fn regions(&self, agent: usize) -> BTreeMap<Origin, Region> {
        let network = Network { world: self.world.clone(), from: self.region(agent), agent };
        let sdk = |config: &RegionConfig| {
            SdkConfig::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(AwsRegion::new(config.aws_region.clone()))
                .credentials_provider(SharedCredentialsProvider::new(StaticCredentials::new(
                    "sim", "sim", None, None, "sim",
                )))
                .http_client(SharedHttpClient::new(network.clone()))
                .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
                .time_source(SharedTimeSource::new(self.clock))
                .build()
        };
        self.config
            .regions
            .iter()
            .map(|config| (config.name.clone(), Region::over(config, sdk(config))))
            .collect()
    }
}

impl Slot {
    /// Adds the counts of the running agent, once.
    fn count(&mut self) {
        if let State::Running(agent) = &self.state {
            for report in agent.figures().report() {
                self.tally += report.tally;
            }
        }
    }
}

async fn start(config: Config, regions: BTreeMap<Origin, Region>, region: usize) -> Result<Agent, String> {
    Agent::start_over(&config, NAMES[region], &regions).await.map_err(|error| error.to_string())
}

fn config(settings: &Settings) -> Option<Config> {
    let names = NAMES[..settings.regions].iter();
    let region = |name: &&str| {
        Some(RegionConfig {
            name: name.parse().ok()?,
            // All have the same AWS name: what belongs to one region must not depend on it.
            aws_region: "us-east-1".to_owned(),
            endpoint: format!("http://{name}.sim").parse().ok(),
            streams_endpoint: None,
            credentials: Credentials::Embedded,
            control_table: CONTROL.to_owned(),
            conflict_table: RegionConfig::CONFLICT_TABLE.to_owned(),
        })
    };
    let regions = names.map(region).collect::<Option<Vec<_>>>()?;
    let replicas = regions.iter().map(|region| (region.name.clone(), TABLE.to_owned())).collect();
    let millis = Duration::from_millis;
    let tuning = Tuning {
        poll_interval: millis(settings.poll_interval),
        idle_poll_interval: millis(settings.idle_poll_interval),
        checkpoint_interval: millis(settings.checkpoint_interval),
        concurrency: settings.concurrency,
        // Some items are large: a queue filled by one of them keeps its agent from reading on.
        queue_mib: if settings.strict { Tuning::default().queue_mib } else { 1 },
        memory_keys: settings.memory_keys,
        settle: millis(settings.settle),
        stream_retention: millis(settings.retention),
        ..Tuning::default()
    };
    Some(Config {
        regions,
        tables: vec![TableConfig::new(TABLE.to_owned(), replicas)],
        patterns: Vec::new(),
        feeds: settings.feed.iter().filter_map(|feed| feed_config(feed, settings)).collect(),
        anti_entropy: None,
        tuning,
    })
}

/// The feed as the agents' configuration has it.
fn feed_config(feed: &FeedSettings, settings: &Settings) -> Option<FeedConfig> {
    let FeedSettings { state, batch_size, parallelization, partial, blocks_shard, poison, .. } = *feed;
    let telling = if state { 1 } else { settings.regions };
    let lambda = LambdaConfig {
        function: FEED.to_owned(),
        endpoint: Some("http://{region}.sim".to_owned()),
        batch_size: usize::try_from(batch_size).ok()?,
        batching_window: Duration::ZERO,
        parallelization,
        report_batch_item_failures: partial,
        tumbling_window: None,
        timeout: Duration::from_secs(1),
    };
    Some(FeedConfig {
        name: FEED.parse().ok()?,
        table: TABLE.to_owned(),
        regions: NAMES[..telling].iter().map(|name| name.parse().ok()).collect::<Option<_>>()?,
        start: Start::TrimHorizon,
        filters: Vec::new(),
        shape: Shape { events: if state { Events::State } else { Events::Origin }, ..Shape::default() },
        retry: Retry {
            attempts: Some(if poison > 0 { 2 } else { 12 }),
            max_age: None,
            bisect: true,
            blocked: if blocks_shard { Blocked::Shard } else { Blocked::Key },
        },
        on_failure: OnFailure::DeadLetters,
        sink: SinkConfig::Lambda(lambda),
    })
}
