//! Whether feeds can deliver, and what their sinks have rejected.

use std::collections::BTreeMap;

use super::{Finding, Harm, Untried};
#[cfg(feature = "s3")]
use crate::config::OnFailure;
use crate::config::{Config, FeedConfig};
use crate::fault::{Fault, FaultKind};
use crate::operate::FeedSites;
use crate::protocol::Origin;
use crate::region::Region;
#[cfg(feature = "s3")]
use crate::sink::RejectedBucket;
use crate::sink::Sink;

/// Tries each feed's sink with the credentials of each of these regions that deliver it, and looks for parked events.
pub(super) async fn look(
    config: &Config,
    regions: &BTreeMap<Origin, Region>,
    agents_of: &[Origin],
) -> (Vec<Finding>, Vec<Untried>) {
    let (mut findings, mut untried) = (Vec::new(), Vec::new());
    for feed in &config.feeds {
        for region in feed.regions.iter().filter(|name| agents_of.contains(name)) {
            let Some(region) = regions.get(region) else { continue };
            match Sink::open(&feed.sink, region).check().await {
                None => untried.push(Untried {
                    region: region.name.clone(),
                    table: feed.table.clone(),
                    action: format!("deliver feed {}", feed.name),
                    why: "whether its file can be written shows only where the agent runs".to_owned(),
                }),
                Some(Ok(())) => {}
                Some(Err(fault)) => {
                    let target = feed.sink.target_in(&region.name);
                    findings.push(unreachable(feed, region, &target, feed.sink.actions(), &fault));
                }
            }
            #[cfg(feature = "s3")]
            if let OnFailure::S3(place) = &feed.on_failure
                && let Err(fault) = RejectedBucket::new(place.clone(), region).check().await
            {
                let (target, actions) = (place.url_in(&region.name), "s3:PutObject and s3:ListBucket");
                findings.push(unreachable(feed, region, &target, actions, &fault));
            }
        }
        findings.extend(parked(feed, regions).await);
    }
    (findings, untried)
}

fn unreachable(feed: &FeedConfig, region: &Region, target: &str, actions: &str, fault: &Fault) -> Finding {
    let problem = format!("feed {} can't deliver to {target}: {fault}", feed.name);
    let fix = match fault.kind {
        FaultKind::Refused => format!("allow {actions} on {target} to this region's agents"),
        FaultKind::Missing => format!("check the name of {target}, and the region's aws_region and account"),
        kind => kind.advice().to_owned(),
    };
    Finding::new(Harm::Halt, "feed_sink", &region.name, &feed.table, problem, fix)
}

async fn parked(feed: &FeedConfig, regions: &BTreeMap<Origin, Region>) -> Vec<Finding> {
    // A region that does not answer is told of elsewhere.
    let Ok(parked) = (FeedSites { feed, regions }).parked().await else { return Vec::new() };
    let mut counts: BTreeMap<Origin, usize> = BTreeMap::new();
    for event in parked {
        *counts.entry(event.region).or_default() += 1;
    }
    let finding = |(region, count): (Origin, usize)| {
        let name = &feed.name;
        let problem = format!("{count} events of feed {name} are parked: its sink rejects them");
        let fix =
            format!("`tradewind feed parked {name}` says why; then `tradewind feed replay {name} --all`");
        Finding::new(Harm::Divergence, "feed_parked", &region, &feed.table, problem, fix)
    };
    counts.into_iter().map(finding).collect()
}
