//! The protocol, model-checked: an exhaustive search through everything that two or three small
//! regions, one or two keys, a handful of application writes, crashes and retries can do to each
//! other.
//!
//! The search calls the shipped protocol. What judges it is apart from it (`oracle`).

#![allow(
    clippy::print_stdout,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation
)]

mod catalogue;
mod display;
mod oracle;
mod search;
mod settings;
mod steps;
mod world;

use search::{exhaust, shortest};
use settings::Setting;

/// `R=3 OPS=2 CRASHES=1 cargo test --release --test model explore -- --ignored --nocapture`
#[test]
#[ignore = "a search that the environment describes"]
fn explore() {
    let set = Setting::from_env();
    let found = exhaust(set.clone());
    println!("{}", found.summary());
    if found.wrong.is_some() {
        let short = shortest(Setting { max_states: 1_500_000, ..set });
        println!("{}", if short.wrong.is_some() { short.story() } else { found.story() });
        panic!("the search found a wrong state");
    }
}
