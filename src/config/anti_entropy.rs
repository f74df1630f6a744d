//! `[anti_entropy]`: agents compare the replicas at a low rate, and fix what differs.

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::problem::Problem;
use super::tuning::duration;

/// How agents compare the replicas by themselves.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AntiEntropy {
    /// The time from the end of one comparison of a table to the start of the next.
    #[serde(deserialize_with = "duration")]
    pub every: Duration,
    /// At most this many read units per second and region.
    #[serde(default = "read_units")]
    pub read_units: u32,
    /// At most this many write units per second and region.
    #[serde(default = "write_units")]
    pub write_units: u32,
    #[serde(default)]
    pub repair: Repair,
}

/// Which differences are fixed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repair {
    /// None: they are only reported.
    Nothing,
    /// Items whose versions show that they are older than another region's are replaced. Nothing that was
    /// deleted can come back.
    #[default]
    Older,
    /// As with `tradewind repair`: items are also put where they are missing, and among those without a
    /// version the order of the regions decides.
    All,
}

fn read_units() -> u32 {
    100
}

fn write_units() -> u32 {
    20
}

pub(super) fn check(entry: Option<Spanned<AntiEntropy>>) -> Result<Option<AntiEntropy>, Problem> {
    let Some(entry) = entry else { return Ok(None) };
    let AntiEntropy { read_units, write_units, .. } = entry.get_ref();
    for (key, value) in [("read_units", read_units), ("write_units", write_units)] {
        if *value == 0 {
            return Err(Problem::at(&entry, format!("{key} = 0: expected 1 or more")));
        }
    }
    Ok(Some(entry.into_inner()))
}
