//! Tradewind's agents on a simulated DynamoDB: virtual time, one seed, one trace.
//!
//! | file | subject |
//! | --- | --- |
//! | `settings` | what a scenario is made of |
//! | `profile` | draws a scenario from a seed |
//! | `service` | the simulated DynamoDB with its streams |
//! | `network` | the HTTP client below the SDK |
//! | `world` | the services, the faults in force, and the observers |
//! | `oracle` | the ground truth, and its judgement of the replicas |
//! | `checkpoints` | checkpoints never go back |
//! | `crew` | agents that start, stop and crash |
//! | `panics` | every panic counts as a failure |
//! | `run` | one scenario, from its first write to rest |
//! | `shrink` | makes a failing scenario smaller |

pub mod checkpoints;
pub mod clock;
pub mod crew;
pub mod feed;
pub mod item;
pub mod network;
pub mod oracle;
pub mod panics;
pub mod profile;
pub mod run;
pub mod service;
pub mod settings;
pub mod shrink;
pub mod trace;
pub mod world;
