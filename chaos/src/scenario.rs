//! Scenarios: regions, agents, a workload and a timeline of faults, as TOML.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::Result;
use crate::service::is_known;

/// How far ahead a service clock may be: less than an agent believes.
pub const MOST_SKEW_SECONDS: u32 = 25;

/// The regions' names, with AWS's names.
pub const PLACES: [(&str, &str); 3] =
    [("dublin", "eu-west-1"), ("oregon", "us-west-2"), ("tokyo", "ap-northeast-1")];

macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        /// The scenarios that come with the harness.
        pub const SHIPPED: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../scenarios/", $name, ".toml")))),*];
    };
}

shipped!(
    "calm",
    "partition",
    "one-way",
    "lost-requests",
    "lost-answers",
    "flapping",
    "latency",
    "bandwidth",
    "resets",
    "throttling",
    "errors",
    "written-then-failed",
    "kill",
    "pause",
    "rolling-restart",
    "two-owners",
    "endpoint-restart",
    "clock-skew",
    "iterator-expiry",
    "control-unavailable",
    "table-deleted",
    "poison-item",
    "hot-key",
    "delete-storm",
    "long-outage",
    "small-memory",
    "refusing-peer",
    "gateway",
    "false-ends",
    "trimmed-iterators",
    "silent-stop",
    "rotated-credentials",
    "unread-logs",
    "other-table",
    "undated-record",
    "half-open",
    "recycled-stream",
    "chain",
    "managed-table",
    "feed-kill",
    "feed-away",
    "feed-function",
    "feed-bucket",
);

/// How long before its table is deleted a region's application stops.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// A scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub name: String,
    /// What it shows, in a sentence.
    pub about: String,
    /// How many regions, 2 or 3.
    #[serde(default = "three")]
    pub regions: usize,
    /// How many agents each region has.
    #[serde(default = "one")]
    pub agents: usize,
    #[serde(default)]
    pub workload: Workload,
    /// What agents deliver events to, which the checker judges, too. Default: there are no feeds.
    pub feeds: Option<FeedsTo>,
    /// How many keys each agent remembers before it stamps its region's application's writes in place.
    /// Default: as many as agents remember by default.
    pub memory_keys: Option<usize>,
    /// How far each region's service clock is ahead, in seconds, from 0 to [`MOST_SKEW_SECONDS`].
    #[serde(default)]
    pub skew_seconds: Vec<u32>,
    /// What each region's agents' logs are written to. Default: a file.
    #[serde(default)]
    pub logs: Vec<Log>,
    #[serde(default, rename = "fault")]
    pub faults: Vec<Fault>,
    /// How soon after the last fault every write must be everywhere.
    #[serde(default = "half_minute", deserialize_with = "duration")]
    pub recover_within: Duration,
}

/// What applications do.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Workload {
    /// How long they write.
    #[serde(rename = "for", deserialize_with = "duration")]
    pub lasts: Duration,
    /// Writes a second, in each region.
    pub rate: u32,
    /// How many keys all regions share, and how many each region has of its own.
    pub keys: u32,
    /// The percentage of writes that go to a shared key.
    pub conflict_percent: u8,
    /// The weights of the operations.
    pub put: u32,
    pub update: u32,
    pub put_back: u32,
    pub delete: u32,
    /// Increments an item's count: by ADD and, for a region's own items, also by a conditional update.
    pub count: u32,
    /// Takes and releases a lock of the region's own, by conditional updates.
    pub lock: u32,
    /// The size of an item's payload, in bytes.
    pub size: usize,
    /// The percentage of answers that an application loses.
    pub lost_answers_percent: u8,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            lasts: Duration::from_secs(15),
            rate: 20,
            keys: 12,
            conflict_percent: 40,
            put: 4,
            update: 3,
            put_back: 1,
            delete: 2,
            count: 2,
            lock: 1,
            size: 100,
            lost_answers_percent: 2,
        }
    }
}

impl Workload {
    /// Of put, update, put-back, delete, count and lock.
    pub fn weights(&self) -> [u32; 6] {
        [self.put, self.update, self.put_back, self.delete, self.count, self.lock]
    }
}

