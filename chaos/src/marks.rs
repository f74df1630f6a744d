//! Marks: whatever is known not to be replicated must be shown by rows of the control tables, and nothing
//! else may be parked.

use serde_json::{Map, Value, json};

use crate::Result;
use crate::faults::{ELSEWHERE, FOREIGN, TABLE, TAKEN, UNDATED};
use crate::history::{History, Image, KEY};
use crate::play::Wrong;
use crate::run::POISON;
use crate::scenario::{Fault, Kind, Scenario};
use crate::wire::{Wire, text};

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
        let parked = letters.iter().filter(|row| !text(row, "key").contains(POISON));
        wrong.extend(parked.map(|row| {
            let [key, peer, reason] = ["key", "peer", "reason"].map(|name| text(row, name));
            ("parked", format!("{name} has parked a write of {key} for {peer}: {reason}"))
        }));
        let is_due = |kind| {
            let is = |fault: &Fault| fault.kind == kind && fault.region.as_deref() == Some(name);
            scenario.faults.iter().any(is)
        };
        if is_due(Kind::Poison) && !letters.iter().any(|row| text(row, "key").contains(POISON)) {
            wrong.push(("unmarked", format!("{name} has no dead letter of {POISON}")));
        }
        if is_due(Kind::Undated) && !of("gap").any(|row| text(row, "cause") == "unreadable") {
            wrong.push(("unmarked", format!("{name} has no mark, though {KEY} {UNDATED} is not replicated")));
        }
        if is_due(Kind::RecycleStream) {
            let peers: Vec<_> = names.iter().filter(|peer| *peer != name).collect();
            let is_other = |row: &&Map<String, Value>| {
                matches!(text(row, "cause"), "other_stream" | "stream_gone") && text(row, "origin") == name
            };
            let is_marked = of("gap").filter(is_other).any(|row| {
                let told = row.get("peers").map(Value::to_string).unwrap_or_default();
                peers.iter().all(|peer| told.contains(peer.as_str()))
            });
            if !is_marked {
                wrong.push(("unmarked", format!("{name} has no mark, though its table has another stream")));
            }
            if !is_told(&rows, name, |table| table["gaps"].as_u64() > Some(0)) {
                wrong.push(("untold", format!("no agent of {name} reports a gap")));
            }
        }
        let of_foreign = json!({ ELSEWHERE: FOREIGN.len() });
        if is_due(Kind::Foreign) && !is_told(&rows, name, |table| table["foreign"] == of_foreign) {
            wrong.push((
                "untold",
                format!("no agent of {name} reports {of_foreign} as belonging to another setup"),
            ));
        }
    }
    Ok(wrong)
}

/// Whether an agent of this region reports that about the table, in its last report.
fn is_told(rows: &[Map<String, Value>], region: &str, is_said: impl Fn(&Value) -> bool) -> bool {
    let is_ours = |row: &&Map<String, Value>| {
        text(row, "pk") == "report" && text(row, "sk").split(' ').next() == Some(region)
    };
    rows.iter().filter(is_ours).any(|row| {
        let report: Value = serde_json::from_str(text(row, "body")).unwrap_or_default();
        report["tables"].as_array().into_iter().flatten().any(&is_said)
    })
}

/// What another setup's agent has written stays as it is, where it is, until an application writes there.
pub fn check_foreign(scenario: &Scenario, history: &History) -> Vec<Wrong> {
    let mut of_foreign = scenario.faults.iter().filter(|fault| fault.kind == Kind::Foreign);
    let Some(home) = of_foreign.find_map(|fault| scenario.region(fault.region.as_ref()?)) else {
        return Vec::new();
    };
    let mut wrong = Vec::new();
    for key in FOREIGN.into_iter().filter(|key| *key != TAKEN) {
        for (region, name) in history.regions.iter().enumerate() {
            let made = history.seen.iter().filter(|seen| seen.region == region && seen.key == key).count();
            let expected = usize::from(region == home);
            if made != expected {
                let how = format!(
                    "{name}: {made} writes of {key}, which belongs to another setup, instead of {expected}"
                );
                wrong.push(("not left alone", how));
            }
        }
    }
    wrong
}

/// Excludes what another setup has written. What an application made of it must be everywhere.
pub fn forget_foreign(history: &mut History) {
    history.forget(|key| FOREIGN.contains(&key) && key != TAKEN);
    let is_foreign = |image: &Image| {
        image.write.as_deref().is_some_and(|write| write.split(' ').next() == Some(ELSEWHERE))
    };
    history.seen.retain(|seen| !seen.new.as_ref().is_some_and(is_foreign));
}
