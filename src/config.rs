//! `regions.toml`, typed. An error points at its line and column.

mod anti_entropy;
mod bounds;
mod peer;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use toml::Spanned;
use url::Url;
use wildmatch::WildMatch;

use crate::protocol::{Origin, Selections};

pub use anti_entropy::{AntiEntropy, Repair};

/// The regions, the tables that they share, and how to replicate.
#[derive(Clone, Debug)]
pub struct Config {
    pub regions: Vec<RegionConfig>,
    /// The tables that are named.
    pub tables: Vec<TableConfig>,
    /// The tables that are found, in the file's order.
    pub patterns: Vec<PatternConfig>,
    pub tuning: Tuning,
    /// How agents compare the replicas by themselves, where they do.
    pub anti_entropy: Option<AntiEntropy>,
}

/// Where one replica lives.
#[derive(Clone, Debug)]
pub struct RegionConfig {
    pub name: Origin,
    pub aws_region: String,
    pub endpoint: Option<Url>,
    /// Where the stream is read; the endpoint, unless it says otherwise.
    pub streams_endpoint: Option<Url>,
    pub credentials: Credentials,
    pub control_table: String,
    /// Where the conflicts are recorded that this region's writes lost.
    pub conflict_table: String,
}

impl RegionConfig {
    /// The control table's name, where the file gives none.
    pub const CONTROL_TABLE: &str = "tradewind-control";
    /// The conflict table's name, where the file gives none.
    pub const CONFLICT_TABLE: &str = "tradewind-conflicts";

    /// Whether a table of this name is one of Tradewind's own.
    fn keeps(&self, name: &str) -> bool {
        self.control_table == name || self.conflict_table == name
    }

    /// What tells one set of tables from another; regions that share it share their tables.
    fn place(&self) -> Place {
        let (profile, role) = match &self.credentials {
            Credentials::Chain { profile, role } => {
                (profile.clone(), role.as_ref().map(|role| role.arn.clone()))
            }
            Credentials::Embedded => (None, None),
        };
        (self.aws_region.clone(), self.endpoint.clone(), profile, role)
    }
}

type Place = (String, Option<Url>, Option<String>, Option<String>);

/// Who signs the requests to a region.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// The SDK's own chain: environment, profile, SSO, web identity, container, instance.
    Chain { profile: Option<String>, role: Option<Role> },
    /// A region inside this process, which checks none.
    Embedded,
}

/// A role to assume.
#[derive(Clone, Debug)]
pub struct Role {
    pub arn: String,
    pub external_id: Option<String>,
}

/// One table, and what it is called in each of its regions.
#[derive(Clone, Debug)]
pub struct TableConfig {
    pub name: String,
    /// The table's name in each region that has a replica, in the file's order.
    pub replicas: Vec<(Origin, String)>,
    /// Where a first agent begins.
    pub start: Start,
    pub conflicts: Conflicts,
    /// What goes to which region.
    pub selections: Selections,
}

/// Tables that are found by their names, and are called the same in all their regions.
#[derive(Clone, Debug)]
pub struct PatternConfig {
    pub pattern: WildMatch,
    pub regions: Vec<Origin>,
    pub start: Start,
    pub conflicts: Conflicts,
    /// What goes to which region.
    pub selections: Selections,
}

/// Which records a table's first agent replicates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// All that the stream still holds: up to 24 hours.
    #[default]
    TrimHorizon,
    /// What is written from now on.
    Latest,
}

/// What becomes of a conflict, apart from being settled and counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conflicts {
    #[default]
    Count,
    /// It is told in the log.
    Log,
    /// It is recorded with both images.
    Table,
}

impl TableConfig {
    /// A table with these replicas, and the defaults.
    pub fn new(name: String, replicas: Vec<(Origin, String)>) -> Self {
        let (start, conflicts, selections) = Default::default();
        Self { name, replicas, start, conflicts, selections }
    }

    /// What the table is called in a region, where that has a replica.
    pub fn name_in(&self, region: &Origin) -> Option<&str> {
        self.replicas.iter().find(|(name, _)| name == region).map(|(_, table)| table.as_str())
    }

    /// Whether a region has a replica.
    pub fn is_in(&self, region: &Origin) -> bool {
        self.name_in(region).is_some()
    }

