//! `regions.toml`, typed. An error points at its line and column.
//!
//! | file | subject |
//! | --- | --- |
//! | `file` | the shapes of the file, and what is checked |
//! | `peer` | what is replicated to one region |
//! | `feed` | where a table's changes are told |
//! | `lambda` | how a feed invokes a function |
//! | `s3` | how a feed's events become objects |
//! | `in_region` | paths and URLs that name the agent's region |
//! | `range` | numbers and times that must be in a range |
//! | `tuning` | what may be tuned |
//! | `bounds` | the limits of tuning |
//! | `anti_entropy` | how agents compare the replicas by themselves |
//! | `problem` | what is wrong, and where |

mod anti_entropy;
mod bounds;
mod feed;
mod file;
mod in_region;
#[cfg(feature = "lambda")]
mod lambda;
mod peer;
mod problem;
mod range;
#[cfg(feature = "s3")]
mod s3;
mod tuning;

use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use url::Url;
use wildmatch::WildMatch;

use crate::protocol::{Origin, Selections};

pub use anti_entropy::{AntiEntropy, Repair};
pub use feed::{FeedConfig, OnFailure, SinkConfig};
pub use in_region::in_region;
#[cfg(feature = "lambda")]
pub use lambda::LambdaConfig;
pub use problem::{ConfigError, Invalid};
#[cfg(feature = "parquet")]
pub use s3::{Column, ColumnKind, Rows, Table};
#[cfg(feature = "s3")]
pub use s3::{Compression, Format, S3Config, S3Place};
pub use tuning::Tuning;

/// The regions, the tables that they share, and how to replicate.
#[derive(Clone, Debug)]
pub struct Config {
    pub regions: Vec<RegionConfig>,
    /// The tables given by name.
    pub tables: Vec<TableConfig>,
    /// The patterns that find tables, in the file's order.
    pub patterns: Vec<PatternConfig>,
    pub feeds: Vec<FeedConfig>,
    pub tuning: Tuning,
    /// How agents compare the replicas by themselves, if they do.
    pub anti_entropy: Option<AntiEntropy>,
}

/// Where one replica lives.
#[derive(Clone, Debug)]
pub struct RegionConfig {
    pub name: Origin,
    pub aws_region: String,
    pub endpoint: Option<Url>,
    /// Where the stream is read; the endpoint, unless set otherwise.
    pub streams_endpoint: Option<Url>,
    pub credentials: Credentials,
    pub control_table: String,
    /// Where this region records the conflicts that its writes lost.
    pub conflict_table: String,
}

impl RegionConfig {
    /// The control table's name, if the file gives none.
    pub const CONTROL_TABLE: &str = "tradewind-control";
    /// The conflict table's name, if the file gives none.
    pub const CONFLICT_TABLE: &str = "tradewind-conflicts";

    /// Whether a table of this name is one of Tradewind's own.
    fn keeps(&self, name: &str) -> bool {
        self.control_table == name || self.conflict_table == name
    }

    /// Identifies a set of tables; regions with the same one share their tables.
    fn place(&self) -> TableSpace {
        let (profile, role) = match &self.credentials {
            Credentials::Chain { profile, role } => {
                (profile.clone(), role.as_ref().map(|role| role.arn.clone()))
            }
            Credentials::Embedded => (None, None),
        };
        (self.aws_region.clone(), self.endpoint.clone(), profile, role)
    }
}

type TableSpace = (String, Option<Url>, Option<String>, Option<String>);

/// Who signs the requests to a region.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// The SDK's own chain: environment, profile, SSO, web identity, container, instance.
    Chain { profile: Option<String>, role: Option<Role> },
    /// A region inside this process, which checks no credentials.
    Embedded,
}

/// A role to assume.
#[derive(Clone, Debug)]
pub struct Role {
    pub arn: String,
    pub external_id: Option<String>,
}

/// One table, and its name in each of its regions.
#[derive(Clone, Debug)]
pub struct TableConfig {
    pub name: String,
    /// The table's name in each region that has a replica, in the file's order.
    pub replicas: Vec<(Origin, String)>,
    /// Where the first agent begins.
    pub start: Start,
    pub conflicts: Conflicts,
    /// What is replicated to which region.
    pub selections: Selections,
}

/// Tables that are found by name, with the same name in all their regions.
#[derive(Clone, Debug)]
pub struct PatternConfig {
    pub pattern: WildMatch,
    pub regions: Vec<Origin>,
    pub start: Start,
    pub conflicts: Conflicts,
    /// What is replicated to which region.
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

/// How a conflict is reported, apart from being resolved and counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conflicts {
    #[default]
    Count,
    /// In the log.
    Log,
    /// In the conflict table, with both images.
    Table,
}

impl TableConfig {
    /// A table with these replicas, and default settings.
    pub fn new(name: String, replicas: Vec<(Origin, String)>) -> Self {
        let (start, conflicts, selections) = Default::default();
        Self { name, replicas, start, conflicts, selections }
    }

    /// The table's name in a region, if that has a replica.
    pub fn name_in(&self, region: &Origin) -> Option<&str> {
        self.replicas.iter().find(|(name, _)| name == region).map(|(_, table)| table.as_str())
    }

    /// Whether a region has a replica.
    pub fn is_in(&self, region: &Origin) -> bool {
        self.name_in(region).is_some()
    }

    /// Whether this is its name, in any region or in the file.
    fn is_called(&self, name: &str) -> bool {
        self.name == name || self.replicas.iter().any(|(_, physical)| physical == name)
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
        file::read(text).map_err(|problem| ConfigError::Invalid(Box::new(problem.locate(path, text))))
    }

    /// The region of that name.
    pub fn region(&self, name: &str) -> Option<&RegionConfig> {
        self.regions.iter().find(|region| region.name.as_str() == name)
    }

    /// The table of this name, if a pattern finds it.
    ///
    /// The first pattern that matches decides, no matter where the name was found: otherwise agents of
    /// different regions would not agree. A name that appears anywhere in the file matches no pattern, nor
    /// does one of Tradewind's own tables.
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

    /// 48 bits of SHA-256 over what all agents must agree on: the regions, the tables, and what is replicated
    /// where. Endpoints, credentials and tuning may differ. Two versions of Tradewind may give one file
    /// different fingerprints.
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

    /// Whether conflicts are recorded in a region.
    pub fn records_conflicts_in(&self, region: &Origin) -> bool {
        let named = self.tables.iter().filter(|table| table.is_in(region)).map(|table| table.conflicts);
        let found = self.patterns.iter().filter(|entry| entry.regions.contains(region));
        named.chain(found.map(|entry| entry.conflicts)).any(|conflicts| conflicts == Conflicts::Table)
    }
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
