//! Breaks Tradewind on purpose: real agents on real endpoints, faults between them, and a checker that
//! determines independently which write must survive.

pub mod agents;
pub mod application;
pub mod checker;
pub mod defect;
pub mod endpoints;
pub mod faults;
pub mod feeds;
pub mod history;
pub mod lag;
pub mod listener;
pub mod marks;
pub mod play;
pub mod random;
pub mod report;
pub mod rollback;
pub mod run;
pub mod scenario;
pub mod service;
pub mod sinks;
pub mod staging;
pub mod tail;
pub mod told;
pub mod wire;

/// An error here is reported to a person, and ends the run.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
