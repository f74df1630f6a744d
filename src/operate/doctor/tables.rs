//! What the replicas of a table must have in common, and what each must have.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_dynamodb::types::{ProvisionedThroughputDescription, TableDescription};

use super::place::{SeenTable, SurveyedRegion};
use super::{Finding, Harm};
use crate::config::Config;
use crate::feed::View;
use crate::operate::init::is_on_demand;
use crate::operate::{PhysicalReplica, TableReplicas};
use crate::protocol::{Origin, STAMP, Selections};
use crate::schema::StreamState;

/// One replica: its region, its name there, and what was seen of it.
type Replica<'a> = (&'a Origin, &'a str, &'a SeenTable);

/// Checks all replicas of one table that could be described.
pub(super) fn look(
    config: &Config,
    table: &TableReplicas,
    places: &BTreeMap<Origin, SurveyedRegion>,
) -> Vec<Finding> {
    let seen = |replica: &PhysicalReplica| places.get(&replica.region.name)?.tables.get(table.name());
    let replicas: Vec<Replica<'_>> = table
        .replicas
        .iter()
        .filter_map(|replica| Some((&replica.region.name, replica.name.as_str(), seen(replica)?)))
        .collect();
    let mut findings = Vec::new();
    for replica in &replicas {
        findings.extend(state(*replica, |view| config.lacks(&table.config, view)));
        findings.extend(keys(&table.config.selections, *replica));
        findings.extend(indexes(*replica));
    }
    findings.extend(key_schemas(&replicas));
    findings.extend(times_to_live(&replicas));
    findings.extend(classes(&replicas));
    findings
}

/// What prevents a replica from being replicated at all.
fn state((region, physical, seen): Replica<'_>, lacks: impl Fn(View) -> Option<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |harm, name, problem: String, fix: &str| {
        findings.push(Finding::new(harm, name, region, physical, problem, fix));
    };
    if !seen.described.active {
        let status = seen.described.table.table_status().map(ToString::to_string).unwrap_or_default();
        found(
            Harm::Halt,
            "not_active",
            format!("the table is not active: {status}"),
            "wait, or check what was done to it",
        );
    }
    if let Some(reason) = &seen.described.managed {
        found(
            Harm::Halt,
            "managed_global_table",
            reason.clone(),
            "let one of the two replicate it: remove the other replicas in DynamoDB, or the table from regions.toml",
        );
    }
    match &seen.described.stream {
        StreamState::On { .. } => {}
        StreamState::Off => found(
            Harm::DataLoss,
            "stream_off",
            "it has no stream: what is written here goes nowhere, and can't be replicated later".to_owned(),
            "run `tradewind init`, start the agents, then run `tradewind verify`",
        ),
        StreamState::Partial { view, .. } => {
            if let Some(lacks) = lacks(*view) {
                found(
                    Harm::DataLoss,
                    "stream_view",
                    format!(
                        "its stream shows {}, but {lacks}: nothing written here is replicated or told",
                        view.name()
                    ),
                    "turn the stream off once its other readers can do without it, and run `tradewind init`",
                );
            }
        }
    }
    findings
}

/// Keys that are Tradewind's own, or that are withheld from the region.
fn keys(selections: &Selections, (region, physical, seen): Replica<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |harm, name, problem: String, fix: &str| {
        findings.push(Finding::new(harm, name, region, physical, problem, fix));
    };
    let is_key = |name: &str| {
        let mut definitions = seen.described.table.attribute_definitions().iter();
        definitions.any(|definition| definition.attribute_name() == name)
    };
    if is_key(STAMP) {
        found(
            Harm::Halt,
            "reserved_attribute",
            format!("{STAMP} is a key of the table or of an index, but it must hold Tradewind's stamp"),
            "use another attribute name: remove that index, or recreate the table",
        );
    }
    for (_, attribute) in selections.withheld().filter(|(to, _)| *to == region) {
        if seen.described.key_schema.names().any(|name| name == attribute) {
            found(
                Harm::Halt,
                "withheld_key",
                format!(
                    "regions.toml keeps {attribute:?} from this region, but it is a part of the table's key"
                ),
                "remove it from `without`",
            );
        }
    }
    findings
}

