//! What one simulation is made of: its settings, its faults and its writes, all of them data that
//! can be printed, edited, and run again.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The regions' names, in the order in which equal clocks are decided.
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
    /// Whether all regions and keys are there that a plan speaks of; a plan may be edited by hand.
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
            return Err(format!("there is no agent {agent}"));
        }
        let named = self.faults.iter().flat_map(|fault| fault.kind.regions());
        let written = self.writes.iter().flat_map(AppWrite::regions);
        match named.chain(written).find(|region| region >= regions) {
            Some(region) => Err(format!("there is no region {region}")),
            None => Ok(()),
        }
    }
}

/// How the service, the network and the agents are set. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub regions: usize,
    /// The agents of each region.
    #[serde(default = "one")]
    pub agents: usize,
    /// The shards that each stream begins with.
    #[serde(default = "one")]
    pub shards: usize,
    pub keys: usize,
    /// Of the first ones, each is written in one region only: its applications see nothing but what they wrote.
    #[serde(default)]
    pub sole_keys: usize,
    /// Agents are set, and keys written, so that no older write may ever be seen in the place of a newer one.
    #[serde(default)]
    pub strict: bool,
    /// How long the phase with writes and faults lasts.
    pub safety: u64,
    /// What creation times are multiples of.
    pub granularity: u64,
    /// How far each region's clock is off.
    pub offsets: Vec<i64>,
    /// How long streams keep records.
    pub retention: u64,
    pub listing_delay: u64,
    pub shards_a_page: usize,
    /// The most records in a page; pages hold fewer at random.
    pub page: usize,
    /// The longest time until a record shows in the stream.
    pub stream_lag: u64,
    /// The longest way within a region, and between two.
    pub near: u64,
    pub far: u64,
    /// The longest time that a request may outlive the patience of the agent that sent it.
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
    /// Whether all replicas must agree at last; not where records may be trimmed unread.
    pub converges: bool,
    /// How long the healed world may take to come to rest.
    #[serde(default = "four_hours")]
    pub patience: u64,
    /// How long to wait at rest for the key memory to be empty; 0 is not at all.
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

/// What goes wrong. Regions and agents are counted from 0; an agent's region is the remainder of
/// its number by that of the regions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case")]
pub enum FaultKind {
    /// No request of this agent reaches that region.
    Cut { from: usize, to: usize },
    /// Requests reach the region; no answer comes back.
    Mute { from: usize, to: usize },
    /// Each way takes up to this much longer.
    Slow { from: usize, to: usize, millis: u64 },
    /// So many of a hundred requests are lost, land late, land twice, or lose their answer.
    Lossy { from: usize, to: usize, percent: u8 },
    /// So many of a hundred calls get a 500, before or after they took effect.
    Errors { region: usize, percent: u8 },
    /// So many of a hundred calls get a gateway's answer, with a success status, whether they took effect or not.
    Gateway { region: usize, percent: u8 },
    /// So many of a hundred calls are throttled.
    Throttled { region: usize, percent: u8 },
    /// Records take up to this much longer to show in the stream.
    StreamLag { region: usize, millis: u64 },
    /// Whatever another region's agent writes to the replica is refused as invalid.
    Refusing { region: usize },
    /// To the other regions' agents, the replica is not there.
    Missing { region: usize },
    /// To the other regions' agents, the replica is a table with other keys: what they write gets into that one.
    OtherKeys { region: usize },
    /// So many of a hundred records that are read come without a creation time, then and later.
    Undated { region: usize, percent: u8 },
    /// The agent is killed; it starts again when the fault is over.
    Crash { agent: usize },
    /// The agent stops in good order; it starts again when the fault is over.
    Stop { agent: usize },
    /// No request of the agent gets anywhere, though it goes on.
    Isolate { agent: usize },
    /// Every open shard ends and has one child.
    Roll { region: usize },
    /// Every open shard ends and has two children.
    Split { region: usize },
    /// The table's stream is turned off, and on again at once: it has another one.
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
}

/// An application's write. What it writes follows from its number alone.
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
    /// A change of one attribute: all others stay, the stamp as well.
    Update,
    /// Counts one up in the item.
    Add,
    /// Takes the item's lock, or gives it back, if this application has it.
    Lock,
    /// A copy that this region, or another, has held is put back as it was.
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
    /// Replicas take puts without looking at the condition.
    DropCondition,
    /// One push in twenty is acknowledged and not done.
    AckWithoutDoing,
    /// Heals are acknowledged and not done.
    NoHeal,
    /// Shards are listed without their parents, so that children are read first.
    ChildFirst,
    /// A restarted agent finds its checkpoints at the tip of each shard.
    SkipAhead,
    /// A mark is carried out whatever stands there by then.
    BlindDelete,
    /// Watermarks reach the peers ten minutes too high.
    BoldWatermark,
    /// Checkpoints are taken from whoever sends them, the lease's owner or not.
    DropFence,
    /// A page in a hundred lacks its last record.
    DropRecord,
    /// A gateway's answers carry the service's checksum, and are taken for it.
    SummedGateway,
    /// While a gateway says that shards have ended, the list of shards agrees.
    BelievedEnds,
    /// Of a replica that refuses all, one write in four is made: others are put aside.
    NowAndThen,
    /// A replica with other keys is described as it was.
    Blind,
    /// Marks are acknowledged and not made.
    DropMark,
    /// The service itself breaks down at one call in a hundred.
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
