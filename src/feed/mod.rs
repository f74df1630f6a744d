//! What a feed tells of an application's write: plain functions, as in `protocol`.
//!
//! | file | subject |
//! | --- | --- |
//! | `name` | the name of a feed |
//! | `event` | an application's write, as somebody sees it who knows nothing of Tradewind |
//! | `filter` | which events a feed tells: Lambda's filter patterns |

mod event;
mod filter;
mod name;

pub use event::{Event, EventName, Telling};
pub use filter::{Filter, FilterError};
pub use name::{FeedName, InvalidFeedName};
