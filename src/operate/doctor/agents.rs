//! What the agents report, and what they don't.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::ProvisionedThroughputDescription;
use tracing::debug;

use super::place::{SeenTable, SurveyedRegion};
use super::{Finding, Harm};
use crate::clock::{moment, wall_millis};
use crate::config::Config;
use crate::control::{AgentId, Beat, Setup, stream_label};
use crate::observe::{Overview, RegionView};
use crate::operate::agents::{Patience, running};
use crate::operate::init::is_on_demand;
use crate::operate::wait::watermarks_at;
use crate::operate::{PhysicalReplica, TableReplicas, Watermark, status};
use crate::protocol::{Origin, is_credible};
use crate::region::Region;
use crate::schema::StreamState;

/// From this share of a provisioned capacity on, there is none to spare.
const FULL: f64 = 0.8;

pub(super) async fn look(
    config: &Config,
    tables: &[TableReplicas],
    regions: &BTreeMap<Origin, Region>,
    places: &BTreeMap<Origin, SurveyedRegion>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for region in regions.values() {
        match running(region, Patience::with_running(config.tuning.lease_duration)).await {
            Ok(agents) => findings.extend(crew(config, &region.name, &agents)),
            Err(fault) => debug!(region = %region.name, %fault, "can't read the agents' beats"),
        }
        for replica in tables.iter().filter_map(|table| table.replica_in(&region.name)) {
            findings.extend(rows(replica).await);
            findings.extend(owner(replica).await);
            let seen = places.get(&region.name).and_then(|place| place.tables.get(&replica.table.name));
            if let Some(seen) = seen {
                findings.extend(streams(replica, seen).await);
            }
        }
    }
    let overview = status(config, regions).await.overview;
    let (ages, ahead) = ages(tables, regions, &overview).await;
    findings.extend(ahead);
    findings.extend(retention(config.tuning.stream_retention, ages));
    findings.extend(paused(&overview));
    for view in &overview.regions {
        findings.extend(reported(view));
        findings.extend(places.get(&view.region).and_then(|place| capacity(place, view, &overview)));
    }
    findings
}

/// Checks the running agents of a region, and their configurations.
fn crew(config: &Config, region: &Origin, agents: &BTreeMap<AgentId, Beat>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if agents.is_empty() {
        findings.push(Finding::new(
            Harm::Halt,
            "no_agent",
            region,
            "",
            "no agent runs: what is written here is not replicated, and lost to replication after a day",
            format!("start one: `tradewind run --region {region}`"),
        ));
    }
    let mine = config.fingerprint();
    for (agent, beat) in agents.iter().filter(|(_, beat)| beat.configuration != mine) {
        findings.push(Finding::new(
            Harm::Divergence,
            "configuration",
            region,
            "",
            format!("the agent {agent} has another configuration than this file: other regions, tables or selections"),
            "start all agents with the same file and the same version",
        ));
        debug!(%agent, configuration = beat.configuration, mine, "different configuration");
    }
    findings
}

/// What a region's control table says about one table.
async fn rows(replica: &PhysicalReplica) -> Vec<Finding> {
    let (control, region, name) = (replica.control(), &replica.region, &replica.table.name);
    let mut findings = Vec::new();
    let mut found = |harm, what, problem: String, fix: &str| {
        findings.push(Finding::new(harm, what, &region.name, name, problem, fix));
    };
    match control.agreement(name).await {
        Ok(agreement) => {
            for gap in &agreement.gaps {
                found(Harm::Divergence, "marked", gap.to_string(), "run `tradewind verify`");
            }
            if let Some(verified) = agreement.verified.filter(|verified| verified.items_differing > 0) {
                found(
                    Harm::Divergence,
                    "differs",
                    format!(
                        "{} items differed when the replicas were last compared",
                        verified.items_differing
                    ),
                    "`tradewind verify` shows them",
                );
            }
        }
        Err(fault) => debug!(region = %region.name, %fault, "can't read the marks"),
    }
    match control.newest_dead_letters(name, 1).await {
        Ok(letters) if letters.is_empty() => {}
        Ok(_) => found(
            Harm::Divergence,
            "dead_letters",
            "there are writes of this region that a peer could not take".to_owned(),
            "`tradewind dead-letters list` shows them, `replay` replicates them again",
        ),
        Err(fault) => debug!(region = %region.name, %fault, "can't read the dead letters"),
    }
    findings
}

