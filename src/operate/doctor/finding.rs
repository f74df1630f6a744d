//! What is wrong, and how bad that is.

use serde::Serialize;

use crate::fault::{Fault, FaultKind};
use crate::protocol::Origin;

/// The harm done, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Harm {
    /// Writes are lost, or soon will be.
    DataLoss,
    /// Replicas differ, or may.
    Divergence,
    /// Something is not replicated, or not from or to some region.
    Halt,
    /// Something is replicated late, or not seen.
    Lag,
    /// Something costs more than necessary.
    Cost,
    /// Nothing needs to be done.
    Note,
}

/// One thing that is wrong. They sort by harm.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    pub harm: Harm,
    /// What kind of finding it is: docs/doctor.md has them all.
    pub name: &'static str,
    pub region: Origin,
    /// Empty if it is not about a single table.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub table: String,
    pub problem: String,
    pub fix: String,
}

impl Finding {
    pub(super) fn new(
        harm: Harm,
        name: &'static str,
        region: &Origin,
        table: &str,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let (region, table) = (region.clone(), table.to_owned());
        Self { harm, name, region, table, problem: problem.into(), fix: fix.into() }
    }

    /// The failure of a call that everything depends on.
    pub(super) fn of_fault(region: &Origin, table: &str, action: &str, fault: &Fault) -> Self {
        let name = match fault.kind {
            FaultKind::Refused if fault.code.contains("AccessDenied") => "permission",
            FaultKind::Refused => "credentials",
            FaultKind::Missing => "missing",
            FaultKind::Unreachable | FaultKind::Throttled | FaultKind::HotPartition | FaultKind::Invalid => {
                "unreachable"
            }
        };
        let fix = match name {
            "permission" => {
                format!("allow dynamodb:{action} on {table}: the README says what each role needs")
            }
            _ => fault.kind.advice().to_owned(),
        };
        Self::new(Harm::Halt, name, region, table, format!("{action}: {fault}"), fix)
    }
}