    /// Whether it is called so, in any region or by the file.
    fn is_called(&self, name: &str) -> bool {
        self.name == name || self.replicas.iter().any(|(_, physical)| physical == name)
    }
}

/// What may be tuned. The defaults need no thought.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tuning {
    /// How often a shard is asked for records while they come.
    #[serde(deserialize_with = "duration")]
    pub poll_interval: Duration,
    /// How often a shard is asked that has had no record for half a minute.
    #[serde(deserialize_with = "duration")]
    pub idle_poll_interval: Duration,
    /// How long an agent may be silent before others take its shards.
    #[serde(deserialize_with = "duration")]
    pub lease_duration: Duration,
    /// How often progress is made durable; what a crash repeats is at most this much.
    #[serde(deserialize_with = "duration")]
    pub checkpoint_interval: Duration,
    /// How many keys are written at once at each peer, at most; fewer while it throttles, and where fewer at once
    /// make as many a second.
    pub concurrency: usize,
    /// How much may wait for one peer, in MiB, before the peer gets a cursor of its own.
    pub queue_mib: usize,
    /// How many keys are remembered in memory; what is more is on disk. Beyond, local writes are stamped in place.
    pub memory_keys: usize,
    /// Where files for what is remembered on disk are made; by default, where the system has temporary ones.
    pub spill_directory: Option<PathBuf>,
    /// How long a stream is read on before what a watermark says is taken as settled.
    #[serde(deserialize_with = "duration")]
    pub settle: Duration,
    /// How long the streams keep records: 24 hours on AWS, perhaps less on another store.
    #[serde(deserialize_with = "duration")]
    pub stream_retention: Duration,
    /// How long stopping may take in all, whatever answers or does not.
    #[serde(deserialize_with = "duration")]
    pub drain_timeout: Duration,
    /// How long a starting agent waits for its own region to answer.
    #[serde(deserialize_with = "duration")]
    pub startup_timeout: Duration,
    /// How often new tables are looked for, and whether those that are replicated are still there;
    /// the longest that a table which can't be replicated waits for the next try.
    #[serde(deserialize_with = "duration")]
    pub discovery_interval: Duration,
    /// How often each agent reports to all regions how it fares, and measures the lag to them.
    #[serde(deserialize_with = "duration")]
    pub heartbeat_interval: Duration,
    /// How long a shard of its own may go unread before an agent counts as dead, and should be
    /// restarted.
    #[serde(deserialize_with = "duration")]
    pub liveness_timeout: Duration,
    /// How long a dead letter is kept, in days.
    pub dead_letter_days: u32,
    /// How long a recorded conflict is kept, in days.
    pub conflict_days: u32,
    /// For tests, which have no time: intervals that nothing shows to be safe are taken.
    pub unproven: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            poll_interval: Duration::from_millis(250),
            idle_poll_interval: Duration::from_millis(500),
            lease_duration: Duration::from_secs(5),
            checkpoint_interval: Duration::from_secs(5),
            concurrency: 64,
            queue_mib: 16,
            memory_keys: 1_000_000,
            spill_directory: None,
            settle: Duration::from_mins(1),
            stream_retention: Duration::from_hours(24),
            drain_timeout: Duration::from_secs(30),
            startup_timeout: Duration::from_secs(30),
            discovery_interval: Duration::from_mins(1),
            heartbeat_interval: Duration::from_secs(10),
            liveness_timeout: Duration::from_mins(2),
            dead_letter_days: 30,
            conflict_days: 30,
            unproven: false,
        }
    }
}

impl Tuning {
    /// How long an agent may write after it has last seen that a lease is its own. A write that was
    /// begun then, and takes its longest, lands well within `settle`.
    pub(crate) fn tenure(&self) -> Duration {
        self.settle / 2
    }

    /// How long a stopping agent waits for writes under way: what is left of `drain_timeout` is for checkpoints, and
    /// for giving up leases.
    pub(crate) fn draining(&self) -> Duration {
        self.drain_timeout / 3 * 2
    }

    /// How long a stopping agent takes at most; what is left of `drain_timeout` is for the last metrics.
    pub(crate) fn stopping(&self) -> Duration {
        self.drain_timeout / 10 * 9
    }

