//! `tradewind feed`.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{ConfigFile, Exit, Failure, output};
use crate::config::{Config, FeedConfig, SinkConfig};
use crate::control::Gap;
use crate::feed::FeedName;
use crate::operate::{FeedMark, acknowledge, feed_marks};
use crate::protocol::Origin;
use crate::region::Region;

/// List feeds, and acknowledge what one has missed.
///
/// A feed tells the writes that applications make to a table, each once in the world: by the region where it
/// was made. See docs/feeds.md.
#[derive(Debug, Args)]
pub(super) struct Feed {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the feeds, each with its table, its regions, where its events go, and what it has missed.
    List {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Take a feed off the marks: what it has missed is known, and has been made up for elsewhere.
    Acknowledge {
        #[command(flatten)]
        config: ConfigFile,
        /// The feed's name.
        #[arg(value_name = "NAME")]
        feed: String,
    },
}

#[derive(Serialize)]
struct Listed<'a> {
    feed: &'a FeedName,
    table: &'a str,
    regions: &'a [Origin],
    filters: Vec<String>,
    file: &'a str,
    /// The writes that it may have missed.
    missed: Vec<Gap>,
}

#[derive(Serialize)]
struct Acknowledged {
    feed: FeedName,
    /// The marks that the feed has been taken off.
    marks: Vec<Gap>,
}

impl Feed {
    pub(super) async fn run(self, json: bool) -> Result<Exit, Failure> {
        let (Action::List { config } | Action::Acknowledge { config, .. }) = &self.action;
        let config = config.load()?;
        let regions = Region::connect_all(&config).await?;
        match &self.action {
            Action::List { .. } => list(&config, &regions, json).await,
            Action::Acknowledge { feed, .. } => take_off(&config, &regions, feed, json).await,
        }
    }
}

async fn list(config: &Config, regions: &BTreeMap<Origin, Region>, json: bool) -> Result<Exit, Failure> {
    let mut all = Vec::new();
    for feed in &config.feeds {
        let marks = feed_marks(feed, regions).await?;
        let FeedConfig { name, table, regions, filters, sink } = feed;
        let SinkConfig::File { path } = sink;
        all.push(Listed {
            feed: name,
            table,
            regions,
            filters: filters.iter().map(ToString::to_string).collect(),
            file: path,
            missed: marks.into_iter().map(|mark| mark.gap).collect(),
        });
    }
    output::report(json, &all, |all| {
        if all.is_empty() {
            return "no feed: see docs/feeds.md".to_owned();
        }
        all.iter().map(text).collect::<Vec<_>>().join("\n")
    })?;
    Ok(Exit::Done)
}

fn text(listed: &Listed<'_>) -> String {
    let Listed { feed, table, regions, file, missed, .. } = listed;
    let regions = regions.iter().map(Origin::as_str).collect::<Vec<_>>().join(", ");
    let mut lines = vec![format!("{feed}: {table} in {regions}, to {file}")];
    lines.extend(missed.iter().map(|gap| format!("  {gap}")));
    lines.join("\n")
}

async fn take_off(
    config: &Config,
    regions: &BTreeMap<Origin, Region>,
    name: &str,
    json: bool,
) -> Result<Exit, Failure> {
    let Some(feed) = config.feeds.iter().find(|feed| feed.name.as_str() == name) else {
        let names: Vec<_> = config.feeds.iter().map(|feed| feed.name.as_str()).collect();
        let message = format!("no feed {name:?} in the configuration; there are: {}", names.join(", "));
        return Err(Failure::new(Exit::Usage, message));
    };
    let marks = acknowledge(feed, regions).await?;
    let marks = marks.into_iter().map(|FeedMark { gap, .. }| gap).collect();
    let done = Acknowledged { feed: feed.name.clone(), marks };
    output::report(json, &done, |done| {
        let Acknowledged { feed, marks } = done;
        match marks.len() {
            0 => format!("{feed} has missed nothing that is known"),
            count => format!("{feed} was taken off {count} marks"),
        }
    })?;
    Ok(Exit::Done)
}
