//! `tradewind feed`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{ConfigFile, Exit, Failure, moment, output, pause};
use crate::clock::{epoch_millis, wall_millis};
use crate::config::{Config, FeedConfig};
use crate::control::Gap;
use crate::destination::Destination;
use crate::feed::FeedName;
use crate::operate::{FeedMark, FeedSites, Offered, Parked};
use crate::protocol::Origin;
use crate::region::Region;

/// List feeds, pause and resume them, and see to what their sinks reject.
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
    /// Stop delivering a feed's events, without losing any: they wait, eventually in the stream.
    ///
    /// Returns when the running agents have confirmed the pause; one that starts later obeys it. Calls under way
    /// are finished.
    Pause {
        #[command(flatten)]
        one: One,
        /// How long. At most half of the streams' retention (`stream_retention`): 12 hours.
        #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
        time: Duration,
    },
    /// Deliver a paused feed's events again.
    Resume(One),
    /// Tell once more what was written since a moment, in the order in which it was written.
    ///
    /// The running agents begin with it within seconds; one that starts later does, too. Events have the same ids as
    /// before, and what is parked stays parked.
    Rewind {
        #[command(flatten)]
        one: One,
        /// Since when: a time such as 2026-11-30T12:00:00Z, or how long ago, such as 90m. The stream must still have
        /// it: 24 hours on AWS.
        #[arg(long, value_name = "TIME", value_parser = since)]
        to: u64,
    },
    /// List the events that a feed's sink rejects, oldest first, with the reasons.
    Parked(One),
    /// Show a parked event as it was told.
    Show(OneEvent),
    /// Offer parked events to the sink again, from here; those that it takes are parked no more.
    ///
    /// Later events of the same items have been delivered meanwhile. Exits with 1 if an event is rejected again,
    /// and with 69 if the sink can't be called.
    Replay {
        #[command(flatten)]
        one: One,
        /// The event's id, as `parked` prints it.
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        id: Option<String>,
        /// All of them.
        #[arg(long)]
        all: bool,
    },
    /// Remove a parked event.
    Drop(OneEvent),
    /// Offer one made-up event to the sink of each region, from here, and show what comes back: the insert of an
    /// item whose key is `tradewind-test`.
    Test(One),
    /// Take a feed off the marks: what it has missed is known, and has been made up for elsewhere.
    Acknowledge(One),
}

#[derive(Debug, Args)]
struct One {
    #[command(flatten)]
    config: ConfigFile,
    /// The feed's name.
    #[arg(value_name = "NAME")]
    feed: String,
}

#[derive(Debug, Args)]
struct OneEvent {
    #[command(flatten)]
    one: One,
    /// The event's id, as `parked` prints it.
    id: String,
}

#[derive(Serialize)]
struct Listed<'a> {
    feed: &'a FeedName,
    table: &'a str,
    regions: &'a [Origin],
    filters: Vec<String>,
    /// Where its events go, by region.
    to: BTreeMap<&'a Origin, String>,
    /// The writes that it may have missed.
    missed: Vec<Gap>,
}

#[derive(Serialize)]
struct Acknowledged {
    feed: FeedName,
    /// The marks that the feed has been taken off.
    marks: Vec<Gap>,
}

/// An event that was offered to the sink again.
#[derive(Serialize)]
struct Replayed {
    #[serde(flatten)]
    parked: Parked,
    #[serde(flatten)]
    offered: Offered,
}

#[derive(Serialize)]
struct Rewound {
    feed: FeedName,
    /// What was written since then is told once more, in milliseconds since the Unix epoch.
    since_millis: u64,
}

#[derive(Serialize)]
struct Tested {
    region: Origin,
    #[serde(flatten)]
    offered: Offered,
}