    /// How long a hold may go without being renewed until its seeder counts as gone. By then
    /// nothing of what it wrote under it can still land.
    pub(crate) fn hold_lapse(&self) -> Duration {
        self.settle * 5
    }

    /// How often the leases are looked at: less often where there are many, since all are read.
    pub(crate) fn lease_interval(&self, leases: usize) -> Duration {
        let many = Duration::from_millis(5 * u64::try_from(leases).unwrap_or(u64::MAX));
        self.checkpoint_interval.max(many).min(self.settle / 4)
    }
}

fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let expected = "expected a time above zero such as \"250ms\", \"5s\" or \"2m\"";
    match humantime::parse_duration(&text) {
        Ok(time) if !time.is_zero() => Ok(time),
        Ok(_) => Err(serde::de::Error::custom(expected)),
        Err(error) => Err(serde::de::Error::custom(format!("{error}; {expected}"))),
    }
}

/// Why `regions.toml` can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "can't read {}: {source}\nName another file with --config, or start from the regions.toml that comes with Tradewind.",
        path.display()
    )]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{0}")]
    Invalid(Box<Invalid>),
}

/// What is wrong, and where.
#[derive(Debug)]
pub struct Invalid {
    path: PathBuf,
    line: usize,
    column: usize,
    source_line: String,
    width: usize,
    message: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, column, source_line, width, message } = self;
        let gutter = " ".repeat(line.to_string().len());
        writeln!(f, "{}:{line}:{column}: {message}", path.display())?;
        writeln!(f, "{gutter} |")?;
        writeln!(f, "{line} | {source_line}")?;
        write!(f, "{gutter} | {}{}", " ".repeat(column - 1), "^".repeat(*width))
    }
}

impl Config {
    /// Reads a configuration file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Reads a configuration from its text; `path` is for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let parsed = toml::from_str::<File>(text)
            .map_err(|error| Problem {
                span: error.span().unwrap_or(0..0),
                message: error.message().trim().to_owned(),
            })
            .and_then(File::check);
        parsed.map_err(|problem| ConfigError::Invalid(Box::new(problem.locate(path, text))))
    }

    /// The region of that name.
    pub fn region(&self, name: &str) -> Option<&RegionConfig> {
        self.regions.iter().find(|region| region.name.as_str() == name)
    }

    /// The table that a pattern makes of a name.
    ///
    /// The first pattern that matches decides, wherever the name was found: agents of different
    /// regions would not agree otherwise. What is named anywhere in the file is no pattern's, nor
    /// is a table of Tradewind's own.
    pub fn found(&self, name: &str) -> Option<TableConfig> {
        let is_own = [RegionConfig::CONTROL_TABLE, RegionConfig::CONFLICT_TABLE].contains(&name)
            || self.regions.iter().any(|region| region.keeps(name));
        if is_own || self.tables.iter().any(|table| table.is_called(name)) {
            return None;
        }
        let entry = self.patterns.iter().find(|entry| entry.pattern.matches(name))?;
        let replicas = entry.regions.iter().map(|region| (region.clone(), name.to_owned())).collect();
        let PatternConfig { start, conflicts, ref selections, .. } = *entry;
        Some(TableConfig {
            name: name.to_owned(),
            replicas,
            start,
            conflicts,
            selections: selections.clone(),
        })
    }

    /// 48 bits of SHA-256 over what all agents must agree on: the regions, the tables, and what of
    /// them goes where. Endpoints, credentials and tuning may differ. Two versions of Tradewind may
    /// not make the same of one file.
    pub fn fingerprint(&self) -> String {
        let mut regions: Vec<_> = self.regions.iter().map(|region| &region.name).collect();
        regions.sort();
        let mut tables: Vec<_> = self
            .tables
            .iter()
            .map(|table| {
                let mut replicas = table.replicas.clone();
                replicas.sort();
                (&table.name, replicas, &table.selections)
            })
            .collect();
        tables.sort_by_key(|(name, ..)| *name);
        // The first pattern that matches decides: their order counts.
        let patterns = self.patterns.iter().map(|entry| {
            let mut regions = entry.regions.clone();
            regions.sort();
            (entry.pattern.to_string(), regions, &entry.selections)
        });
        let all = format!("{regions:?} {tables:?} {:?}", patterns.collect::<Vec<_>>());
        let digest: [u8; 32] = Sha256::digest(all).into();
        let bits = digest.first_chunk().map_or(0, |head| u64::from_be_bytes(*head) >> 16);
        format!("{bits:012x}")
    }

    /// Whether conflicts are to be recorded in a region.
    pub fn records_conflicts_in(&self, region: &Origin) -> bool {
        let named = self.tables.iter().filter(|table| table.is_in(region)).map(|table| table.conflicts);
        let found = self.patterns.iter().filter(|entry| entry.regions.contains(region));
        named.chain(found.map(|entry| entry.conflicts)).any(|conflicts| conflicts == Conflicts::Table)
    }
}

