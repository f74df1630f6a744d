//! Tradewind: global tables for any DynamoDB-compatible store, run by their own user.

pub mod agent;
mod answer;
pub mod capacity;
pub mod cli;
mod clock;
pub mod config;
pub mod contained;
pub mod control;
mod credentials;
pub mod dashboard;
pub mod deliver;
pub mod destination;
pub mod discovery;
pub mod embedded;
pub mod fault;
pub mod feed;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod item_json;
pub mod lag;
pub mod log_key;
pub mod observe;
pub mod operate;
pub mod protocol;
pub mod region;
pub mod replica;
pub mod schema;
pub mod sink;
pub mod source;
pub mod spill;
pub mod tally;
pub mod telemetry;
pub mod workload;
