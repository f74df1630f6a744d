//! What feeds have missed.

use std::collections::BTreeMap;

use super::OperateError;
use super::replicas::client;
use crate::config::FeedConfig;
use crate::control::{ControlTable, Gap};
use crate::protocol::Origin;
use crate::region::Region;

/// Writes that a feed may have missed, by the mark in one region.
#[derive(Clone, Debug)]
pub struct FeedMark {
    pub region: Origin,
    pub gap: Gap,
}

/// The marks that name a feed, in the regions that deliver it.
pub async fn feed_marks(
    feed: &FeedConfig,
    regions: &BTreeMap<Origin, Region>,
) -> Result<Vec<FeedMark>, OperateError> {
    let mut marks = Vec::new();
    for name in &feed.regions {
        let region = client(regions, name, &feed.table)?;
        let agreement = ControlTable::of(region).agreement(&feed.table).await;
        let gaps = agreement.map_err(|fault| OperateError::at(region, &region.control_table, fault))?.gaps;
        let of_feed = gaps.into_iter().filter(|gap| gap.feeds.contains(&feed.name));
        marks.extend(of_feed.map(|gap| FeedMark { region: name.clone(), gap }));
    }
    Ok(marks)
}

/// Takes a feed off all marks. Returns those.
pub async fn acknowledge(
    feed: &FeedConfig,
    regions: &BTreeMap<Origin, Region>,
) -> Result<Vec<FeedMark>, OperateError> {
    let marks = feed_marks(feed, regions).await?;
    for FeedMark { region, gap } in &marks {
        let region = client(regions, region, &feed.table)?;
        let taken_off = ControlTable::of(region).acknowledge_gap(&feed.table, gap, &feed.name).await;
        taken_off.map_err(|fault| OperateError::at(region, &region.control_table, fault))?;
    }
    Ok(marks)
}
