//! The feed of `--feed`, and whether it has told every write.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::regions::TABLE;
use crate::agent::Agent;
use crate::cli::Failure;
use crate::config::{Config, FeedConfig, OnFailure, SinkConfig, Start};
use crate::feed::{FeedName, Retry, Shape};

/// A feed of the demo's table, into one file a region.
pub(super) struct DemoFeed {
    name: FeedName,
    folder: PathBuf,
}

/// What the feed has told.
#[derive(Debug, Default, Serialize)]
pub(super) struct Told {
    /// Where the events are.
    folder: PathBuf,
    /// The lines of all files.
    events: u64,
    /// Those that were there before.
    repeated: u64,
    /// Those of a key that came after a later one of the same region.
    out_of_order: u64,
    /// The writes that changed something and that no event tells.
    missing: u64,
}

impl DemoFeed {
    pub(super) fn new() -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("tradewind-demo-").tempdir();
        let name = "events".parse().map_err(Failure::internal)?;
        Ok(Self { name, folder: folder.map_err(Failure::internal)?.keep() })
    }

    pub(super) fn config(&self, config: &Config) -> FeedConfig {
        let path = self.folder.join("{region}.jsonl").to_string_lossy().into_owned();
        FeedConfig {
            name: self.name.clone(),
            table: TABLE.to_owned(),
            regions: config.regions.iter().map(|region| region.name.clone()).collect(),
            start: Start::default(),
            filters: Vec::new(),
            shape: Shape::default(),
            retry: Retry::default(),
            on_failure: OnFailure::DeadLetters,
            sink: SinkConfig::File { path },
        }
    }

    /// Compares what has been told with what the agents have read.
    pub(super) fn check(self, agents: &[Agent]) -> Result<Told, Failure> {
        let mut told = Told { folder: self.folder.clone(), ..Told::default() };
        for agent in agents {
            let figures = agent.figures();
            let path = self.folder.join(format!("{}.jsonl", figures.region()));
            let text = match std::fs::read_to_string(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
                text => text.map_err(|error| Failure::internal(format!("{}: {error}", path.display())))?,
            };
            let distinct = told.count(&text).map_err(Failure::internal)?;
            let standings = figures.standings();
            let of_feeds = standings.iter().flat_map(|table| table.feeds.values());
            let unchanged: u64 = of_feeds.map(|feed| feed.counts.unchanged).sum();
            let made = figures.total().local_writes();
            told.missing += made.saturating_sub(distinct + unchanged);
        }
        Ok(told)
    }
}

impl Told {
    /// Counts the events of one region. Returns how many different ones there are.
    fn count(&mut self, text: &str) -> Result<u64, serde_json::Error> {
        let mut seen = BTreeSet::new();
        let mut last: BTreeMap<String, String> = BTreeMap::new();
        for line in text.lines() {
            let event: Value = serde_json::from_str(line)?;
            self.events += 1;
            if !seen.insert(event["eventID"].to_string()) {
                self.repeated += 1;
                continue;
            }
            let version = event["tradewind"]["version"].to_string();
            let before = last.insert(event["dynamodb"]["Keys"].to_string(), version.clone());
            self.out_of_order += u64::from(before.is_some_and(|before| before > version));
        }
        Ok(u64::try_from(seen.len()).unwrap_or(u64::MAX))
    }

    pub(super) fn is_right(&self) -> bool {
        self.missing == 0 && self.out_of_order == 0
    }

    pub(super) fn text(&self) -> String {
        let Self { folder, events, repeated, out_of_order, missing } = self;
        format!(
            "feed: {events} events delivered, {repeated} repeated, {out_of_order} out of order, {missing} missing, in {}",
            folder.display()
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_repeated_or_out_of_order_is_counted() {
        let event = |key: &str, version: u8| {
            json!({
                "eventID": format!("{version}.{key}"),
                "dynamodb": { "Keys": { "pk": { "S": key } } },
                "tradewind": { "version": format!("000{version} tokyo") },
            })
            .to_string()
        };
        let lines = [("a", 1), ("b", 2), ("a", 3), ("a", 1), ("b", 1), ("a", 4)];
        let text = lines.map(|(key, version)| event(key, version)).join("\n");
        let mut told = Told::default();
        assert_eq!(told.count(&text).expect("events"), 5);
        assert_eq!((told.events, told.repeated, told.out_of_order), (6, 1, 1));
        assert!(!told.is_right());
        assert!(told.count("{").is_err());
    }
}
