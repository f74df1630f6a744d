//! One region, as it answers.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::{TimeToLiveDescription, TimeToLiveStatus};

use super::permissions::{
    self, Action, OWN_CONFLICTS, OWN_CONTROL, OWN_TABLE, Outcome, PEERS_CONTROL, PEERS_TABLE,
};
use super::{Finding, Harm, Untried};
use crate::clock::wall_millis;
use crate::config::Config;
use crate::control::{EXPIRES, PK, SK};
use crate::fault::{Fault, FaultKind};
use crate::operate::TableReplicas;
use crate::protocol::Origin;
use crate::region::Region;
use crate::schema::{Described, StreamState};
use crate::source::dynamodb_streams::ServiceClock;

/// Requests whose time is off by five minutes are refused; ages and lags are wrong long before that.
const REFUSED_MILLIS: i64 = 240_000;
const OFF_MILLIS: i64 = 5_000;
/// The services' clocks decide which of two writes is the later one.
const APART_MILLIS: i64 = 2_000;

/// A region's clock, compared with this machine's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// How far it is ahead, in milliseconds: at least, and at most. A Date header has whole seconds.
    least: i64,
    most: i64,
}

impl Clock {
    /// From the Date of an answer, with the times of the request and the answer.
    fn of(asked: u64, answered: u64, date: u64) -> Option<Self> {
        let [asked, answered, date] = [asked, answered, date].map(i64::try_from);
        let (asked, answered, date) = (asked.ok()?, answered.ok()?, date.ok()?);
        Some(Self { least: date - answered, most: date + 1000 - asked })
    }

    /// How far off it is for certain.
    fn off(self) -> i64 {
        if self.least > 0 { self.least } else { self.most.min(0) }
    }

    /// How far it is ahead, about, in seconds.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of an era, for display")]
    pub(super) fn ahead(self) -> f64 {
        (self.least + self.most) as f64 / 2000.0
    }
}

/// One table in one region.
#[derive(Debug)]
pub(super) struct SeenTable {
    pub(super) described: Described,
    /// The attribute by which items expire; none, if none do.
    pub(super) ttl: Option<String>,
}

/// What is known of one region.
#[derive(Debug)]
pub(super) struct SurveyedRegion {
    pub(super) region: Origin,
    /// Whether anything came back at all.
    pub(super) answers: bool,
    pub(super) clock: Option<Clock>,
    /// The replicas, by the table's name in the configuration.
    pub(super) tables: BTreeMap<String, SeenTable>,
    pub(super) findings: Vec<Finding>,
    pub(super) untried: Vec<Untried>,
    pub(super) allowed: usize,
}

impl SurveyedRegion {
    pub(super) async fn look(
        config: &Config,
        tables: &[TableReplicas],
        region: Region,
        agents_of: &[Origin],
    ) -> Self {
        let mut place = Self {
            region: region.name.clone(),
            answers: true,
            clock: None,
            tables: BTreeMap::new(),
            findings: Vec::new(),
            untried: Vec::new(),
            allowed: 0,
        };
        // Whose agents use this region: its own, and others.
        let own = agents_of.contains(&region.name);
        let others = agents_of.iter().any(|name| *name != region.name);
        let actions = |own_actions: &[Action], peers_actions: &[Action]| {
            let mut actions = if own { own_actions.to_vec() } else { Vec::new() };
            let peers = peers_actions.iter().filter(|_| others);
            let more: Vec<Action> = peers.copied().filter(|action| !actions.contains(action)).collect();
            actions.extend(more);
            actions
        };
        place.control(&region, own, &actions(OWN_CONTROL, PEERS_CONTROL)).await;
        if !place.answers {
            return place;
        }
        if own && config.records_conflicts_in(&region.name) {
            let what = region.conflict_table.clone();
            if let Some(seen) = place.describe(&region, &what).await {
                place.own_table(&what, &seen);
                place.attempt(&region, &seen.described, OWN_CONFLICTS, Harm::Lag).await;
            }
        }
        for replica in tables.iter().filter_map(|table| table.replica_in(&region.name)) {
            let physical = &replica.name;
            let Some(seen) = place.describe(&region, physical).await else { continue };
            place.attempt(&region, &seen.described, &actions(OWN_TABLE, PEERS_TABLE), Harm::Halt).await;
            if own && let StreamState::On { arn } = &seen.described.stream {
                place.stream(&region, physical, arn, Harm::Halt).await;
            }
            place.tables.insert(replica.table.name.clone(), seen);
        }
        place
    }

    async fn control(&mut self, region: &Region, own: bool, actions: &[Action]) {
        let name = &region.control_table;
        if !own {
            // A peer's agent may write there, but not describe it.
            match permissions::like_own_table(name) {
                Ok(table) => self.attempt(region, &Described::from(table), actions, Harm::Halt).await,
                Err(fault) => self.untried(name, "PutItem", &fault),
            }
            return;
        }
        let Some(seen) = self.describe(region, name).await else { return };
        self.own_table(name, &seen);
        self.attempt(region, &seen.described, actions, Harm::Halt).await;
        match &seen.described.stream {
            StreamState::On { arn } => self.stream(region, name, arn, Harm::Lag).await,
            StreamState::Off => self.findings.push(Finding::new(
                Harm::Lag,
                "heartbeat_stream",
                &region.name,
                name,
                "the control table has no stream: lag is not measured by heartbeats",
                "run `tradewind init`",
            )),
            StreamState::Partial { .. } => {}
        }
    }

