//! The last conflicts, dead letters and parked events of the regions whose agents this process runs, for the page.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::agent::Figures;
use crate::config::{Config, Conflicts, TableConfig};
use crate::control::{ConflictTable, ControlTable, RowId, SavedConflict, SavedEvent, SavedLetter};
use crate::fault::Fault;
use crate::feed::FeedName;
use crate::item_json::item_json;
use crate::log_key::log_key;
use crate::protocol::{Item, Origin, STAMP};
use crate::region::Region;

/// How many of each are shown.
const SHOWN: usize = 12;
/// How many tables are read: the page is not a full report.
const TABLES: usize = 20;

/// What the page requests.
#[derive(Debug, Serialize)]
pub(super) struct Items {
    /// Whether keys and images are left out; hashes stand for the keys.
    withheld: bool,
    conflicts: Listing<Conflict>,
    letters: Listing<Letter>,
    parked: Listing<Parked>,
}

/// A list, or the reason why there is none.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Listing<T> {
    Found(Vec<T>),
    Failed { error: String },
}

#[derive(Debug, Serialize)]
struct Conflict {
    id: RowId,
    table: String,
    region: Origin,
    winner: Origin,
    key: Value,
    lost_millis: u64,
    won_millis: u64,
    seen_millis: u64,
    lost_image: Option<Value>,
    won_image: Option<Value>,
}

#[derive(Debug, Serialize)]
struct Letter {
    id: RowId,
    table: String,
    origin: Origin,
    peer: Origin,
    key: Value,
    reason: String,
    written_millis: u64,
}

/// An event that the sink of a feed rejects to the end.
#[derive(Debug, Serialize)]
struct Parked {
    id: RowId,
    feed: FeedName,
    table: String,
    region: Origin,
    key: Value,
    rejections: u32,
    reason: String,
    written_millis: u64,
    /// As it was told, unless part of it has expired.
    event: Option<Value>,
}

/// What the page may read.
#[derive(Debug)]
pub struct Kept {
    pub config: Config,
    /// The regions of this process's own agents, with their permissions.
    pub regions: BTreeMap<Origin, Region>,
    /// Whether items are public, as the demo's are; otherwise they are shown only with a token: whoever may
    /// connect to this machine's ports may not be allowed to read its tables.
    pub is_public: bool,
}

impl Kept {
    /// What to show, with or without the token.
    pub(super) async fn look(&self, agents: &[Figures], has_token: bool) -> Items {
        let in_full = has_token || self.is_public;
        let mut tables: Vec<(Region, TableConfig)> = Vec::new();
        for agent in agents {
            let Some(region) = self.regions.get(agent.region()) else { continue };
            let names = agent.tables().into_iter().take(TABLES);
            tables.extend(names.filter_map(|name| Some((region.clone(), self.table(&name)?))));
        }
        let feeds = agents.iter().filter_map(|agent| self.regions.get(agent.region())).flat_map(|region| {
            let of_region = self.config.feeds.iter().filter(|feed| feed.regions.contains(&region.name));
            of_region.map(|feed| (region.clone(), feed.name.clone()))
        });
        let feeds: Vec<_> = feeds.take(TABLES).collect();
        let (conflicts, letters, parked) =
            tokio::join!(conflicts(&tables, in_full), letters(&tables, in_full), parked(&feeds, in_full));
        Items {
            withheld: !in_full,
            conflicts: Listing::of(conflicts, |conflict| conflict.seen_millis),
            letters: Listing::of(letters, |letter| letter.written_millis),
            parked: Listing::of(parked, |event| event.written_millis),
        }
    }

    fn table(&self, name: &str) -> Option<TableConfig> {
        let named = self.config.tables.iter().find(|table| table.name == name).cloned();
        named.or_else(|| self.config.found(name))
    }
}

impl<T> Listing<T> {
    /// Newest first.
    fn of(found: Result<Vec<T>, Fault>, millis: impl Fn(&T) -> u64) -> Self {
        match found {
            Ok(mut found) => {
                found.sort_by_key(|entry| std::cmp::Reverse(millis(entry)));
                found.truncate(SHOWN);
                Self::Found(found)
            }
            Err(fault) => Self::Failed { error: format!("Can't read these: {fault}") },
        }
    }
}

async fn conflicts(tables: &[(Region, TableConfig)], in_full: bool) -> Result<Vec<Conflict>, Fault> {
    let mut found = Vec::new();
    for (region, table) in tables.iter().filter(|(_, table)| table.conflicts == Conflicts::Table) {
        let kept = ConflictTable::of(region);
        for saved in kept.newest(&table.name, SHOWN).await? {
            let (lost, won) = if in_full { kept.images(&saved).await? } else { (None, None) };
            let key = shown(&saved.key, in_full);
            found.push(Conflict::of(region, table, saved, key, lost, won));
        }
    }
    Ok(found)
}

async fn letters(tables: &[(Region, TableConfig)], in_full: bool) -> Result<Vec<Letter>, Fault> {
    let mut found = Vec::new();
    for (region, table) in tables {
        let saved = ControlTable::of(region).newest_dead_letters(&table.name, SHOWN).await?;
        found.extend(saved.into_iter().map(|saved| {
            let key = shown(&saved.key, in_full);
            Letter::of(region, table, saved, key)
        }));
    }
    Ok(found)
}

async fn parked(feeds: &[(Region, FeedName)], in_full: bool) -> Result<Vec<Parked>, Fault> {
    let mut found = Vec::new();
    for (region, feed) in feeds {
        let control = ControlTable::of(region);
        for saved in control.newest_parked_events(feed, SHOWN).await? {
            let text = if in_full { control.parked_text(&saved).await? } else { None };
            let key = shown(&saved.event.key, in_full);
            found.push(Parked::of(region, saved, key, text.as_deref()));
        }
    }
    Ok(found)
}

impl Parked {
    fn of(region: &Region, saved: SavedEvent, key: Value, text: Option<&str>) -> Self {
        let SavedEvent { id, event, .. } = saved;
        Self {
            feed: event.feed,
            table: event.table,
            region: region.name.clone(),
            key,
            rejections: event.rejections,
            reason: event.reason,
            written_millis: event.version.hlc.millis(),
            event: text.and_then(|text| serde_json::from_str(text).ok()),
            id,
        }
    }
}

impl Conflict {
    fn of(
        region: &Region,
        table: &TableConfig,
        saved: SavedConflict,
        key: Value,
        lost: Option<Item>,
        won: Option<Item>,
    ) -> Self {
        Self {
            table: table.name.clone(),
            region: region.name.clone(),
            key,
            lost_millis: saved.lost.hlc.millis(),
            won_millis: saved.won.hlc.millis(),
            seen_millis: saved.seen_millis,
            lost_image: lost.map(image),
            won_image: won.map(image),
            id: saved.id,
            winner: saved.won.origin,
        }
    }
}

impl Letter {
    fn of(region: &Region, table: &TableConfig, saved: SavedLetter, key: Value) -> Self {
        Self {
            table: table.name.clone(),
            origin: region.name.clone(),
            key,
            written_millis: saved.version.hlc.millis(),
            id: saved.id,
            peer: saved.peer,
            reason: saved.reason,
        }
    }
}

/// A key, or what logs show of it.
fn shown(key: &Item, in_full: bool) -> Value {
    if in_full { item_json(key) } else { log_key(key).into() }
}

/// An image without its stamp.
fn image(mut item: Item) -> Value {
    item.remove(STAMP);
    item_json(&item)
}
