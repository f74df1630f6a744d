//! How far a push goes on against a write that its region's agent has not told of.

use crate::protocol::Item;

/// What is done about what stands, if its agent has not told of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Insistence {
    /// Nothing.
    None,
    /// Exactly this item, or none, is replaced: it has stood for long, and that agent may be down.
    On(Option<Item>),
    /// Whatever stands by then is replaced.
    OnAnything,
}
