//! The way to one destination.

use std::sync::Arc;

use super::{Batches, Lanes};

/// The way to one destination.
#[derive(Clone, Debug)]
pub enum Outlet {
    /// To a replica: one write after the other in each key's lane.
    Replica(Arc<Lanes>),
    /// To a feed's sink: in batches.
    Feed(Arc<Batches>),
}
