//! Faults between an agent and a region, on loopback and in the clear: [`Proxy`] has those of a
//! network, [`TamperingProxy`] those of a service. Put one in front of the other to have both.

mod link;
mod tamper;

pub use link::{Proxy, Weather, Witness};
pub use tamper::{Fate, Flaky, Tamper, TamperingProxy};
