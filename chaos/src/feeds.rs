//! The feeds of a run: each region's agents tell its application's writes, and one region's agents tell what stands
//! there. All of it ends in files, one for each feed and region.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::{Instant, sleep};
use url::Url;

use crate::Result;
use crate::checker::judge;
use crate::faults::TABLE;
use crate::history::{History, Image, KEY};
use crate::scenario::FeedsTo;
use crate::sinks::refused_key;
use crate::told::{Event, Files, check};
use crate::wire::{Wire, text};

/// The feed of applications' writes, and the one of what stands in the first region.
pub const WRITES: &str = "writes";
pub const STATE: &str = "state";
/// The partition of the control table that has the first one's parked events.
const PARKED: &str = "parked/writes";
/// How often the files are looked at in the end.
const LOOK: Duration = Duration::from_millis(400);

/// Where feeds deliver, and the folders of the files, one for each region.
#[derive(Clone, Debug)]
pub struct Feeds {
    folder: PathBuf,
    regions: Vec<String>,
    to: FeedsTo,
}

impl Feeds {
    /// Makes the folders.
    pub fn start(folder: &Path, regions: &[&str], to: FeedsTo) -> Result<Self> {
        let regions = regions.iter().map(|region| (*region).to_owned()).collect();
        let feeds = Self { folder: folder.join("feeds"), regions, to };
        for region in &feeds.regions {
            std::fs::create_dir_all(feeds.of(region))?;
        }
        Ok(feeds)
    }

    /// What stands in the configuration of an agent about them; its functions and buckets are at this URL.
    pub fn config(&self, url: Option<&Url>) -> String {
        let url = url.map(Url::as_str).unwrap_or_default();
        let feed = |name: &str, events: &str| {
            let to = match self.to {
                FeedsTo::Files => {
                    let path = self.folder.join("{region}").join(format!("{name}.jsonl"));
                    format!("[feed.file]\npath = \"{}\"\n", path.display())
                }
                FeedsTo::Functions => format!(
                    "[feed.lambda]\nfunction = \"{name}\"\nendpoint = \"{url}\"\nbatch_size = 20\nbatching_window = \"500ms\"\n\
                     report_batch_item_failures = true\n[feed.retry]\nattempts = 2\n"
                ),
                FeedsTo::Buckets => format!(
                    "[feed.s3]\nbucket = \"{name}\"\nendpoint = \"{url}\"\ncompression = \"none\"\n\
                     object_time = \"0s\"\n"
                ),
            };
            format!("\n[[feed]]\nname = \"{name}\"\ntable = \"{TABLE}\"\nevents = \"{events}\"\n{to}")
        };
        feed(WRITES, "origin") + &feed(STATE, "state")
    }

    /// The folder of a region's files.
    pub fn of(&self, region: &str) -> PathBuf {
        self.folder.join(region)
    }

    /// Makes a region's folder vanish, so that its agent can't write there, or brings it back.
    pub fn take_away(&self, region: &str, is_away: bool) -> Result<()> {
        if self.to != FeedsTo::Files {
            return Ok(());
        }
        let (here, away) = (self.of(region), self.folder.join(format!("{region} away")));
        let (from, to) = if is_away { (here, away) } else { (away, here) };
        Ok(std::fs::rename(from, to)?)
    }

    /// Waits until the files tell everything, or have had long enough.
    pub async fn come_to_rest(&self, history: &History, wires: &[Wire], within: Duration) -> Result<()> {
        let (deadline, judgement) = (Instant::now() + within, judge(history, |_| false));
        while !check(history, &judgement, &self.read(wires).await?).is_complete() && Instant::now() < deadline
        {
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// What the files hold, and what was parked.
    pub async fn read(&self, wires: &[Wire]) -> Result<Files> {
        let mut files = Files { is_archive: self.to == FeedsTo::Buckets, ..Files::default() };
        for (region, wire) in self.regions.iter().zip(wires) {
            let rows = wire.control_rows().await?;
            let parked = rows.iter().filter(|row| text(row, "pk") == PARKED);
            files.parked.push(parked.map(parked_of).collect());
            files.refused.push(refused_key(region));
            files.writes.push(self.lines(region, WRITES, &mut files.cut)?);
            if self.of(region).join(format!("{STATE}.jsonl")).exists() {
                files.states.push(region.clone());
            }
        }
        files.state = self.lines(&self.regions[0], STATE, &mut files.cut)?;
        Ok(files)
    }

    /// The events in a file; lines that a crash has cut short are counted.
    fn lines(&self, region: &str, feed: &str, cut: &mut usize) -> Result<Vec<Event>> {
        let path = self.of(region).join(format!("{feed}.jsonl"));
        // No event makes no file.
        let text = if path.exists() { std::fs::read_to_string(path)? } else { String::new() };
        let mut events = Vec::new();
        for line in text.lines() {
            match serde_json::from_str(line) {
                Ok(event) => events.push(event_of(&event)),
                Err(_) => *cut += 1,
            }
        }
        Ok(events)
    }
}

/// The key and the version of an event that is parked.
fn parked_of(row: &Map<String, Value>) -> (String, String) {
    let key = serde_json::from_str(text(row, "key")).ok();
    (key.as_ref().map(key_of).unwrap_or_default(), text(row, "version").to_owned())
}

fn event_of(event: &Value) -> Event {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let body = &event["dynamodb"];
    let image = |name: &str| body[name].as_object().map(Image::of);
    Event {
        id: text(&event["eventID"]),
        name: text(&event["eventName"]),
        key: body["Keys"].as_object().map(key_of).unwrap_or_default(),
        sequence: text(&body["SequenceNumber"]),
        version: text(&event["tradewind"]["version"]),
        old: image("OldImage"),
        new: image("NewImage"),
    }
}

pub fn key_of(keys: &Map<String, Value>) -> String {
    keys.get(KEY).and_then(|key| key["S"].as_str()).unwrap_or_default().to_owned()
}
