//! The integration suite: agents, and the real SDK over HTTP, on whole regions.
//!
//! | told to | runs on |
//! | --- | --- |
//! | nothing | embedded regions: needs nothing but Rust |
//! | `TRADEWIND_TEST_ENGINE`, `TRADEWIND_TEST_ENDPOINT` | that server; `tests/with-engine` starts one and sets both |
//! | `TRADEWIND_TEST_RIE`, `TRADEWIND_TEST_RECORDS` | embedded regions beside a Lambda function; `tests/with-rie` starts one and sets both |
//!
//! What the engines do differently is in `engine`, and nowhere else. A test that an engine can't
//! serve says so and passes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it skips"
)]

mod add_region;
mod ahead;
mod anti_entropy;
mod calls;
mod clock;
mod engine;
mod items;
mod load;
mod process;
mod world;

mod answers;
mod chains;
mod command_line;
mod conflicts;
mod contained;
mod crash;
mod credentials;
mod crew;
mod doctor;
mod expiry;
mod faults;
mod feeds;
mod hazards;
mod init;
#[cfg(feature = "lambda")]
mod lambda;
mod large;
mod letters;
mod listener;
mod managed;
mod observe;
mod outage;
mod output;
mod patterns;
mod pause;
mod random;
mod recorded_conflicts;
mod recycled;
mod refused;
mod remove_region;
mod replicate;
mod rolled_back;
mod run;
#[cfg(feature = "s3")]
mod s3;
mod seeding;
mod selections;
mod spill;
mod start;
mod stopping;
mod supervised;
mod tables;
mod telemetry;
mod troubles;
mod types;
mod unreadable;
mod verify;
mod wait;
mod without;
