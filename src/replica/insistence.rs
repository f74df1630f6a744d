//! How far a push goes against a write that its region's agent has not reported.

use crate::protocol::Item;

/// What to do about the stored item, if its agent has not reported it.
#[derive(Clone, Debug, PartialEq)]
pub enum Insistence {
    /// Nothing.
    None,
    /// Replace exactly this item, or none: it has been stored for long, and that agent may be down.
    On(Option<Item>),
    /// Replace whatever is stored by then.
    OnAnything,
}
