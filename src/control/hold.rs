//! Holds: while a seeder has a hold on a table, the table's agents forget no key.
//!
//! It is stored in the row of the table's barrier: `holdNumber` is the number of the last one, `holdBeat`
//! increases while its seeder is alive, and all holds with a number below `holdsOver` are over.

use super::condition::held;
use super::{ControlTable, Held, Row, number, read_number};
use crate::fault::Fault;

/// The holds in a table's barrier row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HoldRow {
    /// The number of the last hold; 0 if there has never been one.
    pub number: u64,
    pub beat: u64,
    /// All holds with a lower number are over: none of their seeds is in flight any more.
    pub over: u64,
}

impl HoldRow {
    /// The hold that is not over, if there is one.
    pub fn active(&self) -> Option<u64> {
        (self.number > 0 && self.number >= self.over).then_some(self.number)
    }

    pub(super) fn read(row: &Row) -> Self {
        let number = |name| read_number(row, name).unwrap_or_default();
        Self { number: number("holdNumber"), beat: number("holdBeat"), over: number("holdsOver") }
    }
}

impl ControlTable {
    /// Raises a hold, unless there has been one with this number or a higher one.
    pub async fn raise_hold(&self, space: &str, hold: u64) -> Result<Held, Fault> {
        let update = self.barrier_row(space).update_expression("SET holdNumber = :hold, holdBeat = :zero");
        let update = update.condition_expression("attribute_not_exists(holdNumber) OR holdNumber < :hold");
        let update = update.expression_attribute_values(":zero", number(0));
        held(update.expression_attribute_values(":hold", number(hold)).send().await)
    }

    /// Records that the hold's seeder is alive, unless another has raised a hold of its own.
    pub async fn renew_hold(&self, space: &str, hold: u64) -> Result<Held, Fault> {
        let update = self.barrier_row(space).update_expression("ADD holdBeat :one");
        let update = update.condition_expression("holdNumber = :hold");
        let update = update.expression_attribute_values(":one", number(1));
        held(update.expression_attribute_values(":hold", number(hold)).send().await)
    }

    /// Records that a hold and all before it are over. Only call this once none of their seeds can still
    /// land.
    pub async fn release_hold(&self, space: &str, hold: u64) -> Result<Held, Fault> {
        let update = self.barrier_row(space).update_expression("SET holdsOver = :over");
        let update = update.condition_expression("holdNumber = :hold");
        let update = update.expression_attribute_values(":over", number(hold + 1));
        held(update.expression_attribute_values(":hold", number(hold)).send().await)
    }
}
