//! `tradewind conflicts`.

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;

use super::chosen::{Chosen, Reached, known};
use super::{ConfigFile, Exit, Failure, moment, report};
use crate::item_json::item_json;
use crate::operate::{LostWrite, Restored, conflicts, restore};

/// List or show the writes that lost a conflict, or write one back.
///
/// Only tables with `conflicts = "table"` record them. A write that was made on top of the one it replaced is
/// not a conflict.
#[derive(Debug, Args)]
pub(super) struct Conflicts {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the recorded conflicts, the oldest first.
    List(List),
    /// Show one, with the image that lost and the one that won.
    Show(Show),
    /// Write the losing image back, as an application's new write.
    ///
    /// It replaces what is stored in that region, prints what that was, and is replicated from there like any
    /// other write. It does not ask for confirmation: run it with --dry-run first.
    Restore(Restore),
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    chosen: Chosen,
}

#[derive(Debug, Args)]
struct Show {
    /// The conflict's id, as `list` prints it.
    id: String,
    #[command(flatten)]
    chosen: Chosen,
}

#[derive(Debug, Args)]
struct Restore {
    /// The conflict's id, as `list` prints it.
    id: String,
    /// The region to write to. Default: the one where the write lost.
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    /// Print what is stored there and what would be written; write nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    config: ConfigFile,
}

/// A conflict with its images, as DynamoDB JSON.
#[derive(Serialize)]
struct PrintedConflict {
    #[serde(flatten)]
    conflict: LostWrite,
    loser_image: Option<Value>,
    winner_image: Option<Value>,
}

impl Conflicts {
    pub(super) async fn run(self, json: bool) -> Result<Exit, Failure> {
        match self.command {
            Command::List(list) => {
                let (_, found) = list.chosen.conflicts().await?;
                report(json, &found, |found| match &found[..] {
                    [] => "no recorded conflicts".to_owned(),
                    found => found.iter().map(line).collect::<Vec<_>>().join("\n"),
                })?;
            }
            Command::Show(show) => {
                let (_, conflict) = show.chosen.find(&show.id).await?;
                let (loser, winner) = conflict.images().await?;
                let [loser_image, winner_image] = [loser, winner].map(|image| image.as_ref().map(item_json));
                report(json, &PrintedConflict { conflict, loser_image, winner_image }, text)?;
            }
            Command::Restore(restore) => restore.run(json).await?,
        }
        Ok(Exit::Done)
    }
}

impl Chosen {
    async fn conflicts(&self) -> Result<(Reached, Vec<LostWrite>), Failure> {
        let reached = self.reach().await?;
        let mut found = conflicts(&reached.tables).await?;
        found.retain(|conflict| reached.has(&conflict.region));
        Ok((reached, found))
    }

    async fn find(&self, id: &str) -> Result<(Reached, LostWrite), Failure> {
        let (reached, found) = self.conflicts().await?;
        let found = found.into_iter().find(|conflict| conflict.id == *id).ok_or_else(|| {
            let message =
                format!("there is no recorded conflict {id:?}; `tradewind conflicts list` lists them");
            Failure::new(Exit::Usage, message)
        });
        Ok((reached, found?))
    }
}

impl Restore {
    async fn run(self, json: bool) -> Result<(), Failure> {
        let (reached, conflict) = Chosen::all(self.config).find(&self.id).await?;
        let at = match &self.region {
            Some(name) => known(&reached.config, name)?,
            None => conflict.region.clone(),
        };
        let table = reached.tables.iter().find(|table| table.name() == conflict.table);
        let Some(replica) = table.and_then(|table| table.replica_in(&at)) else {
            return Err(Failure::new(Exit::Usage, format!("{} has no replica in {at}", conflict.table)));
        };
        let (Some(loser), _) = conflict.images().await? else {
            let message =
                "the losing write has no image: it was a delete, or a third write had already replaced it";
            return Err(Failure::new(Exit::Usage, message));
        };
        let restored = restore(replica, &conflict, loser, self.dry_run).await?;
        report(json, &restored, |Restored { region, table, stood, item, dry_run }| {
            let stood = stood.as_ref().map_or_else(|| "nothing".to_owned(), Value::to_string);
            let verbs =
                if *dry_run { ("is stored", "would be written") } else { ("was stored", "was written") };
            format!("{table} in {region}\n{} there: {stood}\n{}: {item}", verbs.0, verbs.1)
        })?;
        Ok(())
    }
}

fn line(conflict: &LostWrite) -> String {
    let LostWrite { id, table, region, winner, key, seen_millis, .. } = conflict;
    format!("{id}  {table}: {key}: a write in {region} lost to one in {winner}, {}", moment(*seen_millis))
}

fn text(shown: &PrintedConflict) -> String {
    let PrintedConflict { conflict, loser_image, winner_image } = shown;
    let image = |image: &Option<Value>| image.as_ref().map_or_else(|| "none".to_owned(), Value::to_string);
    format!(
        "{}\nlost: {}, of {}: {}\nwon: {}, of {}: {}",
        line(conflict),
        conflict.lost,
        moment(conflict.lost_millis),
        image(loser_image),
        conflict.won,
        moment(conflict.won_millis),
        image(winner_image)
    )
}