impl Feed {
    pub(super) async fn run(self, json: bool) -> Result<Exit, Failure> {
        match self.action {
            Action::List { config } => list(&config.load()?, json).await,
            Action::Pause { one, time } => one.set(Some(time), json).await,
            Action::Resume(one) => one.set(None, json).await,
            Action::Rewind { one, to } => rewind(&one.reach().await?, to, json).await,
            Action::Parked(one) => {
                let reached = one.reach().await?;
                let parked = reached.sites().parked().await?;
                let none = none_parked(&reached.feed);
                output::report(json, &parked, |parked| output::lines(parked, line, &none))?;
                Ok(Exit::Done)
            }
            Action::Show(OneEvent { one, id }) => {
                let reached = one.reach().await?;
                let sites = reached.sites();
                let parked = find(&sites, &id).await?;
                let event = sites.event(&parked).await?;
                output::print(
                    &event.ok_or_else(|| Failure::new(Exit::Differs, "part of the event has expired"))?,
                )?;
                Ok(Exit::Done)
            }
            Action::Drop(OneEvent { one, id }) => {
                let reached = one.reach().await?;
                let sites = reached.sites();
                let parked = find(&sites, &id).await?;
                sites.drop(&parked).await?;
                output::report(json, &parked, |parked| format!("dropped {}", line(parked)))?;
                Ok(Exit::Done)
            }
            Action::Replay { one, id, .. } => replay(&one.reach().await?, id.as_deref(), json).await,
            Action::Test(one) => test(&one.reach().await?, json).await,
            Action::Acknowledge(one) => acknowledge(&one.reach().await?, json).await,
        }
    }
}

/// A feed whose regions can be called.
struct Reached {
    config: Config,
    regions: BTreeMap<Origin, Region>,
    feed: FeedConfig,
}

impl Reached {
    fn sites(&self) -> FeedSites<'_> {
        FeedSites { feed: &self.feed, regions: &self.regions }
    }
}

impl One {
    fn find(&self) -> Result<(Config, FeedConfig), Failure> {
        let config = self.config.load()?;
        let Some(feed) = config.feeds.iter().find(|feed| feed.name.as_str() == self.feed).cloned() else {
            let names: Vec<_> = config.feeds.iter().map(|feed| feed.name.as_str()).collect();
            let message =
                format!("no feed {:?} in the configuration; there are: {}", self.feed, names.join(", "));
            return Err(Failure::new(Exit::Usage, message));
        };
        Ok((config, feed))
    }

    async fn reach(&self) -> Result<Reached, Failure> {
        let (config, feed) = self.find()?;
        let regions = Region::connect_all(&config).await?;
        Ok(Reached { config, regions, feed })
    }

    /// Pauses the feed for some time; without one, resumes it.
    async fn set(&self, time: Option<Duration>, json: bool) -> Result<Exit, Failure> {
        let (config, feed) = self.find()?;
        let to = Destination::feed_called(&feed.name);
        let flows: Vec<_> = feed.regions.iter().map(|region| (region.clone(), to.clone())).collect();
        pause::set(&config, &flows, time, json).await
    }
}

async fn list(config: &Config, json: bool) -> Result<Exit, Failure> {
    let regions = Region::connect_all(config).await?;
    let mut all = Vec::new();
    for feed in &config.feeds {
        let marks = FeedSites { feed, regions: &regions }.marks().await?;
        let FeedConfig { name, table, regions, filters, sink, .. } = feed;
        all.push(Listed {
            feed: name,
            table,
            regions,
            filters: filters.iter().map(ToString::to_string).collect(),
            to: regions.iter().map(|region| (region, sink.target_in(region))).collect(),
            missed: marks.into_iter().map(|mark| mark.gap).collect(),
        });
    }
    output::report(json, &all, |all| output::lines(all, listed, "no feed: see docs/feeds.md"))?;
    Ok(Exit::Done)
}

fn listed(listed: &Listed<'_>) -> String {
    let Listed { feed, table, to, missed, .. } = listed;
    let mut lines: Vec<String> =
        to.iter().map(|(region, target)| format!("{feed}: {table} in {region}, to {target}")).collect();
    lines.extend(missed.iter().map(|gap| format!("  {gap}")));
    lines.join("\n")
}

async fn find(sites: &FeedSites<'_>, id: &str) -> Result<Parked, Failure> {
    let found = sites.parked().await?.into_iter().find(|parked| parked.id == *id);
    found.ok_or_else(|| {
        let feed = &sites.feed.name;
        let message = format!("there is no parked event {id:?}; `tradewind feed parked {feed}` lists them");
        Failure::new(Exit::Usage, message)
    })
}

