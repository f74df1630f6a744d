//! The content of one simulation: its settings, its faults and its writes, all of them data that can be
//! printed, edited, and run again.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::feed::FeedSettings;

/// The regions' names, in the order that decides between equal clocks.
pub const NAMES: [&str; 4] = ["dublin", "ohio", "tokyo", "zurich"];

/// Everything that a simulation depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    pub profile: String,
    pub seed: u64,
    pub settings: Settings,
    pub faults: Vec<Fault>,
    pub writes: Vec<AppWrite>,
}

impl Scenario {
    /// Checks that all regions and keys in a plan exist; a plan may be edited by hand.
    pub fn check(&self) -> Result<(), String> {
        let Settings { regions, agents, shards, offsets, .. } = &self.settings;
        if !(2..=NAMES.len()).contains(regions) || offsets.len() != *regions {
            return Err(format!("expected 2 to {} regions, each with an offset", NAMES.len()));
        }
        if *agents == 0 || *shards == 0 {
            return Err("expected at least one agent and one shard in each region".to_owned());
        }
        if let Some(agent) =
            self.faults.iter().filter_map(|fault| fault.kind.agent()).find(|agent| *agent >= regions * agents)
        {
            return Err(format!("no agent {agent}"));
        }
        let named = self.faults.iter().flat_map(|fault| fault.kind.regions());
        let written = self.writes.iter().flat_map(AppWrite::regions);
        match named.chain(written).find(|region| region >= regions) {
            Some(region) => Err(format!("no region {region}")),
            None => Ok(()),
        }
    }
}

/// The settings of the service, the network and the agents. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub regions: usize,
    /// The agents of each region.
    #[serde(default = "one")]
    pub agents: usize,
    /// How many shards each stream starts with.
    #[serde(default = "one")]
    pub shards: usize,
    pub keys: usize,
    /// How many of the first keys are each written in one region only: its applications see nothing but what
    /// they wrote.
    #[serde(default)]
    pub sole_keys: usize,
    /// Agents are configured, and keys written, so that no older write may ever be seen in the place of a
    /// newer one.
    #[serde(default)]
    pub strict: bool,
    /// How long the phase with writes and faults lasts.
    pub safety: u64,
    /// Creation times are multiples of this.
    pub granularity: u64,
    /// The offset of each region's clock.
    pub offsets: Vec<i64>,
    /// How long streams keep records.
    pub retention: u64,
    pub listing_delay: u64,
    pub shards_a_page: usize,
    /// The most records in a page; pages hold fewer at random.
    pub page: usize,
    /// The longest time until a record appears in the stream.
    pub stream_lag: u64,
    /// The longest latency within a region, and between two.
    pub near: u64,
    pub far: u64,
    /// How long a request may outlive the timeout of the agent that sent it.
    pub late: u64,
    pub poll_interval: u64,
    #[serde(default = "half_a_second")]
    pub idle_poll_interval: u64,
    pub checkpoint_interval: u64,
    pub settle: u64,
    pub concurrency: usize,
    pub memory_keys: usize,
    /// How much too high watermarks may be, since clocks go back; agents forget no sooner.
    pub clock_slack: u64,
    /// Whether all replicas must agree in the end; not if records may be trimmed unread.
    pub converges: bool,
    /// How long the world may take to come to rest once all faults are over.
    #[serde(default = "four_hours")]
    pub patience: u64,
    /// The feed of the table, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feed: Option<FeedSettings>,
    /// How long to wait at rest for the key memory to be empty; 0 turns the check off.
    pub forget_within: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defect: Option<Defect>,
}

fn one() -> usize {
    1
}

fn four_hours() -> u64 {
    4 * 3_600_000
}

fn half_a_second() -> u64 {
    500
}

/// A fault, and when it begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    pub at: u64,
    #[serde(default)]
    pub lasts: u64,
    #[serde(flatten)]
    pub kind: FaultKind,
}

/// What goes wrong. Regions and agents are numbered from 0; an agent's region is its number modulo the number
/// of regions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case")]
pub enum FaultKind {
    /// No request of this agent reaches that region.
    Cut { from: usize, to: usize },
    /// Requests reach the region; no answer comes back.
    Mute { from: usize, to: usize },
    /// Each direction takes up to this much longer.
    Slow { from: usize, to: usize, millis: u64 },
    /// This percentage of requests is lost, lands late, lands twice, or loses its answer.
    Lossy { from: usize, to: usize, percent: u8 },
    /// This percentage of calls gets a 500, before or after taking effect.
    Errors { region: usize, percent: u8 },
    /// This percentage of calls gets a gateway's answer, with a success status, whether the call took effect
    /// or not.
    Gateway { region: usize, percent: u8 },
    /// This percentage of calls is throttled.
    Throttled { region: usize, percent: u8 },
    /// Records take up to this much longer to appear in the stream.
    StreamLag { region: usize, millis: u64 },
    /// Every write of another region's agent to the replica is refused as invalid.
    Refusing { region: usize },
    /// To the other regions' agents, the replica does not exist.
    Missing { region: usize },
    /// To the other regions' agents, the replica is a table with other keys, which receives what they write.
    OtherKeys { region: usize },
    /// This percentage of records that are read comes without a creation time, then and later.
    Undated { region: usize, percent: u8 },
    /// The agent is killed; it restarts when the fault is over.
    Crash { agent: usize },
    /// The agent stops gracefully; it restarts when the fault is over.
    Stop { agent: usize },
    /// No request of the agent arrives anywhere, though the agent goes on.
    Isolate { agent: usize },
    /// Every open shard ends and has one child.
    Roll { region: usize },
    /// Every open shard ends and has two children.
    Split { region: usize },
    /// The table's stream is turned off, and on again at once: the table has another stream.
    Recycle { region: usize },
    /// The region's clock is set forwards or back.
    ClockStep { region: usize, millis: i64 },
}