/// A table whose rows belong to another setup.
async fn owner(replica: &PhysicalReplica) -> Option<Finding> {
    let PhysicalReplica { table, region, .. } = replica;
    let setup = Setup::of(table, &region.name);
    match replica.control().belongs_elsewhere(&table.name, &setup).await {
        Ok(reason) => reason.map(|reason| {
            let fix = "use one control table per setup, or one file for all regions; agents of this one don't start";
            Finding::new(Harm::Halt, "other_setup", &region.name, &table.name, reason, fix)
        }),
        Err(fault) => {
            debug!(region = %region.name, %fault, "can't read which setup the table's rows belong to");
            None
        }
    }
}

/// A table whose stream is not the one that its agents last read.
async fn streams(replica: &PhysicalReplica, seen: &SeenTable) -> Option<Finding> {
    let PhysicalReplica { table, region, .. } = replica;
    let StreamState::On { arn } = &seen.described.stream else { return None };
    let known = match replica.control().table_streams(&table.name).await {
        Ok(known) => known,
        Err(fault) => {
            debug!(region = %region.name, %fault, "can't read which streams the agents have read");
            return None;
        }
    };
    let is_other = !known.is_empty() && !known.iter().any(|stream| stream.label() == stream_label(arn));
    is_other.then(|| {
        Finding::new(
            Harm::DataLoss,
            "other_stream",
            &region.name,
            &table.name,
            "the stream is not the one that the agents have read: it was turned off and on, or the table was \
             deleted and recreated, and what was written in between is in no stream",
            "start an agent here: it marks the table, and reads what the old stream still holds; then run `tradewind \
             verify`, and where replicas differ `tradewind repair`",
        )
    })
}

/// How old the oldest write is that a peer lacks, by origin and peer.
type Ages = BTreeMap<(Origin, Origin), Duration>;

/// The ages that agents report, or else those of the durable watermarks; and watermarks that can't be true.
async fn ages(
    tables: &[TableReplicas],
    regions: &BTreeMap<Origin, Region>,
    overview: &Overview,
) -> (Ages, Vec<Finding>) {
    let mut ages = Ages::new();
    for link in &overview.links {
        let age = link.watermark_age.and_then(|age| Duration::try_from_secs_f64(age).ok());
        if let Some(age) = age {
            ages.insert((link.origin.clone(), link.peer.clone()), age);
        }
    }
    let (now, mut findings) = (wall_millis(), Vec::new());
    let replicas = tables.iter().flat_map(|table| &table.replicas);
    let reached = replicas.filter(|replica| regions.contains_key(&replica.region.name));
    for watermark in watermarks_at(reached).await.unwrap_or_default() {
        let Some(millis) = watermark.millis else { continue };
        if is_credible(millis, now) {
            let age = Duration::from_millis(wall_millis().saturating_sub(millis));
            ages.entry((watermark.origin, watermark.peer)).or_insert(age);
        } else {
            findings.push(ahead(&watermark, millis));
        }
    }
    (ages, findings)
}

/// A watermark ahead of any believable clock.
fn ahead(watermark: &Watermark, millis: u64) -> Finding {
    let Watermark { table, origin, peer, .. } = watermark;
    Finding::new(
        Harm::Lag,
        "watermark_ahead",
        peer,
        table,
        format!(
            "the watermark of {origin} at {peer} is in the future, at {}: a clock was wrong when it was made; agents \
             ignore it, and {origin}'s agent corrects it with its next",
            moment(millis)
        ),
        "set the clocks of the services, and of the machines that agents run on, by NTP",
    )
}

