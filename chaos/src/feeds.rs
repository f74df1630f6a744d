//! The feeds of a run: each region's agent tells its application's writes into a file, and one region's agent
//! tells what stands there into another.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::{Instant, sleep};

use crate::Result;
use crate::checker::judge;
use crate::faults::TABLE;
use crate::history::{History, Image, KEY};
use crate::told::{Event, Files, check};

/// The feed of applications' writes, and the one of what stands in the first region.
pub const WRITES: &str = "writes";
pub const STATE: &str = "state";
/// How often the files are looked at in the end.
const LOOK: Duration = Duration::from_millis(400);

/// The folders of the files, one for each region.
#[derive(Clone, Debug)]
pub struct Feeds {
    folder: PathBuf,
    regions: Vec<String>,
}

impl Feeds {
    /// Makes the folders.
    pub fn start(folder: &Path, regions: &[&str]) -> Result<Self> {
        let regions = regions.iter().map(|region| (*region).to_owned()).collect();
        let feeds = Self { folder: folder.join("feeds"), regions };
        for region in &feeds.regions {
            std::fs::create_dir_all(feeds.of(region))?;
        }
        Ok(feeds)
    }

    /// What stands in the agents' configuration about them.
    pub fn config(&self) -> String {
        let feed = |name: &str, events: &str| {
            let path = self.folder.join("{region}").join(format!("{name}.jsonl"));
            format!(
                "\n[[feed]]\nname = \"{name}\"\ntable = \"{TABLE}\"\nevents = \"{events}\"\n\
                 [feed.file]\npath = \"{}\"\n",
                path.display()
            )
        };
        feed(WRITES, "origin") + &feed(STATE, "state")
    }

    /// Makes a region's folder vanish, so that its agent can't write there, or brings it back.
    pub fn take_away(&self, region: &str, is_away: bool) -> Result<()> {
        let (here, away) = (self.of(region), self.folder.join(format!("{region} away")));
        let (from, to) = if is_away { (here, away) } else { (away, here) };
        Ok(std::fs::rename(from, to)?)
    }

    /// Waits until the files tell everything, or have had long enough.
    pub async fn come_to_rest(&self, history: &History, within: Duration) -> Result<()> {
        let (deadline, judgement) = (Instant::now() + within, judge(history, |_| false));
        while !check(history, &judgement, &self.read()?).is_complete() && Instant::now() < deadline {
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// What the files hold.
    pub fn read(&self) -> Result<Files> {
        let mut files = Files::default();
        for region in &self.regions {
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

    fn of(&self, region: &str) -> PathBuf {
        self.folder.join(region)
    }
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

fn key_of(keys: &Map<String, Value>) -> String {
    keys.get(KEY).and_then(|key| key["S"].as_str()).unwrap_or_default().to_owned()
}