/// One fault.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    pub kind: Kind,
    #[serde(deserialize_with = "duration")]
    pub at: Duration,
    #[serde(default, rename = "for", deserialize_with = "duration")]
    pub lasts: Duration,
    /// The faults between this region and the others; or the region of an agent, endpoint or table.
    pub region: Option<String>,
    /// The links from this region's agents.
    pub from: Option<String>,
    /// The links to this region.
    pub to: Option<String>,
    /// Which of a region's agents, from 0.
    pub agent: Option<usize>,
    #[serde(default, deserialize_with = "duration")]
    pub delay: Duration,
    #[serde(default, deserialize_with = "duration")]
    pub jitter: Duration,
    /// How often a flapping link changes.
    #[serde(default = "second", deserialize_with = "duration")]
    pub every: Duration,
    pub bytes_per_second: Option<u32>,
    /// The percentage of calls or pieces that it affects.
    #[serde(default = "hundred")]
    pub percent: u8,
    /// The error, by its name in DynamoDB's API.
    pub error: Option<String>,
    /// Only this operation, or `writes`. Default: all.
    pub operation: Option<String>,
    /// What a gateway answers. Default: one of those with a success status, at random.
    pub answer: Option<Answer>,
    /// Only one of the tables. Default: both.
    pub table: Option<Table>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Connections break, including new ones.
    Partition,
    /// A partition that comes and goes.
    Flapping,
    /// Requests are swallowed, without an error.
    SwallowRequests,
    /// Requests take effect, but their answers are swallowed.
    SwallowAnswers,
    Latency,
    Bandwidth,
    Resets,
    /// Calls are answered with an error.
    Errors,
    /// Calls take effect, but are answered with an error.
    FailAfterwards,
    /// `kill -9`, and a restart when it is over.
    Kill,
    /// SIGSTOP, and SIGCONT when it is over.
    Pause,
    /// SIGTERM and a restart, one agent after the other.
    RollingRestart,
    /// The endpoint's process is killed, and restarted when it is over.
    EndpointDown,
    /// The region's table is deleted, for good.
    DeleteTable,
    /// An application writes an item that no stamp fits into.
    Poison,
    /// Something in between answers in the service's place.
    Gateway,
    /// Pages of records report that their shard has ended.
    FalseEnds,
    /// Answers come without their checksums.
    NoChecksums,
    /// To its peers, the region's table is missing, then another one with other keys, and in the end the
    /// original.
    OtherTable,
    /// SIGTERM, and a restart when it is over.
    Stop,
    /// Only another access key is accepted, and the agents' file has it when it is over.
    RotateCredentials,
    /// An application writes an item whose record reaches its agent without a creation time.
    Undated,
    /// Many clients connect to the agents' listeners, and send nothing.
    HalfOpen,
    /// An operator compares the replicas, and must be told that it can't be done.
    Verify,
    /// The stream of the region's table is turned off, and on again when it is over.
    RecycleStream,
    /// An agent of another setup writes to the region's table.
    Foreign,
    /// The table is described as a replica of a managed global table.
    Managed,
    /// What the region's feeds deliver to is away.
    SinkAway,
    /// Some messages to a function or a bucket, or from it, break their connection.
    SinkResets,
    /// Some calls of a function or a bucket are throttled.
    SinkThrottles,
    /// A function takes the first half of some batches, and reports that the rest failed.
    SinkTakesHalf,
    /// A function rejects one key of the region's own.
    SinkRefuses,
}

/// What feeds deliver to, in each region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeedsTo {
    Files,
    /// Lambda, as the harness serves it.
    Functions,
    /// S3, as the harness serves it.
    Buckets,
}

/// What a gateway answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Nothing,
    Braces,
    Records,
    Items,
    /// HTML, with any status.
    Page,
}

/// What a log is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Log {
    File,
    /// A full device.
    Full,
    /// A reader that has gone away.
    Gone,
    /// A reader that reads nothing.
    Unread,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Table {
    Data,
    Control,
}

