//! Marks: what is known not to be replicated must be told by rows of the control tables, and nothing else may be put
//! aside.

use serde_json::{Map, Value};

use crate::Result;
use crate::faults::{TABLE, UNDATED};
use crate::history::KEY;
use crate::play::Wrong;
use crate::run::POISON;
use crate::scenario::{Fault, Kind, Scenario};
use crate::wire::Wire;

/// What is wrong with the marks of these regions, in the order of their names.
pub async fn check(scenario: &Scenario, names: &[String], wires: &[Wire]) -> Result<Vec<Wrong>> {
    let mut wrong = Vec::new();
    for (name, wire) in names.iter().zip(wires) {
        let rows = wire.control_rows().await?;
        let of = |kind: &str| {
            let partition = format!("{kind}/{TABLE}");
            rows.iter().filter(move |row| text(row, "pk") == partition)
        };
        let letters: Vec<_> = of("dead-letter").filter(|row| row.contains_key("peer")).collect();
        let buried = letters.iter().filter(|row| !text(row, "key").contains(POISON));
        wrong.extend(buried.map(|row| {
            let [key, peer, reason] = ["key", "peer", "reason"].map(|name| text(row, name));
            ("buried", format!("{name} has put aside a write of {key} for {peer}: {reason}"))
        }));
        let is_due = |kind| {
            let is = |fault: &Fault| fault.kind == kind && fault.region.as_deref() == Some(name);
            scenario.faults.iter().any(is)
        };
        if is_due(Kind::Poison) && !letters.iter().any(|row| text(row, "key").contains(POISON)) {
            wrong.push(("unmarked", format!("{name} has no dead letter of {POISON}")));
        }
        if is_due(Kind::Undated) && !of("gap").any(|row| text(row, "cause") == "unreadable") {
            wrong.push(("unmarked", format!("{name} has no mark, and {KEY} {UNDATED} is not replicated")));
        }
    }
    Ok(wrong)
}

fn text<'a>(row: &'a Map<String, Value>, name: &str) -> &'a str {
    row.get(name).and_then(|value| value["S"].as_str()).unwrap_or_default()
}