    /// Checks one of Tradewind's own tables.
    fn own_table(&mut self, name: &str, seen: &SeenTable) {
        if let Some(reason) = &seen.described.managed {
            let fix = "name another one in regions.toml (`control_table`, `conflict_table`), and run `tradewind init`";
            let (region, problem) = (&self.region, reason.clone());
            self.findings.push(Finding::new(Harm::Halt, "managed_global_table", region, name, problem, fix));
        }
        let keys: Vec<&str> = seen.described.key_schema.names().collect();
        if keys != [PK, SK] {
            self.findings.push(Finding::new(
                Harm::Halt,
                "own_keys",
                &self.region,
                name,
                format!("this is not a Tradewind table: its keys are {}", seen.described.key_schema),
                "name another one in regions.toml (`control_table`, `conflict_table`), and run `tradewind init`",
            ));
        } else if seen.ttl.as_deref() != Some(EXPIRES) {
            self.findings.push(Finding::new(
                Harm::Cost,
                "own_ttl",
                &self.region,
                name,
                "its old rows are never removed: its time to live does not use `expires`",
                "run `tradewind init`",
            ));
        }
    }

    /// Describes a table; a failure becomes a finding.
    async fn describe(&mut self, region: &Region, table: &str) -> Option<SeenTable> {
        let clock = ServiceClock::default();
        let asked = wall_millis();
        let request = region.tables.describe_table().table_name(table).customize().interceptor(clock.clone());
        let answer = request.send().await.map_err(Fault::from);
        if let Some(date) = clock.millis() {
            self.clock = Clock::of(asked, wall_millis(), date);
        }
        let described = match answer {
            Ok(answer) => Described::from(answer.table?),
            Err(fault) => {
                self.answers &= fault.kind == FaultKind::Missing || fault.code.contains("AccessDenied");
                self.findings.push(Finding::of_fault(&self.region, table, "DescribeTable", &fault));
                return None;
            }
        };
        self.allowed += 1;
        let ttl = region.tables.describe_time_to_live().table_name(table).send().await.map_err(Fault::from);
        let ttl = match ttl {
            Ok(answer) => answer.time_to_live_description.and_then(attribute),
            Err(fault) => {
                self.untried(table, "DescribeTimeToLive", &fault);
                None
            }
        };
        Some(SeenTable { described, ttl })
    }

    async fn attempt(&mut self, region: &Region, described: &Described, actions: &[Action], harm: Harm) {
        let table = described.table.table_name().unwrap_or_default().to_owned();
        for action in actions {
            let outcome = permissions::attempt(region, &described.table, *action).await;
            self.note(&table, action.name(), outcome, harm);
        }
    }

    async fn stream(&mut self, region: &Region, table: &str, arn: &str, harm: Harm) {
        for (action, outcome) in permissions::attempt_stream(region, arn).await {
            self.note(table, action, outcome, harm);
        }
    }

    fn note(&mut self, table: &str, action: &'static str, outcome: Outcome, harm: Harm) {
        match outcome {
            Outcome::Allowed => self.allowed += 1,
            Outcome::Refused(fault) => {
                self.findings
                    .push(Finding { harm, ..Finding::of_fault(&self.region, table, action, &fault) });
            }
            Outcome::Unknown(fault) => self.untried(table, action, &fault),
        }
    }

    fn untried(&mut self, table: &str, action: &str, fault: &Fault) {
        self.untried.push(Untried {
            region: self.region.clone(),
            table: table.to_owned(),
            action: action.to_owned(),
            why: fault.to_string(),
        });
    }
}

fn attribute(ttl: TimeToLiveDescription) -> Option<String> {
    let on = matches!(ttl.time_to_live_status, Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling));
    ttl.attribute_name.filter(|_| on)
}

/// Clocks that are off: this machine's compared with each region's, and the regions' with each other.
pub(super) fn clocks(places: &BTreeMap<Origin, SurveyedRegion>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let clocks: Vec<(&Origin, Clock)> =
        places.iter().filter_map(|(name, place)| Some((name, place.clock?))).collect();
    let seconds = |millis: i64| millis.unsigned_abs() / 1000;
    for (region, clock) in &clocks {
        let off = clock.off();
        if off.abs() < OFF_MILLIS {
            continue;
        }
        let harm = if off.abs() >= REFUSED_MILLIS { Harm::Halt } else { Harm::Lag };
        let way = if off > 0 { "behind" } else { "ahead of" };
        findings.push(Finding::new(
            harm,
            "clock",
            region,
            "",
            format!(
                "this machine's clock is {} s {way} the region's: reported ages are wrong, and from 5 minutes on \
                 requests are refused",
                seconds(off)
            ),
            "set the clock by NTP, here and wherever agents run",
        ));
    }
    let least = clocks.iter().min_by_key(|(_, clock)| clock.most);
    let most = clocks.iter().max_by_key(|(_, clock)| clock.least);
    if let (Some((slow, behind)), Some((fast, ahead))) = (least, most)
        && ahead.least - behind.most >= APART_MILLIS
    {
        findings.push(Finding::new(
            Harm::DataLoss,
            "clocks_apart",
            fast,
            "",
            format!(
                "its clock is {} s ahead of {slow}'s: of two concurrent writes, the one made here wins \
                 though it may be the older one",
                seconds(ahead.least - behind.most)
            ),
            "set the clocks of the servers by NTP",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_off_only_by_what_its_header_and_the_way_leave_no_doubt_of() {
        let off = |asked, answered, date| Clock::of(asked, answered, date).expect("a clock").off();
        assert_eq!(off(10_400, 10_450, 10_000), 0);
        assert_eq!(off(10_990, 11_010, 10_000), 0);
        assert_eq!(off(10_000, 10_500, 17_000), 6_500);
        assert_eq!(off(20_000, 20_500, 10_000), -9_000);
    }
}