impl Scenario {
    /// Reads a scenario.
    pub fn parse(text: &str) -> Result<Self> {
        let scenario: Self = toml::from_str(text)?;
        let at = |what: &str| format!("scenario {}: {what}", scenario.name);
        if !(2..=PLACES.len()).contains(&scenario.regions) {
            return Err(at("regions: expected 2 or 3").into());
        }
        if scenario.agents == 0 || scenario.agents > 4 {
            return Err(at("agents: expected 1 to 4").into());
        }
        if scenario.feeds == Some(FeedsTo::Files) && scenario.agents > 1 {
            return Err(
                at("feeds: several agents of a region would write to one file; expected agents = 1").into()
            );
        }
        if scenario.skew_seconds.iter().any(|skew| *skew > MOST_SKEW_SECONDS) {
            return Err(at(
                "skew_seconds: expected at most 25; an agent does not believe a clock that is ahead by more than 30 s, \
                 and the checker does not know which time it uses instead",
            )
            .into());
        }
        let load = &scenario.workload;
        if load.rate == 0 || load.keys == 0 || load.weights().iter().sum::<u32>() == 0 {
            return Err(at("workload: rate, keys and one of the operations must be above 0").into());
        }
        for fault in &scenario.faults {
            for name in [&fault.region, &fault.from, &fault.to].into_iter().flatten() {
                if scenario.region(name).is_none() {
                    let names: Vec<_> = PLACES.iter().take(scenario.regions).map(|(name, _)| *name).collect();
                    return Err(at(&format!("no region {name}: expected {}", names.join(", "))).into());
                }
            }
            let needs_region = matches!(
                fault.kind,
                Kind::Kill
                    | Kind::Pause
                    | Kind::Stop
                    | Kind::EndpointDown
                    | Kind::DeleteTable
                    | Kind::Poison
                    | Kind::Undated
                    | Kind::Verify
                    | Kind::RecycleStream
                    | Kind::Foreign
                    | Kind::SinkAway
                    | Kind::SinkRefuses
            );
            if needs_region && fault.region.is_none() {
                return Err(at(&format!("{:?} needs a region", fault.kind)).into());
            }
            let is_hidden =
                matches!(fault.kind, Kind::DeleteTable | Kind::Undated | Kind::RecycleStream | Kind::Foreign);
            if scenario.feeds.is_some() && is_hidden {
                return Err(at(&format!(
                    "feeds: after {:?} the checker does not know everything that a feed must tell",
                    fault.kind
                ))
                .into());
            }
            let (files, functions, buckets) = (FeedsTo::Files, FeedsTo::Functions, FeedsTo::Buckets);
            let expected: &[FeedsTo] = match fault.kind {
                Kind::SinkAway => &[files, functions, buckets],
                Kind::SinkResets | Kind::SinkThrottles => &[functions, buckets],
                Kind::SinkTakesHalf | Kind::SinkRefuses => &[functions],
                _ => &[],
            };
            if !expected.is_empty() && !scenario.feeds.is_some_and(|feeds| expected.contains(&feeds)) {
                return Err(at(&format!("{:?} needs feeds to one of {expected:?}", fault.kind)).into());
            }
            if let Some(error) = fault.error.as_ref().filter(|error| !is_known(error)) {
                return Err(at(&format!("error: unknown {error}")).into());
            }
            if fault.agent.is_some_and(|agent| agent >= scenario.agents) {
                return Err(at("agent: no agent has this number").into());
            }
        }
        Ok(scenario)
    }

    /// A region's number.
    pub fn region(&self, name: &str) -> Option<usize> {
        PLACES.iter().take(self.regions).position(|(place, _)| *place == name)
    }

    /// When a region's application must stop because its table will be deleted: what nobody has read by then
    /// is lost with the stream.
    pub fn deletion(&self, region: usize) -> Option<Duration> {
        let mut faults = self.faults.iter().filter(|fault| fault.kind == Kind::DeleteTable);
        let fault =
            faults.find(|fault| fault.region.as_deref() == PLACES.get(region).map(|(name, _)| *name))?;
        Some(fault.at.saturating_sub(LAST_WRITE))
    }

    /// Whether there is a fault of this kind.
    pub fn has(&self, kind: Kind) -> bool {
        self.faults.iter().any(|fault| fault.kind == kind)
    }

    /// When the last fault is over.
    pub fn calm(&self) -> Duration {
        self.faults.iter().map(|fault| fault.at + fault.lasts).max().unwrap_or_default()
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(serde::de::Error::custom)
}

fn three() -> usize {
    3
}

fn one() -> usize {
    1
}

fn hundred() -> u8 {
    100
}

fn second() -> Duration {
    Duration::from_secs(1)
}

fn half_minute() -> Duration {
    Duration::from_secs(30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_scenarios_are_right() {
        for (name, text) in SHIPPED {
            let scenario = Scenario::parse(text).expect(name);
            assert_eq!(scenario.name, *name);
            assert!(
                scenario.calm() <= scenario.workload.lasts,
                "{name}: writes must go on after the last fault"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        let wrong = |text: &str| Scenario::parse(text).expect_err("an error").to_string();
        let head = "name = \"x\"\nabout = \"y\"\n";
        assert!(wrong(&format!("{head}regions = 9")).contains("expected 2 or 3"));
        let fault = format!("{head}[[fault]]\nkind = \"kill\"\nat = \"1s\"\n");
        assert!(wrong(&fault).contains("needs a region"));
        assert!(wrong(&format!("{fault}region = \"atlantis\"")).contains("dublin"));
        let away = fault.replace("kill", "sink-away") + "region = \"tokyo\"\n";
        assert!(wrong(&away).contains("SinkAway needs feeds"));
        let refuses = away.replace("sink-away", "sink-refuses");
        assert!(
            wrong(&format!("feeds = \"buckets\"\n{refuses}")).contains("SinkRefuses needs feeds to one of")
        );
        let undated = away.replace("sink-away", "undated");
        assert!(wrong(&format!("feeds = \"files\"\n{undated}")).contains("Undated"));
        assert!(wrong(&format!("{head}feeds = \"files\"\nagents = 2")).contains("agents = 1"));
        assert!(wrong(&format!("{head}speed = 1")).contains("speed"));
    }
}