/// Indexes that throttle the table.
fn indexes((region, physical, seen): Replica<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |harm, name, problem: String, fix: &str| {
        findings.push(Finding::new(harm, name, region, physical, problem, fix));
    };
    for (index, units, of_table) in narrow_indexes(&seen.described.table) {
        found(
            Harm::Lag,
            "index_capacity",
            format!(
                "the index {index} takes {units} write units a second and the table {of_table}: a full index throttles \
                 writes to the table, agents' too"
            ),
            "give the index as many as the table, or make both on-demand",
        );
    }
    findings
}

/// Nothing can be replicated between tables with different keys.
fn key_schemas(replicas: &[Replica<'_>]) -> Vec<Finding> {
    let Some((like, _, first)) = replicas.first() else { return Vec::new() };
    let expected = &first.described.key_schema;
    let others = replicas.iter().filter(|(.., seen)| seen.described.key_schema != *expected);
    others
        .map(|(region, physical, seen)| {
            let problem =
                format!("its keys are {}, but in {like} they are {expected}", seen.described.key_schema);
            let fix = "recreate one of them: nothing is replicated between them";
            Finding::new(Harm::Halt, "keys_differ", region, physical, problem, fix)
        })
        .collect()
}

/// The indexes of a provisioned table that take fewer writes than the table.
fn narrow_indexes(table: &TableDescription) -> Vec<(String, i64, i64)> {
    if is_on_demand(table) {
        return Vec::new();
    }
    let units = |described: Option<&ProvisionedThroughputDescription>| {
        described.and_then(ProvisionedThroughputDescription::write_capacity_units).unwrap_or_default()
    };
    let of_table = units(table.provisioned_throughput());
    let indexes = table.global_secondary_indexes().iter();
    indexes
        .map(|index| {
            (
                index.index_name().unwrap_or_default().to_owned(),
                units(index.provisioned_throughput()),
                of_table,
            )
        })
        .filter(|(_, units, of_table)| units < of_table)
        .collect()
}

/// An expiry is a delete, and is replicated.
fn times_to_live(replicas: &[Replica<'_>]) -> Vec<Finding> {
    let attributes: BTreeSet<&String> = replicas.iter().filter_map(|(.., seen)| seen.ttl.as_ref()).collect();
    let named = |attribute: &Option<String>| {
        attribute.as_deref().map_or("nothing".to_owned(), |name| format!("{name:?}"))
    };
    let Some((like, _, first)) = replicas.iter().find(|(.., seen)| seen.ttl.is_some()) else {
        return Vec::new();
    };
    let others = replicas.iter().filter(|(.., seen)| seen.ttl != first.ttl);
    others
        .map(|(region, physical, seen)| {
            let problem = format!("items expire by {} here, and by {} in {like}", named(&seen.ttl), named(&first.ttl));
            if attributes.len() > 1 && seen.ttl.is_some() {
                let fix = "an expiry is replicated as a delete: both rules delete everywhere; set the same attribute";
                Finding::new(Harm::DataLoss, "ttl_differs", region, physical, problem, fix)
            } else {
                let fix = "nothing needs to be done: expiries are replicated. The same setting would expire items \
                            here while the other region is away";
                Finding::new(Harm::Note, "ttl_missing", region, physical, problem, fix)
            }
        })
        .collect()
}

fn classes(replicas: &[Replica<'_>]) -> Vec<Finding> {
    let class = |seen: &SeenTable| {
        let summary = seen.described.table.table_class_summary();
        summary.and_then(|summary| summary.table_class()).map_or("STANDARD".to_owned(), ToString::to_string)
    };
    let Some((like, _, first)) = replicas.first() else { return Vec::new() };
    let others = replicas.iter().filter(|(.., seen)| class(seen) != class(first));
    others
        .map(|(region, physical, seen)| {
            let problem = format!("its table class is {}, and {} in {like}", class(seen), class(first));
            let fix = "each replica takes all writes: STANDARD_INFREQUENT_ACCESS pays a quarter more for each of them";
            Finding::new(Harm::Note, "table_class", region, physical, problem, fix)
        })
        .collect()
}
