//! What an operator does to replicas, apart from replicating: prepare them, compare them.

mod init;
mod verify;

use crate::fault::Fault;
use crate::protocol::Origin;
use crate::region::Region;

pub use init::{Change, Model, Plan, Problem, Step};
pub use verify::{Difference, Holding, Options, Scanned, TableVerdict, Verification, verify};

/// A call that failed, and what it was for.
#[derive(Debug, thiserror::Error)]
#[error("region {region}, table {table}: {fault}\n{}", fault.kind.advice())]
pub struct OperateError {
    pub region: Origin,
    pub table: String,
    pub fault: Fault,
}

impl OperateError {
    fn at(region: &Region, table: &str, fault: impl Into<Fault>) -> Self {
        Self { region: region.name.clone(), table: table.to_owned(), fault: fault.into() }
    }
}