async fn replay(reached: &Reached, id: Option<&str>, json: bool) -> Result<Exit, Failure> {
    let sites = reached.sites();
    let chosen = match id {
        Some(id) => vec![find(&sites, id).await?],
        None => sites.parked().await?,
    };
    let mut results = Vec::new();
    for parked in chosen {
        let offered = sites.replay(&parked).await?;
        results.push(Replayed { parked, offered });
    }
    output::report(json, &results, |results| {
        output::lines(
            results,
            |replayed| format!("{}: {}", line(&replayed.parked), fate(&replayed.offered)),
            &none_parked(sites.feed),
        )
    })?;
    Ok(exit(results.iter().map(|replayed| &replayed.offered)))
}

/// A time as people write one, or how long ago it was, in milliseconds since the Unix epoch.
fn since(text: &str) -> Result<u64, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(wall_millis().saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)));
    }
    let time = humantime::parse_rfc3339_weak(text);
    time.map(epoch_millis)
        .map_err(|error| format!("{error}: expected a time such as 2026-11-30T12:00:00Z, or 90m"))
}

async fn rewind(reached: &Reached, since_millis: u64, json: bool) -> Result<Exit, Failure> {
    let (now, kept) = (wall_millis(), reached.config.tuning.stream_retention);
    let oldest = now.saturating_sub(u64::try_from(kept.as_millis()).unwrap_or(u64::MAX));
    if !(oldest..=now).contains(&since_millis) {
        let message = format!(
            "can't rewind to {}: expected a time from {} on, which is as long as streams keep records, and not in the \
             future",
            moment(since_millis),
            moment(oldest)
        );
        return Err(Failure::new(Exit::Usage, message));
    }
    reached.sites().rewind(since_millis).await?;
    output::report(json, &Rewound { feed: reached.feed.name.clone(), since_millis }, |rewound| {
        let Rewound { feed, since_millis } = rewound;
        format!("{feed} is told once more from {} on", moment(*since_millis))
    })?;
    Ok(Exit::Done)
}

async fn test(reached: &Reached, json: bool) -> Result<Exit, Failure> {
    let tested = reached.sites().test(&reached.config).await?;
    let tested: Vec<Tested> =
        tested.into_iter().map(|(region, offered)| Tested { region, offered }).collect();
    output::report(json, &tested, |tested| {
        output::lines(tested, |tested| format!("{}: {}", tested.region, fate(&tested.offered)), "no region")
    })?;
    Ok(exit(tested.iter().map(|tested| &tested.offered)))
}

async fn acknowledge(reached: &Reached, json: bool) -> Result<Exit, Failure> {
    let marks = reached.sites().acknowledge().await?;
    let marks = marks.into_iter().map(|FeedMark { gap, .. }| gap).collect();
    let done = Acknowledged { feed: reached.feed.name.clone(), marks };
    output::report(json, &done, |done| {
        let Acknowledged { feed, marks } = done;
        match marks.len() {
            0 => format!("{feed} has missed nothing that is known"),
            count => format!("{feed} was taken off {count} marks"),
        }
    })?;
    Ok(Exit::Done)
}

fn none_parked(feed: &FeedConfig) -> String {
    let urls: BTreeSet<_> = feed.regions.iter().filter_map(|region| feed.on_failure.url_in(region)).collect();
    if urls.is_empty() {
        return "no parked events".to_owned();
    }
    let urls = urls.into_iter().collect::<Vec<_>>().join(" and ");
    format!("no parked events here: what the sink of {} rejects is in {urls}", feed.name)
}

fn line(parked: &Parked) -> String {
    let Parked { id, region, table, key, written_millis, rejections, reason, .. } = parked;
    format!(
        "{id}  {region}/{table}: {key}, written {}, rejected {rejections} times: {reason}",
        moment(*written_millis)
    )
}

/// How a command ends that has offered these.
fn exit<'a>(offered: impl Iterator<Item = &'a Offered>) -> Exit {
    let worst = |exit, offered: &Offered| match (exit, offered) {
        (_, Offered::Unavailable { .. }) => Exit::Unavailable,
        (Exit::Done, Offered::Rejected { .. }) => Exit::Differs,
        (exit, Offered::Rejected { .. } | Offered::Taken | Offered::LeftOut) => exit,
    };
    offered.fold(Exit::Done, worst)
}

fn fate(offered: &Offered) -> String {
    match offered {
        Offered::Taken => "taken".to_owned(),
        Offered::LeftOut => "left out: the feed's `transform` yields nothing for it".to_owned(),
        Offered::Rejected { reason } => format!("rejected: {reason}"),
        Offered::Unavailable { reason } => reason.clone(),
    }
}
