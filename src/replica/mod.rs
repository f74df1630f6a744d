//! One region's table as a destination: the conditional writes, what they expect to find, and whether the
//! table is still the one they were made for.

mod attribute_names;
mod condition;
mod fitness;
mod insistence;
mod size;
mod writes;

pub use attribute_names::AttributeNames;
pub use fitness::Fitness;
pub use insistence::Insistence;
pub(crate) use size::item_bytes;
pub use writes::{Outcome, Replica};
