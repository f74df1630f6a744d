//! `[anti_entropy]`: agents compare the replicas at a low rate, and settle what differs.

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::problem::Problem;
use super::tuning::duration;

/// How agents compare the replicas by themselves.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AntiEntropy {
    /// How long after one comparison of a table the next begins.
    #[serde(deserialize_with = "duration")]
    pub every: Duration,
    /// Read units a second, a region, at most.
    #[serde(default = "read_units")]
    pub read_units: u32,
    /// Write units a second, a region, at most.
    #[serde(default = "write_units")]
    pub write_units: u32,
    #[serde(default)]
    pub repair: Repair,
}

/// What of that which differs is settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repair {
    /// It is reported.
    Nothing,
    /// Items whose versions say that they are older than another region's are replaced. Nothing that
    /// was deleted can come back.
    #[default]
    Older,
    /// As `tradewind repair` does: items are put where they are missing, too, and between those
    /// without a version the order of the regions decides.
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