/// Something wrong at a place in the text.
struct Problem {
    span: Range<usize>,
    message: String,
}

impl Problem {
    fn at<T>(spanned: &Spanned<T>, message: impl Into<String>) -> Self {
        Self { span: spanned.span(), message: message.into() }
    }

    fn locate(self, path: &Path, text: &str) -> Invalid {
        let start = self.span.start.min(text.len());
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let source_line = text[line_start..].lines().next().unwrap_or_default();
        let column = text[line_start..start].chars().count() + 1;
        let room = source_line.chars().count().saturating_sub(column - 1);
        Invalid {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column,
            source_line: source_line.to_owned(),
            width: self.span.len().clamp(1, room.max(1)),
            message: self.message,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    region: Vec<Spanned<RegionEntry>>,
    #[serde(default)]
    table: Vec<Spanned<TableEntry>>,
    #[serde(default)]
    tuning: Option<Spanned<Tuning>>,
    anti_entropy: Option<Spanned<AntiEntropy>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RegionEntry {
    name: Spanned<String>,
    aws_region: Spanned<String>,
    endpoint: Option<Spanned<String>>,
    streams_endpoint: Option<Spanned<String>>,
    #[serde(default)]
    allow_plain_http: bool,
    profile: Option<Spanned<String>>,
    assume_role: Option<RoleEntry>,
    control_table: Option<Spanned<String>>,
    conflict_table: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleEntry {
    arn: Spanned<String>,
    external_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TableEntry {
    name: Option<Spanned<String>>,
    pattern: Option<Spanned<String>>,
    regions: Option<Spanned<Vec<Spanned<String>>>>,
    names: Option<Spanned<BTreeMap<Spanned<String>, Spanned<String>>>>,
    #[serde(default)]
    start: Start,
    #[serde(default)]
    conflicts: Conflicts,
    #[serde(default)]
    peer: Vec<peer::PeerEntry>,
}

impl File {
    fn check(self) -> Result<Config, Problem> {
        let whole = |message: &str| Problem { span: 0..0, message: message.to_owned() };
        if self.region.len() < 2 {
            return Err(whole("expected at least two [[region]] entries: replication needs a peer"));
        }
        if self.table.is_empty() {
            return Err(whole(
                "expected at least one [[table]] entry with the name of a table, or a pattern",
            ));
        }
        let regions =
            self.region.iter().map(|entry| entry.get_ref().check()).collect::<Result<Vec<_>, _>>()?;
        let mut names = HashSet::new();
        for entry in &self.region {
            let name = &entry.get_ref().name;
            if !names.insert(name.get_ref().as_str()) {
                return Err(Problem::at(name, format!("the region {:?} is there twice", name.get_ref())));
            }
        }
        for (i, entry) in self.region.iter().enumerate() {
            let region = &regions[i];
            if region.control_table == region.conflict_table {
                let message = format!(
                    "the control table and the conflict table of region {:?} are one: give it another \
                     `conflict_table`",
                    region.name.as_str()
                );
                return Err(Problem::at(&entry.get_ref().name, message));
            }
            let twin = regions[..i]
                .iter()
                .find(|other| other.place() == region.place() && other.control_table == region.control_table);
            if let Some(twin) = twin {
                let message = format!(
                    "the regions {:?} and {:?} are one place: AWS region, endpoint and credentials are the \
                     same. If they are meant to be, give them control tables of their own (`control_table`)",
                    twin.name.as_str(),
                    region.name.as_str()
                );
                return Err(Problem::at(&entry.get_ref().name, message));
            }
        }
        let mut checked = Checked { regions: &regions, ..Checked::default() };
        for entry in &self.table {
            checked.add(entry)?;
        }
        let Checked { tables, patterns, .. } = checked;
        for (entry, region) in self.region.iter().zip(&regions) {
            let is_used = tables.iter().any(|table| table.is_in(&region.name))
                || patterns.iter().any(|pattern| pattern.regions.contains(&region.name));
            if !is_used {
                let message = format!(
                    "no table uses the region {:?}: name it in a table's `regions`, or remove it",
                    region.name.as_str()
                );
                return Err(Problem::at(&entry.get_ref().name, message));
            }
        }
        let tuning = match self.tuning {
            None => Tuning::default(),
            Some(tuning) => {
                bounds::check(&tuning)?;
                tuning.into_inner()
            }
        };
        let anti_entropy = anti_entropy::check(self.anti_entropy)?;
        Ok(Config { regions, tables, patterns, tuning, anti_entropy })
    }
}

/// The tables of a file, as they are checked one after the other.
#[derive(Default)]
struct Checked<'a> {
    regions: &'a [RegionConfig],
    tables: Vec<TableConfig>,
    patterns: Vec<PatternConfig>,
    /// Each replica, by its place.
    taken: HashSet<(Place, String)>,
}

impl<'a> Checked<'a> {
    fn add(&mut self, entry: &Spanned<TableEntry>) -> Result<(), Problem> {
        let table = entry.get_ref();
        match (&table.name, &table.pattern) {
            (Some(name), None) => self.add_named(table, name),
            (None, Some(pattern)) => self.add_pattern(table, pattern),
            (Some(_), Some(pattern)) => Err(Problem::at(
                pattern,
                "a table has a `name` or a `pattern`, not both: make two [[table]] entries of it",
            )),
            (None, None) => {
                let message = "expected `name`, the name of a table, or `pattern`, such as \"shop-*\"";
                Err(Problem::at(entry, message))
            }
        }
    }

    fn add_named(&mut self, entry: &TableEntry, name: &Spanned<String>) -> Result<(), Problem> {
        let table = entry.named(name, self.regions)?;
        for (region, physical) in &table.replicas {
            let Some(region) = self.region(region) else { continue };
            let twice = |called: &str| {
                let message = format!("the table {called:?} in region {} is there twice", region.name);
                Err(Problem::at(name, message))
            };
            if self.tables.iter().any(|other| other.name == table.name && other.is_in(&region.name)) {
                return twice(&table.name);
            }
            let mut here = self.regions.iter().filter(|other| other.place() == region.place());
            if let Some(region) = here.find(|other| other.keeps(physical)) {
                let what = if region.control_table == *physical { "control" } else { "conflict" };
                let message = format!("{physical:?} is the {what} table of region {}", region.name);
                return Err(Problem::at(name, message));
            }
            let place = region.place();
            if !self.taken.insert((place, physical.clone())) {
                return twice(physical);
            }
        }
        self.tables.push(table);
        Ok(())
    }

    fn add_pattern(&mut self, entry: &TableEntry, pattern: &Spanned<String>) -> Result<(), Problem> {
        let found = entry.found(pattern, self.regions)?;
        if self.patterns.iter().any(|other| other.pattern == found.pattern) {
            let message = format!("the pattern {:?} is there twice", pattern.get_ref());
            return Err(Problem::at(pattern, message));
        }
        let mut places = HashSet::new();
        for region in found.regions.iter().filter_map(|region| self.region(region)) {
            if !places.insert(region.place()) {
                let message = format!(
                    "the region {} is one place with another of this pattern's `regions`: a table would be a \
                     replica of itself",
                    region.name
                );
                return Err(Problem::at(pattern, message));
            }
        }
        self.patterns.push(found);
        Ok(())
    }

    fn region(&self, name: &Origin) -> Option<&'a RegionConfig> {
        self.regions.iter().find(|region| region.name == *name)
    }
}

impl RegionEntry {
    fn check(&self) -> Result<RegionConfig, Problem> {
        let name: Origin = self.name.get_ref().parse().map_err(|error| {
            Problem::at(&self.name, format!("{:?} can't name a region: {error}", self.name.get_ref()))
        })?;
        if !name.can_be_region() {
            let message = format!("{:?} can't name a region: it begins with '-'", self.name.get_ref());
            return Err(Problem::at(&self.name, message));
        }
        let aws_region = self.aws_region.get_ref();
        if aws_region.is_empty()
            || !aws_region.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        {
            let message = format!("expected an AWS region such as \"eu-west-1\", not {aws_region:?}");
            return Err(Problem::at(&self.aws_region, message));
        }
        let role = self.assume_role.as_ref().map(RoleEntry::check).transpose()?;
        let url = |text: &Option<Spanned<String>>| {
            text.as_ref().map(|text| check_url(text, self.allow_plain_http)).transpose()
        };
        Ok(RegionConfig {
            name,
            aws_region: aws_region.clone(),
            endpoint: url(&self.endpoint)?,
            streams_endpoint: url(&self.streams_endpoint)?,
            credentials: Credentials::Chain {
                profile: self.profile.as_ref().map(|profile| profile.get_ref().clone()),
                role,
            },
            control_table: own_table(self.control_table.as_ref(), RegionConfig::CONTROL_TABLE)?,
            conflict_table: own_table(self.conflict_table.as_ref(), RegionConfig::CONFLICT_TABLE)?,
        })
    }
}

fn own_table(name: Option<&Spanned<String>>, default: &str) -> Result<String, Problem> {
    name.map_or_else(|| Ok(default.to_owned()), check_table_name)
}

impl RoleEntry {
    fn check(&self) -> Result<Role, Problem> {
        let arn = self.arn.get_ref();
        if !(arn.starts_with("arn:") && arn.contains(":iam:") && arn.contains(":role/")) {
            let message = format!("expected \"arn:aws:iam::<account>:role/<name>\", not {arn:?}");
            return Err(Problem::at(&self.arn, message));
        }
        Ok(Role { arn: arn.clone(), external_id: self.external_id.clone() })
    }
}

impl TableEntry {
    fn named(&self, name: &Spanned<String>, regions: &[RegionConfig]) -> Result<TableConfig, Problem> {
        let name = check_table_name(name)?;
        let members = self.members(regions)?;
        let selections = peer::selections(&self.peer, &members)?;
        let mut replicas: Vec<_> = members.into_iter().map(|region| (region, name.clone())).collect();
        for (region, physical) in self.names.as_ref().map(Spanned::get_ref).into_iter().flatten() {
            let found = find_region(region, regions)?;
            let physical = check_table_name(physical)?;
            match replicas.iter_mut().find(|(member, _)| *member == found) {
                Some((_, table)) => *table = physical,
                None => {
                    let message =
                        format!("the region {:?} is not in this table's `regions`", region.get_ref());
                    return Err(Problem::at(region, message));
                }
            }
        }
        Ok(TableConfig { name, replicas, start: self.start, conflicts: self.conflicts, selections })
    }

    fn found(&self, pattern: &Spanned<String>, regions: &[RegionConfig]) -> Result<PatternConfig, Problem> {
        if let Some(names) = &self.names {
            let message = "a table found by a pattern has the same name in all regions: name this one by `name`, \
                           in an entry of its own";
            return Err(Problem::at(names, message));
        }
        let members = self.members(regions)?;
        Ok(PatternConfig {
            pattern: check_pattern(pattern)?,
            selections: peer::selections(&self.peer, &members)?,
            regions: members,
            start: self.start,
            conflicts: self.conflicts,
        })
    }

    /// The regions that have a replica.
    fn members(&self, regions: &[RegionConfig]) -> Result<Vec<Origin>, Problem> {
        let Some(list) = &self.regions else {
            return Ok(regions.iter().map(|region| region.name.clone()).collect());
        };
        let mut members = Vec::new();
        for entry in list.get_ref() {
            let region = find_region(entry, regions)?;
            if members.contains(&region) {
                return Err(Problem::at(entry, format!("the region {region:?} is listed twice")));
            }
            members.push(region);
        }
        if members.len() < 2 {
            return Err(Problem::at(list, "expected at least two regions: replication needs a peer"));
        }
        Ok(members)
    }
}

fn find_region(name: &Spanned<String>, regions: &[RegionConfig]) -> Result<Origin, Problem> {
    match regions.iter().find(|region| region.name.as_str() == name.get_ref()) {
        Some(region) => Ok(region.name.clone()),
        None => {
            let known = regions.iter().map(|region| region.name.as_str()).collect::<Vec<_>>().join(", ");
            let message = format!("no region is called {:?}; there are: {known}", name.get_ref());
            Err(Problem::at(name, message))
        }
    }
}

/// The characters of a table's name, and at least one wildcard.
fn check_pattern(pattern: &Spanned<String>) -> Result<WildMatch, Problem> {
    let text = pattern.get_ref();
    let is_wildcard = |c: u8| matches!(c, b'*' | b'?');
    if !text.bytes().all(|c| is_wildcard(c) || is_in_table_names(c)) {
        let message = format!(
            "{text:?} matches no table: expected a-z, A-Z, 0-9, '_', '-', '.', with '*' for any characters \
             and '?' for one"
        );
        return Err(Problem::at(pattern, message));
    }
    if !text.bytes().any(is_wildcard) {
        let message = format!("{text:?} has neither '*' nor '?': a single table is named by `name`");
        return Err(Problem::at(pattern, message));
    }
    Ok(WildMatch::new(text))
}

fn is_in_table_names(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.')
}

/// DynamoDB's naming rule: 3 to 255 characters of `a-z A-Z 0-9 _ - .`.
fn check_table_name(name: &Spanned<String>) -> Result<String, Problem> {
    let text = name.get_ref();
    if (3..=255).contains(&text.len()) && text.bytes().all(is_in_table_names) {
        Ok(text.clone())
    } else {
        let message = format!(
            "{text:?} can't name a table: expected 3 to 255 characters of a-z, A-Z, 0-9, '_', '-', '.'"
        );
        Err(Problem::at(name, message))
    }
}

fn check_url(text: &Spanned<String>, allow_plain_http: bool) -> Result<Url, Problem> {
    let expected =
        "expected a URL such as \"https://dynamodb.eu-west-1.amazonaws.com\" or \"http://127.0.0.1:8000\"";
    let url =
        Url::parse(text.get_ref()).map_err(|error| Problem::at(text, format!("{error}; {expected}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(Problem::at(text, expected));
    }
    if !url.username().is_empty() || url.password().is_some() {
        let message = "a URL must carry no user or password: credentials come from the SDK's own chain";
        return Err(Problem::at(text, message));
    }
    let loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    if url.scheme() == "http" && !loopback && !allow_plain_http {
        let message = "plain http sends items in the clear: use https, or set allow_plain_http = true here";
        return Err(Problem::at(text, message));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_belongs_to_the_first_pattern_that_matches_it_unless_it_is_taken() {
        let text = r#"
            region = [
                { name = "tokyo", aws_region = "ap-northeast-1" },
                { name = "dublin", aws_region = "eu-west-1", control_table = "shop-control" },
                { name = "oregon", aws_region = "us-west-2", conflict_table = "shop-lost" },
            ]
            table = [
                { pattern = "shop-*", regions = ["tokyo", "dublin"], start = "latest" },
                { pattern = "*-?", conflicts = "table" },
                { pattern = "tradewind-*" },
                { name = "shop-orders", names = { oregon = "shop-orders-us" } },
            ]
        "#;
        let config = Config::parse(Path::new("regions.toml"), text).expect("a configuration");
        let found = |name: &str| config.found(name).map(|table| (table.replicas.len(), table.start));
        let oregon = "oregon".parse().expect("a region's name");
        assert!(config.records_conflicts_in(&oregon));
        for (name, expected) in [
            ("shop-", Some((2, Start::Latest))),
            ("shop-a", Some((2, Start::Latest))),
            ("bar-a", Some((3, Start::TrimHorizon))),
            ("bar-", None),
            ("workshop-", None),
            ("shop-orders", None),
            ("shop-orders-us", None),
            ("shop-control", None),
            ("tradewind-control", None),
            ("tradewind-conflicts", None),
            ("shop-lost", None),
        ] {
            assert_eq!(found(name), expected, "{name}");
        }
    }
}
