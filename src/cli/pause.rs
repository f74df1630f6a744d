//! `tradewind pause` and `tradewind resume`.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::chosen::known;
use super::{ConfigFile, Exit, Failure, moment, report};
use crate::clock::wall_millis;
use crate::operate::{Flow, flows, pause};
use crate::region::Region;

/// Stop the flow of writes to a peer for a while, without losing any.
///
/// For maintenance of a region, and for game days. The agents run on: what they read waits, in the
/// stream at last, until the pause is over or `tradewind resume` ends it. Returns when the agents
/// that run keep to it; one that starts later does so from its first write on. What was under way is
/// finished. The other flows go on, and so do reports and heartbeats.
#[derive(Debug, Args)]
pub(super) struct Pause {
    #[command(flatten)]
    which: Which,
    /// How long. At most half of what streams keep (`stream_retention`): 12 hours. A pause of a flow
    /// that is paused already starts over.
    #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    time: Duration,
}

/// Let the flow of writes to a peer go on that was paused.
#[derive(Debug, Args)]
pub(super) struct Resume {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
struct Which {
    #[command(flatten)]
    config: ConfigFile,
    /// The region whose writes are meant; may be given again. All, if none is given.
    #[arg(long, value_name = "REGION", required_unless_present = "to")]
    from: Vec<String>,
    /// The peer that they go to; may be given again. All, if none is given.
    #[arg(long, value_name = "PEER", required_unless_present = "from")]
    to: Vec<String>,
}

#[derive(Serialize)]
struct Told {
    flows: Vec<Flow>,
}

impl Pause {
    pub(super) async fn run(self, json: bool) -> Result<Exit, Failure> {
        self.which.run(Some(self.time), json).await
    }
}

impl Resume {
    pub(super) async fn run(self, json: bool) -> Result<Exit, Failure> {
        self.which.run(None, json).await
    }
}

impl Which {
    /// Pauses for some time, or without one, resumes.
    async fn run(&self, time: Option<Duration>, json: bool) -> Result<Exit, Failure> {
        let config = self.config.load()?;
        let all =
            |names: &[String]| names.iter().map(|name| known(&config, name)).collect::<Result<Vec<_>, _>>();
        let flows = flows(&config, &all(&self.from)?, &all(&self.to)?);
        if flows.is_empty() {
            return Err(Failure::new(
                Exit::Usage,
                "no table is replicated so: --from and --to name two regions",
            ));
        }
        let most = config.tuning.stream_retention / 2;
        if let Some(time) = time.filter(|time| *time > most || time.is_zero()) {
            let (time, most) = (humantime::format_duration(time), humantime::format_duration(most));
            let message = format!(
                "can't pause for {time}: more than nothing, and at most {most}, half of what streams keep; after all of \
                 that, writes would be lost"
            );
            return Err(Failure::new(Exit::Usage, message));
        }
        let until = time.map(|time| wall_millis() + u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let regions = Region::connect_all(&config).await?;
        let flows = pause(&config, &regions, &flows, until).await?;
        let unanswered = flows.iter().any(|flow| flow.unanswered > 0);
        report(json, &Told { flows }, text)?;
        Ok(if unanswered { Exit::Differs } else { Exit::Done })
    }
}

fn text(told: &Told) -> String {
    told.flows.iter().flat_map(lines).collect::<Vec<_>>().join("\n")
}

fn lines(flow: &Flow) -> Vec<String> {
    let Flow { origin, peer, agents, unanswered, .. } = flow;
    let mut lines = vec![match (flow.paused_until, flow.was_paused_until) {
        (Some(until), _) if *agents == 0 => format!(
            "{origin} → {peer}: paused until {}; no agent has said that it keeps to it: one that starts will",
            moment(until)
        ),
        (Some(until), _) => {
            format!(
                "{origin} → {peer}: paused until {}; {agents} agents of {origin} keep to it",
                moment(until)
            )
        }
        (None, Some(_)) => format!("{origin} → {peer}: goes on"),
        (None, None) => format!("{origin} → {peer}: was not paused"),
    }];
    if let Some(lost_from) = flow.lost_from {
        lines.push(format!(
            "  warning: if it were paused, or could not be reached, until {}, writes would be lost",
            moment(lost_from)
        ));
    }
    if *unanswered > 0 {
        lines.push(format!(
            "  {unanswered} agents of {origin} run and have not said that they keep to it: are they of this version?"
        ));
    }
    lines
}