/// Peers that lack writes which their origin's stream soon drops.
fn retention(kept: Duration, ages: Ages) -> Vec<Finding> {
    let minutes = |age: Duration| humantime::format_duration(Duration::from_mins(age.as_secs() / 60));
    let late = ages.into_iter().filter(|(_, age)| *age > kept / 2);
    late.map(|((origin, peer), age)| {
        let told = minutes(age);
        let (problem, fix) = if age >= kept {
            (
                format!("{peer} may lack writes that are {told} old: the stream has dropped them"),
                "bring the agents and the peer back, then run `tradewind verify`",
            )
        } else {
            let left = minutes(kept.saturating_sub(age));
            (
                format!("{peer} may lack writes that are {told} old: in {left} the stream drops the oldest"),
                "bring the agents of the origin and the peer back before that",
            )
        };
        Finding::new(Harm::DataLoss, "retention", &origin, "", problem, fix)
    })
    .collect()
}

/// Peers that an operator has paused.
fn paused(overview: &Overview) -> Vec<Finding> {
    let links = overview.links.iter().filter_map(|link| Some((link, link.paused_until?)));
    links
        .map(|(link, until)| {
            let problem =
                format!("nothing is written to {} until {}: it is paused", link.peer, moment(until));
            let fix = "`tradewind resume` ends that";
            Finding::new(Harm::Note, "paused", &link.origin, "", problem, fix)
        })
        .collect()
}

/// What the agents of a region report about its tables.
fn reported(view: &RegionView) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (place, found) in view.agents.iter().filter(|agent| agent.heard).flat_map(|agent| &agent.intercepted)
    {
        findings.push(Finding::new(
            Harm::Lag,
            "intercepted",
            &view.region,
            "",
            format!("{} answers to an agent were not {place}'s own, at last: {}", found.count, found.last),
            "check what is between the agent and that endpoint; each such call is retried, and no such answer is used",
        ));
    }
    for table in view.agents.iter().filter(|agent| agent.heard).flat_map(|agent| &agent.tables) {
        if let Some(trouble) = &table.trouble {
            let fix = "fix that; the agent retries by itself";
            findings.push(Finding::new(Harm::Halt, "trouble", &view.region, &table.table, trouble, fix));
        }
        for (peer, reason) in &table.refused {
            let problem = format!("{peer} takes no writes, and all wait: {reason}");
            let fix = "make the replicas' keys and indexes the same, or check the encryption key there; the agent \
                        retries by itself";
            findings.push(Finding::new(Harm::Halt, "refused", &view.region, &table.table, problem, fix));
        }
        for (origin, writes) in &table.foreign {
            let problem = format!(
                "{writes} writes since the agent started came from {origin}, which is not among the table's regions in \
                 this file: agents of another setup made them, so they count as replicated and go to no peer"
            );
            let fix = "put all regions of the table into one file; then run `tradewind verify` and `repair`";
            findings.push(Finding::new(
                Harm::Halt,
                "foreign_writes",
                &view.region,
                &table.table,
                problem,
                fix,
            ));
        }
        if table.throttled > 0 {
            findings.push(Finding::new(
                Harm::Lag,
                "throttled",
                &view.region,
                &table.table,
                format!("{} writes of this agent were throttled since it started", table.throttled),
                "give the peers' tables and their indexes more write capacity, or make them on-demand",
            ));
        }
    }
    findings
}

/// A region whose tables together take fewer writes than are made, as far as agents report.
fn capacity(place: &SurveyedRegion, view: &RegionView, overview: &Overview) -> Option<Finding> {
    let tables = || place.tables.values().map(|seen| &seen.described.table);
    if place.tables.is_empty() || tables().any(is_on_demand) {
        return None;
    }
    let units = tables().filter_map(|table| {
        table.provisioned_throughput().and_then(ProvisionedThroughputDescription::write_capacity_units)
    });
    let units = f64::from(u32::try_from(units.sum::<i64>()).unwrap_or(u32::MAX));
    // Each write takes at least one unit, where it is made and at each peer.
    let writes: f64 = overview.regions.iter().map(|region| region.writes_per_second).sum();
    (writes > units * FULL).then(|| {
        Finding::new(
            Harm::Lag,
            "capacity",
            &view.region,
            "",
            format!("all regions together write {writes:.1} times a second, and the tables here take {units} units"),
            "raise the write capacity, or make the tables on-demand",
        )
    })
}
