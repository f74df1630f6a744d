//! What a feed tells of an application's write: plain functions, as in `protocol`.
//!
//! | file | subject |
//! | --- | --- |
//! | `name` | the name of a feed |
//! | `event` | a change, as somebody sees it who knows nothing of Tradewind; and which changes are told |
//! | `slot` | what is delivered next, and what follows from a sink's answer |
//! | `projection` | what an event's images show in place of the item's own attributes |
//! | `transform` | what is told in place of an event: a program in jq's language |
//! | `filter` | which events a feed tells: Lambda's filter patterns |

mod event;
mod filter;
mod name;
mod projection;
mod slot;
#[cfg(feature = "jaq")]
mod transform;

pub use crate::source::EventName;
pub use event::{Event, Events, Images, Provenance, Shape, Telling, View};
pub use filter::{Filter, FilterError};
pub use name::{FeedName, InvalidFeedName};
pub use projection::{Field, Projection};
pub use slot::{Answer, Blocked, Call, Entry, Limits, Next, Parcel, Retry, Settled, Slot, WindowCall};
#[cfg(feature = "jaq")]
pub use transform::{Transform, TransformError};
