//! `tradewind dead-letters`.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;

use super::chosen::Chosen;
use super::output::lines;
use super::{Exit, Failure, moment, report};
use crate::item_json::item_json;
use crate::operate::{Fate, Letter, Replayed, dead_letters, replay};

/// List, show, replay or drop the writes that a peer could not take.
#[derive(Debug, Args)]
pub(super) struct DeadLetters {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the dead letters, the oldest write first.
    List(List),
    /// Show one with its reason, the image it wrote, and the image it replaced.
    Show(One),
    /// Replicate the key again, if the letter is still its newest write.
    ///
    /// The old write itself is never repeated: if its origin still holds what the letter says, the key is
    /// replicated from there as a new write. If any region holds something newer, nothing is written. In both
    /// cases the letter is removed. It stays, with its new reason, if the peer would still refuse the write,
    /// or if a person has to decide. First, everything written has to arrive everywhere, so the agents of the
    /// table's regions must run. Exits with 1 if letters are left.
    Replay(Replay),
    /// Remove one.
    Drop(One),
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    chosen: Chosen,
}

#[derive(Debug, Args)]
struct One {
    /// The letter's id, as `list` prints it.
    id: String,
    #[command(flatten)]
    chosen: Chosen,
}

#[derive(Debug, Args)]
struct Replay {
    /// The letter's id, as `list` prints it.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    id: Option<String>,
    /// All of them, or all of the given regions and tables.
    #[arg(long)]
    all: bool,
    /// How long earlier writes may take to arrive.
    #[arg(long, default_value = "1m", value_parser = humantime::parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    chosen: Chosen,
}

/// A letter with its images, as DynamoDB JSON.
#[derive(Serialize)]
struct PrintedLetter {
    #[serde(flatten)]
    letter: Letter,
    new: Option<Value>,
    old: Option<Value>,
}

impl DeadLetters {
    pub(super) async fn run(self, json: bool) -> Result<Exit, Failure> {
        match self.command {
            Command::List(list) => {
                let letters = list.chosen.letters().await?;
                report(json, &letters, |letters| lines(letters, line, "no dead letters"))?;
            }
            Command::Show(one) => {
                let letter = one.find().await?;
                let (new, old) = letter.images().await?;
                let [new, old] = [new, old].map(|image| image.as_ref().map(item_json));
                report(json, &PrintedLetter { letter, new, old }, text)?;
            }
            Command::Drop(one) => {
                let letter = one.find().await?;
                letter.drop().await?;
                report(json, &letter, |letter| format!("dropped {}", line(letter)))?;
            }
            Command::Replay(replay) => return replay.run(json).await,
        }
        Ok(Exit::Done)
    }
}

impl Chosen {
    async fn letters(&self) -> Result<Vec<Letter>, Failure> {
        let reached = self.reach().await?;
        let mut letters = dead_letters(&reached.tables).await?;
        letters.retain(|letter| reached.has(&letter.origin));
        Ok(letters)
    }
}

impl One {
    async fn find(&self) -> Result<Letter, Failure> {
        find(self.chosen.letters().await?, &self.id)
    }
}

fn find(letters: Vec<Letter>, id: &str) -> Result<Letter, Failure> {
    let found = letters.into_iter().find(|letter| letter.id == *id);
    found.ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            format!("there is no dead letter {id:?}; `tradewind dead-letters list` lists them"),
        )
    })
}

impl Replay {
    async fn run(self, json: bool) -> Result<Exit, Failure> {
        let reached = self.chosen.reach().await?;
        // A newer letter counts, whichever region keeps it.
        let all = dead_letters(&reached.tables).await?;
        let mut chosen = all.clone();
        chosen.retain(|letter| reached.has(&letter.origin));
        if let Some(id) = &self.id {
            chosen = vec![find(chosen, id)?];
        }
        let mut results = Vec::new();
        for table in &reached.tables {
            let of = |letters: &[Letter]| -> Vec<Letter> {
                letters.iter().filter(|letter| letter.table == table.name()).cloned().collect()
            };
            let chosen = of(&chosen);
            if !chosen.is_empty() {
                results.extend(replay(table, &of(&all), &chosen, self.timeout).await?);
            }
        }
        report(json, &results, |results| lines(results, outcome, "no dead letters"))?;
        let done = |replayed: &Replayed| matches!(replayed.fate, Fate::Replayed | Fate::Superseded);
        Ok(if results.iter().all(done) { Exit::Done } else { Exit::Differs })
    }
}

fn line(letter: &Letter) -> String {
    let Letter { id, table, origin, peer, key, operation, written_millis, reason, .. } = letter;
    format!("{id}  {table}: {operation} of {key}, {origin} → {peer}, {}: {reason}", moment(*written_millis))
}

fn outcome(replayed: &Replayed) -> String {
    let Replayed { letter: Letter { id, table, key, .. }, fate, why } = replayed;
    let fate = match fate {
        Fate::Replayed => "replayed",
        Fate::Superseded => "superseded",
        Fate::Refused => "still refused",
        Fate::Undecided => "left as it is",
    };
    format!("{id}  {table}: {key}: {fate}: {why}")
}

fn text(shown: &PrintedLetter) -> String {
    let PrintedLetter { letter, new, old } = shown;
    let image = |image: &Option<Value>| image.as_ref().map_or_else(|| "none".to_owned(), Value::to_string);
    format!(
        "{}\nversion: {}\nput in place: {}\nreplaced at its origin: {}",
        line(letter),
        letter.version,
        image(new),
        image(old)
    )
}