impl FaultKind {
    fn regions(&self) -> Vec<usize> {
        match self {
            Self::Cut { from, to }
            | Self::Mute { from, to }
            | Self::Slow { from, to, .. }
            | Self::Lossy { from, to, .. } => vec![*from, *to],
            Self::Errors { region, .. }
            | Self::Gateway { region, .. }
            | Self::Throttled { region, .. }
            | Self::StreamLag { region, .. }
            | Self::Refusing { region }
            | Self::Missing { region }
            | Self::OtherKeys { region }
            | Self::Undated { region, .. }
            | Self::Roll { region }
            | Self::Split { region }
            | Self::Recycle { region }
            | Self::ClockStep { region, .. } => vec![*region],
            Self::Crash { .. } | Self::Stop { .. } | Self::Isolate { .. } => Vec::new(),
        }
    }

    fn agent(&self) -> Option<usize> {
        match self {
            Self::Crash { agent } | Self::Stop { agent } | Self::Isolate { agent } => Some(*agent),
            _ => None,
        }
    }

    /// Whether it is over at once.
    pub fn is_moment(&self) -> bool {
        matches!(self, Self::Roll { .. } | Self::Split { .. } | Self::Recycle { .. } | Self::ClockStep { .. })
    }

    /// Whether an agent dies or stops.
    pub fn is_of_agent(&self) -> bool {
        matches!(self, Self::Crash { .. } | Self::Stop { .. })
    }
}

/// An application's write. Its content follows from its number alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppWrite {
    pub number: u64,
    pub at: u64,
    pub region: usize,
    pub key: usize,
    #[serde(flatten)]
    pub kind: WriteKind,
}

impl AppWrite {
    fn regions(&self) -> Vec<usize> {
        match self.kind {
            WriteKind::PutBack { from, .. } | WriteKind::PutBackBare { from, .. } => vec![self.region, from],
            _ => vec![self.region],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "write", rename_all = "kebab-case")]
pub enum WriteKind {
    /// A new item without a stamp, with this many bytes of padding.
    Put { padding: u32 },
    /// A change of one attribute: all others stay, including the stamp.
    Update,
    /// Increments a count in the item.
    Add,
    /// Takes the item's lock, or releases it, if this application has it.
    Lock,
    /// A copy that this region or another has held is put back as it was.
    PutBack { pick: u32, from: usize },
    /// The same, but the application drops the stamp.
    PutBackBare { pick: u32, from: usize },
    /// Deletes the item, as TTL does too.
    Delete,
    /// Puts an item with a stamp attribute that no agent wrote.
    Garbage,
}

/// A rule that is broken on purpose, which the simulation must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Defect {
    /// Replicas accept puts without checking the condition.
    DropCondition,
    /// One push in twenty is acknowledged but not made.
    AckWithoutDoing,
    /// Heals are acknowledged but not made.
    NoHeal,
    /// Shards are listed without their parents, so that children are read first.
    ChildFirst,
    /// A restarted agent finds its checkpoints at the tip of each shard.
    SkipAhead,
    /// A mark's delete is applied whatever is stored there by then.
    BlindDelete,
    /// Watermarks reach the peers ten minutes too high.
    BoldWatermark,
    /// Checkpoints are accepted from anyone, whether the lease's owner or not.
    DropFence,
    /// One page in a hundred lacks its last record.
    DropRecord,
    /// A gateway's answers carry the service's checksum, and are mistaken for the service's.
    SummedGateway,
    /// While a gateway reports that shards have ended, the list of shards agrees.
    BelievedEnds,
    /// A replica that refuses all writes accepts one in four, so that others are parked.
    NowAndThen,
    /// A replica with other keys is described as it was.
    Blind,
    /// Marks are acknowledged but not made.
    DropMark,
    /// The function answers one call in ten without taking its events.
    AckUntold,
    /// The function gets each batch in reverse.
    Shuffled,
    /// The function is told what agents write, as if applications had written it.
    ToldEcho,
    /// The service itself panics at one call in a hundred.
    BreakDown,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, lasts, kind } = self;
        if kind.is_moment() {
            write!(f, "at {:.1} s: {kind:?}", seconds(*at))
        } else {
            write!(f, "from {:.1} s for {:.1} s: {kind:?}", seconds(*at), seconds(*lasts))
        }
    }
}

impl fmt::Display for AppWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, at, region, key, kind } = self;
        write!(f, "at {:.1} s: #{number} key {key} in {}: {kind:?}", seconds(*at), NAMES[*region])
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1_000.0
}
